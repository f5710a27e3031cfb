"""Where an event goes besides the log: to the local streams, to the routers, and from the routers to the streams.

A route that fails delays nothing: the event still arrives through the log. Presence is asked only once the event is
stored, and only to route it: a user who connects in between is found, and a tracker that is slow delays no push.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final, Protocol

from .._runtime._commands import COMMANDS, ORIGIN
from .._runtime._loop_guard import LoopGuard
from .._runtime._stats import Counters
from .._runtime._waking import Waiter, wake
from ..abc import Ephemerals, RoutingInfo
from ..errors import BackendUnavailableError, InvalidEventError, UsageError
from ..event import Event
from ._locator import Locator
from ._namesakes import PROBE_TYPE, Namesakes
from ._receivers import RouteReceiver
from ._routes import Routes
from ._save import UNLOCATED, Locations, Save

logger = logging.getLogger("notify")

UNCERTAIN_KEYS: Final = 1000
"""Keyed pushes with an unknown outcome that are remembered, because a repetition must reach the sinks."""


class Live(Protocol):
    """The local streams."""

    def offer(self, event: Event) -> int:
        """Offer an event; return how many streams accepted it."""

    def deliver(self, event: Event | bytes) -> int:
        """Offer an event of another process, or carry out its command."""

    def decode(self, data: bytes) -> Event | None:
        """Return the event of these bytes, or log that they are not one."""

    def command(self, type: str, user: str, payload: Any) -> Event:
        """Carry out a command here, and return it for the other processes."""


class FanOut:
    """Shows and routes the events of one notifier.

    Args:
        name: the store's, for errors.
        origin: marks ephemeral events of this notifier.
        live: the local streams.
        ephemerals: the store, if it carries events that are not stored to other processes.
        show_external: shows ephemeral events to the streams of a store without a `LiveLog`.
        users: the users with streams open here.
        routes: one for each router.
        locator: asks where users are, if there is a tracker.
        namesakes: notes probes of other processes with this instance's name.

    Attributes:
        is_routing: whether there is a router.
    """

    def __init__(
        self,
        *,
        name: str,
        origin: str,
        live: Live,
        ephemerals: Ephemerals | None,
        show_external: Callable[[Event], int],
        users: Collection[str],
        routes: Sequence[Routes],
        locator: Locator | None,
        namesakes: Namesakes,
        counters: Counters,
        guard: LoopGuard,
    ) -> None:
        self._namesakes = namesakes
        self._name = name
        self._origin = origin
        self._live = live
        self._offer = live.offer
        self._ephemerals = ephemerals
        self._show_external = show_external
        self._users = users
        self.is_routing = bool(routes)
        self._routes = [each for each in routes if not each.every_event]
        self._sinks = [each for each in routes if each.every_event]
        self._locator = locator
        self._counters = counters
        self._guard = guard
        self._probes: dict[str, Waiter] = {}
        self._uncertain: dict[tuple[str, str | None], None] = {}

    def saved(self, save: Save, stored: Event) -> None:
        """Count, show and route an event that was stored."""
        counters = self._counters
        counters.pushed_stored += 1
        counters.delivered_local += self._offer(stored)
        if self._routes:
            self._route(stored, save.locations)
        if self._sinks:
            was_uncertain = self._uncertain.pop((stored.user, stored.key), self) is not self
            if stored.micros == save.micros or was_uncertain:  # not the first event of a repeated key
                for sink in self._sinks:
                    sink.send(stored, None)

    def announce(self, event: Event) -> int:
        """Show and route an event that the store has stored without a push; return how many streams accepted it."""
        taken = self._offer(event)
        self._counters.delivered_local += taken
        if self._routes:
            self._route(event, UNLOCATED)
        for sink in self._sinks:
            sink.send(event, None)
        return taken

    def uncertain(self, event: Event) -> None:
        """Note a push whose outcome is unknown: if its key is repeated, the sinks may have missed the event."""
        if self._sinks and event.key is not None:
            self._uncertain[event.user, event.key] = None
            if len(self._uncertain) > UNCERTAIN_KEYS:
                del self._uncertain[next(iter(self._uncertain))]

    def show(self, event: Event, locations: Locations) -> Event:
        """Deliver an ephemeral event, marked so that its echo is recognised."""
        if self._routes or self._ephemerals is not None:
            event = event.with_meta({**event.meta, ORIGIN: self._origin})
        event = event.stored("", "")
        self._counters.pushed_ephemeral += 1
        self._counters.delivered_local += self._offer(event) + self._show_external(event)
        self._send(event, locations)
        return event

    def command(self, type_: str, user: str, payload: Any = None) -> None:
        """Carry out one of the hub's `COMMANDS` in every process; without a user, also in those without its streams."""
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
        if self._routes:
            self._route(event, locations)

    def _route(self, event: Event, locations: Locations) -> None:
        """Route an event, once it is known where to."""
        if locations is not UNLOCATED:
            self._send_routes(event, locations)
        elif self._locator is None:
            self._send_routes(event, None)
        else:
            self._locator.request(event.user, partial(self._send_routes, event))

    def _send_routes(self, event: Event, locations: Locations) -> None:
        for routes in self._routes:
            routes.send(event, locations)

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
            if event.type == PROBE_TYPE:
                self._namesakes.met(event.user)
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

    async def probe(self, routes: Routes, receiver: RouteReceiver | None) -> None:
        """Route an event to this instance; with a receiving router, wait until it comes back.

        A sink is sent no probe: it would take the probe for an event.

        Raises:
            BackendUnavailableError: the router does not receive, or the latest event did not reach the sink.
        """
        if routes.every_event:
            if routes.last_failure:
                message = f"the latest event did not reach {routes.name}: {routes.last_failure}"
                raise BackendUnavailableError(message, backend=routes.name)
            return
        instance_id, nonce = routes.instance_id, secrets.token_hex(8)
        probe = Event(instance_id, PROBE_TYPE, key=nonce, meta={ORIGIN: self._origin})
        waiter = self._probes[nonce] = self._guard.new_waiter()
        try:
            if receiver is not None:
                await receiver.ready()
                if not receiver.is_receiving:
                    raise BackendUnavailableError("no answer: routed events are not received", backend=routes.name)
            await routes.router.route(probe, RoutingInfo(instance_id))
            if receiver is not None:
                await waiter
        finally:
            del self._probes[nonce]
