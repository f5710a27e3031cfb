"""`push`, `push_many`, `broadcast` and `deliver`: what is stored, shown, refused and reported."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import (
    BackendError,
    ClosedError,
    Event,
    InvalidEventError,
    Notifier,
    NotifyError,
    OverloadedError,
    PayloadTooLargeError,
    PushRejectedError,
    PushUncertainError,
    RoutingInfo,
    Stream,
    UsageError,
)
from notify._push._bulk import BATCH
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore, MemoryStreamStore
from tests.parts import BatchStore, NotingRouter, PlainStore, SlowPresence, until

pytestmark = pytest.mark.anyio

STORES = {
    "memory": MemoryStore,
    "memory stream store": MemoryStreamStore,
    "no abilities": PlainStore,
    "batches": BatchStore,
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


@pytest.fixture
async def notifier(store: Any) -> AsyncIterator[Notifier]:
    async with Notifier(store=store) as notifier:
        yield notifier


async def stored(store: Any, user: str) -> list[Event]:
    return list((await store.read(user, "0", 1000)).events)


async def test_a_push_reaches_an_open_stream(notifier: Notifier, store: Any) -> None:
    """An open stream yields the pushed event: same user, type, payload and id as in the store, once."""
    async with notifier.subscribe("alice") as stream:
        event = await notifier.push("alice", "comment.created", {"post": 7}, group="post:7", meta={"a": "b"})
        seen = await stream.next(10)
        with pytest.raises(TimeoutError):
            await stream.next(0.05)
    assert seen == event == (await stored(store, "alice"))[0]
    assert (seen.user, seen.type, seen.payload, seen.group, dict(seen.meta)) == (
        "alice",
        "comment.created",
        {"post": 7},
        "post:7",
        {"a": "b"},
    )
    assert seen.prev == "0"


async def test_two_streams_of_a_user_get_it_once_each_and_others_nothing(notifier: Notifier) -> None:
    """Each of two streams of the user yields the event once; a stream of somebody else yields nothing."""
    async with (
        notifier.subscribe("alice") as one,
        notifier.subscribe("alice") as two,
        notifier.subscribe("bob") as other,
    ):
        await notifier.push("alice", "t", 1)
        assert (await one.next(10)).payload == (await two.next(10)).payload == 1
        for stream in (one, two, other):
            with pytest.raises(TimeoutError):
                await stream.next(0.03)


async def test_pushes_of_one_task_arrive_in_order(notifier: Notifier) -> None:
    """What one task pushes one after the other is yielded in that order, across replay and live."""
    for n in range(10):
        await notifier.push("alice", "t", n)
    seen = []
    async with notifier.subscribe("alice", "0") as stream:
        for n in range(10, 40):
            await notifier.push("alice", "t", n)
            seen.append((await stream.next(10)).payload)
        seen += [(await stream.next(2)).payload for _ in range(10)]
    assert seen == list(range(40))


async def test_fifty_concurrent_pushes_to_ten_streams(notifier: Notifier) -> None:
    """With fifty concurrent pushes every one of ten streams yields all fifty, ids growing."""
    streams = [notifier.subscribe("alice", "0") for _ in range(10)]
    got: list[list[Event]] = [[] for _ in streams]

    async def read(index: int) -> None:
        async for event in streams[index]:
            got[index].append(event)
            if len(got[index]) == 50:
                break

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for index in range(10):
                group.start_soon(read, index)
            for n in range(50):
                group.start_soon(notifier.push, "alice", "t", n)
    for events in got:
        assert sorted(event.payload for event in events) == list(range(50))
        assert [event.prev for event in events] == ["0", *(event.id for event in events[:-1])]


async def test_changing_the_payload_afterwards_changes_nothing(notifier: Notifier, store: Any) -> None:
    """The payload is encoded at push; changing the object later changes neither the stored nor the shown event."""
    payload = {"tags": ["a"]}
    async with notifier.subscribe("alice") as stream:
        await notifier.push("alice", "t", payload)
        payload["tags"].append("b")
        seen = await stream.next(10)
        seen.payload["tags"].append("c")
    assert seen.payload == (await stored(store, "alice"))[0].payload == {"tags": ["a"]}


async def test_a_key_makes_a_push_idempotent(notifier: Notifier, store: Any) -> None:
    """The same user and key stores one event, returns it again, and is shown once; another user has keys of its own."""
    async with notifier.subscribe("alice") as stream:
        first = await notifier.push("alice", "t", 1, key="order-1")
        again = await notifier.push("alice", "t", 2, key="order-1")
        other = await notifier.push("bob", "t", 3, key="order-1")
        last = await notifier.push("alice", "t", 4)
        assert [await stream.next(10), await stream.next(10)] == [first, last]
    assert again == first
    assert other is not None
    assert other.payload == 3
    assert len(await stored(store, "alice")) == 2


BAD = {
    "empty user": ("", "t", None, {}),
    "user with a control character": ("a\nb", "t", None, {}),
    "user with NUL": ("a\0", "t", None, {}),
    "user with a C1 control": ("a\x85", "t", None, {}),
    "user with a lone surrogate": ("a\ud800", "t", None, {}),
    "user of 256 bytes": ("é" * 128, "t", None, {}),
    "user that is no text": (7, "t", None, {}),
    "user of bytes": (b"alice", "t", None, {}),
    "empty type": ("a", "", None, {}),
    "type with a space": ("a", "a b", None, {}),
    "type with CRLF": ("a", "a\r\nb", None, {}),
    "type with a trailing newline": ("a", "a\n", None, {}),
    "type of 129 characters": ("a", "t" * 129, None, {}),
    "type beyond ASCII": ("a", "é", None, {}),
    "type that is no text": ("a", None, None, {}),
    "the library's own type": ("a", "notify.gap", None, {}),
    "NaN": ("a", "t", float("nan"), {}),
    "infinity": ("a", "t", [float("inf")], {}),
    "a set": ("a", "t", {1, 2}, {}),
    "bytes": ("a", "t", b"x", {}),
    "a lone surrogate in the payload": ("a", "t", "\ud800", {}),
    "an empty key": ("a", "t", None, {"key": ""}),
    "a key with NUL": ("a", "t", None, {"key": "\0"}),
    "a group of 256 bytes": ("a", "t", None, {"group": "g" * 256}),
    "meta that is no mapping": ("a", "t", None, {"meta": [1]}),
    "meta with a number": ("a", "t", None, {"meta": {"a": 1}}),
    "meta with a lone surrogate": ("a", "t", None, {"meta": {"a": "\ud800"}}),
    "meta of 9,000 characters": ("a", "t", None, {"meta": {"a": "x" * 9000}}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_bad_input_is_refused_before_anything_is_stored(notifier: Notifier, store: Any, bad: Any) -> None:
    """Bad input raises InvalidEventError from every way of pushing, and stores nothing."""
    user, type_, payload, rest = bad
    with pytest.raises(InvalidEventError):
        await notifier.push(user, type_, payload, **rest)
    with pytest.raises(InvalidEventError):
        await notifier.push(user, type_, payload, ephemeral=True, **rest)
    with pytest.raises(InvalidEventError):
        await notifier.push_many([user], type_, payload, **rest)
    if isinstance(user, str) and user == "a" and "key" not in rest:
        with pytest.raises(InvalidEventError):
            await notifier.broadcast(type_, payload, **rest)
    assert await stored(store, "a") == []


async def test_a_circular_payload_is_refused(notifier: Notifier) -> None:
    """A payload that contains itself raises InvalidEventError, and the next push works."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidEventError):
        await notifier.push("a", "t", loop)
    assert await notifier.push("a", "t", [[]]) is not None


