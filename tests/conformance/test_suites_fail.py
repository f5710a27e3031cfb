"""The suites are not blind: each bug of a table fails the test that is about it, which passes without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

import notify.testing
from notify import NotifyError
from notify.testing import OutageSuite, SaveInTransactionSuite, StoreOutageSuite, StreamStoreOutageSuite
from notify.testing._router_base import Watched
from notify.testing._suite import Suite
from tests.conformance import (  # noqa: F401 - they fill the table
    broken_abilities,
    broken_inboxes,
    broken_merged,
    broken_others,
    broken_outages,
    broken_stores,
    broken_streams,
    broken_topics,
)
from tests.conformance.broken import BUGS, FAILURES, Bug, leaves, run

CONTROLS = sorted({(bug.base, bug.suites, bug.test) for bug in BUGS}, key=str)


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_the_bug_is_noticed(bug: Bug) -> None:
    """A part with this bug fails this test of the suites, by an assertion."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - what a test fails by need not be an Exception
        anyio.run(run, bug.part, bug.suites, bug.test)
    for error in leaves(caught.value):
        assert isinstance(error, (*FAILURES, NotifyError)), repr(error)
        assert "pytest-timeout" not in str(error), "the test of the suite hangs"


@pytest.mark.parametrize(("part", "suites", "test"), CONTROLS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_without_the_bug_it_passes(part: Callable[..., Any], suites: tuple[type, ...], test: str) -> None:
    """The part without the bug passes the same test in the same way."""
    anyio.run(run, part, suites, test)


@pytest.mark.parametrize(
    ("part", "suite", "test"),
    [
        (broken_outages.Guessing, StreamStoreOutageSuite, "test_liveness_follows_an_outage"),
        (broken_stores.PlainLedger, SaveInTransactionSuite, "test_streams_wake_up_after_the_commit"),
    ],
)
def test_what_a_part_lacks_is_not_asked_for(part: Callable[..., Any], suite: type[Suite[Any]], test: str) -> None:
    """A stream store that does not know whether it receives, and a store without streams, pass these tests."""
    anyio.run(run, part, (suite,), test)


@pytest.mark.parametrize("test", [name for name in dir(StoreOutageSuite) if name.startswith("test_")])
def test_a_slow_start_is_not_a_fault(test: str) -> None:
    """A store whose first save times out before any outage still passes the tests of outages."""
    anyio.run(run, broken_outages.StartsSlowly, (StoreOutageSuite,), test)


def test_a_watched_router_is_the_router() -> None:
    """What else a router has can be had while the suite watches it."""
    router = broken_outages.HubRouter()
    assert Watched(router).hub is router.hub


def test_an_outage_suite_without_tests_is_refused() -> None:
    """The hooks of outages alone would test nothing."""
    with pytest.raises(TypeError, match="TestNothing has no tests: add one of StoreOutageSuite"):
        type("TestNothing", (OutageSuite,), dict.fromkeys(("make", "interrupt", "restore")))


def test_every_test_has_its_bug() -> None:
    """No test of any suite is without a part that fails it."""
    suites = [getattr(notify.testing, name) for name in notify.testing.__all__ if name.endswith("Suite")]
    tests = {name for suite in suites for name in dir(suite) if name.startswith("test_")}
    assert tests == {bug.test for bug in BUGS}
