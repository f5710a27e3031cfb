"""Access to the database: our own pool or the caller's, the schema at first use, and the server's clock.

Everything here runs in tasks that the library owns. A cancelled caller abandons a future, so the driver sees a
cancellation only at shutdown. Otherwise asyncpg would open a further connection for each cancelled query in order to
cancel it on the server, and the outcome of the query would be unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import asyncpg  # type: ignore[import-untyped]

from notify.adapters import LoopGuard
from notify.errors import BackendUnavailableError, UsageError

from ._connect import connect
from ._dsn import check_dsn
from ._errors import PostgresDisposition, UnreachableError, disposition_of, is_unreachable, unavailable
from ._names import PostgresNames
from ._pool import CallerPool, Connection, ConnectionPool, OwnPool, fetch_uncompiled
from ._reachable import ServerWatch
from ._schema import STORE_TABLES, PostgresSchema

MIN_VERSION: Final = 14
"""The oldest supported version of the server."""

RESERVED: Final = 3
"""Connections of the pool that reads leave free: two for batches of saves, one for wake messages."""


SETTINGS: Final = {"row_security": "off", "default_transaction_isolation": "read committed"}
"""Of our own sessions. `row_security`: a query fails if rows would be filtered; it does not return the rest."""

PREFERENCES: Final = {"plan_cache_mode": "force_generic_plan", "jit": "off"}
"""Likewise, unless the DSN sets them. `plan_cache_mode`: the query that reads after a wake message is planned once:
0.13 instead of 0.39 ms. `jit`: expecting many rows, the server would compile a query of a few, which takes seconds."""


class Schema(Protocol):
    """What has to exist in the database: see `PostgresSchema`, and `_schema` for the three degrees."""

    async def inspect(self, connection: Any) -> bool:
        """Return whether the tables exist, without creating anything."""

    async def keep(self, connection: Any) -> None:
        """Do the housekeeping."""

    async def prepare(self, connection: Any) -> bool:
        """Create what is missing; return True."""

    def script(self) -> str:
        """Return what creates all this."""


class PostgresDatabase:
    """Connections to one database.

    Args:
        dsn: a DSN, or a pool of the caller's, which is never closed here.
        names: of the tables.
        backend: the name that errors give to this part.
        timeout: seconds for one call.
        pool_size: connections at most, where a DSN was given.
        tables: those that the part needs.
        schema: looks after them; None: that of the log and of presence.

    Attributes:
        check: raises unless this is open, and in its own process and event loop (`LoopGuard.check`).
        is_prepared: whether the tables are known to exist.
        is_complete: whether what was missing has been created since.
        is_pooled: whether a pooler stands in between, so that a session may change from one transaction to the next.
        watch: whether the server is known to be unreachable.
    """

    def __init__(
        self,
        dsn: str | asyncpg.Pool,
        names: PostgresNames,
        *,
        backend: str,
        timeout: float,
        pool_size: int,
        tables: Sequence[str] = STORE_TABLES,
        schema: Schema | None = None,
    ) -> None:
        if not isinstance(dsn, str | asyncpg.Pool):
            raise UsageError(f"dsn must be a DSN or an asyncpg pool, got {type(dsn).__name__}")
        self._address = check_dsn(dsn) if isinstance(dsn, str) else None
        for option, value in (("timeout", timeout), ("pool_size", pool_size)):
            if not value > 0:
                raise UsageError(f"{option} must be greater than 0, not {value!r}")
        self.names = names
        self.backend = backend
        self.timeout = timeout
        self.is_pooled = False
        self.is_prepared = self.is_complete = False
        self._guard = LoopGuard(backend, asyncio_only=True)
        self.check = self._guard.check
        self._dsn = dsn if isinstance(dsn, str) else None
        self._pool: ConnectionPool | None = None if isinstance(dsn, str) else CallerPool(dsn)
        self._listen_address = self._address
        self._says_pooled = self._address is not None and self._address.is_pooled
        self._kept_to_listen = 0
        self.schema: Schema = PostgresSchema(names, tables) if schema is None else schema
        self._size = pool_size if self._pool is None else self._pool.size
        self._reads = asyncio.Semaphore(max(1, self._size - RESERVED))
        self._starting = asyncio.Lock()
        self._clock_offset = 0
        self.watch = ServerWatch(
            self._dsn or f"pool {id(self._pool)}",
            backend,
            self._probe,
            lambda: self.timeout,
            asks=self._dsn is not None,
        )
        self.watch.listeners.append(self._on_unreachable)

    def set_listen_dsn(self, listen_dsn: str | None) -> None:
        """Set the address of the listening connection; None: the same as `dsn`, or one connection of the given pool.

        Raises:
            UsageError: not a DSN.
        """
        if listen_dsn is not None:
            self._listen_address = check_dsn(listen_dsn)
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
        await self.watch.aclose()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    # -- connections ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connection(self, wait: float, *, creates: bool = False) -> AsyncIterator[Connection]:
        """Lend a connection.

        A connection whose last statement has an unknown outcome is closed rather than returned: a late answer would
        be taken for that of the next statement.

        Args:
            wait: seconds to wait for a connection.
            creates: whether to create the tables if they do not exist.
        """
        pool, connection = await self._acquire(wait, creates)
        use = self.watch.begin()
        try:
            yield connection
            self.watch.answered()
        except BaseException as error:
            disposition = disposition_of(error)
            if disposition in (PostgresDisposition.LOST, PostgresDisposition.UNSENT, PostgresDisposition.BUG):
                connection.terminate()
            elif disposition is PostgresDisposition.READ_ONLY:
                await pool.expire()  # they all lead to the standby
            elif disposition is PostgresDisposition.UNPREPARED:
                self.is_prepared = self.is_complete = False
            raise
        finally:
            self.watch.end(use)
            await pool.release(connection)

    async def _acquire(self, wait: float, creates: bool) -> tuple[ConnectionPool, Connection]:
        """Borrow a connection; while the server is in doubt, wait for what becomes of it."""
        until = time.monotonic() + wait
        while True:
            if self.watch.error is not None:
                await self.watch.admit()
            began = time.monotonic()
            try:
                is_ready = self.is_prepared and (self.is_complete or not creates)
                pool = self._pool if is_ready else None
                if pool is None:
                    async with asyncio.timeout(until - began + 0.05):  # what connects ends by itself, and says more
                        pool = await self._start(until, creates)
                return pool, await pool.acquire(until - time.monotonic())
            except Exception as error:
                if not is_unreachable(error) or self.closed:
                    raise
                await self.watch.wait(error, began, until)

    async def fetch(self, query: str, *args: object, creates: bool = False, is_large: bool = False) -> list[Any]:
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
                async with self.connection(left, creates=creates) as connection:
                    if is_large and (self.is_pooled or self._dsn is None):  # `jit` may be on: see `PREFERENCES`
                        return await fetch_uncompiled(connection, query, args, left)
                    rows: list[Any] = await connection.fetch(query, *args, timeout=left)
                    return rows
            except UsageError:
                raise
            except Exception as error:
                unsent = disposition_of(error) is PostgresDisposition.UNSENT and not isinstance(error, UnreachableError)
                if not unsent or not retries_left or self.closed:
                    raise unavailable(error, self.backend) from error
        raise AssertionError("the last attempt returns or raises")  # pragma: no cover - for the type checker

    async def read(self, query: str, *args: object, is_large: bool = False) -> list[Any]:
        """As `fetch`, but limited in number, so that saves and wake messages always find a free connection.

        Where the tables do not exist there are no rows: reading creates nothing.
        """
        try:
            await self.watch.admit()
        except UnreachableError as error:
            raise unavailable(error, self.backend) from error
        async with self._reads:
            if await self.has_tables():
                try:
                    return await self.fetch(query, *args, is_large=is_large)
                except BackendUnavailableError as error:
                    cause = error.__cause__ or error
                    if disposition_of(cause) is not PostgresDisposition.UNPREPARED or await self.has_tables():
                        raise
        return []

    @asynccontextmanager
    async def listening_connection(self) -> AsyncIterator[Connection]:
        """Open a connection for listening only. Where only a pool was given, take one of its connections for that.

        At the end it is terminated, because an orderly close may hang, and because a pooled connection must not carry
        its listeners over to the next borrower.
        """
        if self._listen_address is None:
            async with self.connection(self.timeout) as connection:
                try:
                    yield connection
                finally:
                    connection.terminate()
        else:
            connection = await connect(
                self._listen_address, timeout=self.timeout, statement_cache_size=0, command_timeout=self.timeout
            )
            try:
                yield connection
            finally:
                connection.terminate()

    async def _probe(self, timeout: float) -> None:
        """Open a connection, and close it again."""
        if self._address is None:
            assert self._pool is not None
            connection = await self._pool.acquire(timeout)
            await self._pool.release(connection)
        else:
            connection = await connect(self._address, timeout=timeout, statement_cache_size=0)
            connection.terminate()

    def _on_unreachable(self, _error: UnreachableError) -> None:
        if self._pool is not None:
            self.watch.start(self._pool.expire)  # the idle connections may lead nowhere, and not know it

    # -- first use -----------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Create what is missing.

        Raises:
            BackendUnavailableError: not reachable, or this role may not create it.
            UsageError: the database cannot be used.
        """
        self.is_complete = False
        await self.fetch("SELECT", creates=True)

    async def has_tables(self) -> bool:
        """Return whether the tables exist, without creating them."""
        if not self.is_prepared:
            await self.fetch("SELECT")
        return self.is_prepared

    async def keep(self) -> bool:
        """Do the housekeeping of the tables; return whether they exist."""
        if not await self.has_tables():
            return False
        try:
            async with self.connection(self.timeout) as connection, connection.transaction():
                await self.schema.keep(connection)
        except UsageError:
            self.is_prepared = False  # the next call reports it
            raise
        except Exception as error:
            raise unavailable(error, self.backend) from error
        return True

    async def _start(self, until: float, creates: bool) -> ConnectionPool:
        async with self._starting:
            self.check()
            if self._pool is None:
                assert self._address is not None
                connection = await connect(
                    self._address,
                    timeout=until - time.monotonic(),
                    statement_cache_size=0,
                    command_timeout=self.timeout,
                )
                try:
                    await self._prepare(connection, creates)
                finally:
                    connection.terminate()
                self._pool = await self._open_pool(until)
            elif not self.is_prepared or (creates and not self.is_complete):
                connection = await self._pool.acquire(until - time.monotonic())
                try:
                    await self._prepare(connection, creates)
                finally:
                    await self._pool.release(connection)
            return self._pool

    async def _open_pool(self, until: float) -> ConnectionPool:
        """Return our own pool. If a pooler was not recognized before, it is when it refuses our settings."""
        assert self._address is not None
        pool = OwnPool(
            self._address,
            self._size,
            # behind a pooler the next transaction may not know the name, or the setting
            statement_cache_size=0 if self.is_pooled else 100,
            server_settings={} if self.is_pooled else SETTINGS,
            preferences={} if self.is_pooled else PREFERENCES,
            command_timeout=self.timeout,
        )
        if not self.is_pooled:
            try:
                await pool.release(await pool.acquire(until - time.monotonic()))
            except UsageError:  # our settings are all that is new here
                self.is_pooled = self._says_pooled = True
                return await self._open_pool(until)
        return pool

    async def _prepare(self, connection: Connection, creates: bool) -> None:
        async with connection.transaction(isolation="read_committed"):
            backend_pid = await connection.fetchval("SELECT pg_backend_pid()")
            # a pooler announces a number of its own
            self.is_pooled = backend_pid != connection.get_server_pid() or self._says_pooled
            await self._check_settings(connection)
            exists = await (self.schema.prepare if creates else self.schema.inspect)(connection)
            self.set_clock(await connection.fetchval("SELECT (date_part('epoch', clock_timestamp()) * 1e6)::bigint"))
        self.is_prepared = exists
        self.is_complete = creates

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
        if row["isolation"] != "read committed" and (self.is_pooled or self._dsn is None):
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
