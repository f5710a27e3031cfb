"""The interfaces that compose into a `Notifier`: adapter authors start here.

`notify_memory` is the example to read next. Longer than the other modules because it is nearly all docstrings.

Five interfaces: `Store`, `StreamStore`, `Router`, `PresenceTracker`, `Stream`. None needs to be inherited from. More
*ability* is a further small interface that the notifier probes for once, in its constructor (`SaveMany`, `SaveSoon`,
`SaveInTransaction`, `ReadMany`, `Immediate`, `ReceivingRouter`, `ImmediatePresence`). An ability counts only if no
subclass has overridden the plain method below it: whoever overrides `save` alone gets `save` called, not an inherited
`save_many`.

The shipped suites in `notify.testing` hold an implementation to everything that is written here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeGuard, TypeVar, runtime_checkable

from anyio.abc import TaskStatus

from .errors import NotifyError
from .event import Event
from .ids import GapReason as GapReason
from .ids import continuity

Position: TypeAlias = str | datetime | None
"""Where a stream starts: an id, `"0"`, a time, or None (`""` too) for "from now on"."""


@dataclass(frozen=True, slots=True)
class Guarantees:
    """How strong a backend is: the attribute `guarantees` of a store, router or tracker.

    The shipped suites require it, and decide by it what has to be tested.

    Attributes:
        durable: accepted events survive the end of the process.
        shared: several processes see the same log, presence or routes.
        leased: presence of a process that died ends within a time to live.
    """

    durable: bool = False
    shared: bool = False
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of one user's log, read consistently.

    Attributes:
        events: in log order, all after the position asked for. Fewer than the limit: the log ended here.
        gap: None where nothing is missing between the position asked for and these events, else the reason.
        position: where to read on: the last event's id, or the end of the log where there is none.
    """

    events: Sequence[Event]
    gap: GapReason | None
    position: str

    @classmethod
    def of(cls, events: Sequence[Event], after: str, head: str, *, expired: bool = False) -> Page:
        """Return the page of these events, with the gap that `continuity` finds.

        Args:
            events: what the log holds after `after`, in log order, up to the limit.
            after: the position that was asked for.
            head: the id of the last event ever appended to the log, read together with the events.
            expired: whether what is missing at the end of the log is gone because of its age.
        """
        first_prev = events[0].prev if events else None
        gap = continuity(after, first_prev, head, expired=expired)
        return cls(events, gap, events[-1].id if events else head)


@dataclass(frozen=True, slots=True)
class Gap:
    """What a stream could not prove to be complete.

    Attributes:
        reason: why.
        start: the last position before it.
        end: the position from which continuity holds again.
    """

    reason: GapReason
    start: str
    end: str


@dataclass(frozen=True, slots=True)
class RoutingInfo:
    """Where a user is connected.

    Attributes:
        instance_id: the notifier that holds the connection; empty: nowhere that can be routed to.
        metadata: what a router needs to get there.
    """

    instance_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@runtime_checkable
class Store(Protocol):
    """An append-only log for each user.

    Ids follow `notify.ids`. `notify.continuity` decides what `Page.gap` says, from three positions.
    Every method returns or raises within seconds, also while the backend does not answer.
    Anything that a method raises beyond the library's errors reaches the caller as the cause of a BackendError.

    An event's `user`, `key` and `group` have at most 255 bytes of UTF-8, its `type` at most 128 ASCII characters, its
    `meta` at most 8192 characters in all, its `data` at most `Notifier(max_payload=)` bytes, by default 64 KiB.
    """

    @abstractmethod
    async def save(self, event: Event) -> Event:
        """Append one event to its user's log and return it with `id` and `prev`: `event.stored(id, prev)`.

        Args:
            event: a draft. A repeated `event.key` stores nothing and returns the first event.

        Raises:
            PushRejectedError: certainly not stored.
            PushUncertainError: outcome unknown.
            ClosedError: the store is closed.

        Order: ids of one user follow completion order.
        Cancellation: unknown once sent, and stored at most once; the notifier cancels only a save past its deadline.
        Concurrency: any number of tasks.
        Cost: one round trip, independent of the length of the log.
        """

    @abstractmethod
    async def read(self, user: str, after: str, limit: int) -> Page:
        """Return up to `limit` events of the log with ids after `after`.

        Args:
            user: whose log; a user that was never heard of has an empty one.
            after: a canonical id, whether the log ever held it or not; `"0"` for the beginning.
            limit: at least 1.

        Raises:
            BackendUnavailableError: not reachable; repeat.
            ClosedError: the store is closed.

        Order: log order; head and events are one consistent read.
        Cancellation: nothing happened.
        Concurrency: any number of tasks.
        Cost: one round trip, proportional to what is returned.
        """

    @abstractmethod
    async def head(self, user: str) -> str:
        """Return the id of the last event ever appended to this log, trimmed or not; `"0"` where there is none.

        Raises, cancellation, concurrency: as `read`.
        Cost: one round trip.
        """

    @abstractmethod
    async def trim(self, before: datetime | str) -> int:
        """Remove every event whose id lies before this time or id and return how many; one exactly there stays.

        A save that runs meanwhile is never lost, and heads stay.

        Raises:
            InvalidEventIdError: not a position.
            BackendUnavailableError: not reachable; part of it may be done; repeat.
            ClosedError: the store is closed.

        Cancellation: part of it may be done; repeat.
        Concurrency: any number of tasks and processes.
        Cost: proportional to what is removed.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Release what the store itself opened; every later call raises ClosedError. Idempotent.

        Calls under way end as they would have, or raise one of the library's errors.
        """


