"""Several routers, sinks, the verdict on each part, and what a notifier says about itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
import pytest

from notify import Event, Notifier, PushUncertainError, RoutingInfo, UsageError
from notify.errors import InvalidEventError
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore, MemoryStreamStore
from tests.notify.test_loops import ExternalStore
from tests.parts import BatchStore, NotingRouter, PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio

STORES = {
    "memory": MemoryStore,
    "stream": MemoryStreamStore,
    "external": ExternalStore,
    "plain": PlainStore,
    "batches": BatchStore,
}


class Sink(NotingRouter):
    """Gets every stored event."""

    every_event = True
    failing = False

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        if self.failing:
            raise OSError("the sink is away")
        await super().route(event, to)


async def test_each_router_of_a_sequence_gets_every_event() -> None:
    """Two routers carry a stored and an ephemeral event to another instance, which shows each once."""
    store, routers = MemoryStore(), (MemoryRouter(), MemoryRouter())
    noting = NotingRouter()
    async with (
        Notifier(store, router=[*routers, noting]) as one,
        Notifier(store, router=routers) as two,
        two.subscribe("alice") as stream,
    ):
        stored = await one.push("alice", "t", 1)
        assert await stream.next(10) == stored
        await one.push("alice", "typing", 2, ephemeral=True)
        assert (await stream.next(10)).payload == 2
        assert [event.payload for event, _ in noting.routed] == [1, 2]
        assert all(outcome == "ok" for outcome in (await two.check()).parts.values())


@pytest.mark.parametrize("wrong", [[None], [MemoryRouter], [object()], ["redis://"], (NotingRouter(), None)])
def test_what_is_no_router_among_them_is_refused(wrong: Any) -> None:
    """A sequence with something that cannot route is refused, and so is one that names a router twice."""
    with pytest.raises(UsageError, match="router="):
        Notifier(router=wrong)
    router = NotingRouter()
    with pytest.raises(UsageError, match="twice"):
        Notifier(router=[router, router])


@pytest.mark.parametrize(
    ("presence", "offline"),  # without presence, no user is known to be absent
    [(None, "store"), *((each, offline) for each in (MemoryPresence, SlowPresence) for offline in ("store", "drop"))],
)
@pytest.mark.parametrize("store", STORES)
async def test_a_sink_gets_each_stored_event_once(store: str, offline: Any, presence: Any) -> None:
    """Whatever presence says and whatever the store: by push and push_many, not by ephemeral events and broadcasts."""
    sink, tracker = Sink(), presence and presence()
    users = ["alice", "bob", *(f"user{number}" for number in range(600))]
    async with Notifier(STORES[store](), router=[sink, NotingRouter()], presence=tracker, offline=offline) as notifier:
        if tracker is not None:
            await tracker.register("alice", RoutingInfo("elsewhere"))
            await tracker.register("user7", RoutingInfo("elsewhere"))
        events = [await notifier.push(user, "t", 1, key="k") for user in ("alice", "bob")]
        await notifier.push("alice", "t", 2, key="k")  # a repetition stores nothing
        await notifier.push("alice", "typing", ephemeral=True)
        await notifier.broadcast("t")
        report = await notifier.push_many(users, "t", 3)
        stored = {event.id + event.user: event for event in (*filter(None, events), *report.events.values())}
        await until(lambda: len(sink.routed) >= len(stored))
    assert {event.id + event.user: event for event, _ in sink.routed} == stored
    assert len(sink.routed) == len(stored)
    assert {to for _, to in sink.routed} == {None}
    if tracker is not None and offline == "drop":
        assert {event.user for event in stored.values()} == {"alice", "user7"}


async def test_a_sink_gets_the_event_of_a_push_whose_outcome_was_unknown() -> None:
    """An event that was stored although the push was uncertain reaches the sink when its key is repeated, once."""

    class Losing(PlainStore):
        answers = False

        async def save(self, event: Event) -> Event:
            stored = await super().save(event)
            if not self.answers:
                raise OSError("the answer was lost")
            return stored

    store, sink = Losing(MemoryStore(max_len=5000)), Sink()
    async with Notifier(store, router=[sink]) as notifier:
        for number in range(1001):
            with pytest.raises(PushUncertainError):
                await notifier.push("alice", "t", number, key=f"k{number}")
        store.answers = True
        assert sink.routed == []
        for _ in range(3):
            await notifier.push("alice", "t", key="k1000")
        await notifier.push("alice", "t", key="k0")  # too long ago to be remembered
        await until(lambda: sink.routed)
    assert [event.payload for event, _ in sink.routed] == [1000]


async def test_the_verdict_names_each_router() -> None:
    """`check` sends no probe to a sink: it is well until an event fails, and well again after the next one."""
    sink, silent = Sink(), SlowPresence()
    async with Notifier(MemoryStore(), router=[MemoryRouter(), sink], presence=silent) as notifier:
        health = await notifier.check()
        assert dict(health.parts) == {
            "store": "ok", "presence": "ok", "router 0 (MemoryRouter)": "ok", "router 1 (Sink)": "ok"
        }  # fmt: skip
        sink.failing = True
        await notifier.push("alice", "t")
        await until(lambda: notifier.statistics().route_failures)
        silent.broken = True
        health = await notifier.check()
        assert not health.ok
        assert "the sink is away" in health.parts["router 1 (Sink)"]
        assert "the tracker is down" in health.parts["presence"]
        sink.failing = silent.broken = False
        await notifier.push("alice", "t")
        await until(lambda: sink.routed)
        assert (await notifier.check()).ok
    assert all(event.type == "t" for event, _ in sink.routed)


async def test_all_parts_are_asked_at_once() -> None:
    """With every part hanging, the verdict is there after `timeout` of the call, not after one for each part."""
    asked: list[str] = []
    end = anyio.Event()

    class Hanging(PlainStore):
        async def head(self, user: str) -> str:
            asked.append("store")
            with anyio.CancelScope(shield=True):
                await end.wait()
            raise AssertionError

    class HangingPresence(SlowPresence):
        async def locate(self, users: Sequence[str]) -> Any:
            asked.append("presence")
            await anyio.sleep_forever()

    class HangingRouter(NotingRouter):
        async def route(self, event: Event, to: RoutingInfo | None) -> None:
            asked.append("router")
            await anyio.sleep_forever()

    notifier = Notifier(Hanging(), presence=HangingPresence(), router=HangingRouter())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(notifier.check, timeout=3600.0))
        await until(lambda: len(asked) == 3)
        tasks.cancel_scope.cancel()
    with anyio.fail_after(20):
        health = await notifier.check(timeout=0.2)
    end.set()
    assert dict(health.parts) == dict.fromkeys(("store", "presence", "router"), "no answer within 0.2 s")
    wrong: list[Any] = [0, -1, "1", float("nan")]
    for each in wrong:
        with pytest.raises(UsageError, match="timeout must be"):
            await notifier.check(timeout=each)
    await notifier.aclose()


@pytest.mark.parametrize("store", STORES)
async def test_what_streams_yield_is_counted_on_every_store(store: str) -> None:
    """Replayed, live and ephemeral events, and those that `next(0)` returns: each is counted once."""
    async with Notifier(STORES[store]()) as notifier:
        for number in range(3):
            await notifier.push("alice", "t", number)
        async with notifier.subscribe("alice", "0") as stream:
            for _ in range(3):
                await stream.next(2)
            await notifier.push("alice", "t", 3)
            await stream.next(2)
            await notifier.push("alice", "t", 4, ephemeral=True)
            await stream.next(2)
            assert notifier.statistics().yielded == 5


async def test_what_merged_streams_yield_is_counted() -> None:
    """Events of several logs in one stream, and those that `next(0)` returns: each is counted once."""
    async with Notifier(MemoryStore()) as notifier:
        for number in range(3):
            await notifier.push("alice", "t", number)
        async with notifier.subscribe(["alice", "bob"], "0") as merged:
            await merged.next(2)
            assert notifier.statistics().yielded == 1
            await merged.next(0)
            assert notifier.statistics().yielded == 2


async def test_a_notifier_says_what_it_is() -> None:
    """Its repr names the parts and the state, and no address of a part."""
    notifier = Notifier(MemoryStore(), router=MemoryRouter(), presence=MemoryPresence(), instance_id="web-1")
    assert repr(notifier) == "<Notifier 'web-1' MemoryStore MemoryPresence MemoryRouter open>"
    await notifier.drain(0)
    assert repr(notifier).endswith("draining>")
    await notifier.aclose()
    assert repr(notifier).endswith("closed>")


async def test_the_store_can_be_reached() -> None:
    """What is built on a notifier finds the store that it was given, or opened by its URL."""
    store = MemoryStore()
    assert Notifier(store).store is store
    assert Notifier(router=MemoryRouter()).store is None
    async with Notifier.from_url("memory://") as notifier:
        assert isinstance(notifier.store, MemoryStore)


def test_a_notifier_without_a_store_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """It is legal, so it is an INFO line; with a store there is none."""
    with caplog.at_level(logging.INFO, "notify"):
        Notifier(MemoryStore())
        assert caplog.text == ""
        Notifier()
    assert "every event is ephemeral" in caplog.text


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({name: None}, f"{name} must be a number")
    for name in ("buffer_size", "poll_interval", "audit_interval", "linger", "max_payload", "max_pending", "timeout")
]
OPTIONS += [({name: "5"}, f"{name} must be") for name in ("timeout", "linger", "max_pending")]
OPTIONS += [({name: 1.5}, f"{name} must be a whole number") for name in ("buffer_size", "max_payload", "max_pending")]
OPTIONS += [({"metadata": 5}, "metadata must map"), ({"offline": None}, "offline must be")]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=str)
def test_options_of_the_wrong_kind_are_named(options: dict[str, Any], message: str) -> None:
    """A value that is not a number, and a fraction where something is counted, raise UsageError with the name."""
    with pytest.raises(UsageError, match=message):
        Notifier(**options)


@pytest.mark.parametrize("option", ["max_len", "key_window", "max_age"])
def test_options_of_a_store_are_named_too(option: str) -> None:
    """The options that all stores share are checked in the same way."""
    with pytest.raises(UsageError, match=f"{option} must be a number greater than 0"):
        MemoryStore(**{option: "1"})  # type: ignore[arg-type]
    if option != "max_age":
        with pytest.raises(UsageError, match=f"{option} must be a number greater than 0, not None"):
            MemoryStore(**{option: None})  # type: ignore[arg-type]


async def test_what_is_almost_a_name_is_refused_with_the_remedy() -> None:
    """The first mistake with integer keys: the message says what to pass."""
    user: Any
    async with Notifier(MemoryStore()) as notifier:
        for user, remedy in ((42, r"pass str\(...\) of this int"), (b"alice", "pass it decoded")):
            with pytest.raises(InvalidEventError, match=f"^user must be .*: {remedy}"):
                await notifier.push(user, "t")
        with pytest.raises(InvalidEventError, match=r"^user must be .*, not None$"):
            await notifier.push(None, "t")  # type: ignore[arg-type]
