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


SETTLED: Final = 0.5
"""Seconds that a run must receive before an outage counts as over: a run that fails at once does not end it."""


class _Run:
    """One run of `receive`, which is its `task_status`: a call of `started` after the run has ended changes nothing."""

    def __init__(self, loop: ReceiveLoop) -> None:
        self._loop: ReceiveLoop | None = loop
        self.receives = anyio.Event()

    def started(self, _value: None = None) -> None:
        """Note that events are received from now on."""
        if self._loop is not None:
            self.receives.set()
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
        patience: seconds after which a run that has not called `started()` is logged as a failure; it continues.
        given_up: called when a run has ended, or has used up the patience; never waits.

    Attributes:
        is_receiving: whether `started()` was called by the current run.
    """

    def __init__(
        self,
        receive: Receive,
        outage: OutageLog,
        changed: Callable[[], None],
        *,
        patience: float,
        given_up: Callable[[], None] | None = None,
    ) -> None:
        self._receive = receive
        self._outage = outage
        self._changed = changed
        self._patience = patience
        self._given_up = given_up
        self.is_receiving = False

    def receiving(self) -> None:
        """Note that the current run receives; called by its `task_status`."""
        self.is_receiving = True
        self._changed()

    async def run(self) -> None:
        """Receive until cancelled."""
        delays = backoff(random.random)
        while True:
            began = anyio.current_time()
            self._fail(await self._run_once())
            if anyio.current_time() - began > STEADY:
                delays = backoff(random.random)
            await anyio.sleep(next(delays))

    async def _run_once(self) -> Exception | str:
        """Run `receive` once; return why it ended."""
        run = _Run(self)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, run)
            failure = await self._outcome(run)
            tasks.cancel_scope.cancel()
        return failure

    async def _outcome(self, run: _Run) -> Exception | str:
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

    async def _watch(self, run: _Run) -> None:
        """Log a run that does not start, and the end of an outage."""
        with anyio.move_on_after(self._patience):
            await run.receives.wait()
        if not run.receives.is_set():
            self._fail(f"it has not called task_status.started() within {self._patience:g} s")
            await run.receives.wait()
        await anyio.sleep(SETTLED)
        self._outage.recovered()

    def _fail(self, failure: Exception | str) -> None:
        self._outage.failed(failure)
        if self._given_up is not None:
            self._given_up()
