"""The interfaces that compose into a `Notifier`: adapter authors start here.

`notify_memory` is the example to read next. This module is longer than the others because it is nearly all docstrings.

There are five interfaces: `Store`, `StreamStore`, `Router`, `PresenceTracker` and `Stream`. An implementation does not
have to inherit from them. What an implementation can do beyond its interface is an *ability*: a further small interface
that the notifier looks for once, in its constructor (`SaveMany`, `SaveSoon`, `SaveInTransaction`, `ReadMany`,
`Immediate`, `Liveness`, `Ephemerals`, `Forget`, `Prepare`, `HasOutbox`, `Enqueue`, `ReceivingRouter`,
`ImmediatePresence`, `Interruptible`). An ability counts only if no subclass has overridden the plain method that it
stands in for: a subclass that overrides `save` alone gets its `save` called, not an inherited `save_many`. The
attribute `guarantees` says how strong an implementation is (durable, shared, leased). Methods have to be defined in a
class: from Python 3.12 on, those that only `__getattr__` provides are not found.

The suites in `notify.testing` test an implementation against everything that is written here. `notify.adapters`
contains what most implementations need.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
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
"""Where a stream starts: a `last_id`, `"0"` (everything retained), a time, or None (also `""`) for "from now on"."""


@dataclass(frozen=True, slots=True)
class Guarantees:
    """How strong an implementation is: its attribute `guarantees`. The suites require it to decide what to test.

    Attributes:
        durable: accepted events survive the end of the process. For stores.
        shared: several processes see the same log, presence or routes.
        leased: registrations of a process that died expire. For presence trackers.
    """

    durable: bool = False
    shared: bool = False
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A part of one user's log, read consistently.

    Attributes:
        events: in log order, all after the requested position. Fewer than the limit: the log ends here.
        gap: None if nothing is missing between the requested position and these events, else the reason.
        position: where to continue: the id of the last event, or the end of the log if there are no events.
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
            expired: whether the events missing at the end of the log were removed because of their age.
        """
        first_prev = events[0].prev if events else None
        gap = continuity(after, first_prev, head, expired=expired)
        return cls(events, gap, events[-1].id if events else head)


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of the log that a stream cannot prove to be complete.

    Attributes:
        reason: why continuity cannot be proven.
        start: the last position before the gap.
        end: the position from which continuity holds again.
        user: whose log it is, if the stream reads several; otherwise empty.
    """

    reason: GapReason
    start: str
    end: str
    user: str = ""


@dataclass(frozen=True, slots=True)
class RoutingInfo:
    """Where a user is connected.

    Attributes:
        instance_id: the notifier that holds the connection; empty if it cannot be routed to.
        metadata: what a router needs to reach it.
    """

    instance_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@runtime_checkable
class Store(Protocol):
    """An append-only log for each user.

    Ids follow the rules of `notify.ids`. `Page.of` finds the value of `Page.gap` from three positions.
    Exceptions other than the library's own reach the caller as the cause of a `BackendError`. Every method returns or
    raises within seconds, even while the backend does not answer.

    Limits that a table may rely on: a user, key or group has 1 to 255 bytes of UTF-8 without control characters, `meta`
    at most 8,192 characters in all, a type at most 128 characters of `[A-Za-z0-9_.:-]`.
    """

    @abstractmethod
    async def save(self, event: Event) -> Event:
        """Append one event to its user's log and return it with `id` and `prev`: `event.stored(id, prev)`.

        Args:
            event: a draft. If its `key` is that of an event saved before, nothing is stored and that event is returned.

        Raises:
            PushRejectedError: certainly not stored.
            PushUncertainError: the outcome is unknown.
            ClosedError: the store is closed.

        Order: ids of one user grow in the order in which the saves take effect; if one save returns before another
            begins, it has the smaller id.
        Cancellation: the outcome is unknown once the write was sent, and the log stays whole. The notifier does not
            cancel a save because its caller was cancelled, only when the save exceeds `timeout`.
        Concurrency: any number of tasks.
        Cost: one round trip, whatever the length of the log.
        """

    @abstractmethod
    async def read(self, user: str, after: str, limit: int) -> Page:
        """Return up to `limit` events of the log with ids after `after`.

        Args:
            user: the user whose log is read; an unknown user has an empty one.
            after: a canonical id, whether or not the log ever contained it; `"0"` for the beginning.
            limit: at least 1.

        Raises:
            BackendUnavailableError: not reachable; safe to repeat.
            ClosedError: the store is closed.

        Order: log order. Events and head are one consistent read: no event may be missing between them.
        Cancellation: no effect.
        Concurrency: any number of tasks.
        Cost: one round trip, proportional to what is returned.
        """

    @abstractmethod
    async def head(self, user: str) -> str:
        """Return the id of the last event ever appended to this log, trimmed or not; `"0"` if there is none.

        Raises, cancellation, concurrency: as `read`.
        Cost: one round trip.
        """

    @abstractmethod
    async def trim(self, before: datetime | str) -> int:
        """Remove every event before this time or id, and return how many. An event exactly at `before` stays.

        A concurrent save is never lost, and heads stay as they are.

        Raises:
            InvalidEventIdError: not a position.
            BackendUnavailableError: not reachable; some events may be removed already; safe to repeat.
            ClosedError: the store is closed.

        Cancellation: some events may be removed already; safe to repeat.
        Concurrency: any number of tasks and processes.
        Cost: proportional to what is removed.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Release what the store itself has opened; later calls raise ClosedError. Idempotent.

        Calls in progress end as they would have, or raise one of the library's errors.
        """


@runtime_checkable
class SaveMany(Protocol):
    """A store that appends many events in one round trip."""

    @abstractmethod
    async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
        """Append each event to its user's log; return for each the stored event or its error.

        Raises:
            BackendError: the whole batch failed: every event is rejected, or the outcome of every event is uncertain.

        Order: events of one user in the order given.
        Cancellation, concurrency: as `Store.save`.
        Cost: one round trip.
        """


@runtime_checkable
class SaveSoon(Protocol):
    """A store that batches by itself, and reports each outcome as soon as it is known.

    The notifier hands such a store single pushes one by one, so that a slow event delays no other.
    """

    @abstractmethod
    def save_soon(self, event: Event, done: Callable[[Event | NotifyError], None]) -> None:
        """Accept one event, and later call `done` once with the stored event or its error. Never waits.

        `done` is called even if the store is closed before the outcome is known. It neither waits nor raises.

        Raises:
            ClosedError: the store is closed.

        Order: events of one user in the order of the calls.
        """


@runtime_checkable
class SaveInTransaction(Protocol):
    """A store that appends inside the caller's database transaction: the event exists if and only if that commits."""

    @abstractmethod
    async def save_in(self, event: Event, connection: Any) -> Event:
        """As `Store.save`, but over the caller's connection, which has a transaction open.

        The event becomes visible with the commit, after which the store wakes the streams.

        Args:
            event: a draft.
            connection: a connection of the store's driver.

        Raises:
            UsageError: not a connection of the store's driver, or no transaction is open.
            PushRejectedError: not stored, and the transaction can no longer be committed.
            ClosedError: the store is closed.

        Order: until the transaction ends, other saves of the same user wait.
        Cancellation: the transaction can no longer be committed.
        Concurrency: one call at a time on one connection.
        Cost: one round trip.
        """


