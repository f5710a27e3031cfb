"""The one task beside a connection: it waits for messages of the client, so that a disconnect is noticed at once.

On asyncio it is a plain task, which costs half as much as a task group, and the connection is aborted by cancelling its
own task, as `asyncio.timeout` does. Elsewhere it is a task group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import anyio


class Watch(Protocol):
    """A context manager: the watching function runs while the block does.

    Attributes:
        aborted: whether `abort` was called: then the block is cancelled, and the cancellation ends with it.
    """

    aborted: bool

    def abort(self) -> None:
        """Cancel the block. Called from another task; never waits."""

    async def __aenter__(self) -> Self:
        """Start the function."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End the function."""


Watching: TypeAlias = Callable[[Watch], Coroutine[Any, Any, None]]
"""What runs beside the block."""


class TaskWatch:
    """See `Watch`: on asyncio."""

    __slots__ = ("_cancelling", "_function", "_loop", "_task", "_watcher", "aborted")

    def __init__(self, function: Watching, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        self._function: Watching | None = function
        self._loop = loop
        self._task: asyncio.Task[Any] | None = task
        self._watcher: asyncio.Task[None] | None = None
        self._cancelling = 0
        self.aborted = False

    def abort(self) -> None:
        """Cancel the block."""
        if not self.aborted and self._task is not None and self._watcher is not None:
            self.aborted = True
            self._task.cancel()

    async def __aenter__(self) -> Self:
        """Start the function."""
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        function, self._function = self._function, None  # one object fewer for each open connection
        assert function is not None
        self._watcher = self._loop.create_task(function(self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End the function; the cancellation by `abort` goes no further."""
        task, self._task = self._task, None
        assert task is not None
        assert self._watcher is not None
        self._watcher.cancel()
        if not self.aborted:
            return False
        is_cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        if not is_cancelled:
            try:
                await asyncio.sleep(0)  # aborted just as the block ended: the pending cancellation must arrive here
            except asyncio.CancelledError:
                if task.uncancel() > self._cancelling:  # another caller has cancelled the task, too
                    raise
                return False
        return task.uncancel() <= self._cancelling and is_cancelled


class GroupWatch:
    """See `Watch`: on every event loop."""

    __slots__ = ("_function", "_group", "aborted")

    def __init__(self, function: Watching) -> None:
        self._function = function
        self._group = anyio.create_task_group()
        self.aborted = False

    def abort(self) -> None:
        """Cancel the block."""
        self.aborted = True
        self._group.cancel_scope.cancel()

    async def __aenter__(self) -> Self:
        """Start the function."""
        await self._group.__aenter__()
        self._group.start_soon(self._function, self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End the function; the cancellation by `abort` goes no further."""
        self._group.cancel_scope.cancel()
        if kind is None or issubclass(kind, Exception):  # which the group would wrap
            await self._group.__aexit__(None, None, None)
            return False
        return bool(await self._group.__aexit__(kind, error, trace))


def watch(function: Watching, loop: asyncio.AbstractEventLoop | None = None) -> Watch:
    """Return the watch of the running task, which enters it.

    Args:
        function: runs beside the block, and raises nothing; it is called with the watch.
        loop: the asyncio loop that is probably running, if known: asking for it takes a system call.
    """
    task = None if loop is None else asyncio.current_task(loop)
    if loop is None or task is None:
        loop = running_loop()
        if loop is None:
            return GroupWatch(function)
        task = asyncio.current_task(loop)
        assert task is not None
    return TaskWatch(function, loop, task)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running asyncio loop; None on trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
