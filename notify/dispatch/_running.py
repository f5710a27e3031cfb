"""`Dispatcher.running`: a worker for as long as a block lasts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

T = TypeVar("T")


class Running(AbstractAsyncContextManager[T]):
    """Runs a worker while a block lasts; warns if it is never entered, as a coroutine that is not awaited does.

    Args:
        value: what `async with ... as` gets.
        run: the worker; the end of the block cancels it.
    """

    def __init__(self, value: T, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._value = value
        self._run = run
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> T:
        """Start the worker."""
        self._tasks = tasks = anyio.create_task_group()
        await tasks.__aenter__()
        tasks.start_soon(self._run)
        return self._value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Stop the worker and wait for it."""
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        return await self._tasks.__aexit__(kind, error, trace)

    def __del__(self) -> None:
        if self._tasks is None:
            warnings.warn(
                "dispatcher.running() was never entered, so nothing is sent: write `async with dispatcher.running():`",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )
