"""Inspects a store: whether each part works, and what the store contains."""

from __future__ import annotations

import logging
import re
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from .. import Notifier, ids
from ..abc import HasOutbox, StreamStore
from ._urls import file_of

PAGE: Final = 500
READS: Final = 5
MAX_WAIT: Final = 60.0
"""Seconds for which an event may wait in an outbox; `Notifier.check` has the same bound."""

_REPR = re.compile(r"^[A-Za-z]+Error\((['\"])(.*)\1\)$")
"""The repr of an error, as the health verdict has it; the command prints only the message."""


class _Warnings(logging.Handler):
    """Collects the warnings that the library logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect one record."""
        self.texts.append(record.getMessage())


def is_prepared(store: StreamStore) -> bool:
    """Return whether there is something to read: a store that knows that nothing was created yet says so."""
    return getattr(store, "is_prepared", True) is not False


async def examine(store: StreamStore, timeout: float, nothing: str) -> tuple[bool, list[str]]:
    """Check every part of a store and close it; return whether all parts work, and one line per part.

    If all parts work, the warnings logged during the check follow, for example about server settings that weaken the
    guarantees.

    Args:
        store: not used yet.
        timeout: seconds for each part.
        nothing: the warning if nothing was created yet.
    """
    warnings = _Warnings()
    logging.getLogger("notify").addHandler(warnings)
    try:
        async with Notifier(store, timeout=timeout) as notifier:
            health = await notifier.check()
            if not is_prepared(store):
                warnings.texts.append(nothing)
    finally:
        await store.aclose()
    lines = [f"{part:<7}  " + _REPR.sub(r"\2", verdict) for part, verdict in health.parts.items()]
    return health.ok, lines + [f"warning  {text}" for text in warnings.texts if health.ok]


async def describe(store: StreamStore, url: str, users: Sequence[str]) -> AsyncIterator[str]:
    """Yield lines that describe an open store, then one line per user's log.

    Args:
        store: an open store.
        url: its URL, for display.
        users: the users whose logs are described.
    """
    times = []
    for _ in range(READS):
        began = time.perf_counter()
        await store.head("-")
        times.append(time.perf_counter() - began)
    yield f"store  {type(store).__name__} at {url}"
    yield f"read   {statistics.median(times) * 1000:.2f} ms (median of {READS})"
    file = file_of(url)
    if file is not None:
        yield f"file   {file.stat().st_size} bytes"
        yield f"wal    {getattr(store, 'wal_size', 0)} bytes"
    if isinstance(store, HasOutbox):
        backlog = await store.backlog()
        relay = ": no relay moves them" if backlog.age > MAX_WAIT else ""
        yield f"outbox {backlog.waiting} waiting, the oldest for {backlog.age:.0f} s{relay}; {backlog.dead} set aside"
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
        return "no events" if after == ids.ZERO else f"no events left; the last id was {after}"
    since, until = (ids.time_of(id_).strftime("%Y-%m-%dT%H:%M:%SZ") for id_ in (first, after))
    return f"{count} events, {size} bytes of payload, from {first} ({since}) to {after} ({until})"
