"""Several logs in one stream, beyond the shipped suite: opening, cancellation, presence, limits, every way to end."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import (
    BackendUnavailableError,
    ClosedError,
    DisconnectedError,
    Event,
    Gap,
    InvalidEventError,
    InvalidEventIdError,
    MergedStream,
    Notifier,
    Page,
    SlowConsumerError,
    UsageError,
    ids,
)
from notify._stream import _token
from notify_memory import MemoryPresence, MemoryStore, MemoryStreamStore
from tests.notify.test_foreign import OwnStreamStore
from tests.parts import STORES, PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio

LOGS = ["alice", "room:7", "news"]


@pytest.fixture(params=STORES)
async def notifier(request: pytest.FixtureRequest) -> AsyncIterator[Notifier]:
    async with Notifier(STORES[request.param](), poll_interval=0.05) as notifier:
        yield notifier
        await until(lambda: notifier.statistics().open_streams == 0)
        hub = notifier._live._hub
        assert (notifier.statistics().users, hub.merged_logs, hub.everyone.streams) == (0, 0, 0)


async def fill(notifier: Notifier, *users: str) -> list[Event]:
    events = [await notifier.push(user, "t", number) for number, user in enumerate(users)]
    return [event for event in events if event is not None]


async def take(stream: Any, count: int) -> list[Any]:
    return [await stream.next(10) for _ in range(count)]


async def nothing(stream: Any) -> None:
    with pytest.raises(TimeoutError):
        await stream.next(0.03)


# -- positions and the token ---------------------------------------------------------------------------------------


async def test_before_it_is_opened_a_stream_has_no_token(notifier: Notifier) -> None:
    """From now on is nothing to write down; a time is, and an id; the token means the same as what was given."""
    stream = notifier.subscribe(LOGS)
    assert (stream.last_id, stream.users, stream.user) == ("", tuple(LOGS), "alice")
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    (old,) = await fill(notifier, "alice")
    for position in (moment, "1700000000000-5", "0", "0-0"):
        token = notifier.subscribe(LOGS, position).last_id
        assert token.startswith("m1.alice.")
        assert notifier.subscribe(LOGS, token).last_id == token
        async with notifier.subscribe(LOGS, token) as stream:
            assert await take(stream, 1) == [old]
            assert stream.gaps == ()


async def test_one_log_has_a_plain_position(notifier: Notifier) -> None:
    """A list of one user reads one log: its `last_id` is that of a plain stream, both ways."""
    first, second = await fill(notifier, "alice", "alice")
    async with notifier.subscribe(["alice"], first.id) as stream, notifier.subscribe("alice", first.id) as plain:
        assert await take(stream, 1) == await take(plain, 1) == [second]
        assert stream.last_id == plain.last_id == second.id
        assert stream.users == ("alice",)


async def test_a_plain_stream_reads_a_token(notifier: Notifier) -> None:
    """A page that needs one log fewer goes on from the token of several; a log that it lacks starts from now."""
    async with notifier.subscribe(LOGS) as stream:
        token = stream.last_id
    events = await fill(notifier, "alice", "bob")
    async with notifier.subscribe("alice", token) as stream:
        assert await take(stream, 1) == events[:1]
    async with notifier.subscribe("bob", token) as stream:
        await nothing(stream)


async def test_an_id_is_a_time_for_several_logs(notifier: Notifier) -> None:
    """It is the id of one log at most, so no log reports that it is not there."""
    events = await fill(notifier, *LOGS, *LOGS)
    async with notifier.subscribe(LOGS, events[1].id) as stream:
        assert await take(stream, 4) == events[2:]
        assert stream.gaps == ()


async def test_users_named_twice_are_read_once(notifier: Notifier) -> None:
    """The order is that in which they were named first."""
    (event,) = await fill(notifier, "bob")
    async with notifier.subscribe(["bob", "alice", "bob"], "0") as stream:
        assert stream.users == ("bob", "alice")
        assert await take(stream, 1) == [event]
        await nothing(stream)


@pytest.mark.parametrize("logs", [["alice", ""], ["alice", 7], b"alice", ["x" * 256], 7, None])
async def test_what_is_not_a_user_is_refused(logs: Any) -> None:
    """Wherever it stands."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises(InvalidEventError):
            notifier.subscribe(logs)


