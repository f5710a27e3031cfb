"""Notices other processes that were given the same `instance_id`, so that no ephemeral events are lost between them.

An event that is not stored is routed to the instances that presence names, except the own one. A process with the same
name (a namesake) would be taken for the own instance. So an instance whose name was given sends a probe to that name
when its router receives. If an instance receives a probe of another origin, it has a namesake: it logs that once, sends
a probe of its own, and from then on routes to the common name too: routers with a channel for each name then reach
both.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import anyio

from .._runtime._background import Background
from .._runtime._commands import ORIGIN
from ..abc import RoutingInfo
from ..event import Event
from ._routes import Routes

logger = logging.getLogger("notify")

PROBE_TYPE: Final = "notify.check"
"""The type of an event by which an instance tries its own name; never shown."""

PATIENCE: Final = 0.25
"""Seconds that starting a notifier waits for its probes to be sent."""


class Namesakes:
    """What is known of processes with this instance's name.

    Args:
        instance_id: the name.
        origin: marks what this instance sends.
        routes: the routers.
        timeout: seconds that a router may take.
        background: runs the sending.
        is_given: whether the name was given; a random one is unique.
    """

    def __init__(
        self,
        instance_id: str,
        origin: str,
        routes: Sequence[Routes],
        *,
        timeout: float,
        background: Background,
        is_given: bool,
    ) -> None:
        self._instance_id = instance_id
        self._origin = origin
        self._routes = routes
        self._timeout = timeout
        self._background = background
        self._is_given = is_given
        self._is_known = False
        self._sending = 0
        self._sent: anyio.Event | None = None

    def look(self) -> None:
        """Send a probe to this instance's name through each router that is not a sink. Never waits."""
        for routes in self._routes:
            if self._is_given and not routes.every_event and not self._background.closed:
                self._sending += 1
                self._background.start(self._send, routes)

    async def looked(self) -> None:
        """Wait until the probes are sent, for a moment at most."""
        if self._sending:
            self._sent = anyio.Event()
            with anyio.move_on_after(PATIENCE):
                await self._sent.wait()

    def met(self, instance_id: str) -> None:
        """Note a probe of another origin."""
        if instance_id != self._instance_id or self._is_known:
            return
        self._is_known = True
        logger.warning(
            "another process has instance_id=%r too: leave it out, or make it unique for each process", instance_id
        )
        for routes in self._routes:
            routes.shares_name = True
        self.look()

    async def _send(self, routes: Routes) -> None:
        nonce = secrets.token_hex(8)
        probe = Event(self._instance_id, PROBE_TYPE, key=nonce, meta={ORIGIN: self._origin})
        try:
            with suppress(Exception), anyio.fail_after(self._timeout):  # the failure is logged when events are routed
                await routes.router.route(probe, RoutingInfo(self._instance_id))
        finally:
            self._sending -= 1
            if not self._sending and self._sent is not None:
                self._sent.set()
