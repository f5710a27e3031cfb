"""One aiosqlite connection, used for whole jobs: a function of ours per hop to its thread, not a statement.

A transaction that begins and ends inside one hop cannot be left open by a cancelled caller, and costs one hop
instead of four. The thread is a daemon, so that a store that nobody closed does not keep the process alive.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import aiosqlite
import anyio

from notify import UsageError

from ._errors import is_busy

logger = logging.getLogger("notify.sqlite")

T = TypeVar("T")

_JOB: Final = "-- a job of notify_sqlite"
_TRY: Final = 0.05
"""Seconds for which SQLite itself waits for a lock. Its waits grow, so a new try now and then is fairer (C2)."""


class Abandoned(Protocol):
    """Says that waiting makes no sense any more: `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to give up."""


class Worker(sqlite3.Connection):
    """A connection that also executes jobs; only its own thread touches it."""

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """Execute a statement; or a job, whose result takes the place of the rows."""
        if sql is not _JOB:
            return super().execute(sql, parameters)
        job, loop = parameters
        try:
            return _Result(job(self))
        finally:
            if loop.is_closed():
                threading.Event().wait()  # nobody waits for the answer, and aiosqlite would print a traceback


class _Result:
    """What `execute_fetchall` takes for a cursor."""

    def __init__(self, value: object) -> None:
        self._value = value

    def fetchall(self) -> list[object]:
        return [self._value]


def running_loop() -> object:
    """Return the event loop of asyncio that runs here; None where none does."""
    return asyncio._get_running_loop()


async def connect(path: str, *, timeout: float = _TRY) -> aiosqlite.Connection:
    """Open a connection in autocommit mode.

    Args:
        path: the file.
        timeout: seconds for which each statement waits for a lock.

    Raises:
        UsageError: not on asyncio.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        raise UsageError("notify_sqlite runs on asyncio only, as its driver does") from error
    made: list[aiosqlite.Connection] = []

    def make() -> None:
        options: dict[str, Any] = {"factory": Worker, "isolation_level": None, "timeout": timeout}
        made.append(aiosqlite.connect(path, **options))

    maker = threading.Thread(target=make, daemon=True)  # the connection's thread inherits that it is a daemon
    maker.start()
    maker.join()
    (connection,) = made
    try:
        return await connection
    except sqlite3.Error:
        # aiosqlite tells its thread to stop and does not wait: the thread would find the event loop closed, and say so.
        thread: Any = getattr(connection, "_thread", connection)
        thread.join(1.0)
        raise


async def run(connection: aiosqlite.Connection, job: Callable[[sqlite3.Connection], T]) -> T:
    """Run a job in the connection's thread; called in a task of ours, which nobody's cancellation reaches."""
    (result,) = await connection.execute_fetchall(_JOB, (job, asyncio.get_running_loop()))
    outcome: Any = result
    return outcome  # type: ignore[no-any-return]


def insist(db: sqlite3.Connection, sql: str, patience: float, abandoned: Abandoned) -> sqlite3.Cursor:
    """Execute a statement that needs the lock of the file, again and again while somebody else holds it.

    Args:
        db: the writing connection.
        sql: the statement.
        patience: seconds to wait for the lock.
        abandoned: ends the wait early.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return db.execute(sql)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline or abandoned.is_set():
                raise
        time.sleep(random.uniform(0.0005, 0.003))


def roll_back(db: sqlite3.Connection) -> None:
    """End a transaction that failed, unless SQLite has done so itself; leaves none open."""
    if db.in_transaction:
        db.execute("ROLLBACK")


async def close(connection: aiosqlite.Connection, seconds: float = 2.0) -> None:
    """Close a connection, also while cancelled; one that does not answer in time is left to its daemon thread."""
    with anyio.move_on_after(seconds, shield=True) as scope:
        await connection.close()
    if scope.cancelled_caught:
        logger.warning("a SQLite connection does not answer; it was left behind")
