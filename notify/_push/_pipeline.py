"""A push from its presence check to its routes: check presence, save, offer to the local streams, route.

A save that fails raises, and no stream sees the event. A presence check that fails counts as "online". A route that
fails delays nothing: the event still arrives through the log.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import compress
from typing import Any, Final, Protocol

import anyio.lowlevel

from .._runtime._commands import COMMANDS, ORIGIN
from .._runtime._loop_guard import LoopGuard
from .._runtime._results import PushReport
from .._runtime._stats import Counters
from .._runtime._telemetry import Telemetry
from .._runtime._waking import Waiter, wake
from ..abc import Ephemerals, Immediate, RoutingInfo, SaveInTransaction
from ..errors import InvalidEventError, NotifyError, PushUncertainError, UsageError
from ..event import Event
from ._locator import Locator
from ._routes import RouteReceiver, Routes
from ._writer import BATCH_SIZE, Locations, Writer, as_push_error, checked_event

logger = logging.getLogger("notify")

PUSHES_PER_YIELD: Final = 64
"""Pushes to a store that answers at once, after which other tasks may run for a moment."""

PROBE_TYPE: Final = "notify.check"
"""Type of the event that `Notifier.check` sends through the router."""


class Live(Protocol):
    """The local streams."""

    def offer(self, event: Event) -> int:
        """Offer an event; return how many streams accepted it."""

    def deliver(self, event: Event | bytes) -> int:
        """Offer an event of another process, or carry out its command."""

    def decode(self, data: bytes) -> Event | None:
        """Return the event of these bytes, or log that they are none."""

    def command(self, type: str, user: str, payload: Any) -> Event:
        """Carry out a command here, and return it for the other processes."""


class Pipeline:
    """What every push of one notifier goes through.

    Args:
        name: the store's, for errors.
        drop_offline: whether an absent user's event is neither stored nor routed.
        origin: marks ephemeral events of this notifier.
        live: the local streams.
        ephemerals: the store, if it carries events to other processes that are not stored.
        show_external: the same for the streams of a store without a `LiveLog`; ephemeral events only.
        users: the users with streams open here.

    Attributes:
        immediate: the store, if it answers at once.
        transactional: the store, if it saves in the caller's transactions.
    """

    def __init__(
        self,
        *,
        name: str,
        origin: str,
        drop_offline: bool,
        live: Live,
        ephemerals: Ephemerals | None,
        show_external: Callable[[Event], int],
        users: Collection[str],
        immediate: Immediate | None,
        transactional: SaveInTransaction | None,
        writer: Writer | None,
        routes: Routes | None,
        locator: Locator | None,
        telemetry: Telemetry,
        counters: Counters,
        guard: LoopGuard,
    ) -> None:
        self._name = name
        self._origin = origin
        self._drop_offline = drop_offline
        self._live = live
        self._offer = live.offer
        self._ephemerals = ephemerals
        self._show_external = show_external
        self._users = users
        self.immediate = immediate
        self.transactional = transactional
        self._writer = writer
        self._routes = routes
        self._locator = locator
        self._telemetry = telemetry
        self._counters = counters
        self._guard = guard
        self._probes: dict[str, Waiter] = {}
        if writer is not None:
            writer.on_saved = self._saved
            writer.observe = telemetry.saved if telemetry.measuring else None

    async def push(self, event: Event, ephemeral: bool, connection: Any = None) -> Event | None:
        """Push one checked draft; return it as stored, or None where the policy for absent users dropped it."""
        locations: Locations = None
        if self._locator is not None:
            locations = await self._locator.locate(event.user)
            if not self._is_present(event.user, locations) and self._drop_offline:
                self._counters.pushed_offline += 1
                return None
        if connection is not None:
            return await self._push_in(event, ephemeral, connection)
        if self._writer is None or ephemeral:
            stored = self.show(event, locations)
        elif self.immediate is not None:
            stored = self._save_nowait(self.immediate, event, locations)
        else:
            try:
                stored = await self._writer.save(event, locations)
            except NotifyError as error:
                raise self.failed(error)  # noqa: B904 - it carries its cause
        if self._routes is not None:
            await let_routes_start()
        return stored

    async def _push_in(self, event: Event, ephemeral: bool, connection: Any) -> Event:
        """Save in the caller's transaction; the store announces what is committed."""
        if ephemeral:
            raise UsageError("push() takes either ephemeral=True or connection=: an ephemeral event is not stored")
        if self.transactional is None:
            raise UsageError(f"{self._name} cannot save in a transaction: push without connection=")
        try:
            stored = await self.transactional.save_in(event, connection)
        except Exception as error:
            raise self.save_failed(error)  # noqa: B904 - it carries its cause
        self._counters.pushed_stored += 1
        return stored

    async def push_all(self, drafts: list[Event], failed: dict[str, NotifyError], ephemeral: bool) -> PushReport:
        """Push checked drafts of different users, in bounded batches; `failed` already holds the refused users."""
        located: Mapping[str, Sequence[RoutingInfo]] | None = None
        offline: list[str] = []
        if self._locator is not None:
            located = await self._locator.locate_many([event.user for event in drafts])
        locations = [None if located is None else located.get(event.user, ()) for event in drafts]
        if self._drop_offline:
            present = [self._is_present(event.user, to) for event, to in zip(drafts, locations, strict=True)]
            offline = [event.user for event, here in zip(drafts, present, strict=True) if not here]
            drafts, locations = [*compress(drafts, present)], [*compress(locations, present)]
            self._counters.pushed_offline += len(offline)
        events: dict[str, Event] = {}
        for start in range(0, len(drafts), BATCH_SIZE):
            batch, targets = drafts[start : start + BATCH_SIZE], locations[start : start + BATCH_SIZE]
            outcomes: Sequence[Event | NotifyError]
            if self._writer is None or ephemeral:
                outcomes = [self.show(event, to) for event, to in zip(batch, targets, strict=True)]
            else:
                outcomes = await self._writer.save_all(batch, targets)
            for event, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Event):
                    events[event.user] = outcome
                else:
                    failed[event.user] = self.failed(outcome)
            await anyio.lowlevel.checkpoint()
        return PushReport(events, failed, offline)

    def show(self, event: Event, locations: Locations) -> Event:
        """Deliver an ephemeral event, marked so that its echo is recognised."""
        if self._routes is not None or self._ephemerals is not None:
            event = event.with_meta({**event.meta, ORIGIN: self._origin})
        event = event.stored("", "")
        self._counters.pushed_ephemeral += 1
        self._counters.delivered_local += self._offer(event) + self._show_external(event)
        self._send(event, locations)
        return event

    def command(self, type_: str, user: str, payload: Any = None) -> None:
        """Carry out one of the hub's `COMMANDS` in every process."""
        self._send(self._live.command(type_, user, payload), None)

    def _send(self, event: Event, locations: Locations) -> None:
        """Send an event that is not stored to the other processes."""
        if self._ephemerals is not None:
            try:
                self._ephemerals.send_ephemeral(event)
            except UsageError:
                raise
            except Exception:
                logger.exception("%s.send_ephemeral raised, which it must not", self._name)
        if self._routes is not None:
            self._routes.send(event, locations)

    def deliver(self, event: Event | bytes) -> int:
        """Offer an event that came from another instance to the local streams; see `Notifier.deliver`."""
        if isinstance(event, bytes | bytearray | memoryview):
            read = self._live.decode(bytes(event))
            if read is None:
                return 0
            event = read
        if not isinstance(event, Event):
            raise InvalidEventError(f"deliver() expects an Event or bytes, got {event.__class__.__name__}")
        if not event.id:
            if event.meta.get(ORIGIN) == self._origin:
                if event.type == PROBE_TYPE:
                    wake(self._probes.get(event.key or ""))
                return 0
            taken = self._live.deliver(event)
            if event.type not in COMMANDS:
                taken += self._show_external(event)
        else:
            taken = self._offer(event)
        if taken:
            self._counters.delivered_routed += taken
        elif event.user in self._users:
            self._counters.duplicates += 1
        return taken

    async def probe(self, receiver: RouteReceiver | None) -> None:
        """Route an event to this instance; with a receiving router, wait until it comes back."""
        assert self._routes is not None
        instance_id, nonce = self._routes.instance_id, secrets.token_hex(8)
        probe = Event(instance_id, PROBE_TYPE, key=nonce, meta={ORIGIN: self._origin})
        waiter = self._probes[nonce] = self._guard.new_waiter()
        try:
            if receiver is not None:
                await receiver.ready()
            await self._routes.router.route(probe, RoutingInfo(instance_id))
            if receiver is not None:
                await waiter
        finally:
            del self._probes[nonce]

    def failed(self, error: NotifyError) -> NotifyError:
        """Count a push that failed and return its error."""
        if isinstance(error, PushUncertainError):
            self._counters.pushed_uncertain += 1
        else:
            self._counters.pushed_rejected += 1
        return error

    def save_failed(self, error: Exception) -> NotifyError:
        """Count a save that raised, and return the library's error for it."""
        return self.failed(as_push_error(error, self._name))

    def _save_nowait(self, store: Immediate, event: Event, locations: Locations) -> Event:
        began = time.perf_counter() if self._telemetry.measuring else 0.0
        try:
            stored = checked_event(store.save_nowait(event))
        except Exception as error:
            raise self.save_failed(error)  # noqa: B904 - it carries its cause
        if self._telemetry.measuring:
            self._telemetry.saved(time.perf_counter() - began, 1)
        self._saved(stored, locations)
        return stored

    def _saved(self, stored: Event, locations: Locations) -> None:
        self._counters.pushed_stored += 1
        self._counters.delivered_local += self._offer(stored)
        if self._routes is not None:
            self._routes.send(stored, locations)

    def _is_present(self, user: str, locations: Locations) -> bool:
        return locations is None or bool(locations) or user in self._users


async def let_routes_start() -> None:
    """Let tasks that were just started take their first step: a quick route is done when push returns."""
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()  # trio shuffles the tasks of one round, so only a second one is sure to be later
