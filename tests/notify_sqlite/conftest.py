"""Files of each test's own, on asyncio alone: the driver knows no other event loop."""

from __future__ import annotations

import pytest

from tests.servers.sqlite import path as path


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each asynchronous test on asyncio."""
    return str(request.param)
