"""Runs code that receives events from elsewhere, and runs it again after it fails."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import anyio
from anyio.abc import TaskStatus

from ._backoff import backoff
from ._outage_log import OutageLog

STEADY: Final = 10.0
"""Seconds that one run must have lasted for the next one to come after the shortest delay."""


class Receive(Protocol):
    """What is run: receives until cancelled, and calls `task_status.started()` once it does."""

    def __call__(self, *, task_status: TaskStatus[None]) -> Awaitable[None]:
        """Receive."""


class ReceiveLoop:
    """Runs `receive` until cancelled, again with growing delays whenever it raises or returns.

    It is itself the `task_status` that `receive` is given.

    Args:
        receive: what to run.
        outage: logs the failures.
        changed: called whenever `is_receiving` has changed; never waits.

    Attributes:
        is_receiving: whether `started()` was called by the run of the moment.
    """

    def __init__(self, receive: Receive, outage: OutageLog, changed: Callable[[], None]) -> None:
        self._receive = receive
        self._outage = outage
        self._changed = changed
        self.is_receiving = False

    def started(self, _value: None = None) -> None:
        """Note that events are received from now on."""
        self.is_receiving = True
        self._outage.recovered()
        self._changed()

    async def run(self) -> None:
        """Receive until cancelled."""
        try:
            await self._run()
        finally:
            self.is_receiving = False

    async def _run(self) -> None:
        delays = backoff(random.random)
        while True:
            began = anyio.current_time()
            try:
                await self._receive(task_status=self)
                failure: Exception | str = "it returned without an error"
            except Exception as error:
                failure = error
            was_receiving, self.is_receiving = self.is_receiving, False
            self._outage.failed(failure)
            if was_receiving:
                self._changed()
            if anyio.current_time() - began > STEADY:
                delays = backoff(random.random)
            await anyio.sleep(next(delays))
