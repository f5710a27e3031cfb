"""Routing: passes events to a router in separate tasks, so that a slow or failing router delays no push."""

from __future__ import annotations

import logging
from typing import Final

import anyio

from .._runtime._background import Background
from .._runtime._outage_log import OutageLog
from .._runtime._stats import Counters
from ..abc import Router, RoutingInfo
from ..event import Event
from ._save import Locations

logger = logging.getLogger("notify")

CONCURRENT_ROUTES: Final = 1000
"""Routes in flight at once; further events are not routed but found in the log."""

OUTAGES: Final = 100
"""Targets whose outage is remembered; those that are gone for good never recover."""


class Routes:
    """Sends events through one router.

    Attributes:
        name: the router's, in log lines and in the verdict of `Notifier.check`.
        every_event: whether the router is a sink: it gets each stored event once, whatever presence says, and no other.
        instance_id: this instance's.
        shares_name: whether another process has the same instance id, so that events are routed to it too.
        last_failure: why the latest route failed; empty if it did not.
    """

    def __init__(
        self, router: Router, instance_id: str, *, timeout: float, background: Background, counters: Counters
    ) -> None:
        self.router = router
        self.name = type(router).__name__
        self.every_event = bool(getattr(router, "every_event", False))
        self.last_failure = ""
        self.shares_name = False
        self.instance_id = instance_id
        self._timeout = max(timeout, getattr(router, "route_timeout", 0.0))
        self._background = background
        self._counters = counters
        self._in_flight = 0
        self._outages: dict[str, OutageLog] = {}

    def send(self, event: Event, locations: Locations) -> None:
        """Start routing to each other instance among the locations, or to every instance for None."""
        targets: list[RoutingInfo | None] = [None]
        if locations is not None:
            own = {""} if self.shares_name else {"", self.instance_id}
            others = {to.instance_id: to for to in locations if to.instance_id not in own}
            targets = list(others.values())
        for to in targets:
            if self._background.closed:
                return
            if self._in_flight >= CONCURRENT_ROUTES:
                self._failed(to, f"{self._in_flight} routes are in flight, which is the limit")
                continue
            self._in_flight += 1
            self._background.start(self._route, event, to)

    async def _route(self, event: Event, to: RoutingInfo | None) -> None:
        scope = anyio.CancelScope()
        try:
            with anyio.fail_after(self._timeout) as scope:
                await self.router.route(event, to)
        except Exception as error:
            self._failed(to, f"no answer within {self._timeout} s" if scope.cancelled_caught else error)
        else:
            self._counters.routed += 1
            self.last_failure = ""
            outage = self._outages.pop(_target(to), None) if self._outages else None
            if outage is not None:
                outage.recovered()
        finally:
            self._in_flight -= 1

    def _failed(self, to: RoutingInfo | None, error: Exception | str) -> None:
        """Log the beginning of an outage; an instance may be away while the others are not."""
        self._counters.route_failures += 1
        self.last_failure = error if isinstance(error, str) else repr(error)
        target = _target(to)
        if target not in self._outages:
            if len(self._outages) >= OUTAGES:
                del self._outages[next(iter(self._outages))]
            kept = "it misses them" if self.every_event else "streams find them in the log"
            outage = self._outages[target] = OutageLog(
                logger,
                f"{self.name} cannot route events to {target}, so {kept}",
                f"{self.name} routes events to {target} again",
            )
            outage.failed(error)


def _target(to: RoutingInfo | None) -> str:
    return "every instance" if to is None else f"instance {to.instance_id!r}"
