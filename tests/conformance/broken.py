"""A table of parts with one bug each, and the test of the suites that must notice it."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from notify import Notifier
from notify.testing._suite import Suite


class Bug(NamedTuple):
    """A broken part, the suites that it is run through, and the test that must fail."""

    part: Callable[..., Any]
    base: Callable[..., Any]
    suites: tuple[type[Suite[Any]], ...]
    test: str

    def __str__(self) -> str:
        return f"{getattr(self.part, '__name__', self.part)}-{self.test}"


BUGS: list[Bug] = []


def caught_by(test: str, *suites: type[Suite[Any]]) -> Callable[[type], type]:
    """Enter a broken part into the table; its base class is the part without the bug."""

    def enter(part: type) -> type:
        BUGS.append(Bug(part, part.__mro__[1], suites, test))
        return part

    return enter


def subject(part: Callable[..., Any], suites: tuple[type[Suite[Any]], ...]) -> Any:
    """Return a test class for a part, with every hook that any of the suites asks for."""

    class Subject(*suites):  # type: ignore[misc]
        patience = 1.0
        prompt = 0.15
        start_within = 0.2
        detection = 0.5
        recovery = 2.0
        ttl = 0.1
        lifetime = 0.4
        ahead = 0.0

        async def make(self) -> Any:
            return part()

        async def make_bounded(self, max_len: int) -> Any:
            return part(max_len=max_len)

        async def make_aging(self, max_age: float) -> Any:
            return part(max_age=max_age, clock=lambda: time.time() + self.ahead)

        async def let_pass(self, seconds: float) -> None:
            self.ahead += seconds

        async def make_clocked(self, clock: Callable[[], float]) -> Any:
            return part(clock=clock)

        async def reopen(self, store: Any) -> Any:
            return store.sibling()

        async def another(self, part: Any) -> Any:
            return part.sibling() if hasattr(part, "sibling") else part

        def connect(self, router: Any, notifier: Notifier) -> None:
            if hasattr(router, "notifiers"):
                router.notifiers[notifier.instance_id] = notifier

        async def garbage(self, router: Any) -> None:
            if hasattr(router, "hub"):
                router.hub.spread(b"garbage")

        @asynccontextmanager
        async def connection(self, store: Any) -> AsyncIterator[Any]:
            yield store.connect()

        @asynccontextmanager
        async def transaction(self, connection: Any) -> AsyncIterator[None]:
            with connection:
                yield

        async def elsewhere(self, part: Any) -> Any:
            return part.sibling()

        async def interrupt(self, part: Any) -> None:
            part.server.lose("away")

        async def silence(self, part: Any) -> None:
            part.server.lose("silent")

        async def restore(self, part: Any) -> None:
            part.server.state = "up"

        async def traces(self, store: Any, user: str) -> Any:
            return store.traces(user)

        async def created(self, store: Any) -> Any:
            return store.created()

        async def lose_log(self, store: Any, user: str) -> None:
            store.lose_log(user)

        async def crash(self, tracker: Any) -> None:
            await tracker.background.aclose(1.0)

        async def lose_leases(self, tracker: Any) -> None:
            tracker.board.pop(tracker.name, None)

    return Subject()


async def run(part: Callable[..., Any], suites: tuple[type[Suite[Any]], ...], test: str) -> None:
    """Run one test of the suites on a part, as pytest would."""
    case = subject(part, suites)
    method = getattr(case, test)
    if inspect.signature(method).parameters:
        async with case.fresh() as made:
            await method(made)
    else:
        await method()


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group, or the one that is not a group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


FAILURES = (AssertionError, TimeoutError, pytest.fail.Exception)
"""How a test of a suite fails; anything else would be an accident in this table."""
