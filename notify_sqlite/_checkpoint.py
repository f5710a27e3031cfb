"""The checkpointer: of all processes on one file, one moves the WAL's pages into the file, in its writing thread.

Two connections that checkpoint at the same moment can damage a file under SQLite before 3.51.3, so nobody else
ever does.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio

from ._errors import DRIVER
from ._file import FileLock

logger = logging.getLogger("notify.sqlite")

INTERVAL: Final = 1.0
"""Seconds between two looks at the WAL, and between two tries to become the checkpointer."""

PAGES: Final = 1000
"""Pages in the WAL after which a commit of the checkpointer's own process checkpoints."""

LIMIT: Final = 8 * 2**20
"""Bytes of WAL above which the checkpointer empties the file, whoever wrote it."""

SAFE: Final = (3, 51, 3)
"""The first SQLite that several writing processes can use without the reset bug of the WAL."""


class Checkpointer:
    """Runs for each open database, and acts in one of them.

    Args:
        path: the database.
        lock: held by the one that acts.
        maintain: runs a job in the writing thread.
    """

    def __init__(
        self, path: str, lock: FileLock, maintain: Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]
    ) -> None:
        self._wal = f"{path}-wal"
        self._path = path
        self._lock = lock
        self._maintain = maintain
        self._warned = False

    @property
    def elected(self) -> bool:
        """Whether this one acts."""
        return self._lock.held

    @property
    def wal_size(self) -> int:
        """Bytes that the WAL has now."""
        try:
            return os.stat(self._wal).st_size
        except OSError:
            return 0

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.step()
            except DRIVER as error:
                logger.warning("cannot checkpoint %s: %r", self._path, error)
            await anyio.sleep(INTERVAL)

    async def step(self) -> None:
        """Become the checkpointer if nobody else is, and bound the WAL."""
        if not self._lock.held:
            if not self._lock.acquire():
                self._warn()
                return
            await self._maintain(_checkpoint_by_itself)
        if self.wal_size > LIMIT:
            await self._maintain(_empty_wal)

    def release(self) -> None:
        """Let another one act. Idempotent."""
        self._lock.release()

    def _warn(self) -> None:
        holder = self._lock.holder()
        if self._warned or holder in (None, os.getpid()) or sqlite3.sqlite_version_info >= SAFE:
            return
        self._warned = True
        logger.warning(
            "processes %d and %d use %s with SQLite %s, which has a rare bug that damages a file which several "
            "processes write; use 3.51.3 or later",
            os.getpid(),
            holder,
            self._path,
            sqlite3.sqlite_version,
        )


def _checkpoint_by_itself(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA wal_autocheckpoint = {PAGES:d}")


def _empty_wal(db: sqlite3.Connection) -> None:
    """Move every page that no reader pins; empty the WAL once that was all, for only then nobody is kept waiting."""
    _, pages, moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages == moved:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
