"""Several notifiers: routing, polling, presence across instances, health, draining."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus

from notify import (
    Background,
    ClosedError,
    Event,
    Notifier,
    Page,
    PushUncertainError,
    RoutingInfo,
    Stream,
    UsageError,
)
from notify._push import _routes
from notify._runtime._background import without_stray_cancellation
from notify.abc import Deliver
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore, MemoryStreamStore
from tests.parts import BatchStore, NotingRouter, PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio

NEVER = 3600.0


async def nothing(stream: Stream) -> None:
    with pytest.raises(TimeoutError):
        await stream.next(0.03)


# -- routing -------------------------------------------------------------------------------------------------------


async def test_a_push_is_routed_once_to_where_the_user_is() -> None:
    """With presence, Route is called once with the located instance and its metadata, and not for this instance."""
    presence, router = MemoryPresence(), NotingRouter()
    elsewhere = RoutingInfo("web-2", {"url": "http://web-2"})
    await presence.register("alice", elsewhere)
    await presence.register("bob", RoutingInfo("web-1"))
    await presence.register("carol")
    async with Notifier(MemoryStore(), router=router, presence=presence, instance_id="web-1") as notifier:
        event = await notifier.push("alice", "t", 1)
        assert router.routed == [(event, elsewhere)]
        await notifier.push("bob", "t", 2)
        await notifier.push("carol", "t", 3)  # online without routing
        await notifier.push("dave", "t", 4)  # offline
        assert len(router.routed) == 1
        assert notifier.statistics().routed == 1


async def test_without_presence_every_instance_is_told() -> None:
    """Without a tracker Route is called with None."""
    async with Notifier(MemoryStore(), router=(router := NotingRouter())) as notifier:
        await notifier.push("alice", "t")
        assert [to for _, to in router.routed] == [None]


async def test_all_locations_of_a_user_are_routed_to() -> None:
    """A user on three instances, with two devices on one, gets one route for each other instance."""
    presence, router = MemoryPresence(), NotingRouter()
    for instance in ("web-1", "web-2", "web-3", "web-3"):
        await presence.register("alice", RoutingInfo(instance))
    async with Notifier(MemoryStore(), router=router, presence=presence, instance_id="web-1") as notifier:
        await notifier.push("alice", "t")
        await notifier.push_many(["alice"], "t")
    assert sorted(to.instance_id for _, to in router.routed if to) == ["web-2", "web-2", "web-3", "web-3"]


@pytest.mark.parametrize("store_kind", [MemoryStore, PlainStore, MemoryStreamStore])
@pytest.mark.parametrize("presence_kind", [MemoryPresence, SlowPresence, None])
async def test_three_devices_on_two_instances(store_kind: Any, presence_kind: Any) -> None:
    """One user, three devices on two instances: each gets each push once, long before any poll."""
    store, router = store_kind(), MemoryRouter()
    presence = presence_kind() if presence_kind else None
    async with (
        Notifier(store, router=router, presence=presence, poll_interval=NEVER) as one,
        Notifier(store, router=router, presence=presence, poll_interval=NEVER) as two,
        one.subscribe("alice") as a,
        two.subscribe("alice") as b,
        two.subscribe("alice") as c,
    ):
        for n in range(20):
            await (one if n % 2 else two).push("alice", "t", n)
        for stream in (a, b, c):
            assert [(await stream.next(10)).payload for _ in range(20)] == list(range(20))
            await nothing(stream)


async def test_a_custom_router_of_one_method() -> None:
    """A router of one method and a call of `deliver` connects two notifiers; its echoes do no harm."""

    class Bus:
        def __init__(self) -> None:
            self.notifiers: list[Notifier] = []

        async def route(self, event: Event, to: RoutingInfo | None) -> None:
            for notifier in self.notifiers:
                notifier.deliver(Event.from_bytes(event.to_bytes()))

    store, bus = MemoryStore(), Bus()
    async with (
        Notifier(store=store, router=bus, poll_interval=NEVER) as one,
        Notifier(store=store, router=bus, poll_interval=NEVER) as two,
        one.subscribe("alice") as a,
        two.subscribe("alice") as b,
    ):
        bus.notifiers += [one, two]
        await one.push("alice", "t", 1)
        await two.push("alice", "typing", 2, ephemeral=True)
        await two.broadcast("t", 3)
        for stream in (a, b):
            assert [(await stream.next(10)).payload for _ in range(3)] == [1, 2, 3]
            await nothing(stream)
        assert (await one.check()).parts["router"] == "ok"


class Slow:
    """A router that never finishes, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.started, self.cancelled = error, 0, 0

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        self.started += 1
        if self.error:
            raise self.error
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled += 1


