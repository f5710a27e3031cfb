"""Waiters: the cheapest thing that a task can wait on under each event loop.

Every idle stream waits on one, and every delivery wakes one. On asyncio a waiter is a future-like object with exactly
the methods that a task uses. It is reusable, and all waiters that are woken in one step of the loop share one callback
of the loop; with plain futures a delivery takes a third longer. Under other loops a waiter wraps `anyio.Event`.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import _get_running_loop
from collections.abc import Callable, Generator
from typing import Any, Protocol

import anyio
import anyio.lowlevel


class Wakeable(Protocol):
    """What can be woken."""

    def wake(self) -> None:
        """End the current wait, or the next one if there is none. Never waits."""


class Waiter(Wakeable, Protocol):
    """Awaited by one task at a time."""

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until it is woken."""


class EventWaiter:
    """A waiter for event loops other than asyncio's.

    Args:
        check: raises on another event loop, where awaiting would never end.
    """

    __slots__ = ("_check", "_event")

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._event = anyio.Event()

    def wake(self) -> None:
        """End the wait, or the next one."""
        self._event.set()

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until it is woken."""
        self._check()
        try:
            yield from self._event.wait().__await__()
        finally:
            self._event = type(self._event)()  # the backend's own class: to ask anyio for it again costs as much again


class WakeBatch:
    """Runs every task that was woken in one step of an asyncio loop, in that order, in one callback of the loop."""

    __slots__ = ("_ended", "loop", "woken_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ended = (
            loop.create_future()
        )  # the finished future that a woken task is given: it reads the result without a call
        self._ended.set_result(None)
        self.woken_waiters: list[LoopWaiter] = []

    def run(self) -> None:
        """Run each task, in its own context, until it waits again."""
        woken_waiters, self.woken_waiters = iter(self.woken_waiters), []
        ended = self._ended
        try:
            for waiter in woken_waiters:
                step = waiter.step
                if waiter.cancelled is None:
                    waiter.woken = False
                    waiter.step = None
                    waiter.context.run(step, ended)
                else:
                    waiter.context.run(step, waiter)
                    step = None  # see `LoopWaiter.result`
        finally:
            for waiter in woken_waiters:  # only after a task raised KeyboardInterrupt or SystemExit
                self.woken_waiters.append(waiter)
                self.loop.call_soon(self.run)


class LoopWaiter:
    """A waiter for asyncio: the part of a future's interface that `asyncio.Task` and anyio use."""

    __slots__ = ("_asyncio_future_blocking", "_batch", "_loop", "cancelled", "context", "step", "woken")

    def __init__(self, batch: WakeBatch) -> None:
        self._batch = batch
        self._loop = batch.loop  # a task checks this attribute and the next to see what it may wait on
        self._asyncio_future_blocking = False
        self.woken = False
        self.cancelled: tuple[str, ...] | None = None
        self.step: Any = None
        self.context: Any = None

    def wake(self) -> None:
        """End the wait, or the next one."""
        if self.woken:
            return
        self.woken = True
        if self.step is not None:
            woken_waiters = self._batch.woken_waiters
            if not woken_waiters:
                self._loop.call_soon(self._batch.run)
            woken_waiters.append(self)

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until it is woken."""
        if self.woken:
            self.woken = False
            return iter(())  # type: ignore[return-value]
        self._asyncio_future_blocking = True
        return iter((self,))  # type: ignore[return-value]  # the cheapest iterator that hands itself to the task once

    def add_done_callback(self, step: Callable[[LoopWaiter], None], *, context: contextvars.Context) -> None:
        """Keep what makes the task continue."""
        self.step = step
        self.context = context

    def done(self) -> bool:
        """Whether the task will continue: anyio asks this of what a task waits on."""
        return self.woken

    def cancel(self, msg: str | None = None) -> bool:
        """Make the task continue with an exception; return False if it will continue anyway."""
        if self.woken:
            return False
        self.cancelled = () if msg is None else (msg,)
        self.wake()
        return True

    def result(self) -> None:
        """Raise the cancellation of the wait; a wait that ended normally is reported by `WakeBatch` itself.

        The traceback of the exception refers to this frame and to those below, and the task refers to the traceback:
        with the exception or the task in a variable here or in `WakeBatch.run`, the cycle would keep the stream alive.
        """
        message, self.cancelled = self.cancelled, None
        self.woken = False
        self.step = None
        raise asyncio.CancelledError(*(message or ()))


running_loop = _get_running_loop
"""Return the running asyncio loop; None under trio."""


def wake(waiter: Wakeable | None) -> None:
    """Wake the task of a waiter, if there is one."""
    if waiter is not None:
        waiter.wake()
