"""The live side of a log by itself: lost, phantom and late offers, resyncs, reads that fail for some alone."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Mapping
from contextlib import AsyncExitStack, aclosing
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus
from sniffio import current_async_library

import notify._runtime._receive_loop
import notify._runtime._telemetry
from notify import BackendUnavailableError, Background, ClosedError, Event, LiveLog, Notifier, Page, Stream
from notify.abc import Position
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore, MemoryStreamStore
from tests.parts import NotingRouter, PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio


async def take(stream: Stream, count: int) -> list[Any]:
    return [(await stream.next(10)).payload for _ in range(count)]


async def nothing(stream: Stream) -> None:
    with pytest.raises(TimeoutError):
        await stream.next(0.03)


@pytest.mark.parametrize("kind", [lambda inner: inner, PlainStore])
@pytest.mark.parametrize("whom", ["alice", "bob", None])
async def test_a_resync_finds_what_was_never_offered(kind: Any, whom: str | None) -> None:
    """After `resync` of a user, or of all, a waiting stream yields what no offer announced; that of others does not."""
    store = MemoryStore()
    opened: list[str] = []
    closed: list[str] = []
    live = LiveLog(kind(store), background=Background("test"), on_open=opened.append, on_close=closed.append)
    async with live.subscribe("alice") as stream, live.subscribe("alice"):
        await store.save(Event("alice", "t", 1))
        live.resync(whom)
        if whom == "bob":
            await nothing(stream)
        else:
            assert await take(stream, 1) == [1]
        assert (opened, closed, list(live.positions())) == (["alice"], [], ["alice"])
    assert closed == ["alice"]
    live.close()
    with pytest.raises(ClosedError):
        live.subscribe("alice")


async def test_a_reader_that_was_busy_learns_of_a_resync_too() -> None:
    """A stream that did not wait when `resync` was called reads the log before it waits again."""
    store = MemoryStore()
    live = LiveLog(store, background=Background("test"))
    async with live.subscribe("alice") as stream:
        live.offer(await store.save(Event("alice", "t", 1)))
        await store.save(Event("alice", "t", 2))
        live.resync()
        assert await take(stream, 2) == [1, 2]


@pytest.mark.parametrize("kind", [lambda inner: inner, PlainStore])
async def test_an_offer_that_is_in_no_log_is_not_yielded(kind: Any) -> None:
    """An offered event that the log does not hold (a failover lost it) is passed over, and the next real one comes."""
    store = MemoryStore()
    async with Notifier(kind(store), poll_interval=0.05) as notifier, notifier.subscribe("alice") as stream:
        phantom = Event("alice", "t", "phantom").stored("9999999999999-0", "9999999999998-0")
        assert notifier.deliver(phantom) == 1
        await nothing(stream)
        await notifier.push("alice", "t", 1)
        assert await take(stream, 1) == [1]
        await nothing(stream)


async def test_a_rewound_log_is_noticed_although_another_stream_has_read_it() -> None:
    """When a log went back, a stream that waits is told, also if another stream read the older end first."""
    memory, older = MemoryStore(), MemoryStore()
    await older.save(Event("alice", "t", 0))
    await anyio.sleep(0.002)
    store = PlainStore(memory)
    live = LiveLog(store, background=Background("test"))
    async with live.subscribe("alice", "0") as stream:
        live.offer(await memory.save(Event("alice", "t", 1)))
        assert await take(stream, 1) == [1]
        store.inner = older
        async with live.subscribe("alice", "0") as other:
            assert await take(other, 1) == [0]
            await nothing(stream)
            await live._catch_up.audit()
            await nothing(stream)
            assert [gap.reason for gap in stream.gaps] == ["rewound"]
            live.offer(await older.save(Event("alice", "t", 2)))
            assert await take(stream, 1) == await take(other, 1) == [2]


async def test_reordered_and_doubled_offers() -> None:
    """Offers that come late, twice or in the wrong order yield each event once and in order."""
    store = MemoryStore()
    live = LiveLog(store, background=Background("test"))
    async with live.subscribe("alice") as stream:
        events = [await store.save(Event("alice", "t", n)) for n in range(6)]
        taken = [live.offer(events[n]) for n in (1, 0, 1, 5, 2, 3, 3, 4)]
        assert taken == [1, 0, 0, 1, 0, 0, 0, 0]
        assert await take(stream, 6) == list(range(6))
        await nothing(stream)


async def test_a_failing_log_fails_who_opens_and_keeps_who_is_open() -> None:
    """When a shared read fails, a stream that is opening gets the error; one that was open waits and is healed."""

    class Moody(PlainStore):
        broken = False

        async def read(self, user: str, after: str, limit: int) -> Page:
            await super()._enter("read")
            if self.broken:
                raise BackendUnavailableError("down")
            return self.inner.read_nowait(user, after, limit)

    store = Moody()
    async with (
        Notifier(store, buffer_size=1, poll_interval=3600) as notifier,
        notifier.subscribe("alice", "0") as stream,
        anyio.create_task_group() as group,
    ):
        for n in range(3):
            await notifier.push("alice", "t", n)
        store.broken = True
        got: list[Any] = []

        async def read() -> None:
            got.extend(await take(stream, 3))

        group.start_soon(read)
        with pytest.raises(BackendUnavailableError, match="down"):
            async with notifier.subscribe("alice", "0"):
                pytest.fail("it cannot open")
        assert got == []
        store.broken = False
        await until(lambda: got == [0, 1, 2])


async def test_closing_while_a_long_replay_lets_others_run() -> None:
    """A stream closed between two pages of its replay ends at once."""
    store = MemoryStore(max_len=2000)
    for n in range(1500):
        store.save_nowait(Event("alice", "t", n))
    async with Notifier(store) as notifier:
        stream = notifier.subscribe("alice", "0")
        assert await take(stream, 500) == list(range(500))
        async with anyio.create_task_group() as group:

            async def read() -> None:
                with pytest.raises(ClosedError):
                    await stream.next()

            group.start_soon(read)
            group.start_soon(stream.aclose)


async def test_a_stream_goes_on_opening_after_a_cancelled_next() -> None:
    """A `next` cancelled while the tracker was asked is taken up by the following one; the user is registered once."""
    gate = anyio.Event()

    class Gated(SlowPresence):
        async def register(self, user: str, routing: Any = None) -> Any:
            await gate.wait()
            return await super().register(user, routing)

    presence = Gated()
    async with Notifier(MemoryStore(), presence=presence) as notifier:
        await notifier.push("alice", "t", 1)
        stream = notifier.subscribe("alice", "0")
        await nothing(stream)
        gate.set()
        assert await take(stream, 1) == [1]
        assert presence.calls.count("register") == 1
        await stream.aclose()


async def test_an_immediate_tracker_that_fails() -> None:
    """A tracker that answers at once and fails does not keep a stream from opening or an event from its user."""

    class Failing(MemoryPresence):
        def register_nowait(self, user: str, routing: Any = None) -> Any:
            raise OSError("down")

        def locate_nowait(self, users: Any) -> Any:
            raise OSError("down")

    async with Notifier(MemoryStore(), presence=Failing(), offline="drop", linger=0) as notifier:
        async with notifier.subscribe("alice") as stream:
            await notifier.push("alice", "t", 1)
            assert await take(stream, 1) == [1]
        assert notifier.statistics().presence_failures == 2


async def test_a_tracker_that_fails_for_somebody_who_has_left() -> None:
    """A registration that keeps failing is given up once its user has gone."""
    presence = SlowPresence()
    presence.broken = True
    async with Notifier(MemoryStore(), presence=presence, linger=0) as notifier:
        async with notifier.subscribe("alice"):
            pass
        await until(lambda: notifier._parts.services.running <= 2)
        assert presence.calls.count("register") >= 1


async def test_concurrent_presence_checks_share_one_query() -> None:
    """Pushes that ask for presence at the same time share the queries of a tracker that is waited for."""
    presence = SlowPresence()
    async with Notifier(MemoryStore(), presence=presence) as notifier, anyio.create_task_group() as group:
        for n in range(100):
            group.start_soon(notifier.push, f"u{n}", "t")
    assert presence.calls.count("locate") <= 3


async def test_closing_answers_pushes_that_wait_for_presence() -> None:
    """A push whose presence check hangs when the notifier closes ends in time."""

    class Hanging(SlowPresence):
        async def _enter(self, name: str) -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.3)

    notifier = Notifier(MemoryStore(), presence=Hanging(), timeout=0.1, offline="drop")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(notifier.push, "alice", "t")
            await until(lambda: notifier._parts.jobs.running)
            group.start_soon(notifier.push, "bob", "t")
            await anyio.wait_all_tasks_blocked()
            await notifier.aclose()


async def test_a_router_that_listened_long_is_restarted_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay before listening again starts anew after a router that had listened for some time."""
    monkeypatch.setattr(notify._runtime._receive_loop, "STEADY", -1.0)
    attempts: list[float] = []

    class Dropping(NotingRouter):
        async def receive(self, instance_id: str, deliver: Any, *, task_status: Any) -> None:
            attempts.append(anyio.current_time())
            task_status.started()

    async with Notifier(MemoryStore(), router=Dropping()), anyio.create_task_group():
        await until(lambda: len(attempts) >= 6)
    assert all(later - earlier < 1 for earlier, later in pairwise(attempts))


