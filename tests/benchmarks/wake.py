"""How long a push takes to reach a reader that waits, on a machine that is mostly idle.

The limit is a bare `asyncio.Queue` for each user.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time

import anyio

from notify import Notifier
from notify_memory import MemoryStore

from .harness import Row, Spread, rounds, settle

USERS = [f"user-{number}" for number in range(1000)]
PUSHES = 1000
PUSHES_PER_SECOND = 1000

_PLAN = random.Random(1).choices(USERS, k=PUSHES)


async def _wait_until(moment: float) -> None:
    await anyio.sleep(max(0.0, moment - time.perf_counter()))


async def queues() -> list[float]:
    """Return the latencies of a bare queue for each user."""
    waiting: dict[str, asyncio.Queue[dict[str, float]]] = {user: asyncio.Queue() for user in USERS}
    latencies: list[float] = []

    async def read(queue: asyncio.Queue[dict[str, float]]) -> None:
        while True:
            payload = await queue.get()
            latencies.append(time.perf_counter() - payload["at"])

    readers = [asyncio.create_task(read(queue)) for queue in waiting.values()]
    await settle()
    started = time.perf_counter()
    for number, user in enumerate(_PLAN):
        await _wait_until(started + number / PUSHES_PER_SECOND)
        waiting[user].put_nowait({"at": time.perf_counter()})
    await settle()
    for reader in readers:
        reader.cancel()
    assert len(latencies) == PUSHES
    return latencies


async def ours() -> list[float]:
    """Return the latencies of a notifier with its defaults; works on trio too."""
    latencies: list[float] = []

    async def read(user: str) -> None:
        async for event in notifier.subscribe(user):
            now = time.perf_counter()
            latencies.append(now - event.payload["at"])

    async with anyio.create_task_group() as readers:
        async with Notifier(store=MemoryStore()) as notifier:
            for user in USERS:
                readers.start_soon(read, user)
            await settle()
            started = time.perf_counter()
            for number, user in enumerate(_PLAN):
                await _wait_until(started + number / PUSHES_PER_SECOND)
                await notifier.push(user, "comment.created", {"at": time.perf_counter()})
            await settle()
    assert len(latencies) == PUSHES
    return latencies


def measure() -> list[Row]:
    """Run the benchmark."""
    latencies = rounds("wake", {"queues": queues, "ours": ours}, trio=ours)
    rows = []
    for percent in (50, 99):
        cuts = {
            name: [statistics.quantiles(values, n=100)[percent - 1] * 1e6 for values in results]
            for name, results in latencies.items()
        }
        rows.append(
            Row(
                f"wake, p{percent}",
                "us",
                statistics.median(cuts["ours"]),
                limit=statistics.median(cuts["queues"]),
                ratio=Spread.of([theirs / mine for theirs, mine in zip(cuts["queues"], cuts["ours"], strict=True)]),
                trio=statistics.median(cuts["trio"]),
                note=f"push to yield, {PUSHES_PER_SECOND:,} pushes/s to {len(USERS):,} users",
            )
        )
    return rows
