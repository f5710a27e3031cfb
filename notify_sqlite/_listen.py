"""Listening: how this process notices what other processes commit to the file.

SQLite cannot notify other processes. But the system tells of changed files (see `_changes`), and `PRAGMA data_version`,
read on one connection, changes whenever any other connection has committed, and costs four microseconds. So a dedicated
connection, shared by all streams of the store, reads it whenever the system tells of a change: where it does not tell,
every `poll_interval` (20 ms), and once a second in any case. This happens in the connection's thread, which sleeps in
between: while nothing is committed, nothing runs in the event loop.

When the version has changed, one query finds the users whose logs have grown: ids grow over the whole file, so that is
every log whose last id is greater than the greatest id seen so far. Of these users, those with open streams here whose
newest position is older are given to `LiveLog.catch_up`, which reads what is new and offers it to the streams. A second
query finds the ephemeral events of other processes, which are given to `LiveLog.deliver`.

Reconnecting: `SQLiteWatcher.listen` raises when anything fails: the connection, the query, or the file (which may have
been deleted or replaced). The `LiveLog` then restarts it, after a delay that grows from 0.05 to 5 seconds; each run
opens a new connection. Nothing is missed in between: a run notes the greatest id before it calls `started()`, and with
`started()` the `LiveLog` catches up for all open streams. Until then it looks for new events every second.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias

import aiosqlite
import anyio
from anyio.abc import TaskStatus

from notify import ids
from notify.adapters import LiveLog

from ._changes import ChangeWaiter, PollingWaiter, SystemWaiter, make_waiter
from ._connection import MAX_ROWS, SQLiteDatabase
from ._ephemeral import after
from ._errors import DRIVER, unavailable
from ._file import beside
from ._worker import close, run

logger = logging.getLogger("notify.sqlite")

FILE_CHECK: Final = 1.0
"""Seconds between two checks that the path still names the opened file; new events are looked for as often at least."""

UNTOLD: Final = 3
"""Commits in a row that inotify did not report, found by the check once a second, before polling takes over."""

News: TypeAlias = Sequence[tuple[str, int]]
"""Users whose logs have grown, each with its packed last id, in the order of these ids."""

Heard: TypeAlias = Sequence[tuple[int, str, bytes | None]]
"""Ephemeral events: packed id, user, wire form; None for one that this process has sent."""


class SQLiteWatcher:
    """Notices commits to a file.

    Invariants:
        I1. An id up to `_seen` was noticed, or is covered by the catch-up that follows `started()`.

    Args:
        database: the file to watch.
        interval: seconds between two reads of the version, if inotify does not report commits.
        sender: names the ephemeral events that this process sends.
    """

    def __init__(self, database: SQLiteDatabase, interval: float, sender: str) -> None:
        self._database = database
        self._interval = interval
        self._sender = sender
        self._connection: aiosqlite.Connection | None = None
        self._waiter: ChangeWaiter | None = None
        self._untold = 0
        self._seen = 0
        self._heard: int | None = None
        self._can_hear = False

    async def listen(self, live: LiveLog, *, task_status: TaskStatus[None]) -> None:
        """Make `live` catch up with each commit that is noticed, until cancelled.

        Raises:
            BackendUnavailableError: the file cannot be watched.
        """
        try:
            await self._watch(live, task_status)
        except DRIVER as error:
            raise unavailable(error, self._database.owner, self._database.path, "cannot be watched") from error

    async def _watch(self, live: LiveLog, task_status: TaskStatus[None]) -> None:
        connection = await self._database.connect()
        is_new = connection is None
        if connection is None:
            self._heard = 0
            task_status.started()  # keeps I1: whatever the file will hold is new
            connection = await self._until_there()
        self._connection = connection
        stop = threading.Event()
        try:
            version, last = await run(connection, self._first_look)
            self._seen = 0 if is_new else last
            if self._heard is None:
                self._heard = last
            if is_new:
                version = -1  # never the version, so that the next look reads what there is
            else:
                task_status.started()  # keeps I1
            while True:
                version, news, heard = await run(connection, partial(self._look, version=version, stop=stop))
                if news:
                    self._notice(live, news)
                    self._seen = news[-1][1]  # keeps I1
                if heard:
                    self._deliver(live, heard)
                    self._heard = heard[-1][0]
        finally:
            stop.set()
            if self._waiter is not None:
                self._waiter.stop()
            await close(connection)
            if self._waiter is not None:
                self._waiter.close()
                self._waiter = None

    async def _until_there(self) -> aiosqlite.Connection:
        """Wait until some process creates the file."""
        while True:
            await anyio.sleep(self._interval)
            connection = await self._database.connect()
            if connection is not None:
                return connection

    # -- in the connection's thread ------------------------------------------------------------------------------

    def _first_look(self, db: sqlite3.Connection) -> tuple[int, int]:
        """Return the version and the greatest id now; a commit in between is noticed by the next look."""
        self._database.file.check()
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if not self._database.file.is_readable(db):
            return version, 0
        (last,) = db.execute(self._database.sql["last_id"]).fetchone()
        return version, last

    def _look(self, db: sqlite3.Connection, version: int, stop: threading.Event) -> tuple[int, News, Heard]:
        """Wait for another version, or for `FILE_CHECK` seconds; return the version and what is new."""
        self._database.file.check()
        waiter = self._current_waiter()
        deadline = time.monotonic() + FILE_CHECK
        cursor = db.cursor()
        waited = False
        while not stop.is_set():
            (now,) = cursor.execute("PRAGMA data_version").fetchone()
            if now != version and self._database.file.is_readable(db):
                return self._what_is_new(db, now, untold=waited and not waiter.told)
            left = deadline - time.monotonic()
            if left <= 0 or not waiter.wait(left):
                break
            waited = True
        return version, (), ()

    def _current_waiter(self) -> ChangeWaiter:
        """Return the waiter for commits; inotify is tried again until it works, because the WAL may not exist yet."""
        waiter = self._waiter
        if waiter is None or (isinstance(waiter, PollingWaiter) and self._untold < UNTOLD):
            waiter = self._waiter = make_waiter(beside(self._database.path, "-wal"), self._interval)
        elif isinstance(waiter, SystemWaiter) and self._untold >= UNTOLD:
            waiter.close()
            waiter = self._waiter = PollingWaiter(self._interval)
            logger.info("inotify does not report commits to %s, so the file is polled", self._database.path)
        return waiter

    def _what_is_new(self, db: sqlite3.Connection, version: int, untold: bool) -> tuple[int, News, Heard]:
        sql = self._database.sql
        if not self._can_hear:
            self._can_hear = db.execute(sql["has_ephemerals"]).fetchone() == (1,)
        news = news_after(db, sql, self._seen)
        heard = after(db, sql, self._heard or 0, self._sender) if self._can_hear else ()
        if news or heard:
            self._untold = self._untold + 1 if untold else 0
        is_more = MAX_ROWS in (len(news), len(heard))
        return (-1 if is_more else version), news, heard  # -1 is never the version

    # -- in the event loop ---------------------------------------------------------------------------------------

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

    def _deliver(self, live: LiveLog, heard: Heard) -> None:
        """Deliver events that other processes have sent to users with streams in this process."""
        positions = live.positions()
        for _, user, data in heard:
            if data is not None and (not user or user in positions):
                live.deliver(data)


def news_after(db: sqlite3.Connection, sql: Mapping[str, str], after: int) -> list[tuple[str, int]]:
    """Return the users whose logs have grown past this packed id, at most `MAX_ROWS`."""
    return db.execute(sql["news"], (after, MAX_ROWS)).fetchall()