async def test_a_slow_route_delays_nobody_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushes return while routes hang; each route ends at `timeout` and is counted; routes in flight are limited."""
    monkeypatch.setattr(_routes, "CONCURRENT_ROUTES", 50)
    router = Slow()
    async with Notifier(MemoryStore(), router=router, timeout=2) as notifier:
        async with notifier.subscribe("alice") as stream:
            for _ in range(60):
                await notifier.push("alice", "t")
            for _ in range(60):
                await stream.next(10)
            assert router.started == 50
            assert notifier.statistics().route_failures == 10  # before any route has timed out
        await until(lambda: notifier.statistics().route_failures == 60)
    assert router.cancelled == 50


async def test_a_failed_route_is_counted_and_the_log_delivers(caplog: pytest.LogCaptureFixture) -> None:
    """When the route raises, the push succeeds, the failure is counted and the event arrives by the log."""
    store = MemoryStore()
    async with (
        Notifier(store, router=Slow(OSError("no route"))) as one,
        Notifier(store, poll_interval=0.05) as two,
        two.subscribe("alice") as stream,
    ):
        with caplog.at_level(logging.WARNING, "notify"):
            event = await one.push("alice", "t")
        assert one.statistics().route_failures == 1
        assert await stream.next(10) == event
    assert "no route" in caplog.text


class Moody:
    """A router whose receiving half crashes or stops before it holds."""

    def __init__(self) -> None:
        self.attempts = 0
        self.bus = MemoryRouter()

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        await self.bus.route(event, to)

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        self.attempts += 1
        if self.attempts == 1:
            raise OSError("no connection")
        if self.attempts > 2:
            await self.bus.receive(instance_id, deliver, task_status=task_status)


async def test_a_router_that_stops_listening_is_started_again() -> None:
    """The notifier runs the receiving half again after a crash and after it just ended."""
    router, store = Moody(), MemoryStore()
    async with (
        Notifier(store, router=router, poll_interval=NEVER) as one,
        Notifier(store, router=router.bus) as two,
        one.subscribe("alice") as stream,
    ):
        await until(lambda: router.attempts >= 3)
        await two.push("alice", "t", 1)
        assert (await stream.next(10)).payload == 1


async def test_a_router_that_never_listens_holds_up_a_stream_for_the_timeout_at_most() -> None:
    """Streams open although the router cannot listen: the log delivers."""

    class Deaf(NotingRouter):
        async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
            await anyio.sleep_forever()

    async with Notifier(MemoryStore(), router=Deaf(), timeout=0.05) as notifier:
        with anyio.fail_after(20):
            async with notifier.subscribe("alice") as stream:
                await notifier.push("alice", "t")
                await stream.next(10)
        health = await notifier.check()
        assert not health.ok
        assert "no answer" in health.parts["router"]


async def test_a_memory_router_forgets_who_left() -> None:
    """After an instance closed, routing to it or to everybody does nothing, and a successor of its name is kept."""
    router, store = MemoryRouter(), MemoryStore()
    one = Notifier(store, router=router, instance_id="web")
    await one.__aenter__()
    two = Notifier(store, router=router, instance_id="web")
    async with two, two.subscribe("alice") as stream:
        await one.aclose()
        await router.route(Event("alice", "typing", 1), RoutingInfo("web"))
        assert (await stream.next(10)).payload == 1
    await router.route(Event("alice", "typing"), RoutingInfo("web"))
    await router.route(Event("alice", "typing"), None)


# -- polling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [lambda inner: inner, PlainStore, BatchStore])
async def test_events_of_others_are_found_within_the_poll_interval(kind: Any) -> None:
    """With two notifiers on one plain store and no router, what one stores the other yields in time, once."""
    inner = MemoryStore()
    async with (
        Notifier(kind(inner)) as one,
        Notifier(kind(inner), poll_interval=0.1) as two,
        two.subscribe("alice") as stream,
    ):
        for n in range(3):
            await one.push("alice", "t", n)
            assert (await stream.next(10)).payload == n
        await nothing(stream)


async def test_one_query_polls_all_users() -> None:
    """A store that can read many is asked once for all users and interval, not once for each stream."""
    store = BatchStore()
    async with Notifier(store, poll_interval=0.05) as notifier:
        streams = [notifier.subscribe(f"u{n}") for n in range(300)]
        for stream in streams:
            await stream.__aenter__()
        store.calls.clear()
        await until(lambda: len(store.calls) >= 4)
        assert set(store.calls) == {"read_many"}
        await store.inner.save(Event("u7", "t", 1))
        assert (await streams[7].next(10)).payload == 1
        for stream in streams:
            await stream.aclose()


async def test_a_routed_and_polled_event_is_yielded_once() -> None:
    """An event that is routed, polled and delivered again comes once."""
    inner, router = MemoryStore(), MemoryRouter()
    async with (
        Notifier(PlainStore(inner), router=router) as one,
        Notifier(BatchStore(inner), router=router, poll_interval=0.02) as two,
        two.subscribe("alice") as stream,
    ):
        event = await one.push("alice", "t")
        assert event is not None
        await anyio.sleep(0.1)  # several poll intervals
        two.deliver(event)
        assert await stream.next(10) == event
        await nothing(stream)


async def test_polling_outlives_a_store_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A poll that fails is counted and logged, and the next one finds what was missed."""

    class Moody(BatchStore):
        broken = True

        async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
            if self.broken:
                raise OSError("down")
            return await super().read_many(after, limit)

    store = Moody()
    async with Notifier(store, poll_interval=0.02) as notifier, notifier.subscribe("alice") as stream:
        await store.inner.save(Event("alice", "t", 1))
        await until(lambda: notifier.statistics().read_failures >= 2)
        store.broken = False
        assert (await stream.next(10)).payload == 1
    assert "down" in caplog.text


