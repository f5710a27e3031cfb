"""One user with many streams: every event goes to all of them.

The limit is a bare `asyncio.Queue` for each stream, filled in a loop.
"""

from __future__ import annotations

import asyncio

import anyio

from notify import Notifier
from notify_memory import MemoryStore

from .harness import Row, Timed, at_least, cpu_seconds, rate, ratio, rounds, settle

STREAMS = 1000
EVENTS = 96


def queues(burst: int) -> Timed:
    """A bare queue for each stream; waits after each burst until all have it."""

    async def job() -> float:
        waiting: list[asyncio.Queue[object]] = [asyncio.Queue() for _ in range(STREAMS)]
        left, done = 0, asyncio.Event()

        async def read(queue: asyncio.Queue[object]) -> None:
            nonlocal left
            for _ in range(EVENTS):
                await queue.get()
                left -= 1
                if not left:
                    done.set()

        async with asyncio.TaskGroup() as readers:
            for queue in waiting:
                readers.create_task(read(queue))
            await settle()
            started = cpu_seconds()
            for number in range(0, EVENTS, burst):
                left, done = burst * STREAMS, asyncio.Event()
                for offset in range(burst):
                    payload = {"post": number + offset}
                    for queue in waiting:
                        queue.put_nowait(payload)
                await done.wait()
            return cpu_seconds() - started

    return job


def ours(burst: int) -> Timed:
    """A notifier with its defaults; works on trio too."""

    async def job() -> float:
        left, done = 0, anyio.Event()

        async def read() -> None:
            nonlocal left
            seen = 0
            async for _ in notifier.subscribe("alice"):
                left -= 1
                if not left:
                    done.set()
                seen += 1
                if seen == EVENTS:
                    break

        async with Notifier(store=MemoryStore()) as notifier, anyio.create_task_group() as readers:
            for _ in range(STREAMS):
                readers.start_soon(read)
            await settle()
            started = cpu_seconds()
            for number in range(0, EVENTS, burst):
                left, done = burst * STREAMS, anyio.Event()
                for offset in range(burst):
                    await notifier.push("alice", "comment.created", {"post": number + offset})
                await done.wait()
            seconds = cpu_seconds() - started
        return seconds

    return job


def measure() -> list[Row]:
    """Run the benchmark, with every event by itself and with a few at a time."""
    rows = []
    for burst, bar in [(1, 1.3), (8, None)]:
        name = "fanout, one by one" if burst == 1 else f"fanout, {burst} at a time"
        seconds = rounds(name, {"queues": queues(burst), "ours": ours(burst)}, trio=ours(burst))
        spread = ratio(seconds["queues"], seconds["ours"])
        rows.append(
            Row(
                name,
                "deliveries/s",
                rate(EVENTS * STREAMS, seconds["ours"]),
                limit=rate(EVENTS * STREAMS, seconds["queues"]),
                ratio=spread,
                bar=None if bar is None else at_least(spread, bar),
                trio=rate(EVENTS * STREAMS, seconds["trio"]),
                note=f"{STREAMS:,} streams of one user",
            )
        )
    return rows
