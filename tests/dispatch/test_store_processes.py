"""Real processes on one store of deliveries: workers that share it, workers that are killed, caps that all ask."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from notify.dispatch.abc import State
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import single

from .dispatching import OPEN, line, open_store, processes, rest, submit

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

on_sql = pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
everywhere = pytest.mark.parametrize("place", ["sqlite", "postgres", "redis"], indirect=True)

STEPS = ("claimed", "begun", "sent", "finished")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store is, as `open_store` takes it."""
    if request.param == "sqlite":
        yield json.dumps(["sqlite", str(tmp_path / "dispatch.db")])
    elif request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        yield json.dumps(["postgres", server.dsn, fresh_schema()])
    else:
        with single() as redis:
            yield json.dumps(["redis", redis.url, "caps"])


def sent_by(file: Path) -> Counter[str]:
    return Counter(file.read_text().split()) if file.exists() else Counter()


async def states(store: Any) -> dict[str, State]:
    return {row.id: row.state for row in await store.stuck([*State], limit=10_000)}


@on_sql
async def test_four_processes_share_a_store(place: str, tmp_path: Path) -> None:
    """Each delivery is claimed by one of four processes, once, and is sent once."""
    file = tmp_path / "sent"
    async with open_store(place) as store:
        ids = await submit(store, "n", 120)
        with processes() as start:
            workers = [start(place, "work", file, 60, 5) for _ in range(4)]
            await asyncio.gather(*map(line, workers))
            said = await asyncio.gather(*map(rest, workers))
        assert await states(store) == dict.fromkeys(ids, State.ACCEPTED)
    claims = Counter(text for each in said for text in each)
    assert claims == {f"claimed {id} 1": 1 for id in ids}
    assert sent_by(file) == dict.fromkeys(ids, 1)


@on_sql
async def test_workers_that_are_killed(place: str, tmp_path: Path) -> None:
    """Workers die by SIGKILL at each step: nothing is lost or sent twice; only what had begun is unknown."""
    file = tmp_path / "sent"
    async with open_store(place) as store:
        ids = await submit(store, "n", 12)
        reached: dict[str, str] = {}
        with processes() as start:
            for step in STEPS:
                victim = start(place, "work", file, 2, 1, step)
                assert await line(victim) == "ready"
                victim.stdin.write("go\n")
                victim.stdin.flush()
                while not (text := await line(victim)).startswith("reached"):
                    assert text.startswith("claimed")
                reached[step] = text.split()[1]
                victim.kill()  # SIGKILL
                victim.wait()
            assert len({*reached.values()}) == len(STEPS)  # a lease that ends makes it due after all others
            heirs = [start(place, "work", file, 60, 5) for _ in range(2)]
            await asyncio.gather(*map(line, heirs))
            await asyncio.gather(*map(rest, heirs))
        found = await states(store)
        assert await store.stuck(OPEN) == []
        unknown = {id for id, state in found.items() if state is State.UNKNOWN}
        assert unknown == {reached["begun"], reached["sent"]}
        assert {*found} == {*ids}
        assert {id for id, state in found.items() if state is State.ACCEPTED} == {*ids} - unknown
        assert sent_by(file) == dict.fromkeys({*ids} - {reached["begun"]}, 1)
        attempts = [await store.record("n", f"user{number}") for number in range(12)]
        assert (
            sorted(attempt.state for each in attempts for attempt in each[3])
            == [State.ACCEPTED] * 10 + [State.UNKNOWN] * 2
        )


@everywhere
async def test_a_cap_that_four_processes_ask(place: str) -> None:
    """Of 50 notifications that four processes ask about at the same time, exactly as many are admitted as allowed."""
    async with open_store(place):  # makes the tables
        pass
    with processes() as start:
        askers = [start(place, "count", first, min(first + 13, 50), 7) for first in range(0, 50, 13)]
        await asyncio.gather(*map(line, askers))
        said = await asyncio.gather(*map(rest, askers))
    admitted = [text for each in said for text in each]
    assert len({*admitted}) == len(admitted) == 7


@on_sql
async def test_digests_that_four_processes_join(place: str) -> None:
    """Of 600 notifications and 200 repeats each is in one digest; each digest has one delivery, and none is empty."""
    async with open_store(place) as store:
        with processes() as start:
            joiners = [start(place, "collect", number, 4) for number in range(4)]
            await asyncio.gather(*map(line, joiners))
            await asyncio.gather(*map(rest, joiners))
        end = datetime(2027, 1, 6, tzinfo=UTC)
        await store.close_digests(end, limit=500)
        assert await store.close_digests(end) == 0
        claims = await store.claim(end, lease=600, limit=500)
        found = [await store.digest_items(claim.notification.id) for claim in claims]
    assert len({claim.notification.id for claim in claims}) == len(claims)
    assert all(1 <= len(items) <= 20 for items in found)
    assert Counter(item.notification.id for items in found for item in items) == {f"n{n}": 1 for n in range(600)}
