"""The half of a notifier that sends: push, push_many, broadcast, disconnect, deliver.

Apart from `_notifier.py` for its length alone; what layers above the core push is in `_layers.py`. `push` stays in one
frame up to the save, since frames are what a push in one process costs; whatever has to be asked or awaited for goes
through `_push/_pipeline.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import anyio
import anyio.lowlevel

from ._assembly import Options, Parts
from ._codec import check_json, dump
from ._push._pipeline import PUSHES_PER_YIELD, let_routes_start
from ._push._writer import checked_event
from ._runtime._commands import DISCONNECT
from ._runtime._results import PushReport
from .abc import Store
from .errors import (
    BackendError,
    ClosedError,
    InvalidEventError,
    NotifyError,
    PayloadTooLargeError,
    PushUncertainError,
    UsageError,
)
from .event import Event, check_pushed_type, check_user, draft, plain, pushed_meta

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultingTypeVar  # a default for a type parameter is Python 3.13's

    Pushed = DefaultingTypeVar("Pushed", bound=Event | None, default=Event, covariant=True)
else:
    Pushed = TypeVar("Pushed", covariant=True)

_UNUSED: Final = "notify.moment"
"""A user without events: opening a stream of it starts what receives from other processes."""

_PATIENCE: Final = 2.0
"""Seconds to wait until events of other processes are received."""


class Pushing(Generic[Pushed]):
    """What is common to every call that sends; `Notifier` adds the constructor, `subscribe`, `check` and the end."""

    def __init__(self, store: Store | None, parts: Parts, options: Options, is_plain: bool) -> None:
        self._store, self._parts, self._options = store, parts, options
        self._store_name = type(store).__name__
        self._pipeline, self._counters, self._unsent = parts.pipeline, parts.counters, parts.pipeline.unsent
        self._guard, self._users = parts.live._hub.guard, parts.live._hub.users
        self._closed = False
        self._pushes_since_yield = 0
        self._is_informed = False
        self._also_forget: list[Callable[[], object]] = []
        immediate = parts.pipeline.immediate
        self._save_directly = immediate.save_nowait if immediate is not None and is_plain else None
        self._dumps = options.dumps
        # bound once, which is one frame fewer for each push: thousands of them may wait for the store at the same time
        self._push: Callable[[Event, bool, Any], Awaitable[Event | None]] = parts.pipeline.push
        if parts.telemetry.tracing:
            self._push = self._push_traced

    @property
    def store(self) -> Store | None:
        """The store that the notifier was given, or opened by `from_url`; None without one."""
        return self._store

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
        data: bytes | None = None,
    ) -> Pushed:
        """Notify one user: save, offer to the local streams, route to the other instances.

        Args:
            user: the recipient.
            type: what kind of event, `[A-Za-z0-9_.:-]{1,128}`.
            payload: any JSON value.
            key: makes the push idempotent: the same user and key within the store's window stores nothing and returns
                the first event.
            group: what the event is about.
            meta: a mapping of strings to strings, delivered with the event; no name may begin with `notify.`.
            ephemeral: not stored: only streams that are open now can see it.
            connection: a connection of the store's driver with an open transaction: the event is stored in it, and
                exists if and only if it is committed. Streams are woken after the commit. The event is not passed to
                routers, including sinks.
            data: JSON in UTF-8 that is kept byte for byte, in place of a payload.

        Returns:
            The stored event; the event without an id if ephemeral; None where `offline="drop"` dropped it.

        Raises:
            InvalidEventError: an argument is unacceptable; nothing was stored.
            PushRejectedError: certainly not stored.
            PushUncertainError: outcome unknown; repeat with the same key.
            OverloadedError: too many pushes are pending.
            UsageError: `connection` was given, and the store cannot save in a transaction, or the event is ephemeral;
                or called from another event loop.
            ClosedError: the notifier is closed.

        Order: the pushes to one user are stored in the order of the calls; one that fails leaves the others in order.
        Cancellation: abandons the wait; the event may be stored, and then it is delivered.
        Concurrency: any number of tasks; they share batches.
        Cost: one save. With a tracker, also one presence check; `push` waits for it only with `offline="drop"`.
        """
        if self._closed:
            raise ClosedError("the notifier is closed")
        if user.__class__ is str:
            streams = self._users.get(user)  # a user with streams was checked by them
        else:
            user = plain(user)
            streams = self._users.get(user) if user.__class__ is str else None
        if data is not None or self._dumps is not None:
            data = self._encoded(payload, data)
        event = draft(user, type, payload, key, group, meta, streams is not None, data)
        if len(event.data) > self._options.max_payload:
            raise PayloadTooLargeError(len(event.data), self._options.max_payload)
        self._guard.check()
        pushed: Any  # what the overloads of the constructor say
        save = self._save_directly
        if save is None or ephemeral or connection is not None or self._unsent:
            pushed = await self._push(event, ephemeral, connection)
        else:
            try:  # nothing to ask, to wait for, to route or to measure
                pushed = stored = save(event)
                if stored.__class__ is not Event:
                    checked_event(stored)
            except Exception as error:
                raise self._pipeline.save_failed(error)  # noqa: B904 - it carries its cause
            counters = self._counters
            counters.pushed_stored = count = counters.pushed_stored + 1
            if streams is not None and streams.offer(stored):
                counters.delivered_local += streams.streams
            if count % PUSHES_PER_YIELD:
                return pushed  # type: ignore[no-any-return]
            self._pushes_since_yield = PUSHES_PER_YIELD
        self._pushes_since_yield += 1
        if self._pushes_since_yield >= PUSHES_PER_YIELD:
            self._pushes_since_yield = 0
            await anyio.lowlevel.checkpoint()  # pushing in a loop must not starve the readers; the event has its place
        return pushed  # type: ignore[no-any-return]

    def _encoded(self, payload: Any, data: Any) -> bytes:
        """Return the JSON of a payload by `dumps`, or the given one: checked in both cases."""
        limit, what = self._options.max_payload, "data="
        if data is not None and payload is not None:
            raise InvalidEventError("a push takes either a payload or data=, its JSON: leave one of them out")
        if data is None:
            assert self._dumps is not None
            data, what = dump(self._dumps, payload), "what dumps= returned"
        elif not isinstance(data, bytes):
            raise InvalidEventError(f"data= must be bytes of JSON in UTF-8, not {data.__class__.__name__}")
        if len(data) > limit:
            raise PayloadTooLargeError(len(data), limit)
        check_json(data, what)
        return bytes(data)

    async def _push_traced(self, event: Event, ephemeral: bool, connection: Any) -> Event | None:
        with self._parts.telemetry.push_span(event) as traced:
            return await self._pipeline.push(traced, ephemeral, connection)

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
        data: bytes | None = None,
    ) -> PushReport:
        """Notify many users of the same thing, in bounded batches of one round trip each.

        A user who is named twice gets it once. An unacceptable user id is reported as failed.

        Args:
            users: the recipients.
            type: as for `push`.
            payload: as for `push`.
            key: as for `push`; it applies to each user separately.
            group: as for `push`.
            meta: as for `push`.
            ephemeral: as for `push`.
            data: as for `push`.

        Raises:
            InvalidEventError: another argument is unacceptable; nothing was stored.
            BackendError: every single user failed; this is the first one's error.
            ClosedError: the notifier is closed.

        Order, concurrency: as `push`.
        Cancellation: abandons the wait; the work continues.
        Cost: one save for 166 users if the store can `save_many`; other pushes proceed at the same time.
        """
        self._check_open()
        if data is not None or self._dumps is not None:
            data = self._encoded(payload, data)
        first = draft("-", type, payload, key, group, meta, True, data)
        self._check_size(first)
        if isinstance(users, str | bytes) or not isinstance(users, Iterable):
            raise InvalidEventError(
                f"push_many() expects an iterable of user ids, got a single {users.__class__.__name__}: {users!r:.80}"
            )
        self._guard.check()
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
        report = await self._push_all([*drafts.values()], failed, ephemeral)
        if failed and not report.events and not report.offline:
            raise next(iter(failed.values()))
        return report

    async def _push_all(self, drafts: Sequence[Event], failed: dict[str, NotifyError], ephemeral: bool) -> PushReport:
        """Push checked drafts of different users, in bounded batches; `failed` already holds the refused users."""
        try:
            saves = self._pipeline.begin(drafts, ephemeral)
            return await self._parts.jobs.run(self._pipeline.push_all, saves, failed, ephemeral)
        except ClosedError as error:
            message = "the notifier was closed during push_many(), so some of the events may be stored"
            raise PushUncertainError(message, backend=self._store_name) from error

    async def broadcast(
        self,
        type: str,
        payload: Any = None,
        *,
        group: str | None = None,
        meta: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> Event:
        """Show an ephemeral event to every stream that is open now, on every instance.

        Args:
            type: as for `push`.
            payload: as for `push`.
            group: as for `push`.
            meta: as for `push`.
            data: as for `push`.

        Returns:
            The event; its `user` and `id` are empty.

        Raises:
            InvalidEventError: an argument is unacceptable.
            ClosedError: the notifier is closed.

        Order: none.
        Cancellation: the event is offered in this process, and perhaps in others.
        Cost: proportional to the open streams; one route.
        """
        self._check_open()
        check_pushed_type(type)
        if data is not None or self._dumps is not None:
            data = self._encoded(payload, data)
        frozen = None if meta is None else pushed_meta(meta)
        event = Event("-", type, payload, data=data, group=group, meta=frozen)
        self._check_size(event)
        self._guard.check()
        event = self._parts.fan_out.show(event.addressed_to(""), None)
        await let_routes_start()
        return event

    async def disconnect(self, user: str, reason: str = "") -> None:
        """End every stream of this user, on every instance: `async for` ends, `next` raises `DisconnectedError`.

        This applies to every stream that exists when an instance is informed, even if it has not been opened yet or
        its reader is busy. Streams that are created afterwards are not affected, unless `moment` was called before:
        keeping a client out is up to the application. Other instances are informed in the same way as of a broadcast,
        through the store (`Ephemerals`) or the router: soon, but not at all while those are down.

        Args:
            user: the user whose streams end, including streams that also read other logs.
            reason: shown to the readers, at most 255 characters.

        Raises:
            InvalidEventError: `user` is not a user id.
            UsageError: `reason` is not a str of at most 255 characters.
            ClosedError: the notifier is closed.

        Order: none.
        Cancellation: the streams in this process have ended, and perhaps those in others.
        Cost: proportional to the user's open streams; one route.
        """
        self._check_open()
        check_user(user)
        text: Any = reason
        if not isinstance(text, str) or len(text) > 255:
            raise UsageError(f"reason must be a str of at most 255 characters, not {reason!r:.80}")
        self._guard.check()
        self._parts.fan_out.command(DISCONNECT, "", {"user": plain(user), "reason": plain(text)})
        await let_routes_start()

    async def moment(self) -> int:
        """Return the present, for `subscribe(disconnected_since=)`: call it before a client is authenticated.

        Otherwise a `disconnect` that comes while the client is being authenticated would miss the stream that is opened
        right afterwards. The first call waits until this instance is informed of the disconnections of others, for a
        bounded time, even if it has no stream open; later calls return at once.

        Raises:
            ClosedError: the notifier is closed.

        Order, concurrency: any number of tasks.
        Cancellation: no effect.
        Cost: of the first call, one read; none afterwards.
        """
        if self._closed:
            raise ClosedError("the notifier is closed")
        self._guard.check()
        if not self._is_informed:
            live = self._parts.live
            self._parts.streams.opening()
            with suppress(BackendError), anyio.move_on_after(min(_PATIENCE, self._options.timeout)):
                await self._parts.receivers.ready()
                async with live.subscribe(_UNUSED):
                    while not live.is_receiving:  # noqa: ASYNC110 - a property cannot be awaited
                        await anyio.sleep(0.01)
            self._is_informed = True  # or as soon as the outage ends: what receives has been started
        return self._parts.streams.generation

    def deliver(self, event: Event | bytes) -> int:
        """Offer an event that came from another instance to the local streams; return how many accepted it.

        For the receiving half of a router. The store and presence are not touched; duplicates are ignored. Never waits;
        call it on the notifier's event loop.

        Args:
            event: an event, or the bytes of `Event.to_bytes`. Bytes that are not an event are logged and ignored.

        Raises:
            InvalidEventError: neither an event nor bytes.
            UsageError: called from another thread or event loop.
        """
        if self._closed:
            return 0
        self._guard.check()
        return self._parts.fan_out.deliver(event)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the notifier is closed")

    def _check_size(self, event: Event) -> None:
        if len(event.data) > self._options.max_payload:
            raise PayloadTooLargeError(len(event.data), self._options.max_payload)
