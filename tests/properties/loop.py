"""A deterministic asyncio loop: one callback at a time in a seeded order, in virtual time, with a hook before each.

Whatever would wait for longer than `HORIZON` virtual seconds, or for ever, raises `Stuck` instead: a lost wake-up is
an error at once and not a test that hangs. So does a loop that spins: it raises `Runaway`.
"""

from __future__ import annotations

import asyncio
import selectors
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

HORIZON = 3600.0
"""Virtual seconds that one wait may last; what only a poll or an audit can bring comes later than this."""

MAX_STEPS = 20_000
"""Callbacks that one `StepLoop.drive` may run."""


class Stuck(AssertionError):
    """Nothing is left that could wake the awaited task."""


class Runaway(AssertionError):
    """The loop spins."""


class _Selector(selectors.SelectSelector):
    """Advances the virtual clock instead of sleeping."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; a timeout passes in no time."""
        if timeout is None or timeout > HORIZON:
            raise Stuck("every task waits, and nothing will wake it")
        if timeout <= 0:
            return []
        self.now += timeout
        return super().select(0)


class Loop(asyncio.SelectorEventLoop, ABC):
    """What a world runs on."""

    @abstractmethod
    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, for a bounded time."""

    @abstractmethod
    def finish(self) -> None:
        """Cancel what is left, run it out and close."""


class StepLoop(Loop):
    """See the top of this file.

    Args:
        random: picks the next callback among the ready ones; None: first come, first served.

    Attributes:
        steps: callbacks run since `drive` began.
        before_step: called with that number before each callback.
    """

    _ready: Any
    _selector: _Selector

    def __init__(self, random: Random | None = None) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)
        self._random = random
        self._others: list[Any] = []
        self.steps = 0
        self.before_step: Callable[[int], None] | None = None

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._clock.now

    @property
    def idle(self) -> bool:
        """Whether nothing but the running callback is ready."""
        return not self._ready and not self._others

    def drive(self, work: Coroutine[Any, Any, T], *, steps: int = MAX_STEPS) -> T:
        """Run a coroutine to its end, `steps` callbacks at most."""
        self.steps, self._limit = 0, steps
        return self.run_until_complete(work)

    def finish(self) -> None:
        """Cancel what is left, run it out and close."""
        self.before_step = None
        self.set_exception_handler(lambda _loop, _context: None)  # whoever failed has said so
        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        try:
            if left:
                self.drive(_ended(left))
        finally:
            self.close()

    def _run_once(self) -> None:
        ready = self._ready
        if ready:
            if self._random is not None and len(ready) > 1:
                ready.rotate(-self._random.randrange(len(ready)))
            chosen = ready.popleft()
            self._others.extend(ready)
            ready.clear()
            ready.append(chosen)
            self.steps += 1
            if self.steps > self._limit:
                raise Runaway(f"{self.steps} steps and no end")
            if self.before_step is not None:
                self.before_step(self.steps)
        try:
            super()._run_once()  # type: ignore[misc]  # what an event loop does in one turn
        finally:
            self._others.extend(ready)
            ready.clear()
            ready.extend(self._others)
            self._others.clear()


async def settle() -> None:
    """Wait until every other task of a `StepLoop` waits for something that time alone does not bring."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, StepLoop)
    while not loop.idle:  # noqa: ASYNC110 - this looks at the loop itself
        await asyncio.sleep(0)


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)


def run(main: Callable[[], Awaitable[T]], seed: int | None = None) -> T:
    """Run an async function on a loop of its own."""
    loop = StepLoop(None if seed is None else Random(seed))

    async def work() -> T:
        return await main()

    try:
        return loop.drive(work())
    finally:
        loop.finish()