async def test_the_payload_limit_counts_bytes_of_json(store: Any) -> None:
    """A payload of exactly the limit is accepted; one byte more raises PayloadTooLargeError with both figures."""
    async with Notifier(store=store, max_payload=10) as notifier:
        assert await notifier.push("a", "t", "é" * 4) is not None
        with pytest.raises(PayloadTooLargeError) as caught:
            await notifier.push("a", "t", "é" * 4 + "x")
        assert (caught.value.size, caught.value.limit) == (11, 10)
        with pytest.raises(PayloadTooLargeError):
            await notifier.push_many(["a", "b"], "t", "x" * 9)
        with pytest.raises(PayloadTooLargeError):
            await notifier.broadcast("t", "x" * 9)
    assert len(await stored(store, "a")) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"offline": "keep"},
        {"buffer_size": 0},
        {"poll_interval": 0},
        {"audit_interval": -1},
        {"linger": -1},
        {"max_payload": 0},
        {"max_pending": 0},
        {"timeout": float("nan")},
    ],
)
async def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    """A notifier with a senseless option raises UsageError at once."""
    with pytest.raises(UsageError):
        Notifier(**options)


@pytest.mark.parametrize("part", ["store", "router", "presence"])
@pytest.mark.parametrize("wrong", [MemoryStore, object(), "redis://"])
async def test_what_is_no_part_is_refused(part: str, wrong: Any) -> None:
    """A class where an object belongs, or an object without the methods, raises UsageError at once."""
    with pytest.raises(UsageError, match="method"):
        Notifier(**{part: wrong})


async def test_a_bad_instance_id_is_refused() -> None:
    """An instance id follows the rules of names."""
    with pytest.raises(InvalidEventError, match=r"^instance_id "):
        Notifier(instance_id="")


class Failing(PlainStore):
    """Raises what it is given, for the users it is given."""

    def __init__(self, error: Exception, users: Sequence[str] = ("alice",)) -> None:
        super().__init__()
        self.error, self.users = error, users

    async def save(self, event: Event) -> Event:
        if event.user in self.users:
            raise self.error
        return await super().save(event)