@runtime_checkable
class SaveMany(Protocol):
    """A store that appends many events in one round trip."""

    @abstractmethod
    async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
        """Append each event to its user's log; return for each the stored event or the error it met.

        Raises:
            BackendError: the outcome of the whole batch: all rejected, or all uncertain.

        Order: events of one user in the order given.
        Cancellation, concurrency: as `Store.save`.
        Cost: one round trip.
        """


@runtime_checkable
class SaveSoon(Protocol):
    """A store that makes batches by itself, and tells each outcome as soon as it is known.

    The notifier then hands it single pushes one by one, and an event that takes its time holds up no other one.
    """

    @abstractmethod
    def save_soon(self, event: Event, done: Callable[[Event | NotifyError], None]) -> None:
        """Take one event; later call `done`, once, with the stored event or the error it met. Never waits.

        `done` is called also where the store is closed meanwhile; it neither waits nor raises.

        Raises:
            ClosedError: the store is closed.

        Order: events of one user in the order of the calls.
        """


@runtime_checkable
class SaveInTransaction(Protocol):
    """A store that appends inside the caller's own database transaction: the event exists if that commits."""

    @abstractmethod
    async def save_in(self, event: Event, connection: Any) -> Event:
        """As `Store.save`, but over a connection of the caller's that has a transaction open.

        Nobody sees the event before the commit. The store sees to it that the streams wake up after it.

        Args:
            event: a draft.
            connection: the driver's.

        Raises:
            UsageError: not a connection of the store's driver, or no transaction is open.
            PushRejectedError: not stored, and the transaction cannot be committed any more.
            ClosedError: the store is closed.

        Order: until the transaction ends, other saves of the same user wait.
        Cancellation: the transaction cannot be committed any more.
        Concurrency: one call at a time on one connection.
        Cost: one round trip.
        """


@runtime_checkable
class ReadMany(Protocol):
    """A store that looks for news of many users in one query."""

    @abstractmethod
    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """Return `read(user, position, limit)` of every user who has news or a gap after that position.

        Raises, cancellation, concurrency: as `Store.read`.
        Cost: one round trip for all of them.
        """


@runtime_checkable
class Immediate(Protocol):
    """A store that answers at once: `x_nowait` does what `x` does and never waits.

    The notifier then needs no task for a push or a replay, and cancellation has no point to strike at.
    """

    @abstractmethod
    def save_nowait(self, event: Event) -> Event:
        """As `Store.save`."""

    @abstractmethod
    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        """As `Store.read`."""

    @abstractmethod
    def head_nowait(self, user: str) -> str:
        """As `Store.head`."""