async def test_polling_outlives_a_store_that_hangs() -> None:
    """A poll that has no answer within `timeout` has failed, too."""

    class Stuck(BatchStore):
        hangs = True

        async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
            if self.hangs:
                await anyio.sleep_forever()
            return await super().read_many(after, limit)

    store = Stuck()
    async with Notifier(store, poll_interval=0.02, timeout=0.2) as notifier, notifier.subscribe("alice") as stream:
        await store.inner.save(Event("alice", "t", 1))
        await until(lambda: notifier.statistics().read_failures >= 2)
        store.hangs = False
        assert (await stream.next(20)).payload == 1


async def test_a_poll_that_finds_a_gap_makes_the_stream_read() -> None:
    """Events that were trimmed before any poll saw them are reported as a gap, and what is left arrives."""
    inner = MemoryStore(max_len=2)
    async with Notifier(BatchStore(inner), poll_interval=0.05) as notifier:
        async with notifier.subscribe("alice") as stream:
            await inner.save(Event("alice", "t", 0))
            assert (await stream.next(10)).payload == 0
            for n in range(1, 6):
                await inner.save(Event("alice", "t", n))
            assert [(await stream.next(10)).payload for _ in range(2)] == [4, 5]
            assert [gap.reason for gap in stream.gaps] == ["trimmed"]