async def test_a_successor_of_the_same_name_keeps_its_routes() -> None:
    """An instance that ends after another took its name does not take the other's routes along."""
    router = MemoryRouter()
    got: list[Event] = []

    def take_one(event: Event) -> int:
        got.append(event)
        return 1

    async def first(event: Event) -> None:
        """Not called."""

    async with anyio.create_task_group() as group:

        async def listen(scope: anyio.CancelScope, deliver: Any, *, task_status: Any) -> None:
            with scope:
                await router.receive("web", deliver, task_status=task_status)

        old, new = anyio.CancelScope(), anyio.CancelScope()
        await group.start(listen, old, first)
        await group.start(listen, new, take_one)
        old.cancel()
        await anyio.wait_all_tasks_blocked()
        await router.route(Event("alice", "t"), None)
        assert len(got) == 1
        new.cancel()


# -- reading ahead ---------------------------------------------------------------------------------------------------


class PagedStore(PlainStore):
    """Holds more than two pages of one user, and notes which reads were asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.read_after: list[str] = []
        self.broken = False

    async def fill(self, count: int) -> list[Event]:
        return [await self.inner.save(Event("alice", "t", number)) for number in range(count)]

    async def read(self, user: str, after: str, limit: int) -> Page:
        self.read_after.append(after)
        if self.broken:
            raise OSError("away")
        return await self.inner.read(user, after, limit)


def paged() -> PagedStore:
    store = PagedStore()
    store.inner = MemoryStore(max_len=10_000)
    return store


async def test_the_next_page_is_read_while_this_one_is_handed_out() -> None:
    """A replay has one page in advance and never more, however long its reader stays away."""
    store = paged()
    events = await store.fill(1300)
    async with Notifier(store=store) as notifier, notifier.subscribe("alice", "0") as stream:
        assert await stream.next(10) == events[0]
        await until(lambda: len(store.read_after) == 2)
        assert store.read_after == ["0", events[499].id]
        seen = [await stream.next(10) for _ in range(499)]
        assert len(store.read_after) == 2
        seen += [await stream.next(10) for _ in range(800)]
        assert seen == events[1:]
        assert store.read_after == ["0", events[499].id, events[999].id]
        assert stream.synced


async def test_what_is_trimmed_meanwhile_is_a_gap_after_the_page_that_was_read_ahead() -> None:
    """Pages that are held are handed out; the gap lies where the log was read again."""
    store = paged()
    events = await store.fill(1600)
    async with Notifier(store=store) as notifier, notifier.subscribe("alice", "0") as stream:
        await stream.next(10)
        await until(lambda: len(store.read_after) == 2)
        await anyio.wait_all_tasks_blocked()
        await store.inner.trim(events[1200].id)
        seen = [await stream.next(10) for _ in range(999)]
        assert seen == events[1:1000]
        assert not stream.gaps
        assert [await stream.next(10) for _ in range(400)] == events[1200:]
        assert [(gap.reason, gap.start, gap.end) for gap in stream.gaps] == [
            ("trimmed", events[999].id, events[1199].id)
        ]


async def test_a_page_that_cannot_be_read_ahead_is_read_at_its_time() -> None:
    """A store that fails while the reader still holds a page costs the reader nothing once it is back."""
    store = paged()
    events = await store.fill(700)
    async with Notifier(store=store) as notifier, notifier.subscribe("alice", "0") as stream:
        assert await stream.next(10) == events[0]
        store.broken = True
        await until(lambda: notifier.statistics().read_failures or len(store.read_after) > 1)
        store.broken = False
        assert [await stream.next(5) for _ in range(699)] == events[1:]


async def test_a_store_that_closes_while_a_page_is_held() -> None:
    """What was read is handed out, and then the stream ends."""

    class Closing(PagedStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            page = await super().read(user, after, limit)
            if len(self.read_after) > 1:
                raise ClosedError("the store is closed")
            return page

    store = Closing()
    store.inner = MemoryStore(max_len=10_000)
    events = await store.fill(700)
    async with Notifier(store=store) as notifier, notifier.subscribe("alice", "0") as stream:
        assert await stream.next(10) == events[0]
        await until(lambda: len(store.read_after) == 2)
        assert [await stream.next(10) for _ in range(499)] == events[1:500]
        with pytest.raises(ClosedError):
            await stream.next(10)
        assert len(store.read_after) == 3  # ahead, and again at its time


async def test_a_page_is_turned_when_the_reader_asks() -> None:
    """Until then `last_id` is that of the event in hand, though a gap behind it was read already."""

    class Gated(PagedStore):
        async def read(self, user: str, after: str, limit: int) -> Page:
            if after != "0":
                await gate.wait()
            return await super().read(user, after, limit)

    gate = anyio.Event()
    store = Gated()
    store.inner = MemoryStore(max_len=10_000)
    events = await store.fill(700)
    async with Notifier(store=store) as notifier, notifier.subscribe("alice", "0") as stream:
        assert [await stream.next(10) for _ in range(500)] == events[:500]
        await store.inner.trim(events[600].id)
        gate.set()
        await until(lambda: stream._prefetched is not None)  # type: ignore[attr-defined]
        assert (stream.last_id, stream.gaps) == (events[499].id, ())
        assert await stream.next(10) == events[600]
        assert [(gap.start, gap.end) for gap in stream.gaps] == [(events[499].id, events[599].id)]


async def test_an_audit_finds_what_came_after_a_page_that_is_still_held() -> None:
    """A reader that stays away with the end of the log read ahead needs no second audit."""
    store = paged()
    events = await store.fill(700)
    async with Notifier(store=store) as notifier, notifier.subscribe("alice", "0") as stream:
        await stream.next(10)
        await until(lambda: stream._prefetched is not None)  # type: ignore[attr-defined]
        events.append(await store.inner.save(Event("alice", "t", "unannounced")))
        await notifier._live._catch_up.audit()
        assert [await stream.next(10) for _ in range(700)] == events[1:]


class Counting(MemoryStore):
    """A memory store that counts how often it is asked for a head."""

    asked = 0

    def head_nowait(self, user: str) -> str:
        self.asked += 1
        return super().head_nowait(user)


@pytest.mark.parametrize("how", ["audit", "resync"])
async def test_looking_at_many_users_lets_others_run(how: str) -> None:
    """A log that answers at once is not searched for all users in one go, which would delay every event meanwhile."""
    store, users = Counting(), [f"user-{number}" for number in range(600)]
    async with AsyncExitStack() as stack:
        notifier = await stack.enter_async_context(Notifier(store))
        streams = [await stack.enter_async_context(notifier.subscribe(user)) for user in users]
        for user in users:
            await store.save(Event(user, "t", 1))  # nothing announces it
        turns = [store.asked]
        catch_up, looked = notifier._live._catch_up, store.asked + len(users)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        if how == "audit":
            tasks.start_soon(catch_up.audit)
        else:
            catch_up.request()
        with anyio.fail_after(10):
            while store.asked < looked:
                await anyio.lowlevel.checkpoint()
                turns.append(store.asked)
        assert max(later - earlier for earlier, later in pairwise(turns)) <= 100
        assert [event.payload for stream in streams for event in [await stream.next(10)]] == [1] * len(users)


class Silent(PlainStore):
    """A stream store that tells its streams nothing: only audits find events."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.background = Background("silent")
        self.live = LiveLog(self, background=self.background, **options)

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        return self.live.subscribe(user, last_id)

    async def aclose(self) -> None:
        self.live.close()
        await self.background.aclose(1)
        await super().aclose()


