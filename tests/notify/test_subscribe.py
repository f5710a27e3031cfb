"""`subscribe`: positions, opening, closing, cancellation, gaps, signals, slow readers - whatever the store can do."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import (
    BackendUnavailableError,
    Background,
    ClosedError,
    Event,
    Gap,
    InvalidEventError,
    InvalidEventIdError,
    LiveLog,
    Notifier,
    Page,
    SlowConsumerError,
    Stream,
    UsageError,
    ids,
)
from notify._stream import _hub, _reads
from notify_memory import MemoryStore, MemoryStreamStore
from tests.parts import BatchStore, PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


KINDS: dict[str, Callable[[MemoryStore], Any]] = {
    "memory": lambda inner: inner,
    "no abilities": PlainStore,
    "batches": BatchStore,
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> MemoryStore:
    return MemoryStore(max_len=2000, max_age=3600, clock=clock)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, memory: MemoryStore) -> Any:
    return KINDS[request.param](memory)


@pytest.fixture
async def notifier(store: Any) -> AsyncIterator[Notifier]:
    async with Notifier(store=store, poll_interval=0.05) as notifier:
        yield notifier
        await until(lambda: notifier.statistics().open_streams == 0)


async def push(notifier: Notifier, *payloads: Any) -> list[Event]:
    events = [await notifier.push("alice", "t", payload) for payload in payloads]
    return [event for event in events if event is not None]


async def take(stream: Stream, count: int) -> list[Any]:
    return [(await stream.next(10)).payload for _ in range(count)]


async def nothing(stream: Stream) -> None:
    with pytest.raises(TimeoutError):
        await stream.next(0.03)


# -- positions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [None, ""])
async def test_no_position_means_from_now_on(notifier: Notifier, position: Any) -> None:
    """Without a position nothing pushed before is yielded, and everything pushed after entering is."""
    await push(notifier, 1, 2)
    async with notifier.subscribe("alice", position) as stream:
        await push(notifier, 3)
        assert await take(stream, 1) == [3]
        await nothing(stream)


async def test_no_position_is_fixed_at_the_first_next(notifier: Notifier) -> None:
    """Without `async with` the position is fixed at the first `next`, and then stays."""
    await push(notifier, 1)
    stream = notifier.subscribe("alice")
    assert stream.last_id == ""
    await nothing(stream)
    (event,) = await push(notifier, 2)
    assert await stream.next(10) == event
    assert stream.last_id == event.id
    await stream.aclose()


async def test_zero_means_everything_retained(notifier: Notifier, memory: MemoryStore) -> None:
    """From "0" everything retained comes, in order, then live; what was trimmed before is no gap."""
    events = await push(notifier, 1, 2, 3)
    await memory.trim(events[1].id)
    async with notifier.subscribe("alice", "0", signals=True) as stream:
        await push(notifier, 4)
        types = [(await stream.next(10)).type for _ in range(4)]
    assert types[:3].count("t") >= 2
    assert stream.gaps == ()


async def test_from_an_id_everything_after_it(notifier: Notifier) -> None:
    """From an id only what is after it comes; from the last id nothing does."""
    events = await push(notifier, 1, 2, 3)
    async with notifier.subscribe("alice", events[0].id) as stream:
        assert await take(stream, 2) == [2, 3]
        await nothing(stream)
    ms, sequence = ids.parse(events[2].id)
    async with notifier.subscribe("alice", f"00{ms}-0{sequence}") as stream:  # the same id, spelled with zeros
        await nothing(stream)
        assert stream.last_id == events[2].id
        assert stream.gaps == ()


async def test_from_a_time_everything_since_then(notifier: Notifier, clock: Clock) -> None:
    """From a datetime everything pushed at or after it comes, and a time between two events is no gap."""
    await push(notifier, 1)
    clock.now += 60
    noon = datetime.fromtimestamp(clock.now, UTC)
    await push(notifier, 2, 3)
    for moment in (noon, noon - timedelta(seconds=30), noon.astimezone()):
        async with notifier.subscribe("alice", moment) as stream:
            assert await take(stream, 2) == [2, 3]
            assert stream.gaps == ()
    async with notifier.subscribe("alice", noon + timedelta(days=1)) as stream:
        await nothing(stream)
        await push(notifier, 4)
        assert await take(stream, 1) == [4]
    async with notifier.subscribe("bob", noon) as stream:
        await nothing(stream)
        assert stream.gaps == ()


async def test_a_time_whose_events_were_trimmed_is_a_gap(notifier: Notifier, clock: Clock, memory: MemoryStore) -> None:
    """From a datetime whose events are partly or wholly gone, the gap is reported."""
    since = datetime.fromtimestamp(clock.now, UTC)
    clock.now += 1
    events = await push(notifier, 1, 2)
    await memory.trim(events[1].id)
    async with notifier.subscribe("alice", since) as stream:
        assert await take(stream, 1) == [2]
        assert [gap.reason for gap in stream.gaps] == ["trimmed"]
    clock.now += 3601
    async with notifier.subscribe("alice", since) as stream:
        await nothing(stream)
        assert [gap.reason for gap in stream.gaps] == ["expired"]


@pytest.mark.parametrize(
    "garbage",
    ["x", "1", "-1", "1-", "-", "1-2-3", "1.0-0", " 1-0", "1-0\n", "0x1-0", "٣-٤", "1-+2", "null", f"{2**64}-0",
     "1" * 5000, f"0-{2**64}", 7, b"1-0", ("1", "0"), datetime(2026, 1, 1), datetime(1969, 1, 1, tzinfo=UTC)],
)  # fmt: skip
async def test_garbage_is_no_position(notifier: Notifier, garbage: Any) -> None:
    """A position that is no id, id-like text out of range, or a time without a zone raises InvalidEventIdError."""
    with pytest.raises(InvalidEventIdError):
        notifier.subscribe("alice", garbage)


async def test_a_bad_user_is_refused(notifier: Notifier) -> None:
    """Subscribing to what is no user id raises InvalidEventError."""
    with pytest.raises(InvalidEventError):
        notifier.subscribe("")


# -- gaps and signals ----------------------------------------------------------------------------------------------


async def test_trimmed_past_the_position(notifier: Notifier, memory: MemoryStore) -> None:
    """Resuming before what is retained yields one gap `trimmed` with both positions, then what is left, then sync."""
    events = await push(notifier, 1, 2, 3, 4)
    await memory.trim(events[2].id)
    async with notifier.subscribe("alice", events[0].id, signals=True) as stream:
        gap = await stream.next(10)
        assert gap.type == "notify.gap"
        assert gap.payload == {"reason": "trimmed", "from": events[0].id, "to": events[1].id}
        assert gap.id == stream.last_id == events[1].id
        assert await take(stream, 2) == [3, 4]
        sync = await stream.next(10)
        assert (sync.type, sync.id) == ("notify.sync", events[3].id)
        await push(notifier, 5)
        assert await take(stream, 1) == [5]
    assert stream.gaps == (Gap("trimmed", events[0].id, events[1].id),)
    assert notifier.statistics().gaps == {"trimmed": 1}


async def test_without_signals_a_gap_is_an_attribute(notifier: Notifier, memory: MemoryStore) -> None:
    """Without signals the same gap is only counted, and only events are yielded."""
    events = await push(notifier, 1, 2, 3)
    await memory.trim(events[2].id)
    async with notifier.subscribe("alice", events[0].id) as stream:
        assert await take(stream, 1) == [3]
        assert [gap.reason for gap in stream.gaps] == ["trimmed"]


async def test_everything_trimmed_is_a_gap_but_being_up_to_date_is_not(notifier: Notifier, memory: MemoryStore) -> None:
    """With all events trimmed, who had seen them all resumes without a gap; who had not gets one, then live events."""
    events = await push(notifier, 1, 2)
    await memory.trim(ids.format(ids.parse(events[1].id)[0] + 1, 0))
    async with (
        notifier.subscribe("alice", events[1].id) as current,
        notifier.subscribe("alice", events[0].id) as behind,
    ):
        await push(notifier, 3)
        assert await take(current, 1) == await take(behind, 1) == [3]
        assert (current.gaps, [gap.reason for gap in behind.gaps]) == ((), ["trimmed"])


async def test_expired_by_age(notifier: Notifier, clock: Clock) -> None:
    """When retention by age removed everything after the position, the gap says `expired`; live goes on."""
    events = await push(notifier, 1, 2)
    clock.now += 3601
    async with notifier.subscribe("alice", events[0].id) as stream:
        await push(notifier, 3)
        assert await take(stream, 1) == [3]
        assert [gap.reason for gap in stream.gaps] == ["expired"]


async def test_a_forgotten_log_is_expired(notifier: Notifier) -> None:
    """A position in a log that no longer exists, as after a restart of a memory store, is `expired`."""
    async with notifier.subscribe("alice", "5-5", signals=True) as stream:
        assert (await stream.next(10)).payload == {"reason": "expired", "from": "5-5", "to": "0"}
        assert (await stream.next(10)).type == "notify.sync"
        await push(notifier, 1)
        assert await take(stream, 1) == [1]


async def test_ahead_of_the_log_is_rewound(notifier: Notifier) -> None:
    """Resuming from an id ahead of the log gives `rewound`, then everything that is left, then live."""
    events = await push(notifier, 1, 2)
    ahead = ids.format(ids.parse(events[1].id)[0] + 10**9, 7)
    async with notifier.subscribe("alice", ahead, signals=True) as stream:
        assert (await stream.next(10)).payload == {"reason": "rewound", "from": ahead, "to": "0"}
        assert await take(stream, 2) == [1, 2]
        assert (await stream.next(10)).type == "notify.sync"
        await push(notifier, 3)
        assert await take(stream, 1) == [3]
    async with notifier.subscribe("alice", ahead) as stream:
        assert await take(stream, 3) == [1, 2, 3]


async def test_an_id_the_log_never_held(notifier: Notifier, clock: Clock) -> None:
    """Resuming from an unknown id inside the log's range says `rewound` and gives only later events."""
    await push(notifier, 1)
    clock.now += 10
    (later,) = await push(notifier, 2)
    between = ids.format(ids.parse(later.id)[0] - 5000, 3)
    async with notifier.subscribe("alice", between) as stream:
        assert await take(stream, 1) == [2]
        assert [gap.reason for gap in stream.gaps] == ["rewound"]


