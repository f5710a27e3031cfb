"""Applications that are killed, frozen, or impatient: the other processes go on, and so do the logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from .backends import Backend
from .scene import scene

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]

everywhere = pytest.mark.parametrize(
    "backend", ["sqlite", "redis", "redis cluster", "redis sentinel", "postgres"], indirect=True
)


@everywhere
async def test_an_application_that_is_killed(backend: Backend, tmp_path: Path) -> None:
    """Pushers and readers die by SIGKILL, again and again; those that follow resume by last id, without a gap."""
    async with scene(backend, tmp_path) as at_work:
        for _ in range(3):
            at_work.pushers[0].kill()
            reader = at_work.readers[0]
            reader.kill()
            at_work.start("push")
            at_work.resume(reader)
            await at_work.ready()
            await at_work.more("saw", 100)
        verdict = await at_work.judge()
    assert not verdict.gaps
    assert not verdict.rejected
    assert verdict.uncertain <= 3 * 6  # what was under way in the killed