class FailingMemory(MemoryStore):
    """Overrides the plain method alone, as a user would."""

    async def save(self, event: Event) -> Event:
        raise OSError("disk")


class FailingNow(MemoryStore):
    """Fails at the ability itself."""

    def save_nowait(self, event: Event) -> Event:
        raise OSError("disk")


async def test_a_save_that_fails_at_once() -> None:
    """The same without a router or a tracker, where a push has nothing to wait for."""
    async with Notifier(store=FailingNow()) as notifier, notifier.subscribe("alice") as stream:
        with pytest.raises(PushUncertainError) as caught:
            await notifier.push("alice", "t")
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(TimeoutError):
            await stream.next(0.03)


@pytest.mark.parametrize("kind", [lambda: Failing(OSError("disk")), FailingMemory, FailingNow])
async def test_a_save_that_fails_raises_and_nobody_sees_the_event(kind: Any) -> None:
    """A store's own exception becomes PushUncertainError with the cause kept; no stream gets the event."""
    store = kind()
    async with Notifier(store=store, router=(router := NotingRouter())) as notifier:
        async with notifier.subscribe("alice") as stream:
            with pytest.raises(PushUncertainError) as caught:
                await notifier.push("alice", "t")
            with pytest.raises(TimeoutError):
                await stream.next(0.03)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.backend == type(store).__name__
        assert notifier.statistics().pushes["uncertain"] == 1
    assert router.routed == []


async def test_a_rejected_save_is_passed_on() -> None:
    """A library error of the store reaches the caller unchanged and is counted."""
    error = PushRejectedError("full", backend="disk")
    async with Notifier(store=Failing(error)) as notifier:
        with pytest.raises(PushRejectedError) as caught:
            await notifier.push("alice", "t")
        assert caught.value is error
        assert notifier.statistics().pushes["rejected"] == 1


async def test_push_on_a_closed_notifier(store: Any) -> None:
    """Every way of pushing raises ClosedError after close, and the store is untouched; deliver takes nothing."""
    notifier = Notifier(store=store)
    await notifier.aclose()
    for call in (notifier.push("a", "t"), notifier.push_many(["a"], "t"), notifier.broadcast("t"), notifier.check()):
        with pytest.raises(ClosedError):
            await call
    with pytest.raises(ClosedError):
        notifier.subscribe("a")
    with pytest.raises(ClosedError):
        await notifier.__aenter__()
    assert notifier.deliver(Event("a", "t")) == 0
    assert await stored(store, "a") == []


async def test_without_a_store_events_are_live_only() -> None:
    """With neither store nor presence a live stream still gets the event; its id is empty."""
    async with Notifier() as notifier, notifier.subscribe("alice") as stream:
        event = await notifier.push("alice", "t", 1)
        assert event is not None
        assert event.id == ""
        assert (await stream.next(10)).payload == 1
        report = await notifier.push_many(["alice", "bob"], "t", 2)
        assert set(report.events) == {"alice", "bob"}
        assert (await stream.next(10)).payload == 2


async def test_without_a_store_a_routed_event_is_shown_once() -> None:
    """A notifier without a store shows an event of an instance with one, once, also if it arrives twice."""
    stored_event = await MemoryStore().save(Event("alice", "t", 1))
    async with Notifier() as notifier, notifier.subscribe("alice", "0") as stream:
        assert [notifier.deliver(stored_event), notifier.deliver(stored_event)] == [1, 0]
        assert await stream.next(10) == stored_event
        assert stream.last_id == stored_event.id


# -- ephemeral, broadcast, deliver ---------------------------------------------------------------------------------


async def test_an_ephemeral_event_is_shown_and_not_stored(notifier: Notifier, store: Any) -> None:
    """An ephemeral event reaches open streams in order with the others, moves no cursor and is in no log."""
    async with notifier.subscribe("alice") as stream:
        first = await notifier.push("alice", "t", 1)
        await notifier.push("alice", "typing", 2, ephemeral=True)
        await notifier.push("alice", "t", 3)
        assert [(await stream.next(10)).payload for _ in range(2)] == [1, 2]
        assert first is not None
        assert stream.last_id == first.id
        assert (await stream.next(10)).payload == 3
    assert [event.payload for event in await stored(store, "alice")] == [1, 3]


async def test_broadcast_reaches_every_open_stream_of_every_instance(store: Any) -> None:
    """A broadcast reaches each open stream on both instances once, although the router echoes it."""
    router = MemoryRouter()
    async with (
        Notifier(store=store, router=router) as one,
        Notifier(store=store, router=router) as two,
        one.subscribe("alice") as a,
        one.subscribe("bob") as b,
        two.subscribe("alice") as c,
    ):
        event = await one.broadcast("maintenance", {"at": "22:00"}, group="downtime", meta={"x": "y"})
        assert (event.user, event.id) == ("", "")
        for stream in (a, b, c):
            shown = await stream.next(10)
            assert (shown.payload, shown.group, shown.meta["x"]) == ({"at": "22:00"}, "downtime", "y")
            with pytest.raises(TimeoutError):
                await stream.next(0.03)