async def test_the_number_of_logs_is_bounded() -> None:
    """So is the length of the token, whatever the users are called; all of it goes into a header and a query."""
    async with Notifier(MemoryStore()) as notifier:
        for logs in ([], [str(number) for number in range(101)]):
            with pytest.raises(UsageError, match="100"):
                notifier.subscribe(logs)
        long = [f"{number}" + "ü" * 120 for number in range(100)]
        async with notifier.subscribe(long, "1795879843133-1048575") as stream:
            for user in long:
                await notifier.push(user, "t")
            await take(stream, 100)
            token = stream.last_id
            assert len(token) < 7000
            assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_~")
            with pytest.raises(UsageError, match="100"):
                stream.add("one more")
        async with notifier.subscribe(long, token) as stream:
            await nothing(stream)
            assert stream.last_id == token


BAD_TOKENS = [
    "m1.", "m1", "m1.a", "m1.a.", "m1.a.1", "m1.a.1-1.", "m1..1-1", "m1.a.1-1.a.2-2", "m2.a.1-1", "m0.a.1-1",
    "M1.a.1-1", "m1.a.01-1", "m1.a.0-1x", "m1.a.t", "m1.a.tt1-1", "m1.a.1-1.b", "m1.a b.1-1", "m1.ü.1-1",
    "m1._zz.1-1", "m1._FF.1-1", "m1._61.1-1", "m1._6d.1-1", "m1.~short.1-1", "m1.a.1-1 ", " m1.a.1-1", "m1.a.1-1\n",
    "m1.a.99999999999999999999-1", "m1." + ".".join(f"u{number}.1-1" for number in range(101)), "m1." + "x" * 10_000,
    "m1.a.00-0", "m1.a.0-00", "m1.a.00",
]  # fmt: skip


@pytest.mark.parametrize("token", BAD_TOKENS)
async def test_a_token_is_read_strictly(token: str) -> None:
    """Anything but the one spelling of a token is refused, for one log and for several."""
    async with Notifier(MemoryStore()) as notifier:
        for logs in ("alice", ["alice"], LOGS):
            with pytest.raises(InvalidEventIdError):
                notifier.subscribe(logs, token)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "user", ["a", "-", "_", "~", ".", "a.b", "room:7", "ü", "%41", "a b", "\U0001f600", "x" * 23, "m1."]
)
def test_every_user_has_its_own_name_in_a_token(user: str) -> None:
    """What was written is found again, and belongs to no other user."""
    token = _token.encode([(user, _token.Place("5-6"))])
    assert _token.decode(token) == {_token.name_of(user): _token.Place("5-6")}
    assert len({_token.name_of(other) for other in (user, user + "x", user.upper() + "y", "_" + user)}) == 4
    assert _token.encode([]) == ""


# -- order -----------------------------------------------------------------------------------------------------------


async def test_live_logs_take_turns(notifier: Notifier) -> None:
    """A log with many events does not hold up another one."""
    async with notifier.subscribe(LOGS) as stream:
        await fill(notifier, *["alice"] * 30, "news")
        got = await take(stream, 31)
        assert [event.user for event in got].index("news") <= 2
        assert [event.payload for event in got if event.user == "alice"] == [*range(30)]


async def test_sync_comes_once_after_all_replays(notifier: Notifier) -> None:
    """Gaps name their log; sync belongs to none, and carries the token; a log that is added does not repeat it."""
    events = await fill(notifier, *LOGS, *LOGS)
    store: Any = notifier._store
    await store.trim(events[4].id)
    start = _token.encode(
        [("alice", _token.Place("1-1")), ("room:7", _token.Place(events[1].id)), ("news", _token.Place("0"))]
    )
    async with notifier.subscribe(LOGS, start, signals=True) as stream:
        got = await take(stream, 4)
        assert [(event.user, event.type) for event in got] == [
            ("alice", "notify.gap"),
            ("room:7", "t"),
            ("news", "t"),
            ("", "notify.sync"),
        ]
        assert got[3].id == stream.last_id
        assert stream.gaps == (Gap("trimmed", "1-1", events[3].id, "alice"),)
        await stream.add("bob", "0")
        await nothing(stream)
        assert stream.synced is True  # type: ignore[attr-defined]