async def test_a_log_that_lost_its_tail_under_a_live_stream(memory: MemoryStore, clock: Clock) -> None:
    """A live stream whose log is replaced by an older copy reports `rewound` and repeats nothing."""
    older = MemoryStore(clock=clock)

    class Restored(PlainStore):
        """Shows the older copy once told to."""

    store = Restored(memory)
    async with Notifier(store=store, poll_interval=0.05) as notifier:
        async with notifier.subscribe("alice", "0", signals=True) as stream:
            await older.save(Event("alice", "t", 1))
            await push(notifier, 1, 2, 3)
            clock.now += 1
            assert [(await stream.next(10)).type for _ in range(4)].count("t") == 3
            last = stream.last_id
            store.inner = older
            gap = await stream.next(10)
            assert gap.payload == {"reason": "rewound", "from": last, "to": await older.head("alice")}
            await push(notifier, 4)
            assert await take(stream, 1) == [4]


async def test_sync_comes_once_and_first_on_an_empty_replay(notifier: Notifier) -> None:
    """With signals a stream without backlog yields `notify.sync` first, and never again."""
    async with notifier.subscribe("alice", signals=True) as stream:
        assert (await stream.next(10)).type == "notify.sync"
        await push(notifier, 1)
        assert await take(stream, 1) == [1]
        await nothing(stream)


async def test_only_the_latest_gaps_are_kept() -> None:
    """A stream that meets gap after gap keeps sixteen of them."""
    memory = MemoryStore(max_len=1)
    async with Notifier(store=memory, buffer_size=1) as notifier, notifier.subscribe("alice", "0") as stream:
        for n in range(20):
            await push(notifier, *range(3))
            assert await take(stream, 1) == [2], n
        assert len(stream.gaps) == 16


