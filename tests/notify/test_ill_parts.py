"""A part that fails does not disturb the others: what a broken router or tracker costs, and what is logged of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from notify import Event, Notifier, RoutingInfo
from notify._push import _locator, _routes
from notify._runtime import _receive_loop
from notify.abc import Deliver
from notify.adapters import Background, LiveLog
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore
from tests.parts import NotingRouter, PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio

SECRET = "DE89 3704 0044 0532 0130 00"

WAIT = 1.0
"""Seconds after which a notifier gives up on a part that hangs; calls that do not wait for it take almost no time."""


class BusRouter(MemoryRouter):
    """A router over a bus that may be down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = True
        self.attempts = 0

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        if self.down:
            raise ConnectionRefusedError(f"cannot send {event!r}")
        await super().route(event, to)

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        self.attempts += 1
        if self.down:
            raise ConnectionRefusedError("refused")
        await super().receive(instance_id, deliver, task_status=task_status)


@pytest.mark.parametrize("routers", [1, 3])
async def test_a_router_that_is_down_delays_neither_the_start_nor_a_stream(
    routers: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Entering and each stream take no time; when the router receives again, streams find what they missed."""
    buses = [BusRouter() for _ in range(routers)]
    inner = MemoryStore()
    began = anyio.current_time()
    async with Notifier(PlainStore(inner), router=buses, poll_interval=1e6, timeout=30.0) as notifier:
        for number in range(3):
            async with notifier.subscribe(f"user{number}"):
                pass
        async with notifier.subscribe("alice") as stream:
            assert anyio.current_time() - began < 10.0
            await inner.save(Event("alice", "t", "missed"))
            health = await notifier.check()
            assert [outcome != "ok" for name, outcome in health.parts.items() if name.startswith("router")] == [
                True
            ] * routers
            for bus in buses:
                bus.down = False
            assert (await stream.next(20)).payload == "missed"
            await until(lambda: caplog.text.count("BusRouter receives again") == routers)
    assert caplog.text.count("BusRouter does not receive") == routers


async def test_a_first_start_in_progress_is_waited_for() -> None:
    """While the router starts for the first time, the start of the notifier waits, so nothing routed is lost."""

    class Slow(MemoryRouter):
        async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
            await anyio.sleep(0.1)
            await super().receive(instance_id, deliver, task_status=task_status)

    router = Slow()
    async with Notifier(MemoryStore(), router=router) as notifier, notifier.subscribe("alice") as stream:
        await router.route(Event("alice", "typing"), None)
        assert (await stream.next(10)).type == "typing"


async def test_a_router_that_never_starts_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A `receive` that does not call `started()` holds up the start for `timeout`, no stream after it, and is named."""

    class Silent(NotingRouter):
        async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
            await anyio.sleep_forever()

    async with Notifier(MemoryStore(), router=Silent(), timeout=WAIT) as notifier:
        began = anyio.current_time()
        for number in range(5):
            async with notifier.subscribe(f"user{number}"):
                pass
        assert anyio.current_time() - began < WAIT * 0.9
    assert "Silent does not receive: it has not called task_status.started() within 1 s" in caplog.text


async def test_a_router_that_starts_late_is_said_to_receive(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `receive` that calls `started()` after `timeout` is no longer an outage from then on."""
    monkeypatch.setattr(_receive_loop, "SETTLED", 0.01)

    class Late(MemoryRouter):
        async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
            await anyio.sleep(0.1)
            await super().receive(instance_id, deliver, task_status=task_status)

    async with Notifier(MemoryStore(), router=Late(), timeout=0.05) as notifier:
        await until(lambda: "Late receives again" in caplog.text)
        assert (await notifier.check()).ok


async def test_a_listener_that_never_starts_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The `listen` of a stream store that does not call `started()` is named, too."""

    class Deaf(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.background = Background("deaf store")
            self.live = LiveLog(self, background=self.background, listen=self.listen, read_timeout=0.1)

        async def listen(self, *, task_status: TaskStatus[None]) -> None:
            await anyio.sleep_forever()

        def subscribe(self, user: str, last_id: Any = None) -> Any:
            return self.live.subscribe(user, last_id)

    store = Deaf()
    async with store.subscribe("alice"):
        await until(lambda: "it has not called task_status.started() within 0.1 s" in caplog.text)
    await store.background.aclose(1)


async def test_a_router_that_starts_and_fails_at_once_is_one_outage(caplog: pytest.LogCaptureFixture) -> None:
    """A `receive` that returns right after `started()`, again and again, is logged once."""

    class Short(NotingRouter):
        runs = 0

        async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
            self.runs += 1
            task_status.started()

    router = Short()
    async with Notifier(MemoryStore(), router=router):
        await until(lambda: router.runs > 3)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "Short does not receive: it returned without an error"
    ]


async def test_an_outage_of_a_router_is_two_lines_without_a_payload(caplog: pytest.LogCaptureFixture) -> None:
    """Sixty events that are not routed are one line when it begins and one when it ends; no line has a payload."""
    bus = BusRouter()
    with caplog.at_level(logging.DEBUG):
        async with Notifier(MemoryStore(), router=bus) as notifier:
            for _ in range(60):
                await notifier.push("alice", "t", {"iban": SECRET})
            await until(lambda: notifier.statistics().route_failures == 60)
            bus.down = False
            await notifier.push("alice", "t", {"iban": SECRET})
            await until(lambda: notifier.statistics().routed == 1)
    lines = [record.getMessage() for record in caplog.records if "route" in record.getMessage()]
    assert len(lines) == 2
    assert lines[0].startswith("BusRouter cannot route events to every instance, so streams find them in the log: ")
    assert lines[1] == "BusRouter routes events to every instance again"
    assert SECRET[:4] not in caplog.text


async def test_a_dead_instance_does_not_hide_another(caplog: pytest.LogCaptureFixture) -> None:
    """Instances fail and recover by themselves; those that are gone for good are forgotten in the end."""

    class Picky(NotingRouter):
        async def route(self, event: Event, to: RoutingInfo | None) -> None:
            if to is not None and to.instance_id.startswith("dead"):
                raise OSError("gone")
            await super().route(event, to)

    presence, router = MemoryPresence(), Picky()
    for instance in ("dead", "well"):
        presence.register_nowait("alice", RoutingInfo(instance))
    async with Notifier(MemoryStore(), router=router, presence=presence) as notifier:
        for _ in range(5):
            await notifier.push("alice", "t")
        for number in range(_routes.OUTAGES + 1):
            presence.register_nowait("bob", RoutingInfo(f"dead{number}"))
        await notifier.push("bob", "t")
        await notifier.push("alice", "t")
        await until(lambda: len(router.routed) == 6)
    assert caplog.text.count("to instance 'well'") == 0
    assert caplog.text.count("to instance 'dead'") == 2  # forgotten in between
    assert len(notifier._parts.routes[0]._outages) == _routes.OUTAGES


async def test_too_many_routes_are_one_line(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that hangs gets no further events beyond the limit, which is logged once."""
    monkeypatch.setattr(_routes, "CONCURRENT_ROUTES", 2)

    class Hanging(NotingRouter):
        async def route(self, event: Event, to: RoutingInfo | None) -> None:
            await anyio.sleep_forever()

    async with Notifier(MemoryStore(), router=Hanging(), timeout=0.2) as notifier:
        for _ in range(10):
            await notifier.push("alice", "t")
        await until(lambda: notifier.statistics().route_failures == 10)
    assert caplog.text.count("2 routes are in flight, which is the limit") == 1
    assert caplog.text.count("cannot route") == 1


class HangingPresence(SlowPresence):
    """Does not answer while `hangs`."""

    hangs = True

    async def _enter(self, name: str) -> None:
        self.calls.append(name)
        await anyio.sleep(60 if self.hangs else 0)


async def test_a_tracker_that_hangs_delays_no_push_where_it_only_routes(caplog: pytest.LogCaptureFixture) -> None:
    """Pushes return at once; events are routed to every instance, at first after `timeout`, then without waiting."""
    presence, router = HangingPresence(), NotingRouter()
    async with Notifier(MemoryStore(), presence=presence, router=router, timeout=WAIT) as notifier:
        began = anyio.current_time()
        for number in range(4):
            await notifier.push("alice", "n", number)
            await notifier.push("alice", "typing", number, ephemeral=True)
        await notifier.push_many(["alice", "bob"], "n", 4)
        assert anyio.current_time() - began < WAIT * 0.9
        assert router.routed == []
        await until(lambda: len(router.routed) == 10)
        await notifier.push("alice", "n", 5)
        assert [to for _, to in router.routed] == [None] * 11
        presence.hangs = False
        presence.inner.register_nowait("alice", RoutingInfo("elsewhere"))
        await until(lambda: not notifier._parts.jobs.running)  # the check under way still hangs until its time is up
        await notifier.push("alice", "n", 6)  # this one is routed at once, and finds out that the tracker answers
        await until(lambda: "works again" in caplog.text)
        await notifier.push("alice", "n", 7)
        await until(lambda: len(router.routed) == 13)
        assert router.routed[-1][1] == RoutingInfo("elsewhere")
    assert caplog.text.count("the presence check of HangingPresence failed") == 1
    assert caplog.text.count("the presence check of HangingPresence works again") == 1


async def test_without_a_router_presence_is_not_asked() -> None:
    """Where the answer would neither route nor decide, there is no question."""
    presence = SlowPresence()
    async with Notifier(MemoryStore(), presence=presence) as notifier:
        await notifier.push("alice", "t")
        await notifier.push_many(["alice", "bob"], "t")
    assert presence.calls == []


async def test_a_tracker_that_hangs_delays_the_first_push_only_where_it_decides() -> None:
    """With offline="drop" the first push waits for `timeout`; while the tracker is known to hang, nothing waits."""
    presence = HangingPresence()
    async with Notifier(MemoryStore(), presence=presence, offline="drop", timeout=WAIT) as notifier:
        began = anyio.current_time()
        assert await notifier.push("alice", "t") is not None
        assert WAIT * 0.9 < anyio.current_time() - began < 20  # the tracker would take a minute
        began = anyio.current_time()
        for _ in range(5):
            assert await notifier.push("alice", "t") is not None
        assert anyio.current_time() - began < WAIT * 0.9
        presence.hangs = False
        await until(lambda: not notifier._parts.jobs.running)
        await notifier.push("alice", "t")  # the check that finds out
        await until(lambda: not notifier._parts.jobs.running)
        assert await notifier.push("alice", "t") is None


async def test_a_user_with_a_stream_here_does_not_wait_for_the_tracker() -> None:
    """With offline="drop", a user who is connected to this very process is present, whatever the tracker does."""
    presence, router = HangingPresence(), NotingRouter()
    notifier = Notifier(MemoryStore(), presence=presence, router=router, offline="drop", timeout=WAIT)
    async with notifier, notifier.subscribe("alice", track=False) as stream:
        began = anyio.current_time()
        for number in range(3):
            await notifier.push("alice", "n", number)
            assert (await stream.next(10)).payload == number
        assert anyio.current_time() - began < WAIT * 0.9


async def test_streams_do_not_wait_for_a_tracker_that_is_known_to_hang(caplog: pytest.LogCaptureFixture) -> None:
    """The first stream waits for its registration for `timeout`; those after it open at once, registered later."""
    presence = HangingPresence()
    async with Notifier(MemoryStore(), presence=presence, timeout=WAIT) as notifier:
        async with notifier.subscribe("alice"):
            began = anyio.current_time()
            async with notifier.subscribe("bob"):
                assert anyio.current_time() - began < WAIT * 0.9
                presence.hangs = False
                await until(lambda: presence.inner.locate_nowait(["alice", "bob"]).keys() == {"alice", "bob"})
    assert caplog.text.count("cannot register users") == 1
    assert caplog.text.count("registers users again") == 1


async def test_requests_for_a_tracker_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit an event counts as located nowhere in particular, and is routed to every instance."""
    monkeypatch.setattr(_locator, "WAITING_AT_MOST", 3)
    presence, router = HangingPresence(), NotingRouter()
    async with Notifier(MemoryStore(), presence=presence, router=router, timeout=0.3) as notifier:
        for number in range(10):
            await notifier.push("alice", "n", number)
        await until(lambda: router.routed)
        assert presence.calls == ["locate"]


async def test_a_tracker_that_fails_to_release_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Registrations that cannot be released are one line when it begins and one when it ends."""
    failing = True

    class Sticky(MemoryPresence):
        def register_nowait(self, user: str, routing: RoutingInfo | None = None) -> Any:
            inner = super().register_nowait(user, routing)

            class Held:
                def release(self) -> None:
                    if failing:
                        raise OSError("gone")
                    inner.release()

                async def aclose(self) -> None:
                    self.release()

            return Held()

    async with Notifier(MemoryStore(), presence=Sticky(), linger=0) as notifier:
        for number in range(4):
            failing = number < 3
            async with notifier.subscribe("alice"):
                pass
    assert caplog.text.count("cannot release users") == 1
    assert caplog.text.count("releases users again") == 1


async def test_bytes_that_are_no_event_are_logged_without_their_content(caplog: pytest.LogCaptureFixture) -> None:
    """What a router delivers by mistake may be anybody's data: the line has no more than its first byte."""
    async with Notifier(MemoryStore()) as notifier:
        for garbage in (SECRET.encode(), b"1" + SECRET.encode(), b'1["' + SECRET.encode() + b'"]\n{}'):
            assert notifier.deliver(garbage) == 0
    assert "cannot be read" in caplog.text
    assert SECRET[5:] not in caplog.text


async def test_a_store_that_breaks_its_word_shows_no_payload() -> None:
    """The error about a store that returns something else than an event does not show what that is."""

    class Wrong(PlainStore):
        async def save(self, event: Event) -> Any:
            return {"iban": SECRET}

        async def save_many(self, events: Sequence[Event]) -> Any:
            return [{"iban": SECRET} for _ in events]

    async with Notifier(Wrong()) as notifier:
        with pytest.raises(Exception, match="instead of a stored event") as caught:
            await notifier.push("alice", "t")
    assert SECRET not in str(caught.value)