async def test_the_smallest_audit_interval_counts_at_once() -> None:
    """A second notifier that asks for a shorter interval does not wait for the first one's audit."""
    async with aclosing(Silent()) as store, Notifier(store, audit_interval=3600) as first, first.subscribe("alice"):
        async with Notifier(store, audit_interval=0.05) as second, second.subscribe("bob") as stream:
            await store.save(Event("bob", "t", 1))
            assert (await stream.next(5)).payload == 1


async def test_an_is_receiving_that_raises_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """The auditor goes on, and looks every second; the failure is logged."""
    answers: list[bool] = []

    def is_receiving() -> bool:
        answers.append(False)
        if len(answers) == 1:
            raise RuntimeError("as told")
        return False

    async with aclosing(Silent(is_receiving=is_receiving)) as store, store.subscribe("alice") as stream:
        await store.save(Event("alice", "t", 1))
        assert (await stream.next(10)).payload == 1
    assert "as told" in caplog.text


async def test_what_receives_is_run_again_whatever_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises, returns, or is cancelled from inside is run again; an old run's `started` is ignored."""
    runs: list[TaskStatus[None]] = []

    async def listen(*, task_status: TaskStatus[None]) -> None:
        runs.append(task_status)
        if len(runs) == 1:
            raise OSError("as told")
        if len(runs) == 2:
            return
        if len(runs) == 3 and current_async_library() == "asyncio":
            inner = asyncio.get_running_loop().create_future()
            inner.cancel()
            await inner
        task_status.started()
        await anyio.sleep_forever()

    async with aclosing(Silent(listen=listen)) as store, store.subscribe("alice"):
        assert not store.live.is_receiving
        await until(lambda: store.live.is_receiving)
        runs[0].started()
    assert not store.live.is_receiving
    runs[-1].started()
    assert not store.live.is_receiving
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sum("does not receive" in message for message in warned) == 1