async def test_deliver_says_how_many_took_it(notifier: Notifier, store: Any) -> None:
    """Deliver returns the number of local streams that took the offer: 0 for an unknown user and for a duplicate."""
    async with notifier.subscribe("alice") as one, notifier.subscribe("alice") as two:
        event = await notifier.push("alice", "t", 1)
        assert event is not None
        assert notifier.deliver(event) == 0
        assert notifier.deliver(event.addressed_to("nobody")) == 0
        assert notifier.deliver(Event("alice", "t", 2)) == 2
        assert [(await s.next(10)).payload for s in (one, one, two, two)] == [1, 2, 1, 2]
        assert notifier.statistics().duplicates == 1
        assert notifier.statistics().delivered_routed == 2
    with pytest.raises(InvalidEventError):
        notifier.deliver("event")  # type: ignore[arg-type]
    assert len(await stored(store, "alice")) == 1


# -- presence gate -------------------------------------------------------------------------------------------------


@pytest.fixture(params=[MemoryPresence, SlowPresence])
def presence(request: pytest.FixtureRequest) -> Any:
    return request.param()


async def present(presence: Any) -> bool:
    return "alice" in await presence.locate(["alice"])


async def absent(presence: Any) -> bool:
    return not await present(presence)


async def test_the_policy_drop_neither_stores_nor_routes_for_absent_users(store: Any, presence: Any) -> None:
    """With offline="drop" a push to an absent user returns None, stores nothing and routes nothing."""
    router = NotingRouter()
    async with Notifier(store=store, router=router, presence=presence, offline="drop") as notifier:
        assert await notifier.push("alice", "t") is None
        assert notifier.statistics().pushes["offline"] == 1
        await presence.register("alice", RoutingInfo("elsewhere"))
        assert await notifier.push("alice", "t") is not None
    assert len(await stored(store, "alice")) == 1
    assert [to for _, to in router.routed] == [RoutingInfo("elsewhere")]


async def test_the_policy_store_keeps_events_for_absent_users(store: Any, presence: Any) -> None:
    """By default an event pushed between disconnect and reconnect is in the replay."""
    async with Notifier(store=store, presence=presence) as notifier:
        async with notifier.subscribe("alice") as stream:
            last_id = stream.last_id
        event = await notifier.push("alice", "t")
        async with notifier.subscribe("alice", last_id) as stream:
            assert await stream.next(10) == event


