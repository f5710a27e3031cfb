"""Plans, and submissions to many: what a dispatcher itself costs, and how much memory a large audience needs.

A submission runs in a process of its own, so that nothing else has a part in its memory: ten thousand recipients first,
then a hundred thousand more, and the growth of the peak in between is shown.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from notify.dispatch import Accepted, Dispatcher, Job, NotificationType, Outcome, Preferences, Recipient
from notify_memory import MemoryDispatchStore
from tests.servers.postgres import fresh_schema

from .harness import ROUNDS, Bar, Row, cpu_seconds, progress, run
from .web_process import Process

PLANS: Final = 5000
PLAN_BAR: Final = 100
FEW: Final = 10_000
MANY: Final = 100_000
GROWTH_BAR: Final = 16
"""MiB by which ten times as many recipients may raise the peak: lists of ids alone would be half of it."""


class Nowhere:
    """A channel that sends nothing."""

    has_endpoints = False
    deduplicates = False

    async def send(self, job: Job) -> Outcome:
        """See `Channel`."""
        return Accepted()


async def _recipients(ids: Sequence[str]) -> list[Recipient]:
    return [Recipient(user, tz="Europe/Berlin", locale="de") for user in ids]


def _dispatcher(store: Any) -> Dispatcher:
    channels = {"in_app": Nowhere(), "email": Nowhere(), "sms": Nowhere()}
    types = [NotificationType("comment.created", channels=[*channels])]
    quiet = {"quiet_hours": [{"start": "22:00", "end": "07:00"}], "channels": {"sms": False}}
    defaults = Preferences.from_json(json.dumps(quiet).encode())
    return Dispatcher(None, store, types, channels, recipients=_recipients, defaults=defaults)


# -- a process that submits ------------------------------------------------------------------------------------------


def _store(place: str) -> Any:
    kind, *rest = json.loads(place)
    if kind == "sqlite":
        from notify_sqlite import SQLiteDispatchStore

        return SQLiteDispatchStore(rest[0], timeout=60.0)
    from notify_pg import PostgresDispatchStore

    return PostgresDispatchStore(rest[0], schema=rest[1], timeout=60.0)


async def _submit(store: Any, count: int) -> float:
    """Submit to so many recipients, and return the seconds."""

    async def everyone(after: str) -> AsyncIterator[str]:
        for number in range(count):
            yield f"user{number:06}"

    started = time.perf_counter()
    ticket = await _dispatcher(store).submit_many(
        "comment.created", everyone, {"title": "News"}, idempotency_key=f"news:{count}"
    )
    assert ticket.count == count
    return time.perf_counter() - started


async def _serve(place: str) -> None:
    """Answer each line of the input, a number of recipients, with the seconds and the peak of memory in KiB."""
    async with _store(place) as store:
        while line := await asyncio.to_thread(sys.stdin.readline):
            seconds = await _submit(store, json.loads(line)["count"])
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            sys.stdout.write(json.dumps([seconds, peak]) + "\n")
            sys.stdout.flush()


# -- rows ------------------------------------------------------------------------------------------------------------


def planning() -> Row:
    """Plan for one recipient, whose zone, preferences and quiet hours count, over three channels."""

    async def plans() -> float:
        dispatcher = _dispatcher(MemoryDispatchStore())
        await dispatcher.plan("comment.created", "alice", {"title": "News"})
        started = cpu_seconds()
        for number in range(PLANS):
            await dispatcher.plan("comment.created", f"user{number}", {"title": "News"})
        return (cpu_seconds() - started) / PLANS * 1e6

    times = []
    for number in range(1, ROUNDS + 1):
        progress(f"dispatch, plans: round {number} of {ROUNDS}")
        times.append(run(plans))
    median = sorted(times)[ROUNDS // 2]
    return Row("plan for one recipient, three channels", "us", median, bar=Bar(f"<= {PLAN_BAR}", median <= PLAN_BAR))


def submitting(name: str, place: Callable[[Path], list[str]]) -> Row:
    """Submit one notification to many recipients."""
    with tempfile.TemporaryDirectory() as directory, _process(json.dumps(place(Path(directory)))) as process:
        progress(f"dispatch, {name}: {FEW:,} recipients")
        _, before = process.ask("submit", count=FEW)
        progress(f"dispatch, {name}: {MANY:,} recipients")
        seconds, peak = process.ask("submit", count=MANY)
    growth = max(0, peak - before) / 1024
    return Row(
        f"recipients of one submission to {MANY:,}, {name}",
        "1/s",
        MANY / seconds,
        bar=Bar(f"< {GROWTH_BAR} MiB", growth < GROWTH_BAR),
        note=f"peak of memory: {peak / 1024:.0f} MiB, {growth:.1f} more than with {FEW:,}",
    )


@contextmanager
def _process(place: str) -> Any:
    process = Process("dispatch_many", place)
    try:
        yield process
    finally:
        process.stop()


def measure(dsn: str) -> list[Row]:
    """Measure all of it.

    Args:
        dsn: of a PostgreSQL server.
    """
    return [
        planning(),
        submitting("sqlite", lambda directory: ["sqlite", str(directory / "many.db")]),
        submitting("postgres", lambda _: ["postgres", dsn, fresh_schema()]),
    ]


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
