"""Removes what is too old, a little at a time."""

from __future__ import annotations

import logging
import random
import sqlite3
from collections.abc import Callable
from functools import partial

import anyio

from notify import NotifyError

from . import _record as record
from ._connection import SQLiteDatabase

logger = logging.getLogger("notify.sqlite")

_PAUSE = 0.01
"""Seconds between two transactions of one sweep, for others that write."""


class SQLiteSweeper:
    """Sweeps now and then. Reading hides what is too old, so nothing depends on when that is.

    Args:
        database: swept.
        limits: returns what is too old now.
        max_age: seconds that events are kept.
    """

    def __init__(self, database: SQLiteDatabase, limits: Callable[[], record.Limits], max_age: float | None) -> None:
        self._database = database
        self._limits = limits
        self._interval = min(60.0, max(1.0, (max_age or 3600.0) / 16))
        self._started = False

    def start(self) -> None:
        """Begin, at the first save."""
        if not self._started:
            self._database.services.start(self._run)
            self._started = True

    async def sweep(self) -> int:
        """Remove everything that is too old now, and return how many rows that were."""
        limits, sql = self._limits(), self._database.sql
        look = partial(record.has_older, sql=sql, before=limits.horizon, keys_before=limits.key_horizon)

        def remove(db: sqlite3.Connection) -> int:
            events = record.remove_older(db, sql, limits.horizon)
            return events if events == record.CHUNK else events + record.remove_keys(db, sql, limits.key_horizon)

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
                logger.warning("cannot remove old events: %r", error)
