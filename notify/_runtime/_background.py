"""The tasks that a notifier or a store owns: each has an owner that sees its exception and ends it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import anyio

from ..errors import ClosedError
from ._waking import running_loop

logger = logging.getLogger("notify")

T = TypeVar("T")


class _Job:
    """One task. Its scope is made by the task itself, since `start` may run in a callback of the loop, in no task."""

    __slots__ = ("cancelled", "name", "scope")

    def __init__(self, name: str) -> None:
        self.name = name
        self.scope: anyio.CancelScope | None = None
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel()


class Background:
    """Starts tasks that live no longer than their owner, on whichever event loop is running.

    They are not children of the caller: cancelling the caller does not cancel them, and no `async with` is needed. On
    trio they are system tasks, because a nursery would have to be opened and closed in one task, nested correctly with
    the caller's own.

    Args:
        owner: the owner's name, for messages.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._settling: set[anyio.Event] = set()
        self._jobs: set[_Job] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = False

    def start(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run `function(*args)` in a separate task, outside the caller's context; an exception is logged.

        On asyncio it may be called from a callback of the loop, too.

        Raises:
            ClosedError: the owner is closed.
        """
        if self.closed:
            raise ClosedError(f"the {self._owner} is closed")
        job = _Job(f"notify: {self._owner} {function.__name__}")
        self._jobs.add(job)
        loop = running_loop()
        if loop is not None:
            task = loop.create_task(self._run(job, function, args), name=job.name, context=contextvars.Context())
            self._tasks.add(task)  # the loop itself keeps only a weak reference
            task.add_done_callback(partial(self._ended, job))
        else:
            try:
                import trio.lowlevel  # only where trio runs already

                trio.lowlevel.spawn_system_task(self._run, job, function, args, name=job.name)
            except BaseException:
                self._ended(job)
                raise

    @property
    def running(self) -> int:
        """How many tasks run now."""
        return len(self._jobs)

    async def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `function(*args)` as `start` does and return its result; cancelling the caller abandons only the wait."""
        done = anyio.Event()
        outcome: list[T | Exception] = []

        async def job() -> None:
            try:
                outcome.append(await without_stray_cancellation(function, *args))
            except Exception as error:
                outcome.append(error)
            finally:
                done.set()

        self.start(job)
        await done.wait()
        if not outcome:
            raise ClosedError(f"the {self._owner} was closed before the call ended")
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    async def settle(self, grace: float) -> bool:
        """Wait until no task is left, `grace` seconds at most; return whether none is."""
        with anyio.move_on_after(grace, shield=True):
            while self._jobs:
                is_idle = anyio.Event()
                self._settling.add(is_idle)
                try:
                    await is_idle.wait()
                finally:
                    self._settling.discard(is_idle)
        return not self._jobs

    async def aclose(self, grace: float = 1.0) -> None:
        """Cancel every task and wait for their end, `grace` seconds at most. Idempotent."""
        self.closed = True
        for job in tuple(self._jobs):
            job.cancel()
        if not await self.settle(grace):
            logger.warning(
                "tasks that ignore cancellation were left behind: %s", sorted(job.name for job in self._jobs)
            )

    def abandon(self) -> None:
        """Forget the tasks: their event loop has ended, or they belong to the parent of a forked process."""
        self.closed = True
        self._jobs.clear()
        self._tasks.clear()

    async def _run(self, job: _Job, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            with anyio.CancelScope() as job.scope:
                if job.cancelled:
                    job.scope.cancel()
                await without_stray_cancellation(function, *args)
        except Exception:
            logger.exception("%s crashed", job.name)
        finally:
            self._ended(job)

    def _ended(self, job: _Job, task: asyncio.Task[None] | None = None) -> None:
        if task is not None:
            self._tasks.discard(task)
        self._jobs.discard(job)  # done here too, for a task that was cancelled before its first step
        if not self._jobs:
            for is_idle in tuple(self._settling):
                is_idle.set()


async def without_stray_cancellation(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Await `function(*args)`; make an error of a CancelledError that is not the cancellation of this task.

    A driver, or a function of the application, whose own future or task was cancelled raises such a CancelledError.
    Passed on, it would end this task without a trace.

    Raises:
        RuntimeError: the call was cancelled, and this task was not.
    """
    try:
        return await function(*args)
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise
        raise RuntimeError(f"{getattr(function, '__qualname__', function)} was cancelled from inside") from error


def _is_cancelled() -> bool:
    """Whether the running task is cancelled in the way of asyncio: not under trio, which has its own exception."""
    loop = running_loop()
    if loop is None:
        return False
    task = asyncio.current_task(loop)
    # the count is 0 if a scope inside the call was cancelled too, as by its deadline, and has ended
    return (task is not None and task.cancelling() > 0) or anyio.current_effective_deadline() == -math.inf
