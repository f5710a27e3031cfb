"""The tables and functions of a store of deliveries: they exist only where one is used, and have their own version."""

from __future__ import annotations

import logging
import re
import time
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from notify.adapters import OutageLog
from notify.errors import UsageError

from ._errors import REMEDY, describe
from ._names import DISPATCH_FUNCTIONS, DISPATCH_INDEXES, DISPATCH_TABLES, PostgresNames

logger = logging.getLogger("notify.pg")

VERSION: Final = 1
"""Of the layout. What is only added leaves it. Processes refuse tables with a higher version."""

SCRIPTS: Final = (
    "create_schema",
    "dispatch_1",
    "dispatch_1_digests",
    "dispatch_1_deliveries",
    "dispatch_1_caps",
    "dispatch_1_forget",
    "set_dispatch_version",
)
"""What creates them; may be run again."""

_INDEX: Final = re.compile(r'^CREATE (?:UNIQUE )?INDEX IF NOT EXISTS "(\w+)" [^;]+', re.MULTILINE)

INDEX_TIME: Final = 1.0
"""The most seconds that adding indexes to tables in use may take. Writers to these tables are blocked for that time."""


class PostgresDispatchSchema:
    """Looks at the tables and functions, and creates what is missing; has the methods of `PostgresSchema`.

    Args:
        names: what they are called.
        timeout: seconds that a call of the store may take; adding indexes takes a quarter of it at most.
    """

    def __init__(self, names: PostgresNames, timeout: float) -> None:
        self._names = names
        self._index_time = min(INDEX_TIME, timeout / 4)
        self._tables = [f"{names.prefix}{name}" for name in DISPATCH_TABLES]
        self._functions = [f"{names.prefix}{name}" for name in DISPATCH_FUNCTIONS.values()]
        self._indexes = [f"{names.prefix}{name}" for name in DISPATCH_INDEXES.values()]
        self._outdated = OutageLog(
            logger,
            f"indexes of the tables of deliveries in schema {names.schema} are missing, and calls may be slow",
            f"the tables of deliveries in schema {names.schema} have all their indexes",
        )
        self._unusable = OutageLog(
            logger,
            f"indexes of the tables of deliveries in schema {names.schema} are not valid, and calls may be slow",
            f"the indexes of the tables of deliveries in schema {names.schema} are valid",
        )

    async def inspect(self, connection: Any) -> bool:
        """Return whether all tables and functions exist; create nothing. Without indexes, calls are only slower.

        Raises:
            UsageError: the tables cannot be used: row level security hides rows, or they are of a later version.
        """
        return not await self._missing(connection)

    async def keep(self, connection: Any) -> None:
        """Do nothing: these tables need no housekeeping."""

    async def prepare(self, connection: Any) -> bool:
        """Create what is missing, in the connection's current transaction; return True.

        If only indexes are missing and cannot be created, or not in time, a warning is logged and the process works
        without them.

        Raises:
            UsageError: as `inspect`.
            asyncpg.PostgresError: this role may not create it; the text names the remedy.
        """
        if await self._missing(connection):
            await connection.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
            await connection.fetchval("SELECT pg_advisory_xact_lock($1)", self._names.lock)
            if missing := await self._missing(connection):
                await self._create(connection, missing)
        elif not await self._missing_indexes(connection):
            self._outdated.recovered()
        elif await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", self._names.lock):
            await self._add_indexes(connection, await self._missing_indexes(connection))
        # else another process adds them
        return True

    def script(self) -> str:
        """Return what creates all this in an empty database, as a file for `psql`; it may be run again."""
        names = self._names
        body = "\n".join(names.sql(name, version=VERSION).rstrip("\n;") + ";\n" for name in SCRIPTS)
        return (
            f"-- Creates the tables of deliveries in schema {names.schema}; may be run again. A role that only\n"
            "-- uses them needs USAGE on the schema, and SELECT, INSERT, UPDATE and DELETE on the tables.\n"
            "BEGIN;\nSET LOCAL client_min_messages = warning;\nSET LOCAL standard_conforming_strings = on;\n"
            f"SELECT pg_advisory_xact_lock({names.lock});\n\n{body}\nCOMMIT;\n"
        )

    async def _missing(self, connection: Any) -> list[str]:
        """Return the tables and functions that do not exist. Raises as `inspect`."""
        names = self._names
        rows = await connection.fetch(names.sql("inspect"), names.schema, self._tables, self._functions, "")
        found = {row["name"] for row in rows if row["kind"] in ("table", "function")}
        filtered = sorted(row["name"] for row in rows if row["kind"] == "table" and row["is_filtered"])
        if filtered:
            role = await connection.fetchval("SELECT current_user")
            raise UsageError(
                f"row level security hides rows of {', '.join(filtered)} from the role {role!r}, so deliveries would "
                f"be overlooked. Let the role own the tables, or ALTER ROLE {role} BYPASSRLS"
            )
        missing = [name for name in (*self._tables, *self._functions) if name not in found]
        if self._tables[0] in found:
            version = await connection.fetchval(f"SELECT max(version) FROM {names.table('dispatch_meta')}")
            if (version or 0) > VERSION:
                raise UsageError(
                    f"the tables of deliveries in schema {names.schema!r} are of version {version}, but this library "
                    f"knows only up to version {VERSION}: upgrade the library"
                )
        return missing

    async def _missing_indexes(self, connection: Any) -> list[str]:
        """Return the indexes that do not exist: a later release may have added them, or they were dropped.

        An invalid one is logged and left alone, since only its owner knows whether it is still being built.
        """
        query = self._names.sql("dispatch_indexes")
        found = {
            row["name"]: row["is_valid"] for row in await connection.fetch(query, self._names.schema, self._indexes)
        }
        invalid = [name for name in self._indexes if found.get(name) is False]
        if invalid:
            self._unusable.failed(
                f"{', '.join(invalid)}; drop and recreate them, unless CREATE INDEX CONCURRENTLY is still running"
            )
        else:
            self._unusable.recovered()
        return [name for name in self._indexes if name not in found]

    async def _add_indexes(self, connection: Any, missing: list[str]) -> None:
        """Add indexes to tables that may be large and in use; log those that could not be added in time."""
        until = time.monotonic() + self._index_time
        try:
            for statement, name in ((each[0], each[1]) for each in _INDEX.finditer(self._names.sql("dispatch_1"))):
                if name in missing:
                    left = max(1, round(1000 * (until - time.monotonic())))
                    async with connection.transaction():  # keeps this index even if the next one takes too long
                        await connection.execute(
                            f"SET LOCAL statement_timeout = {left};\n{statement};\nSET LOCAL statement_timeout = 0"
                        )
        except asyncpg.PostgresError as error:
            remedy = "let the owner of the tables run the output of `notify init --dispatch --print-sql`"
            left_out = ", ".join(await self._missing_indexes(connection))
            self._outdated.failed(f"{left_out}: {describe(error)}; {remedy}")
        else:
            self._outdated.recovered()

    async def _create(self, connection: Any, missing: list[str]) -> None:
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL standard_conforming_strings = on")
                scripts = [self._names.sql(script, version=VERSION) for script in SCRIPTS]
                await connection.execute("SET LOCAL client_min_messages = warning;\n" + ";\n".join(scripts))
        except asyncpg.PostgresError as error:
            reason = f"{describe(error).partition(': ')[2]}; {', '.join(missing)} cannot be created"
            raise type(error)(f"{reason} in schema {self._names.schema!r}: {REMEDY}") from error
