"""Pushes to many users, each with one reader that waits.

The first limit is one bare `asyncio.Queue` for each user, which remembers nothing. The second adds what a notifier is
for, in the least that anybody would write: an id that grows and a bounded log to resume from. The third also encodes
the payload as JSON, once for each push, as whoever sends it to a browser must at some time; ours has done so by then.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable

import anyio

from notify import Notifier
from notify_memory import MemoryStore

from .harness import Row, at_least, cpu_seconds, rate, ratio, rounds, settle

USERS = [f"user-{number}" for number in range(1000)]
PUSHES = 100_000
PUSHES_PER_YIELD = 64  # as often as `Notifier.push` lets others run

_PLAN = random.Random(1).choices(USERS, k=PUSHES)
_EXPECTED = Counter(_PLAN)


class Hub:
    """Queues with a log.

    Args:
        encode: makes of a payload what is kept.
    """

    def __init__(self, encode: Callable[[object], object] | None) -> None:
        self._encode = encode
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
        if self._encode is not None:
            payload = self._encode(payload)
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
        started = cpu_seconds()
        for number, user in enumerate(_PLAN, 1):
            waiting[user].put_nowait({"post": number})
            if not number % PUSHES_PER_YIELD:
                await asyncio.sleep(0)
    return cpu_seconds() - started


async def logged_queues(encode: Callable[[object], object] | None = None) -> float:
    """A queue and a log for each user."""
    hub = Hub(encode)

    async def read(user: str) -> None:
        queue, left = hub.queues[user], _EXPECTED[user]
        while left:
            await queue.get()
            left -= 1

    async with asyncio.TaskGroup() as readers:
        for user in _EXPECTED:
            readers.create_task(read(user))
        await settle()
        started = cpu_seconds()
        for number, user in enumerate(_PLAN, 1):
            hub.push(user, {"post": number})
            if not number % PUSHES_PER_YIELD:
                await asyncio.sleep(0)
    return cpu_seconds() - started


async def encoded_queues() -> float:
    """A queue and a log of JSON for each user."""
    return await logged_queues(lambda payload: json.dumps(payload).encode())


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
            started = cpu_seconds()
            for number, user in enumerate(_PLAN, 1):
                await notifier.push(user, "comment.created", {"post": number})
        return cpu_seconds() - started


def measure() -> list[Row]:
    """Run the benchmark."""
    contenders = {"queue": queues, "queue and log": logged_queues, "queue, log, JSON": encoded_queues, "ours": ours}
    seconds = rounds("push", contenders, trio=ours)
    rows = []
    for limit, bar in [("queue", None), ("queue and log", 1.0), ("queue, log, JSON", None)]:
        spread = ratio(seconds[limit], seconds["ours"])
        rows.append(
            Row(
                f"push / {limit}",
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
