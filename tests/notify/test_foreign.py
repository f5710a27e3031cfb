"""A stream store that brings streams of its own: the notifier's rules of opening, closing and counting still hold."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from notify import ClosedError, Event, Gap, InvalidEventError, Notifier, Stream, UsageError
from notify.abc import Position
from notify_memory import MemoryPresence, MemoryStreamStore
from tests.parts import PlainStore, until

pytestmark = pytest.mark.anyio


class OwnStream:
    """Somebody else's stream: all of its life is in `inner`, and what it promises is `notify.abc.Stream` alone."""

    def __init__(self, inner: Stream) -> None:
        self.inner = inner
        self.closed = 0

    @property
    def user(self) -> str:
        return self.inner.user

    @property
    def last_id(self) -> str:
        return self.inner.last_id

    @property
    def dropped(self) -> int:
        return self.inner.dropped

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return self.inner.gaps

    def next(self, timeout: float | None = None) -> Any:
        return self.inner.next(timeout)

    async def aclose(self) -> None:
        self.closed += 1
        await self.inner.aclose()

    def __aiter__(self) -> OwnStream:
        return self

    def __anext__(self) -> Any:
        return self.inner.__anext__()

    async def __aenter__(self) -> OwnStream:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


class OwnStreamStore(PlainStore):
    """Somebody else's stream store, without a `LiveLog` that the notifier could share."""

    def __init__(self) -> None:
        self.streaming = MemoryStreamStore()
        super().__init__(self.streaming)
        self.streams: list[OwnStream] = []

    def subscribe(self, user: str, last_id: Position = None) -> OwnStream:
        self.streams.append(OwnStream(self.streaming.subscribe(user, last_id)))
        return self.streams[-1]


async def test_replay_live_and_ephemeral_events_come_through() -> None:
    """Stored events come by the store's stream, ephemeral ones and broadcasts beside it, each once."""
    async with Notifier(OwnStreamStore()) as notifier:
        first = await notifier.push("alice", "t", 1)
        async with notifier.subscribe("alice", "0") as stream:
            assert (stream.user, await stream.next(10)) == ("alice", first)
            await notifier.push("alice", "t", 2)
            assert (await stream.next(10)).payload == 2
            assert await notifier.push("alice", "typing", 3, ephemeral=True) is not None
            assert (await stream.next(10)).payload == 3
            await notifier.broadcast("t", 4)
            await notifier.push("bob", "typing", ephemeral=True)
            assert (await anext(stream)).payload == 4
            with pytest.raises(TimeoutError):
                await stream.next(0.03)
            assert stream.last_id != ""
            assert stream.gaps == ()
            assert notifier.statistics().open_streams == notifier.statistics().users == 1
        assert notifier.statistics().open_streams == notifier.statistics().users == 0


async def test_an_ephemeral_event_wakes_a_waiting_reader() -> None:
    """A reader that waits in the store's stream is given an ephemeral event at once, and misses nothing after it."""
    async with Notifier(OwnStreamStore()) as notifier, notifier.subscribe("alice") as stream:
        got: list[Any] = []

        async def read() -> None:
            got.extend([(await stream.next()).payload for _ in range(2)])

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(UsageError):
                await stream.next()
            await notifier.push("alice", "typing", 1, ephemeral=True)
            await notifier.push("alice", "t", 2)
        assert got == [1, 2]


async def test_a_full_buffer_drops_the_oldest_ephemeral_event() -> None:
    """Ephemeral events beyond the buffer are counted as dropped."""
    async with Notifier(OwnStreamStore(), buffer_size=2) as notifier, notifier.subscribe("alice") as stream:
        for n in range(5):
            await notifier.push("alice", "typing", n, ephemeral=True)
        assert stream.dropped == 3
        assert [(await stream.next(10)).payload for _ in range(2)] == [3, 4]


@pytest.mark.parametrize("how", ["stream", "notifier", "drain"])
async def test_closing_ends_a_waiting_reader_and_the_stores_stream(how: str) -> None:
    """However it is closed, a waiting reader's loop ends, `next` raises ClosedError and the inner stream is closed."""
    store = OwnStreamStore()
    notifier = Notifier(store)
    stream = notifier.subscribe("alice")
    ended = anyio.Event()

    async def read() -> None:
        async for _ in stream:
            pytest.fail("nothing was pushed")
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await until(lambda: notifier.statistics().open_streams == 1)
        await anyio.wait_all_tasks_blocked()
        await {"stream": stream.aclose, "notifier": notifier.aclose, "drain": lambda: notifier.drain(0.05)}[how]()
        with anyio.fail_after(2):
            await ended.wait()
    for call in (stream.next(), stream.next(0.1), stream.__aenter__()):
        with pytest.raises(ClosedError):
            await call
    assert store.streams[0].closed >= 1
    assert notifier.statistics().open_streams == 0
    await notifier.aclose()


