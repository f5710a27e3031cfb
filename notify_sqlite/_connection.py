"""The two connections to one file, one that writes and one that reads. They are opened at first use.

Every call of the driver runs in a background task, as one whole job. Callers wait for its outcome, and cancelling a
caller abandons only that wait: a transaction is never left open halfway, with the lock of the file held.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeAlias, TypeVar

import aiosqlite
import anyio

from notify import UsageError
from notify.adapters import Background, LoopGuard

from . import _schema
from ._checkpoint import Checkpointer
from ._errors import DRIVER, failed_commit, rejected, unavailable
from ._file import FileIdentity, FileLock, check_local
from ._worker import close, connect, execute_locking, roll_back, run

T = TypeVar("T")

Job: TypeAlias = Callable[[sqlite3.Connection], T]
"""A function that a connection's thread runs."""

Path: TypeAlias = str | os.PathLike[str]

MAX_ROWS: Final = 500
"""Rows that one transaction adds or removes at most: there is one write lock, and other processes wait for it."""

_GRACE: Final = 1.0

_SIZE_LIMIT: Final = 16 * 2**20
"""Bytes to which a WAL that grew larger is cut when SQLite starts it again from the beginning."""


class SQLiteDatabase:
    """One file, with the two connections of one store or tracker.

    Invariants:
        I1. No transaction is open between two jobs.
        I2. Nothing is written to any file but the one that was opened first, nor in a forked process.

    Args:
        path: the file; its directory exists.
        owner: the class that uses it, for messages.
        part: which tables: a file of `_sql`.
        table_prefix: begins the name of each table.
        synchronous: `"FULL"` or `"NORMAL"`.
        timeout: seconds to wait for the write lock.
        network: whether a network file system is accepted.

    Attributes:
        check: raises unless the database can be used here and now; see `LoopGuard.check`.
        jobs: tasks of callers; closing waits for them.
        services: tasks that run as long as the database is open; closing cancels them.
    """

    def __init__(
        self,
        path: Path,
        *,
        owner: str,
        part: str,
        table_prefix: str,
        synchronous: Literal["FULL", "NORMAL"],
        timeout: float,
        network: bool,
    ) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise UsageError(f'synchronous must be "FULL" or "NORMAL", not {synchronous!r}')
        if not timeout > 0:
            raise UsageError(f"timeout must be greater than 0, not {timeout!r}")
        self.path = _checked(path)
        self.owner = owner
        self.sql = _schema.statements(part, table_prefix)
        self.timeout = timeout
        self.jobs = Background(owner)
        self.services = Background(owner)
        self._closing = Background(owner)
        self._guard = LoopGuard(owner, asyncio_only=True)
        self.check = self._guard.check
        self._synchronous = synchronous
        self._network = network
        self._opening: anyio.Lock | None = None
        self._identity: FileIdentity | None = None
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._abandoned = threading.Event()
        self.checkpointer = Checkpointer(self.path, FileLock(f"{self.path}-checkpointer"), self.maintain)

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._guard.closed

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that used the database first; its threads are not here."""
        return self._guard.forked

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def read(self, job: Job[T]) -> T:
        """Run a job on the reading connection; called in the caller's task.

        Raises:
            BackendUnavailableError: the job failed.
            ClosedError: the database is closed.
        """
        self.check()
        return await self.jobs.run(self._read, job)

    async def write(self, job: Job[T], until: float | None = None) -> T:
        """Run a job inside one transaction; called in a background task.

        Args:
            job: adds or removes at most `MAX_ROWS` rows.
            until: when to stop waiting for the write lock, by `time.monotonic`; None: after the timeout.

        Raises:
            OverloadedError: the write lock was not free in time; nothing was stored.
            PushRejectedError: certainly nothing was stored.
            PushUncertainError: the outcome is unknown.
        """
        try:
            writer, _ = await self._open()
        except DRIVER as error:
            raise rejected(error, self.owner, self.path) from error
        try:
            return await run(writer, partial(self._transact, job, until or self._deadline()))
        except ValueError as error:  # raised by aiosqlite if the connection is closed
            raise rejected(error, self.owner, self.path) from error

    async def maintain(self, job: Job[T]) -> T:
        """Run a job on the writing connection, without a transaction; called in a background task."""
        writer, _ = await self._open()
        return await run(writer, job)

    async def connect(self) -> aiosqlite.Connection:
        """Open another connection that only reads; the caller closes it."""
        await self._open()
        return await self._connect_reader()

    def check_file(self) -> None:
        """Raise FileReplacedError if the path no longer names the file that was opened; keeps I2."""
        if self._identity is not None:
            self._identity.check()

    async def _read(self, job: Job[T]) -> T:
        def guarded(db: sqlite3.Connection) -> T:
            self.check_file()
            return job(db)

        try:
            _, reader = await self._open()
            return await run(reader, guarded)
        except DRIVER as error:
            raise unavailable(error, self.owner, self.path) from error

    def _transact(self, job: Job[T], until: float, db: sqlite3.Connection) -> T:
        """Run a job between BEGIN and COMMIT, in the connection's thread.

        BEGIN IMMEDIATE takes the write lock at once. A transaction that reads first and locks later fails with
        "database is locked" however long it may wait, because what it has read is out of date.
        """
        try:
            roll_back(db)  # if the rollback of an earlier job failed
            execute_locking(db, "BEGIN IMMEDIATE", until, self._abandoned)
            try:
                self.check_file()
                result = job(db)
            except BaseException:
                roll_back(db)  # keeps I1
                raise
        except DRIVER as error:
            raise rejected(error, self.owner, self.path) from error
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            roll_back(db)  # keeps I1
            raise failed_commit(error, self.owner, self.path) from error
        return result

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout

    # -- opening and closing -------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the connections now.

        Raises:
            BackendUnavailableError: the file cannot be opened.
        """
        await self.read(_nothing)

    async def _open(self) -> tuple[aiosqlite.Connection, aiosqlite.Connection]:
        if self._writer is not None and self._reader is not None:
            return self._writer, self._reader
        if self._opening is None:
            self._opening = anyio.Lock()
        async with self._opening:
            if self._writer is None or self._reader is None:
                await self._open_both()
            assert self._writer is not None
            assert self._reader is not None
            return self._writer, self._reader

    async def _open_both(self) -> None:
        if not self._network:
            check_local(self.path)
        self.check_file()
        writer = await connect(self.path, create=self._identity is None)  # keeps I2
        try:
            await run(writer, self._prepare_writer)
            reader = await self._connect_reader()
        except BaseException:
            await close(writer)
            raise
        self._writer, self._reader = writer, reader
        self.services.start(self.checkpointer.run)

    async def _connect_reader(self) -> aiosqlite.Connection:
        reader = await connect(self.path, create=False, timeout=self.timeout)
        try:
            await run(reader, _prepare_reader)
        except BaseException:
            await close(reader)
            raise
        return reader

    def _prepare_writer(self, db: sqlite3.Connection) -> None:
        _prepare(db)
        (mode,) = execute_locking(db, "PRAGMA journal_mode = WAL", self._deadline(), self._abandoned).fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"the file must support WAL mode, not only {mode!r}")
        db.execute(f"PRAGMA journal_size_limit = {_SIZE_LIMIT:d}")
        db.execute(f"PRAGMA synchronous = {self._synchronous}")
        if self._identity is None:
            self._identity = FileIdentity(self.path)
        if not _schema.is_ready(db, self.sql):
            execute_locking(db, "BEGIN IMMEDIATE", self._deadline(), self._abandoned)
            try:
                _schema.create(db, self.sql)
            except BaseException:
                roll_back(db)
                raise
            db.execute("COMMIT")

    async def aclose(self) -> None:
        """Let jobs finish, then close, within a few seconds. Idempotent. Cancelling abandons only the wait."""
        if self.closed:
            return
        self._guard.close()
        if not self.forked:
            await self._closing.run(self._close)

    async def _close(self) -> None:
        await self.services.aclose(_GRACE)
        await self.jobs.settle(self.timeout + _GRACE)
        self._abandoned.set()
        await self.jobs.aclose(_GRACE)
        self.checkpointer.release()
        for connection in (self._reader, self._writer):
            if connection is not None:
                await close(connection)
        self._reader = self._writer = None


def _checked(path: Path) -> str:
    """Return the absolute path, or raise UsageError where it does not name a file."""
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"path must be the path of a file, not {type(path).__name__}")
    name = os.fsdecode(path)
    if "://" in name:
        raise UsageError(f"path must be the path of a file, not a URL: {name.partition('://')[0]:.20}://...")
    if not name or name == ":memory:" or name.startswith("file:"):
        raise UsageError(f"path must name a file, not {name!r}; to keep events in memory use MemoryStore")
    return os.path.abspath(name)


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA mmap_size = 0")
    db.execute("PRAGMA trusted_schema = OFF")


def _prepare_reader(db: sqlite3.Connection) -> None:
    _prepare(db)
    db.execute("PRAGMA query_only = ON")


def _nothing(db: sqlite3.Connection) -> None:
    """Do nothing: the caller only needs an open connection."""
