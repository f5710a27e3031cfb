"""Routing: hands events to the router in tasks of its own, so that a slow or failing one delays nobody; and listens."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Final

import anyio

from .._runtime._background import Background
from .._runtime._backoff import backoff
from .._runtime._loop_guard import LoopGuard
from .._runtime._stats import Counters
from .._runtime._waking import Waiter, wake
from ..abc import Deliver, ReceivingRouter, Router, RoutingInfo
from ..event import Event

logger = logging.getLogger("notify")

ROUTES_UNDER_WAY: Final = 1000
"""Routes under way at once; what comes beyond is not routed but found in the log."""

_STEADY: Final = 10.0


class Routes:
    """Sends events to the other instances."""

    def __init__(
        self, router: Router, instance_id: str, *, timeout: float, background: Background, counters: Counters
    ) -> None:
        self.router = router
        self._instance_id = instance_id
        self._timeout = timeout
        self._background = background
        self._counters = counters
        self._under_way = 0

    def send(self, event: Event, locations: Sequence[RoutingInfo] | None) -> bool:
        """Start routing to each other instance among the locations, or to every instance for None.

        Returns whether there was anywhere to route to.
        """
        targets: list[RoutingInfo | None] = [None]
        if locations is not None:
            others = {to.instance_id: to for to in locations if to.instance_id not in ("", self._instance_id)}
            targets = list(others.values())
        for to in targets:
            if self._under_way >= ROUTES_UNDER_WAY:
                self._counters.route_failures += 1
                logger.warning("%d routes are under way; %r is left to the log", self._under_way, event)
                continue
            self._under_way += 1
            self._background.start(self._route, event, to)
        return bool(targets)

    async def _route(self, event: Event, to: RoutingInfo | None) -> None:
        where = to.instance_id if to is not None else "every instance"
        try:
            with anyio.fail_after(self._timeout):
                await self.router.route(event, to)
        except Exception as error:
            self._counters.route_failures += 1
            logger.warning("cannot route %r to %s: %r", event, where, error)
        else:
            self._counters.routed += 1
        finally:
            self._under_way -= 1


class Listener:
    """Runs the receiving half of a router, again after each crash."""

    def __init__(
        self, router: ReceivingRouter, instance_id: str, deliver: Deliver, *, timeout: float, loop: LoopGuard
    ) -> None:
        self._router = router
        self._instance_id = instance_id
        self._deliver = deliver
        self._timeout = timeout
        self._loop = loop
        self._waiters: list[Waiter] = []
        self.is_receiving = False

    def started(self, _value: None = None) -> None:
        """Note that events are heard: the `task_status` that the router is given."""
        self.is_receiving = True
        for waiter in self._waiters:
            wake(waiter)
        self._waiters.clear()

    async def ready(self) -> None:
        """Wait until events are heard, `timeout` seconds at most: without them streams live on the log."""
        if self.is_receiving:
            return
        waiter = self._loop.new_waiter()
        self._waiters.append(waiter)
        try:
            with anyio.move_on_after(self._timeout):
                await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def run(self) -> None:
        """Listen until cancelled."""
        delays = backoff(random.random)
        while True:
            began = anyio.current_time()
            try:
                await self._router.receive(self._instance_id, self._deliver, task_status=self)
                logger.warning("the router stopped listening; it is started again")
            except Exception as error:
                logger.warning("the router cannot listen: %r", error)
            self.is_receiving = False
            if anyio.current_time() - began > _STEADY:
                delays = backoff(random.random)
            await anyio.sleep(next(delays))
