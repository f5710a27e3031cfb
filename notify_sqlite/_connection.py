"""The connections to one file: opened at first use, one that writes, one that reads, and who waits for them.

Every call of the driver runs in a task of ours; callers wait for its outcome, and cancelling them abandons that alone.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeAlias, TypeVar

import aiosqlite
import anyio

from notify import Background, ClosedError, UsageError

from . import _schema
from ._checkpoint import Checkpointer
from ._errors import DRIVER, failed_commit, rejected, unavailable
from ._file import FileIdentity, FileLock, check_local
from ._worker import close, connect, insist, roll_back, run, running_loop

T = TypeVar("T")

Job: TypeAlias = Callable[[sqlite3.Connection], T]
"""A function that a connection's thread runs."""

Path: TypeAlias = str | os.PathLike[str]

_GRACE: Final = 1.0

_SIZE_LIMIT: Final = 16 * 2**20
"""Bytes to which a WAL that grew larger is cut when it starts anew."""


class SQLiteDatabase:
    """One file, with the two connections of one store or tracker.

    Invariants:
        I1. No transaction is open between two jobs.
        I2. Nothing is written to a file other than the one that was opened first, nor in a fork.

    Args:
        path: the file; its directory exists.
        owner: the class that uses it, for messages.
        part: which tables: a file of `_sql`.
        table_prefix: begins the name of each table.
        synchronous: `"FULL"` or `"NORMAL"`.
        timeout: seconds to wait for somebody else who writes.
        network: whether a network file system is accepted.
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
        if not isinstance(path, str | os.PathLike):
            raise UsageError(f"path is the path of a file, not {type(path).__name__}")
        name = os.fsdecode(path)
        if "://" in name:
            raise UsageError(f"path is the path of a file, not a URL: {name.partition('://')[0]:.20}://...")
        if not name or name == ":memory:" or name.startswith("file:"):
            raise UsageError(f"path names a file, not {name!r}; for events in memory there is MemoryStore")
        if synchronous not in ("FULL", "NORMAL"):
            raise UsageError(f'synchronous is "FULL" or "NORMAL", not {synchronous!r}')
        if not timeout > 0:
            raise UsageError(f"timeout must be greater than 0, not {timeout!r}")
        self.path = os.path.abspath(name)
        self.owner = owner
        self.sql = _schema.statements(part, table_prefix)
        self.jobs = Background(owner)
        self.services = Background(owner)
        self._closing = Background(owner)
        self._synchronous = synchronous
        self._patience = timeout
        self._network = network
        self._gate: anyio.Lock | None = None
        self._pid = 0
        self._loop: object = None
        self._identity: FileIdentity | None = None
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._abandoned = threading.Event()
        self.closed = False
        self.checkpointer = Checkpointer(self.path, FileLock(f"{self.path}-checkpointer"), self.maintain)

    # -- jobs ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise unless the database can be used here.

        Raises:
            ClosedError: it is closed.
            UsageError: it was opened before a fork, or used in another event loop.
        """
        if self.closed:
            raise ClosedError(f"{self.owner} is closed")
        if self.forked:
            raise UsageError(
                f"{self.owner} was opened in process {self._pid} and cannot be used in its fork {os.getpid()}: "
                "make a new one after the fork"
            )
        loop = running_loop()
        if self._loop is None:
            self._loop = loop
        elif loop is not self._loop:
            raise UsageError(f"this {self.owner} belongs to another event loop; make one for each loop")

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that opened the database; no thread would answer here."""
        return self._pid not in (0, os.getpid())

    async def read(self, job: Job[T]) -> T:
        """Run a job on the reading connection, for any caller.

        Raises:
            BackendUnavailableError: it failed.
            ClosedError: the database is closed.
        """
        self.check()
        return await self.jobs.run(self._read, job)

    async def write(self, job: Job[T]) -> T:
        """Run a job inside one transaction; called in a task of ours.

        Raises:
            PushRejectedError: certainly nothing was stored.
            PushUncertainError: the outcome is unknown.
        """
        try:
            writer, _ = await self._open()
        except DRIVER as error:
            raise rejected(error, self.owner, self.path) from error
        try:
            return await run(writer, partial(self._transact, job))
        except ValueError as error:  # aiosqlite's, for a connection that is closed
            raise rejected(error, self.owner, self.path) from error

    async def maintain(self, job: Job[T]) -> T:
        """Run a job on the writing connection without a transaction; called in a task of ours."""
        writer, _ = await self._open()
        return await run(writer, job)

    async def connect(self) -> aiosqlite.Connection:
        """Open one more connection that only reads; the caller closes it."""
        await self._open()
        return await self._connect_reader()

    def check_file(self) -> None:
        """Raise FileReplacedError where the file is no longer the one that was opened; keeps I2."""
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

    def _transact(self, job: Job[T], db: sqlite3.Connection) -> T:
        """Run a job between BEGIN and COMMIT, in the connection's thread."""
        try:
            roll_back(db)  # where an earlier attempt to do so failed
            insist(db, "BEGIN IMMEDIATE", self._patience, self._abandoned)
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

    # -- opening and closing -------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the connections now.

        Raises:
            BackendUnavailableError: that failed.
        """
        self.check()
        await self.jobs.run(self._read, _nothing)

    async def _open(self) -> tuple[aiosqlite.Connection, aiosqlite.Connection]:
        if self._writer is not None and self._reader is not None:
            return self._writer, self._reader
        if self._gate is None:
            self._gate = anyio.Lock()
        async with self._gate:
            if self._writer is None or self._reader is None:
                await self._open_both()
            assert self._writer is not None
            assert self._reader is not None
            return self._writer, self._reader

    async def _open_both(self) -> None:
        if not self._network:
            check_local(self.path)
        self.check_file()
        self._pid = os.getpid()
        writer = await connect(self.path)
        try:
            await run(writer, self._prepare_writer)
            reader = await self._connect_reader()
        except BaseException:
            await close(writer)
            raise
        self._writer, self._reader = writer, reader
        self.services.start(self.checkpointer.run)

    async def _connect_reader(self) -> aiosqlite.Connection:
        reader = await connect(self.path, timeout=self._patience)
        try:
            await run(reader, _prepare_reader)
        except BaseException:
            await close(reader)
            raise
        return reader

    def _prepare_writer(self, db: sqlite3.Connection) -> None:
        _prepare(db)
        (mode,) = insist(db, "PRAGMA journal_mode = WAL", self._patience, self._abandoned).fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"the file cannot be used in WAL mode, only in mode {mode!r}")
        db.execute(f"PRAGMA journal_size_limit = {_SIZE_LIMIT:d}")
        db.execute(f"PRAGMA synchronous = {self._synchronous}")
        if self._identity is None:
            self._identity = FileIdentity(self.path)
        if not _schema.is_ready(db, self.sql):
            insist(db, "BEGIN IMMEDIATE", self._patience, self._abandoned)
            try:
                _schema.create(db, self.sql)
            except BaseException:
                roll_back(db)
                raise
            db.execute("COMMIT")

    async def aclose(self) -> None:
        """Let jobs finish, then close; takes a few seconds at most. Idempotent. Cancelling abandons only the wait."""
        if self.closed:
            return
        self.closed = True
        if not self.forked:
            await self._closing.run(self._close)

    async def _close(self) -> None:
        await self.services.aclose(_GRACE)
        await self.jobs.settle(self._patience + _GRACE)
        self._abandoned.set()
        await self.jobs.aclose(_GRACE)
        self.checkpointer.release()
        for connection in (self._reader, self._writer):
            if connection is not None:
                await close(connection)
        self._reader = self._writer = None


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA mmap_size = 0")
    db.execute("PRAGMA trusted_schema = OFF")


def _prepare_reader(db: sqlite3.Connection) -> None:
    _prepare(db)
    db.execute("PRAGMA query_only = ON")


def _nothing(db: sqlite3.Connection) -> None:
    """Do nothing; the connection is open."""