async def test_news_of_a_user_without_streams_is_ignored() -> None:
    """A store that reports news of somebody who was not asked about does no harm."""

    class Chatty(BatchStore):
        async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
            pages = await super().read_many(after, limit)
            return {**pages, "stranger": Page([Event("stranger", "t").stored("1-0", "0")], None, "1-0")}

    store = Chatty()
    async with Notifier(store, poll_interval=0.02) as notifier, notifier.subscribe("alice") as stream:
        await until(lambda: store.calls.count("read_many") > 2)
        await store.inner.save(Event("alice", "t", 1))
        assert (await stream.next(10)).payload == 1


async def test_news_of_a_user_who_just_left_is_ignored() -> None:
    """A poll that returns after the last stream of a user closed does nothing."""
    gate, reached = anyio.Event(), anyio.Event()

    class Gated(BatchStore):
        async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
            pages = await super().read_many(after, limit)
            if pages:
                reached.set()
                await gate.wait()
            return pages

    store = Gated()
    async with Notifier(store, poll_interval=0.02) as notifier:
        async with notifier.subscribe("alice"):
            await store.inner.save(Event("alice", "t"))
            await reached.wait()
        gate.set()
        async with notifier.subscribe("alice", "0") as stream:
            await stream.next(2)


async def test_polling_ends_when_the_store_is_closed() -> None:
    """A closed store ends the polling quietly."""
    store = BatchStore()
    async with Notifier(store, poll_interval=0.02) as notifier, notifier.subscribe("alice"):
        await store.aclose()
        await until(lambda: notifier._parts.services.running == 0)
        assert notifier.statistics().read_failures == 0


async def test_an_audit_finds_what_a_stream_store_forgot_to_offer() -> None:
    """A stream store that lost a wake-up is found out within audit_interval."""

    class Forgetful(MemoryStreamStore):
        def save_nowait(self, event: Event) -> Event:
            return MemoryStore.save_nowait(self, event)

    store = Forgetful()
    async with Notifier(store, audit_interval=0.05) as notifier, notifier.subscribe("alice") as stream:
        await store.save(Event("alice", "t", 1))
        assert (await stream.next(10)).payload == 1


# -- health, draining, event loops ---------------------------------------------------------------------------------


async def test_check_reports_each_part() -> None:
    """A healthy notifier is ok in every part; each broken part is named."""
    async with Notifier(MemoryStore(), router=MemoryRouter(), presence=MemoryPresence()) as notifier:
        health = await notifier.check()
        assert health.ok
        assert health.parts == {"store": "ok", "presence": "ok", "router": "ok"}
    presence = SlowPresence()
    presence.broken = True

    class Hung(PlainStore):
        async def head(self, user: str) -> str:
            await anyio.sleep_forever()
            raise AssertionError

    async with Notifier(Hung(), router=Slow(OSError("x")), presence=presence, timeout=0.5) as notifier:
        health = await notifier.check()
        assert not health.ok
        assert "no answer" in health.parts["store"]
        assert "the tracker is down" in health.parts["presence"]
        assert "OSError" in health.parts["router"]
    async with Notifier() as notifier:
        assert (await notifier.check()).parts == {}


