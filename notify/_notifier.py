"""The composition root: presence check, save, offer, route. Knows no backend.

Longer than the other modules because half of it is the docstrings of the library's main class.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import compress
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, NoReturn, Self

import anyio
import anyio.lowlevel

from ._presence._local_presence import LocalPresence
from ._push._locator import Locator
from ._push._routes import Listener, Routes
from ._push._writer import BATCH_SIZE, Locations, Writer, as_push_error, checked_event
from ._runtime._background import Background
from ._runtime._outage_log import OutageLog
from ._runtime._results import Health, PushReport
from ._runtime._stats import Counters, Statistics, snapshot
from ._runtime._telemetry import Telemetry
from ._runtime._waking import Waiter, wake
from ._stream._live import RANKS, LiveLog
from ._stream._stream_set import ExternalStream, NotifierStreams
from .abc import (
    Immediate,
    Liveness,
    Position,
    PresenceTracker,
    ReceivingRouter,
    Router,
    RoutingInfo,
    SaveInTransaction,
    Store,
    Stream,
    StreamStore,
    ability,
)
from .errors import (
    BackendUnavailableError,
    ClosedError,
    CodecError,
    InvalidEventError,
    NotifyError,
    PayloadTooLargeError,
    PushUncertainError,
    UsageError,
)
from .event import Event, check_user, draft, plain

logger = logging.getLogger("notify")

ORIGIN: Final = "notify.origin"
"""Key in `meta` of an ephemeral event: where it was shown already; what a router brings back there is ignored."""

PROBE_TYPE: Final = "notify.check"
"""Type of the event that `check` sends round."""

PUSHES_PER_YIELD: Final = 64
"""Pushes to a store that answers at once between two moments when others may run."""

_GRACE: Final = 1.0


class Notifier:
    """Pushes events to users and hands out streams of them.

    Used as `async with Notifier(...)`, or without it and `await notifier.aclose()` at the end. The parts belong to the
    caller: they may be shared, and closing the notifier does not close them.

    Args:
        store: where events are kept. None: every event is ephemeral.
        router: carries events to other instances.
        presence: knows who is connected where. Without it a router is told to reach every instance.
        instance_id: this instance's name among the others; random when not given.
        metadata: what routers of other instances need to reach this one.
        offline: `"store"` keeps events for absent users; `"drop"` neither stores nor routes them.
        buffer_size: recent events kept in memory for each user with an open stream; a reader further behind reads
            the log, and loses the ephemeral ones.
        poll_interval: seconds within which events written to a plain store by other processes are noticed.
        audit_interval: seconds within which a stream store that lost a wake-up is noticed.
        linger: seconds for which a user counts as present after the last stream closed.
        max_payload: bytes of JSON that a payload may have.
        max_pending: pushes that may be under way before `OverloadedError`.
        timeout: seconds that one call of a store, router or presence tracker may take.

    Raises:
        UsageError: an argument is unacceptable.
    """

    __slots__ = (  # more attributes than a key-sharing dictionary of Python 3.11 holds, so they would be slow
        "__weakref__",
        "_audit_interval",
        "_buffer_size",
        "_closed",
        "_counters",
        "_draining",
        "_drop_offline",
        "_external",
        "_hearing",
        "_immediate",
        "_jobs",
        "_listener",
        "_live",
        "_local_presence",
        "_locator",
        "_loop",
        "_max_payload",
        "_presence",
        "_probes",
        "_pushes_since_yield",
        "_routes",
        "_save_directly",
        "_services",
        "_started",
        "_store",
        "_stream_store",
        "_streams",
        "_telemetry",
        "_timeout",
        "_topics",
        "_transactional",
        "_unreadable",
        "_writer",
        "instance_id",
    )

    def __init__(
        self,
        store: Store | None = None,
        *,
        router: Router | None = None,
        presence: PresenceTracker | None = None,
        instance_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        offline: Literal["store", "drop"] = "store",
        buffer_size: int = 64,
        poll_interval: float = 2.0,
        audit_interval: float = 30.0,
        linger: float = 30.0,
        max_payload: int = 65_536,
        max_pending: int = 10_000,
        timeout: float = 5.0,
    ) -> None:
        for part, method in ((store, "save"), (router, "route"), (presence, "locate")):
            if part is not None and (isinstance(part, type) or not callable(getattr(part, method, None))):
                raise UsageError(f"a part is an object with a method {method!r}, not {part!r:.80}")
        if offline not in ("store", "drop"):
            raise UsageError(f'offline is "store" or "drop", not {offline!r}')
        positive = {
            "buffer_size": buffer_size,
            "poll_interval": poll_interval,
            "audit_interval": audit_interval,
            "max_payload": max_payload,
            "max_pending": max_pending,
            "timeout": timeout,
        }
        for name, value in positive.items():
            if not value > 0:
                raise UsageError(f"{name} must be greater than 0, not {value!r}")
        if not linger >= 0:
            raise UsageError(f"linger cannot be negative: {linger!r}")
        self.instance_id = secrets.token_hex(8) if instance_id is None else instance_id
        check_user(self.instance_id)
        self._drop_offline = offline == "drop"
        self._max_payload = max_payload
        self._buffer_size = buffer_size
        self._timeout = timeout
        self._counters = Counters()
        self._closed = self._draining = self._started = False
        self._pushes_since_yield = 0
        self._probes: dict[str, Waiter] = {}
        self._unreadable = OutageLog(logger, "cannot read a routed event", "routed events can be read again")
        self._services, self._jobs = Background("notifier"), Background("notifier")

        self._store = store
        self._stream_store: StreamStore | None = store if isinstance(store, StreamStore) else None
        live = getattr(store, "live", None) if ability(store, StreamStore, live="subscribe") else None
        live = live if isinstance(live, LiveLog) else None  # another attribute of that name means nothing to us
        self._external = self._stream_store is not None and live is None
        self._live: LiveLog = live or LiveLog(
            None if self._external else store,
            background=self._jobs,
            counters=self._counters,
            buffer_size=buffer_size,
            read_timeout=timeout,
        )
        self._transactional: SaveInTransaction | None = (
            store if ability(store, SaveInTransaction, save_in="save") else None
        )
        self._audit_interval = poll_interval if self._stream_store is None else audit_interval
        self._immediate: Immediate | None = store if ability(store, Immediate, save_nowait="save") else None
        self._topics = self._live.users
        loop = self._loop = self._live.loop
        parts: dict[str, Any] = {"timeout": timeout, "background": self._jobs, "counters": self._counters}
        self._writer = (
            Writer(store, on_saved=self._saved, max_pending=max_pending, loop=loop, **parts) if store else None
        )
        self._routes = Routes(router, self.instance_id, **parts) if router else None
        self._locator = Locator(presence, loop=loop, **parts) if presence else None
        self._presence = presence
        parts["background"] = self._services
        routing = RoutingInfo(self.instance_id, MappingProxyType(dict(metadata or {})))
        self._local_presence = LocalPresence(presence, routing, linger=linger, loop=loop, **parts) if presence else None
        listener: Listener | None = None
        if isinstance(router, ReceivingRouter):
            listener = Listener(router, self.instance_id, self.deliver, timeout=timeout, loop=loop)
        self._listener = listener
        self._streams = NotifierStreams(self._counters, self._start_services, self._local_presence, self._listener)
        self._live.add_group(self._streams)
        hearing = self._hearing = store if isinstance(store, StreamStore) and isinstance(store, Liveness) else None
        users = self._streams.users

        def is_receiving() -> bool:
            return (listener is None or listener.is_receiving) and (
                hearing is None or hearing.is_receiving or not users
            )

        self._telemetry = Telemetry(self._counters, self._live, users, is_receiving)
        if self._writer is not None and self._telemetry.measuring:
            self._writer.observe = self._telemetry.saved
        plain = not (router or presence or self._telemetry.measuring or self._telemetry.tracing)
        self._save_directly = self._immediate.save_nowait if self._immediate is not None and plain else None

    # -- pushing -------------------------------------------------------------------------------------------------

    async def push(
        self,
        user: str,
        type: str,
        payload: Any = None,
        *,
        key: str | None = None,
        group: str | None = None,
        meta: Mapping[str, str] | None = None,
        ephemeral: bool = False,
        connection: Any = None,
    ) -> Event | None:
        """Notify one user: check presence, save, offer to the local streams, route to the other instances.

        Args:
            user: whom.
            type: what kind of event, `[A-Za-z0-9_.:-]{1,128}`.
            payload: any JSON value.
            key: makes the push idempotent: the same user and key within the store's window stores nothing and returns
                the first event.
            group: what the event is about.
            meta: text to text, handed on with the event.
            ephemeral: not stored: only streams that are open now can see it.
            connection: the store driver's, with a transaction open: the event is stored in it, and exists if and only
                if it is committed. Before that nothing is shown or routed; after it the store wakes the streams.

        Returns:
            The stored event; the event without an id if ephemeral; None where `offline="drop"` dropped it.

        Raises:
            InvalidEventError: an argument is unacceptable; nothing was stored.
            PushRejectedError: certainly not stored.
            PushUncertainError: outcome unknown; repeat with the same key.
            OverloadedError: too many pushes are pending.
            UsageError: a connection was given, and the store cannot save in a transaction, or the event is ephemeral.
            ClosedError: the notifier is closed.

        Order: a push that returned before another one of the same user began has the smaller id.
        Cancellation: abandons the wait; the event may be stored, and then it is delivered.
        Concurrency: any number of tasks; they share batches.
        Cost: one save, and one presence check if there is a tracker.
        """
        if self._closed:
            raise ClosedError("the notifier is closed")
        if user.__class__ is not str:
            user = plain(user)
        topic = self._topics.get(user) if user.__class__ is str else None  # a user with streams was checked by them
        event = draft(user, type, payload, key, group, meta, topic is not None)
        if len(event.data) > self._max_payload:
            raise PayloadTooLargeError(len(event.data), self._max_payload)
        self._loop.check()
        self._pushes_since_yield += 1
        if self._pushes_since_yield >= PUSHES_PER_YIELD:
            self._pushes_since_yield = 0
            await anyio.lowlevel.checkpoint()  # pushing in a loop must not starve the readers
            topic = self._topics.get(user)
        if self._save_directly is not None and not ephemeral and connection is None:
            try:  # nothing to ask, to wait for, to route or to measure
                stored = self._save_directly(event)
                if stored.__class__ is not Event:
                    checked_event(stored)
            except Exception as error:
                raise self._failed(as_push_error(error, self._live.name))  # noqa: B904 - it carries its cause
            counters = self._counters
            counters.pushed_stored += 1
            if topic is not None and topic.offer(stored):
                counters.delivered_local += topic.streams
            return stored
        if self._telemetry.tracing:
            with self._telemetry.push_span(event) as traced:
                return await self._push(traced, ephemeral, connection)
        return await self._push(event, ephemeral, connection)

    async def _push(self, event: Event, ephemeral: bool, connection: Any = None) -> Event | None:
        locations: Locations = None
        if self._locator is not None:
            locations = await self._locator.locate(event.user)
            if not self._is_present(event.user, locations) and self._drop_offline:
                self._counters.pushed_offline += 1
                return None
        if connection is not None:
            return await self._push_in(event, ephemeral, connection)
        if self._writer is None or ephemeral:
            stored = self._show(event, locations)
        elif self._immediate is not None:
            stored = self._save_nowait(self._immediate, event, locations)
        else:
            try:
                stored = await self._writer.save(event, locations)
            except NotifyError as error:
                raise self._failed(error)  # noqa: B904 - it carries its cause
        if self._routes is not None:
            await _let_routes_start()
        return stored

    async def _push_in(self, event: Event, ephemeral: bool, connection: Any) -> Event:
        """Save in the caller's transaction; what it commits is the store's to announce."""
        if ephemeral or self._transactional is None:
            what = "an ephemeral event is not stored" if ephemeral else f"{self._live.name} has no transactions"
            raise UsageError(f"a push in a transaction makes no sense: {what}")
        try:
            stored = await self._transactional.save_in(event, connection)
        except Exception as error:
            raise self._failed(as_push_error(error, self._live.name))  # noqa: B904 - it carries its cause
        self._counters.pushed_stored += 1
        return stored

    async def push_many(
        self,
        users: Iterable[str],
        type: str,
        payload: Any = None,
        *,
        key: str | None = None,
        group: str | None = None,
        meta: Mapping[str, str] | None = None,
        ephemeral: bool = False,
    ) -> PushReport:
        """Notify many users of the same thing, in bounded batches of one round trip each.

        A user named twice gets it once. A user id that is unacceptable counts as failed.

        Args:
            users: whom.
            type: as for `push`.
            payload: as for `push`.
            key: as for `push`; it counts for each user by itself.
            group: as for `push`.
            meta: as for `push`.
            ephemeral: as for `push`.

        Raises:
            InvalidEventError: another argument is unacceptable; nothing was stored.
            BackendError: every single user failed; this is the first one's error.
            ClosedError: the notifier is closed.

        Order, concurrency: as `push`.
        Cancellation: abandons the wait; the work goes on.
        Cost: one save for 500 users where the store can `save_many`; other pushes proceed meanwhile.
        """
        if self._closed:
            raise ClosedError("the notifier is closed")
        first = draft("-", type, payload, key, group, meta, user_checked=True)
        if len(first.data) > self._max_payload:
            raise PayloadTooLargeError(len(first.data), self._max_payload)
        if isinstance(users, str | bytes):
            raise InvalidEventError(f"push_many takes many users, not the letters of one: {users!r:.80}")
        self._live.loop.check()
        failed: dict[str, NotifyError] = {}
        drafts: dict[str, Event] = {}
        for given in users:
            user: Any = plain(given)
            try:
                check_user(user)
            except InvalidEventError as error:
                failed[str(user)] = error
            else:
                drafts[user] = first.addressed_to(user)
        if not drafts and not failed:
            return PushReport()
        try:
            report = await self._jobs.run(self._push_all, [*drafts.values()], failed, ephemeral)
        except ClosedError as error:
            message = "the notifier was closed meanwhile; some of the events may be stored"
            raise PushUncertainError(message, backend=self._live.name) from error
        if failed and not report.events and not report.offline:
            raise next(iter(failed.values()))
        return report

    async def _push_all(self, drafts: list[Event], failed: dict[str, NotifyError], ephemeral: bool) -> PushReport:
        located: Mapping[str, Sequence[RoutingInfo]] | None = None
        offline: list[str] = []
        if self._locator is not None:
            located = await self._locator.locate_many([event.user for event in drafts])
        locations = [None if located is None else located.get(event.user, ()) for event in drafts]
        if self._drop_offline:
            present = [self._is_present(event.user, where) for event, where in zip(drafts, locations, strict=True)]
            offline = [event.user for event, here in zip(drafts, present, strict=True) if not here]
            drafts, locations = [*compress(drafts, present)], [*compress(locations, present)]
            self._counters.pushed_offline += len(offline)
        events: dict[str, Event] = {}
        for start in range(0, len(drafts), BATCH_SIZE):
            batch, where = drafts[start : start + BATCH_SIZE], locations[start : start + BATCH_SIZE]
            outcomes: Sequence[Event | NotifyError]
            if self._writer is None or ephemeral:
                outcomes = [self._show(event, to) for event, to in zip(batch, where, strict=True)]
            else:
                outcomes = await self._writer.save_all(batch, where)
            for event, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Event):
                    events[event.user] = outcome
                else:
                    failed[event.user] = self._failed(outcome)
            await anyio.lowlevel.checkpoint()
        return PushReport(events, failed, offline)

    async def broadcast(self, type: str, payload: Any = None, *, meta: Mapping[str, str] | None = None) -> Event:
        """Show an ephemeral event to every stream that is open now, on every instance.

        Returns:
            The event; its `user` and `id` are empty.

        Raises:
            InvalidEventError: an argument is unacceptable.
            ClosedError: the notifier is closed.

        Order: none.
        Cancellation: it is offered here, and perhaps elsewhere.
        Cost: proportional to the open streams; one route.
        """
        if self._closed:
            raise ClosedError("the notifier is closed")
        event = Event("-", type, payload, meta=meta)
        if len(event.data) > self._max_payload or type.startswith("notify."):
            self._refuse(event)
        self._live.loop.check()
        event = self._show(event.addressed_to(""), None)
        await _let_routes_start()
        return event

    def deliver(self, event: Event | bytes) -> int:
        """Offer an event that came from another instance to the local streams; return how many took it.

        For the receiving half of a router. The store and presence are not touched; duplicates are ignored. Never waits;
        call it on the notifier's event loop.

        Args:
            event: an event, or the bytes of `Event.to_bytes`. Bytes that are not an event are logged and ignored.

        Raises:
            InvalidEventError: neither an event nor bytes.
        """
        if isinstance(event, bytes | bytearray | memoryview):
            try:
                event = Event.from_bytes(event)
            except CodecError as error:
                self._unreadable.failed(error)
                return 0
            self._unreadable.recovered()
        if not isinstance(event, Event):
            raise InvalidEventError(f"deliver() expects an Event or bytes, got {event.__class__.__name__}")
        if self._closed:
            return 0
        if not event.id and event.meta.get(ORIGIN) == self._live.origin:
            if event.type == PROBE_TYPE:
                wake(self._probes.get(event.key or ""))
            return 0
        taken = self._live.offer(event) + (0 if event.id else self._streams.show_external(event))
        if taken:
            self._counters.delivered_routed += taken
        elif event.user in self._streams.users:
            self._counters.duplicates += 1
        return taken

    def _save_nowait(self, store: Immediate, event: Event, locations: Locations) -> Event:
        began = time.perf_counter() if self._telemetry.measuring else 0.0
        try:
            stored = checked_event(store.save_nowait(event))
        except Exception as error:
            raise self._failed(as_push_error(error, self._live.name))  # noqa: B904 - it carries its cause
        if self._telemetry.measuring:
            self._telemetry.saved(time.perf_counter() - began, 1)
        self._saved(stored, locations)
        return stored

    def _saved(self, stored: Event, locations: Locations) -> None:
        self._counters.pushed_stored += 1
        self._counters.delivered_local += self._live.offer(stored)
        if self._routes is not None:
            self._routes.send(stored, locations)

    def _is_present(self, user: str, locations: Locations) -> bool:
        return locations is None or bool(locations) or user in self._streams.users

    def _show(self, event: Event, locations: Locations) -> Event:
        """Deliver an ephemeral event, marked so that its echo can be told."""
        if self._routes is not None:
            event = event.with_meta({**event.meta, ORIGIN: self._live.origin})
        event = event.stored("", "")
        self._counters.pushed_ephemeral += 1
        self._counters.delivered_local += self._live.offer(event) + self._streams.show_external(event)
        if self._routes is not None:
            self._routes.send(event, locations)
        return event

    def _failed(self, error: NotifyError) -> NotifyError:
        if isinstance(error, PushUncertainError):
            self._counters.pushed_uncertain += 1
        else:
            self._counters.pushed_rejected += 1
        return error

    def _refuse(self, event: Event) -> NoReturn:
        if event.type.startswith("notify."):
            raise InvalidEventError(f"event types that begin with 'notify.' are the library's own: {event.type!r}")
        raise PayloadTooLargeError(len(event.data), self._max_payload)

    # -- subscribing ---------------------------------------------------------------------------------------------

    def subscribe(
        self,
        user: str,
        last_id: Position = None,
        *,
        signals: bool = False,
        track: bool = True,
        max_lag: int | None = None,
    ) -> Stream:
        """Return a stream of one user's events: what is in the log after `last_id`, then live, without a seam.

        Args:
            user: whose.
            last_id: None or `""`: from now on, fixed when the stream is entered or at the first `next`. `"0"`: all
                that is retained. A datetime: everything since then. An id: everything after it.
            signals: also yield `notify.gap` (payload: reason, from, to) and `notify.sync` (the replay is over).
            track: whether the open stream makes its user present.
            max_lag: live events that the reader may be behind before the stream ends with `SlowConsumerError`. None: a
                slow reader just reads the log later, and costs nothing.

        Raises:
            InvalidEventError: `user` is no user id.
            InvalidEventIdError: `last_id` is no position.
            UsageError: signals or max_lag, of a stream store whose streams are its own, without a `LiveLog` in `live`.
            ClosedError: the notifier is closed or draining.
        """
        if self._closed or self._draining:
            raise ClosedError("the notifier is closed" if self._closed else "the notifier is draining")
        if self._external and self._stream_store is not None:
            check_user(user)
            if signals or max_lag is not None:
                raise UsageError(f"the streams of {self._live.name} know neither signals nor max_lag")
            options: dict[str, Any] = {"track": track, "buffer_size": self._buffer_size}
            return ExternalStream(self._stream_store, self._streams, self._live.loop, plain(user), last_id, **options)
        return self._live.subscribe(user, last_id, group=self._streams, signals=signals, track=track, max_lag=max_lag)

    # -- state ---------------------------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """Return a snapshot of what this notifier has counted."""
        return snapshot(self._counters, len(self._streams.users))

    async def check(self) -> Health:
        """Try every part once and return a verdict.

        The store is read, presence is asked, and a probe goes through the router to this very instance and is awaited
        back. A stream store that knows whether it hears of new events has to prove it to a stream. Takes at most
        `timeout` seconds for each part; a part that fails is reported, not raised.

        Raises:
            ClosedError: the notifier is closed.
        """
        if self._closed:
            raise ClosedError("the notifier is closed")
        self._live.loop.check()
        self._start_services()
        parts: dict[str, str] = {}
        if self._store is not None:
            parts["store"] = await self._try(self._store.head, self.instance_id)
        if self._hearing is not None and self._stream_store is not None and parts["store"] == "ok":
            parts["live"] = await self._try(self._until_heard, self._stream_store, self._hearing)
        if self._presence is not None:
            parts["presence"] = await self._try(self._presence.locate, [self.instance_id])
        if self._routes is not None:
            parts["router"] = await self._try(self._probe, self._routes)
        return Health(all(part == "ok" for part in parts.values()), parts)

    async def _try(self, function: Callable[..., Awaitable[object]], *args: object) -> str:
        async def bounded() -> None:
            with anyio.fail_after(self._timeout):
                await function(*args)

        try:
            await self._jobs.run(bounded)
        except TimeoutError:
            return f"no answer within {self._timeout} s"
        except Exception as error:
            return repr(error)
        return "ok"

    async def _until_heard(self, store: StreamStore, hearing: Liveness) -> None:
        with anyio.move_on_after(self._timeout * 0.8):
            async with store.subscribe(self.instance_id):
                while not hearing.is_receiving:  # noqa: ASYNC110 - it is a property: nobody tells
                    await anyio.sleep(0.01)
                return
        raise BackendUnavailableError("new events are not heard of, so each arrives late", backend=self._live.name)

    async def _probe(self, routes: Routes) -> None:
        """Send an event to this instance and wait until it comes back; a router that does not listen need not echo."""
        nonce = secrets.token_hex(8)
        probe = Event(self.instance_id, PROBE_TYPE, key=nonce, meta={ORIGIN: self._live.origin})
        waiter = self._probes[nonce] = self._live.loop.new_waiter()
        try:
            if self._listener is not None:
                await self._listener.ready()
            await routes.router.route(probe, RoutingInfo(self.instance_id))
            if self._listener is not None:
                await waiter
        finally:
            del self._probes[nonce]

    async def drain(self, window: float = 5.0) -> None:
        """End the streams, spread over a window so that their clients do not all reconnect at once; let pushes finish.

        New subscriptions raise ClosedError; pushes go on until `aclose`.

        Args:
            window: seconds over which the streams end.

        Cancellation: some streams have ended, the rest go on; drain again.
        """
        self._draining = True
        for rank in range(self._streams.cutoff + 1, RANKS + 1):
            if self._counters.open_streams:
                await anyio.sleep(window / RANKS)
            await self._end_streams(rank)
        await self._jobs.settle(self._timeout)

    async def aclose(self) -> None:
        """End every stream, let pushes finish, release presence and stop. Idempotent.

        Takes at most about twice `timeout` seconds, also if a store ignores cancellation.
        Cancellation: everything is released all the same.
        """
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self._end_streams(RANKS)
            self._live.drop_group(self._streams)
            if not await self._jobs.settle(self._timeout):
                logger.warning("closing with %d pushes pending", self._counters.pending_pushes)
            if self._local_presence is not None:
                await self._local_presence.aclose(self._timeout)
            await self._services.aclose(_GRACE)
            await self._jobs.aclose(_GRACE)
        self._telemetry.close()

    async def _end_streams(self, rank: int) -> None:
        if rank >= RANKS:
            self._streams.close()
            self._streams.users.clear()
        self._streams.cutoff = max(self._streams.cutoff, rank)  # another drain, or close, may be further
        self._live.wake_ended()
        await self._streams.close_external()

    async def __aenter__(self) -> Self:
        """Start: routed events are heard once this returns."""
        if self._closed:
            raise ClosedError("the notifier is closed")
        self._live.loop.check()
        self._start_services()
        if self._listener is not None:
            await self._listener.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    def _start_services(self) -> None:
        """Start what listens and looks for news, at first need."""
        if self._started:
            return
        self._started = True
        if self._listener is not None:
            self._services.start(self._listener.run)
        if self._store is not None and not self._external:
            self._services.start(self._live.audit_forever, self._audit_interval)


async def _let_routes_start() -> None:
    """Let tasks that were just started take their first step: a quick route is done when push returns."""
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()  # trio shuffles the tasks of one round, so only a second one is sure to be later
