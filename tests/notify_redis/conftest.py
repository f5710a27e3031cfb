"""Servers for the tests of what is special about Redis; one event loop, the driver's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from tests.servers.redis import Server, single

_PREFIXES = (f"case{number}" for number in count())


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server for tests that leave it as it was."""
    with single() as server:
        yield server


@pytest.fixture
def victim() -> Iterator[Server]:
    """A server of this test's own."""
    with single() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return next(_PREFIXES)