# -- replay --------------------------------------------------------------------------------------------------------


async def test_a_backlog_of_many_pages_then_live(notifier: Notifier) -> None:
    """A backlog larger than a page and than any buffer comes whole, in order, then what was pushed during replay."""
    await push(notifier, *range(1234))
    async with notifier.subscribe("alice", "0") as stream:
        first = await take(stream, 1)
        await push(notifier, *range(1234, 1240))
        assert first + await take(stream, 1239) == list(range(1240))
        await nothing(stream)


async def test_fifty_streams_of_one_user_read_the_log_once_for_each_page(memory: MemoryStore) -> None:
    """Streams that resume from the same position at once share the reads of a store that has to be waited for."""
    store = PlainStore(memory)
    async with Notifier(store=store, poll_interval=60) as notifier:
        await push(notifier, *range(10))
        streams = [notifier.subscribe("alice", "0") for _ in range(50)]
        store.calls.clear()
        async with anyio.create_task_group() as group:
            for stream in streams:
                group.start_soon(take, stream, 10)
        assert store.calls.count("read") == 1
        for stream in streams:
            await stream.aclose()


async def test_reads_under_way_are_bounded(memory: MemoryStore) -> None:
    """Three hundred users who reconnect at once have at most 32 reads under way, and all catch up."""
    running = peak = 0

    class Counting(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            try:
                await anyio.sleep(0.001)
                return await super().read(user, after, limit)
            finally:
                running -= 1

    async with Notifier(store=Counting(memory), poll_interval=60) as notifier:
        users = [f"u{n}" for n in range(300)]
        await notifier.push_many(users, "t", 1)
        async with anyio.create_task_group() as group:
            for user in users:
                group.start_soon(take, notifier.subscribe(user, "0"), 1)
    assert peak == 32


# -- opening -------------------------------------------------------------------------------------------------------


class Unreadable(PlainStore):
    """Fails to read while `broken`."""

    broken = True

    async def _enter(self, name: str) -> None:
        await super()._enter(name)
        if self.broken and name != "save":
            raise OSError("unreachable")


class UnreadableNow(MemoryStore):
    """The same at once."""

    broken = True

    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        if self.broken:
            raise BackendUnavailableError("unreachable")
        return super().read_nowait(user, after, limit)


@pytest.mark.parametrize("kind", [Unreadable, UnreadableNow])
@pytest.mark.parametrize("entered", [True, False])
async def test_a_stream_that_cannot_be_opened_says_so_and_leaves_nothing(kind: Any, entered: bool) -> None:
    """If the first read fails, entering (or the first `next`) raises BackendUnavailableError; nothing is left."""
    store = kind()
    async with Notifier(store=store) as notifier:
        stream = notifier.subscribe("alice", "0")
        with pytest.raises(BackendUnavailableError) as caught:
            await (stream.__aenter__() if entered else stream.next(2))
        if kind is Unreadable:
            assert isinstance(caught.value.__cause__, OSError)
        assert notifier.statistics().open_streams == notifier.statistics().users == 0
        store.broken = False
        await push(notifier, 1)
        if entered:
            stream = notifier.subscribe("alice", "0")
        assert await take(stream, 1) == [1]
        await stream.aclose()


async def test_an_open_stream_heals_by_itself() -> None:
    """Once open, a stream outlives reads that fail: it tries again and the reader sees no error."""
    store = Unreadable()
    store.broken = False
    async with (
        Notifier(store=store, buffer_size=2, poll_interval=0.05) as notifier,
        notifier.subscribe("alice", "0") as stream,
    ):
        store.broken = True
        await push(notifier, *range(6))
        await nothing(stream)
        await until(lambda: notifier.statistics().read_failures > 1)
        store.broken = False
        assert await take(stream, 6) == list(range(6))


async def test_a_read_that_hangs_counts_as_failed() -> None:
    """A store that does not answer a read within `timeout` cannot open a stream; close is prompt all the same."""

    class Hanging(PlainStore):
        async def _enter(self, name: str) -> None:
            await anyio.sleep_forever()

    async with Notifier(store=Hanging(), timeout=0.05) as notifier:
        with pytest.raises(BackendUnavailableError):
            async with notifier.subscribe("alice", "0"):
                pytest.fail("it cannot open")


async def test_closing_wakes_a_stream_that_waits_for_a_page() -> None:
    """A reader that waits for a page of a hung store is woken by `aclose` at once, and by closing the notifier too."""
    gate = anyio.Event()

    class Hanging(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            await gate.wait()
            return await super().read(user, after, limit)

    notifier = Notifier(store=Hanging(), timeout=60)
    streams = [notifier.subscribe("alice", "0") for _ in range(2)]
    ended: list[str] = []

    async def read(index: int) -> None:
        with pytest.raises(ClosedError):
            await streams[index].next()
        ended.append(str(index))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(read, 0)
            group.start_soon(read, 1)
            await until(lambda: notifier.statistics().open_streams == 2)
            await streams[0].aclose()
            await until(lambda: ended == ["0"])
            await notifier.aclose()
    assert ended == ["0", "1"]


async def test_cancelling_while_opening(memory: MemoryStore) -> None:
    """A `next` cancelled while its stream was opening loses nothing; an `async with` cancelled there leaves nothing."""
    gate = anyio.Event()

    class Gated(PlainStore):
        async def head(self, user: str) -> str:
            await gate.wait()
            return await super().head(user)

    async with Notifier(store=Gated(memory), poll_interval=60) as notifier:
        stream = notifier.subscribe("alice")
        await nothing(stream)
        with anyio.move_on_after(0.02):
            async with notifier.subscribe("alice"):
                pytest.fail("it cannot open")
        assert notifier.statistics().open_streams == 1
        await push(notifier, 1)
        gate.set()
        await nothing(stream)  # its position became fixed after the push
        await push(notifier, 2)
        assert await take(stream, 1) == [2]
        await stream.aclose()


async def test_an_older_answer_does_not_move_a_newer_stream_back(memory: MemoryStore) -> None:
    """A stream entered after a push does not yield it, although an older question for the log's end was under way."""
    gate = anyio.Event()

    class Gated(PlainStore):
        async def head(self, user: str) -> str:
            head = await super().head(user)
            await gate.wait()
            return head

    async with Notifier(store=Gated(memory), poll_interval=60) as notifier, anyio.create_task_group() as group:
        early, late = notifier.subscribe("alice"), notifier.subscribe("alice")
        group.start_soon(early.__aenter__)
        await anyio.wait_all_tasks_blocked()
        await push(notifier, 1)
        group.start_soon(late.__aenter__)
        await anyio.wait_all_tasks_blocked()
        gate.set()
        await until(lambda: early.last_id and late.last_id)
        await push(notifier, 2)
        assert await take(early, 2) == [1, 2]
        assert await take(late, 1) == [2]
        await early.aclose()
        await late.aclose()


async def test_a_page_read_earlier_does_not_hide_a_later_event(memory: MemoryStore) -> None:
    """A stream does not share a read that began before an event which was offered before the stream came."""
    gate = anyio.Event()

    class Gated(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            page = await super().read(user, after, limit)
            await gate.wait()
            return page

    async with Notifier(store=Gated(memory), poll_interval=60) as notifier, anyio.create_task_group() as group:
        early, late = notifier.subscribe("alice", "0"), notifier.subscribe("alice", "0")
        group.start_soon(early.__aenter__)
        await anyio.wait_all_tasks_blocked()
        await push(notifier, 1)
        group.start_soon(late.__aenter__)
        await anyio.wait_all_tasks_blocked()
        gate.set()
        await anyio.wait_all_tasks_blocked()
        assert await take(late, 1) == await take(early, 1) == [1]
        await early.aclose()
        await late.aclose()


# -- lifetime ------------------------------------------------------------------------------------------------------


async def test_break_releases_the_stream_at_once(notifier: Notifier) -> None:
    """Leaving a bare `async for` with break leaves no registry entry."""
    await push(notifier, 1)
    async for event in notifier.subscribe("alice", "0"):
        assert event.payload == 1
        assert notifier.statistics().open_streams == 1
        break
    assert notifier.statistics().open_streams == notifier.statistics().users == 0


async def test_a_forgotten_stream_is_released(notifier: Notifier) -> None:
    """Dropping the last reference to a stream releases it, waiting for a page or not."""
    stream: Stream | None = notifier.subscribe("alice", "0")
    assert stream is not None
    await nothing(stream)
    assert notifier.statistics().open_streams == 1
    stream = None
    await anyio.lowlevel.checkpoint()  # until the task's next step asyncio itself holds the exception of the last one
    gc.collect()
    assert notifier.statistics().open_streams == 0


@pytest.mark.parametrize("buffered", [False, True])
async def test_after_close_next_always_raises(notifier: Notifier, buffered: bool) -> None:
    """After close every `next` raises ClosedError, whatever was waiting to be read; closing twice is harmless."""
    async with notifier.subscribe("alice", "0") as stream:
        if buffered:
            await push(notifier, 1, 2, 3)
            assert await take(stream, 1) == [1]
        await stream.aclose()
        await stream.aclose()
        for _ in range(3):
            with pytest.raises(ClosedError):
                await stream.next()
        assert [event async for event in stream] == []
        with pytest.raises(ClosedError):
            await stream.__aenter__()


async def test_close_wakes_a_blocked_next(notifier: Notifier) -> None:
    """A blocked `next` raises ClosedError as soon as its stream is closed; a blocked `async for` just ends."""
    for wait in ("next", "for"):
        stream = notifier.subscribe("alice")
        ended = anyio.Event()

        async def read(stream: Stream = stream, wait: str = wait, ended: anyio.Event = ended) -> None:
            if wait == "next":
                with pytest.raises(ClosedError):
                    await stream.next()
            else:
                async for _ in stream:
                    pytest.fail("nothing was pushed")
            ended.set()

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await until(lambda: notifier.statistics().open_streams == 1)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
            await anyio.wait_all_tasks_blocked()
            assert ended.is_set()


async def test_a_deadline_on_next(notifier: Notifier) -> None:
    """`next` with a timeout ends in time; the next one returns the next event, none lost, none repeated."""
    async with notifier.subscribe("alice") as stream:
        for n in range(5):
            with anyio.fail_after(20), pytest.raises(TimeoutError):
                await stream.next(0.02)
            await push(notifier, n)
            assert await take(stream, 1) == [n]
        with pytest.raises(TimeoutError):
            await stream.next(0)


async def test_two_readers_on_one_stream(notifier: Notifier) -> None:
    """The second reader gets a usage error; the first one is not disturbed."""
    async with notifier.subscribe("alice") as stream, anyio.create_task_group() as group:
        got: list[Any] = []

        async def read() -> None:
            got.extend(await take(stream, 1))

        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(UsageError):
            await stream.next()
        await push(notifier, 1)
        await until(lambda: got == [1])


async def test_two_readers_while_opening(memory: MemoryStore) -> None:
    """The same while the first one waits for the stream to open."""
    gate = anyio.Event()

    class Gated(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            await gate.wait()
            return await super().read(user, after, limit)

    async with Notifier(store=Gated(memory)) as notifier, anyio.create_task_group() as group:
        stream = notifier.subscribe("alice", "0")
        await push(notifier, 1)
        group.start_soon(take, stream, 1)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(UsageError):
            await stream.next()
        with pytest.raises(UsageError):
            await stream.__aenter__()
        gate.set()


async def test_closing_the_notifier_ends_every_stream(store: Any) -> None:
    """Closing the notifier ends waiting and idle streams, its gauge reads 0, and closing twice is harmless."""
    notifier = Notifier(store=store)
    waiting, idle = notifier.subscribe("alice"), notifier.subscribe("bob")
    await idle.__aenter__()
    ended = anyio.Event()

    async def read() -> None:
        async for _ in waiting:
            pytest.fail("nothing was pushed")
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await until(lambda: notifier.statistics().open_streams == 2)
        await notifier.aclose()
        await notifier.aclose()
        with anyio.fail_after(20):
            await ended.wait()
    with pytest.raises(ClosedError):
        await idle.next()
    assert notifier.statistics().open_streams == notifier.statistics().users == 0


async def test_closing_races_subscribing(store: Any) -> None:
    """Streams that open while the notifier closes end too: none stays registered, none waits for ever."""
    for _ in range(20):
        notifier = Notifier(store=store)

        async def use(notifier: Notifier = notifier) -> None:
            try:
                async with notifier.subscribe("alice", "0") as stream:
                    await stream.next()
            except ClosedError:
                pass

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(use)
                group.start_soon(notifier.aclose)
        assert notifier.statistics().open_streams == notifier.statistics().users == 0


async def test_closing_the_store_ends_the_streams() -> None:
    """When a stream store is closed under it, the loop ends and `next` raises ClosedError."""
    store = MemoryStreamStore()
    async with Notifier(store=store) as notifier, notifier.subscribe("alice") as stream:
        await store.aclose()
        assert [event async for event in stream] == []
        with pytest.raises(ClosedError):
            await stream.next()


async def test_a_plain_store_closed_under_a_stream(memory: MemoryStore) -> None:
    """When a plain store is closed under a stream that needs it, the loop ends; opening one raises ClosedError."""
    store = PlainStore(memory)
    async with Notifier(store=store, buffer_size=1) as notifier:
        async with notifier.subscribe("alice") as stream:
            await push(notifier, 1, 2, 3)
            await store.aclose()
            with anyio.fail_after(2):
                assert [event.payload async for event in stream] == []
        with pytest.raises(ClosedError):
            async with notifier.subscribe("alice"):
                pytest.fail("it cannot open")


async def test_the_task_that_subscribed_may_end(notifier: Notifier) -> None:
    """A stream outlives the task that opened it."""
    streams: list[Stream] = []

    async def open_one() -> None:
        streams.append(await notifier.subscribe("alice").__aenter__())

    async with anyio.create_task_group() as group:
        group.start_soon(open_one)
    await push(notifier, 1)
    assert await take(streams[0], 1) == [1]
    await streams[0].aclose()


async def test_waiting_streams_can_leave_in_any_order(notifier: Notifier) -> None:
    """Cancelling some of many waiting readers of a user leaves the others waiting, and each gets the next push once."""
    got: list[int] = []

    async def read(index: int, scope: anyio.CancelScope) -> None:
        with scope:
            async for event in notifier.subscribe("alice"):
                got.append(index)
                assert event.payload == 1
                break

    scopes = [anyio.CancelScope() for _ in range(30)]
    async with anyio.create_task_group() as group:
        for index, scope in enumerate(scopes):
            group.start_soon(read, index, scope)
        await until(lambda: notifier.statistics().open_streams == 30)
        await anyio.wait_all_tasks_blocked()
        for index in [29, 0, 5, 28, 6, 1, 15]:
            scopes[index].cancel()
        await until(lambda: notifier.statistics().open_streams == 23)
        await push(notifier, 1)
    assert sorted(got) == [n for n in range(30) if n not in {29, 0, 5, 28, 6, 1, 15}]


# -- slow readers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logs", ["alice", ["alice", "bob"]])
async def test_a_reader_that_fell_behind_reads_once(logs: Any) -> None:
    """Events that arrive while it reads, up to as many as its buffer holds, cost no further read: it is live again."""
    gate = anyio.Event()
    reads: list[str] = []

    class Slow(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            reads.append(user)
            page = await super().read(user, after, limit)
            await gate.wait()
            return page

    async with Notifier(Slow(), buffer_size=3, poll_interval=3600) as notifier, notifier.subscribe(logs) as stream:
        await nothing(stream)
        reads.clear()
        await push(notifier, *range(10))
        async with anyio.create_task_group() as tasks:
            got: list[Any] = []

            async def read() -> None:
                got.extend(await take(stream, 13))

            tasks.start_soon(read)
            await until(lambda: reads)
            await anyio.wait_all_tasks_blocked()
            await push(notifier, *range(10, 13))
            gate.set()
        assert got == list(range(13))
        assert reads == ["alice"]


async def test_a_paused_reader_loses_only_ephemeral_events(store: Any) -> None:
    """With a buffer of 4 and 10 ephemeral pushes the reader who was away has lost 6; the newest 4 come."""
    async with Notifier(store=store, buffer_size=4) as notifier, notifier.subscribe("alice") as stream:
        for n in range(10):
            await notifier.push("alice", "typing", n, ephemeral=True)
        assert stream.dropped == 6
        assert await take(stream, 4) == [6, 7, 8, 9]
        assert stream.dropped == 6
        await nothing(stream)
        await stream.aclose()
        assert stream.dropped == notifier.statistics().dropped == 6


async def test_without_a_store_a_paused_reader_loses_what_the_buffer_cannot_hold() -> None:
    """Without a store the same holds for every event; push never blocks."""
    async with Notifier(buffer_size=4) as notifier, notifier.subscribe("alice") as stream:
        await push(notifier, *range(10))
        assert stream.dropped == 6
        assert await take(stream, 4) == [6, 7, 8, 9]
        assert stream.dropped == 6


async def test_with_a_store_a_paused_reader_loses_nothing(store: Any) -> None:
    """With a store all of what was pushed arrives once and in order, and other streams of the user are not delayed."""
    async with (
        Notifier(store=store, buffer_size=4, poll_interval=0.02) as notifier,
        notifier.subscribe("alice") as paused,
        notifier.subscribe("alice") as prompt,
    ):
        for n in range(100):
            await push(notifier, n)
            assert await take(prompt, 1) == [n]
        await anyio.sleep(0.1)  # several poll intervals
        assert await take(paused, 100) == list(range(100))
        await nothing(paused)
        assert paused.dropped == 0


async def test_a_reader_further_behind_than_allowed_is_ended(notifier: Notifier) -> None:
    """With max_lag a stream that falls behind ends with SlowConsumerError, and its last id resumes without loss."""
    async with notifier.subscribe("alice", max_lag=3) as stream:
        await push(notifier, 1, 2, 3)
        assert await take(stream, 3) == [1, 2, 3]
        await push(notifier, 4, 5, 6, 7)
        with pytest.raises(SlowConsumerError) as caught:
            await stream.next()
        with pytest.raises(SlowConsumerError):
            await anext(stream)
    async with notifier.subscribe("alice", caught.value.last_id) as stream:
        assert await take(stream, 4) == [4, 5, 6, 7]


async def test_only_events_are_lag() -> None:
    """What makes a stream look again, and offers of events that it has read already, are no events to be behind by."""
    store = MemoryStore()
    live = LiveLog(store, background=Background("test"))
    async with live._subscribe("alice", "0", live._streams, max_lag=2) as stream:
        events = [await store.save(Event("alice", "t", number)) for number in range(2)]
        live.resync()
        for event in events:
            live.offer(event)
        assert [await stream.next(10) for _ in range(2)] == events
        late = [await store.save(Event("alice", "t", number)) for number in range(2, 4)]
        for event in late:
            live.offer(event)
        assert [await stream.next(10) for _ in range(2)] == late
        for number in range(3):
            live.offer(await store.save(Event("alice", "t", number)))
        with pytest.raises(SlowConsumerError, match="is 3 live events behind"):
            await stream.next(10)


async def test_what_a_replay_brings_is_not_lag() -> None:
    """Events that came while a stream read its backlog, and are in the pages that it holds, are not to be behind by."""
    begun, gate = anyio.Event(), anyio.Event()

    class Gated(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            begun.set()
            await gate.wait()
            return await super().read(user, after, limit)

    async with Notifier(Gated()) as notifier:
        await push(notifier, *range(10))
        stream = notifier.subscribe("alice", "0", max_lag=30)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.__aenter__)
            await begun.wait()
            await push(notifier, *range(10, 50))
            gate.set()
        assert await take(stream, 50) == list(range(50))
        await push(notifier, *range(50, 81))
        with pytest.raises(SlowConsumerError, match="is 31 live events behind"):
            await stream.next(10)


async def test_an_impatient_reader_gets_on() -> None:
    """`next(timeout=0)`, asked again and again, yields what a reader that fell behind has to read from the log."""
    for store in (MemoryStore(), PlainStore()):
        async with Notifier(store, buffer_size=2) as notifier, notifier.subscribe("alice") as stream:
            await push(notifier, *range(10))
            seen: list[object] = []
            with anyio.fail_after(5):
                while len(seen) < 10:
                    try:
                        seen.append((await stream.next(0)).payload)
                    except TimeoutError:
                        await anyio.lowlevel.checkpoint()
            assert seen == list(range(10))


async def test_a_page_from_before_a_stream_came_is_not_its_page() -> None:
    """A stream that could not open and tries again gets a page that holds what was offered before it came again."""
    snapshot, answer = anyio.Event(), anyio.Event()

    class Store(PlainStore):
        down = held = False

        async def read(self, user: str, after: str, limit: int) -> Page:
            if self.down:
                raise OSError("away")
            page = await super().read(user, after, limit)
            if self.held:
                self.held = False
                snapshot.set()
                await answer.wait()
            elif snapshot.is_set():
                await until(lambda: not notifier._live._hub._reads._running > 1)
            return page

    store = Store()
    async with Notifier(store) as notifier:
        first = await notifier.push("alice", "t", 1)
        assert first is not None
        async with notifier.subscribe("alice", first.id) as open_, anyio.create_task_group() as tasks:
            store.down = True
            notifier._live.resync("alice")
            got: list[object] = []

            async def read(stream: Stream) -> None:
                got.append((await stream.next(10)).payload)

            tasks.start_soon(read, open_)
            await until(lambda: notifier.statistics().read_failures)
            again = notifier.subscribe("alice", first.id)
            with pytest.raises(BackendUnavailableError):
                await again.next(10)
            store.held, store.down = True, False
            await snapshot.wait()
            await notifier.push("alice", "t", 2)
            tasks.start_soon(read, again)
            await anyio.wait_all_tasks_blocked()
            answer.set()
        assert got == [2, 2]


async def test_a_long_replay_is_not_lag(notifier: Notifier) -> None:
    """max_lag does not end a stream because of its backlog."""
    await push(notifier, *range(50))
    async with notifier.subscribe("alice", "0", max_lag=3) as stream:
        assert await take(stream, 50) == list(range(50))


async def test_a_stream_tells_what_it_is(notifier: Notifier) -> None:
    """A stream's repr names user and position; `synced` turns true after the replay."""
    await push(notifier, 1)
    stream: Any = notifier.subscribe("alice", "0")
    assert "alice" in repr(stream)
    assert not stream.synced
    assert await take(stream, 1) == [1]
    assert stream.synced
    await stream.aclose()


async def test_a_cancelled_bare_next_detaches_at_once(notifier: Notifier) -> None:
    """Forty readers in a cancelled task group: no stream is open and no user present, without a garbage collection."""
    errors: list[BaseException] = []
    streams = [notifier.subscribe("alice", "0") for _ in range(40)]

    async def read(stream: Stream) -> None:
        try:
            async for _ in stream:
                pass
        except BaseException as error:
            errors.append(error)  # the traceback keeps the frames alive, and with them the stream
            raise

    gc.disable()
    try:
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(read, stream)
            await until(lambda: notifier.statistics().open_streams == 40)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert len(errors) == 40
        assert notifier.statistics().open_streams == notifier.statistics().users == 0
    finally:
        gc.enable()
    for number in range(3):
        await notifier.push("alice", "t", number)
    for stream in streams:
        assert [(await stream.next()).payload for _ in range(3)] == [0, 1, 2]
        await stream.aclose()


async def test_a_timeout_leaves_a_bare_stream_attached(notifier: Notifier) -> None:
    """`next(timeout)` that runs out is not a cancelled caller: the stream stays open, and hears ephemeral events."""
    stream = notifier.subscribe("alice")
    with pytest.raises(TimeoutError):
        await stream.next(0.01)
    assert notifier.statistics().open_streams == 1
    await notifier.push("alice", "t", 1, ephemeral=True)
    assert (await stream.next(10)).payload == 1
    with anyio.move_on_after(0.01):
        await stream.next(10)
    assert notifier.statistics().open_streams == 0


async def test_an_entered_stream_stays_attached(notifier: Notifier) -> None:
    """Inside `async with` a cancelled `next` keeps the stream open: nothing is missed, ephemeral events neither."""
    async with notifier.subscribe("alice") as stream:
        with anyio.move_on_after(0.01):
            await stream.next()
        assert notifier.statistics().open_streams == 1
        await notifier.push("alice", "t", 1, ephemeral=True)
        assert (await stream.next()).payload == 1


@pytest.mark.parametrize("start", [None, "0"])
async def test_a_caller_less_patient_than_a_read_gets_on(start: str | None) -> None:
    """However short the time for each bare `next` is, the page that it had requested serves the next one."""

    class Store(PlainStore):
        reads = 0

        async def head(self, user: str) -> str:
            await anyio.sleep(0.05)
            return await super().head(user)

        async def read(self, user: str, after: str, limit: int) -> Page:
            self.reads += 1
            await anyio.sleep(0.05)
            return await super().read(user, after, limit)

    store, got = Store(), list[object]()
    async with Notifier(store, poll_interval=60) as notifier:
        await notifier.push("alice", "t", 0)
        stream = notifier.subscribe("alice", start)
        with anyio.move_on_after(0.01):
            await stream.next()
        await until(lambda: notifier.statistics().open_streams == 0)  # once the page has come
        await notifier.push("alice", "t", 1)
        with anyio.fail_after(10):
            while got != ([0, 1] if start else [1]):
                with anyio.move_on_after(0.01):
                    got.append((await stream.next()).payload)
        assert store.reads < 20
        await stream.aclose()


async def test_a_read_that_fails_for_a_cancelled_reader_detaches_it() -> None:
    """A stream whose bare `next` was cancelled during a read does not stay attached while the store is away."""

    class Store(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            await anyio.sleep(0.02)
            raise OSError("away")

    async with Notifier(Store()) as notifier:
        stream = notifier.subscribe("alice", "0")
        with anyio.move_on_after(0.001):
            await stream.next()
        assert notifier.statistics().open_streams == 1
        await until(lambda: notifier.statistics().open_streams == 0)


async def test_a_page_in_hand_stays_with_a_cancelled_reader() -> None:
    """A bare `next` that is cancelled while a page is in hand detaches at once; the next calls hand the page out."""
    async with Notifier(PlainStore()) as notifier:
        for number in range(3):
            await notifier.push("alice", "t", number)
        stream: Any = notifier.subscribe("alice", "0")
        assert (await stream.next()).payload == 0
        stream._interrupted()
        assert notifier.statistics().open_streams == 0
        assert [(await stream.next()).payload for _ in range(2)] == [1, 2]
        await stream.aclose()


async def test_a_stream_that_joined_a_read_twice_is_given_the_page_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Detached during a prefetch, attached again, cancelled once more: the read ends well, and the next ones run."""
    monkeypatch.setattr(_reads, "PAGE_SIZE", 2)
    monkeypatch.setattr(_hub, "PAGE_SIZE", 2)
    gate = anyio.Event()

    class Gated(PlainStore):
        gated = False

        async def read(self, user: str, after: str, limit: int) -> Page:
            if self.gated and after != ids.ZERO:
                await gate.wait()
            return await super().read(user, after, limit)

    store = Gated()
    async with Notifier(store, poll_interval=60) as notifier:
        events = await push(notifier, 1, 2, 3)
        keeper = await notifier.subscribe("alice").__aenter__()  # so that the stream finds the same ring again
        store.gated = True
        stream: Any = notifier.subscribe("alice", "0")
        assert await stream.next(10) == events[0]
        await anyio.wait_all_tasks_blocked()
        stream._interrupted()  # with an event in hand and a prefetch in flight: it detaches at once
        assert notifier.statistics().open_streams == 1
        assert await stream.next(10) == events[1]
        with anyio.move_on_after(0.02):
            await stream.next()  # waits for the page that it joined twice, and is cancelled
        assert notifier.statistics().open_streams == 2
        gate.set()
        await until(lambda: notifier.statistics().open_streams == 1)
        assert await stream.next(10) == events[2]
        assert notifier._live._hub.reads_in_flight <= 1
        await stream.aclose()
        await keeper.aclose()
    assert not caplog.records  # the task of the read did not crash


async def test_next_with_timeout_zero(notifier: Notifier, store: Any) -> None:
    """It returns what is known to be there, and polling with it gets on; the stream stays attached in between."""
    stream: Any = notifier.subscribe("alice", "0")
    events = await push(notifier, 1, 2)
    got: list[Event] = []
    with anyio.fail_after(5):
        while len(got) < 2:
            try:
                got.append(await stream.next(0))
            except TimeoutError:
                continue
    assert got == events
    (event,) = await push(notifier, 3)
    assert await stream.next(-1) == event
    await notifier.push("alice", "typing", 4, ephemeral=True)
    assert (await stream.next(0)).payload == 4
    with pytest.raises(TimeoutError):
        await stream.next(0)
    assert notifier.statistics().open_streams == 1
    if isinstance(store, MemoryStore):
        saved = store.save_nowait(Event("alice", "t", "beside the notifier"))
        assert await stream.next(0) == saved
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.next(0)
    await until(lambda: notifier.statistics().open_streams == 0)
    await stream.aclose()
    with pytest.raises(ClosedError):
        await stream.next(0)


async def test_next_with_timeout_zero_tells_a_failure() -> None:
    """A read that fails while the stream opens is raised, once it is known."""

    class Failing(PlainStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            raise OSError("away")

    async with Notifier(Failing()) as notifier:
        stream = notifier.subscribe("alice", "0")

        async def poll() -> None:
            while True:
                try:
                    await stream.next(0)
                except TimeoutError:
                    continue

        with pytest.raises(BackendUnavailableError), anyio.fail_after(5):
            await poll()
        assert notifier.statistics().open_streams == 0


async def test_a_time_resumes_before_the_first_event(notifier: Notifier, clock: Clock) -> None:
    """The position of a stream from a time that has yielded nothing yet is one in the log: no gap is reported."""
    await push(notifier, 1)
    clock.now += 60
    noon = datetime.fromtimestamp(clock.now, UTC)
    events = await push(notifier, 2)
    async with notifier.subscribe("alice", noon) as stream:
        position = stream.last_id
    async with notifier.subscribe("alice", position) as stream:
        assert await stream.next(10) == events[0]
        assert stream.gaps == ()


async def test_a_closed_stream_says_so(notifier: Notifier) -> None:
    """Closed before it was opened, or later."""
    for enter in (False, True):
        stream = notifier.subscribe("alice")
        assert "not attached" in repr(stream)
        if enter:
            await stream.__aenter__()
            assert "closed" not in repr(stream)
        await stream.aclose()
        assert "closed" in repr(stream)


# -- opening and reading that does not go to plan ----------------------------------------------------------------------


class GatedPresence(SlowPresence):
    """Registers no user until `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = anyio.Event()

    async def _enter(self, name: str) -> None:
        if name == "register":
            await self.gate.wait()


@pytest.mark.parametrize("logs", ["alice", ["alice", "bob"]])
async def test_a_first_position_that_fails_does_not_wait_for_presence(logs: Any) -> None:
    """The error is raised at once; nothing stays attached, and the next call opens the stream."""

    class Failing(PlainStore):
        broken = True

        async def head(self, user: str) -> str:
            if self.broken:
                raise OSError("away")
            return await super().head(user)

    store, presence = Failing(), GatedPresence()
    async with Notifier(store, presence=presence, poll_interval=60) as notifier:
        stream = notifier.subscribe(logs)
        with pytest.raises(BackendUnavailableError), anyio.fail_after(20):
            await stream.next()
        assert notifier.statistics().open_streams == 0
        store.broken = False
        presence.gate.set()
        async with stream:
            event = await notifier.push("alice", "t")
            assert await stream.next(10) == event


@pytest.mark.parametrize("logs", ["alice", ["alice", "bob"]])
@pytest.mark.parametrize("kind", [MemoryStore, PlainStore])
async def test_polling_does_not_wait_for_presence(logs: Any, kind: Any) -> None:
    """A stream that a timeout has left waiting for presence yields what the log holds to one that polls."""
    presence = GatedPresence()
    async with Notifier(kind(), presence=presence, poll_interval=60) as notifier:
        event = await notifier.push("alice", "t")
        stream = notifier.subscribe(logs, "0")
        with pytest.raises(TimeoutError):
            await stream.next(0.02)
        assert notifier.statistics().open_streams == 1
        with anyio.fail_after(2):
            while True:
                try:
                    assert await stream.next(0) == event
                    break
                except TimeoutError:
                    continue
        presence.gate.set()
        await stream.aclose()


@pytest.mark.parametrize("logs", ["alice", ["alice", "bob"]])
async def test_polling_tells_that_the_store_cannot_be_read(logs: Any) -> None:
    """Before the stream is open, the error of a store that answers at once is raised; the next call tries again."""

    class Failing(MemoryStore):
        broken = True

        def read_nowait(self, user: str, after: str, limit: int) -> Page:
            if self.broken:
                raise OSError("away")
            return super().read_nowait(user, after, limit)

    store = Failing()
    async with Notifier(store, poll_interval=60) as notifier:
        event = await notifier.push("alice", "t")
        stream = notifier.subscribe(logs, "0")
        for _ in range(2):
            with pytest.raises(BackendUnavailableError):
                await stream.next(0)
        store.broken = False
        assert await stream.next(0) == event
        await stream.aclose()


@pytest.mark.parametrize("logs", ["alice", ["alice", "bob"]])
async def test_polling_a_closed_store_ends_the_stream(logs: Any) -> None:
    """Whether it was attached all the time, or was left by a reader that was cancelled."""
    for entered in (True, False):
        store = MemoryStore()
        async with Notifier(store, poll_interval=60) as notifier:
            stream = notifier.subscribe(logs)
            if entered:
                await stream.__aenter__()
            else:
                with anyio.move_on_after(0.02):
                    await stream.next()
            await store.aclose()
            with pytest.raises(ClosedError):
                await stream.next(0)
            assert notifier.statistics().open_streams == 0


@pytest.mark.parametrize("logs", ["alice", ["alice", "bob"]])
async def test_every_live_event_is_observed_once(logs: Any) -> None:
    """However it is asked for: waiting, there already, or polled; and whether it is stored."""
    seen: list[Event] = []
    async with Notifier(MemoryStore(), poll_interval=60) as notifier, notifier.subscribe(logs) as stream:
        notifier._live._hub.observe = seen.append
        got: list[Event] = []
        for timeout in (1, 0):
            for ephemeral in (False, True):
                await notifier.push("alice", "t", ephemeral=ephemeral)
                got.append(await stream.next(timeout))
        assert seen == got


@pytest.mark.parametrize("kind", [MemoryStore, PlainStore])
async def test_a_stream_that_is_attached_already_is_entered(kind: Any) -> None:
    """A `next` that timed out while presence was not ready leaves it attached; then it is entered as any other."""
    presence = GatedPresence()
    async with Notifier(kind(), presence=presence, poll_interval=60) as notifier:
        event = await notifier.push("bob", "t")
        stream = notifier.subscribe("bob", "0")
        with pytest.raises(TimeoutError):
            await stream.next(0.02)
        assert notifier.statistics().open_streams == 1
        presence.gate.set()
        await until(lambda: notifier._streams.is_ready("bob", track=True))
        async with stream:
            assert await stream.next(10) == event
        assert notifier.statistics().open_streams == 0
