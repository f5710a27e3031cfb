"""Access to the database: our own pool or the caller's, the schema at first use, and the server's clock.

Everything here runs in tasks that the library owns. A cancelled caller abandons a future, so the driver sees a
cancellation only at shutdown. Otherwise asyncpg would open a further connection for each cancelled query in order to
cancel it on the server, and the outcome of the query would be unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from notify.adapters import LoopGuard
from notify.errors import UsageError

from ._dsn import check_dsn, connect
from ._errors import PostgresDisposition, disposition_of, unavailable
from ._names import PostgresNames
from ._pool import CallerPool, Connection, ConnectionPool, OwnPool
from ._schema import prepare

MIN_VERSION: Final = 14
"""The oldest supported version of the server."""

RESERVED: Final = 3
"""Connections of the pool that reads leave free: two for batches of saves, one for wake messages."""


class PostgresDatabase:
    """Connections to one database.

    Args:
        dsn: a DSN, or a pool of the caller's, which is never closed here.
        names: of the tables.
        backend: the name that errors give to this part.
        timeout: seconds for one call.
        pool_size: connections at most, where a DSN was given.
        tables: whether the part needs tables.

    Attributes:
        check: raises unless this is open, and in its own process and event loop (`LoopGuard.check`).
        is_prepared: whether the tables are known to exist.
        is_pooled: whether a pooler stands in between, so that a session may change from one transaction to the next.
    """

    def __init__(
        self,
        dsn: str | asyncpg.Pool,
        names: PostgresNames,
        *,
        backend: str,
        timeout: float,
        pool_size: int,
        tables: bool = True,
    ) -> None:
        if not isinstance(dsn, str | asyncpg.Pool):
            raise UsageError(f"dsn must be a DSN or an asyncpg pool, got {type(dsn).__name__}")
        if isinstance(dsn, str):
            check_dsn(dsn)
        for option, value in (("timeout", timeout), ("pool_size", pool_size)):
            if not value > 0:
                raise UsageError(f"{option} must be greater than 0, not {value!r}")
        self.names = names
        self.backend = backend
        self.timeout = timeout
        self.is_pooled = False
        self.is_prepared = False
        self._guard = LoopGuard(backend, asyncio_only=True)
        self.check = self._guard.check
        self._dsn = dsn if isinstance(dsn, str) else None
        self._pool: ConnectionPool | None = None if isinstance(dsn, str) else CallerPool(dsn)
        self._listen_dsn: str | None = None
        self._kept_to_listen = 0
        self._has_tables = tables
        self._size = pool_size if self._pool is None else self._pool.size
        self._reads = asyncio.Semaphore(max(1, self._size - RESERVED))
        self._starting = asyncio.Lock()
        self._clock_offset = 0

    def set_listen_dsn(self, listen_dsn: str | None) -> None:
        """Set the address of the listening connection; None: the same as `dsn`, or one connection of the given pool.

        Raises:
            UsageError: not a DSN.
        """
        if listen_dsn is not None:
            check_dsn(listen_dsn)
        self._listen_dsn = listen_dsn
        self._kept_to_listen = int(listen_dsn is None)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._guard.closed

    def close(self) -> None:
        """Make `check` raise ClosedError from now on; connections stay usable until `aclose`. Idempotent."""
        self._guard.close()

    async def aclose(self) -> None:
        """Close the connections that this library has opened. Idempotent."""
        self.close()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    # -- connections ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connection(self, wait: float) -> AsyncIterator[Connection]:
        """Lend a connection to a prepared database.

        A connection whose last statement has an unknown outcome is closed rather than returned: a late answer would
        be taken for that of the next statement.

        Args:
            wait: seconds to wait for a connection.
        """
        async with asyncio.timeout(wait):
            pool = self._pool if self.is_prepared and self._pool is not None else await self._start()
            connection = await pool.acquire()
        try:
            yield connection
        except BaseException as error:
            disposition = disposition_of(error)
            if disposition in (PostgresDisposition.LOST, PostgresDisposition.UNSENT, PostgresDisposition.BUG):
                connection.terminate()
            elif disposition is PostgresDisposition.READ_ONLY:
                await pool.expire()  # they all lead to the standby
            elif disposition is PostgresDisposition.UNPREPARED:
                self.is_prepared = False
            raise
        finally:
            await pool.release(connection)

    async def fetch(self, query: str, *args: object) -> list[Any]:
        """Run a query that is not a save and return its rows.

        When the server has closed idle connections, the driver may not have noticed yet. Nothing is sent over such a
        connection, so the query is retried with the next one, at most once for each connection of the pool.

        Raises:
            BackendUnavailableError: it failed.
        """
        until = time.monotonic() + self.timeout
        for retries_left in reversed(range(self._size + 1)):
            left = until - time.monotonic()
            try:
                async with self.connection(left) as connection:
                    rows: list[Any] = await connection.fetch(query, *args, timeout=left)
                    return rows
            except UsageError:
                raise
            except Exception as error:
                unsent = disposition_of(error) is PostgresDisposition.UNSENT
                if not unsent or not retries_left or self.closed:
                    raise unavailable(error, self.backend) from error
        raise AssertionError("the last attempt returns or raises")  # pragma: no cover - for the type checker

    async def read(self, query: str, *args: object) -> list[Any]:
        """As `fetch`, but limited in number, so that saves and wake messages always find a free connection."""
        async with self._reads:
            return await self.fetch(query, *args)

    @asynccontextmanager
    async def listening_connection(self) -> AsyncIterator[Connection]:
        """Open a connection for listening only. Where only a pool was given, take one of its connections for that.

        At the end it is terminated, because an orderly close may hang, and because a pooled connection must not carry
        its listeners over to the next borrower.
        """
        dsn = self._listen_dsn or self._dsn
        if dsn is None:
            async with self.connection(self.timeout) as connection:
                try:
                    yield connection
                finally:
                    connection.terminate()
        else:
            async with asyncio.timeout(self.timeout):
                connection = await connect(dsn, statement_cache_size=0, command_timeout=self.timeout)
            try:
                yield connection
            finally:
                connection.terminate()

    # -- first use -----------------------------------------------------------------------------------------------

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
                statements = 0 if self.is_pooled else 100  # behind a pooler the next transaction may not know the name
                self._pool = OwnPool(
                    self._dsn, self._size, statement_cache_size=statements, command_timeout=self.timeout
                )
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
            backend_pid = await connection.fetchval("SELECT pg_backend_pid()")
            self.is_pooled = backend_pid != connection.get_server_pid()  # a pooler announces its own number
            await self._check_settings(connection)
            if self._has_tables:
                await prepare(connection, self.names)
            self.set_clock(await connection.fetchval("SELECT (date_part('epoch', clock_timestamp()) * 1e6)::bigint"))

    async def _check_settings(self, connection: Connection) -> None:
        """Raise UsageError where the server or its settings would silently break a promise later."""
        row = await connection.fetchrow(self.names.sql("settings"))
        if row["version"] < MIN_VERSION * 10_000:
            raise UsageError(
                f"PostgreSQL {MIN_VERSION} or later is required; this server is {row['version'] // 10_000}"
            )
        if row["encoding"] != "UTF8":
            raise UsageError(
                f"the database's encoding must be UTF8, not {row['encoding']}: it cannot hold every user id"
            )
        if row["isolation"] != "read committed":
            raise UsageError(
                f"default_transaction_isolation is {row['isolation']!r}, under which concurrent pushes would fail. "
                "Append `?default_transaction_isolation=read%20committed` to the DSN, or set `server_settings` of the "
                "pool"
            )
        if self._dsn is None and self._size <= self._kept_to_listen:
            raise UsageError(
                f"a pool of {self._size} has no connection left besides the one that is kept to listen: make it "
                "larger, or pass listen_dsn="
            )

    # -- the server's clock --------------------------------------------------------------------------------------

    def set_clock(self, micros: int) -> None:
        """Note what the server's clock shows now."""
        self._clock_offset = micros - time.monotonic_ns() // 1000

    def server_micros(self, moment: float) -> int:
        """Return what the server's clock will show at this moment of our monotonic clock."""
        return int(moment * 1e6) + self._clock_offset
