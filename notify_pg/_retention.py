"""Maintains the tables: creates partitions ahead, drops those past `max_age`, and removes rows that expired.

Events live in daily partitions by id, so a day past `max_age` is dropped whole: nothing has to be searched, and nothing
is left for vacuum. One process at a time does the work, the first one after each interval: the time of the last run is
stored in the database.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg  # type: ignore[import-untyped]

from notify import NotifyError
from notify.adapters import OutageLog

from ._connection import PostgresDatabase
from ._errors import describe, unavailable
from ._pool import Connection
from ._schema import DAY, make_partition, missing_partitions

logger = logging.getLogger("notify.pg")

SWEEP: Final = 60.0
"""Seconds between removals of rows that are needed for minutes only."""

MAINTENANCE: Final = 900.0
"""Seconds between runs that look at partitions, heads and keys."""

LOCK_WAIT: Final = "SET LOCAL lock_timeout = '200ms'"
"""Longer, and pushes would queue up behind a change of partitions that waits for a long query; it is retried later."""

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
        self._outage = OutageLog(logger, "table maintenance is failing and is retried", "table maintenance works again")

    async def run(self) -> None:
        """Maintain the tables until cancelled."""
        while True:
            await asyncio.sleep(SWEEP * random.uniform(0.1, 1.0))
            try:
                await self.sweep(SWEEP)
                await self.maintain(MAINTENANCE)
                self._outage.recovered()
            except NotifyError as error:
                self._outage.failed(error)

    async def trim(self, first: int) -> int:
        """Remove every event before this id and return how many."""
        count = 0
        for name, low in await self._partitions():
            if low is None or low < first:
                count += await self._remove("remove_rows", name, first)
        return count

    async def sweep(self, interval: float) -> bool:
        """Remove nonces that no attempt will repeat, unless a process did so within the interval; return which."""
        rows = await self._db.fetch(self._db.names.sql("sweep"), interval)
        return bool(rows[0]["turns"])

    async def maintain(self, interval: float) -> bool:
        """Create and drop partitions and remove old heads and keys, unless a process did so within the interval."""
        names = self._db.names
        turn = await self._db.fetch(names.sql("claim_maintenance"), interval)
        if not turn:
            return False
        now_ms: int = turn[0]["now_ms"]
        oldest = now_ms - self._max_age_ms << 20
        await self._change(self._make_partitions)
        for name, low in await self._partitions():
            if low is not None and low + DAY <= oldest:
                await self._change(self._drop_partition, name)
        if (await self._db.fetch(names.sql("default_filled")))[0]["filled"]:
            logger.warning(
                "the default partition of %s holds events: the server's clock has jumped", names.table("events")
            )
            await self._remove("remove_rows", "events_default", oldest)
        await self._remove("remove_rows", "keys", now_ms - self._key_window_ms << 20)
        await self._remove("remove_heads", "heads", now_ms - 2 * self._max_age_ms << 20)
        return True

    async def _partitions(self) -> list[tuple[str, int | None]]:
        """Return name and lowest id of each partition; None for the default one."""
        rows = await self._db.fetch(self._db.names.sql("partitions"), self._db.names.table("events"))
        names = [row["name"].removeprefix(self._db.names.prefix) for row in rows]
        days = [(name, name.removeprefix("events_")) for name in names]
        return [(name, int(day) * DAY if day.isdigit() else None) for name, day in days]

    async def _remove(self, operation: str, table: str, first: int) -> int:
        """Remove the rows before an id, in pieces that hold no lock for long, and return how many."""
        names = self._db.names
        pages = (await self._db.fetch(names.sql("table_pages"), names.table(table)))[0]["pages"] or 0
        count = 0
        for page in range(0, pages, PAGES):
            rows = await self._db.fetch(names.sql(operation, table=table), (page, 0), (page + PAGES, 0), first)
            count += rows[0]["count"]
        return count

    async def _change(self, change: Callable[..., Awaitable[None]], *args: str) -> None:
        """Change the partitions in a transaction that does not wait long for its lock; a failure is retried later."""
        try:
            async with self._db.connection(self._db.timeout) as connection, connection.transaction():
                await connection.execute(LOCK_WAIT)
                await change(connection, *args)
        except asyncpg.PostgresError as error:
            logger.warning("changing a partition failed and is retried later: %s", describe(error))
        except Exception as error:
            raise unavailable(error, self._db.backend) from error

    async def _make_partitions(self, connection: Connection) -> None:
        for day in await missing_partitions(connection, self._db.names):
            await make_partition(connection, self._db.names, day)

    async def _drop_partition(self, connection: Connection, name: str) -> None:
        await connection.execute(self._db.names.sql("drop_partition", partition=name))
