"""Cancels a call at its n-th wait, on asyncio and trio, on every store, in real time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Literal, TypeAlias

import anyio
import anyio.lowlevel

from notify_memory import MemoryDispatchStore

How: TypeAlias = Literal["task", "scope"]

MOST = 400
"""More waits than any call has."""


@coroutine
def _each_wait(inner: Coroutine[Any, Any, Any], waits: Callable[[int], None]) -> Generator[Any, Any, Any]:
    """Run a coroutine, and call a function with 1, 2, 3 before it waits for something."""
    count, resume, value = 0, inner.send, None
    while True:
        try:
            wanted = resume(value)
        except StopIteration as end:
            return end.value
        count += 1
        waits(count)
        resume = inner.send
        try:
            value = yield wanted
        except BaseException as error:  # passed on to whom it is for
            resume, value = inner.throw, error  # type: ignore[assignment]


async def cancelled_at(
    number: int, how: How, call: Callable[[], Coroutine[Any, Any, Any]], over: Callable[[], Awaitable[object]]
) -> bool:
    """Make a call and cancel it at its n-th wait; return whether it had so many.

    Args:
        number: n.
        how: as `Task.cancel` of asyncio does, once, or as a scope does, at each wait from the n-th one on.
        call: what is cancelled.
        over: returns when a call that does not end by itself has done its work; such a call is cancelled then.
    """
    is_struck = False
    task: asyncio.Future[Any] | None = None
    scope = anyio.CancelScope()

    def cancel() -> None:
        if task is not None:
            task.cancel()
        else:
            scope.cancel()

    def waits(count: int) -> None:
        nonlocal is_struck
        if count == number:
            is_struck = True
            cancel()

    async def watch() -> None:
        await over()
        cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        if how == "task":
            task = asyncio.ensure_future(_in_task(call(), waits))
            await asyncio.wait([task])
            assert not task.cancelled() or is_struck or over is not never
            if not task.cancelled():
                task.result()
        else:
            with scope:
                await _each_wait(call(), waits)
        tasks.cancel_scope.cancel()
    return is_struck


async def _in_task(inner: Coroutine[Any, Any, Any], waits: Callable[[int], None]) -> Any:
    return await _each_wait(inner, waits)


async def never() -> None:
    """Wait for the end of a call that ends by itself."""
    await anyio.sleep_forever()


class WaitingStore(MemoryDispatchStore):
    """A store in memory whose calls wait, before and after they have done something, as those of a database do."""


def _waiting(name: str) -> None:
    inner = getattr(MemoryDispatchStore, name)

    async def call(self: WaitingStore, *args: Any, **more: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        result = await inner(self, *args, **more)
        await anyio.lowlevel.checkpoint()
        return result

    setattr(WaitingStore, name, call)


for _name in (
    *("submit", "claim", "advance", "resolve", "cancel", "record", "delivery", "stuck", "hurry", "forget", "admit"),
    *("preferences", "patch", "endpoints", "observe", "retire", "refund", "gates", "close_digests", "digest_items"),
):
    _waiting(_name)
