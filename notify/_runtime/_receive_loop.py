"""Runs code that receives events from elsewhere, and runs it again after it fails."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import anyio
from anyio.abc import TaskStatus

from ._background import without_stray_cancellation
from ._backoff import backoff
from ._outage_log import OutageLog

STEADY: Final = 10.0
"""Seconds that one run must have lasted for the next one to come after the shortest delay."""


class Receive(Protocol):
    """What is run: receives until cancelled, and calls `task_status.started()` once it does."""

    def __call__(self, *, task_status: TaskStatus[None]) -> Awaitable[None]:
        """Receive."""


class _Run:
    """One run of `receive`, which is its `task_status`: a call of `started` after the run has ended changes nothing."""

    def __init__(self, loop: ReceiveLoop) -> None:
        self._loop: ReceiveLoop | None = loop

    def started(self, _value: None = None) -> None:
        """Note that events are received from now on."""
        if self._loop is not None:
            self._loop.receiving()

    def end(self) -> None:
        """Note that the run has ended."""
        self._loop = None


class ReceiveLoop:
    """Runs `receive` until cancelled, again with growing delays whenever it raises or returns.

    Args:
        receive: what to run.
        outage: logs the failures.
        changed: called whenever `is_receiving` has changed; never waits.

    Attributes:
        is_receiving: whether `started()` was called by the current run.
    """

    def __init__(self, receive: Receive, outage: OutageLog, changed: Callable[[], None]) -> None:
        self._receive = receive
        self._outage = outage
        self._changed = changed
        self.is_receiving = False

    def receiving(self) -> None:
        """Note that the current run receives; called by its `task_status`."""
        self.is_receiving = True
        self._outage.recovered()
        self._changed()

    async def run(self) -> None:
        """Receive until cancelled."""
        delays = backoff(random.random)
        while True:
            began = anyio.current_time()
            failure = await self._run_once()
            self._outage.failed(failure)
            if anyio.current_time() - began > STEADY:
                delays = backoff(random.random)
            await anyio.sleep(next(delays))

    async def _run_once(self) -> Exception | str:
        """Run `receive` once; return why it ended."""
        run = _Run(self)
        try:
            await without_stray_cancellation(partial(self._receive, task_status=run))
        except Exception as error:
            return error
        else:
            return "it returned without an error"
        finally:
            run.end()
            if self.is_receiving:
                self.is_receiving = False
                self._changed()
