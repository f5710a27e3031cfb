"""Notices what other processes commit: one look at `PRAGMA data_version` every few milliseconds, for all streams.

The looks are taken in a thread that sleeps in between, so that nothing runs in the event loop while nothing happens.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import aiosqlite
import anyio

from notify import LiveLog, Page, ids

from ._connection import MAX_ROWS, SQLiteDatabase
from ._worker import close, run

logger = logging.getLogger("notify.sqlite")

PAGE: Final = 64
"""Events of one user that are offered at once; with more, its streams read the log themselves."""

_TURN: Final = 1.0
"""Seconds after which a look that found nothing returns all the same, to see that the file is still there."""

_DELAYS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds before it begins anew, after the first failure in a row, the second, and so on."""


class SQLiteWatcher:
    """Offers the events of other processes to the open streams of this one.

    Invariants:
        I1. Every commit with an id over `_seen` is looked for after the look that noticed it; what was committed
            before the first look is covered by a resync.

    Args:
        database: watched.
        live: offered to.
        read_many: reads the news.
        interval: seconds between two looks.

    Attributes:
        is_receiving: whether the last look went well.
    """

    def __init__(
        self,
        database: SQLiteDatabase,
        live: LiveLog,
        read_many: Callable[[Mapping[str, str], int], Awaitable[Mapping[str, Page]]],
        interval: float,
    ) -> None:
        self._database = database
        self._live = live
        self._read_many = read_many
        self._interval = interval
        self._stop = threading.Event()  # another one for each connection
        self._connection: aiosqlite.Connection | None = None
        self._started = self._ended = False
        self._failures = 0
        self._seen = 0
        self.is_receiving = False

    def start(self) -> None:
        """Begin, at the first stream."""
        if not self._started:
            self._started = True
            self._database.services.start(self._run)

    def stop(self) -> None:
        """End soon. Never waits."""
        self._ended = True
        self._stop.set()

    async def _run(self) -> None:
        """Watch; begin anew after whatever goes wrong."""
        while not self._ended:
            try:
                await self._watch()
            except Exception as error:  # whatever it is: without this task nobody hears of other processes
                if self._database.closed:
                    return
                if not self._failures:
                    logger.warning("cannot watch %s, trying again: %r", self._database.path, error)
                delay = _DELAYS[min(self._failures, len(_DELAYS) - 1)]
                self._failures += 1
                self._live.resync()
                await anyio.sleep(delay)

    async def _watch(self) -> None:
        connection = self._connection = await self._database.connect()
        self._stop = threading.Event()
        try:
            version, self._seen = await run(connection, self._first_look)
            self._live.resync()  # keeps I1
            self.is_receiving = True
            while not self._ended:
                latest = await run(connection, partial(self._look, known=version))
                self._failures = 0
                if latest != version:
                    version = latest
                    await self._take_news(connection)
        finally:
            self.is_receiving = False
            self._stop.set()
            await close(connection)

    def _first_look(self, db: sqlite3.Connection) -> tuple[int, int]:
        (version,) = db.execute("PRAGMA data_version").fetchone()
        (last,) = db.execute(self._database.sql["last_id"]).fetchone()
        return version, last

    def _look(self, db: sqlite3.Connection, known: int) -> int:
        """Return once the version is another one, or after a while."""
        self._database.check_file()
        deadline = time.monotonic() + _TURN
        cursor = db.cursor()
        while True:
            (version,) = cursor.execute("PRAGMA data_version").fetchone()
            if version != known or time.monotonic() > deadline or self._stop.wait(self._interval):
                return int(version)

    async def _take_news(self, connection: aiosqlite.Connection) -> None:
        """Offer what came, to those users who have open streams here and were not told yet."""
        full = True
        while full:
            news = await run(connection, partial(news_after, sql=self._database.sql, after=self._seen))
            full = len(news) == MAX_ROWS
            positions: dict[str, str] = {}
            for user, last_id in news:
                topic = self._live.users.get(user)
                if topic is None:
                    continue
                if topic.last_id is None:
                    self._live.resync(user)
                elif ids.pack(topic.last_id) < last_id:
                    positions[user] = topic.last_id
            if positions:
                self._offer(await self._read_many(positions, PAGE))
            if news:
                self._seen = news[-1][1]

    def _offer(self, pages: Mapping[str, Page]) -> None:
        for user, page in pages.items():
            if page.gap is not None or len(page.events) == PAGE:
                self._live.resync(user)
            else:
                for event in page.events:
                    self._live.offer(event)


def news_after(db: sqlite3.Connection, sql: Mapping[str, str], after: int) -> list[tuple[str, int]]:
    """Return the users whose logs went on after this packed id, with where they stand, in order; at most `MAX_ROWS`."""
    return db.execute(sql["news"], (after, MAX_ROWS)).fetchall()
