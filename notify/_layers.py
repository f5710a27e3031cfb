"""What a layer above the core pushes: events that it has built, with types and names in `meta` that are reserved.

An application has no need of this: `push` builds its events. `notify.inbox` is such a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import anyio.lowlevel

from ._push._pipeline import PUSHES_PER_YIELD
from ._push._writer import checked_event
from ._pushing import Pushed, Pushing
from ._runtime._results import PushReport
from .errors import ClosedError, InvalidEventError, NotifyError, PayloadTooLargeError, UsageError
from .event import Draft, Event, draft, freeze_meta, plain


class LayerPushing(Pushing[Pushed]):
    """Pushing events that another layer has built, and announcing those that it has stored."""

    def draft(
        self,
        user: str,
        type: str,
        payload: Any = None,
        *,
        key: str | None = None,
        group: str | None = None,
        meta: Mapping[str, str] | None = None,
        data: bytes | None = None,
        reserved: Mapping[str, str] | None = None,
    ) -> Event:
        """Return the event that `push` would push with these arguments: checked, and encoded by `dumps`.

        For layers above this one, together with `push_event`. Never waits.

        Args:
            user: as for `push`; and so are the next six.
            type: likewise.
            payload: likewise.
            key: likewise.
            group: likewise.
            meta: likewise.
            data: likewise.
            reserved: further `meta`, the names of which begin with `notify.`. A `MappingProxyType` must never change:
                without `meta`, the event gets this very object, unchecked.

        Raises:
            InvalidEventError: an argument is unacceptable.
        """
        if data is not None or self._dumps is not None:
            data = self._encoded(payload, data)
        event = draft(user, type, payload, key, group, meta, False, data)
        if len(event.data) > self._options.max_payload:
            raise PayloadTooLargeError(len(event.data), self._options.max_payload)
        if reserved is not None:
            if not meta and reserved.__class__ is MappingProxyType:
                event.meta = reserved
            else:
                event.meta = freeze_meta({**event.meta, **reserved})
        if user.__class__ is not str:
            event.user = plain(user)
        return event

    async def push_event(self, event: Event, *, connection: Any = None) -> Pushed:
        """Push an event that was built by the caller, in every respect as `push` does.

        For layers above this one: the event may have a type, and names in `meta`, that begin with `notify.`.

        Args:
            event: an event without an id, for example from `draft`, or an `Event("alice", "notify.x", {"n": 7})`.
            connection: as for `push`.

        Returns:
            The stored event; None where `offline="drop"` dropped it.

        Raises:
            InvalidEventError: not an event for one user and without an id, or its payload is too large.
            PushRejectedError: certainly not stored.
            PushUncertainError: outcome unknown; repeat with the same key.
            OverloadedError: too many pushes are pending.
            UsageError: as by `push`.
            ClosedError: the notifier is closed.

        Order, cancellation, concurrency, cost: as `push`.
        """
        if self._closed:
            raise ClosedError("the notifier is closed")
        if (
            self._save_directly is None
            or event.__class__ is not Draft
            or not event.user
            or len(event.data) > self._options.max_payload
        ):
            self._check_built(event)
        self._guard.check()
        pushed: Any  # what the overloads of the constructor say
        if self._save_directly is None or connection is not None or self._unsent:
            pushed = await self._push(event, False, connection)
        else:
            try:  # as in `push`
                pushed = stored = self._save_directly(event)
                if stored.__class__ is not Event:
                    checked_event(stored)
            except Exception as error:
                raise self._pipeline.save_failed(error)  # noqa: B904 - it carries its cause
            counters = self._counters
            counters.pushed_stored = count = counters.pushed_stored + 1
            streams = self._users.get(event.user)
            if streams is not None and streams.offer(stored):
                counters.delivered_local += streams.streams
            if count % PUSHES_PER_YIELD:
                return pushed  # type: ignore[no-any-return]
            self._pushes_since_yield = PUSHES_PER_YIELD
        self._pushes_since_yield += 1
        if self._pushes_since_yield >= PUSHES_PER_YIELD:
            self._pushes_since_yield = 0
            await anyio.lowlevel.checkpoint()  # as in `push`
        return pushed  # type: ignore[no-any-return]

    async def push_events(self, events: Iterable[Event]) -> PushReport:
        """Push events that were built by the caller to different users, as `push_many` does: in bounded batches.

        Args:
            events: as for `push_event`, one for each user.

        Raises:
            InvalidEventError: one of them is unacceptable, or two are for one user; nothing was stored.
            BackendError: every single event failed; this is the first one's error.
            ClosedError: the notifier is closed.

        Order, cancellation, concurrency, cost: as `push_many`.
        """
        self._check_open()
        drafts: dict[str, Event] = {}
        for event in events:
            self._check_built(event)
            if event.user in drafts:
                raise InvalidEventError(f"push_events() takes one event for each user, got two for {event.user!r:.80}")
            drafts[event.user] = event
        self._guard.check()
        if not drafts:
            return PushReport()
        failed: dict[str, NotifyError] = {}
        report = await self._push_all([*drafts.values()], failed, False)
        if failed and not report.events and not report.offline:
            raise next(iter(failed.values()))
        return report

    def announce(self, event: Event) -> int:
        """Announce an event that the store has already stored, without a push; return how many local streams took it.

        The event is offered to the streams of this process and routed to the other instances. It does no harm if the
        store announces it too, as a stream store does. Never waits; call it on the notifier's event loop.

        Args:
            event: as the store has returned it.

        Raises:
            InvalidEventError: not a stored event.
            UsageError: called from another thread or event loop.
        """
        given: object = event  # untyped code may pass anything
        if not isinstance(given, Event) or not event.id:
            raise InvalidEventError(f"announce() expects an event that is stored, with its id, not {given!r:.150}")
        if self._closed:
            return 0
        self._guard.check()
        return self._parts.fan_out.announce(event)

    def _check_built(self, event: Event) -> None:
        given: object = event  # untyped code may pass anything
        if not isinstance(given, Event):
            raise InvalidEventError(f"expected an Event, got {given.__class__.__name__}")
        if event.id or not event.user:
            raise InvalidEventError(f"expected an event for one user, without an id, not {event!r:.150}")
        if self._store is None:
            raise UsageError("a notifier without a store has no log: push an ephemeral event")
        self._check_size(event)
