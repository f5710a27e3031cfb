"""Maintains the tables: drops partitions past `max_age`, empties the default one, and removes rows that expired.

Events live in daily partitions by id, so a day past `max_age` is dropped whole: nothing has to be searched, and nothing
is left for vacuum. One process at a time does the work, the first one after each interval: the time of the last run is
stored in the database. A role that does not own the tables leaves its turn to one that does, if there is one; otherwise
it removes the events row by row.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg  # type: ignore[import-untyped]

from notify import NotifyError
from notify.adapters import OutageLog

from ._connection import PostgresDatabase
from ._errors import PostgresDisposition, describe, disposition_of, unavailable
from ._names import USER_TABLES
from ._partitions import (
    DAY,
    DAYS_AHEAD,
    LOCK_WAIT,
    MAX_MOVED,
    PIECE,
    Partition,
    move_partition,
    parse_bound,
    pieces,
    uncovered,
)
from ._pool import Connection

logger = logging.getLogger("notify.pg")

SWEEP: Final = 60.0
"""Seconds between removals of rows that are needed for minutes only."""

MAINTENANCE: Final = 900.0
"""Seconds between runs that look at partitions, heads and keys."""

MAX_AHEAD: Final = 1000
"""Milliseconds that the last id of a user may be ahead of the clock, for a new log to wait for its time."""

ATTEMPTS: Final = 5
RETRY_AFTER: Final = 0.5
"""Attempts to get the lock under which events are moved, and seconds between them: pushes take turns with it."""

PAGES: Final = 1000
"""Pages of a table from which one statement removes rows: 8 MB."""


class PostgresMaintenance:
    """Removes events, keys and heads that expired.

    Args:
        db: the database.
        max_age_ms: milliseconds that events are kept.
        key_window_ms: milliseconds that keys are kept.
    """

    def __init__(self, db: PostgresDatabase, max_age_ms: int, key_window_ms: int) -> None:
        self._db = db
        self._max_age_ms = max_age_ms
        self._key_window_ms = key_window_ms
        self._reason = ""  # why the latest change of a partition failed
        self._outage = OutageLog(logger, "table maintenance is failing and is retried", "table maintenance works again")
        events = f"{db.names.schema}.{db.names.prefix}events"
        self._filled = OutageLog(
            logger,
            f"the default partition of {events} holds events and is not emptied",
            f"the default partition of {events} is empty again",
        )

    async def run(self) -> None:
        """Maintain the tables until cancelled."""
        while True:
            await asyncio.sleep(SWEEP * random.uniform(0.1, 1.0))
            try:
                if await self._db.keep():
                    await self.sweep(SWEEP)
                    await self.maintain(MAINTENANCE)
                self._outage.recovered()
            except NotifyError as error:
                self._outage.failed(error)

    async def trim(self, first: int) -> int:
        """Remove every event before this id and return how many."""
        if not await self._db.has_tables():
            return 0
        return sum([await self._remove_events(partition, first) for partition in await self._partitions()])

    async def forget(self, user: str) -> int:
        """Erase a user, and return the number of events erased.

        The outbox comes first: a relay locks its rows before it locks the log. Then the log is locked until the commit,
        so that a concurrent save is either before it and erased, or after it and the first of the new log.
        """
        if not await self._db.has_tables():
            return 0
        for is_second in (False, True):
            try:
                async with self._db.connection(self._db.timeout) as connection, connection.transaction():
                    return await self._erase(connection, user)
            except Exception as error:
                if is_second or disposition_of(error) is not PostgresDisposition.CONFLICT:
                    raise unavailable(error, self._db.backend) from error
        raise AssertionError("the second attempt returns or raises")  # pragma: no cover - for the type checker

    async def _erase(self, connection: Connection, user: str) -> int:
        sql = self._db.names.sql
        counts = {}
        await connection.execute(f"SET LOCAL lock_timeout = {int(self._db.timeout * 800)}")
        tables = [self._db.names.table(table) for table in USER_TABLES]
        existing = {row["name"] for row in await connection.fetch(sql("existing"), tables)}
        for table in USER_TABLES:
            if self._db.names.table(table) not in existing:
                continue
            if table == "heads":
                ahead: int = await connection.fetchval(sql("lock_head"), user)
                if 0 < ahead < MAX_AHEAD:
                    await asyncio.sleep(ahead / 1000)  # the ids of the new log are greater than those of the old one
            else:
                counts[table] = await connection.fetchval(sql("forget", table=table), user)
        await connection.fetchval(sql("forget", table="heads"), user)
        erased: int = counts["events"]
        return erased

    async def sweep(self, interval: float) -> bool:
        """Remove nonces that no attempt will repeat, unless a process did so within the interval; return which."""
        rows = await self._db.fetch(self._db.names.sql("sweep"), interval)
        return bool(rows[0]["turns"])

    async def maintain(self, interval: float) -> bool:
        """Drop and create partitions, and remove old heads and keys, unless a process did so within the interval."""
        names = self._db.names
        partitions = await self._partitions()
        is_owner = any(partition.is_owned for partition in partitions)
        turn = await self._db.fetch(names.sql("claim_maintenance"), interval, is_owner)
        if not turn:
            return False
        now_ms: int = turn[0]["now_ms"]
        oldest = now_ms - self._max_age_ms << 20
        for partition in partitions:
            if partition.high is None or partition.high > oldest:
                continue
            if not partition.is_ours or not partition.is_owned:
                await self._remove_events(partition, oldest)
            elif not await self._change(self._drop_partition, partition.name):
                logger.warning("changing a partition failed and is retried later: %s", self._reason)
        await self._remove("remove_rows", "events_default", oldest)
        if is_owner:
            await self.empty_default()
        await self._db.keep()
        await self._remove("remove_rows", "keys", now_ms - self._key_window_ms << 20)
        await self._remove("remove_heads", "heads", now_ms - 2 * self._max_age_ms << 20)
        return True

    async def empty_default(self) -> None:
        """Move the events of the default partition to partitions of their days, a bounded number at a time.

        A failure is logged; what has not been moved stays where it is, and is read from there.
        """
        sql, events = self._db.names.sql, f"{self._db.names.schema}.{self._db.names.prefix}events"
        if not (await self._db.fetch(sql("default_filled")))[0]["filled"]:
            self._filled.recovered()
            return
        reason = ""
        now_day = self._db.server_micros(time.monotonic()) // 86_400_000_000
        for row in await self._db.fetch(sql("default_days"), DAY):
            if row["count"] > MAX_MOVED:
                reason = f"there are {row['count']} of one day, which is too many to move"
                continue
            if row["day"] > now_day + DAYS_AHEAD:
                logger.warning(
                    "%s holds events of day %d, which is ahead: the server's clock has jumped", events, row["day"]
                )
            if not await self._move_day(row["day"]):
                reason = f"moving them has failed: {self._reason}"
                break
        if reason:
            self._filled.failed(reason)
        else:
            self._filled.recovered()

    async def _move_day(self, day: int) -> bool:
        """Move the events of one day out of the default partition; return whether that succeeded."""
        sql = self._db.names.sql
        for low, high in uncovered(day * DAY, (day + 1) * DAY, await self._partitions()):
            cuts = [cut["id"] for cut in await self._db.fetch(sql("default_pieces"), low, high, PIECE)]
            for piece in pieces(low, high, cuts):
                for _ in range(ATTEMPTS):
                    if await self._change(self._move_partition, *piece):
                        break
                    await asyncio.sleep(RETRY_AFTER)
                else:
                    return False
        return True

    async def _partitions(self) -> list[Partition]:
        names = self._db.names
        rows = await self._db.fetch(names.sql("partitions"), names.table("events"), names.schema)
        found = []
        for row in rows:
            low, high = parse_bound(row["bound"] or "") or (None, None)
            name = (row["name"] or "").removeprefix(names.prefix)
            found.append(Partition(name, low, high, row["pages"] or 0, row["is_owned"]))
        return found

    async def _remove_events(self, partition: Partition, first: int) -> int:
        """Remove the events of a partition before an id, and return how many."""
        if partition.low is None or partition.high is None:
            return await self._remove("remove_rows", "events_default", first)
        count = 0
        for page in range(0, partition.pages if partition.low < first else 0, PAGES):
            bounds = (page, 0), (page + PAGES, 0), first, partition.low, partition.high
            count += (await self._db.fetch(self._db.names.sql("remove_events"), *bounds))[0]["count"]
        return count

    async def _remove(self, operation: str, table: str, first: int) -> int:
        """Remove the rows before an id, in pieces that hold no lock for long, and return how many."""
        names = self._db.names
        pages = (await self._db.fetch(names.sql("table_pages"), names.table(table)))[0]["pages"] or 0
        count = 0
        for page in range(0, pages, PAGES):
            rows = await self._db.fetch(names.sql(operation, table=table), (page, 0), (page + PAGES, 0), first)
            count += rows[0]["count"]
        return count

    async def _change(self, change: Callable[..., Awaitable[None]], *args: object) -> bool:
        """Change the partitions in a transaction that does not wait long for its lock; return whether it succeeded."""
        try:
            async with self._db.connection(self._db.timeout) as connection, connection.transaction():
                await connection.execute(LOCK_WAIT)
                await change(connection, *args)
        except asyncpg.PostgresError as error:
            self._reason = describe(error)
            return False
        except Exception as error:
            raise unavailable(error, self._db.backend) from error
        return True

    async def _move_partition(self, connection: Connection, low: int, high: int) -> None:
        await move_partition(connection, self._db.names, low, high)

    async def _drop_partition(self, connection: Connection, name: str) -> None:
        await connection.execute(self._db.names.sql("drop_partition", partition=name))
