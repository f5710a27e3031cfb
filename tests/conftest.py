"""Fixtures for every test: both event loops, and nothing left running."""

from __future__ import annotations

import signal

import pytest

# Who runs the suite in the background may have it ignore SIGINT, and every command it starts would do the same.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each asynchronous test under both event loops."""
    return str(request.param)