@runtime_checkable
class ReadMany(Protocol):
    """A store that reads what is new for many users in one query."""

    @abstractmethod
    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """Return `read(user, position, limit)` for every user that has events or a gap after its position.

        Raises, cancellation, concurrency: as `Store.read`.
        Cost: one round trip for all of them.
        """


@runtime_checkable
class Immediate(Protocol):
    """A store that answers at once: `x_nowait` does what `x` does and never waits.

    The notifier then needs no task for a push or a replay, and there is no point at which it could be cancelled.
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
    """One reader's path through one user's log: first replay, then live, with nothing missing in between.

    It is an async iterator, best used inside `async with`. Leaving a bare `async for` with `break` releases the stream.
    So does the cancellation of its reader: the stream detaches, and a later `next` attaches it again where it was.
    Ephemeral events that are pushed in between are not seen; inside `async with` the stream stays attached until the
    block ends.
    """

    @property
    def user(self) -> str:
        """The user whose log is read."""

    @property
    def last_id(self) -> str:
        """The resume token: everything up to here was yielded, and nothing after it. Before opening: the start."""

    @property
    def dropped(self) -> int:
        """How many ephemeral events were lost because the reader was away and the buffer was full."""

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The latest gaps that this stream has found, oldest first, at most 16."""

    @abstractmethod
    def next(self, timeout: float | None = None) -> Coroutine[Any, Any, Event]:
        """Return the next event.

        Args:
            timeout: seconds to wait at most; None waits as long as the stream is open.

        Raises:
            TimeoutError: no event came in time.
            ClosedError: the stream, its notifier or its store is closed. After `disconnect` or at `expires_at`:
                `DisconnectedError`.
            BackendUnavailableError: the stream could not be opened. Once open, it recovers by itself.
            UsageError: another task is waiting in `next` of this stream.

        Order: strictly growing ids.
        Cancellation: no stored event is lost or repeated; see above for ephemeral ones.
        Concurrency: one reader at a time.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """End the stream at once and wake a waiting `next`; no event is yielded after it. Idempotent, never waits."""

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
class MergedStream(Stream, Protocol):
    """One reader's path through several logs; `event.user` says which log an event is from.

    Everything that a `Stream` promises holds for each log: order, resuming, gaps. Between logs, the only promise is
    that the first replay is merged by id. `last_id` is a token with a position for each log whose position is fixed;
    it consists of ASCII letters, digits and `.-_~`, is shorter than 7 KB, and is a plain id while there is one log.

    `notify.gap` names its log in `event.user`. `notify.sync` is yielded once, when the replay of all logs is over; it
    belongs to no log, so its user is empty, and its id is the token. A broadcast is yielded once. Every one of the
    users counts as present. If one of them is disconnected, the stream ends.
    """

    @property
    def users(self) -> tuple[str, ...]:
        """The users whose logs are read, in the order in which they were named; `user` is the first one."""

    @abstractmethod
    def add(self, user: str, position: Position = None) -> Awaitable[None]:
        """Read one more log, from this position on. Takes effect at once; does nothing if the log is read already.

        Awaiting the result waits until the position of the log is fixed, so that `last_id` contains it. A `last_id` of
        several logs is accepted as a position too.

        Raises:
            InvalidEventError: `user` is not a user id.
            InvalidEventIdError: `position` is not a position.
            UsageError: the stream already reads 100 logs.
            ClosedError: the stream is closed.
        """

    @abstractmethod
    def remove(self, user: str) -> Awaitable[None]:
        """Stop reading a log. Takes effect at once: none of its events is yielded after this, and `last_id` omits it.

        Does nothing if the log is not read. The result can be awaited, as that of `add`, but never waits.

        Raises:
            UsageError: it is the only log of the stream.
        """


@runtime_checkable
class Interruptible(Protocol):
    """A stream whose reader can be called back, for servers that write what they read to a connection.

    The streams that a notifier returns have this ability, unless its store is a `StreamStore` without a `LiveLog`.
    """

    @abstractmethod
    def next_nowait(self) -> Event | None:
        """Return the next event if it is in hand: of a page that was read, or offered live; otherwise None.

        Never waits, reads nothing and does not raise when the stream has ended: None means that `next` has to be
        called. So a server can write many events at once.

        Raises:
            UsageError: a task is waiting in `next` of this stream.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Make `next` raise TimeoutError: the call that is waiting, or else the following one. Never waits.

        It ends a wait without a timer for each stream, and without cancelling a task. No event is lost or repeated.
        Entering the stream (`async with`) can be interrupted too: then the stream is closed.
        """


@runtime_checkable
class StreamStore(Store, Protocol):
    """A store that learns of new events by itself, from every process: neither a router nor polling is needed."""

    @abstractmethod
    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """Return a stream of this user's log.

        Raises:
            InvalidEventIdError: `last_id` is not a position.
            ClosedError: the store is closed.
        """


@runtime_checkable
class Router(Protocol):
    """Carries events to other instances, best effort: stored events that it loses are found in the log.

    The notifier does not close it. One object may serve several notifiers, or be made once for each.
    """

    @abstractmethod
    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        """Carry the event to `Notifier.deliver` of the instance `to`, or of every instance for None.

        Works whether or not `receive` runs here. An event that arrives twice, late, out of order or not at all does no
        harm. An exception is logged and counted; an instance that does not exist is not an error. Events with up to 64
        KiB of data have to arrive.

        Order: none.
        Cancellation: when the route exceeds the notifier's `timeout`, or the router's attribute `route_timeout`
            (seconds) if it has one and that is longer: for a router that repeats what fails.
        Concurrency: any number of tasks.
        """


Deliver: TypeAlias = Callable[[Event | bytes], int]
"""`Notifier.deliver`: offers an event, or its wire form, to the local streams and returns how many accepted it."""


@runtime_checkable
class ReceivingRouter(Router, Protocol):
    """A router that receives for one instance by itself. The notifier runs it, and runs it again after it fails."""

    @abstractmethod
    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        """Hand every event for this instance to `deliver`, until cancelled.

        Returning and raising both count as a failure; it is run again after increasing delays.

        Args:
            instance_id: the instance whose events are received.
            deliver: never waits, and never raises for an event or bytes. Bytes that are not an event are logged there.
            task_status: call `started()` as soon as every event routed from then on will be received.
        """


@runtime_checkable
class Registration(Protocol):
    """One connection of one user."""

    @abstractmethod
    def release(self) -> None:
        """End the registration without waiting: works while cancelled and in a finaliser. Idempotent.

        This process sees the change at once, others soon after.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """End the registration and wait until others see the change. Takes effect even if cancelled. Idempotent.

        Raises:
            BackendUnavailableError: not reachable; others see the change once it is, or when the lease expires.
        """


