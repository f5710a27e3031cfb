"""The file that a store or tracker uses: checks before and after opening, its settings and tables, its connections."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import aiosqlite

from notify import UsageError

from . import _schema
from ._file import FileIdentity, beside, check_local, link_count
from ._worker import close, connect, execute_locking, roll_back, run

logger = logging.getLogger("notify.sqlite")

Path: TypeAlias = str | os.PathLike[str]

_SIZE_LIMIT: Final = 16 * 2**20
"""Bytes to which a WAL that grew larger is cut when SQLite starts it again from the beginning."""


class SQLiteFile:
    """One file, and what makes a connection to it fit for use.

    Invariants:
        I1. No connection is to any file but the one that was opened first.

    Args:
        path: the file; its directory exists.
        sql: the statements; see `_schema.statements`.
        synchronous: of the writing connection.
        timeout: seconds to wait for a lock.
        network: whether a network file system is accepted.

    Attributes:
        abandoned: set when waiting for a lock has become pointless.
    """

    def __init__(
        self,
        path: Path,
        sql: Mapping[str, str],
        synchronous: Literal["FULL", "NORMAL"],
        timeout: float,
        network: bool,
    ) -> None:
        self.path = _checked(path)
        self.sql = sql
        self.wal = ""
        self.abandoned = threading.Event()
        self._synchronous = synchronous
        self._timeout = timeout
        self._network = network
        self._identity: FileIdentity | None = None
        self._readable = False

    def exists(self) -> bool:
        """Return whether there is a file, as far as reading is concerned: one that was opened counts until closed."""
        if self._identity is not None:
            return True
        try:
            os.stat(self.path)
        except FileNotFoundError:
            return not os.path.isdir(os.path.dirname(os.path.realpath(self.path)))  # then opening says so
        except OSError:
            pass
        return True

    def is_readable(self, db: sqlite3.Connection) -> bool:
        """Return whether the tables that reading needs exist."""
        if not self._readable:
            self._readable = _schema.is_readable(db, self.sql)
        return self._readable

    def check(self) -> None:
        """Raise FileReplacedError if the path no longer names the file that was opened; keeps I1."""
        if self._identity is not None:
            self._identity.check()

    def check_place(self) -> None:
        """Raise UsageError if the file's location is not supported, FileReplacedError if the file was replaced."""
        if not self._network:
            check_local(self.path)
        self.check()

    async def connect_writer(self) -> aiosqlite.Connection:
        """Open a connection that writes; create the file and its tables, as far as they are missing."""
        writer = await connect(self.path, create=self._identity is None)  # keeps I1
        try:
            await run(writer, self._prepare_writer)
        except BaseException:
            await close(writer)
            raise
        return writer

    async def connect_reader(self) -> aiosqlite.Connection:
        """Open a connection that only reads; there is a file."""
        reader = await connect(self.path, create=False, timeout=self._timeout)
        try:
            await run(reader, self._prepare_reader)
        except BaseException:
            await close(reader)
            raise
        return reader

    def _prepare_reader(self, db: sqlite3.Connection) -> None:
        _configure(db)
        db.execute("PRAGMA query_only = ON")
        self._identify()

    def _prepare_writer(self, db: sqlite3.Connection) -> None:
        _configure(db)
        until = time.monotonic() + self._timeout
        (mode,) = execute_locking(db, "PRAGMA journal_mode = WAL", until, self.abandoned).fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"the file must support WAL mode, not only {mode!r}")
        db.execute(f"PRAGMA journal_size_limit = {_SIZE_LIMIT:d}")
        db.execute(f"PRAGMA synchronous = {self._synchronous}")
        db.execute("PRAGMA secure_delete = FAST")  # what is removed is overwritten where that costs no further write
        self._identify()
        if not _schema.is_ready(db, self.sql):
            execute_locking(db, "BEGIN IMMEDIATE", until, self.abandoned)
            try:
                _schema.create(db, self.sql)
            except BaseException:
                roll_back(db)
                raise
            db.execute("COMMIT")
        self._readable = True
        self.wal = beside(self.path, "-wal")

    def _identify(self) -> None:
        """Note which file this is, at the first connection; refuse a later one to another file, which keeps I1."""
        self.check()
        if self._identity is None:
            self._identity = FileIdentity(self.path)
            if link_count(self.path) > 1:
                logger.warning(
                    "%s is one of several hard links to one file. Processes that open it by different names damage it: "
                    "use one name everywhere, or a symbolic link",
                    self.path,
                )


def _checked(path: Path) -> str:
    """Return the absolute path, or raise UsageError where it does not name a file."""
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"path must be the path of a file, not {type(path).__name__}")
    name = os.fsdecode(path)
    if "://" in name:
        raise UsageError(f"path must be the path of a file, not a URL: {name.partition('://')[0]:.20}://...")
    if not name or name == ":memory:" or name.startswith("file:"):
        raise UsageError(
            f"path must name a file, not {name!r}: give the plain path, without file: and options; "
            "to keep events in memory use MemoryStore"
        )
    return os.path.abspath(name)


def _configure(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA mmap_size = 0")
    db.execute("PRAGMA trusted_schema = OFF")
