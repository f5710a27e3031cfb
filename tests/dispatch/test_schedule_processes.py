"""Real processes with one schedule on one store: one run for all of them, also when one is killed in the middle."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from notify.dispatch import Dispatcher, NotificationType, Recipient, Schedule
from notify.testing.dispatch import RecordingChannel
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

from .dispatching import line, open_store, processes, rest

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NINE = datetime(2027, 1, 5, 9, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store is, as `open_store` takes it."""
    if request.param == "sqlite":
        yield json.dumps(["sqlite", str(tmp_path / "dispatch.db")])
    else:
        server: Server = request.getfixturevalue("postgres")
        yield json.dumps(["postgres", server.dsn, fresh_schema()])


async def introduce(store: Any) -> None:
    """Let the schedule be known since the day before, as by a process that ran then."""

    async def recipients(ids: Sequence[str]) -> list[Recipient]:
        return []

    before = NINE - timedelta(days=1) + timedelta(minutes=1)
    types, channels = [NotificationType("news", channels=["lines"])], {"lines": RecordingChannel()}
    dispatcher = Dispatcher(None, store, types, channels, recipients=recipients, clock=lambda: before)
    dispatcher.schedule(Schedule("morning", "news", [], tz="UTC"))
    await dispatcher.tick()


async def test_four_processes_and_one_that_is_killed(place: str, tmp_path: Path) -> None:
    """One of the processes dies by SIGKILL in the middle of a run; four others end it, and no user gets it twice."""
    file = tmp_path / "sent"
    async with open_store(place) as store:
        await introduce(store)
        with processes() as start:
            common = (place, "schedule", file, NINE.isoformat(), 700)
            victim = start(*common, "u00600", 1)
            assert await line(victim) == "ready"
            assert victim.stdin is not None
            victim.stdin.write("go\n")
            victim.stdin.flush()
            assert await line(victim) == "reached"
            victim.kill()  # SIGKILL
            victim.wait()
            heirs = [start(*common, "nobody", 60) for _ in range(4)]
            await asyncio.gather(*map(line, heirs))
            await asyncio.gather(*map(rest, heirs))
    sent = Counter(file.read_text().split())
    assert sent == {f"2027-01-05/u{number:05}": 1 for number in range(700)}