async def test_rubbish_of_read_many_reaches_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    """Pages that are not pages, or hold other users' events, make the streams read for themselves."""

    class Store(Silent):
        async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
            return {user: Page([Event("eve", "t").stored("9-9", start)], None, "9-9") for user, start in after.items()}

    async with aclosing(Store()) as store, store.subscribe("alice") as stream:
        await store.save(Event("alice", "t", 1))
        store.live.catch_up()
        assert (await stream.next(5)).payload == 1
    assert "another user" in caplog.text


async def test_users_that_stay_unknown_are_looked_at_less_and_less() -> None:
    """A reader that is away after a resync costs a look every second at most."""
    async with aclosing(Silent()) as store, store.subscribe("alice"):
        store.live.resync("alice")
        catch_up = store.live._catch_up
        catch_up.request(["alice"])
        await until(lambda: catch_up._delay > 0.1)


@pytest.mark.parametrize("measures", [True, False])
async def test_a_store_does_not_keep_its_closed_notifiers(measures: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream store outlives its notifiers, with an OpenTelemetry SDK too."""
    monkeypatch.setattr(notify._runtime._telemetry, "_installed", lambda provider: measures)
    store = MemoryStreamStore()
    notifier = Notifier(store)
    async with notifier, notifier.subscribe("alice") as stream:
        await notifier.push("alice", "t", 1)
        assert (await stream.next()).payload == 1
    gone = weakref.ref(notifier)
    del notifier, stream
    gc.collect()
    assert gone() is None
    await store.aclose()


async def test_catching_up_with_a_closed_store_ends_the_streams() -> None:
    """A store that is closed under its streams is noticed by the next catch-up, and every stream ends."""

    class Store(Silent):
        shut = False

        async def head(self, user: str) -> str:
            if self.shut:
                raise ClosedError("the store is closed")
            return await super().head(user)

        async def read(self, user: str, after: str, limit: int) -> Page:
            if self.shut:
                raise ClosedError("the store is closed")
            return await super().read(user, after, limit)

    async with aclosing(Store()) as store, store.subscribe("alice") as stream:
        store.shut = True
        store.live.catch_up()
        with pytest.raises(ClosedError):
            await stream.next(5)
        await until(lambda: store.live._hub.reads_in_flight == 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # elsewhere a waiter is an event, which has lists of its own
async def test_an_offer_makes_no_list_for_the_garbage_collector() -> None:
    """Where each stream of a user waits, the ring and the list of waiting streams are changed in place."""
    users, received = [f"user-{number}" for number in range(200)], list[str]()

    async def read(user: str) -> None:
        async with notifier.subscribe(user) as stream:
            async for event in stream:
                received.append(event.user)

    async def push_to_all() -> None:
        received.clear()
        for user in users:
            await notifier.push(user, "t")
        await until(lambda: len(received) == len(users))

    async with Notifier(MemoryStore()) as notifier, anyio.create_task_group() as group:
        for user in users:
            group.start_soon(read, user)
        await until(lambda: notifier.statistics().open_streams == len(users))
        await push_to_all()
        gc.collect()
        gc.disable()
        try:
            await push_to_all()
            young = [each for each in gc.get_objects(generation=0) if type(each) is list]
        finally:
            gc.enable()
        assert len(young) < len(users) // 2
        group.cancel_scope.cancel()
