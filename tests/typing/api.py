"""Legal and illegal calls, type-checked and never run.

Each illegal call names the complaint of the type checker that it expects; unused ones are errors, so a call that
becomes legal by accident is noticed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self, assert_type

from anyio.abc import TaskStatus

from notify import (
    BackendError,
    ClosedError,
    Event,
    Gap,
    Health,
    Notifier,
    NotifyError,
    OverloadedError,
    Page,
    PresenceTracker,
    PushRejectedError,
    PushReport,
    Router,
    RoutingInfo,
    SlowConsumerError,
    Statistics,
    Store,
    Stream,
    StreamStore,
    UsageError,
    continuity,
    ids,
    open_store,
)
from notify.abc import (
    Deliver,
    GapReason,
    Immediate,
    MergedStream,
    Position,
    ReadMany,
    ReceivingRouter,
    Registration,
    SaveMany,
)
from notify.sync import SyncNotifier
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore, MemoryStreamStore

# -- the lines that everybody types ------------------------------------------------------------------------------


class MyRouter:
    """The smallest router: it inherits from nothing."""

    async def route(self, event: Event, to: RoutingInfo | None) -> None: ...


async def three_lines(last_id: str) -> None:
    notifier = Notifier(store=MemoryStore(), router=MyRouter())
    event = await notifier.push("alice", "comment.created", {"post": 7})
    assert_type(event, Event)
    async for each in notifier.subscribe("alice", last_id):
        assert_type(each, Event)


async def by_url() -> None:
    stored: StreamStore = open_store("sqlite:///notify.db?max_len=5", timeout=2.0)
    async with Notifier.from_url("redis://localhost", buffer_size=3) as notifier:
        assert_type(await notifier.push("alice", "t"), Event)
    async with Notifier.from_url("memory://", offline="drop") as notifier_that_drops:
        assert_type(await notifier_that_drops.push("alice", "t"), Event | None)
    del stored


@asynccontextmanager
async def making() -> AsyncIterator[Notifier]:
    async with Notifier(MemoryStreamStore()) as notifier:
        yield notifier


async def made() -> Notifier:
    return Notifier()


def without_an_event_loop(last_id: str) -> None:
    notifier = SyncNotifier(lambda: Notifier(MemoryStreamStore()))
    assert_type(notifier.push("alice", "comment.created", {"post": 7}), Event)
    assert_type(SyncNotifier.from_url("memory://").push("alice", "t", data=b"1"), Event)
    assert_type(SyncNotifier.from_url("memory://", offline="drop").push("alice", "t"), Event | None)
    assert_type(SyncNotifier(making).push("alice", "t"), Event)
    assert_type(notifier.push_many(["alice"], "t"), PushReport)
    assert_type(notifier.broadcast("t"), Event)
    with notifier.subscribe("alice", last_id, signals=True) as stream:
        assert_type(stream.next(timeout=1), Event)
        for each in stream:
            assert_type(each, Event)
    SyncNotifier(made)
    SyncNotifier(Notifier(MemoryStore()))  # type: ignore[arg-type]


# -- the parts fit their interfaces ------------------------------------------------------------------------------

store: Store = MemoryStore(max_len=10, max_age=None, key_window=60.0)
stream_store: StreamStore = MemoryStreamStore()
also_a_store: Store = MemoryStreamStore()
save_many: SaveMany = MemoryStore()
read_many: ReadMany = MemoryStore()
immediate: Immediate = MemoryStore()
router: Router = MemoryRouter()
receiving: ReceivingRouter = MemoryRouter()
presence: PresenceTracker = MemoryPresence()

no_stream_store: StreamStore = MemoryStore()  # type: ignore[assignment]
no_store: Store = MemoryRouter()  # type: ignore[assignment]
no_receiving_router: ReceivingRouter = MyRouter()  # type: ignore[assignment]
MemoryStore(10)  # type: ignore[call-arg]
MemoryStore(max_age="1 day")  # type: ignore[arg-type]


# -- the notifier ------------------------------------------------------------------------------------------------


async def constructing() -> None:
    Notifier()
    Notifier(None)
    Notifier(MemoryStore())
    Notifier(
        store=stream_store,
        router=router,
        presence=presence,
        instance_id="web-1",
        metadata={"address": "10.0.0.1"},
        offline="drop",
        buffer_size=1,
        poll_interval=0.5,
        audit_interval=5,
        linger=0,
        max_payload=1024,
        max_pending=10,
        timeout=1,
    )
    Notifier(router=[MyRouter(), router])
    Notifier(MemoryStore(), MyRouter())  # type: ignore[call-overload]
    Notifier(store=MyRouter())  # type: ignore[call-overload]
    Notifier(router=MemoryStore())  # type: ignore[call-overload]
    Notifier(presence=MemoryStore())  # type: ignore[call-overload]
    Notifier(offline="keep")  # type: ignore[call-overload]
    Notifier(metadata={"port": 80})  # type: ignore[dict-item]
    Notifier(timeout=None)  # type: ignore[call-overload]
    Notifier(no_such_option=True)  # type: ignore[call-overload]
    async with Notifier() as notifier:
        assert_type(notifier, Notifier)
    with Notifier() as notifier:  # type: ignore[attr-defined]
        pass


async def dropping(either: Literal["store", "drop"]) -> None:
    dropped = Notifier(MemoryStore(), offline="drop")
    assert_type(dropped, Notifier[Event | None])
    event = await dropped.push("alice", "ping")
    assert_type(event, Event | None)
    event.to_bytes()  # type: ignore[union-attr]
    assert_type(await Notifier(offline=either).push("alice", "ping"), Event | None)
    assert_type(Notifier(offline="store"), Notifier)
    at_a_url = Notifier.from_url("memory://", offline="drop")
    assert_type(await at_a_url.push("alice", "ping"), Event | None)
    assert_type(await Notifier.from_url("memory://").push("alice", "ping"), Event)
    any_of_them: Notifier[Event | None] = Notifier()
    never: Notifier = dropped  # type: ignore[assignment]
    async with dropped as entered:
        assert_type(entered, Notifier[Event | None])
    del any_of_them, never


async def encoding() -> None:
    notifier = Notifier(dumps=lambda payload: b"1")
    Notifier(dumps=lambda payload: "1")
    Notifier(dumps=lambda payload: 1)  # type: ignore[arg-type, return-value]
    assert_type(await notifier.push("alice", "ping", data=b"1"), Event)
    await notifier.push_many(["alice"], "ping", data=b"1")
    await notifier.broadcast("ping", data=b"1")
    await notifier.push("alice", "ping", data="1")  # type: ignore[arg-type]
    assert_type(await notifier.check(timeout=1), Health)


async def pushing(notifier: Notifier) -> None:
    assert_type(await notifier.push("alice", "ping"), Event)
    await notifier.push("alice", "ping", [1, None, {"a": "b"}], key="k", group="g", meta={"a": "b"}, ephemeral=True)
    await notifier.push("alice")  # type: ignore[call-arg]
    await notifier.push(7, "ping")  # type: ignore[arg-type]
    await notifier.push(b"alice", "ping")  # type: ignore[arg-type]
    await notifier.push("alice", "ping", None, "k")  # type: ignore[call-arg]
    await notifier.push("alice", "ping", key=7)  # type: ignore[arg-type]
    await notifier.push("alice", "ping", meta={"a": 1})  # type: ignore[dict-item]

    report = await notifier.push_many(["alice", "bob"], "ping", {"n": 1}, key="k")
    assert_type(report, PushReport)
    assert_type(report.events, Mapping[str, Event])
    assert_type(report.failed, Mapping[str, NotifyError])
    assert_type(report.offline, Sequence[str])
    await notifier.push_many((user for user in "ab"), "ping")
    await notifier.push_many([1, 2], "ping")  # type: ignore[list-item]
    report.offline = []  # type: ignore[misc]

    assert_type(await notifier.broadcast("maintenance", {"in": 60}), Event)
    await notifier.broadcast("maintenance", key="k")  # type: ignore[call-arg]


async def subscribing(notifier: Notifier) -> None:
    notifier.subscribe("alice")
    notifier.subscribe("alice", None)
    notifier.subscribe("alice", "0")
    notifier.subscribe("alice", datetime.now(UTC), signals=True, track=False, max_lag=100)
    notifier.subscribe()  # type: ignore[call-overload]
    notifier.subscribe("alice", 7)  # type: ignore[call-overload]
    notifier.subscribe("alice", b"0")  # type: ignore[call-overload]
    notifier.subscribe("alice", "0", True)  # type: ignore[call-overload]
    notifier.subscribe("alice", expires_at=datetime.now(UTC))
    notifier.subscribe("alice", expires_at=7)  # type: ignore[call-overload]

    merged = notifier.subscribe(["alice", "room:7"], "0")
    assert_type(merged, MergedStream)
    assert_type(merged.users, tuple[str, ...])
    merged.add("bob")
    await merged.add("bob", "0")
    await merged.remove("bob")

    stream = notifier.subscribe("alice")
    assert_type(stream, Stream)
    async with stream as opened:
        assert_type(opened, Stream)
        assert_type(await opened.next(), Event)
        assert_type(await opened.next(timeout=1.5), Event)
        assert_type(await anext(opened), Event)
    assert_type(stream.user, str)
    assert_type(stream.last_id, str)
    assert_type(stream.dropped, int)
    assert_type(stream.gaps, tuple[Gap, ...])
    await stream.aclose()
    stream.last_id = "0"  # type: ignore[misc]
    stream.close()  # type: ignore[attr-defined]
    await notifier.subscribe("alice")  # type: ignore[misc]
    for _ in notifier.subscribe("alice"):  # type: ignore[attr-defined]
        pass


async def the_rest(notifier: Notifier, event: Event) -> None:
    assert_type(notifier.deliver(event), int)
    assert_type(notifier.deliver(event.to_bytes()), int)
    notifier.deliver("text")  # type: ignore[arg-type]
    assert_type(notifier.statistics(), Statistics)
    assert_type(notifier.statistics().pushes, Mapping[str, int])
    notifier.statistics().users = 0  # type: ignore[misc]
    assert_type(await notifier.check(), Health)
    assert_type(notifier.instance_id, str)
    await notifier.drain(window=1.0)
    await notifier.drain("1 s")  # type: ignore[arg-type]
    await notifier.aclose()


# -- values ------------------------------------------------------------------------------------------------------


def events() -> None:
    event = Event("alice", "ping", {"n": 1}, group="g", key="k", meta={"a": "b"}, timestamp=datetime.now(UTC))
    assert_type(event, Event)
    assert_type(event.id, str)
    assert_type(event.prev, str)
    assert_type(event.payload, Any)
    assert_type(event.data, bytes)
    assert_type(event.timestamp, datetime)
    assert_type(event.group, str | None)
    assert_type(event.key, str | None)
    assert_type(event.meta, Mapping[str, str])
    assert_type(event.to_bytes(), bytes)
    assert_type(Event.from_bytes(b""), Event)
    assert_type(event.stored("1-0", "0"), Event)
    Event("alice")  # type: ignore[call-arg]
    Event("alice", "ping", data="{}")  # type: ignore[arg-type]
    Event("alice", "ping", timestamp="now")  # type: ignore[arg-type]
    event.meta["a"] = "c"  # type: ignore[index]
    event.payload = {}  # type: ignore[misc]
    event.timestamp = datetime.now(UTC)  # type: ignore[misc]


def id_grammar() -> None:
    assert_type(ids.parse("1-0"), tuple[int, int])
    assert_type(ids.format(1, 0), str)
    assert_type(ids.compare("1-0", "2-0"), int)
    assert_type(ids.before(datetime.now(UTC)), str)
    assert_type(ids.time_of("1-0"), datetime)
    assert_type(ids.unpack(ids.pack("1-0")), str)
    ids.format("1", "0")  # type: ignore[arg-type]
    ids.before("2024-01-01")  # type: ignore[arg-type]
    assert_type(continuity("0", None, "0"), GapReason | None)
    continuity("0", None, "0", True)  # type: ignore[call-arg]


def pages(event: Event, page: Page, gap: Gap) -> None:
    Page([event], None, event.id)
    Page((), "trimmed", "1-0")
    Page((), "lost", "1-0")  # type: ignore[arg-type]
    page.gap = None  # type: ignore[misc]
    assert_type(gap.reason, Literal["trimmed", "expired", "rewound"])
    assert_type(RoutingInfo().instance_id, str)
    RoutingInfo("web-1", {"port": 80})  # type: ignore[dict-item]
    anywhere: Position = None
    anywhere = "0"
    anywhere = 0  # type: ignore[assignment]
    del anywhere


def errors(overloaded: OverloadedError, slow: SlowConsumerError) -> None:
    rejected: PushRejectedError = overloaded
    failed: BackendError = rejected
    assert_type(failed.backend, str)
    closed: ClosedError = slow
    wrong: UsageError = closed
    assert_type(slow.last_id, str)
    SlowConsumerError("behind")  # type: ignore[call-arg]
    wrong = overloaded  # type: ignore[assignment]
    del wrong


# -- parts written by a stranger ---------------------------------------------------------------------------------


class StrangerStore:
    """A store that inherits from nothing."""

    async def save(self, event: Event) -> Event:
        return event.stored("1-0", "0")

    async def read(self, user: str, after: str, limit: int) -> Page:
        return Page((), None, after)

    async def head(self, user: str) -> str:
        return "0"

    async def trim(self, before: datetime | str) -> int:
        return 0

    async def aclose(self) -> None: ...


class StreamingStore(StrangerStore):
    """A stream store on top of it."""

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        return StrangerStream()


class StrangerStream:
    """A stream that inherits from nothing."""

    @property
    def user(self) -> str:
        return "alice"

    @property
    def last_id(self) -> str:
        return ""

    @property
    def dropped(self) -> int:
        return 0

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return ()

    async def next(self, timeout: float | None = None) -> Event:
        raise ClosedError("closed")

    async def aclose(self) -> None: ...

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Listening(MyRouter):
    """A router that receives by itself."""

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        assert_type(deliver(Event("alice", "ping")), int)


class Tracker:
    """A presence tracker that inherits from nothing."""

    async def register(self, user: str, routing: RoutingInfo | None = None) -> Registration:
        return Place()

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        return {}

    async def aclose(self) -> None: ...


class Place:
    """A registration."""

    def release(self) -> None: ...

    async def aclose(self) -> None: ...


class Forgetful:
    """Almost a store: `save` returns nothing."""

    async def save(self, event: Event) -> None: ...

    async def read(self, user: str, after: str, limit: int) -> Page:
        return Page((), None, after)

    async def head(self, user: str) -> str:
        return "0"

    async def trim(self, before: datetime | str) -> int:
        return 0

    async def aclose(self) -> None: ...


class Blocking:
    """Almost a router: `route` is not awaited."""

    def route(self, event: Event, to: RoutingInfo | None) -> None: ...


def strangers() -> None:
    Notifier(StrangerStore(), router=Listening(), presence=Tracker())
    Notifier(StreamingStore())
    listening: ReceivingRouter = Listening()
    stream: Stream = StrangerStream()
    Notifier(Forgetful())  # type: ignore[call-overload]
    Notifier(router=Blocking())  # type: ignore[call-overload]
    Notifier(presence=StrangerStore())  # type: ignore[call-overload]
    handing_over: Callable[[Event], int] = Notifier().deliver
    del listening, stream, handing_over
