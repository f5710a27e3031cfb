"""Pushes to many users, each with one reader that waits.

The first limit is one bare `asyncio.Queue` for each user, which remembers nothing. The second adds what a notifier is
for, in the least that anybody would write: an id that grows and a bounded log to resume from.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict, deque

import anyio

from notify import Notifier
from notify_memory import MemoryStore

from .harness import Row, at_least, rate, ratio, rounds, settle

USERS = [f"user-{number}" for number in range(1000)]
PUSHES = 100_000
PUSHES_PER_YIELD = 64  # as often as `Notifier.push` lets others run

_PLAN = random.Random(1).choices(USERS, k=PUSHES)
_EXPECTED = Counter(_PLAN)


class Hub:
    """Queues with a log."""

    def __init__(self) -> None:
        self.queues: dict[str, asyncio.Queue[tuple[str, object]]] = {user: asyncio.Queue() for user in USERS}
        self.logs: dict[str, deque[tuple[str, object]]] = defaultdict(lambda: deque(maxlen=1000))
        self._ms = self._sequence = 0

    def push(self, user: str, payload: object) -> str:
        """Append to the log and hand to the reader."""
        now = int(time.time() * 1000)
        if now > self._ms:
            self._ms, self._sequence = now, 0
        else:
            self._sequence += 1
        id_ = f"{self._ms}-{self._sequence}"
        entry = (id_, payload)
        self.logs[user].append(entry)
        self.queues[user].put_nowait(entry)
        return id_


async def queues() -> float:
    """A bare queue for each user."""
    waiting: dict[str, asyncio.Queue[object]] = {user: asyncio.Queue() for user in USERS}

    async def read(user: str) -> None:
        queue, left = waiting[user], _EXPECTED[user]
        while left:
            await queue.get()
            left -= 1

    async with asyncio.TaskGroup() as readers:
        for user in _EXPECTED:
            readers.create_task(read(user))
        await settle()
        started = time.perf_counter()
        for number, user in enumerate(_PLAN, 1):
            waiting[user].put_nowait({"post": number})
            if not number % PUSHES_PER_YIELD:
                await asyncio.sleep(0)
    return time.perf_counter() - started


async def logged_queues() -> float:
    """A queue and a log for each user."""
    hub = Hub()

    async def read(user: str) -> None:
        queue, left = hub.queues[user], _EXPECTED[user]
        while left:
            await queue.get()
            left -= 1

    async with asyncio.TaskGroup() as readers:
        for user in _EXPECTED:
            readers.create_task(read(user))
        await settle()
        started = time.perf_counter()
        for number, user in enumerate(_PLAN, 1):
            hub.push(user, {"post": number})
            if not number % PUSHES_PER_YIELD:
                await asyncio.sleep(0)
    return time.perf_counter() - started


async def ours() -> float:
    """A notifier with its defaults; works on trio too."""
    async with Notifier(store=MemoryStore()) as notifier:

        async def read(user: str) -> None:
            left = _EXPECTED[user]
            async for _ in notifier.subscribe(user):
                left -= 1
                if not left:
                    break

        async with anyio.create_task_group() as readers:
            for user in _EXPECTED:
                readers.start_soon(read, user)
            await settle()
            started = time.perf_counter()
            for number, user in enumerate(_PLAN, 1):
                await notifier.push(user, "comment.created", {"post": number})
        return time.perf_counter() - started


def measure() -> list[Row]:
    """Run the benchmark."""
    seconds = rounds("push", {"queues": queues, "logged": logged_queues, "ours": ours}, trio=ours)
    rows = []
    for name, limit, bar in [("push / queue", "queues", None), ("push / queue and log", "logged", 1.0)]:
        spread = ratio(seconds[limit], seconds["ours"])
        rows.append(
            Row(
                name,
                "pushes/s",
                rate(PUSHES, seconds["ours"]),
                limit=rate(PUSHES, seconds[limit]),
                ratio=spread,
                bar=None if bar is None else at_least(spread, bar),
                trio=rate(PUSHES, seconds["trio"]),
                note=f"{len(USERS):,} users, one waiting reader each",
            )
        )
    return rows
