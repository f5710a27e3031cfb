"""Events that are not stored, from process to process: rows of a small table, which live for a few seconds.

They are written by the store's own batches, and noticed as stored events are: ids come from the same counter, so
"what was sent after this id" is one query. A broadcast is one row. Each process skips what it has sent itself.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, TypeAlias

import anyio

from notify import Event, NotifyError
from notify.adapters import OutageLog

from ._connection import MAX_ROWS, SQLiteDatabase
from ._record import Limits, packed
from ._worker import Job

logger = logging.getLogger("notify.sqlite")

KEPT: Final = 5.0
"""Seconds for which a row stays: many times what a process needs to notice it."""

MAX_PENDING: Final = 1000
"""Events that wait to be written at most; beyond that the oldest are lost."""

Sent: TypeAlias = tuple[str, bytes, float]
"""The user, the wire form, and until when it is worth writing, by `time.monotonic`."""


class SQLiteEphemerals:
    """Ephemeral events that wait to be written, and the removal of those that were.

    Args:
        database: written to.
        limits: returns what the retention options allow now, and the time.
    """

    def __init__(self, database: SQLiteDatabase, limits: Callable[[], Limits]) -> None:
        self.sender = secrets.token_hex(8)
        self._database = database
        self._limits = limits
        self._pending: deque[Sent] = deque()
        self._sent_at = 0.0
        self._expiring = False
        self._outage = OutageLog(
            logger,
            f"ephemeral events do not reach other processes through {database.path}",
            f"ephemeral events reach other processes through {database.path} again",
        )

    def __bool__(self) -> bool:
        """Whether some wait."""
        return bool(self._pending)

    def add(self, event: Event) -> None:
        """Queue one event. Never waits."""
        if len(self._pending) >= MAX_PENDING:
            self._pending.popleft()
            self._outage.failed(f"more than {MAX_PENDING} wait to be written, so the oldest are lost")
        self._pending.append((event.user, event.to_bytes(), time.monotonic() + self._database.timeout))

    def take(self) -> list[Sent]:
        """Return what to write next."""
        taken = [*islice(self._pending, MAX_ROWS)]
        for _ in taken:
            self._pending.popleft()
        return taken

    def job(self, sent: Sequence[Sent], now: int) -> Job[None]:
        """Return the job that writes these at this packed time, inside a transaction."""
        return partial(insert, sql=self._database.sql, sender=self.sender, sent=sent, now=now)

    def written(self) -> None:
        """Note that what was taken is written; its rows are removed some seconds later."""
        self._outage.recovered()
        self._sent_at = time.monotonic()
        if not self._expiring and not self._database.closed:
            self._expiring = True
            self._database.services.start(self._expire)

    def failed(self, sent: Sequence[Sent], error: NotifyError, *, retry: bool) -> None:
        """Note that the events that were taken are not written; put back those that are still worth writing."""
        now = time.monotonic()
        again = [each for each in sent if retry and each[2] > now]
        self._pending.extendleft(reversed(again))
        if len(again) < len(sent):
            self._outage.failed(error)

    async def _expire(self) -> None:
        """Remove rows of every process that are too old, until those of this process have been removed."""
        try:
            while (left := self._sent_at + KEPT - time.monotonic()) > 0:  # noqa: ASYNC110 - it waits for the clock
                await anyio.sleep(left + 0.1)
            await self._database.write(partial(remove, sql=self._database.sql, before=horizon(self._limits().now)))
        except NotifyError as error:  # the sweeper removes them
            logger.info("cannot remove ephemeral events yet: %s", error)
        finally:
            self._expiring = False


def horizon(now: int) -> int:
    """Return the packed id below which a row is too old at this packed time."""
    return now - packed(int(KEPT * 1000))


def insert(db: sqlite3.Connection, sql: Mapping[str, str], sender: str, sent: Sequence[Sent], now: int) -> None:
    """Write some events with the next ids, and remove what is too old; called inside a transaction."""
    (last,) = db.execute(sql["last_id"]).fetchone()
    first = max(last + 1, now)
    rows = [(first + number, sender, user, data) for number, (user, data, _) in enumerate(sent)]
    db.executemany(sql["insert_ephemeral"], rows)
    db.execute(sql["set_last_id"], (rows[-1][0],))
    db.execute(sql["delete_ephemerals"], (horizon(now),))


def remove(db: sqlite3.Connection, sql: Mapping[str, str], before: int) -> None:
    """Remove the rows below this packed id."""
    db.execute(sql["delete_ephemerals"], (before,))


def after(db: sqlite3.Connection, sql: Mapping[str, str], id_: int, sender: str) -> list[tuple[int, str, bytes | None]]:
    """Return what was sent after this packed id, at most `MAX_ROWS`: id, user, wire form (None if by this sender)."""
    return db.execute(sql["ephemerals_after"], (sender, id_, MAX_ROWS)).fetchall()
