"""What has to exist in the database: looking at it, creating what is missing, and keeping it in order.

There are three degrees, so that nothing demands more than it needs:

| Call | May create | When |
|---|---|---|
| `inspect` | nothing | before the first read |
| `keep` | partitions of coming days, the row of the version | maintenance of a running process |
| `prepare` | schema, tables, functions, and what `keep` does | first save, `async with store`, `store.prepare()` |

Only what a call cannot do without is an error. All else is housekeeping: if it fails, for example because the role does
not own the tables, that is logged once with the reason and the remedy, and the process works.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from notify.adapters import OutageLog
from notify.errors import UsageError

from ._errors import REMEDY, describe
from ._names import INBOX_TABLES, PostgresNames
from ._partitions import DAY, DAYS_AHEAD, LOCK_WAIT, Partition, create_partition, missing_ranges, parse_bound

logger = logging.getLogger("notify.pg")

VERSION: Final = 1
"""Of the layout. What is only added, for example a key or a function, leaves it, so that processes of earlier and later
releases work side by side, and a release can be rolled back. Processes refuse tables with a higher version."""

SCRIPTS: Final = (
    "create_schema",
    "schema_1",
    "schema_1_save",
    "schema_1_relay",
    "schema_1_inbox",
    "schema_1_inbox_rows",
    "schema_1_inbox_marks",
    "schema_1_inbox_counts",
    "schema_1_inbox_page",
    "schema_1_inbox_logs",
    "schema_1_inbox_save",
    "schema_1_inbox_sweep",
)
"""The scripts that create what is missing, and bring what an earlier release created up to date."""

STORE_TABLES: Final = ("meta", "heads", "events", "events_default", "keys", "nonces", "outbox")
PRESENCE_TABLES: Final = ("trackers", "presence")
STORE_FUNCTIONS: Final = ("save_1", "relay_1")
"""What a store, or presence, cannot work without. What a later release adds it can, until that is created."""


@dataclass
class Findings:
    """What exists.

    Attributes:
        today: the number of the current day, by the server's clock.
        tables: our tables without their prefix, and whether this role owns each.
        filtered: those of which row level security hides rows from this role.
        unreadable: those that this role may not read.
        functions: our functions without their prefix.
        partitions: of the events.
        has_key: whether the table of the version has its key.
        version: in that table; 0 where it is empty.
    """

    today: int = 0
    tables: dict[str, bool] = field(default_factory=dict)
    filtered: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    partitions: list[Partition] = field(default_factory=list)
    has_key: bool = False
    version: int = VERSION

    def missing(self, names: PostgresNames) -> list[str]:
        """Return the tables and functions that are missing."""
        found = {*self.tables, *self.functions}
        return [name for name in (*names.tables, *names.functions) if name.removeprefix(names.prefix) not in found]

    @property
    def owns_events(self) -> bool:
        """Whether this role may change the partitions."""
        return self.tables.get("events", False)


class PostgresSchema:
    """The tables and functions of one schema and prefix, as far as one part of the library needs them.

    Args:
        names: what they are called.
        tables: those that the part reads; none if it needs no tables.
    """

    def __init__(self, names: PostgresNames, tables: Sequence[str]) -> None:
        self._names = names
        self._tables = tables
        events = f"{names.schema}.{names.prefix}events"
        self._incomplete = OutageLog(
            logger,
            f"partitions of {events} are missing, so events of these days go into its default partition",
            f"no partition of {events} is missing any longer",
        )
        self._outdated = OutageLog(
            logger,
            f"the tables in schema {names.schema} could not be brought up to date, and work as they are",
            f"the tables in schema {names.schema} are up to date",
        )

    async def inspect(self, connection: Any) -> bool:
        """Return whether the tables exist, without creating anything.

        Raises:
            UsageError: they cannot be used: row level security hides rows, or they are of a later version.
        """
        return not self._tables or await self._look(connection) is not None

    async def keep(self, connection: Any) -> None:
        """Do the housekeeping, in the connection's current transaction; what fails is logged and left for later.

        Raises:
            UsageError: as `inspect`.
        """
        await self._keep(connection, await self._look(connection))

    async def prepare(self, connection: Any) -> bool:
        """Create what is missing, in the connection's current transaction, and do the housekeeping; return True.

        Processes that start at the same time wait for each other at an advisory lock, and the first one does the work.
        Where everything exists already, nothing is changed and no right to change anything is needed.

        Raises:
            UsageError: as `inspect`.
            asyncpg.PostgresError: this role may not create what is missing; the text names the remedy.
        """
        found = await self._look(connection)
        is_outdated = self._is_outdated(found)
        if is_outdated:
            await self._lock(connection)
            found = await self._look(connection)
            if self._is_outdated(found):
                await self._create(connection, found)
                found = await self._look(connection)
        await self._keep(connection, found, is_locked=is_outdated)
        return True

    async def _lock(self, connection: Any) -> None:
        """Wait for other processes that change the schema, however short the timeouts of the role are."""
        await connection.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        await connection.fetchval("SELECT pg_advisory_xact_lock($1)", self._names.lock)

    def _is_outdated(self, found: Findings | None) -> bool:
        return found is None or bool(found.missing(self._names)) or not found.has_key or 0 < found.version < VERSION

    def script(self) -> str:
        """Return what creates all this in an empty database, as a file for `psql`; it may be run again."""
        values = {"version": VERSION, "day": DAY, "days_ahead": DAYS_AHEAD}
        parts = [self._names.sql(name, **values) for name in (*SCRIPTS, "set_version", "script_partitions")]
        body = "\n".join(part.rstrip("\n;") + ";\n" for part in parts)
        return (
            f"-- Creates the tables of notify in schema {self._names.schema}; may be run again. A role that only uses\n"
            "-- them needs USAGE on the schema, and SELECT, INSERT, UPDATE and DELETE on the tables.\n"
            "BEGIN;\nSET LOCAL client_min_messages = warning;\nSET LOCAL standard_conforming_strings = on;\n"
            f"SELECT pg_advisory_xact_lock({self._names.lock});\n\n"
            f"{body}\nCOMMIT;\n"
        )

    # -- looking -------------------------------------------------------------------------------------------------

    async def _look(self, connection: Any) -> Findings | None:
        """Return what exists; None if no table does. Raises as `inspect`."""
        names = self._names
        rows = await connection.fetch(
            names.sql("inspect"), names.schema, names.tables, names.functions, f"{names.prefix}events"
        )
        found = Findings()
        for row in rows:
            self._note(found, row)
        if not found.tables.keys() & {*self._tables}:
            return None
        await self._check(connection, found)
        return found

    def _note(self, found: Findings, row: Any) -> None:
        name = (row["name"] or "").removeprefix(self._names.prefix)
        if row["kind"] == "today":
            found.today = int(row["name"])
        elif row["kind"] == "key":
            found.has_key = found.has_key or name == "meta"
        elif row["kind"] == "function":
            found.functions.append(name)
        elif row["kind"] == "partition":
            low, high = parse_bound(row["bound"] or "") or (None, None)
            found.partitions.append(Partition(name, low, high, row["pages"] or 0, row["is_owned"]))
        else:
            found.tables[name] = row["is_owned"]
            needed = (*self._tables, *(INBOX_TABLES if "heads" in self._tables else ()))
            if row["is_filtered"] and name in needed and name != "events_default":  # read by way of the events
                found.filtered.append(name)
            if not row["is_readable"]:
                found.unreadable.append(name)

    async def _check(self, connection: Any, found: Findings) -> None:
        """Raise UsageError where reading these tables would give wrong answers."""
        if found.filtered:
            tables = ", ".join(f"{self._names.schema}.{self._names.prefix}{name}" for name in sorted(found.filtered))
            role = await connection.fetchval("SELECT current_user")
            raise UsageError(
                f"row level security hides rows of {tables} from the role {role!r}, so logs or inboxes would look "
                f"empty. Let the role own the tables, or ALTER ROLE {role} BYPASSRLS, "
                "or ALTER TABLE ... DISABLE ROW LEVEL SECURITY"
            )
        if "meta" not in found.tables or "meta" in found.unreadable or "meta" not in self._tables:
            return
        found.version = await connection.fetchval(self._names.sql("get_version")) or 0
        if found.version > VERSION:
            raise UsageError(
                f"the tables in schema {self._names.schema!r} are of version {found.version}, but this library knows "
                f"only up to version {VERSION}: upgrade the library"
            )

    # -- creating ------------------------------------------------------------------------------------------------

    async def _create(self, connection: Any, found: Findings | None) -> None:
        """Create what is missing. What the library can do without is left, with a log line."""
        names = self._names
        lacking = [] if found is None else found.missing(names)
        lost = [name for name in ("heads", "events") if found is not None and f"{names.prefix}{name}" in lacking]
        if lost and "heads" in self._tables:
            raise UsageError(
                f"{names.prefix}{lost[0]} is missing in schema {names.schema!r}, but other tables of that prefix "
                "exist: restore it, or drop them all"
            )
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL standard_conforming_strings = on")  # before it reads the scripts
                scripts = [names.sql(script, version=VERSION) for script in (*SCRIPTS, "set_version")]
                await connection.execute(";\n".join([LOCK_WAIT, *scripts]))
        except asyncpg.PostgresError as error:
            needed = [*self._tables, *(STORE_FUNCTIONS if "heads" in self._tables else ())]
            if found is None or {f"{names.prefix}{name}" for name in needed} & {*lacking}:
                what = "the tables" if found is None else ", ".join(lacking)
                reason = f"{describe(error).partition(': ')[2]}; {what} cannot be created in schema {names.schema!r}"
                raise type(error)(f"{reason}: {REMEDY}") from error  # its class says what became of the statement
            reason = f"{', '.join(lacking)} cannot be created" if lacking else f"{names.prefix}meta is as it was"
            self._outdated.failed(f"{reason}: {describe(error)}; {REMEDY}")
        else:
            self._outdated.recovered()

    # -- housekeeping --------------------------------------------------------------------------------------------

    async def _keep(self, connection: Any, found: Findings | None, *, is_locked: bool = False) -> None:
        if found is None or "meta" not in self._tables:
            return
        if not found.version:
            try:
                async with connection.transaction():
                    await connection.execute(self._names.sql("set_version", version=VERSION))
            except asyncpg.PostgresError as error:
                self._outdated.failed(f"{self._names.prefix}meta holds no version: {describe(error)}; {REMEDY}")
        missing = missing_ranges(found.today, found.partitions)
        reasons = []
        if missing and not found.owns_events:
            reasons = ["this role does not own the table: run `notify init` as its owner, every day"] * len(missing)
        elif missing:
            present = found.partitions
            if not is_locked:
                await self._lock(connection)
                present = (await self._look(connection) or found).partitions  # another process may have created them
            for low, high in missing_ranges(found.today, present):
                reasons.append(await self._create_partition(connection, low, high))
        reasons = [reason for reason in reasons if reason]
        if reasons:
            self._incomplete.failed(f"{len(reasons)} of the next {DAYS_AHEAD + 1} days: {reasons[0]}")
        else:
            self._incomplete.recovered()

    async def _create_partition(self, connection: Any, low: int, high: int) -> str:
        """Create one partition, unless another process is doing so; return why it could not be created."""
        try:
            async with connection.transaction():
                await create_partition(connection, self._names, low, high)
        except asyncpg.CheckViolationError:
            return "the default partition already holds events of that time; maintenance moves them"
        except asyncpg.PostgresError as error:
            return describe(error)
        return ""