@pytest.mark.parametrize("kind", [MemoryStore, PlainStore, MemoryStreamStore])
async def test_drain_spreads_the_end_of_the_streams(kind: Any) -> None:
    """Draining refuses new streams, ends the open ones over the window and not at once, and still accepts pushes."""
    notifier = Notifier(kind())
    ended: list[float] = []

    async def read(n: int) -> None:
        async for _ in notifier.subscribe(f"u{n % 10}"):
            pytest.fail("nothing was pushed")
        ended.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        for n in range(200):
            group.start_soon(read, n)
        await until(lambda: notifier.statistics().open_streams == 200)
        began = anyio.current_time()
        group.start_soon(notifier.drain, 1.0)
        await until(lambda: len(ended) > 20)
        assert len(ended) < 200
        with pytest.raises(ClosedError):
            notifier.subscribe("alice")
        assert await notifier.push("alice", "t") is not None
    assert 0.6 < ended[-1] - began < 20
    assert notifier.statistics().open_streams == 0
    await notifier.drain(10)  # nothing is open: done at once
    await notifier.aclose()
    await notifier.drain(10)  # nothing is left to drain


async def test_drain_lets_pushes_finish() -> None:
    """Drain returns once pending pushes have their outcome."""
    gate = anyio.Event()

    class Gated(PlainStore):
        async def save(self, event: Event) -> Event:
            await gate.wait()
            return await super().save(event)

    async with Notifier(Gated()) as notifier, anyio.create_task_group() as group:
        group.start_soon(notifier.push, "alice", "t")
        await until(lambda: notifier.statistics().pending_pushes == 1)
        drained = anyio.Event()

        async def drain() -> None:
            await notifier.drain(0)
            drained.set()

        group.start_soon(drain)
        await anyio.wait_all_tasks_blocked()
        assert not drained.is_set()
        gate.set()
        with anyio.fail_after(2):
            await drained.wait()


async def test_close_is_bounded_although_a_store_ignores_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    """A save that ignores cancellation is left behind, with a warning, after a bounded time."""
    release = anyio.Event()

    class Deaf(PlainStore):
        async def save(self, event: Event) -> Event:
            with anyio.CancelScope(shield=True):
                await release.wait()
            return await super().save(event)

    notifier = Notifier(Deaf(), timeout=0.1)
    with anyio.move_on_after(0.05):
        await notifier.push("alice", "t")
    with anyio.fail_after(4):
        await notifier.aclose()
    assert "left behind" in caplog.text
    release.set()


async def test_closing_while_cancelled_still_releases(caplog: pytest.LogCaptureFixture) -> None:
    """A notifier closed by cancellation of its task ends its streams and releases presence."""
    presence = MemoryPresence()
    notifier = Notifier(MemoryStore(), presence=presence)
    with anyio.CancelScope() as scope:
        async with notifier:
            stream = await notifier.subscribe("alice").__aenter__()
            scope.cancel()
            await anyio.sleep_forever()
    assert await presence.locate(["alice"]) == {}
    with pytest.raises(ClosedError):
        await stream.next()


async def test_presence_that_fails_to_release_does_not_hold_up_close() -> None:
    """A tracker that hangs or raises while registrations end delays close by `timeout` at most."""

    class Stuck:
        def release(self) -> None:
            """Nothing."""

        async def aclose(self) -> None:
            raise OSError("down")

    class Tracker(SlowPresence):
        async def register(self, user: str, routing: RoutingInfo | None = None) -> Any:
            return Stuck()

    notifier = Notifier(MemoryStore(), presence=Tracker(), timeout=0.1)
    async with notifier.subscribe("alice"), notifier.subscribe("bob"):
        with anyio.fail_after(2):
            await notifier.aclose()
    assert notifier.statistics().presence_failures == 1


def test_a_notifier_belongs_to_one_event_loop() -> None:
    """Using a notifier on a second event loop raises UsageError instead of losing wake-ups."""
    notifier = Notifier(MemoryStore())
    anyio.run(notifier.push, "alice", "t")

    async def again() -> None:
        with pytest.raises(UsageError):
            await notifier.push("alice", "t")
        with pytest.raises(UsageError):
            await notifier.subscribe("alice").next()

    anyio.run(again)


