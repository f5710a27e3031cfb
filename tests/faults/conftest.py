"""Servers for the tests of one file, healed after each test; one event loop, the drivers'."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .backends import Backend, Fleet


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def all_backends() -> Iterator[Fleet]:
    """Started for each file: clusters and sentinels that idle to the end of the run would cost as much as the tests."""
    with Fleet() as fleet:
        yield fleet


@pytest.fixture
def fleet(all_backends: Fleet) -> Iterator[Fleet]:
    yield all_backends
    all_backends.heal()


@pytest.fixture
def backend(fleet: Fleet, request: pytest.FixtureRequest) -> Backend:
    """The backend that a test is parametrised with, by `on`."""
    return fleet[request.param]
