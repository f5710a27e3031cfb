"""What a stream costs that waits, with its reader's task.

The limit is a bare `asyncio.Queue` with a task that waits on it.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from functools import partial

import anyio
from anyio.abc import TaskGroup

from notify import Notifier
from notify_memory import MemoryStore

from .harness import Bar, Row, Spread, progress, run, settle

STREAMS = 20_000
MANY = 100_000
PUSHED = 1000
BAR = 2000

MERGED = 1000
LOGS = 20
LOG_BAR = 400

_USERS = [f"user-{number}" for number in range(MANY)]


async def queues() -> float:
    """Return the bytes for each queue and its task."""

    async def read(queue: asyncio.Queue[object]) -> None:
        while True:
            await queue.get()

    gc.collect()
    tracemalloc.start()
    readers = [asyncio.create_task(read(asyncio.Queue())) for _ in range(STREAMS)]
    await settle()
    size = _traced()
    for reader in readers:
        reader.cancel()
    return size


async def ours() -> float:
    """Return the bytes for each stream and its task, started by the event loop only."""

    async def read(user: str) -> None:
        async for _ in notifier.subscribe(user):
            pass

    async with Notifier(store=MemoryStore()) as notifier:
        gc.collect()
        tracemalloc.start()
        readers = [asyncio.create_task(read(user)) for user in _USERS[:STREAMS]]
        await settle()
        assert notifier.statistics().open_streams == STREAMS
        size = _traced()
    await asyncio.gather(*readers)
    return size


async def ours_on_trio() -> float:
    """The same on trio, where a task cannot be without a nursery."""
    async with anyio.create_task_group() as readers:
        async with Notifier(store=MemoryStore()) as notifier:
            gc.collect()
            tracemalloc.start()
            await _open(notifier, readers, STREAMS, Counter())
            size = _traced()
    return size


async def merged(logs: int) -> tuple[float, int]:
    """Return the bytes for each stream of so many logs, with its task, and how many tasks there are."""

    async def read(users: list[str]) -> None:
        async for _ in notifier.subscribe(users):
            pass

    async with Notifier(store=MemoryStore()) as notifier:
        gc.collect()
        tracemalloc.start()
        readers = [asyncio.create_task(read(_USERS[first : first + logs])) for first in range(0, MERGED * logs, logs)]
        await settle()
        statistics = notifier.statistics()
        assert (statistics.open_streams, statistics.users) == (MERGED, MERGED * logs)
        tasks = len(asyncio.all_tasks()) - 1
        size = _traced() * STREAMS / MERGED
    await asyncio.gather(*readers)
    return size, tasks


async def many() -> float:
    """Return how many of the pushes to some of 100,000 idle streams arrived."""
    arrived: Counter[str] = Counter()
    async with anyio.create_task_group() as readers:
        async with Notifier(store=MemoryStore()) as notifier:
            await _open(notifier, readers, MANY, arrived)
            for user in _USERS[:: MANY // PUSHED]:
                await notifier.push(user, "comment.created", {"post": 7})
            await settle()
    assert set(arrived.values()) == {1}
    return len(arrived)


async def _open(notifier: Notifier, readers: TaskGroup, streams: int, arrived: Counter[str]) -> None:
    async def read(user: str) -> None:
        async for event in notifier.subscribe(user):
            arrived[event.user] += 1

    for user in _USERS[:streams]:
        readers.start_soon(read, user)
    await settle()
    assert notifier.statistics().open_streams == streams


def _traced() -> float:
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / STREAMS


def measure() -> list[Row]:
    """Run the benchmark; once, because memory does not drift."""
    progress(f"idle: {STREAMS:,} streams")
    limit, size, trio = run(queues), run(ours), run(ours_on_trio, backend="trio")
    progress(f"idle: {MANY:,} streams")
    arrived = run(many)
    least = limit / size
    progress(f"idle: {MERGED:,} streams of {LOGS} logs")
    (several, tasks), (one, _) = run(partial(merged, LOGS)), run(partial(merged, 1))
    further = (several - one) / (LOGS - 1)
    return [
        Row(
            "idle / queue",
            "bytes",
            size,
            limit=limit,
            ratio=Spread(least, least, least),
            bar=Bar(f"<= {BAR:,} B", size <= BAR),
            trio=trio,
            note=f"each with its task; of {MANY:,} at once {arrived:,.0f} of {PUSHED:,} got their push",
        ),
        Row(
            "idle, each further log",
            "bytes",
            further,
            bar=Bar(f"<= {LOG_BAR:,} B", further <= LOG_BAR),
            note=f"{MERGED:,} streams of {LOGS} logs, {several:,.0f} bytes each, in {tasks:,} tasks",
        ),
    ]
