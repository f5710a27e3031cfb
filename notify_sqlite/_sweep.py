"""Removing events past `max_age`, and all of one user: in small transactions, so that writers wait only briefly."""

from __future__ import annotations

import logging
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import anyio

from notify import NotifyError, ids
from notify.adapters import OutageLog

from ._box import InboxWriter
from ._connection import MAX_ROWS, SQLiteDatabase
from ._ephemeral import horizon
from ._follow import erase as erase_inbox
from ._items import InboxLimits
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
        ephemerals_before = horizon(limits.now)
        look = partial(has_older, sql=sql, bounds=(limits.horizon, limits.key_horizon, ephemerals_before))

        def remove(db: sqlite3.Connection) -> int:
            db.execute(sql["delete_ephemerals"], (ephemerals_before,))
            events = remove_older(db, sql, limits.horizon)
            return events if events == MAX_ROWS else events + remove_keys(db, sql, limits.key_horizon)

        removed = 0
        while await self._database.read(look, False):
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


def has_older(db: sqlite3.Connection, sql: Mapping[str, str], bounds: Sequence[int]) -> bool:
    """Return whether there are events, keys or ephemeral events below their packed ids; a read, which takes no lock."""
    return any(
        db.execute(sql[name], (bound, 1)).fetchone() is not None
        for name, bound in zip(("older", "older_keys", "any_ephemeral"), bounds, strict=True)
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


def erase(db: sqlite3.Connection, sql: Mapping[str, str], user: str, limits: Limits) -> tuple[int, bool]:
    """Erase some of a user, `MAX_ROWS` events, keys and items at most; return how many events, and whether all is done.

    Presence that counts stays: it belongs to streams that are open.
    """
    db.execute("PRAGMA secure_delete = ON").fetchone()  # overwrite, whatever that costs
    try:
        events = db.execute(sql["forget_events"], (user, user, MAX_ROWS)).rowcount
        keys = db.execute(sql["forget_keys"], (user, user, MAX_ROWS)).rowcount
        now = limits.now >> ids.SEQUENCE_BITS
        if MAX_ROWS in (events, keys) or not erase_inbox(InboxWriter(db, sql, InboxLimits.at(now, limits.inbox)), user):
            return events, False
        db.execute(sql["forget_head"], (user,))
        db.execute(sql["forget_ephemerals"], (user,))
        if db.execute(sql["presence_tables"]).fetchone() == (2,):
            db.execute(sql["forget_presence"], (user, now))
        return events, True
    finally:
        db.execute("PRAGMA secure_delete = FAST").fetchone()
