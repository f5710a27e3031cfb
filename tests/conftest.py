"""What applies to every test: both event loops, time limits, the order of the files, and whose coverage is measured."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests.longest import LONGEST
from tests.measured import MEASURED_UNDER_TRIO, UNMEASURED
from tests.parts import untraced

# Where CI is set, pytest explains a failed comparison with the whole difference, which takes minutes for thousands of
# events; a test that waits for something fails many times before it passes.
os.environ.pop("CI", None)

gc.disable()  # until the tests are collected: the objects that this creates all stay, and scanning them takes a second

# How long an example takes says nothing on a busy machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell may start a suite in the background with SIGINT ignored, and every command that it starts would inherit this.
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


_HERE = Path(__file__).parent
_PLACES = {_HERE / name: place for place, name in enumerate(LONGEST)}
_UNMEASURED = {_HERE / name for name in UNMEASURED}
_UNDER_TRIO = {_HERE / name for name in MEASURED_UNDER_TRIO}
_COVERAGE = sys.gettrace() if type(sys.gettrace()).__module__.startswith("coverage") else None
"""What measures coverage, if anything does: all that runs in the same thread then takes twice as long."""


PACKAGES: Final = ("notify", "notify_memory", "notify_sqlite", "notify_redis", "notify_pg")


def _import_all() -> None:
    """Import the whole library, so that what imports run is measured although collecting the tests is not."""
    for name in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)


if _COVERAGE is not None:
    _import_all()
    sys.settrace(None)  # from here on only the tests are measured, and not what pytest does between them


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    with _measuring(item):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    with _measuring(item, is_test=True):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    with _measuring(item):
        return (yield)


@contextmanager
def _measuring(item: pytest.Item, *, is_test: bool = False) -> Iterator[None]:
    """Measure a test or its fixtures, if it has to be; those of a whole file may be set up under either event loop."""
    if _COVERAGE is None:
        yield
    elif _is_unmeasured(item) or (is_test and _repeats(item)):
        with untraced():
            yield
    else:
        sys.settrace(_COVERAGE)
        try:
            yield
        finally:
            sys.settrace(None)


def _is_unmeasured(item: pytest.Item) -> bool:
    """Whether `UNMEASURED` lists the test, its file or one of its directories."""
    test = item.path.with_name(f"{item.path.name}::{getattr(item, 'originalname', item.name)}")
    return not _UNMEASURED.isdisjoint((test, item.path, *item.path.parents))


def _repeats(item: pytest.Item) -> bool:
    """Whether a test does under trio what it does under asyncio, too."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("anyio_backend") == "trio" and item.path not in _UNDER_TRIO


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; within a file, and from file to file after them, the order stays random."""
    items.sort(key=lambda item: _PLACES.get(item.path, len(_PLACES)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect garbage again, also in the process that only hands the tests out, which collects none of them."""
    try:
        return (yield)
    finally:
        gc.enable()


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
