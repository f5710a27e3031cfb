"""What the conformance suites share: one fresh part for each test, closed after it, with nothing left running."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, TypeVar

import anyio
import anyio.lowlevel
import pytest

from notify import Event, Stream, ids

Part = TypeVar("Part")


class Suite(ABC, Generic[Part]):
    """A set of tests that every implementation of one interface passes.

    Subclass it with a name that begins with `Test`, and say how to make the part under test. A test class may have
    further fixtures, for example one that is `autouse` and puts `tmp_path` into an attribute for `make`.

    Attributes:
        backends: the event loops that the part runs on.
        prompt: seconds within which something immediate has happened, on a busy machine.
        patience: seconds after which something that takes its time will not happen any more.
    """

    backends: ClassVar[Sequence[str]] = ("asyncio", "trio")
    prompt: ClassVar[float] = 0.5
    patience: ClassVar[float] = 10.0
    pytestmark = pytest.mark.anyio

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a test class that lacks a hook: pytest would pass over an abstract class in silence."""
        super().__init_subclass__(**options)
        missing = [name for name in dir(cls) if getattr(getattr(cls, name, None), "__isabstractmethod__", False)]
        if missing and cls.__name__.startswith("Test"):
            raise TypeError(f"{cls.__name__} has to define {' and '.join(missing)}: see the suites among its bases")

    @abstractmethod
    async def make(self) -> Part:
        """Return a new part, with nothing in it and nothing in common with those made before."""

    async def close(self, part: Part) -> None:
        """Release a part that `make` returned: its `aclose`, if it has one."""
        aclose = getattr(part, "aclose", None)
        if aclose is not None:
            await aclose()

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Part]:
        """Make a part, close it in the end, and see to it that no task is left."""
        before = anyio.get_running_tasks()
        part = await self.make()
        try:
            yield part
        finally:
            with anyio.CancelScope(shield=True):
                await self.close(part)

        async def no_task_is_left() -> None:
            after = anyio.get_running_tasks()  # a test runner may have other tasks by now, but as many
            assert len(after) <= len(before), f"left running: {[task for task in after if task not in before]}"

        await eventually(no_task_is_left, self.prompt)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test on each of the event loops."""
        if "anyio_backend" in metafunc.fixturenames:
            metafunc.parametrize("anyio_backend", self.backends, indirect=True)

    @pytest.fixture
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Return the event loop of this run."""
        return request.param


async def eventually(check: Callable[[], Awaitable[None]], within: float) -> None:
    """Repeat a check until it holds; when the time is over, let it fail."""
    with anyio.move_on_after(within):
        while True:
            try:
                return await check()
            except AssertionError:
                await anyio.sleep(0.005)
    return await check()


async def together(*functions: Callable[[], Awaitable[object]]) -> None:
    """Run the functions concurrently, until all have ended; their exceptions come as they are, the first one."""
    errors: list[Exception] = []

    async def run(function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except Exception as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for function in functions:
            tasks.start_soon(run, function)
    if errors:
        raise errors[0]


async def interrupted(function: Callable[[], Coroutine[Any, Any, object]], attempt: int) -> None:
    """Run a function and cancel it, each attempt later: by steps of the event loop at first, then by time."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function)
        for _ in range(attempt):
            await anyio.lowlevel.checkpoint()
        if attempt > 9:
            await anyio.sleep((attempt - 9) * 0.0003)
        tasks.cancel_scope.cancel()


async def take(stream: Stream, count: int, within: float) -> list[Event]:
    """Return the next so many events of a stream."""
    with anyio.fail_after(within):
        return [await stream.next() for _ in range(count)]


def numbers(events: Iterable[Event]) -> list[Any]:
    """Return the payloads, which number the events in most tests."""
    return [event.payload for event in events]


def assert_chain(events: Sequence[Event], start: str = ids.ZERO) -> None:
    """Assert that ids grow strictly and that each event links to the one before it, the first one to `start`."""
    for event in events:
        assert event.id == ids.canonical(event.id)
        assert ids.compare(start, event.id) < 0
        assert event.prev == start
        start = event.id


def assert_tested(suite: object, needed: Mapping[str, bool]) -> None:
    """Assert that the suites that are needed are among the bases of this one."""
    bases = {cls.__name__ for cls in type(suite).__mro__}
    missing = [name for name, is_needed in needed.items() if is_needed and name not in bases]
    assert not missing, f"add {', '.join(missing)} to the bases of {type(suite).__name__}"


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
