"""The receiving halves of the routers: run, restarted after each failure, and waited for only at their first start."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from .._runtime._background import Background
from .._runtime._loop_guard import LoopGuard
from .._runtime._outage_log import OutageLog
from .._runtime._receive_loop import ReceiveLoop
from .._runtime._waking import Waiter, wake
from ..abc import Deliver, ReceivingRouter

logger = logging.getLogger("notify")


class RouteReceiver:
    """Runs the receiving half of one router, and restarts it after each failure.

    A router that has raised, or has not started within `timeout` seconds, is known not to receive: nothing waits for it
    any more. Streams rely on the log until it receives; then they catch up.

    Attributes:
        name: the router's.
        on_start: called whenever events begin to be received; set before `run`.
    """

    def __init__(
        self,
        router: ReceivingRouter,
        instance_id: str,
        deliver: Deliver,
        *,
        timeout: float,
        guard: LoopGuard,
        catch_up: Callable[[], None],
    ) -> None:
        self.router = router
        self.name = type(router).__name__
        self.on_start: Callable[[], None]
        self._guard = guard
        self._catch_up = catch_up
        self._waiters: list[Waiter] = []
        self._first_start = True
        self._loop = ReceiveLoop(
            partial(router.receive, instance_id, deliver),
            OutageLog(logger, f"{self.name} does not receive", f"{self.name} receives again"),
            self._changed,
            patience=timeout,
            given_up=self._end_first_start,
        )

    @property
    def is_receiving(self) -> bool:
        """Whether routed events are being received."""
        return self._loop.is_receiving

    async def run(self) -> None:
        """Receive until cancelled."""
        try:
            await self._loop.run()
        finally:
            self._end_first_start()

    async def ready(self) -> None:
        """Wait for a first start that is in progress, `timeout` seconds at most."""
        if self.is_receiving:
            return
        while self._first_start:
            waiter = self._guard.new_waiter()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def _changed(self) -> None:
        if self.is_receiving:
            self._end_first_start()
            self.on_start()
            self._catch_up()

    def _end_first_start(self) -> None:
        """Wake the tasks that wait for the first start: it has ended."""
        self._first_start = False
        for waiter in self._waiters:
            wake(waiter)
        self._waiters.clear()


class Receivers:
    """The receiving halves of all routers."""

    def __init__(self, receivers: Sequence[RouteReceiver]) -> None:
        self.receivers = receivers
        self.looked: Callable[[], Awaitable[None]] = self.ready

    @property
    def is_receiving(self) -> bool:
        """Whether every router receives."""
        return all(receiver.is_receiving for receiver in self.receivers)

    def start(self, background: Background) -> None:
        """Run them, in tasks of their own."""
        for receiver in self.receivers:
            background.start(receiver.run)

    async def ready(self) -> None:
        """Wait for the first starts that are in progress; one after the other, since they run at the same time."""
        for receiver in self.receivers:
            await receiver.ready()

    async def started(self) -> None:
        """Wait for the first starts, and until the probes for other processes with this name are sent."""
        await self.ready()
        await self.looked()
