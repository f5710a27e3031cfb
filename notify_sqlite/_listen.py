"""Listening: how this process notices what other processes commit to the file.

SQLite cannot notify other processes. But `PRAGMA data_version`, read on one connection, changes whenever any other
connection has committed, and costs four microseconds. So a dedicated connection, shared by all streams of the store,
reads it every `poll_interval` (20 ms). This happens in the connection's thread, which sleeps in between: while nothing
is committed, nothing runs in the event loop.

When the version has changed, one query finds the users whose logs have grown: ids grow over the whole file, so that is
every log whose last id is greater than the greatest id seen so far. Of these users, those with open streams here whose
newest position is older are given to `LiveLog.catch_up`, which reads what is new and offers it to the streams.

Reconnecting: `SQLiteWatcher.listen` raises when anything fails: the connection, the query, or the file (which may have
been deleted or replaced). The `LiveLog` then restarts it, after a delay that grows from 0.05 to 5 seconds; each run
opens a new connection. Nothing is missed in between: a run notes the greatest id before it calls `started()`, and with
`started()` the `LiveLog` catches up for all open streams. Until then it looks for new events every second.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias

import aiosqlite
from anyio.abc import TaskStatus

from notify import ids
from notify.adapters import LiveLog

from ._connection import MAX_ROWS, SQLiteDatabase
from ._errors import DRIVER, unavailable
from ._worker import close, run

FILE_CHECK: Final = 1.0
"""Seconds between two checks that the path still names the file that was opened."""

News: TypeAlias = Sequence[tuple[str, int]]
"""Users whose logs have grown, each with its packed last id, in the order of these ids."""


class SQLiteWatcher:
    """Notices commits to a file.

    Invariants:
        I1. An id up to `_seen` was noticed, or is covered by the catch-up that follows `started()`.

    Args:
        database: the file to watch.
        interval: seconds between two reads of the version.
    """

    def __init__(self, database: SQLiteDatabase, interval: float) -> None:
        self._database = database
        self._interval = interval
        self._connection: aiosqlite.Connection | None = None
        self._seen = 0

    async def listen(self, live: LiveLog, *, task_status: TaskStatus[None]) -> None:
        """Make `live` catch up with each commit that is noticed, until cancelled.

        Raises:
            BackendUnavailableError: the file cannot be watched.
        """
        try:
            await self._watch(live, task_status)
        except DRIVER as error:
            raise unavailable(error, self._database.owner, self._database.path) from error

    async def _watch(self, live: LiveLog, task_status: TaskStatus[None]) -> None:
        connection = self._connection = await self._database.connect()
        stop = threading.Event()
        try:
            version, self._seen = await run(connection, self._first_look)
            task_status.started()  # keeps I1
            while True:
                version, news = await run(connection, partial(self._look, version=version, stop=stop))
                if news:
                    self._notice(live, news)
                    self._seen = news[-1][1]  # keeps I1
        finally:
            stop.set()
            await close(connection)

    def _first_look(self, db: sqlite3.Connection) -> tuple[int, int]:
        """Return the version and the greatest id now; a commit in between is noticed by the next look."""
        self._database.check_file()
        (version,) = db.execute("PRAGMA data_version").fetchone()
        (last,) = db.execute(self._database.sql["last_id"]).fetchone()
        return version, last

    def _look(self, db: sqlite3.Connection, version: int, stop: threading.Event) -> tuple[int, News]:
        """Wait for another version, or for `FILE_CHECK` seconds; return the version and what is new."""
        self._database.check_file()
        deadline = time.monotonic() + FILE_CHECK
        cursor = db.cursor()
        while True:
            (now,) = cursor.execute("PRAGMA data_version").fetchone()
            if now != version:
                news = news_after(db, self._database.sql, self._seen)
                return (now if len(news) < MAX_ROWS else -1), news  # -1 is never the version: there may be more
            if time.monotonic() > deadline or stop.wait(self._interval):
                return version, ()

    def _notice(self, live: LiveLog, news: News) -> None:
        """Request what is new for the users with open streams here, unless they have it, as from this process."""
        positions = live.positions()
        behind = []
        for user, last_id in news:
            if user in positions:
                position = positions.get(user)
                if position is None or ids.pack(position) < last_id:
                    behind.append(user)
        if behind:
            live.catch_up(behind)


def news_after(db: sqlite3.Connection, sql: Mapping[str, str], after: int) -> list[tuple[str, int]]:
    """Return the users whose logs have grown past this packed id, at most `MAX_ROWS`."""
    return db.execute(sql["news"], (after, MAX_ROWS)).fetchall()