@runtime_checkable
class Stream(Protocol):
    """One reader's way through one user's log: replay, then live, without a seam.

    Used as an async iterator, best inside `async with`. Leaving the loop with `break` releases it.
    """

    @property
    def user(self) -> str:
        """Whose log."""

    @property
    def last_id(self) -> str:
        """The resume token: everything up to here was yielded, nothing after it. Before opening: its start."""

    @property
    def dropped(self) -> int:
        """How many ephemeral events were lost because the reader was away and the buffer full."""

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The latest gaps this stream met, oldest first, at most 16."""

    @abstractmethod
    def next(self, timeout: float | None = None) -> Coroutine[Any, Any, Event]:
        """Return the next event.

        Args:
            timeout: seconds to wait at most; None waits as long as the stream is open.

        Raises:
            TimeoutError: nothing came in time.
            ClosedError: the stream, its notifier or its store is closed.
            BackendUnavailableError: the stream could not be opened. Once open, it heals by itself.
            UsageError: another task waits in `next`.

        Order: strictly growing ids.
        Cancellation: loses nothing and repeats nothing.
        Concurrency: one reader at a time.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """End the stream at once, wake a waiting `next`; no event comes after. Idempotent, never waits."""

    def __aiter__(self) -> Self:
        """Return the stream."""

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        """As `next()`, but a closed stream ends the loop."""

    async def __aenter__(self) -> Self:
        """Open the stream: from here on nothing is missed."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""


@runtime_checkable
class StreamStore(Store, Protocol):
    """A store that learns of new events natively, from every process: no router and no polling are needed."""

    @abstractmethod
    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """Return a stream of this user's log.

        Raises:
            InvalidEventIdError: `last_id` is no position.
            ClosedError: the store is closed.
        """


@runtime_checkable
class Router(Protocol):
    """Carries events to other instances. What it loses is found in the log.

    It may have an `aclose`, for whoever made it: the notifier does not call that.
    """

    @abstractmethod
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        """Bring the event to `Notifier.deliver` of the instance `to`, or of every instance for None.

        Arriving twice, late, out of order or not at all does no harm. An exception is logged and counted; that an
        instance is not there, or not any more, is no reason for one. Events with up to 64 KiB of data arrive.

        Order: none.
        Cancellation: at the notifier's bound for one route.
        Concurrency: any number of tasks.
        """


Deliver: TypeAlias = Callable[[Event | bytes], int]
"""`Notifier.deliver`: offers an event, or its wire form, to the local streams and returns how many took it."""


@runtime_checkable
class ReceivingRouter(Router, Protocol):
    """A router that listens for one instance by itself. The notifier runs it, and again after a crash.

    `route` works whether `receive` runs or not. A router object that several notifiers share runs `receive` for each of
    them at once; another one is made once for each notifier.
    """

    @abstractmethod
    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        """Hand every event for this instance to `deliver`, until cancelled. What is not an event does not end it.

        Args:
            instance_id: whose events.
            deliver: never waits and never raises for an event.
            task_status: `started()` is called once events will be heard.
        """


@runtime_checkable
class Registration(Protocol):
    """One connection of one user."""

    @abstractmethod
    def release(self) -> None:
        """End the registration without waiting: works while cancelled and in a finaliser. Idempotent.

        This process sees it at once, others soon after.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """End the registration and wait until others see it. Takes effect even if cancelled. Idempotent.

        Raises:
            BackendUnavailableError: not reachable; others see it once it is, or when the lease ends.
        """


@runtime_checkable
class PresenceTracker(Protocol):
    """Knows which users are connected, and where. Liveness is leased: the dead vanish by themselves."""

    @abstractmethod
    async def register(self, user: str, routing: RoutingInfo | None = None) -> Registration:
        """Count one more connection of this user; every process sees it when this returns.

        Args:
            user: who.
            routing: where; None: online, but nowhere that can be routed to.

        Raises:
            BackendUnavailableError: not reachable; nothing is registered.
            ClosedError: the tracker is closed.

        Cancellation: not registered, or only until the lease ends.
        Concurrency: any number of tasks.
        Cost: at most one round trip; refreshing costs one for all registrations of the process.
        """

    @abstractmethod
    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """Return where each of these users is connected, in the order asked; who is offline is not in it.

        A connection without routing counts as an empty `RoutingInfo`. One instance appears once for each user.

        Raises, cancellation, concurrency: as `register`. A tracker that cannot ask never answers that users are offline.
        Cost: one round trip.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Release every registration made through this tracker; later calls raise ClosedError. Idempotent."""


@runtime_checkable
class ImmediatePresence(Protocol):
    """A tracker that answers at once: `x_nowait` does what `x` does and never waits."""

    @abstractmethod
    def register_nowait(self, user: str, routing: RoutingInfo | None = None) -> Registration:
        """As `PresenceTracker.register`."""

    @abstractmethod
    def locate_nowait(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """As `PresenceTracker.locate`."""


@runtime_checkable
class Liveness(Protocol):
    """Ability of a `StreamStore`: it knows whether it hears of what other processes save."""

    @property
    @abstractmethod
    def is_receiving(self) -> bool:
        """Whether its wake-up path has proven itself lately; false until a first stream has been open for a moment."""


T = TypeVar("T")


def ability(part: object, protocol: type[T], **plain: str) -> TypeGuard[T]:
    """Return whether `part` has an ability: it implements the protocol, and nobody has overridden the plain methods.

    Args:
        part: a store, router or tracker.
        protocol: the ability.
        plain: method of the ability = the plain method that it stands in for. Where a subclass (or the instance)
            overrides the plain method, the inherited ability would bypass it, so it does not count.
    """
    if not isinstance(part, protocol):
        return False
    order = type(part).__mro__
    own = vars(part) if hasattr(part, "__dict__") else {}

    def depth(name: str) -> int:
        return -1 if name in own else next((i for i, cls in enumerate(order) if name in vars(cls)), len(order))

    return all(depth(name) <= depth(plain_name) for name, plain_name in plain.items())
