"""`disconnect` and `expires_at`: every way in which a reader can be busy, on every kind of store, at every instance."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from notify import ClosedError, DisconnectedError, Event, InvalidEventError, Notifier, Page, Stream, UsageError
from notify._runtime._stats import Counters
from notify._stream import _expiry, _hub
from notify._stream._stream_set import StreamSet
from notify_memory import MemoryRouter, MemoryStore, MemoryStreamStore
from tests.notify.test_foreign import OwnStreamStore
from tests.parts import BatchStore, PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio

KINDS: dict[str, Callable[[], Any]] = {
    "memory": MemoryStore,
    "memory stream": MemoryStreamStore,
    "no abilities": PlainStore,
    "batches": BatchStore,
    "streams of its own": OwnStreamStore,
    "no store": lambda: None,
}


WITH_A_LOG = [kind for kind in KINDS if kind != "no store"]


@pytest.fixture(params=KINDS)
async def notifier(request: pytest.FixtureRequest) -> AsyncIterator[Notifier]:
    async with Notifier(KINDS[request.param](), poll_interval=0.05) as notifier:
        yield notifier
        await until(lambda: notifier.statistics().open_streams == 0)


async def assert_disconnected(stream: Stream, reason: str, last_id: str | None = None) -> None:
    """However it is asked, the stream has ended for this reason, at the position where its reader was."""
    for _ in range(2):
        for ask in (stream.next, lambda: stream.next(1), lambda: stream.next(0)):
            with pytest.raises(DisconnectedError) as caught:
                await ask()
            assert caught.value.reason == reason
            assert caught.value.last_id == (stream.last_id if last_id is None else last_id)
            assert "alice" in str(caught.value)
    assert [event async for event in stream] == []
    async with stream as entered:
        assert [event async for event in entered] == []


async def test_a_waiting_reader_is_woken_at_once(notifier: Notifier) -> None:
    """A blocked `next` raises and a blocked loop ends, without any delay, and streams of other users go on."""
    ended: list[str] = []

    async def by_next() -> None:
        async with notifier.subscribe("alice") as stream:
            with pytest.raises(DisconnectedError) as caught:
                await stream.next()
            ended.append(caught.value.reason)

    async def by_timeout() -> None:
        with pytest.raises(DisconnectedError):
            await notifier.subscribe("alice").next(10)
        ended.append("timeout")

    async def by_loop() -> None:
        async for event in notifier.subscribe("alice"):
            pytest.fail(f"{event} was not pushed")
        ended.append("loop")

    async with notifier.subscribe("bob") as other, anyio.create_task_group() as group:
        for read in (by_next, by_timeout, by_loop):
            group.start_soon(read)
        await until(lambda: notifier.statistics().open_streams == 4)
        await anyio.wait_all_tasks_blocked()
        await notifier.disconnect("alice", "logged out")
        await anyio.wait_all_tasks_blocked()
        assert sorted(ended) == ["logged out", "loop", "timeout"]
        assert notifier.statistics().open_streams == 1
        event = await notifier.push("bob", "t")
        assert await other.next(10) == event


@pytest.mark.parametrize("notifier", WITH_A_LOG, indirect=True)
async def test_a_reader_in_the_middle_of_a_page_ends(notifier: Notifier) -> None:
    """What was read ahead is not yielded any more, and the error says where to go on."""
    events = [await notifier.push("alice", "t", number) for number in range(5)]
    async with notifier.subscribe("alice", "0") as stream:
        assert await stream.next(10) == events[0]
        await notifier.disconnect("alice")
        assert events[0] is not None
        await assert_disconnected(stream, "", events[0].id)


async def test_a_reader_that_is_busy_ends_when_it_comes_back(notifier: Notifier) -> None:
    """With live events waiting, and with none."""
    for pending in (0, 3):
        async with notifier.subscribe("alice") as stream:
            for number in range(pending):
                await notifier.push("alice", "t", number)
            await notifier.disconnect("alice", "busy")
            await assert_disconnected(stream, "busy")


async def test_a_stream_that_is_not_opened_yet_ends_too(notifier: Notifier) -> None:
    """It was handed out before: that its reader has not begun makes no difference."""
    stream = notifier.subscribe("alice")
    await notifier.disconnect("alice", "early")
    await assert_disconnected(stream, "early")
    assert notifier.statistics().open_streams == 0


async def test_a_stream_that_is_detached_ends_too(notifier: Notifier) -> None:
    """A bare stream whose reader was cancelled, as by a heartbeat, is ended although it is not attached."""
    stream = notifier.subscribe("alice")
    with anyio.move_on_after(0.05):
        await stream.next()
    await notifier.disconnect("alice", "detached")
    await assert_disconnected(stream, "detached")


async def test_a_stream_that_is_subscribed_afterwards_is_not_affected(notifier: Notifier) -> None:
    """Also while an earlier stream of the user has not noticed its end yet."""
    async with notifier.subscribe("alice") as busy:
        await notifier.disconnect("alice")
        async with notifier.subscribe("alice") as stream:
            event = await notifier.push("alice", "t")
            assert await stream.next(10) == event
        await assert_disconnected(busy, "")


async def test_a_closed_stream_stays_merely_closed(notifier: Notifier) -> None:
    """A stream that its reader has closed before is not disconnected."""
    stream = notifier.subscribe("alice")
    await stream.aclose()
    await notifier.disconnect("alice")
    with pytest.raises(ClosedError) as caught:
        await stream.next(10)
    assert not isinstance(caught.value, DisconnectedError)


@pytest.mark.parametrize("reason", [7, None, b"", "x" * 256])
async def test_what_is_not_a_reason_is_refused(reason: Any) -> None:
    """And so is what is not a user, and a notifier that is closed."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises(UsageError, match="reason"):
            await notifier.disconnect("alice", reason)
        with pytest.raises(InvalidEventError):
            await notifier.disconnect("")
    with pytest.raises(ClosedError):
        await notifier.disconnect("alice")