async def test_a_presence_check_that_fails_counts_as_online(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With a broken tracker push and push_many save, deliver and route to every instance, warn and count."""
    presence, router = SlowPresence(), NotingRouter()
    presence.broken = True
    async with Notifier(store=store, presence=presence, router=router, offline="drop", linger=0) as notifier:
        async with notifier.subscribe("alice") as stream:
            with caplog.at_level(logging.WARNING, "notify"):
                await notifier.push("alice", "t", 1)
                await notifier.push_many(["alice", "bob"], "t", 2)
            assert [(await stream.next(10)).payload for _ in range(2)] == [1, 2]
        assert notifier.statistics().presence_failures >= 3
    assert "presence" in caplog.text
    assert [to for _, to in router.routed] == [None, None, None]
    assert len(await stored(store, "bob")) == 1


async def test_a_presence_check_that_hangs_delays_a_push_by_the_timeout_at_most(store: Any) -> None:
    """A tracker that never answers counts as one that fails, after `timeout`."""

    class Hanging(SlowPresence):
        async def _enter(self, name: str) -> None:
            await anyio.sleep_forever()

    async with Notifier(store=store, presence=Hanging(), timeout=0.05) as notifier:
        with anyio.fail_after(2):
            assert await notifier.push("alice", "t") is not None
            async with notifier.subscribe("alice", "0") as stream:
                assert (await stream.next(10)).type == "t"


async def test_an_open_stream_makes_its_user_present_and_lingers(store: Any, presence: Any) -> None:
    """An open stream registers its user once; after the last one the user stays present for `linger`, then goes."""
    async with Notifier(store=store, presence=presence, linger=0.2, metadata={"url": "x"}) as notifier:
        async with notifier.subscribe("alice"), notifier.subscribe("alice"):
            located = await presence.locate(["alice"])
            assert located == {"alice": [RoutingInfo(notifier.instance_id, {"url": "x"})]}
        assert "alice" in await presence.locate(["alice"])
        async with notifier.subscribe("alice"):  # back within the time: still the same registration
            await anyio.sleep(0.3)
            assert "alice" in await presence.locate(["alice"])
        await until(lambda: absent(presence))


async def test_track_false_and_linger_zero(store: Any, presence: Any) -> None:
    """An untracked stream makes no user present; without linger the user leaves with the last stream."""
    async with Notifier(store=store, presence=presence, linger=0) as notifier:
        async with notifier.subscribe("alice", track=False):
            assert await presence.locate(["alice"]) == {}
        async with notifier.subscribe("alice"):
            assert list(await presence.locate(["alice"])) == ["alice"]
        assert await presence.locate(["alice"]) == {}


def test_a_stream_that_outlives_its_event_loop() -> None:
    """A stream that is dropped after the event loop ended releases its user without a complaint."""
    presence = MemoryPresence()

    async def main() -> Stream:
        stream = Notifier(MemoryStore(), presence=presence).subscribe("alice")
        with pytest.raises(TimeoutError):
            await stream.next(0.01)
        return stream

    stream: Stream | None = anyio.run(main)
    assert stream is not None
    assert list(presence.locate_nowait(["alice"])) == ["alice"]
    stream = None
    gc.collect()
    assert presence.locate_nowait(["alice"]) == {}


async def test_closing_the_notifier_releases_presence(store: Any, presence: Any) -> None:
    """After close others see the users offline at once, linger or not."""
    async with Notifier(store=store, presence=presence) as notifier, notifier.subscribe("alice"):
        pass
    assert await presence.locate(["alice"]) == {}


async def test_a_tracker_that_recovers_gets_the_registration(store: Any) -> None:
    """A registration that failed is tried again until it holds."""
    presence = SlowPresence()
    presence.broken = True
    async with Notifier(store=store, presence=presence) as notifier, notifier.subscribe("alice"):
        presence.broken = False
        await until(lambda: present(presence))


async def test_closing_lets_go_of_a_stream_that_waits_for_its_registration(store: Any) -> None:
    """A stream that is still opening because the tracker hangs ends with the notifier."""

    class Hanging(SlowPresence):
        async def register(self, user: str, routing: RoutingInfo | None = None) -> Any:
            await anyio.sleep_forever()

    notifier = Notifier(store, presence=Hanging(), timeout=10)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:

            async def read() -> None:
                with pytest.raises(ClosedError):
                    await notifier.subscribe("alice").next()

            group.start_soon(read)
            await until(lambda: notifier.statistics().open_streams == 1)
            await notifier.aclose()


async def test_a_registration_that_comes_too_late_is_released(store: Any) -> None:
    """A user who left while the tracker was still registering is not left behind as present."""
    gate = anyio.Event()

    class Gated(SlowPresence):
        async def register(self, user: str, routing: RoutingInfo | None = None) -> Any:
            await gate.wait()
            return await super().register(user, routing)

    presence = Gated()
    async with Notifier(store=store, presence=presence, linger=0) as notifier:
        with anyio.move_on_after(0.02):
            async with notifier.subscribe("alice"):
                pytest.fail("the stream opens only after the registration")
        gate.set()
        await until(lambda: presence.calls == ["register"])
        await until(lambda: absent(presence))


# -- push_many -----------------------------------------------------------------------------------------------------


async def test_push_many_reports_user_by_user(notifier: Notifier, store: Any) -> None:
    """Each user, named twice or not, gets one event, and the report and the live copy have the stored id."""
    async with notifier.subscribe("alice") as stream:
        report = await notifier.push_many(["alice", "bob", "alice"], "t", 1, group="g")
        seen = await stream.next(10)
    assert list(report.events) == ["alice", "bob"]
    assert (report.failed, list(report.offline)) == ({}, [])
    assert seen == report.events["alice"] == (await stored(store, "alice"))[0]
    assert [event.user for event in await stored(store, "bob")] == ["bob"]


async def test_push_many_of_nobody(store: Any) -> None:
    """An empty list is no error and no store call."""
    plain = BatchStore()
    async with Notifier(store=plain) as notifier:
        report = await notifier.push_many([], "t")
    assert (report.events, report.failed) == ({}, {})
    assert plain.calls == []


@pytest.mark.parametrize("users", ["abc", b"abc", 5, None])
async def test_push_many_to_one_name_is_refused(users: Any) -> None:
    """A single user id is a mistake of the caller, not a list of its letters; nothing is stored."""
    plain = BatchStore()
    async with Notifier(store=plain) as notifier:
        with pytest.raises(InvalidEventError, match="an iterable of user ids"):
            await notifier.push_many(users, "t")
    assert plain.calls == []


async def test_push_many_to_what_is_no_user_fails_for_that_one(store: Any) -> None:
    """What cannot be a user, hashable or not, is reported as failed; the others get the event."""
    async with Notifier(store=store) as notifier:
        report = await notifier.push_many([["x"], "alice", None, ""], "t")  # type: ignore[list-item]
    assert list(report.events) == ["alice"]
    assert set(report.failed) == {"['x']", "None", ""}


async def test_push_many_makes_one_batch_call_or_one_save_for_each() -> None:
    """A store that can save many is called once; one that cannot, once for each user."""
    async with Notifier(store=(batching := BatchStore())) as notifier:
        await notifier.push_many(["a", "b", "c"], "t")
    assert [call for call in batching.calls if call.startswith("save")] == ["save_many 3"]
    async with Notifier(store=(plain := PlainStore())) as notifier:
        await notifier.push_many(["a", "b", "c"], "t")
    assert plain.calls.count("save") == 3


async def test_push_many_batches_are_bounded_and_others_proceed() -> None:
    """Ten thousand users take bounded batches, and a single push gets through in between."""
    gate = anyio.Event()

    class Gated(BatchStore):
        async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
            outcomes = await super().save_many(events)
            if len(events) > 1:
                await gate.wait()
            return outcomes

    store = Gated()
    async with Notifier(store=store) as notifier, anyio.create_task_group() as group:
        group.start_soon(notifier.push_many, [f"u{n}" for n in range(10_000)], "t")
        await until(lambda: any(call.startswith("save_many") for call in store.calls))
        with anyio.fail_after(2):
            assert await notifier.push("alice", "t") is not None
        gate.set()
    sizes = [int(call.split()[1]) for call in store.calls if call.startswith("save_many")]
    assert max(sizes) == BATCH
    assert sum(sizes) == 10_001


async def test_push_many_keeps_three_batches_in_flight() -> None:
    """A store that can save many has the next batches while it saves one, never a fourth; later pushes stay behind."""
    running: list[int] = []
    gate = anyio.Event()
    users = [f"u{number}" for number in range(1_300)]

    class Gated(BatchStore):
        async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
            if len(events) >= 50:  # not a single push
                running.append(len(events))
                assert len(running) <= 3
                await gate.wait()
                await anyio.lowlevel.checkpoint()
                running.remove(len(events))
            return await super().save_many(events)

    store = Gated()
    reports: list[Any] = []
    async with Notifier(store=store) as notifier, anyio.create_task_group() as group:

        async def push_many(number: int) -> None:
            reports.append(await notifier.push_many(users, "t", number))

        group.start_soon(push_many, 0)
        await until(lambda: running == [BATCH, BATCH, BATCH])
        for user in ("u0", "u600", "u1299"):  # in flight; and one that is not sent yet
            group.start_soon(notifier.push, user, "t", 1)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert list(reports[0].events) == users
    for user in ("u0", "u600", "u1299"):
        assert [event.payload for event in (await store.read(user, "0", 10)).events] == [0, 1]


@pytest.mark.parametrize("batch", [False, True])
async def test_a_partial_failure_names_the_user_and_spares_the_others(batch: bool) -> None:
    """The user whose save failed is named and sees nothing; the two others are stored, shown, not counted failed."""

    class Batch(BatchStore):
        async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
            outcomes = list(await super().save_many(events))
            return [PushRejectedError("no") if e.user == "bob" else o for e, o in zip(events, outcomes, strict=True)]

    store: Any = Batch() if batch else Failing(PushRejectedError("no"), ["bob"])
    async with Notifier(store=store) as notifier:
        streams = {user: notifier.subscribe(user) for user in ("alice", "bob", "carol")}
        for stream in streams.values():
            await stream.__aenter__()
        report = await notifier.push_many(streams, "t", 1)
        assert set(report.failed) == {"bob"}
        assert isinstance(report.failed["bob"], PushRejectedError)
        assert set(report.events) == {"alice", "carol"}
        assert (await streams["alice"].next(10)).payload == (await streams["carol"].next(10)).payload == 1
        if not batch:
            with pytest.raises(TimeoutError):
                await streams["bob"].next(0.05)
        assert notifier.statistics().pushes["rejected"] == 1


async def test_an_unacceptable_user_among_others_is_named(notifier: Notifier, store: Any) -> None:
    """An invalid user id fails by itself; the others are stored."""
    report = await notifier.push_many(["alice", "", "bob"], "t")
    assert isinstance(report.failed[""], InvalidEventError)
    assert set(report.events) == {"alice", "bob"}


async def test_when_every_save_fails_an_error_is_raised() -> None:
    """If every save fails the first error is raised, and no stream gets a live copy."""

    class Broken(BatchStore):
        async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
            raise OSError("disk")

    class Short(BatchStore):
        async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
            return []

    for store in (Broken(), Short()):
        async with Notifier(store=store) as notifier:
            stream = notifier.subscribe("alice")
            async with stream:
                with pytest.raises(PushUncertainError):
                    await notifier.push_many(["alice", "bob"], "t")
                with pytest.raises(TimeoutError):
                    await stream.next(0.03)


async def test_push_many_and_absent_users(store: Any, presence: Any) -> None:
    """With offline="drop" only the online users' logs grow; all offline: no failures and no store call."""
    async with Notifier(store=store, presence=presence, offline="drop") as notifier:
        await presence.register("alice", RoutingInfo("elsewhere"))
        report = await notifier.push_many(["alice", "bob"], "t")
        assert (set(report.events), report.failed, list(report.offline)) == ({"alice"}, {}, ["bob"])
        report = await notifier.push_many(["bob", "carol"], "t")
        assert (report.events, report.failed, list(report.offline)) == ({}, {}, ["bob", "carol"])
        assert notifier.statistics().pushes["offline"] == 3
        report = await notifier.push_many(["alice", "bob"], "typing", ephemeral=True)
        assert (set(report.events), report.failed, list(report.offline)) == ({"alice"}, {}, ["bob"])
    assert [len(await stored(store, user)) for user in ("alice", "bob")] == [1, 0]


class Elsewhere(MemoryStreamStore):
    """Carries ephemeral events, but on another event loop than this one."""

    def send_ephemeral(self, event: Event) -> None:
        raise UsageError("this sender belongs to another event loop")


@pytest.mark.parametrize("tracker", [None, MemoryPresence, SlowPresence])
async def test_an_ephemeral_event_on_the_wrong_loop(tracker: Any) -> None:
    """A store that is used on the wrong loop says so to the caller, also where presence is asked first."""
    store, presence = Elsewhere(), tracker and tracker()
    async with Notifier(store, presence=presence, offline="drop" if presence else "store") as notifier:
        if presence is not None:
            await presence.register("alice", RoutingInfo("elsewhere"))
        with pytest.raises(UsageError, match="another event loop"):
            await notifier.push("alice", "typing", ephemeral=True)
        with pytest.raises(UsageError, match="another event loop"):
            await notifier.push_many(["alice", "bob"], "typing", ephemeral=True)
        assert await notifier.push("alice", "t") is not None


async def test_ephemeral_push_many(notifier: Notifier, store: Any) -> None:
    """An ephemeral push_many shows the event to open streams and stores nothing."""
    async with notifier.subscribe("alice") as stream:
        report = await notifier.push_many(["alice", "bob"], "typing", ephemeral=True)
        assert (await stream.next(10)).type == "typing"
    assert [event.id for event in report.events.values()] == ["", ""]
    assert await stored(store, "alice") == []


# -- overload, deadlines, cancellation -----------------------------------------------------------------------------


class Gate(PlainStore):
    """Saves only once it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open = anyio.Event()

    async def save(self, event: Event) -> Event:
        await self.open.wait()
        return await super().save(event)


class BatchGate(Gate):
    """The same with batches."""

    async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
        self.calls.append(f"save_many {len(events)}")
        await self.open.wait()
        return await self.inner.save_many(events)


@pytest.mark.parametrize("kind", [Gate, BatchGate])
async def test_too_many_pending_pushes_are_refused(kind: type[Gate]) -> None:
    """Beyond max_pending a push raises OverloadedError at once, which says certainly not stored; then pushes resume."""
    store = kind()
    async with Notifier(store=store, max_pending=3) as notifier, anyio.create_task_group() as group:
        for n in range(3):
            group.start_soon(notifier.push, "alice", "t", n)
        await until(lambda: notifier.statistics().pending_pushes == 3)
        with pytest.raises(OverloadedError):
            await notifier.push("alice", "t", 3)
        assert issubclass(OverloadedError, PushRejectedError)
        store.open.set()
        await until(lambda: notifier.statistics().pending_pushes == 0)
        assert await notifier.push("alice", "t", 4) is not None
    assert sorted(event.payload for event in await stored(store, "alice")) == [0, 1, 2, 4]


async def test_too_many_pending_pushes_fail_one_by_one_in_push_many() -> None:
    """A user for whom a push is on its way counts as pending: beyond max_pending it fails, and the others do not."""
    store = BatchGate()
    async with Notifier(store=store, max_pending=1) as notifier, anyio.create_task_group() as group:
        group.start_soon(notifier.push, "alice", "t", 0)
        await until(lambda: store.calls)

        async def push_many() -> None:
            report = await notifier.push_many(["alice", "bob"], "t", 1)
            assert (set(report.events), {*map(type, report.failed.values())}) == ({"bob"}, {OverloadedError})
            assert set(report.failed) == {"alice"}

        group.start_soon(push_many)
        await until(lambda: len(store.calls) == 2)
        store.open.set()
    assert [[event.payload for event in await stored(store, user)] for user in ("alice", "bob")] == [[0], [1]]


@pytest.mark.parametrize("kind", [Gate, BatchGate])
async def test_a_store_that_hangs_ends_a_push_in_time(kind: type[Gate]) -> None:
    """A save that gets no answer ends after `timeout` as uncertain; one that was never sent ends as rejected."""
    store = kind()
    async with Notifier(store=store, timeout=0.1) as notifier:
        errors: list[NotifyError] = []

        async def push(n: int) -> None:
            try:
                await notifier.push("alice", "t", n)
            except NotifyError as error:
                errors.append(error)

        with anyio.fail_after(3):
            async with anyio.create_task_group() as group:
                group.start_soon(push, 1)
                await until(lambda: notifier.statistics().pending_pushes == 1)
                group.start_soon(push, 2)
        store.open.set()
        assert any(isinstance(error, PushUncertainError) for error in errors)
        assert len(errors) == 2
        await until(lambda: notifier.statistics().pending_pushes == 0)
        assert await notifier.push("alice", "t", 3) is not None


async def test_a_push_that_never_left_is_rejected() -> None:
    """What waited behind a hanging batch until its time was over was certainly not stored, and never is."""
    store = BatchGate()

    class Deaf(BatchGate):
        async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
            with anyio.CancelScope(shield=True):
                return await super().save_many(events)

    store = Deaf()
    async with Notifier(store=store, timeout=0.1) as notifier:
        with pytest.raises(PushUncertainError):
            await notifier.push("alice", "t", 1)
        with pytest.raises(PushRejectedError):
            await notifier.push("alice", "t", 2)
        store.open.set()
        await until(lambda: notifier.statistics().pending_pushes == 0)
        await notifier.push("alice", "t", 3)
    assert [event.payload for event in await stored(store, "alice")] == [1, 3]


@pytest.mark.parametrize("kind", [Gate, BatchGate])
async def test_cancelling_a_push_abandons_only_the_wait(kind: type[Gate]) -> None:
    """After its caller was cancelled, a push is stored and shown all the same."""
    store = kind()
    async with Notifier(store=store) as notifier, notifier.subscribe("alice") as stream:
        with anyio.move_on_after(0.02):
            await notifier.push("alice", "t", 1)
            pytest.fail("the store has not answered")
        store.open.set()
        assert (await stream.next(10)).payload == 1


async def test_concurrent_pushes_share_batches() -> None:
    """What comes while a batch is under way makes up the next one."""
    store = BatchGate()
    async with Notifier(store=store) as notifier, anyio.create_task_group() as group:
        for n in range(100):
            group.start_soon(notifier.push, f"u{n % 7}", "t", n)
        await until(lambda: notifier.statistics().pending_pushes == 100)
        store.open.set()
    assert len(store.calls) <= 3
    assert notifier.statistics().batches == len(store.calls)


async def test_pushing_in_a_loop_lets_readers_run() -> None:
    """A task that pushes without ever waiting for anything else does not starve a reader."""
    async with Notifier(store=MemoryStore(max_len=10_000)) as notifier, anyio.create_task_group() as group:
        seen: list[int] = []

        async def read() -> None:
            async for event in notifier.subscribe("alice", "0"):
                seen.append(event.payload)  # noqa: PERF401 - what was seen so far counts

        group.start_soon(read)
        for n in range(2000):
            await notifier.push("alice", "t", n)
        assert len(seen) > 1000
        group.cancel_scope.cancel()


@pytest.mark.parametrize("kind", [PlainStore, BatchStore])
async def test_closing_answers_what_was_never_sent(kind: type[PlainStore]) -> None:
    """A push that waits behind a save which a closing notifier gives up is certainly not stored, and told so."""

    class Deaf(kind):  # type: ignore[misc,valid-type]
        async def _enter(self, name: str) -> None:
            self.calls.append(name)
            await anyio.sleep_forever()

    store = Deaf()
    notifier = Notifier(store=store, timeout=60)
    results: list[object] = []

    async def push() -> None:
        try:
            results.append(await notifier.push("alice", "t"))
        except BackendError as error:
            results.append(type(error))

    async with anyio.create_task_group() as group:
        group.start_soon(push)
        await until(lambda: store.calls)
        group.start_soon(push)
        await until(lambda: notifier.statistics().pending_pushes == 2)
        await notifier._parts.jobs.aclose(1)
    assert sorted(map(str, results)) == sorted(map(str, [PushUncertainError, PushRejectedError]))
    assert notifier.statistics().pending_pushes == 0
    await notifier.aclose()


async def test_closing_waits_for_pushes_and_answers_those_it_cannot_wait_for() -> None:
    """Close lets pending pushes finish; what a hung store keeps ends in time with an error, never hangs."""
    store = Gate()
    notifier = Notifier(store=store)
    results: list[object] = []

    async def push() -> None:
        try:
            results.append(await notifier.push("alice", "t"))
        except BackendError as error:
            results.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(push)
        await until(lambda: notifier.statistics().pending_pushes == 1)
        group.start_soon(notifier.aclose)
        await anyio.lowlevel.checkpoint()
        store.open.set()
    assert isinstance(results[0], Event)

    deaf = BatchGate()
    notifier = Notifier(store=deaf, timeout=0.5)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(push)
            await until(lambda: len(deaf.calls) == 1)
            group.start_soon(push)
            await until(lambda: notifier.statistics().pending_pushes == 2)
            await notifier.aclose()
    assert all(isinstance(result, BackendError) for result in results[1:])
    assert len(results) == 3
