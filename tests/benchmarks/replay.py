"""Reading a long log from its start.

The limit is an async generator over a list: the loop itself and nothing else.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator

from notify import Event, Notifier
from notify_memory import MemoryStore

from .harness import Bar, Row, Timed, cpu_seconds, rate, ratio, rounds

EVENTS = 100_000
BAR = 500_000


async def _iterate(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


def generator(events: list[Event]) -> Timed:
    """An async generator over the same events."""

    async def job() -> float:
        started = cpu_seconds()
        left = len(events)
        async for _ in _iterate(events):
            left -= 1
        assert not left
        return cpu_seconds() - started

    return job


def filled() -> MemoryStore:
    """Return a store with the events: one for each event loop, as a store belongs to one."""
    store = MemoryStore(max_len=EVENTS)
    for number in range(EVENTS):
        store.save_nowait(Event("alice", "comment.created", {"post": number}))
    return store


def ours() -> Timed:
    """A stream from the start of the log; works on trio too."""

    async def job() -> float:
        async with Notifier(store=filled()) as notifier:
            started = cpu_seconds()
            left = EVENTS
            async for _ in notifier.subscribe("alice", "0"):
                left -= 1
                if not left:
                    break
            return cpu_seconds() - started

    return job


def measure() -> list[Row]:
    """Run the benchmark."""
    events = [Event("alice", "comment.created", {"post": number}) for number in range(EVENTS)]
    seconds = rounds("replay", {"generator": generator(events), "ours": ours()}, trio=ours())
    speed = EVENTS / statistics.median(seconds["ours"])
    return [
        Row(
            "replay / generator",
            "events/s",
            speed,
            limit=rate(EVENTS, seconds["generator"]),
            ratio=ratio(seconds["generator"], seconds["ours"]),
            bar=Bar(f">= {BAR:,}/s", speed >= BAR),
            trio=rate(EVENTS, seconds["trio"]),
            note=f"{EVENTS:,} events of one user",
        )
    ]
