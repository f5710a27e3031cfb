"""The suites are not blind: each bug of a table fails the test that is about it, which passes without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

import notify.testing
from notify import NotifyError
from tests.conformance import broken_others, broken_outages, broken_stores, broken_streams  # noqa: F401 - they fill the table
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


def test_every_test_has_its_bug() -> None:
    """No test of any suite is without a part that fails it."""
    suites = [getattr(notify.testing, name) for name in notify.testing.__all__ if name.endswith("Suite")]
    tests = {name for suite in suites for name in dir(suite) if name.startswith("test_")}
    assert tests == {bug.test for bug in BUGS}