async def test_presence_follows_foreign_streams() -> None:
    """An open foreign stream makes its user present, and a dropped one no longer does."""
    presence = MemoryPresence()
    async with Notifier(OwnStreamStore(), presence=presence, linger=0) as notifier:
        async with notifier.subscribe("alice"):
            assert list(await presence.locate(["alice"])) == ["alice"]
        assert await presence.locate(["alice"]) == {}
        async for _ in notifier.subscribe("alice", "0") if await notifier.push("alice", "t") else ():
            break
        await until(lambda: not presence.locate_nowait(["alice"]))


async def test_a_cancelled_bare_next_releases_the_stream_at_once() -> None:
    """A stream that was not entered counts only while its reader waits; the next call opens it where it was."""
    presence = MemoryPresence()
    async with Notifier(OwnStreamStore(), presence=presence, linger=0) as notifier:
        stream = notifier.subscribe("alice", "0")
        for timeout in (None, 10):
            with anyio.move_on_after(0.05):
                await stream.next(timeout)
            assert notifier.statistics().open_streams == notifier.statistics().users == 0
            await until(lambda: not presence.locate_nowait(["alice"]))
        await notifier.push("alice", "typing", 0, ephemeral=True)
        await notifier.push("alice", "t", 1)
        assert (await stream.next(10)).payload == 1
        assert notifier.statistics().open_streams == notifier.statistics().users == 1
        with anyio.move_on_after(0.05):
            async for _ in stream:
                pytest.fail("nothing more was pushed")
        assert notifier.statistics().open_streams == 0
        await stream.aclose()
        assert notifier.statistics().open_streams == 0


async def test_a_timeout_leaves_a_bare_stream_open() -> None:
    """`next(timeout)` that runs out is not a cancelled caller: the stream still gets ephemeral events."""
    async with Notifier(OwnStreamStore()) as notifier:
        stream = notifier.subscribe("alice")
        with pytest.raises(TimeoutError):
            await stream.next(0.03)
        assert notifier.statistics().open_streams == 1
        await notifier.push("alice", "typing", 1, ephemeral=True)
        assert (await stream.next(10)).payload == 1
        await stream.aclose()
        assert notifier.statistics().open_streams == 0


async def test_an_entered_stream_stays_open_when_its_reader_is_cancelled() -> None:
    """Inside `async with` a cancelled `next` keeps the stream open, so ephemeral events are not missed either."""
    async with Notifier(OwnStreamStore()) as notifier, notifier.subscribe("alice") as stream:
        for timeout in (None, 10):
            with anyio.move_on_after(0.03):
                await stream.next(timeout)
            assert notifier.statistics().open_streams == 1
        await notifier.push("alice", "typing", 1, ephemeral=True)
        assert (await stream.next(10)).payload == 1


async def test_a_second_reader_is_refused_while_the_first_opens_the_stream() -> None:
    """Two tasks cannot wait in one stream, not even before the first of them has opened it."""

    async with Notifier(OwnStreamStore()) as notifier, anyio.create_task_group() as group:
        stream = notifier.subscribe("alice")
        opening = anyio.Event()

        async def wait(*_: object) -> None:
            opening.set()
            await anyio.sleep_forever()

        stream._streams.ready = wait  # type: ignore[attr-defined]
        group.start_soon(stream.next)
        await opening.wait()
        assert notifier.statistics().open_streams == 1
        with pytest.raises(UsageError):
            await stream.next()
        group.cancel_scope.cancel()
    assert notifier.statistics().open_streams == 0


async def test_what_a_foreign_stream_cannot_do_is_said() -> None:
    """Signals and max_lag are refused; a bad user is refused; a store that cannot open its stream leaves nothing."""
    store = OwnStreamStore()
    async with Notifier(store) as notifier:
        for options in ({"signals": True}, {"max_lag": 3}):
            with pytest.raises(UsageError):
                notifier.subscribe("alice", **options)  # type: ignore[arg-type]
        with pytest.raises(InvalidEventError):
            notifier.subscribe("")
        await store.streaming.aclose()
        with pytest.raises(ClosedError):
            notifier.subscribe("alice")
        assert notifier.statistics().open_streams == 0


async def test_a_foreign_stream_that_cannot_be_entered_leaves_nothing() -> None:
    """When entering the store's own stream fails, the notifier counts no open stream."""

    class Failing(OwnStream):
        async def __aenter__(self) -> OwnStream:
            raise OSError("no")

    class Store(OwnStreamStore):
        def subscribe(self, user: str, last_id: Position = None) -> OwnStream:
            return Failing(self.streaming.subscribe(user, last_id))

    async with Notifier(Store()) as notifier:
        with pytest.raises(OSError, match="no"):
            async with notifier.subscribe("alice"):
                pytest.fail("it cannot open")
        assert notifier.statistics().open_streams == 0


def test_an_event_is_an_event() -> None:
    """The helper streams above satisfy the protocol they stand for."""
    assert isinstance(OwnStream(MemoryStreamStore().subscribe("alice")), Stream)
    assert Event("a", "t").id == ""