async def test_signals_without_a_store() -> None:
    """Without a store every event is ephemeral, and there is nothing to replay."""
    async with Notifier() as notifier, notifier.subscribe(LOGS, signals=True) as stream:
        assert stream.last_id == ""
        await notifier.push("alice", "t", 1)
        await notifier.broadcast("t", 2)
        await notifier.push("news", "t", 3)
        assert sorted(event.payload for event in await take(stream, 3)) == [1, 2, 3]
        await stream.add("bob")
        await notifier.push("bob", "t", 4)
        assert (await stream.next(0)).payload == 4
        await nothing(stream)


# -- ephemeral events --------------------------------------------------------------------------------------------------


async def test_a_broadcast_is_yielded_once(notifier: Notifier) -> None:
    """And the notifier counts each stream that accepts it once."""
    async with notifier.subscribe(LOGS) as stream, notifier.subscribe("alice") as plain:
        before = notifier.statistics().delivered_local
        await notifier.broadcast("b", 1)
        assert notifier.statistics().delivered_local == before + 2
        assert (await stream.next(10)).payload == (await plain.next(10)).payload == 1
        await nothing(stream)


async def test_dropped_counts_each_loss_once() -> None:
    """Broadcasts that no longer fit are lost once, however many logs the stream reads; so are a log's own events."""
    async with Notifier(MemoryStore(), buffer_size=4) as notifier, notifier.subscribe(LOGS) as stream:
        for number in range(10):
            await notifier.broadcast("b", number)
        assert stream.dropped == 6
        assert [event.payload for event in await take(stream, 4)] == [6, 7, 8, 9]
        for number in range(7):
            await notifier.push("alice", "e", number, ephemeral=True)
        assert stream.dropped == 9
        assert [event.payload for event in await take(stream, 4)] == [3, 4, 5, 6]
        assert stream.dropped == 9
        await stream.remove("alice")
        assert stream.dropped == 9
        await nothing(stream)
    assert notifier.statistics().dropped == 9


# -- adding and removing -----------------------------------------------------------------------------------------------


async def test_logs_come_and_go(notifier: Notifier) -> None:
    """Awaited or not, they take effect at once; what is repeated does nothing."""
    before = await fill(notifier, "bob", "carol")
    async with notifier.subscribe(LOGS) as stream:
        await stream.add("bob", "0")
        await stream.add("bob")
        stream.add("carol")
        assert stream.users == (*LOGS, "bob", "carol")
        assert await take(stream, 1) == before[:1]
        await stream.remove("nobody")
        stream.remove("bob")
        await fill(notifier, "bob")
        (event,) = await fill(notifier, "carol")
        assert await take(stream, 1) == [event]
        assert notifier.statistics().users == 4
        for user in stream.users[1:]:
            await stream.remove(user)
        assert (stream.users, stream.last_id.startswith("m1")) == (("alice",), False)
        with pytest.raises(UsageError, match="only log"):
            stream.remove("alice")
        with pytest.raises(InvalidEventError):
            stream.add("")
        with pytest.raises(InvalidEventIdError):
            stream.add("x", "garbage")
    with pytest.raises(ClosedError):
        stream.add("bob")


async def test_an_added_log_has_its_position_once_awaited(notifier: Notifier) -> None:
    """Without a reader too: the token then resumes with what came after it."""
    await fill(notifier, "bob")
    async with notifier.subscribe(LOGS) as stream:
        await stream.add("bob")
        token = stream.last_id
        assert ".bob." in token
    missed = await fill(notifier, "bob", "alice")
    async with notifier.subscribe([*LOGS, "bob"], token) as stream:
        assert await take(stream, 2) == missed


async def test_logs_change_before_the_stream_is_opened(notifier: Notifier) -> None:
    """Then they are opened with the others."""
    (event,) = await fill(notifier, "bob")
    stream = notifier.subscribe(LOGS)
    await stream.add("bob", "0")
    await stream.remove("news")
    async with stream:
        assert await take(stream, 1) == [event]
        assert stream.users == ("alice", "room:7", "bob")


