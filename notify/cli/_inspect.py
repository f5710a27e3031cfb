"""What can be told of a store from outside: whether it works, and what it holds."""

from __future__ import annotations

import logging
import re
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from .. import ids
from .._notifier import Notifier
from ..abc import StreamStore
from ._urls import file_of

PAGE: Final = 500
READS: Final = 5
_REPR = re.compile(r"^[A-Za-z]+Error\((['\"])(.*)\1\)$")
"""An error as the health verdict shows it: its text is enough."""


class _Warnings(logging.Handler):
    """Collects what the library warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take one."""
        self.texts.append(record.getMessage())


async def examine(store: StreamStore, timeout: float) -> tuple[bool, list[str]]:
    """Try every part of a store once and close it; return whether all of it works, and a line for each part.

    Where everything works, what the library has warned of meanwhile follows: settings that endanger the promises.
    """
    warnings = _Warnings()
    logging.getLogger("notify").addHandler(warnings)
    try:
        async with Notifier(store, timeout=timeout) as notifier:
            health = await notifier.check()
    finally:
        await store.aclose()
    lines = [f"{part:<7}  " + _REPR.sub(r"\2", verdict) for part, verdict in health.parts.items()]
    return health.ok, lines + [f"warning  {text}" for text in warnings.texts if health.ok]


async def describe(store: StreamStore, url: str, users: Sequence[str]) -> AsyncIterator[str]:
    """Yield a line for each thing to know of an open store, and one for the log of each user.

    Args:
        store: open.
        url: where it was found.
        users: whose logs.
    """
    times = []
    for _ in range(READS):
        began = time.perf_counter()
        await store.head("-")
        times.append(time.perf_counter() - began)
    yield f"store  {type(store).__name__} at {url}"
    yield f"read   {statistics.median(times) * 1000:.2f} ms, the median of {READS}"
    file = file_of(url)
    if file is not None:
        yield f"file   {file.stat().st_size} bytes"
        yield f"wal    {getattr(store, 'wal_size', 0)} bytes"
    for user in users:
        yield f"user   {user}: {await _describe_log(store, user)}"


async def _describe_log(store: StreamStore, user: str) -> str:
    count = size = 0
    first = after = ids.ZERO
    while True:
        page = await store.read(user, after, PAGE)
        count += len(page.events)
        size += sum(len(event.data) for event in page.events)
        if first == ids.ZERO and page.events:
            first = page.events[0].id
        after = page.position
        if len(page.events) < PAGE:
            break
    if not count:
        return "no events" if after == ids.ZERO else f"no events any more; the last one was {after}"
    since, until = (ids.time_of(id_).strftime("%Y-%m-%dT%H:%M:%SZ") for id_ in (first, after))
    return f"{count} events, {size} bytes of payload, from {first} ({since}) to {after} ({until})"
