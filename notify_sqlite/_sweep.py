"""The sweeper: removes events past `max_age`, in small transactions, so that writers wait only briefly."""

from __future__ import annotations

import logging
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import anyio

from notify import NotifyError
from notify.adapters import OutageLog

from ._connection import MAX_ROWS, SQLiteDatabase
from ._record import Limits

logger = logging.getLogger("notify.sqlite")

_PAUSE: Final = 0.01
"""Seconds between two transactions of one sweep, in which other writers can take the lock."""


class SQLiteSweeper:
    """Sweeps once a minute or more often. Reads hide expired events, so the exact moment does not matter.

    Args:
        database: swept.
        limits: returns what is too old now.
        max_age: seconds that events are kept.
    """

    def __init__(self, database: SQLiteDatabase, limits: Callable[[], Limits], max_age: float | None) -> None:
        self._database = database
        self._limits = limits
        self._interval = min(60.0, max(1.0, (max_age or 3600.0) / 16))
        self._outage = OutageLog(
            logger, f"cannot remove old events from {database.path}", f"old events in {database.path} are removed again"
        )
        self._started = False

    def start(self) -> None:
        """Begin, with the first events that are stored; a process that only reads does not sweep."""
        if not self._started:
            self._database.services.start(self._run)
            self._started = True

    async def sweep(self) -> int:
        """Remove everything that is too old now; return how many rows that were."""
        limits, sql = self._limits(), self._database.sql
        look = partial(has_older, sql=sql, before=limits.horizon, keys_before=limits.key_horizon)

        def remove(db: sqlite3.Connection) -> int:
            events = remove_older(db, sql, limits.horizon)
            return events if events == MAX_ROWS else events + remove_keys(db, sql, limits.key_horizon)

        removed = 0
        while await self._database.read(look):
            removed += await self._database.write(remove)
            await anyio.sleep(_PAUSE)
        return removed

    async def _run(self) -> None:
        while True:
            await anyio.sleep(self._interval * random.uniform(0.75, 1.0))
            try:
                await self.sweep()
            except NotifyError as error:
                if self._database.closed:
                    return
                self._outage.failed(error)
            else:
                self._outage.recovered()


def has_older(db: sqlite3.Connection, sql: Mapping[str, str], before: int, keys_before: int) -> bool:
    """Return whether `remove_older` or `remove_keys` would remove something; a read, which takes no lock."""
    return any(
        db.execute(sql[name], (bound, 1)).fetchone() is not None
        for name, bound in (("older", before), ("older_keys", keys_before))
    )


def remove_older(db: sqlite3.Connection, sql: Mapping[str, str], before: int) -> int:
    """Remove the oldest events below this packed id, at most `MAX_ROWS`, and return how many."""
    rows = db.execute(sql["older"], (before, MAX_ROWS)).fetchall()
    db.executemany(sql["delete_event"], rows)
    counts = Counter(user for user, _ in rows)
    db.executemany(sql["lower_kept"], [(count, user) for user, count in counts.items()])
    return len(rows)


def remove_keys(db: sqlite3.Connection, sql: Mapping[str, str], before: int) -> int:
    """Remove the oldest idempotency keys below this packed id, at most `MAX_ROWS`, and return how many."""
    rows = db.execute(sql["older_keys"], (before, MAX_ROWS)).fetchall()
    db.executemany(sql["delete_key"], rows)
    return len(rows)