async def test_logs_change_while_the_reader_waits(notifier: Notifier) -> None:
    """A log that is added wakes a waiting reader, and so does the removal of the log that a replay waits for."""
    (event,) = await fill(notifier, "bob")
    async with notifier.subscribe(LOGS) as stream, anyio.create_task_group() as group:
        got: list[Event] = []

        async def read() -> None:
            got.append(await stream.next())

        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        stream.add("bob", "0")
        await until(lambda: got == [event])


async def test_adding_a_log_leaves_an_interruption_to_the_reader(notifier: Notifier) -> None:
    """`add` neither raises nor takes it, so the reader is called back as intended."""
    async with notifier.subscribe(["alice"]) as stream:
        stream.interrupt()  # type: ignore[attr-defined]
        await stream.add("bob")
        with pytest.raises(TimeoutError):
            await stream.next(2)
        event = await notifier.push("bob", "t")
        assert await stream.next(10) == event


async def test_removing_the_log_that_hangs_frees_the_others() -> None:
    """The replay of all waits for each; without the log that hangs it goes on."""
    gate = anyio.Event()

    class Gated(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            if user == "news":
                await gate.wait()
            return await super().read(user, after, limit)

    async with Notifier(Gated(), poll_interval=60) as notifier, anyio.create_task_group() as group:
        (event,) = await fill(notifier, "alice")
        stream = notifier.subscribe(LOGS, "0")
        got: list[Event] = []

        async def read() -> None:
            got.append(await stream.next())

        group.start_soon(read)
        await until(lambda: notifier.statistics().open_streams == 1)
        await anyio.wait_all_tasks_blocked()
        assert not got
        with pytest.raises(UsageError):
            await stream.next()
        stream.remove("news")
        await until(lambda: got == [event])
        adding = anyio.Event()

        async def add() -> None:
            await stream.add("news")
            adding.set()

        group.start_soon(add)
        await adding.wait()
        stream.add("late", "0")
        await stream.aclose()
        gate.set()


# -- reading at once, cancellation, release --------------------------------------------------------------------------


async def test_next_with_timeout_zero(notifier: Notifier) -> None:
    """It finds what is known to be there; on a store that answers at once, everything."""
    events = await fill(notifier, *LOGS)
    async with notifier.subscribe(LOGS, "0") as stream:
        got: list[Event] = []
        while len(got) < 3:
            try:
                got.append(await stream.next(0))
            except TimeoutError:
                continue
        assert got == events
        with pytest.raises(TimeoutError):
            await stream.next(0)
        events = await fill(notifier, *LOGS)
        assert [await stream.next(0) for _ in LOGS] == events
        store: Any = notifier._store
        if hasattr(store, "save_nowait"):
            saved = store.save_nowait(Event("news", "t", "beside the notifier"))
            assert await stream.next(0) == saved


async def test_a_cancelled_bare_next_detaches(notifier: Notifier) -> None:
    """It loses nothing, whenever it comes; the logs of the stream are released at once, and attached again."""
    seen: list[Event] = []
    events: list[Event] = []
    stream = notifier.subscribe(LOGS, "0")
    for attempt in range(60):
        events += await fill(notifier, LOGS[attempt % 3])

        async def read() -> None:
            seen.append(await stream.next())

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            for _ in range(attempt % 12):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    with anyio.fail_after(5):
        while len(seen) < 60:
            seen.append(await stream.next())
    for user in LOGS:
        assert [e for e in seen if e.user == user] == [e for e in events if e.user == user]
    with anyio.move_on_after(0.02):
        await stream.next()
    await until(lambda: notifier.statistics().open_streams == 0)
    (event,) = await fill(notifier, "news")
    assert await stream.next(10) == event
    await stream.aclose()


async def test_now_is_fixed_though_the_first_next_is_cancelled(notifier: Notifier) -> None:
    """For every log, as soon as the store has answered."""
    await fill(notifier, *LOGS)
    stream = notifier.subscribe(LOGS)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.next()
    await until(lambda: notifier.statistics().open_streams == 0)
    events = await fill(notifier, *LOGS)
    assert sorted(event.user for event in await take(stream, 3)) == sorted(LOGS)
    assert stream.last_id == _token.encode((event.user, _token.Place(event.id)) for event in events)
    await stream.aclose()


async def test_break_and_forgetting_release(notifier: Notifier) -> None:
    """Leaving a bare loop, and dropping a stream that is live and idle, leave no log behind."""
    await fill(notifier, *LOGS)
    async for event in notifier.subscribe(LOGS, "0"):
        assert event.user == "alice"
        break
    await until(lambda: notifier.statistics().open_streams == 0)
    stream: Any = notifier.subscribe(LOGS)
    with pytest.raises(TimeoutError):
        await stream.next(0.02)
    assert notifier.statistics().users == 3
    del stream
    await anyio.lowlevel.checkpoint()
    gc.collect()
    assert notifier.statistics().open_streams == 0


async def test_presence_registers_every_log() -> None:
    """Each named user is present while the stream is open, and unless the stream is not tracked."""
    presence = MemoryPresence()
    async with Notifier(MemoryStore(), presence=presence, linger=0) as notifier:
        async with notifier.subscribe(LOGS) as stream:
            await stream.add("bob")
            assert set(presence.locate_nowait([*LOGS, "bob", "carol"])) == {*LOGS, "bob"}
            await stream.remove("news")
            assert set(presence.locate_nowait([*LOGS, "bob"])) == {"alice", "room:7", "bob"}
        assert presence.locate_nowait([*LOGS, "bob"]) == {}
        async with notifier.subscribe(LOGS, track=False):
            assert presence.locate_nowait(LOGS) == {}


@pytest.mark.parametrize("kind", [MemoryStore, PlainStore])
async def test_now_is_fixed_before_presence_is_ready(kind: Any) -> None:
    """Cancelled while presence is not ready, a stream from now on still begins there; also one of a single log."""
    gate = anyio.Event()

    class Slow(SlowPresence):
        async def _enter(self, name: str) -> None:
            if name == "register":
                await gate.wait()

    async with Notifier(kind(), presence=Slow(), poll_interval=60) as notifier:
        for logs in (LOGS, "bob"):
            stream: Any = notifier.subscribe(logs)
            with anyio.move_on_after(0.05):
                await stream.next()
            assert notifier.statistics().open_streams == 0
            event = await notifier.push(stream.user, "t")
            with pytest.raises(TimeoutError):
                await stream.next(0.02)
            gate.set()
            assert await stream.next(10) == event
            await stream.aclose()
            gate = anyio.Event()


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_it_ends_as_every_stream(notifier: Notifier) -> None:
    """By `aclose`, by one of its users being disconnected, and by time; a waiting reader is woken."""
    await fill(notifier, *LOGS)
    for end in ("aclose", "disconnect", "expired"):
        moment = datetime.now(UTC) + timedelta(hours=1) if end == "expired" else None
        stream = notifier.subscribe(LOGS, expires_at=moment)
        replaying = notifier.subscribe(LOGS, "0", expires_at=moment)
        ended = anyio.Event()

        async def read(stream: Any = stream, ended: anyio.Event = ended) -> None:
            async for event in stream:
                pytest.fail(f"{event} was not pushed")
            ended.set()

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await replaying.next(10)
            await anyio.wait_all_tasks_blocked()
            if end == "aclose":
                await stream.aclose()
                await replaying.aclose()
            elif end == "disconnect":
                await notifier.disconnect("room:7", "gone")
            else:
                notifier._streams.expiry.clock = lambda: time.time() + 3601
            with anyio.fail_after(20):
                await ended.wait()
        with pytest.raises(ClosedError) as caught:
            await replaying.next(10)
        if end != "aclose":
            assert isinstance(caught.value, DisconnectedError)
            assert caught.value.last_id == replaying.last_id
        assert "closed" in repr(stream)
    async with notifier.subscribe(LOGS) as later:
        await notifier.disconnect("bob")
        await later.add("bob")  # disconnected before, and read only since
        (event,) = await fill(notifier, "bob")
        assert await later.next(10) == event
        assert "open" in repr(later)
    assert "not attached" in repr(notifier.subscribe(LOGS))


async def test_a_reader_that_lags_is_ended() -> None:
    """`max_lag` counts the live events of all logs, a broadcast once."""
    async with Notifier(MemoryStore()) as notifier, notifier.subscribe(LOGS, max_lag=4) as stream:
        with pytest.raises(TimeoutError):
            await stream.next(0)
        await fill(notifier, *LOGS)
        await notifier.broadcast("b")
        await take(stream, 1)
        await fill(notifier, "alice")
        await take(stream, 4)
        await fill(notifier, *LOGS, *LOGS)
        with pytest.raises(SlowConsumerError) as caught:
            await stream.next(10)
        assert caught.value.last_id == stream.last_id


async def test_a_read_that_fails_while_opening_is_told() -> None:
    """Nothing stays attached, and the next call opens the stream; once open, it recovers by itself."""

    class Failing(PlainStore):
        broken = True

        async def read(self, user: str, after: str, limit: int) -> Page:
            if self.broken and user == "news":
                await anyio.sleep(0.01)
                raise OSError("away")
            return await super().read(user, after, limit)

        async def head(self, user: str) -> str:
            await self.read(user, "0", 1)
            return await super().head(user)

    store = Failing()
    async with Notifier(store, poll_interval=0.05) as notifier:
        for position in ("0", None):
            stream = notifier.subscribe(LOGS, position)
            with pytest.raises(BackendUnavailableError):
                await stream.next(5)
            assert notifier.statistics().open_streams == 0
            with anyio.move_on_after(0.001):
                await stream.next()
            await until(lambda: notifier.statistics().open_streams == 0)
            store.broken = False
            (event,) = await fill(notifier, "alice") if position else [None]
            if event is not None:
                assert await stream.next(10) == event
            await nothing(stream)
            store.broken = True
            await stream.aclose()
        store.broken = False
        async with notifier.subscribe(LOGS[:2]) as stream:
            store.broken = True
            stream.add("news")
            await nothing(stream)
            store.broken = False
            with anyio.fail_after(20):
                while "news" not in stream.last_id:
                    await nothing(stream)
            (event,) = await fill(notifier, "news")
            assert await stream.next(10) == event


@pytest.mark.parametrize("position", [None, "0"])
async def test_a_failure_is_not_hidden_by_a_page(position: str | None) -> None:
    """Where one log cannot be read, that the others can be read later does not leave the reader waiting."""
    gate = anyio.Event()

    class Halves(PlainStore):
        async def head(self, user: str) -> str:
            return (await self.read(user, "0", 1)).position

        async def read(self, user: str, after: str, limit: int) -> Page:
            if user == "alice":
                raise OSError("away")
            await gate.wait()
            return await super().read(user, after, limit)

    async with Notifier(Halves(), poll_interval=60) as notifier:
        stream: Any = notifier.subscribe(LOGS, position)
        assert stream._take_at_once() is None
        await until(lambda: stream._failure is not None)
        gate.set()
        await until(lambda: notifier._live._hub.reads_in_flight == 0)
        with pytest.raises(BackendUnavailableError), anyio.fail_after(20):
            await stream.next()
        assert notifier.statistics().open_streams == 0


async def test_a_page_read_ahead_waits_its_turn() -> None:
    """While one log is being read, another one's next page may have arrived: nothing is handed out or lost."""
    gate = anyio.Event()

    class Gated(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            if user == "news":
                await gate.wait()
            return await super().read(user, after, limit)

    async with Notifier(Gated(), poll_interval=60) as notifier:
        events = await fill(notifier, *["alice"] * 900, "news")
        stream: Any = notifier.subscribe(LOGS, "0")
        with pytest.raises(TimeoutError):
            await stream.next(0.1)
        await until(lambda: len(stream._shared.arrived) == 1)
        with pytest.raises(TimeoutError):
            await stream.next(0)
        assert "open" in repr(stream)
        gate.set()
        assert await take(stream, 901) == events
        await stream.aclose()


@pytest.mark.parametrize("step", ["position", "presence"])
async def test_it_ends_while_it_opens(step: str) -> None:
    """A reader that waits for the first positions, or for presence, is woken when the stream is closed."""
    gate = anyio.Event()

    class Slow(SlowPresence):
        async def _enter(self, name: str) -> None:
            if name == "register":
                await gate.wait()

    class Gated(PlainStore):
        async def head(self, user: str) -> str:
            if step == "position":
                await gate.wait()
            return await super().head(user)

    async with Notifier(Gated(), presence=Slow(), poll_interval=60) as notifier:
        for enter in (False, True):
            stream: Any = notifier.subscribe(LOGS)
            ended = anyio.Event()

            async def read(stream: Any = stream, enter: bool = enter, ended: anyio.Event = ended) -> None:
                with pytest.raises(ClosedError):
                    await (stream.__aenter__() if enter else stream.next())
                ended.set()

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await until(lambda: notifier.statistics().open_streams == 1)
                await anyio.wait_all_tasks_blocked()
                await stream.aclose()
                await anyio.wait_all_tasks_blocked()
                assert ended.is_set()
        gate.set()


async def test_closing_the_store_ends_it() -> None:
    """A read that finds the store closed ends the stream for good."""
    store = MemoryStreamStore()
    async with Notifier(store) as notifier, notifier.subscribe(LOGS) as stream:
        await store.aclose()
        with pytest.raises(ClosedError):
            await stream.next(10)
        with pytest.raises(ClosedError):
            notifier.subscribe(LOGS)


async def test_streams_of_a_foreign_store_read_one_log() -> None:
    """A store whose streams are its own cannot merge them, and says so."""
    async with Notifier(OwnStreamStore()) as notifier:
        with pytest.raises(UsageError, match="several logs"):
            notifier.subscribe(LOGS)


async def test_it_is_a_merged_stream() -> None:
    """By the protocol; and a stream of one log is not."""
    async with Notifier(MemoryStore()) as notifier:
        assert isinstance(notifier.subscribe(LOGS), MergedStream)
        assert not isinstance(notifier.subscribe("alice"), MergedStream)
        assert ids.is_id(notifier.subscribe(["alice"], "0-0").last_id)


async def test_a_time_that_has_passed_opens_nothing() -> None:
    """Nor does a store that is closed under an open stream which only asks for what is there."""
    store = MemoryStore()
    async with Notifier(store) as notifier:
        past = datetime.now(UTC) - timedelta(seconds=1)
        for timeout in (0, 1):
            with pytest.raises(DisconnectedError):
                await notifier.subscribe(LOGS, "0", expires_at=past).next(timeout)
        async with notifier.subscribe(LOGS) as stream:
            await store.aclose()
            with pytest.raises(ClosedError):
                await stream.next(0)
            assert notifier.statistics().open_streams == 0


async def test_an_event_that_comes_while_presence_is_awaited() -> None:
    """It is yielded once, although the log is read again when presence is ready."""
    gate = anyio.Event()

    class Slow(SlowPresence):
        async def _enter(self, name: str) -> None:
            if name == "register":
                await gate.wait()

    async with Notifier(PlainStore(), presence=Slow(), poll_interval=60) as notifier:
        stream = notifier.subscribe(LOGS)
        got: list[Event] = []

        async def read() -> None:
            got.append(await stream.next())

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await until(lambda: notifier.statistics().open_streams == 1)
            await anyio.wait_all_tasks_blocked()
            (event,) = await fill(notifier, "news")
            stream.add("late", "0")
            gate.set()
        assert got == [event]
        await nothing(stream)
        await stream.aclose()


async def test_removing_a_log_drops_what_it_had_to_say(notifier: Notifier) -> None:
    """Events that were offered and not read yet go with their log; those of the other logs stay."""
    async with notifier.subscribe(LOGS) as stream:
        await nothing(stream)
        await fill(notifier, "news")
        (event,) = await fill(notifier, "alice")
        await stream.remove("news")
        assert await stream.next(10) == event
        await nothing(stream)


async def test_polling_finds_what_a_resync_tells_to_read() -> None:
    """On a store that answers at once, in the same call."""
    store = MemoryStore()
    async with Notifier(store, poll_interval=60) as notifier, notifier.subscribe(LOGS) as stream:
        await nothing(stream)
        saved = store.save_nowait(Event("news", "t"))
        notifier._live.resync("news")
        assert await stream.next(0) == saved


async def test_polling_while_the_first_positions_are_read() -> None:
    """A poll after a cancelled call joins the reads that are under way: each position is read once."""
    gate = anyio.Event()

    class Slow(SlowPresence):
        async def _enter(self, name: str) -> None:
            if name == "register":
                await gate.wait()

    class Gated(PlainStore):
        async def head(self, user: str) -> str:
            self.calls.append(f"head {user}")
            await gate.wait()
            return self.inner.head_nowait(user)

    store = Gated()
    async with Notifier(store, presence=Slow(), poll_interval=60) as notifier:
        stream = notifier.subscribe(LOGS)
        with anyio.move_on_after(0.02):
            await stream.next()
        with pytest.raises(TimeoutError):
            await stream.next(0)
        gate.set()
        await nothing(stream)
        assert sorted(call for call in store.calls if call.startswith("head ")) == sorted(f"head {u}" for u in LOGS)
        (event,) = await fill(notifier, "news")
        assert await stream.next(10) == event
        await stream.aclose()


async def test_a_page_that_cannot_be_read_ahead_is_read_in_its_turn() -> None:
    """A failure while the stream opens is told only if the reader has to wait for that page."""
    gate = anyio.Event()
    failures = 0

    class Gated(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            nonlocal failures
            if user == "news":
                await gate.wait()
            elif after != ids.ZERO and not gate.is_set():
                failures += 1
                raise OSError("away")
            return await super().read(user, after, limit)

    async with Notifier(Gated(), poll_interval=60) as notifier:
        events = await fill(notifier, *["alice"] * 600, "news")
        stream = notifier.subscribe(["alice", "news"], "0")
        with pytest.raises(TimeoutError):
            await stream.next(0.05)
        await until(lambda: failures)
        gate.set()
        assert await take(stream, 601) == events
        await stream.aclose()


def in_a_cycle(stream: Any) -> list[Any]:
    """Only the garbage collector finds it: unlike a count of references, it clears the weak ones before `__del__`."""
    cycle = [stream]
    cycle.append(cycle)
    return [cycle]


def drop_in_a_thread(streams: list[Any]) -> None:
    """Let the stream be collected where it cannot be closed: its event loop is told, and closes it soon."""
    streams.clear()
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()


async def test_a_stream_that_is_dropped_in_a_thread_is_woken_no_more() -> None:
    """Until the event loop closes it, its logs are still in the fan-out: they are asked to wake it, and do not."""
    async with Notifier(MemoryStore(), poll_interval=60) as notifier:
        streams = in_a_cycle(notifier.subscribe(LOGS))
        with pytest.raises(TimeoutError):
            await streams[0][0].next(0.02)
        await anyio.sleep(0.01)  # until the event loop has let go of the cancelled call
        drop_in_a_thread(streams)
        notifier._live._hub.wake_ended()
        await until(lambda: notifier.statistics().open_streams == 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_page_for_a_stream_that_was_dropped_is_nobodys(fails: bool) -> None:
    """It arrives after the stream was dropped in a thread, and before the event loop has closed it."""
    streams: list[Any] = []
    gate = anyio.Event()

    class Dropping(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            await gate.wait()
            drop_in_a_thread(streams)
            if fails:
                raise OSError("away")
            return self.inner.read_nowait(user, after, limit)

    async with Notifier(Dropping(), poll_interval=60) as notifier:
        streams += in_a_cycle(notifier.subscribe(LOGS, "0"))
        with pytest.raises(TimeoutError):
            await streams[0][0].next(0.02)
        logs = [*streams[0][0]._logs.values()]  # as the read holds them while it hands out its page
        await anyio.sleep(0.01)  # until the event loop has let go of the cancelled call
        assert notifier.statistics().open_streams == 1
        gate.set()
        await until(lambda: notifier.statistics().open_streams == 0)
        await until(lambda: notifier._live._hub.reads_in_flight == 0)
        assert not any(log.is_reading or log.streams for log in logs)
