"""What the tests of streams share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import anyio

from notify import Event, Notifier, Stream, StreamStore

from ._store_base import StoreTests
from ._types import StreamStoreT
from ._waits import assert_chain, take


class StreamTests(StoreTests[StreamStoreT]):
    """The stream store under test, and what the tests do with it."""

    def notifier(self, store: StreamStore) -> AbstractAsyncContextManager[Notifier]:
        """Return a notifier that learns of new events from the store alone: its own audits are hours away."""
        return Notifier(store, poll_interval=3600, audit_interval=3600)

    async def assert_next(self, stream: Stream, *events: Event) -> None:
        """Assert that these events come next, and nothing between them."""
        assert await take(stream, len(events), self.patience) == [*events]
        assert stream.last_id == events[-1].id

    async def assert_live(self, stream: Stream, store: StreamStore) -> None:
        """Assert that the next event that is saved is the next one that comes: so nothing else was on its way."""
        await self.assert_next(stream, await store.save(Event(stream.user, "sentinel")))

    async def assert_arrives(self, save: Callable[[], Awaitable[Event | None]], *streams: Stream) -> None:
        """Assert that an event reaches waiting readers, promptly and as it was saved."""
        seen: list[Event] = []

        async def read(stream: Stream) -> None:
            seen.extend(await take(stream, 1, self.patience))

        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(read, stream)
            await anyio.wait_all_tasks_blocked()
            event = await save()
            start = anyio.current_time()
        assert anyio.current_time() - start < self.prompt
        assert seen == [event] * len(streams)

    async def assert_log(self, store: StreamStore, count: int, *streams: Stream) -> None:
        """Assert that the log of alice has `count` events, and that these streams yield them and nothing else."""
        log = await self.read_all(store, "alice")
        assert len(log) == count
        sentinel = await store.save(Event("alice", "sentinel"))
        for stream in streams:
            await self.assert_next(stream, *log, sentinel)
            assert stream.gaps == ()

    async def assert_whole(self, stream: Stream, count: int, start: str = "0") -> list[Event]:
        """Take `count` events, assert that they are a chain, and return them."""
        events = await take(stream, count, self.patience)
        assert_chain(events, start)
        return events
