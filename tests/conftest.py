"""What applies to every test: both event loops, time limits, and the order of the files."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.longest import LONGEST

# Where CI is set, pytest explains a failed comparison with the whole difference, which takes minutes for thousands of
# events; a test that waits for something fails many times before it passes.
os.environ.pop("CI", None)

# How long an example takes says nothing on a busy machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Who runs the suite in the background may have it ignore SIGINT, and every command it starts would do the same.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Stop the clock of the test while its failure is formatted: a time limit met there would end the whole run."""
    remaining, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        return (yield)
    finally:
        if remaining:
            signal.setitimer(signal.ITIMER_REAL, remaining)


_PLACES = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; within a file, and from file to file after them, the order stays random."""
    items.sort(key=lambda item: _PLACES.get(item.path, len(_PLACES)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave out of each later garbage collection what stays to the end: twenty thousand tests, and all modules.

    To go through them takes half a second, and some tests collect garbage thousands of times.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each asynchronous test under both event loops."""
    return str(request.param)
