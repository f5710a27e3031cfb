"""A push, and a cancellation, at every single step of opening, replaying, waiting and pushing."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random
from typing import Any

import anyio
import pytest
import trio

from notify import Event, Notifier, Stream, ids
from notify_memory import MemoryStore

from .loop import StepLoop, settle
from .scenarios import KINDS, USER, read, read_on, small
from .stores import SlowStore
from .world import page_size

kinds = pytest.mark.parametrize("kind", KINDS)


# -- a push at every step --------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("late", [0, 1, 4, None], ids=["at once", "a step later", "four steps later", "never"])
def test_a_push_at_every_step_of_a_replay_is_yielded_once(kind: str, late: int | None) -> None:
    """At whichever step of opening, replaying and waiting it is stored, and whenever it is announced."""
    for step in range(1, 400):
        if not push_at_step(kind, step, late):
            assert step > 1, "nothing was ever interrupted"
            return
    pytest.fail("the reader never came to rest")


def push_at_step(kind: str, step: int, late: int | None) -> bool:
    """Push at one step; return whether the reader was still busy then."""
    loop = StepLoop()
    busy = False

    async def main() -> None:
        nonlocal busy
        async with small(kind, Random(1)) as world:
            stored: list[Event] = []
            for value in range(3):
                world.append(value)
            stream = world.a.subscribe(USER, ids.ZERO)
            got: list[int] = []

            def hook(now: int) -> None:
                nonlocal busy
                if now == began + step:
                    busy = len(got) < 3
                    stored.append(world.append(3))
                if late is not None and now == began + step + late:
                    world.a.deliver(stored[0])

            began = loop.steps
            loop.before_step = hook
            reader = asyncio.ensure_future(read(stream, got, 4))
            await _step(loop, began + step + (late or 0))
            if late is None:
                await world.calm()
            await reader
            assert got == [0, 1, 2, 3]
            await stream.aclose()

    with page_size(2):
        try:
            loop.drive(main())
        finally:
            loop.finish()
    return busy


async def _step(loop: StepLoop, number: int) -> None:
    while loop.steps <= number:  # noqa: ASYNC110 - the loop's own steps are what is waited for
        await asyncio.sleep(0)


@kinds
def test_a_push_at_every_step_of_opening_now_is_before_or_after(kind: str) -> None:
    """A stream from now on yields what was stored after it opened, and nothing from before it began to."""
    for step in range(1, 60):
        push_while_opening(kind, step)


def push_while_opening(kind: str, step: int) -> None:
    """Push at one step."""
    loop = StepLoop()

    async def main() -> None:
        async with small(kind, Random(2)) as world:
            world.append(0)
            stream = world.a.subscribe(USER)
            opened = asyncio.ensure_future(stream.__aenter__())
            was_open = [False]

            def hook(now: int) -> None:
                if now == began + step:
                    was_open.append(opened.done())
                    world.a.deliver(world.append(1))

            began = loop.steps
            loop.before_step = hook
            await opened
            await _step(loop, began + step)
            await world.a.push(USER, "t", 2)
            first = (await stream.next()).payload
            assert first == 1 if was_open[1] else first in (1, 2)
            if first == 1:
                assert (await stream.next()).payload == 2
            with pytest.raises(TimeoutError):
                await stream.next(0.1)
            await stream.aclose()

    try:
        loop.drive(main())
    finally:
        loop.finish()


# -- a cancellation at every step ------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("how", ["task", "scope"])
def test_next_cancelled_at_every_step_loses_and_repeats_nothing(kind: str, how: str) -> None:
    """Whether by the task or by a cancel scope, and then once more at a later step."""
    for step in range(1, 400):
        if not cancel_next_at(kind, step, how):
            assert step > 1, "nothing was ever interrupted"
            return
    pytest.fail("the reader never came to rest")


def cancel_next_at(kind: str, step: int, how: str) -> bool:
    """Cancel a reader at one step, and its successor three steps into its work; return whether the first was busy."""
    loop = StepLoop()
    first: list[bool] = []

    async def main() -> None:
        async with small(kind, Random(3)) as world:
            for value in range(4):
                world.append(value)
            stream = world.a.subscribe(USER, ids.ZERO)
            got: list[int] = []
            pushes = [asyncio.ensure_future(world.a.push(USER, "t", value)) for value in (4, 5)]
            for delay in (step, 3, None):
                scope = anyio.CancelScope()
                reader = asyncio.ensure_future(_read_in(scope, stream, got, 6 - len(got)))
                strike = None if delay is None else loop.steps + delay
                loop.before_step = partial(_cancel_at, strike, reader, reader if how == "task" else scope)
                await asyncio.wait([reader])
                first.append(reader.cancelled() or scope.cancel_called)
            await asyncio.gather(*pushes)
            assert got == world.log
            await stream.aclose()

    with page_size(2):
        try:
            loop.drive(main())
        finally:
            loop.finish()
    return first[0]


def _cancel_at(step: int | None, task: asyncio.Future[Any], victim: Any, now: int) -> None:
    if now == step and not task.done():
        victim.cancel()


async def _read_in(scope: anyio.CancelScope, stream: Stream, got: list[int], count: int) -> None:
    with scope:
        await read(stream, got, count)


@kinds
def test_opening_cancelled_at_every_step_leaves_nothing(kind: str) -> None:
    """No registry entry, no task; and another stream works as if nothing had been."""
    for step in range(1, 60):
        cancel_opening_at(kind, step)


def cancel_opening_at(kind: str, step: int) -> None:
    """Cancel one opening."""
    loop = StepLoop()

    async def main() -> None:
        async with small(kind, Random(4)) as world:
            world.append(0)
            stream = world.a.subscribe(USER, ids.ZERO)
            opening = asyncio.ensure_future(stream.__aenter__())
            loop.before_step = partial(_cancel_at, loop.steps + step, opening, opening)
            await asyncio.wait([opening])
            assert opening.cancelled() != bool(world.a._live.positions())
            async with world.a.subscribe(USER, ids.ZERO) as other:
                assert (await other.next()).payload == 0
            await stream.aclose()

    try:
        loop.drive(main())
    finally:
        loop.finish()


@kinds
@pytest.mark.parametrize("many", [False, True], ids=["push", "push_many"])
def test_a_push_cancelled_at_every_step_is_stored_and_yielded_once_at_most(kind: str, many: bool) -> None:
    """Stored or not, a repeated push with its key stores it once, and readers get exactly what is stored."""
    for step in range(1, 200):
        if not cancel_push_at(kind, step, many=many):
            assert step > 1
            return
    pytest.fail("the push never ended")


def cancel_push_at(kind: str, step: int, *, many: bool) -> bool:
    """Cancel one push; return whether it was still under way."""
    loop = StepLoop()
    struck = False

    async def main() -> None:
        nonlocal struck
        async with small(kind, Random(5)) as world:
            stream, got = world.a.subscribe(USER), list[int]()
            await stream.__aenter__()
            reader = asyncio.ensure_future(read_on(stream, got, Random(0), 0))

            async def push() -> None:
                if many:
                    await world.a.push_many([USER, "bob"], "t", 7, key="k")
                else:
                    await world.a.push(USER, "t", 7, key="k")

            task = asyncio.ensure_future(push())
            began = loop.steps

            def hook(now: int) -> None:
                nonlocal struck
                if now == began + step and not task.done():
                    struck = True
                    task.cancel()

            loop.before_step = hook
            await asyncio.wait([task])
            await settle()
            assert got == world.log
            assert world.log in ([], [7])
            assert world.a.statistics().pending_pushes == 0
            await push()
            await settle()
            assert got == world.log == [7]
            await stream.aclose()
            await reader

    try:
        loop.drive(main())
    finally:
        loop.finish()
    return struck


@pytest.mark.parametrize("slow", [False, True], ids=["immediate", "slow"])
def test_next_cancelled_at_every_step_on_trio(slow: bool) -> None:
    """The same on the other event loop, with its level cancellation."""
    for step in range(1, 200):
        if not cancel_next_on_trio(slow, step):
            assert step > 1
            return
    pytest.fail("the reader never came to rest")


class _Striker(trio.abc.Instrument):
    """Cancels a scope right before the given step of the run."""

    def __init__(self, step: int) -> None:
        self.scope: trio.CancelScope | None = None
        self.struck = False
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.scope is not None:
            self._left -= 1
            if not self._left:
                self.scope.cancel()
                self.struck = True


def cancel_next_on_trio(slow: bool, step: int) -> bool:
    """Cancel one `next`; return whether it was still under way."""
    striker = _Striker(step)

    async def main() -> None:
        inner = MemoryStore(max_age=None)
        store = SlowStore(inner, Random(6)) if slow else inner
        for value in range(3):
            inner.save_nowait(Event(USER, "t", value))
        async with Notifier(store, poll_interval=3600) as notifier:
            stream, got = notifier.subscribe(USER, ids.ZERO), list[int]()
            with trio.CancelScope() as scope:
                striker.scope = scope
                await read(stream, got, 3)
                await notifier.push(USER, "t", 3)
                await read(stream, got, 1)
            striker.scope = None
            if len(inner.read_nowait(USER, ids.ZERO, 9).events) < 4:
                with trio.move_on_after(1):
                    await trio.testing.wait_all_tasks_blocked()
            stored = [event.payload for event in inner.read_nowait(USER, ids.ZERO, 9).events]
            await read(stream, got, len(stored) - len(got))
            assert got == stored
            await stream.aclose()
            assert notifier.statistics().open_streams == 0

    with page_size(2):
        trio.run(main, instruments=[striker])
    return striker.struck
