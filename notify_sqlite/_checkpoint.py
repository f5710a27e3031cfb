"""Checkpoints: moving the pages of the write-ahead log (WAL) into the database file, by one process of all.

SQLite before 3.51.3 has a rare bug: two connections that checkpoint at nearly the same moment, while a third one
commits, can damage the file. So automatic checkpoints are off on every connection, a file lock elects one process, and
only the writing thread of that process checkpoints. When it dies, the system releases the lock and the next process to
look takes over.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio

from notify.adapters import OutageLog

from ._errors import DRIVER
from ._file import FileLock

logger = logging.getLogger("notify.sqlite")

INTERVAL: Final = 1.0
"""Seconds between two looks at the WAL, and between two attempts to be elected."""

PAGES: Final = 1000
"""Pages in the WAL after which a commit of the elected process checkpoints."""

LIMIT: Final = 8 * 2**20
"""Bytes above which the elected process empties the WAL, whichever process wrote it."""

SAFE: Final = (3, 51, 3)
"""The first SQLite without that bug."""


class Checkpointer:
    """Runs for each open database, and checkpoints while elected.

    Args:
        path: the database.
        lock: held by the elected one.
        maintain: runs a job in the writing thread.
    """

    def __init__(
        self, path: str, lock: FileLock, maintain: Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]
    ) -> None:
        self._wal = f"{path}-wal"
        self._path = path
        self._lock = lock
        self._maintain = maintain
        self._outage = OutageLog(logger, f"cannot checkpoint {path}", f"checkpoints of {path} work again")
        self._warned = False

    @property
    def elected(self) -> bool:
        """Whether this process checkpoints, through this object."""
        return self._lock.held

    @property
    def wal_size(self) -> int:
        """Bytes that the WAL has now."""
        try:
            return os.stat(self._wal).st_size
        except OSError:
            return 0

    async def run(self) -> None:
        """Look every `INTERVAL` seconds, until cancelled."""
        while True:
            try:
                await self.step()
            except DRIVER as error:
                self._outage.failed(error)
            else:
                self._outage.recovered()
            await anyio.sleep(INTERVAL)

    async def step(self) -> None:
        """Try to be elected; while elected, bound the WAL."""
        if not self._lock.held:
            if not self._lock.acquire():
                self._warn_of_old_version()
                return
            await self._maintain(_checkpoint_automatically)
        if self.wal_size > LIMIT:
            await self._maintain(_empty_wal)

    def release(self) -> None:
        """Let another process be elected. Idempotent."""
        self._lock.release()

    def _warn_of_old_version(self) -> None:
        holder = self._lock.holder()
        if self._warned or holder in (None, os.getpid()) or sqlite3.sqlite_version_info >= SAFE:
            return
        self._warned = True
        logger.warning(
            "processes %d and %d use %s with SQLite %s, which has a rare bug that damages a file written by several "
            "processes: use SQLite 3.51.3 or later",
            os.getpid(),
            holder,
            self._path,
            sqlite3.sqlite_version,
        )


def _checkpoint_automatically(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA wal_autocheckpoint = {PAGES:d}")


def _empty_wal(db: sqlite3.Connection) -> None:
    """Move every page that no reader still needs; truncate the WAL only if that was all, so that nothing waits."""
    _, pages, moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages == moved:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
