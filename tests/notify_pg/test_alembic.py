"""The recipe for Alembic on the page of PostgreSQL, with Alembic itself: `--autogenerate` leaves our tables alone."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, Table, Text
from sqlalchemy.ext.asyncio import create_async_engine

from notify import Event
from notify_pg import PostgresPresence, PostgresStore
from tests.servers.postgres import Server, fresh_schema

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "backends" / "postgres.md"


def recipe() -> Callable[..., bool]:
    """The function of the page, as an application copies it."""
    (code,) = re.findall(r"```python\n(def include_name.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    function: Callable[..., bool] = names["include_name"]
    return function


@pytest.fixture
async def database(postgres: Server) -> AsyncIterator[str]:
    """A database of one test alone."""
    name = fresh_schema()
    sql = await asyncpg.connect(postgres.dsn)
    await sql.execute(f"CREATE DATABASE {name}")
    yield postgres.dsn.removesuffix("/postgres") + f"/{name}"
    await sql.execute(f"DROP DATABASE {name} (FORCE)")
    await sql.close()


async def operations(dsn: str, **options: Any) -> list[str]:
    """What `alembic revision --autogenerate` would do, where the application has one new table and one it removed."""
    metadata = MetaData()
    Table("comments", metadata, Column("id", Integer, primary_key=True), Column("text", Text))
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.connect() as connection:
        found = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts=options), metadata)
        )
    await engine.dispose()
    return sorted(f"{operation[0]} {operation[1].name}" for operation in found)


@pytest.mark.parametrize(
    "place", [{"schema": "notify"}, {}, {"table_prefix": "notify_b_"}], ids=["schema", "public", "prefix"]
)
@pytest.mark.parametrize("include_schemas", [False, True])
async def test_autogenerate_leaves_our_tables_alone(
    database: str, place: dict[str, str], include_schemas: bool
) -> None:
    """The application's own changes are found, and no operation names one of our tables or indexes."""
    async with PostgresStore(database, **place) as store, PostgresPresence(database, **place) as presence:
        await store.save(Event("alice", "n", key="k"))
        await presence.register("alice")
        sql = await asyncpg.connect(database)
        await sql.execute("CREATE TABLE leftover (id integer PRIMARY KEY)")
        await sql.close()
        ours = ["add_table comments", "remove_table leftover"]
        assert await operations(database, include_name=recipe(), include_schemas=include_schemas) == ours
        if "schema" not in place or include_schemas:  # without the recipe it would drop the logs
            assert "remove_table notify_heads" in [
                name.replace("notify_b_", "notify_")
                for name in await operations(database, include_schemas=include_schemas)
            ]
        else:  # in a schema of their own, which Alembic does not look at, nothing is needed
            assert await operations(database) == ours
