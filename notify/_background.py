"""The tasks that a notifier or a store owns: every one has an owner who sees its exception and ends it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import anyio

from ._wake import running_loop
from .errors import ClosedError

logger = logging.getLogger("notify")

T = TypeVar("T")


class Background:
    """Starts tasks that live no longer than their owner, on whichever event loop is running.

    They are nobody's children: a caller that is cancelled does not take them along, and no `async with` is needed. On
    trio they are system tasks, because a nursery would have to be opened and closed in one task, nested
    with the user's.

    Args:
        owner: its name, for messages.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._idle: anyio.Event | None = None
        self._scopes: dict[anyio.CancelScope, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = False

    def start(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run `function(*args)` in a task of its own, outside the caller's context; an exception is logged.

        Raises:
            ClosedError: the owner is closed.
        """
        if self.closed:
            raise ClosedError(f"the {self._owner} is closed")
        name = f"notify: {self._owner} {function.__name__}"
        scope = anyio.CancelScope()
        self._scopes[scope] = name
        loop = running_loop()
        if loop is not None:
            task = loop.create_task(self._run(scope, function, args), name=name, context=contextvars.Context())
            self._tasks.add(task)  # the loop itself keeps only a weak reference
            task.add_done_callback(partial(self._ended, scope))
        else:
            import trio.lowlevel  # only where trio runs already

            trio.lowlevel.spawn_system_task(self._run, scope, function, args, name=name)

    @property
    def running(self) -> int:
        """How many tasks run now."""
        return len(self._scopes)

    async def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `function(*args)` as `start` does and return its result; cancelling the caller abandons only the wait."""
        done = anyio.Event()
        outcome: list[T | Exception] = []

        async def job() -> None:
            try:
                outcome.append(await function(*args))
            except Exception as error:
                outcome.append(error)
            finally:
                done.set()

        self.start(job)
        await done.wait()
        if not outcome:
            raise ClosedError(f"the {self._owner} was closed meanwhile")
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    async def settle(self, grace: float) -> bool:
        """Wait until no task is left, `grace` seconds at most; return whether none is."""
        with anyio.move_on_after(grace, shield=True):
            while self._scopes:
                self._idle = anyio.Event()
                await self._idle.wait()
        return not self._scopes

    async def aclose(self, grace: float) -> None:
        """Cancel every task and wait for their end, `grace` seconds at most. Idempotent."""
        self.closed = True
        for scope in list(self._scopes):
            scope.cancel()
        if not await self.settle(grace):
            logger.warning("tasks that ignore cancellation were left behind: %s", sorted(self._scopes.values()))

    async def _run(
        self, scope: anyio.CancelScope, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> None:
        try:
            with scope:
                await function(*args)
        except Exception:
            logger.exception("%s crashed", self._scopes[scope])
        finally:
            self._ended(scope)

    def _ended(self, scope: anyio.CancelScope, task: asyncio.Task[None] | None = None) -> None:
        if task is not None:
            self._tasks.discard(task)
        self._scopes.pop(scope, None)  # also where a task was cancelled before its first step
        if self._idle is not None and not self._scopes:
            self._idle.set()
