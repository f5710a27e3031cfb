"""Waiters by themselves: what a task may rely on, on every event loop, and what asyncio relies on."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from notify import ClosedError, UsageError
from notify._runtime import _loop_guard as loop_guard
from notify._runtime._loop_guard import LoopGuard
from notify._runtime._waking import Waiter

pytestmark = pytest.mark.anyio


def bound() -> LoopGuard:
    loop = LoopGuard("notifier or store")
    loop.check()
    return loop


async def test_a_waiter_serves_again_after_each_wake() -> None:
    """One waiter ends as many waits as it is woken, one each."""
    waiter = bound().new_waiter()
    waits = 0

    async def wait() -> None:
        nonlocal waits
        for _ in range(3):
            await waiter
            waits += 1

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        for done in range(3):
            await anyio.wait_all_tasks_blocked()
            assert waits == done
            waiter.wake()
            waiter.wake()  # the same wait
    assert waits == 3


async def test_a_wake_that_comes_first_ends_the_next_wait() -> None:
    """A wake before the wait is not lost, and it ends one wait only."""
    waiter = bound().new_waiter()
    waiter.wake()
    with anyio.fail_after(20):
        await waiter
    with pytest.raises(TimeoutError), anyio.fail_after(0.01):
        await waiter


async def test_cancelling_one_of_many_leaves_the_others() -> None:
    """A cancelled wait ends by the cancellation alone; those that were woken with it end as usual, in that order."""
    loop, ended = bound(), list[int]()
    waiters = [loop.new_waiter() for _ in range(5)]
    scopes = [anyio.CancelScope() for _ in waiters]

    async def wait(index: int) -> None:
        with scopes[index]:
            await waiters[index]
            ended.append(index)

    async with anyio.create_task_group() as group:
        for index in range(5):
            group.start_soon(wait, index)
        await anyio.wait_all_tasks_blocked()
        scopes[1].cancel()
        scopes[3].cancel()
        for waiter in waiters:
            waiter.wake()
    assert sorted(ended) == [0, 2, 4]


async def test_a_cancelled_waiter_serves_again() -> None:
    """The wait after a cancelled one lasts until it is woken."""
    waiter = bound().new_waiter()
    with anyio.move_on_after(0.01):
        await waiter
    with anyio.move_on_after(0.01) as again:
        await waiter
    assert again.cancelled_caught
    waiter.wake()
    with anyio.fail_after(20):
        await waiter


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_is_cancelled_with_its_message() -> None:
    """What `task.cancel` was given arrives at the wait; so does a cancellation after the wake."""
    waiter = bound().new_waiter()

    async def wait() -> None:
        await waiter

    for message, woken in [("enough", False), (None, False), ("enough", True)]:
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        if woken:
            waiter.wake()
        task.cancel(message) if message else task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ((message,) if message else ())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_task_goes_on_in_its_own_context() -> None:
    """Tasks that are woken together see their own context variables."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    loop, seen = bound(), list[int]()
    waiters = [loop.new_waiter() for _ in range(3)]

    async def wait(index: int) -> None:
        variable.set(index)
        await waiters[index]
        seen.append(variable.get())

    tasks = [asyncio.ensure_future(wait(index)) for index in range(3)]
    await asyncio.sleep(0)
    for waiter in waiters:
        waiter.wake()
    await asyncio.gather(*tasks)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_task_leaves_no_cycle() -> None:
    """What a cancelled task held is released with the task, without the garbage collector."""

    class Held:
        """Something to refer to weakly."""

    async def wait(held: Held) -> None:
        await waiter

    waiter: Waiter = bound().new_waiter()
    gc.disable()
    try:
        held = Held()
        reference = weakref.ref(held)
        task = asyncio.ensure_future(wait(held))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        del held, task
        assert reference() is None
    finally:
        gc.enable()


def test_an_interrupted_loop_loses_no_wake() -> None:
    """When one of the woken tasks lets KeyboardInterrupt out of the loop, the others go on when the loop does."""
    ended: list[int] = []

    async def wait(waiter: Waiter, index: int) -> None:
        await waiter
        if index == 1:
            raise KeyboardInterrupt
        ended.append(index)

    async def start() -> tuple[list[Waiter], list[asyncio.Task[None]]]:
        loop = bound()
        waiters = [loop.new_waiter() for _ in range(4)]
        tasks = [asyncio.ensure_future(wait(waiter, index)) for index, waiter in enumerate(waiters)]
        await asyncio.sleep(0)
        return waiters, tasks

    with asyncio.Runner() as runner:
        waiters, tasks = runner.run(start())
        for waiter in waiters:
            waiter.wake()
        with pytest.raises(KeyboardInterrupt):
            runner.run(asyncio.wait(tasks, timeout=20))
        assert ended == [0]
        runner.run(asyncio.wait(tasks, timeout=20))
        assert ended == [0, 2, 3]
        assert isinstance(tasks[1].exception(), KeyboardInterrupt)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_another_run_of_the_loop_is_refused(backend: str) -> None:
    """What was first used in one run of an event loop says so in the next, instead of missing its tasks."""
    guard = LoopGuard("part")

    async def check_twice() -> None:
        guard.check()
        guard.check()

    anyio.run(check_twice, backend=backend)
    with pytest.raises(UsageError, match="another event loop"):
        anyio.run(check_twice, backend=backend)


def test_a_closed_guard_refuses_everything() -> None:
    """After `close` every check raises ClosedError; time and calls still work."""
    guard = LoopGuard("part")
    guard.check()
    guard.check()
    guard.close()
    assert guard.closed
    with pytest.raises(ClosedError, match="part"):
        guard.check()


def test_a_fork_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that was forked after the first check, tasks and threads of the part are missing."""
    guard = LoopGuard("part")
    guard.check()
    assert not guard.forked
    monkeypatch.setattr(loop_guard, "_forks", loop_guard._forks)
    loop_guard._count_fork()  # what a forked process does first
    assert guard.forked
    with pytest.raises(UsageError, match="fork"):
        guard.check()
    assert not guard.check_closing()  # closed, but without awaiting anything


def test_a_loop_may_go_on_in_another_thread() -> None:
    """A part belongs to its event loop, not to the thread in which that ran first."""
    guard = LoopGuard("part")

    async def check_twice() -> None:
        guard.check()
        guard.check()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(check_twice())
        with ThreadPoolExecutor(1) as threads:
            threads.submit(loop.run_until_complete, check_twice()).result(10)
        loop.run_until_complete(check_twice())
    finally:
        loop.close()


def test_what_was_used_without_a_loop_can_be_closed_on_one() -> None:
    """There is nothing to await then: what was first used where no event loop ran has no tasks."""
    guard = LoopGuard("part")
    guard.check()

    async def check_closing() -> bool:
        return guard.check_closing()

    assert guard.check_closing()
    assert not asyncio.run(check_closing())


def test_closing_beside_a_run_of_trio_that_goes_on_is_refused() -> None:
    """While trio runs, its part can be closed only there; once it has ended, from anywhere."""
    guard = LoopGuard("part")

    async def check_closing() -> bool:
        return guard.check_closing()

    async def main() -> None:
        guard.check()
        with pytest.raises(UsageError, match="another event loop"):
            await anyio.to_thread.run_sync(asyncio.run, check_closing())
        assert guard.check_closing()

    anyio.run(main, backend="trio")
    assert not asyncio.run(check_closing())
