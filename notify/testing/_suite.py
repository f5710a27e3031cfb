"""What the conformance suites share: one fresh part for each test, closed after it, with nothing left running."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ClassVar, Generic, TypeVar

import anyio
import pytest

from notify import Guarantees

from ._waits import describe, eventually, within

Part = TypeVar("Part")

_RUNNER = "TestRunner."
"""In the names of the coroutines of anyio's plugin for pytest."""


class Suite(ABC, Generic[Part]):
    """A set of tests that every implementation of one interface passes.

    Subclass it with a name that begins with `Test`, and define how to make the part under test. A test class may have
    further fixtures, for example one that is `autouse` and puts `tmp_path` into an attribute for `make`.

    Attributes:
        backends: the event loops that the part runs on.
        prompt: seconds within which something immediate has happened, on a busy machine.
        patience: seconds after which something that takes its time will not happen any more.
        time_limit: seconds after which a test fails that has not ended; its message says where it hung.
    """

    backends: ClassVar[Sequence[str]] = ("asyncio", "trio")
    prompt: ClassVar[float] = 0.5
    patience: ClassVar[float] = 10.0
    time_limit: ClassVar[float] = 30.0
    pytestmark = pytest.mark.anyio

    def __init_subclass__(cls, **options: Any) -> None:
        """Bound every test, and refuse a test class that lacks a hook: pytest would skip an abstract class silently."""
        super().__init_subclass__(**options)
        for name, test in list(vars(cls).items()):
            if name.startswith("test_") and inspect.iscoroutinefunction(test):
                setattr(cls, name, _bounded(test))
        missing = [name for name in dir(cls) if getattr(getattr(cls, name, None), "__isabstractmethod__", False)]
        if missing and cls.__name__.startswith("Test"):
            raise TypeError(f"{cls.__name__} has to define {' and '.join(missing)}: see the suites among its bases")

    @abstractmethod
    async def make(self) -> Part:
        """Return a new part, with nothing in it and nothing in common with those made before."""

    async def close(self, part: Part) -> None:
        """Release a part that `make` or another hook returned: by default with its `aclose`, if it has one.

        Override it where more has to be released, such as a connection that the part was given. It is called once for
        each part, also after a test that has called `aclose` itself.
        """
        aclose = getattr(part, "aclose", None)
        if aclose is not None:
            await aclose()

    @asynccontextmanager
    async def closing(self, part: Part) -> AsyncIterator[Part]:
        """Use a part in a block, and close it at the end with the hook `close`."""
        try:
            yield part
        finally:
            with anyio.CancelScope(shield=True), within(self.patience, f"close() of {type(part).__name__}"):
                await self.close(part)

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Part]:
        """Make a part, close it in the end, and check that no task is left."""
        before = anyio.get_running_tasks()
        with within(self.patience, "make()"):
            part = await self.make()
        async with self.closing(part):
            yield part

        async def no_task_is_left() -> None:
            after = anyio.get_running_tasks()  # the test runner may have other tasks by now, but as many
            left = [
                name for name in sorted(describe(task) for task in after if task not in before) if _RUNNER not in name
            ]
            assert len(after) <= len(before), (
                f"{type(part).__name__} left tasks running: {', '.join(left)}. End them in its aclose(), or override "
                f"close() in {type(self).__name__} where they belong to a connection that the test owns"
            )

        await eventually(no_task_is_left, self.prompt)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:  # pragma: no cover - while tests are collected
        """Run each test on each of the event loops."""
        if "anyio_backend" in metafunc.fixturenames:
            metafunc.parametrize("anyio_backend", self.backends, indirect=True)

    @pytest.fixture
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Return the event loop of this run."""
        return request.param


def _bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Return the test with its time limit."""

    @wraps(test)
    async def bounded(self: Suite[Any], *args: Any, **options: Any) -> None:
        with within(self.time_limit, f"the end of {test.__name__}"):
            await test(self, *args, **options)

    return bounded


def declared(part: object, *possible: str) -> Guarantees:
    """Return the guarantees that a part declares, and assert that it can have them.

    Args:
        part: a store, router or tracker.
        possible: the guarantees that such a part may have.
    """
    name = type(part).__name__
    hints = ", ".join(f"{field}=True" for field in possible)
    guarantees = getattr(part, "guarantees", None)
    assert isinstance(guarantees, Guarantees), (
        f"add `guarantees = notify.Guarantees()` to the class {name}, with {hints} as far as it applies: "
        "the suites decide by it what has to be tested"
    )
    impossible = [field for field in Guarantees.__slots__ if getattr(guarantees, field) and field not in possible]
    assert not impossible, f"remove {', '.join(impossible)} from {name}.guarantees: such a part can only have {hints}"
    return guarantees


def assert_tested(suite: object, needed: Mapping[str, bool]) -> None:
    """Assert that the suites that are needed are among the bases of this one."""
    bases = {cls.__name__ for cls in type(suite).__mro__}
    missing = [name for name, is_needed in needed.items() if is_needed and name not in bases]
    assert not missing, f"add {', '.join(missing)} to the bases of {type(suite).__name__}"
