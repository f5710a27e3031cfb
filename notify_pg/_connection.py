"""The way to the database: a pool of ours or the caller's, the schema at first use, the server's clock.

Everything in here runs in tasks that the library owns. A caller who is cancelled abandons a future, so the driver never
sees a cancellation but at the end: a cancelled query would open a further connection to cancel it, and its outcome
would be unknown.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from notify.errors import ClosedError, UsageError

from ._dsn import check_dsn, connect
from ._errors import PostgresDisposition, disposition_of, unavailable
from ._names import PostgresNames
from ._pool import CallerPool, Connection, ConnectionPool, OwnPool
from ._schema import prepare

OLDEST: Final = 14
"""The first version of the server that will do."""

OTHERS: Final = 3
"""Connections of the pool that reads leave alone: two for batches of saves, one for the doorbell."""


class PostgresDatabase:
    """Connections to one database.

    Args:
        where: a DSN, or a pool of the caller's that is never closed here.
        names: of the tables.
        backend: the name of whom errors speak.
        timeout: seconds for one call.
        pool_size: connections at most, where the pool is ours.
        tables: whether there are tables to be made.

    Attributes:
        is_prepared: whether the tables are known to be there.
        is_pooled: whether the way leads through a pooler, where no session is ours.
    """

    def __init__(
        self,
        where: str | asyncpg.Pool,
        names: PostgresNames,
        *,
        backend: str,
        timeout: float,
        pool_size: int,
        tables: bool = True,
    ) -> None:
        if not isinstance(where, str | asyncpg.Pool):
            raise UsageError(f"where is a DSN or an asyncpg pool, not {type(where).__name__}")
        if isinstance(where, str):
            check_dsn(where)
        if not timeout > 0 or pool_size < 1:
            raise UsageError(f"timeout and pool_size are positive: {timeout!r}, {pool_size!r}")
        self.names = names
        self.backend = backend
        self.timeout = timeout
        self.is_pooled = False
        self.closed = False
        self._dsn = where if isinstance(where, str) else None
        self._pool: ConnectionPool | None = None if isinstance(where, str) else CallerPool(where)
        self._listen_dsn: str | None = None
        self._kept = 0
        self._has_tables = tables
        self._size = pool_size if self._pool is None else self._pool.size
        self._reads = asyncio.Semaphore(max(1, self._size - OTHERS))
        self._starting = asyncio.Lock()
        self.is_prepared = False
        self._offset = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def listen_at(self, dsn: str | None) -> None:
        """Say where to listen: at this DSN; None: at `where`, over a connection that is kept for good.

        Raises:
            UsageError: it is no DSN.
        """
        if dsn is not None:
            check_dsn(dsn)
        self._listen_dsn = dsn
        self._kept = int(dsn is None)

    # -- guards --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise unless this is open and in its own process and event loop.

        Raises:
            ClosedError: it is closed.
            UsageError: another process (after a fork), another event loop, or not asyncio.
        """
        if self.closed:
            raise ClosedError(f"{self.backend} is closed")
        loop = asyncio._get_running_loop()
        if loop is not self._loop or os.getpid() != self._process:
            self._bind(loop)

    def _bind(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if self._loop is not None and os.getpid() != self._process:  # where asyncio denies that its loop is running
            raise UsageError(f"this {self.backend} belongs to another process: make it after the fork")
        if loop is None:
            raise UsageError(f"{self.backend} runs on asyncio only: its driver does")
        if self._loop is not None:
            raise UsageError(f"this {self.backend} belongs to another event loop")
        self._loop = loop
        self._process = os.getpid()

    # -- connections ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connection(self, patience: float) -> AsyncIterator[Connection]:
        """Lend a connection, with the schema in place; one that may be out of step is never used again.

        Args:
            patience: seconds to wait for it.
        """
        async with asyncio.timeout(patience):
            pool = self._pool if self.is_prepared and self._pool is not None else await self._start()
            connection = await pool.acquire()
        try:
            yield connection
        except BaseException as error:
            what = disposition_of(error)
            if what in (PostgresDisposition.LOST, PostgresDisposition.UNSENT):
                connection.terminate()
            elif what is PostgresDisposition.READ_ONLY:
                await pool.expire()
            elif what is PostgresDisposition.UNPREPARED:
                self.is_prepared = False
            raise
        finally:
            await pool.release(connection)

    async def fetch(self, query: str, *args: object) -> list[Any]:
        """Run a query that is not a save and return its rows.

        A connection that the server has ended, and of which the driver has yet to learn, is no reason to fail: nothing
        was sent over it, so the next one is tried.

        Raises:
            BackendUnavailableError: it failed.
        """
        until = time.monotonic() + self.timeout
        for spare in reversed(range(self._size + 1)):
            left = until - time.monotonic()
            try:
                async with self.connection(left) as connection:
                    rows: list[Any] = await connection.fetch(query, *args, timeout=left)
                    return rows
            except UsageError:
                raise
            except Exception as error:
                if disposition_of(error) is not PostgresDisposition.UNSENT or not spare or self.closed:
                    raise unavailable(error, self.backend) from error
        raise AssertionError("the last attempt returns or raises")  # pragma: no cover - for the type checker

    async def read(self, query: str, *args: object) -> list[Any]:
        """As `fetch`; so many at a time that saves and the doorbell always find a connection."""
        async with self._reads:
            return await self.fetch(query, *args)

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[Connection]:
        """Open a connection of its own for listening; where only a pool was given, keep one of the pool's."""
        dsn = self._listen_dsn or self._dsn
        if dsn is None:
            async with self.connection(self.timeout) as connection:
                try:
                    yield connection
                finally:
                    connection.terminate()  # not `close`, which may hang; and nobody may inherit its listeners
        else:
            async with asyncio.timeout(self.timeout):
                connection = await connect(dsn, statement_cache_size=0, command_timeout=self.timeout)
            try:
                yield connection
            finally:
                connection.terminate()

    async def aclose(self) -> None:
        """Close connections of ours. Idempotent."""
        self.closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    # -- starting ------------------------------------------------------------------------------------------------

    async def _start(self) -> ConnectionPool:
        async with self._starting:
            self.check()
            if self._pool is None:
                assert self._dsn is not None
                connection = await connect(self._dsn, statement_cache_size=0, command_timeout=self.timeout)
                try:
                    await self._prepare(connection)
                finally:
                    connection.terminate()
                names = 0 if self.is_pooled else 100
                self._pool = OwnPool(self._dsn, self._size, statement_cache_size=names, command_timeout=self.timeout)
            elif not self.is_prepared:
                connection = await self._pool.acquire()
                try:
                    await self._prepare(connection)
                finally:
                    await self._pool.release(connection)
            self.is_prepared = True
            return self._pool

    async def _prepare(self, connection: Connection) -> None:
        async with connection.transaction():
            backend = await connection.fetchval("SELECT pg_backend_pid()")
            self.is_pooled = backend != connection.get_server_pid()  # a pooler answers with a number of its own
            await self._check_settings(connection)
            if self._has_tables:
                await prepare(connection, self.names)
            self.set_clock(await connection.fetchval("SELECT (date_part('epoch', clock_timestamp()) * 1e6)::bigint"))

    async def _check_settings(self, connection: Connection) -> None:
        """Raise UsageError where the server or a setting of its sessions would break promises later, without a word."""
        row = await connection.fetchrow(self.names.sql("settings"))
        if row["version"] < OLDEST * 10_000:
            raise UsageError(f"PostgreSQL {OLDEST} or later is needed; this server is {row['version'] // 10_000}")
        if row["encoding"] != "UTF8":
            raise UsageError(f"the database must be in UTF8, not {row['encoding']}: not every user id would fit")
        if row["isolation"] != "read committed":
            raise UsageError(
                f"default_transaction_isolation is {row['isolation']!r}: concurrent pushes would fail. Append "
                "`?default_transaction_isolation=read%20committed` to the DSN, or set `server_settings` of the pool"
            )
        if self._dsn is None and self._size <= self._kept:
            raise UsageError(f"a pool of {self._size} has no connection left beside the one that is kept to listen")

    # -- the server's clock --------------------------------------------------------------------------------------

    def set_clock(self, micros: int) -> None:
        """Note what the server's clock has just shown."""
        self._offset = micros - time.monotonic_ns() // 1000

    def server_micros(self, moment: float) -> int:
        """Return what the server's clock will show at this moment of our monotonic one."""
        return int(moment * 1e6) + self._offset
