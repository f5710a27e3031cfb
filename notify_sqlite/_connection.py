"""The two connections to one file, one that writes and one that reads. Each is opened at its first use.

Reading creates nothing: a file that does not exist, or that has none of our tables yet, is an empty log. Writing, and
entering `async with`, creates both.

Every call of the driver runs in a background task, as one whole job. Callers wait for its outcome, and cancelling a
caller abandons only that wait: a transaction is never left open halfway, with the lock of the file held.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeVar

import aiosqlite
import anyio

from notify import BackendError, NotifyError, PushRejectedError, UsageError
from notify.adapters import Background, LoopGuard

from . import _schema
from ._checkpoint import Checkpointer
from ._errors import DRIVER, failed_commit, rejected, unavailable
from ._file import touch
from ._opening import Path, SQLiteFile
from ._worker import Done, Job, Worker, close, execute_locking, roll_back, run, run_job

T = TypeVar("T")

MAX_ROWS: Final = 500
"""Rows that one transaction adds or removes at most: there is one write lock, and other processes wait for it."""

_GRACE: Final = 1.0


class SQLiteDatabase:
    """One file, with the two connections of one store or tracker.

    Invariants:
        I1. No transaction is open between two jobs.
        I2. Nothing is written in a forked process.

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
        is_busy: returns whether transactions are in progress that no job waits for; closing waits for them.
        abandon: called when closing has waited for long enough.
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
        self.file = SQLiteFile(path, _schema.statements(part, table_prefix), synchronous, timeout, network)
        self.path = self.file.path
        self.owner = owner
        self.sql = self.file.sql
        self.timeout = timeout
        self.jobs = Background(owner)
        self.services = Background(owner)
        self._closing = Background(owner)
        self._guard = LoopGuard(owner, asyncio_only=True)
        self.check = self._guard.check
        self._synchronous = synchronous
        self.is_busy: Callable[[], bool] = bool
        self.abandon: Callable[[], object] = bool
        self._settled: anyio.Event | None = None
        self._opening: anyio.Lock | None = None
        self._looked_after = False
        self._writer: Worker | None = None
        self._reader: aiosqlite.Connection | None = None
        self._durable = True
        self.checkpointer = Checkpointer(self.path, self.maintain)

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._guard.closed

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that used the database first; its threads are not here."""
        return self._guard.forked

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def read(self, job: Job[T], empty: T) -> T:
        """Run a job on the reading connection; called in the caller's task.

        Args:
            job: reads.
            empty: returned if there is no file, or if it has none of our tables.

        Raises:
            BackendUnavailableError: the job failed.
            ClosedError: the database is closed.
        """
        self.check()
        return await self.jobs.run(self._read, job, empty)

    async def change(self, job: Job[T], what: str) -> T:
        """Run a job inside one transaction, for anything but a push; called in a background task.

        Args:
            job: adds or removes at most `MAX_ROWS` rows.
            what: begins the message if it fails.

        Raises:
            BackendUnavailableError: nothing was changed.
        """
        try:
            return await self.write(job)
        except BackendError as error:
            raise unavailable(error, self.owner, self.path, what) from error

    async def write(self, job: Job[T]) -> T:
        """Run a job inside one transaction; called in a background task.

        Args:
            job: adds or removes at most `MAX_ROWS` rows.

        Raises:
            OverloadedError: the write lock was not free in time; nothing was stored.
            PushRejectedError: certainly nothing was stored.
            PushUncertainError: the outcome is unknown.
        """
        try:
            writer = self._writer or await self._open_writer()
            return await writer.run(partial(self._transact, job, self._deadline(), False, True))
        except DRIVER as error:
            raise rejected(error, self.owner, self.path) from error

    def when_open(self, function: Callable[[NotifyError | None], None]) -> None:
        """Call a function once there is a writing connection, or with the error if there can be none. Never waits."""
        if self._writer is not None:
            self._writer.call_soon(function, None)
        else:
            self.jobs.start(self._open_for, function)

    def write_soon(self, job: Job[T], until: float, durable: bool, done: Done) -> None:
        """Run a job inside one transaction, of which other processes are told; called when open. Never waits.

        Args:
            job: adds at most `MAX_ROWS` rows.
            until: when to stop waiting for the write lock, by `time.monotonic`.
            durable: whether the commit has to survive a power loss.
            done: called with the result, or with one of the errors of `write`.
        """
        assert self._writer is not None

        def translated(result: T | None, error: BaseException | None) -> None:
            if isinstance(error, DRIVER):
                refusal = rejected(error, self.owner, self.path)
                refusal.__cause__ = error
                done(None, refusal)
            else:
                done(result, error)

        self._writer.submit(partial(self._transact, job, until, True, durable), translated)

    def settled(self) -> None:
        """Note that `is_busy` returns False now."""
        if self._settled is not None:
            self._settled.set()

    async def maintain(self, job: Job[T]) -> T:
        """Run a job on the writing connection, without a transaction; called in a background task."""
        return await (self._writer or await self._open_writer()).run(job)

    async def connect(self) -> aiosqlite.Connection | None:
        """Open another connection that only reads, which the caller closes; None where there is no file yet."""
        if not self.file.exists():
            return None
        self.file.check_place()
        return await self.file.connect_reader()

    async def _read(self, job: Job[T], empty: T) -> T:
        def guarded(db: sqlite3.Connection) -> T:
            self.file.check()
            return job(db) if self.file.is_readable(db) else empty

        try:
            reader = self._reader or await self._open_reader()
            return empty if reader is None else await run(reader, guarded)
        except DRIVER as error:
            raise unavailable(error, self.owner, self.path, "cannot be read") from error

    def _transact(self, job: Job[T], until: float, announce: bool, durable: bool, db: sqlite3.Connection) -> T:
        """Run a job between BEGIN and COMMIT, in the connection's thread.

        BEGIN IMMEDIATE takes the write lock at once. A transaction that reads first and locks later fails with
        "database is locked" however long it may wait, because what it has read is out of date.
        """
        try:
            if db.in_transaction:
                roll_back(db)  # the rollback of an earlier job failed
            if durable != self._durable:
                db.execute(f"PRAGMA synchronous = {self._synchronous if durable else 'NORMAL'}")
                self._durable = durable
            execute_locking(db, "BEGIN IMMEDIATE", until, self.file.abandoned)
            try:
                self.file.check()
                result = run_job(job, db)
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
        if announce:
            touch(self.file.wal)
        return result

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout

    # -- opening and closing -------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Create the file and the tables, as far as they are missing.

        Raises:
            BackendUnavailableError: they cannot be created, or the file cannot be opened.
            ClosedError: the database is closed.
        """
        self.check()
        await self.jobs.run(self._prepare)

    async def _prepare(self) -> None:
        try:
            if self._writer is None:
                await self._open_writer()
            self.file.check()
        except DRIVER as error:
            raise unavailable(error, self.owner, self.path, "cannot be prepared") from error

    async def _open_for(self, function: Callable[[NotifyError | None], None]) -> None:
        refusal: NotifyError | None = PushRejectedError("the store was closed; nothing was stored", backend=self.owner)
        try:
            await self._open_writer()
            refusal = None
        except NotifyError as error:
            refusal = error
        except DRIVER as error:
            refusal = rejected(error, self.owner, self.path)
            refusal.__cause__ = error
        finally:
            function(refusal)

    async def _open_writer(self) -> Worker:
        async with self._lock():
            if self._writer is None:
                self.file.check_place()
                self._writer = Worker(await self.file.connect_writer())
                self.services.start(self._writer.serve)
                self.checkpointer.writing = True
                self._look_after()
            return self._writer

    async def _open_reader(self) -> aiosqlite.Connection | None:
        async with self._lock():
            if self._reader is None:
                self.file.check_place()
                if not self.file.exists():
                    return None
                self._reader = await self.file.connect_reader()
                self._look_after()
            return self._reader

    def _lock(self) -> anyio.Lock:
        if self._opening is None:
            self._opening = anyio.Lock()
        return self._opening

    def _look_after(self) -> None:
        if not self._looked_after:
            self._looked_after = True
            self.services.start(self.checkpointer.run)

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
        await self._until_settled(self.timeout + _GRACE)
        self.file.abandoned.set()
        await self.jobs.aclose(_GRACE)
        await self._until_settled(_GRACE)
        self.abandon()
        self.checkpointer.release()
        if self._reader is not None:
            await close(self._reader)
        if self._writer is not None:
            await self._writer.close()
        self._reader = self._writer = None

    async def _until_settled(self, seconds: float) -> None:
        with anyio.move_on_after(seconds, shield=True):
            while self.is_busy():
                self._settled = anyio.Event()
                await self._settled.wait()
