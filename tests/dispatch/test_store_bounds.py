"""What stores of deliveries read and keep stays bounded, however long they have been used."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest

from notify.dispatch.abc import CapWindow, Move, State
from notify.testing.dispatch import VirtualClock
from notify_pg import PostgresDispatchStore
from tests.dispatch.dispatching import submit
from tests.dispatch.stores import NAMES, opened
from tests.dispatch.world import START
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


@pytest.mark.parametrize("name", NAMES)
async def test_gates_that_have_opened_are_removed(name: str, postgres: Server, tmp_path: Path) -> None:
    """A gate has the name of a host that users may have chosen, so there may be any number of them."""
    old, new = (START + timedelta(seconds=each) for each in (10, 60))
    async with opened(name, VirtualClock(START), tmp_path, postgres.dsn, fresh_schema()) as store:
        await store.close_gate("old", old)
        await store.close_gate("new", new)
        await store.purge(START + timedelta(seconds=30))
        assert await store.gates(START) == {"new": new}


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_old_is_removed_in_steps(
    name: str, postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many recipients, gates and counts there are, no transaction removes more than so many of them."""
    monkeypatch.setattr("notify_pg._dispatch.PURGED", 2)
    monkeypatch.setattr("notify_sqlite._dispatch.MAX_ROWS", 2)
    clock, later = VirtualClock(START), START + timedelta(days=9)
    windows = [[CapWindow(f"{user}/*/{day}", 1, START + day * timedelta(days=1))] for user in "abc" for day in (1, 30)]
    async with opened(name, clock, tmp_path, postgres.dsn, fresh_schema()) as store:
        await submit(store, "n", 5)
        await store.cancel("n", START)
        for number, each in enumerate(windows):
            assert await store.admit(f"n{number}", "alice", each, START) == -1
            await store.close_gate(f"g{number}", START + timedelta(seconds=1))
        clock.advance("2d")
        assert await store.purge(later) == 1
        assert await store.record("n", "user0") is None
        assert await store.gates(START) == {}
        found = [await store.admit(f"m{number}", "alice", each, later) for number, each in enumerate(windows)]
        assert found == [-1, 0] * 3


async def test_a_change_of_preferences_reads_what_waits_for_the_user(postgres: Server) -> None:
    """What has been skipped, collected or refused lately, of all users, is not read through."""
    schema = fresh_schema()
    async with PostgresDispatchStore(postgres.dsn, schema=schema) as store:
        statement = store._names.sql("dispatch_hurry_user")
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(
        f"INSERT INTO {schema}.notify_deliveries (id, notification_id, user_id, channel, endpoint, state, priority, "
        "after_channel, delay, fence, attempts, reason, provider_id, updated_at) "
        "SELECT n::text, n::text, 'bob', 'email', '', 23, 1, '', 0, 1, 0, '', '', 0 FROM generate_series(1, 20000) AS n"
    )
    await connection.execute("SET plan_cache_mode = force_generic_plan")  # as the store's own sessions do
    await connection.execute(f"PREPARE hurry AS {statement}")
    found = await connection.fetchval("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE hurry(1, 'alice', NULL)")
    await connection.close()
    plan = json.loads(found)[0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 50


@pytest.mark.parametrize(
    ("name", "module", "limit"), [("sqlite", "notify_sqlite", "MAX_ROWS"), ("postgres", "notify_pg", "HURRIED")]
)
async def test_releasing_a_channel_that_still_fails_ends(
    name: str, module: str, limit: str, postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever workers park again, or postpone, between two steps: it is not released without end."""
    at, count, most, rounds = START + timedelta(days=1), 150, 20, 0
    async with opened(name, VirtualClock(START), tmp_path, postgres.dsn, fresh_schema()) as store:
        await submit(store, "n", count)

        async def fail(limit: int = 10) -> None:
            nonlocal rounds
            rounds += 1
            claims = await store.claim(at, lease=60.0, limit=limit) if rounds < most else []
            later = {"to": State.WAITING, "due_at": at + timedelta(hours=1)}
            moves = [{"to": State.PARKED} if number % 2 else later for number in range(len(claims))]
            await store.advance(
                [Move(each.delivery.id, each.delivery.fence, **move) for each, move in zip(claims, moves, strict=True)],
                at,
            )

        await fail(count)
        between = SimpleNamespace(checkpoint=fail)
        monkeypatch.setattr(f"{module}._dispatch.anyio", SimpleNamespace(lowlevel=between))
        monkeypatch.setattr(f"{module}._dispatch.{limit}", 60)
        assert count <= await store.hurry(at, channel="log") < count + 5 * 10
        assert rounds < most
