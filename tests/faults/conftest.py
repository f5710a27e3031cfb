"""One set of servers for all of these tests, healed after each; one event loop, the drivers'."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .backends import Backend, Fleet


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def all_backends() -> Iterator[Fleet]:
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