async def test_a_reader_that_waits_for_a_page_ends_at_once() -> None:
    """Before the stream is open, and later; the page that comes after it wakes no reader."""
    gate = anyio.Event()
    waiting = 0

    class Gated(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            nonlocal waiting
            waiting += 1
            await gate.wait()
            return await super().read(user, after, limit)

    async with Notifier(Gated(), poll_interval=60) as notifier, anyio.create_task_group() as group:
        for enter in (True, False):
            stream = notifier.subscribe("alice", "0")

            async def read(stream: Stream = stream, enter: bool = enter) -> None:
                if enter:
                    await stream.__aenter__()
                with pytest.raises(DisconnectedError):
                    await stream.next()

            group.start_soon(read)
            await until(lambda: waiting)
            await anyio.wait_all_tasks_blocked()
            await notifier.disconnect("alice", "reading")
            await anyio.wait_all_tasks_blocked()
            assert notifier.statistics().open_streams == 0
            await assert_disconnected(stream, "reading")
        gate.set()


@pytest.mark.parametrize("end", ["disconnect", "aclose", "drain", "notifier"])
async def test_a_reader_that_waits_for_presence_ends_at_once(end: str) -> None:
    """A tracker that hangs does not keep a stream from ending."""

    class Hanging(SlowPresence):
        async def _enter(self, name: str) -> None:
            if name == "register":
                await anyio.sleep_forever()

    notifier = Notifier(MemoryStore(), presence=Hanging(), timeout=1.0)
    stream = notifier.subscribe("alice")
    ended = anyio.Event()

    async def read() -> None:
        with pytest.raises(ClosedError):
            await stream.next()
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await until(lambda: notifier.statistics().open_streams == 1)
        await anyio.wait_all_tasks_blocked()
        if end == "disconnect":
            await notifier.disconnect("alice")
        elif end == "aclose":
            await stream.aclose()
        elif end == "drain":
            await notifier.drain(0)
        else:
            group.start_soon(notifier.aclose)
        await anyio.wait_all_tasks_blocked()
        assert ended.is_set()
    await notifier.aclose()


@pytest.mark.parametrize("shared", [True, False])
async def test_streams_of_other_instances_end(shared: bool) -> None:
    """Over a store that streams, or over a router; a stream subscribed at the store itself ends as well."""
    store: Any = MemoryStreamStore() if shared else MemoryStore()
    router = None if shared else MemoryRouter()
    async with Notifier(store, router=router) as here, Notifier(store, router=router) as there:
        async with there.subscribe("alice") as stream, there.subscribe("bob") as other:
            await here.disconnect("alice", "elsewhere")
            await until(lambda: isinstance(stream, object) and stream.is_over)  # type: ignore[attr-defined]
            await assert_disconnected(stream, "elsewhere")
            await here.push("bob", "t")
            assert (await other.next(10)).type == "t"
        if shared:
            async with store.subscribe("alice") as bare:
                await here.disconnect("alice", "bare")
                await assert_disconnected(bare, "bare")


async def test_a_command_that_is_malformed_does_no_harm() -> None:
    """A payload that no library of this version sends ends the streams without a reason."""
    async with Notifier(MemoryStore()) as notifier:
        for payload, reason in (([], ""), ({}, ""), ({"reason": 7}, "7")):
            async with notifier.subscribe("alice") as stream:
                assert notifier.deliver(Event("alice", "notify.disconnect", payload)) == 0
                await assert_disconnected(stream, reason)


async def test_what_other_processes_send_is_judged_first() -> None:
    """Bytes that are no event are dropped; an event with an id is no command, whatever its type."""
    store = MemoryStore()
    async with Notifier(store) as notifier, notifier.subscribe("alice") as stream:
        live = notifier._live
        assert live.deliver(b"garbage") == 0
        saved = store.save_nowait(Event("alice", "notify.disconnect"))
        assert live.deliver(saved.to_bytes()) == 1
        assert await stream.next(10) == saved


async def test_a_user_who_is_forgotten_elsewhere_is_read_again() -> None:
    """The command ends nothing: the streams look at the log."""
    store = MemoryStore()
    async with Notifier(store, poll_interval=60) as notifier, notifier.subscribe("alice") as stream:
        saved = store.save_nowait(Event("alice", "t"))
        assert notifier._live.deliver(Event("alice", "notify.forgotten")) == 0
        assert await stream.next(10) == saved


async def test_users_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many users are disconnected, few are remembered; streams that are open need no memory to end."""
    monkeypatch.setattr(_hub, "DISCONNECTIONS_KEPT", 3)
    async with Notifier(MemoryStore()) as notifier, notifier.subscribe("alice") as stream:
        await notifier.disconnect("alice", "first")
        for number in range(10):
            await notifier.disconnect(f"user{number}")
        assert 3 <= len(notifier._live._hub._disconnections) <= 5
        await assert_disconnected(stream, "first")


# -- expires_at ----------------------------------------------------------------------------------------------------


def after(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize("wrong", [datetime(2026, 12, 1), 1_800_000_000, "2026-12-01T00:00:00Z"], ids=repr)
async def test_a_time_without_a_zone_is_refused(notifier: Notifier, wrong: Any) -> None:
    """It would mean another moment on another host."""
    with pytest.raises(UsageError, match="expires_at"):
        notifier.subscribe("alice", expires_at=wrong)


async def test_a_stream_ends_at_its_time(notifier: Notifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting reader, a busy one and one that was cancelled; not those without a time or with a later one."""
    monkeypatch.setattr(_expiry, "CLOCK_CHECK", 3600.0)  # so that no check of the clock ends them
    moment = after(0.15)
    async with (
        notifier.subscribe("alice", expires_at=moment) as waiting,
        notifier.subscribe("alice", expires_at=moment) as busy,
        notifier.subscribe("alice", expires_at=after(60)) as later,
        notifier.subscribe("alice") as endless,
    ):
        with anyio.fail_after(20), pytest.raises(DisconnectedError) as caught:
            await waiting.next()
        assert datetime.now(UTC) >= moment
        assert caught.value.reason == "expired"
        await assert_disconnected(busy, "expired")
        event = await notifier.push("alice", "t")
        assert await later.next(10) == await endless.next(10) == event
    cancelled = notifier.subscribe("alice", expires_at=(moment := after(0.3)))
    with anyio.move_on_after(0.02):
        await cancelled.next()
    await until(lambda: datetime.now(UTC) > moment)
    await assert_disconnected(cancelled, "expired")


async def test_a_time_that_has_passed_ends_at_the_first_next(notifier: Notifier) -> None:
    """Nothing is opened or yielded, and entering the stream is no error."""
    await notifier.push("alice", "t")
    for seconds in (-0.001, -1e6):
        stream = notifier.subscribe("alice", "0", expires_at=after(seconds))
        await assert_disconnected(stream, "expired")
        async with notifier.subscribe("alice", "0", expires_at=after(seconds)) as stream:
            await assert_disconnected(stream, "expired")
    assert notifier.statistics().open_streams == 0


async def test_the_clock_is_what_counts(notifier: Notifier) -> None:
    """A clock that is set forward ends the stream within a second, one that is set back prolongs it."""
    expiry = notifier._streams.expiry
    offset = 0.0
    expiry.clock = lambda: time.time() + offset
    async with notifier.subscribe("alice", expires_at=after(3600)) as stream:
        offset = 3601.0
        with anyio.fail_after(20), pytest.raises(DisconnectedError):
            await stream.next()
        offset = 0.0
    now = time.time()
    expiry.clock = lambda: now
    async with notifier.subscribe("alice", expires_at=after(0.1)) as stream:
        now -= 3600.0
        with pytest.raises(TimeoutError):
            await stream.next(0.3)
    expiry.clock = lambda: time.time() + offset
    offset = 3601.0
    await until(lambda: expiry._waiter is None)  # nothing is left to wait for
    offset = 0.0
    async with notifier.subscribe("alice", expires_at=after(0.05)) as stream:
        with anyio.fail_after(20), pytest.raises(DisconnectedError):
            await stream.next()


async def test_an_earlier_time_is_noticed_while_a_later_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task waits for all of them; streams that ended otherwise are forgotten in time."""
    monkeypatch.setattr(_expiry, "CLOCK_CHECK", 3600.0)
    async with Notifier(MemoryStore()) as notifier:
        expiry = notifier._streams.expiry
        async with notifier.subscribe("alice", expires_at=(moment := after(1.5))) as later:
            async with notifier.subscribe("alice", expires_at=after(0.05)) as sooner:
                with pytest.raises(DisconnectedError):
                    await sooner.next(20)
                assert datetime.now(UTC) < moment
            for _ in range(1000):
                async with notifier.subscribe("alice", expires_at=after(3600)):
                    pass
            assert len(expiry._heap) <= 130
            assert notifier._parts.services.running <= 3
            with pytest.raises(DisconnectedError):
                await later.next(20)


@pytest.mark.parametrize("moment", [datetime(2030, 1, 1), 7, "2030-01-01", datetime.max])
async def test_what_is_not_a_time_with_a_zone_is_refused(moment: Any) -> None:
    """The message shows what to write."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises(UsageError, match="time zone"):
            notifier.subscribe("alice", expires_at=moment)


async def test_a_far_time_is_no_time() -> None:
    """The latest datetime there is does not overflow."""
    async with Notifier(MemoryStore()) as notifier:
        async with notifier.subscribe("alice", expires_at=datetime.max.replace(tzinfo=UTC)) as stream:
            event = await notifier.push("alice", "t")
            assert await stream.next(10) == event


def test_an_ended_rank_stays_ended() -> None:
    """A slower drain or a late one does not bring streams back."""
    streams = StreamSet(Counters())
    streams.cut(5)
    before = streams.generation
    streams.cut(3)
    assert (streams.cutoff, streams.generation > before) == (5, True)


@pytest.mark.parametrize("is_remote", [False, True], ids=["here", "elsewhere"])
async def test_a_forgotten_user_is_looked_for_once(is_remote: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of `forget` is decoded once, however many users have open streams, and reaches the one it means."""
    names, decoded = [f"user-{number}" for number in range(50)], list[object]()
    router = MemoryRouter()
    async with Notifier(MemoryStore(), router=router) as notifier, Notifier(MemoryStore(), router=router) as other:
        streams = [notifier.subscribe(name, "0") for name in names]
        for name, stream in zip(names, streams, strict=True):
            await notifier.push(name, "before")
            assert (await stream.next(5)).type == "before"
        if is_remote:
            await notifier.store.forget(names[7])  # type: ignore[union-attr]
        loads = json.loads

        def noting(text: Any) -> Any:
            decoded.append(text)
            return loads(text)

        with monkeypatch.context() as counting:
            counting.setattr(json, "loads", noting)
            await (other if is_remote else notifier).forget(names[7])
            await notifier.push(names[7], "after")
            assert (await streams[7].next(5)).type == "after"
        assert [gap.reason for gap in streams[7].gaps] == ["expired"]
        assert len(decoded) < len(names)
        for stream in streams:
            await stream.aclose()


async def test_forgetting_users_visits_those_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first `forget` visits the users with open streams once, each later one those that it means, also among users
    who have come and gone since."""
    names, hashed = [f"user-{number}" for number in range(50)], list[str]()
    hash_of = _hub.user_hash

    def noting(user: str) -> str:
        hashed.append(user)
        return hash_of(user)

    monkeypatch.setattr(_hub, "user_hash", noting)
    async with Notifier(MemoryStore()) as notifier:
        streams = {name: notifier.subscribe(name, "0") for name in names}
        for name, stream in streams.items():
            await notifier.push(name, "before")
            assert (await stream.next(5)).type == "before"
        assert hashed == []  # a process in which nobody is forgotten does nothing for it
        await notifier.forget(names[7])
        assert sorted(hashed) == sorted(names)
        hashed.clear()
        await streams.pop(names[9]).aclose()
        for late, count in (("late", 1), (names[9], 2)):
            streams[late] = notifier.subscribe(late, "0")
            await notifier.push(late, "before")
            assert [(await streams[late].next(5)).type for _ in range(count)] == ["before"] * count
        assert hashed == [names[9], "late", names[9]]
        for name in (names[8], "late", names[9], "absent"):
            await notifier.forget(name)
        assert len(hashed) == 3
        for name, stream in streams.items():
            is_forgotten = name in (*names[7:10], "late")
            await notifier.push(name, "after")
            assert (await stream.next(5)).type == "after"
            assert [gap.reason for gap in stream.gaps] == ["expired"] * is_forgotten
            await stream.aclose()
        assert len(notifier._live._hub._by_hash or ()) == 0
