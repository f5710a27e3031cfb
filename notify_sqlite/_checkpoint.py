"""Checkpoints: moving the pages of the write-ahead log (WAL) into the database file, by one process of all.

SQLite before 3.51.3 has a rare bug: two connections that checkpoint at nearly the same moment, while a third one
commits, can damage the file. So automatic checkpoints are off on every connection, a file lock elects one process, and
only the writing thread of that process checkpoints. When it dies, the system releases the lock and the next process to
look takes over.

Where no process checkpoints, nothing fails, but the WAL grows until the disk is full. So every process looks at its
size, whether it is elected or not, and warns of who should checkpoint, or of who prevents it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio

from notify.adapters import OutageLog

from ._errors import DRIVER
from ._file import beside, may
from ._lock import FileLock, holders

logger = logging.getLogger("notify.sqlite")

INTERVAL: Final = 1.0
"""Seconds between two looks at the WAL, and between two attempts to be elected."""

PAGES: Final = 1000
"""Pages in the WAL after which a commit of the elected process checkpoints."""

LIMIT: Final = 8 * 2**20
"""Bytes above which the elected process empties the WAL, whichever process wrote it."""

ALARM: Final = 64 * 2**20
"""Bytes of the WAL above which every process logs a warning."""

PATIENCE: Final = 2
"""Checks in a row that find the lock unusable before that is logged: another process may just be creating it."""

SAFE: Final = (3, 51, 3)
"""The first SQLite without that bug."""

_READERS: Final = (123, 127)
"""The bytes of the `-shm` file that connections lock while they read: part of SQLite's file format."""

_told: set[str] = set()
"""Files for which this process has logged how that bug is avoided."""


class Checkpointer:
    """Runs for each open database, and checkpoints while elected.

    Args:
        path: the database.
        maintain: runs a job in the writing thread.

    Attributes:
        writing: whether there is a writing thread: a process that only reads is never elected.
    """

    def __init__(self, path: str, maintain: Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]) -> None:
        self._path = path
        self._lock: FileLock | None = None
        self._maintain = maintain
        self._outage = OutageLog(logger, f"cannot checkpoint {path}", f"checkpoints of {path} work again")
        self._unusable = OutageLog(
            logger,
            f"this process cannot be elected to checkpoint {path}",
            f"this process can be elected again to checkpoint {path}",
        )
        self._large = OutageLog(
            logger,
            f"the write-ahead log of {path} is over {ALARM >> 20} MiB and grows",
            f"the write-ahead log of {path} is below {ALARM >> 20} MiB again",
        )
        self._refusals = 0
        self.writing = False

    @property
    def elected(self) -> bool:
        """Whether this process checkpoints, through this object."""
        return self._lock is not None and self._lock.held

    @property
    def wal_size(self) -> int:
        """Bytes that the WAL has now."""
        try:
            return os.stat(beside(self._path, "-wal")).st_size
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
        """Try to be elected; while elected, bound the WAL; warn if it is not bounded."""
        pinned = False
        if self.writing and await self._elect() and self.wal_size > LIMIT:
            pinned = not await self._maintain(_empty_wal)
        if self.wal_size > ALARM:
            self._large.failed(self._culprit(pinned))
        else:
            self._large.recovered()

    async def empty(self) -> None:
        """Empty the WAL now, if elected and if no reader needs it."""
        if self.elected:
            await self._maintain(_empty_wal)

    def release(self) -> None:
        """Let another process be elected. Idempotent."""
        if self._lock is not None:
            self._lock.release()

    async def _elect(self) -> bool:
        """Return whether this process is elected, after trying to be."""
        if self._lock is None:
            self._lock = FileLock(beside(self._path, "-checkpointer"), self._path)
        lock = self._lock
        if lock.held:
            if lock.check():
                return True
            await self._maintain(_never_checkpoint)  # its file was removed, so another process may be elected
        if not may(self._path, os.W_OK):
            lock.trouble = f"user {os.geteuid()} may not write the file"
        elif lock.acquire():
            await self._maintain(_checkpoint_automatically)
        self._note_refusal(lock.trouble)
        if not lock.held and not lock.trouble:
            self._tell_of_old_version()
        return lock.held

    def _note_refusal(self, trouble: str) -> None:
        self._refusals = self._refusals + 1 if trouble else 0
        if self._refusals >= PATIENCE:
            self._unusable.failed(trouble)
        elif not trouble:
            self._unusable.recovered()

    def _culprit(self, pinned: bool) -> str:
        """Return which process should checkpoint, and which ones may prevent it."""
        readers = holders(beside(self._path, "-shm"), "POSIX", *_READERS)
        by = f"processes that read it now: {_listed(readers)}" if readers else "none of them is visible from here"
        if pinned:
            return f"a connection keeps a read transaction open, so it cannot be emptied ({by}): end that transaction"
        if self.elected:
            return "this process checkpoints, and should empty it soon"
        elected = holders(beside(self._path, "-checkpointer"), "FLOCK")
        if elected:
            return (
                f"process {_listed(elected)} should checkpoint: if it is stopped or hangs, restart it; "
                f"a read transaction that stays open prevents it too ({by})"
            )
        trouble = self._lock.trouble if self._lock is not None else ""
        if trouble:
            return f"no process that is visible from here checkpoints, and this process cannot: {trouble}"
        return "no process that is visible from here checkpoints: open the file in a process that writes to it"

    def _tell_of_old_version(self) -> None:
        if sqlite3.sqlite_version_info < SAFE and self._path not in _told:
            _told.add(self._path)
            logger.info(
                "SQLite %s has a bug that can damage %s if two connections checkpoint at the same moment. It is "
                "avoided, because one process checkpoints; connections of your own to this file must not: "
                "PRAGMA wal_autocheckpoint = 0",
                sqlite3.sqlite_version,
                self._path,
            )


def _listed(processes: Sequence[int]) -> str:
    return ", ".join(str(process) if process else "one of another container" for process in processes)


def _checkpoint_automatically(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA wal_autocheckpoint = {PAGES:d}")


def _never_checkpoint(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA wal_autocheckpoint = 0")


def _empty_wal(db: sqlite3.Connection) -> bool:
    """Move every page that no reader still needs; truncate the WAL only if that was all, so that nothing waits.

    Returns whether it was all.
    """
    _, pages, moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages == moved:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return bool(pages == moved)
