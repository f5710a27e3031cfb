"""One aiosqlite connection, used for whole jobs: each hop to its thread runs one function, not one statement.

A transaction that begins and ends inside one hop cannot be left open by a cancelled caller (aiosqlite would run the
statement and forget the transaction, with the write lock held), and costs one hop instead of four: 14,600
transactions a second against 4,200.

The thread is a daemon. aiosqlite's own threads are not, so a store that the application forgot to close would keep
the process from ending.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import aiosqlite
import anyio

from notify import NotifyError

from ._errors import LibraryBugError, NoConnectionError, bug, is_busy

logger = logging.getLogger("notify.sqlite")

T = TypeVar("T")

Job: TypeAlias = Callable[[sqlite3.Connection], T]
"""A function that a connection's thread runs."""

Done: TypeAlias = Callable[[Any, BaseException | None], None]
"""Takes the result of a job, or what it raised."""

_JOB: Final = "-- a job of notify_sqlite"

LOCK_WAIT: Final = 0.05
"""Seconds for which SQLite itself waits for a lock. It polls at growing intervals, up to 100 ms, so a connection that
has waited for long rarely finds the lock free; starting again at short intervals is fairer between processes."""


class Abandoned(Protocol):
    """Says whether waiting has become pointless, as a `threading.Event` does."""

    def is_set(self) -> bool:
        """Return whether to give up."""


class JobConnection(sqlite3.Connection):
    """A connection that also executes jobs. Only its own thread uses it."""

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """Execute a statement; or a job, whose result takes the place of the rows."""
        if sql is not _JOB:
            return super().execute(sql, parameters)
        job, loop = parameters
        try:
            return _JobResult(run_job(job, self))
        finally:
            if loop.is_closed():
                # aiosqlite would hand the result to the closed loop and print a traceback. The thread is a daemon and
                # has no further use, so it stops here.
                threading.Event().wait()

    def __del__(self) -> None:
        """Close a connection that was opened for a caller who had been cancelled by then, in whichever thread."""
        with suppress(sqlite3.Error):  # it could not be opened
            self.close()


class _JobResult:
    """Has the one method of a cursor that `execute_fetchall` calls."""

    def __init__(self, value: object) -> None:
        self._value = value

    def fetchall(self) -> list[object]:
        return [self._value]


def run_job(job: Callable[[sqlite3.Connection], T], db: sqlite3.Connection) -> T:
    """Run a job; report what neither SQLite nor the system, but only a mistake in this library can raise."""
    try:
        return job(db)
    except (NotifyError, LibraryBugError, OSError):
        raise
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError) and "closed" not in str(error):
            raise bug(error) from error
        raise
    except Exception as error:
        raise bug(error) from error


async def connect(path: str, *, create: bool, timeout: float = LOCK_WAIT) -> aiosqlite.Connection:
    """Open a connection in autocommit mode.

    Args:
        path: the file, absolute.
        create: whether to create the file if it does not exist.
        timeout: seconds for which each statement waits for a lock.

    Raises:
        sqlite3.Error: the file cannot be opened.
    Cancellation: a connection that is being opened is closed; that is waited for, for a second at most.
    """
    made: list[aiosqlite.Connection] = []
    url = f"{Path(path).as_uri()}?mode={'rwc' if create else 'rw'}"

    def make() -> None:
        options: dict[str, Any] = {"factory": JobConnection, "isolation_level": None, "timeout": timeout, "uri": True}
        made.append(aiosqlite.connect(url, check_same_thread=False, **options))

    maker = threading.Thread(target=make, daemon=True)  # a thread inherits from the one that makes it to be a daemon
    maker.start()
    maker.join()
    (connection,) = made
    try:
        return await connection
    except BaseException:
        # aiosqlite stops its thread without waiting for it. The thread could outlive the event loop and complain.
        thread: Any = getattr(connection, "_thread", connection)
        with anyio.move_on_after(1.0, shield=True):
            while thread.is_alive():  # noqa: ASYNC110 - a thread has nothing to wait for in the event loop
                await anyio.sleep(0.001)
        raise


async def run(connection: aiosqlite.Connection, job: Callable[[sqlite3.Connection], T]) -> T:
    """Run a job in the connection's thread. Called in a background task, which no caller's cancellation reaches.

    Raises:
        NoConnectionError: the connection is closed.
        LibraryBugError: the job has a bug.
    """
    try:
        (result,) = await connection.execute_fetchall(_JOB, (job, asyncio.get_running_loop()))
    except ValueError as error:
        raise NoConnectionError("the connection is closed") from error
    outcome: Any = result
    return outcome  # type: ignore[no-any-return]


class Worker:
    """A connection whose thread serves a queue of jobs.

    Handing over a job takes no task and two steps of the event loop, which is what a single push waits for. aiosqlite
    serves one job at a time: here that job is to serve these.

    Args:
        connection: used for nothing else.
    """

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Job[Any], Done] | None] = SimpleQueue()
        self._closed = False

    async def serve(self) -> None:
        """Keep the connection's thread at work; run as a service, which may be cancelled at any time."""
        await run(self._connection, self._serve)

    def submit(self, job: Job[Any], done: Done) -> None:
        """Run a job in the thread, then `done(result, error)` in the event loop; one of them is None. Never waits."""
        if self._closed:
            self.call_soon(done, None, NoConnectionError("the connection is closed"))
        else:
            self._jobs.put((job, done))

    async def run(self, job: Job[T]) -> T:
        """Run a job in the thread.

        Raises:
            NoConnectionError: the connection is closed.
            LibraryBugError: the job has a bug.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.submit(job, done)
        return await future

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function in the next step of the event loop."""
        self._loop.call_soon(function, *args)

    async def close(self) -> None:
        """Let what was submitted end, then close the connection. Idempotent."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            await close(self._connection)

    def _serve(self, db: sqlite3.Connection) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            result, error = None, None
            try:
                result = run_job(job, db)
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:  # the loop is closed: the thread ends where it takes the next look at it
                return
            del item, job, done, result, error  # hold nothing while waiting


def execute_locking(db: sqlite3.Connection, sql: str, until: float, abandoned: Abandoned) -> sqlite3.Cursor:
    """Execute a statement that needs the write lock, trying again while another connection holds it.

    Args:
        db: the writing connection.
        sql: the statement.
        until: when to give up, by `time.monotonic`.
        abandoned: ends the wait early.
    """
    while True:
        try:
            return db.execute(sql)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > until or abandoned.is_set():
                raise
        time.sleep(random.uniform(0.0005, 0.003))  # at random, so that waiting processes do not try in step


def roll_back(db: sqlite3.Connection) -> None:
    """End a failed transaction, unless SQLite has already done so; leaves none open."""
    if db.in_transaction:
        db.execute("ROLLBACK")


async def close(connection: aiosqlite.Connection, seconds: float = 2.0) -> None:
    """Close a connection, even while cancelled; one that does not answer in time is left to its daemon thread."""
    with anyio.move_on_after(seconds, shield=True) as scope:
        await connection.close()
    if scope.cancelled_caught:
        logger.warning("a SQLite connection did not answer within %s s and was left open", seconds)
