"""Creates the tables at first use, migrates those of an earlier version, and creates partitions ahead of time."""

from __future__ import annotations

from typing import Any, Final

from notify.errors import UsageError

from ._names import PostgresNames

VERSION: Final = 1
"""Of the schema. A version only adds to the one before, so that processes of both can work side by side."""

SCRIPTS: Final = {1: ("schema_1", "schema_1_save", "schema_1_relay")}
"""The scripts that lead from the version before to this one."""

DAY: Final = 86_400_000 << 20
"""Ids of one day, which is one partition: an id holds its time in milliseconds above 20 bits of sequence."""

DAYS_AHEAD: Final = 2
"""Days whose partitions exist before they begin."""


async def prepare(connection: Any, names: PostgresNames) -> None:
    """Create or migrate the tables, in the connection's current transaction.

    Processes that start at the same time wait for each other at an advisory lock, and the first one does the work.
    Where everything exists already, nothing is changed and no right to change anything is needed.

    Raises:
        UsageError: the tables are of a later version than this library knows.
    """
    if await _version(connection, names) == VERSION and not await missing_partitions(connection, names):
        return
    await connection.fetchval("SELECT pg_advisory_xact_lock($1)", names.lock)
    version = await _version(connection, names)
    if not version and not await connection.fetch("SELECT FROM pg_namespace WHERE nspname = $1", names.schema):
        await connection.execute(names.sql("create_schema"))
    for step in range(version + 1, VERSION + 1):
        for script in SCRIPTS[step]:
            await connection.execute(names.sql(script))
        await connection.execute(names.sql("set_version", version=step))
    for day in await missing_partitions(connection, names):
        await make_partition(connection, names, day)


async def _version(connection: Any, names: PostgresNames) -> int:
    """Return the version of the tables; 0 where there are none."""
    if not await connection.fetch(names.sql("existing"), names.schema, f"{names.prefix}meta"):
        return 0
    version: int = await connection.fetchval(names.sql("get_version"))
    if version > VERSION:
        raise UsageError(
            f"the tables in schema {names.schema!r} are of version {version}, but this library knows only up to "
            f"version {VERSION}: upgrade the library"
        )
    return version


async def missing_partitions(connection: Any, names: PostgresNames) -> list[int]:
    """Return the days, from today to `DAYS_AHEAD`, that have no partition yet."""
    rows = await connection.fetch(names.sql("missing_partitions"), DAYS_AHEAD, names.schema, f"{names.prefix}events_")
    return [row["day"] for row in rows]


async def make_partition(connection: Any, names: PostgresNames, day: int) -> None:
    """Create the partition of one day, without blocking saves.

    Raises:
        asyncpg.CheckViolationError: the default partition already holds events of that day.
    """
    low = day * DAY
    await connection.execute(names.sql("make_partition", partition=f"events_{day}", low=low, high=low + DAY))
