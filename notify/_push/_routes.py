"""Routing: passes events to the router in separate tasks, so that a slow or failing router delays no push."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

import anyio

from .._runtime._background import Background
from .._runtime._loop_guard import LoopGuard
from .._runtime._outage_log import OutageLog
from .._runtime._receive_loop import ReceiveLoop
from .._runtime._stats import Counters
from .._runtime._waking import Waiter, wake
from ..abc import Deliver, ReceivingRouter, Router, RoutingInfo
from ..event import Event

logger = logging.getLogger("notify")

CONCURRENT_ROUTES: Final = 1000
"""Routes in flight at once; further events are not routed but found in the log."""


class Routes:
    """Sends events to the other instances."""

    def __init__(
        self, router: Router, instance_id: str, *, timeout: float, background: Background, counters: Counters
    ) -> None:
        self.router = router
        self.instance_id = instance_id
        self._timeout = timeout
        self._background = background
        self._counters = counters
        self._in_flight = 0

    def send(self, event: Event, locations: Sequence[RoutingInfo] | None) -> bool:
        """Start routing to each other instance among the locations, or to every instance for None.

        Returns whether there was anywhere to route to.
        """
        targets: list[RoutingInfo | None] = [None]
        if locations is not None:
            others = {to.instance_id: to for to in locations if to.instance_id not in ("", self.instance_id)}
            targets = list(others.values())
        for to in targets:
            if self._in_flight >= CONCURRENT_ROUTES:
                self._counters.route_failures += 1
                logger.warning(
                    "%d routes are in flight, so %r is not routed; streams read it from the log", self._in_flight, event
                )
                continue
            self._in_flight += 1
            self._background.start(self._route, event, to)
        return bool(targets)

    async def _route(self, event: Event, to: RoutingInfo | None) -> None:
        target = to.instance_id if to is not None else "every instance"
        try:
            with anyio.fail_after(self._timeout):
                await self.router.route(event, to)
        except Exception as error:
            self._counters.route_failures += 1
            logger.warning("cannot route %r to %s: %r", event, target, error)
        else:
            self._counters.routed += 1
        finally:
            self._in_flight -= 1


class RouteReceiver:
    """Runs the receiving half of a router, and restarts it after each failure."""

    def __init__(
        self, router: ReceivingRouter, instance_id: str, deliver: Deliver, *, timeout: float, guard: LoopGuard
    ) -> None:
        self._timeout = timeout
        self._guard = guard
        self._waiters: list[Waiter] = []
        outage = OutageLog(logger, "the router does not receive", "the router receives again")
        self._loop = ReceiveLoop(partial(router.receive, instance_id, deliver), outage, self._changed)
        self.run = self._loop.run

    @property
    def is_receiving(self) -> bool:
        """Whether routed events are being received."""
        return self._loop.is_receiving

    async def ready(self) -> None:
        """Wait until events are received, `timeout` seconds at most: until then streams rely on the log."""
        if self.is_receiving:
            return
        waiter = self._guard.new_waiter()
        self._waiters.append(waiter)
        try:
            with anyio.move_on_after(self._timeout):
                await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _changed(self) -> None:
        if self.is_receiving:
            for waiter in self._waiters:
                wake(waiter)
            self._waiters.clear()