async def test_a_notifier_without_async_with() -> None:
    """The contract's lines run as typed, without `async with`, and `aclose` leaves no task behind."""
    notifier = Notifier(store=MemoryStore(), router=MemoryRouter())
    event = await notifier.push("alice", "comment.created", {"post": 7})
    assert event is not None
    last_id = "0"
    async for evt in notifier.subscribe("alice", last_id):
        assert evt.payload == {"post": 7}
        break
    await notifier.aclose()
    assert notifier._parts.jobs.running == notifier._parts.services.running == 0


async def test_a_store_that_breaks_the_contract() -> None:
    """A store that returns something else than events makes the push uncertain; nothing else breaks."""

    class Odd(BatchStore):
        async def save_many(self, events: Sequence[Event]) -> Any:
            return ["not an event"] * len(events)

    class Empty(PlainStore):
        async def save(self, event: Event) -> Any:
            return None

    for store in (Odd(), Empty()):
        async with Notifier(store) as notifier:
            with pytest.raises(PushUncertainError, match="returned"):
                await notifier.push("alice", "t")


async def test_background_tasks(caplog: pytest.LogCaptureFixture) -> None:
    """A task that crashes is logged; a result or an exception comes back; what is closed starts nothing."""
    background = Background("test")

    async def crash() -> None:
        raise OSError("boom")

    async def answer() -> int:
        await anyio.lowlevel.checkpoint()
        return 42

    background.start(crash)
    assert await background.settle(1)
    assert "crash crashed" in caplog.text
    assert await background.run(answer) == 42
    with pytest.raises(OSError, match="boom"):
        await background.run(crash)
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            with pytest.raises(ClosedError):
                await background.run(anyio.sleep_forever)

        group.start_soon(wait)
        await until(lambda: background.running)
        assert not await background.settle(0.01)
        await background.aclose(1)
    with pytest.raises(ClosedError):
        background.start(crash)


async def test_work_that_is_cancelled_from_inside(caplog: pytest.LogCaptureFixture) -> None:
    """A CancelledError from a driver, while the task is not cancelled, is an error; a real cancellation passes."""
    background = Background("test")

    async def stray() -> None:
        await anyio.lowlevel.checkpoint()
        raise asyncio.CancelledError

    background.start(stray)
    assert await background.settle(1)
    assert "stray crashed" in caplog.text
    with pytest.raises(RuntimeError, match="stray was cancelled from inside") as caught:
        await background.run(stray)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    caplog.clear()

    async def time_out() -> None:
        with anyio.CancelScope() as limit:
            limit.cancel()
            outer.cancel()  # the owner closes at the same moment
            await anyio.sleep_forever()

    with anyio.CancelScope() as outer:
        await without_stray_cancellation(time_out)
    assert outer.cancelled_caught
    assert not caplog.records


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_tasks_that_asyncio_cancels() -> None:
    """`Task.cancel` is a real cancellation, for the work and for the task that waits for it."""
    task = asyncio.create_task(without_stray_cancellation(anyio.sleep, 60))
    await anyio.lowlevel.checkpoint()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_several_tasks_wait_for_the_same_work() -> None:
    """Every call of `settle` returns when the work ends, however many wait."""
    background, go = Background("test"), anyio.Event()
    background.start(go.wait)
    settled: list[bool] = []

    async def settle() -> None:
        settled.append(await background.settle(5))

    with anyio.fail_after(2):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(settle)
            await anyio.sleep(0.01)
            go.set()
    assert settled == [True] * 3


def test_a_task_that_a_callback_of_the_loop_starts() -> None:
    """A timer or a transport runs in no task: with asyncio it may start one all the same."""
    background = Background("test")

    async def main() -> None:
        done = asyncio.Event()

        async def job() -> None:
            done.set()

        asyncio.get_running_loop().call_soon(background.start, job, context=contextvars.Context())
        async with asyncio.timeout(5):
            await done.wait()
        assert await background.settle(5)
        background.start(anyio.sleep, 60)
        await background.aclose()  # before its first step
        assert not background.running

    asyncio.run(main())
