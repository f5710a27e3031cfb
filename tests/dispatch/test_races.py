"""Dispatchers in four processes at once: a cap admits exactly its limit, and a key stores one notification."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.forks import Fork
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import Server as RedisServer
from tests.servers.redis import single

from .dispatching import line, open_store, rest
from .racing import LIMIT, racers

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

on_sql = pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0).isoformat()
"""When the processes race, by the clock of their dispatchers, so that no day ends during a test."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A Redis for counts."""
    with single() as server:
        yield server


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the store is, as `open_store` takes it."""
    if request.param == "sqlite":
        return json.dumps(["sqlite", str(tmp_path / "dispatch.db")])
    if request.param == "memory":
        return json.dumps(["memory"])
    server: Server = request.getfixturevalue("postgres")
    return json.dumps(["postgres", server.dsn, fresh_schema()])


def sent_by(file: Path) -> list[list[str]]:
    return [text.split() for text in file.read_text().splitlines()]


async def create(place: str) -> None:
    """Create the tables, which is no part of a race."""
    async with open_store(place) as store:
        await store.stuck([], limit=1)


async def race(start: Any, role: str, *each: dict[str, Any]) -> list[str]:
    """Let processes begin at the same time; return what they say, all together."""
    found = [start(role, **settings) for settings in each]
    assert await asyncio.gather(*map(line, found)) == ["ready"] * len(found)
    said = await asyncio.gather(*map(rest, found))
    return [text for lines in said for text in lines]


@pytest.mark.parametrize(
    ("place", "counts"),
    [("sqlite", ""), ("postgres", ""), ("memory", "redis"), ("postgres", "redis")],
    indirect=["place"],
    ids=["sqlite", "postgres", "memory and redis", "postgres and redis"],
)
async def test_a_cap_that_four_dispatchers_race_for(
    place: str, counts: str, tmp_path: Path, redis: RedisServer
) -> None:
    """Of 50 submissions exactly as many are sent as the cap allows, each over all its channels; the others are not."""
    caps = json.dumps(["redis", redis.url, fresh_schema()]) if counts else None
    await create(place)
    settings: dict[str, Any] = {"store": place, "caps": caps, "noon": NOON, "sent": str(tmp_path / "sent")}
    with racers() as start:
        bounds = [(first, min(first + 13, 50)) for first in range(0, 50, 13)]
        said = await race(start, "caps", *(settings | {"first": first, "last": last} for first, last in bounds))
    sent = sent_by(tmp_path / "sent")
    assert Counter((channel, type) for channel, type, _, _ in sent) == {
        ("post", "over"): LIMIT,
        ("wire", "over"): LIMIT,
        ("post", "held"): LIMIT,
    }
    assert len({name for _, type, name, _ in sent if type == "over"}) == LIMIT  # none was sent by half
    assert Counter(text for text in said if text.split()[0] == "became") == {
        "became post ACCEPTED none": 2 * LIMIT,
        "became wire ACCEPTED none": LIMIT,
        "became post SKIPPED cap_day": 50 - LIMIT,
        "became wire SKIPPED cap_day": 50 - LIMIT,
        "became post WAITING cap_day": 50 - LIMIT,
    }


def tickets(said: list[str]) -> tuple[set[str], int]:
    """Return the ids of tickets that processes were given, and how many of those were not of a repetition."""
    found = [text.split() for text in said if text.startswith("ticket")]
    assert len(found) >= 9
    return {id for _, id, _ in found}, sum(replayed == "False" for *_, replayed in found)


@on_sql
@pytest.mark.parametrize("role", ["submit", "submit_many"])
async def test_a_key_that_four_dispatchers_submit(place: str, role: str, tmp_path: Path) -> None:
    """All of them get the ticket of one notification, of which each recipient gets one message."""
    await create(place)
    settings: dict[str, Any] = {"store": place, "noon": NOON, "sent": str(tmp_path / "sent"), "users": 40}
    with racers() as start:
        said = await race(start, role, *[settings] * 4)
    (id,), first = tickets(said)
    assert first == 1
    users = ["alice"] if role == "submit" else [f"u{number:04}" for number in range(40)]
    assert sorted(sent_by(tmp_path / "sent")) == [["post", "plain", id, user] for user in users]


@pytest.fixture
async def orders(postgres: Server) -> str:
    """A schema with a table of the application's own."""
    schema = fresh_schema()
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.orders (process int)")
    await connection.close()
    return schema


async def orders_of(server: Server, schema: str) -> list[int]:
    connection = await asyncpg.connect(server.dsn)
    try:
        return [process for (process,) in await connection.fetch(f"SELECT process FROM {schema}.orders")]
    finally:
        await connection.close()


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
@pytest.mark.parametrize("kill", [False, True])
async def test_a_key_in_transactions_of_four_applications(
    place: str, kill: bool, tmp_path: Path, postgres: Server, orders: str
) -> None:
    """The first transaction that is committed has it; one whose process is killed before that has done nothing."""
    await create(place)
    settings: dict[str, Any] = {"store": place, "noon": NOON, "sent": str(tmp_path / "sent")}
    settings["dsn"] = f"{postgres.dsn}?search_path={orders}"
    victim: Fork | None = None
    with racers() as start:
        if kill:
            victim = await halted(start, "submit_in_a_transaction", settings | {"halt": "within"})
        others = asyncio.ensure_future(race(start, "submit_in_a_transaction", *[settings] * 3))
        if victim is not None:
            await until_waiting(postgres, 9)
            victim.kill()  # SIGKILL
            await asyncio.to_thread(victim.wait)
        said = await others
    (id,), first = tickets(said)
    assert first == 1
    assert sent_by(tmp_path / "sent") == [["post", "plain", id, "alice"]]
    found = await orders_of(postgres, orders)
    assert len(found) == 9
    assert victim is None or victim.pid not in found


async def until_waiting(server: Server, count: int) -> None:
    """Return once so many transactions wait for another one that has the key."""
    connection = await asyncpg.connect(server.dsn)
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND state = 'active' "
        "AND pid != pg_backend_pid()"
    )
    try:
        async with asyncio.timeout(60):
            while await connection.fetchval(query) < count:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


async def halted(start: Any, role: str, settings: dict[str, Any]) -> Fork:
    """Return a process that has reached the step at which it halts."""
    process: Fork = start(role, **settings)
    assert await line(process) == "ready"
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert await line(process) == "reached"
    return process


@on_sql
@pytest.mark.parametrize(
    ("role", "step"), [("submit", "before"), ("submit", "within"), ("submit", "after"), ("submit_many", "between")]
)
async def test_a_submitter_that_is_killed(
    place: str, role: str, step: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whatever a process that dies by SIGKILL has stored, others that submit the same end it; nothing is doubled."""
    if step == "within" and "postgres" in place:
        step = "after"  # one statement; `test_a_key_in_transactions_of_four_applications` is about halves of one
    await create(place)
    settings: dict[str, Any] = {"store": place, "noon": NOON, "sent": str(tmp_path / "sent"), "users": 40}
    with racers() as start:
        victim = await halted(start, role, settings | {"halt": step})
        others = asyncio.ensure_future(race(start, role, *[settings] * 3))
        victim.kill()  # SIGKILL
        await asyncio.to_thread(victim.wait)
        said = await others
    (id,), first = tickets(said)
    assert first == (1 if step in ("before", "within") else 0)
    users = ["alice"] if role == "submit" else [f"u{number:04}" for number in range(40)]
    assert sorted(sent_by(tmp_path / "sent")) == [["post", "plain", id, user] for user in users]
