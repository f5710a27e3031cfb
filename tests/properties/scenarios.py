"""Small worlds for the interleaving tests: one user, a store of each kind, and what readers got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from notify import Event, Notifier, Stream, ids
from notify_memory import MemoryStore

from .loop import settle
from .stores import BatchingStore, SlowStore
from .world import FAR, Wire

USER = "alice"
KINDS = ("immediate", "slow", "batching")


class Small:
    """One store, two notifiers that hear of each other only by `wire`.

    Attributes:
        inner: the log itself, past every delay.
        store: what the notifiers use.
        wire: events that one notifier routed and the other has not had yet.
    """

    def __init__(self, kind: str, random: Random) -> None:
        self.inner = MemoryStore(max_age=None)
        slow = {"immediate": None, "slow": SlowStore, "batching": BatchingStore}[kind]
        self.store = self.inner if slow is None else slow(self.inner, random)
        self.wire: list[tuple[str, Event]] = []
        self.a, self.b = (
            Notifier(
                self.store,
                router=Wire(name, self.wire),
                instance_id=name,
                poll_interval=FAR,
                timeout=FAR,
            )
            for name in "AB"
        )

    @property
    def log(self) -> list[int]:
        """The values in the log."""
        return [event.payload for event in self.inner.read_nowait(USER, ids.ZERO, 10_000).events]

    @property
    def head(self) -> str:
        """The id of the last event."""
        return self.inner.head_nowait(USER)

    def append(self, value: int) -> Event:
        """Store an event as another process would, without an announcement."""
        return self.inner.save_nowait(Event(USER, "t", value))

    async def calm(self) -> None:
        """Let everything settle and every notifier look for what it was not told."""
        for notifier in (self.a, self.b):
            await settle()
            await notifier._live._catch_up.audit()
        await settle()


@asynccontextmanager
async def small(kind: str, random: Random) -> AsyncIterator[Small]:
    """Make a small world, and find nothing left of it in the end."""
    world = Small(kind, random)
    before = asyncio.all_tasks()
    yield world
    for notifier in (world.a, world.b):
        await notifier.aclose()
        figures = notifier.statistics()
        assert figures.open_streams == figures.pending_pushes == 0
    await settle()
    assert asyncio.all_tasks() == before, "tasks were left behind"


async def read(stream: Stream, into: list[int], count: int) -> None:
    """Read so many events."""
    for _ in range(count):
        event = await stream.next()
        into.append(event.payload)


async def read_on(stream: Stream, into: list[int], random: Random, cancels: int) -> None:
    """Read until the stream is closed; some of the calls are cancelled at any step."""
    while True:
        task = asyncio.ensure_future(stream.next())
        if cancels and random.random() < 0.7:
            cancels -= 1
            for _ in range(random.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            continue
        if task.exception() is not None:
            return
        into.append(task.result().payload)