@runtime_checkable
class PresenceTracker(Protocol):
    """Knows which users are connected, and where. Registrations are leased: those of a crashed process expire."""

    @abstractmethod
    async def register(self, user: str, routing: RoutingInfo | None = None) -> Registration:
        """Count one more connection of this user; other processes see it when this returns.

        Args:
            user: the user that is connected.
            routing: where the user is connected; None if the connection cannot be routed to.

        Raises:
            BackendUnavailableError: not reachable; nothing is registered.
            ClosedError: the tracker is closed.

        Cancellation: not registered, or only until the lease expires.
        Concurrency: any number of tasks.
        Cost: at most one round trip. Renewing the lease costs one for all registrations of the process.
        """

    @abstractmethod
    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """Return where each of these users is connected; users that are offline are left out.

        A connection without routing is an empty `RoutingInfo`. One instance appears once for each user. A tracker that
        cannot know raises: an empty answer means that the users are offline.

        Raises, cancellation, concurrency: as `register`.
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
    """A `StreamStore` that knows whether it receives what other processes save."""

    @property
    @abstractmethod
    def is_receiving(self) -> bool:
        """Whether the wake-up path has recently worked; False until a first stream has been open for a moment."""


@runtime_checkable
class Ephemerals(Protocol):
    """A `StreamStore` that carries events which are not stored to the streams of every process.

    With it, ephemeral events, broadcasts and `Notifier.disconnect` need no router. The store passes each event that
    another process has sent to `LiveLog.deliver`; an echo of this process's own events does no harm there.
    """

    @abstractmethod
    def send_ephemeral(self, event: Event) -> None:
        """Queue an event without an id, to be sent soon to every other process on this store. Never waits.

        Best effort: an outage or an overload may lose it. The store then logs the outage and raises nothing.

        Args:
            event: `event.user` is the recipient; empty for every open stream. Its wire form (`Event.to_bytes`) may
                exceed 64 KiB by the size of `meta`.

        Raises:
            ClosedError: the store is closed.
            UsageError: called from another event loop, or after a fork.

        Order: events for one user arrive in the order of the calls.
        Cost: one message for each process that may have streams for it, even for a broadcast.
        """


@runtime_checkable
class Forget(Protocol):
    """A store that can erase a user."""

    @abstractmethod
    async def forget(self, user: str) -> int:
        """Erase everything that the store holds about this user, and return the number of events erased.

        Nothing is left: no events, keys, head or other trace of the user's id. The log begins again with the next save;
        a reader whose position was in the old one gets a gap (`expired`). A concurrent save is either erased or begins
        the new log. Ids of the new log have to be greater than those of the old one, although its head is gone too: so
        erase the log only once the clock has passed the millisecond of its last id.

        Raises:
            BackendUnavailableError: not reachable; some of it may be erased already; safe to repeat.
            ClosedError: the store is closed.

        Cancellation: some of it may be erased already; safe to repeat.
        Concurrency: any number of tasks and processes.
        Cost: proportional to the length of the log.
        """


@runtime_checkable
class Prepare(Protocol):
    """A store that needs tables or files. The first save creates them if it has the right to; reading never does."""

    @abstractmethod
    async def prepare(self) -> None:
        """Create what the store needs and does not find. Idempotent; several processes may call it at once.

        Raises:
            BackendUnavailableError: not reachable, or a right is missing; the message names the object and the remedy.
            ClosedError: the store is closed.

        Cancellation: some of it may exist already; safe to repeat.
        Concurrency: any number of tasks and processes.
        Cost: one round trip if nothing is missing.
        """

    @abstractmethod
    def script(self) -> str:
        """Return what `prepare` would execute on an empty database, as text for an administrator to read and run."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many events wait in the outbox of a store.

    Attributes:
        waiting: events that no relay has moved to their logs yet; counted up to 10,000.
        age: seconds for which the oldest of them has waited.
        dead: events that were set aside because `push` would refuse them; counted up to 10,000.
    """

    waiting: int = 0
    age: float = 0.0
    dead: int = 0


@runtime_checkable
class HasOutbox(Protocol):
    """A store with an outbox: events that wait, in a table, for a relay to move them to their logs."""

    @property
    @abstractmethod
    def last_backlog(self) -> Backlog:
        """The backlog when the store last looked, which it does every minute."""

    @abstractmethod
    async def backlog(self) -> Backlog:
        """Return the backlog as it is now.

        Raises:
            BackendUnavailableError: not reachable.
            ClosedError: the store is closed.

        Cancellation: nothing has changed.
        Concurrency: any number of tasks.
        Cost: one round trip.
        """


@runtime_checkable
class Enqueue(Protocol):
    """A store that appends by way of an outbox, inside the caller's database transaction, without locking a log."""

    @abstractmethod
    async def enqueue(self, *events: Event, connection: Any) -> None:
        """Store events in the caller's transaction: they exist if and only if that commits, and soon afterwards.

        They get their ids when a relay moves them to the logs.

        Args:
            events: drafts.
            connection: a connection of the store's driver with an open transaction.

        Raises:
            UsageError: not a connection of the store's driver, or no transaction is open.
            PushRejectedError: not stored, and the transaction can no longer be committed.
            ClosedError: the store is closed.

        Order: as enqueued, where one transaction began after the other had committed.
        Cancellation: the transaction can no longer be committed.
        Concurrency: one call at a time on one connection.
        Cost: one round trip.
        """


T = TypeVar("T")


def ability(part: object, protocol: type[T], **plain: str) -> TypeGuard[T]:
    """Return whether `part` has an ability: it implements the protocol, and the plain methods are not overridden.

    Args:
        part: a store, router or tracker.
        protocol: the ability.
        plain: for each method of the ability, the plain method that it stands in for. If a subclass (or the instance)
            overrides the plain method, an inherited ability would bypass that, so it does not count.
    """
    if not isinstance(part, protocol):
        return False
    order = type(part).__mro__
    own = vars(part) if hasattr(part, "__dict__") else {}

    def depth(name: str) -> int:
        return -1 if name in own else next((i for i, cls in enumerate(order) if name in vars(cls)), len(order))

    return all(depth(name) <= depth(plain_name) for name, plain_name in plain.items())
