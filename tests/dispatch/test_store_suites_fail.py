"""The suites of stores of deliveries are not blind: each bug of a table fails the tests that are about it."""

from __future__ import annotations

import inspect
from typing import Any

import anyio
import pytest

from notify import NotifyError
from notify.testing.dispatch import (
    CapStoreSuite,
    DispatchForgetSuite,
    DispatchStoreSuite,
    DispatchTransactionSuite,
    DurableDispatchSuite,
    EndpointStoreSuite,
    GateStoreSuite,
    PreferenceStoreSuite,
    SharedDispatchSuite,
    UserForgetSuite,
)
from tests.conformance.broken import FAILURES, leaves

from .broken import BUGS, Bug, Kept, Store, clocked

SUITES = (
    *(CapStoreSuite, EndpointStoreSuite, GateStoreSuite, PreferenceStoreSuite, UserForgetSuite),
    *(DispatchStoreSuite, DispatchForgetSuite, DurableDispatchSuite, SharedDispatchSuite),
)


def names_of(*suites: type) -> set[str]:
    return {name for suite in suites for name in dir(suite) if name.startswith("test_")}


async def run(part: Store, test: str) -> None:
    """Run one test of the suites on a store, as pytest would."""
    suites = [suite for suite in SUITES if hasattr(suite, test)]
    if DispatchStoreSuite in suites:
        suites = [DispatchStoreSuite, DispatchForgetSuite, DurableDispatchSuite, SharedDispatchSuite]

    class Subject(*suites):  # type: ignore[misc]
        patience = 1.0
        prompt = 0.15

        async def make(self) -> Any:
            store, self.clock = clocked(part)
            return store

        async def let_pass(self, store: Any, seconds: float) -> None:
            self.clock.advance(seconds)

        async def reopen(self, store: Any) -> Any:
            return store.sibling()

        async def another(self, store: Any) -> Any:
            return store.sibling()

    case = Subject()
    method = getattr(case, test)
    async with case.fresh() as made:
        await (method(made) if inspect.signature(method).parameters else method())


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_the_bug_is_noticed(bug: Bug) -> None:
    """A store with this bug fails this test of the suites."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - what a test fails by need not be an Exception
        anyio.run(run, bug.part, bug.test)
    for error in leaves(caught.value):
        assert isinstance(error, (*FAILURES, NotifyError, ValueError)), repr(error)


@pytest.mark.parametrize("test", sorted(names_of(*SUITES)))
def test_without_a_bug_it_passes(test: str) -> None:
    """The store without a bug passes each of these tests in the same way."""
    anyio.run(run, Kept, test)


def test_every_test_has_its_bug() -> None:
    """No test of any suite is without a store that fails it, those about transactions aside: memory has none."""
    assert names_of(*SUITES) - names_of(DispatchTransactionSuite) == {bug.test for bug in BUGS}
