"""Reading the counts that streams yield: a few users at a time, and every stream gets an answer."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from notify import ClosedError, Event, Notifier
from notify.inbox import Inbox, InboxStream
from notify.inbox._counting import CONCURRENT_READS
from tests.inbox.parts import PlainInboxStore
from tests.parts import until

pytestmark = pytest.mark.anyio

USERS = [f"user{number}" for number in range(CONCURRENT_READS + 4)]


class Gated(PlainInboxStore):
    """Reads items only once the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = anyio.Event()
        self.reading = self.most = 0

    async def items(self, user: str, query: Any) -> Any:
        self.reading += 1
        self.most = max(self.most, self.reading)
        try:
            await self.gate.wait()
            return await super().items(user, query)
        finally:
            self.reading -= 1


async def syncs(streams: list[InboxStream]) -> list[Event]:
    """The first signal of each stream, each waited for in a task of its own."""
    found: dict[str, Event] = {}

    async def read(stream: InboxStream) -> None:
        found[stream.user] = await stream.next(20)

    async with anyio.create_task_group() as tasks:
        for stream in streams:
            tasks.start_soon(read, stream)
    assert {event.type for event in found.values()} == {"notify.sync"}
    return [found[stream.user] for stream in streams]


async def opened(inbox: Inbox) -> list[InboxStream]:
    return [await inbox.subscribe(user, signals=True).__aenter__() for user in USERS]


async def test_few_users_are_read_at_a_time() -> None:
    """The others wait for their turn, and every stream gets its counts."""
    store = Gated()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        for user in USERS:
            await inbox.send(user, "t")
        streams = await opened(inbox)

        async def release() -> None:
            await until(lambda: store.reading == CONCURRENT_READS)
            await anyio.wait_all_tasks_blocked()
            store.gate.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release)
            assert {event.payload["unread"] for event in await syncs(streams)} == {1}
        assert store.most == CONCURRENT_READS
        for stream in streams:
            await stream.aclose()


async def test_closing_answers_every_stream_that_waits() -> None:
    """Those whose counts are being read, and those whose turn has not come: `notify.sync` comes without counts."""
    store = Gated()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        streams = await opened(inbox)

        async def close() -> None:
            await until(lambda: store.reading == CONCURRENT_READS)
            await anyio.wait_all_tasks_blocked()
            await inbox.aclose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            assert [event.payload for event in await syncs(streams)] == [{}] * len(USERS)
        assert store.most == CONCURRENT_READS
        for stream in streams:
            await stream.aclose()


async def test_a_closed_store_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not again and again, as one that cannot be reached: it will not come back."""

    class Closed(PlainInboxStore):
        async def items(self, user: str, query: Any) -> Any:
            self.calls.append("items")
            raise ClosedError("the store is closed")

    store = Closed()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        async with inbox.subscribe("alice", signals=True) as stream:
            assert (await stream.next(20)).payload == {}
            await until(lambda: inbox._background.running == 0)
    assert store.calls.count("items") == 1
    assert caplog.records == []
