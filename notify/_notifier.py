"""What applications call: the constructor, subscribe, check, close. Knows no backend.

What sends is in `_pushing.py` and `_layers.py`, what erases in `_forgetting.py`. The parts are put together in
`_assembly.py`; a push goes through `_push/_pipeline.py`, and streams come from `_stream/_live.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from inspect import signature
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self, overload

import anyio

from ._assembly import Options, as_routers, assemble
from ._forgetting import Forgetting
from ._open import open_store
from ._pushing import Pushed
from ._runtime._health import examine, until_receiving, until_relayed
from ._runtime._options import check_numbers, check_positive
from ._runtime._results import Health
from ._runtime._stats import Statistics, snapshot
from ._stream._expiry import moment_of
from ._stream._external import ExternalStream
from ._stream._merged_attachment import check_users
from ._stream._stream_set import RANKS
from .abc import (
    HasOutbox,
    MergedStream,
    Position,
    PresenceTracker,
    Router,
    RoutingInfo,
    Store,
    Stream,
    StreamStore,
    ability,
)
from .errors import ClosedError, UsageError
from .event import Event, check_name, check_user, plain

_Dumps = Callable[[Any], bytes | str]


class Notifier(Forgetting[Pushed]):
    """Pushes events to users and hands out streams of them.

    Use it as `async with Notifier(...)`, or call `await notifier.aclose()` at the end. The parts belong to the caller:
    they may be shared, and closing the notifier does not close them, except for the store of `from_url`.

    Args:
        store: where events are kept. None: every event is ephemeral, which is logged once, at level INFO.
        router: carries events to other instances; or a sequence of routers, each of which gets every event. A router
            whose attribute `every_event` is true is a sink: it gets each event that this notifier stores once, whatever
            presence says, and no ephemeral ones.
        presence: knows who is connected where. Without it, events are routed to every instance.
        instance_id: this instance's name among the others, unique for each process; leave it out if in doubt.
        metadata: what routers of other instances need to reach this one.
        offline: `"store"` keeps events for absent users; `"drop"` neither stores nor routes them.
        buffer_size: recent events kept in memory for each user with an open stream; a reader further behind reads
            the log, and loses the ephemeral ones. A stream store has its own buffer size; the library's have 64.
        poll_interval: seconds within which events written to a plain store by other processes are noticed.
        audit_interval: seconds within which an event is found although a stream store lost its wake message. Among
            the notifiers of one stream store the smallest interval counts: it has one auditor.
        linger: seconds for which a user counts as present after the last stream closed.
        max_payload: bytes of JSON that a payload may have.
        max_pending: pushes that may be pending before `OverloadedError`.
        timeout: seconds that one call of the store, router or presence tracker may take.
        dumps: encodes payloads: a function to bytes or str, for example `orjson.dumps`, `msgspec.json.encode` or
            pydantic's `to_json`. None: the standard library's encoder. What it returns is checked to be one JSON text.

    Raises:
        UsageError: an argument is unacceptable.

    For type checkers, `push` returns an `Event`, and `Event | None` only where `offline` may be `"drop"`; such a
    notifier is a `Notifier[Event | None]`.
    """

    @overload
    def __init__(
        self: Notifier[Event],
        store: Store | None = None,
        *,
        router: Router | Sequence[Router] | None = None,
        presence: PresenceTracker | None = None,
        instance_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        offline: Literal["store"] = "store",
        buffer_size: int = 64,
        poll_interval: float = 2.0,
        audit_interval: float = 30.0,
        linger: float = 30.0,
        max_payload: int = 65_536,
        max_pending: int = 10_000,
        timeout: float = 5.0,
        dumps: _Dumps | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: Notifier[Event | None],
        store: Store | None = None,
        *,
        router: Router | Sequence[Router] | None = None,
        presence: PresenceTracker | None = None,
        instance_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        offline: Literal["store", "drop"],
        buffer_size: int = 64,
        poll_interval: float = 2.0,
        audit_interval: float = 30.0,
        linger: float = 30.0,
        max_payload: int = 65_536,
        max_pending: int = 10_000,
        timeout: float = 5.0,
        dumps: _Dumps | None = None,
    ) -> None: ...

    def __init__(
        self,
        store: Store | None = None,
        *,
        router: Router | Sequence[Router] | None = None,
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
        dumps: _Dumps | None = None,
    ) -> None:
        options = Options(
            offline, buffer_size, poll_interval, audit_interval, linger, max_payload, max_pending, timeout, dumps
        )
        self.instance_id = secrets.token_hex(8) if instance_id is None else instance_id
        check_name("instance_id", self.instance_id)
        if metadata is not None and not isinstance(metadata, Mapping):
            raise UsageError(f"metadata must map strings to strings, not {metadata!r:.80}")
        here = RoutingInfo(self.instance_id, MappingProxyType(dict(metadata or {})))
        routers = as_routers(router)
        parts = assemble(
            store,
            routers,
            presence,
            here,
            options,
            deliver=self.deliver,
            opening=self._start_services,
            is_named=instance_id is not None,
        )
        is_plain = not (routers or presence or parts.telemetry.measuring or parts.telemetry.tracing)
        super().__init__(store, parts, options, is_plain)
        self._presence, self._streams, self._live = presence, parts.streams, parts.live
        self._draining = self._started = False
        self._opened: Store | None = None

    @overload
    @classmethod
    def from_url(cls, url: str, *, offline: Literal["drop"], **options: Any) -> Notifier[Event | None]: ...

    @overload
    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self: ...

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Any:
        """Return a notifier with the store at a URL, which it opens at the first use and closes in `aclose`.

        Args:
            url: as for `open_store`; its query may name options of the store, for example `?max_len=50`.
            options: those of the notifier. Options that a notifier does not have go to the store. `timeout` and
                `poll_interval` are the notifier's; to set those of the store, write them into the URL.

        Raises:
            UsageError: not a store URL, or an argument is unacceptable.
            ModuleNotFoundError: the driver of the backend is not installed; the message names the extra to install.
        """
        if "store" in options:
            raise UsageError("from_url() opens the store at its URL, so store= cannot be given: use Notifier(store)")
        ours = {name: options.pop(name) for name in _KEYWORDS & options.keys()}
        store = open_store(url, **options)
        notifier = cls(store, **ours)
        notifier._opened = store
        return notifier

    # -- subscribing ---------------------------------------------------------------------------------------------

    @overload
    def subscribe(  # type: ignore[overload-overlap]  # a str is an iterable of str too: this overload comes first
        self,
        user: str,
        last_id: Position = None,
        *,
        signals: bool = False,
        track: bool = True,
        max_lag: int | None = None,
        expires_at: datetime | None = None,
        disconnected_since: int | None = None,
    ) -> Stream: ...

    @overload
    def subscribe(
        self,
        user: Iterable[str],
        last_id: Position = None,
        *,
        signals: bool = False,
        track: bool = True,
        max_lag: int | None = None,
        expires_at: datetime | None = None,
        disconnected_since: int | None = None,
    ) -> MergedStream: ...

    def subscribe(
        self,
        user: str | Iterable[str],
        last_id: Position = None,
        *,
        signals: bool = False,
        track: bool = True,
        max_lag: int | None = None,
        expires_at: datetime | None = None,
        disconnected_since: int | None = None,
    ) -> Stream | MergedStream:
        """Return a stream of a user's events: first those in the log after `last_id`, then live ones.

        Args:
            user: the user whose events are yielded; or several users, whose logs one `MergedStream` reads.
            last_id: None or `""`: from now on, fixed when the stream is entered or at the first `next`. `"0"`: all
                that is retained. A datetime: everything since then. The `last_id` of a stream: everything after it. The
                `last_id` of several logs has an exact position for each of them; a log without one starts from now,
                and positions of logs that are not among the users are ignored. With several users, any other position
                applies to every log, and an id counts as the time that it contains.
            signals: also yield `notify.gap` (payload: reason, from, to) and `notify.sync` (the replay is over).
            track: whether the open stream makes its user present.
            max_lag: live events the reader may be behind before `SlowConsumerError` ends the stream. None: no limit.
            expires_at: when the stream ends as if by `disconnect`, with the reason `"expired"`; a datetime with a time
                zone. It is compared with the wall clock; a change of that clock is noticed within a second.
            disconnected_since: a `moment` of this notifier: a `disconnect` after it ends this stream too.

        Raises:
            InvalidEventError: `user` is not a user id.
            InvalidEventIdError: `last_id` is not a position.
            UsageError: `expires_at`, `max_lag` or `disconnected_since` is unacceptable; no user is named, or over 100.
            UsageError: `signals`, `max_lag` or several users, with a stream store that has no `LiveLog` in `live`.
            ClosedError: the notifier is closed or draining.
        """
        if self._closed or self._draining:
            self._check_open()
            raise ClosedError("the notifier is draining")
        self._guard.check_if_running()
        since = disconnected_since
        if max_lag is not None or (since is not None and (since.__class__ is not int or since < 0)):
            check_numbers(max_lag=max_lag, disconnected_since=since)
        external, expires = self._parts.external, None if expires_at is None else moment_of(expires_at)
        if external is None:
            is_one = isinstance(user, str) or not isinstance(user, Iterable)
            subscribe: Any = self._live._subscribe if is_one else self._live._subscribe_many
            return subscribe(user, last_id, self._streams, signals, max_lag, track, expires, since)  # type: ignore[no-any-return]
        if not isinstance(user, str) and isinstance(user, Iterable):
            check_users(user)
            raise UsageError(f"{self._store_name} does not support several logs in one stream: it has no LiveLog")
        check_user(user)
        if signals or max_lag is not None:
            raise UsageError(f"{self._store_name} does not support signals= or max_lag=: it has no LiveLog")
        options: dict[str, Any] = {"track": track, "expires": expires, "buffer_size": self._options.buffer_size}
        stream = ExternalStream(external, self._streams, self._guard, plain(user), last_id, **options)
        if disconnected_since is not None:
            stream.disconnect_if(self._live._hub.disconnection(plain(user), disconnected_since))
        return stream

    # -- state ---------------------------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """Return a snapshot of what this notifier has counted."""
        return snapshot(self._counters, len(self._streams.users))

    async def check(self, timeout: float | None = None) -> Health:
        """Try every part once, all at the same time, and return a verdict.

        The store is read, presence is asked, and each router has to carry a probe to this very instance. A stream store
        that knows whether it receives new events has to prove it to a stream. An outbox fails if events in it have
        waited for more than a minute, or were set aside. A router with `every_event` is not sent a probe: it fails if
        the latest event did not reach it. A part that fails is reported, not raised.

        Args:
            timeout: seconds after which a part that has not answered has failed; the notifier's by default.

        Raises:
            UsageError: `timeout` is not greater than 0.
            ClosedError: the notifier is closed.
        """
        self._check_open()
        self._guard.check()
        within = self._options.timeout if timeout is None else timeout
        check_positive(timeout=within)
        self._start_services()
        parts, attempts = self._parts, dict[str, Callable[[], Awaitable[object]]]()
        if self._store is not None:
            attempts["store"] = partial(self._store.head, self.instance_id)
        if parts.liveness is not None and isinstance(self._store, StreamStore):
            attempts["live"] = partial(until_receiving, self._store, parts.liveness, self.instance_id, within * 0.8)
        if ability(self._store, HasOutbox):
            attempts["outbox"] = partial(until_relayed, self._store)
        if self._presence is not None:
            attempts["presence"] = partial(self._presence.locate, [self.instance_id])
        receivers = {id(each.router): each for each in parts.receivers.receivers}
        for number, routes in enumerate(parts.routes):
            name = "router" if len(parts.routes) == 1 else f"router {number} ({routes.name})"
            attempts[name] = partial(self._parts.fan_out.probe, routes, receivers.get(id(routes.router)))
        return await examine(attempts, timeout=within, background=parts.jobs)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "draining" if self._draining else "open"
        parts = [type(part).__name__ for part in (self._store, self._presence) if part is not None]
        parts += [routes.name for routes in self._parts.routes]
        return f"<Notifier {self.instance_id!r} {' '.join([*parts, state])}>"

    # -- lifecycle -----------------------------------------------------------------------------------------------

    async def drain(self, window: float = 5.0) -> None:
        """End the streams, spread over a window so that their clients do not all reconnect at once; let pushes finish.

        New subscriptions raise ClosedError; pushes are accepted until `aclose`.

        Args:
            window: seconds over which the streams end.

        Cancellation: some streams have ended, the others stay open; call it again.

        Raises:
            UsageError: called from another event loop.
        """
        if not self._closed:
            self._guard.check()
        self._draining = True
        for rank in range(self._streams.cutoff + 1, RANKS + 1):
            if self._counters.open_streams:
                await anyio.sleep(window / RANKS)
            await self._parts.end_streams(rank)
        await self._parts.jobs.settle(self._options.timeout)

    async def aclose(self) -> None:
        """End every stream, let pushes finish, release presence and stop. Idempotent.

        Takes at most about twice `timeout` seconds, even if a store ignores cancellation. If the notifier's event loop
        has already ended, or in a forked process, it releases what needs no event loop, without waiting.
        Cancellation: takes effect only after everything is released.

        Raises:
            UsageError: called from another event loop while the notifier's own one may still run.
        """
        if self._closed:
            return
        is_here = self._guard.check_closing()
        self._closed = True
        if is_here:
            with anyio.CancelScope(shield=True):
                try:
                    await self._parts.aclose(self._options.timeout)
                finally:
                    if self._opened is not None:
                        await self._opened.aclose()
        else:
            self._parts.abandon(forked=self._guard.forked)

    async def __aenter__(self) -> Self:
        """Start: routed events are received once this returns."""
        self._check_open()
        self._guard.check()
        self._start_services()
        await self._parts.receivers.started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    def _start_services(self) -> None:
        """Start to receive routed events, when first needed; a `LiveLog` starts by itself."""
        if not self._started:
            self._started = True
            self._parts.receivers.start(self._parts.services)


_KEYWORDS = frozenset(name for name, each in signature(Notifier).parameters.items() if each.kind is each.KEYWORD_ONLY)
