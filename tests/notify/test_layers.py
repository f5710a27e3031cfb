"""What layers above the core use: `push_event`, `push_events` and `announce`; reserved names in `meta`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from notify import ClosedError, Event, InvalidEventError, Notifier, PayloadTooLargeError, PushUncertainError, UsageError
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore, MemoryStreamStore
from tests.parts import STORES, NotingRouter, PlainStore, until

pytestmark = pytest.mark.anyio


def built(user: str = "alice", **options: Any) -> Event:
    return Event(user, "notify.special", {"n": 1}, meta={"notify.item": ""}, **options)


@pytest.fixture(params=STORES)
def make_store(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return STORES[request.param]


async def test_push_event_is_a_push(make_store: Callable[[], Any]) -> None:
    """A built event is stored as given, shown, routed and counted, in the order of the calls."""
    store, router = make_store(), NotingRouter()
    async with Notifier(store, router=router) as notifier, notifier.subscribe("alice") as stream:
        first = await notifier.push_event(built())
        second = await notifier.push("alice", "t", 2)
        assert [await stream.next(10), await stream.next(10)] == [first, second]
        assert (first.type, first.meta, first.payload) == ("notify.special", {"notify.item": ""}, {"n": 1})
        assert [event for event, _ in router.routed] == [first, second]
        assert notifier.statistics().pushes["stored"] == 2
        assert list((await store.read("alice", "0", 10)).events) == [first, second]


async def test_push_event_without_a_router() -> None:
    """The shortest path stores and shows too, and lets readers run now and then."""
    async with Notifier(MemoryStore()) as notifier, notifier.subscribe("alice") as stream:
        pushed = [await notifier.push_event(built()) for _ in range(130)]
        assert [await stream.next(10) for _ in range(130)] == pushed
        statistics = notifier.statistics()
        assert (statistics.pushes["stored"], statistics.delivered_local) == (130, 130)
        assert (await notifier.push_event(built("nina"))).id


async def test_push_event_follows_the_policy_for_absent_users() -> None:
    """With `offline="drop"`, the event of an absent user is dropped."""
    notifier = Notifier(MemoryStore(), presence=MemoryPresence(), offline="drop")
    async with notifier:
        assert await notifier.push_event(built()) is None
        report = await notifier.push_events([built("a"), built("b")])
        assert (report.events, report.offline) == ({}, ["a", "b"])


@pytest.mark.parametrize("call", ["push_event", "push_events", "announce"])
async def test_what_is_refused(call: str) -> None:
    """No stored event to push, no broadcast, nothing that is not an event; and only a stored one to announce."""
    async with Notifier(MemoryStore(), max_payload=100) as notifier:
        stored = await notifier.push("alice", "t")
        bad: list[Any] = ["text", Event("-", "t").addressed_to("")]
        bad.append(built() if call == "announce" else stored)
        for event in bad:
            with pytest.raises(InvalidEventError):
                await send(notifier, call, event)
        if call != "announce":
            with pytest.raises(PayloadTooLargeError):
                await send(notifier, call, Event("alice", "t", "x" * 100))
    if call == "announce":
        assert notifier.announce(stored) == 0
    else:
        with pytest.raises(ClosedError):
            await send(notifier, call, built())
        with pytest.raises(UsageError):
            await send(Notifier(), call, built())


async def send(notifier: Notifier, call: str, event: Any) -> Any:
    if call == "announce":
        return notifier.announce(event)
    return await (notifier.push_event(event) if call == "push_event" else notifier.push_events([event]))


async def test_push_events_reports_each_user(make_store: Callable[[], Any]) -> None:
    """Different events to different users: each is stored and shown; a user who is named twice is refused."""
    async with Notifier(make_store()) as notifier, notifier.subscribe("b") as stream:
        events = [Event(user, "t", user) for user in "abc"]
        report = await notifier.push_events(events)
        assert {user: event.payload for user, event in report.events.items()} == {"a": "a", "b": "b", "c": "c"}
        assert await stream.next(10) == report.events["b"]
        with pytest.raises(InvalidEventError, match="two for 'a'"):
            await notifier.push_events([built("a"), built("a")])
        assert (await notifier.push_events([])).events == {}


class Failing(PlainStore):
    async def save(self, event: Event) -> Event:
        raise OSError("lost")


class FailingAtOnce(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        raise OSError("lost")


@pytest.mark.parametrize("make", [Failing, FailingAtOnce])
async def test_a_failing_save_raises(make: Callable[[], Any]) -> None:
    """As for `push`: the outcome is unknown, and counted."""
    async with Notifier(make()) as notifier:
        with pytest.raises(PushUncertainError):
            await notifier.push_event(built())
        with pytest.raises(PushUncertainError):
            await notifier.push_events([built("a"), built("b")])
        assert notifier.statistics().pushes["uncertain"] == 3


class Sink(NotingRouter):
    every_event = True


async def test_announce_shows_and_routes() -> None:
    """An event that the store has stored by itself reaches local streams, other instances and sinks."""
    store, sink = MemoryStore(), Sink()
    router = MemoryRouter()
    async with (
        Notifier(store, router=[router, sink], poll_interval=60) as here,
        Notifier(store, router=router, poll_interval=60) as there,
        here.subscribe("alice") as near,
        there.subscribe("alice") as far,
    ):
        event = store.save_nowait(built())
        assert here.announce(event) == 1
        assert [await near.next(10), await far.next(10)] == [event, event]
        await until(lambda: sink.routed == [(event, None)])
        assert here.announce(event) == 0, "it was seen"


async def test_announce_beside_a_stream_store() -> None:
    """A store that announces by itself is not disturbed: the event is yielded once."""
    store = MemoryStreamStore()
    async with Notifier(store) as notifier, notifier.subscribe("alice") as stream:
        event = await store.save(built())
        notifier.announce(event)
        later = await notifier.push("alice", "t")
        assert [await stream.next(10), await stream.next(10)] == [event, later]


async def test_reserved_names_in_meta() -> None:
    """Applications cannot push names in `meta` that begin with `notify.`, by any call; others they can."""
    async with Notifier(MemoryStore()) as notifier:
        bad = {"a": "b", "notify.item": ""}
        for refused in (
            notifier.push("alice", "t", meta=bad),
            notifier.push("alice", "t", meta=bad, ephemeral=True),
            notifier.push_many(["alice"], "t", meta=bad),
            notifier.broadcast("t", meta=bad),
        ):
            with pytest.raises(InvalidEventError, match=r"notify\.item"):
                await refused
        assert (await notifier.push("alice", "t", meta={"notify": "x"})).meta == {"notify": "x"}
        assert (await notifier.broadcast("t", meta={"a": "b"})).meta == {"a": "b"}


class Name(str):
    """Not plain text, as the members of an enum of names are not."""

    __slots__ = ()


async def test_a_draft_has_plain_names() -> None:
    """Whatever subclass of `str` the caller has: only plain text is formatted as such everywhere."""
    async with Notifier(MemoryStore()) as notifier:
        draft = notifier.draft(Name("alice"), "t", reserved={"notify.item": ""})
        assert (type(draft.user), draft.user) == (str, "alice")
        assert type((await notifier.push_event(draft)).user) is str


class ReturnsOther(MemoryStore):
    """Returns something else than it stores."""

    def __init__(self, other: Callable[[Event], Any]) -> None:
        super().__init__()
        self.other = other

    def save_nowait(self, event: Event) -> Event:
        return self.other(super().save_nowait(event))  # type: ignore[no-any-return]


async def test_what_a_store_returns_is_checked() -> None:
    """Anything else than a stored event is refused, and reaches no stream."""
    for other in (lambda event: event.id, lambda event: None):
        async with Notifier(ReturnsOther(other)) as notifier, notifier.subscribe("alice") as stream:
            with pytest.raises(PushUncertainError, match="instead of a stored event"):
                await notifier.push_event(built())
            assert stream.next_nowait() is None
