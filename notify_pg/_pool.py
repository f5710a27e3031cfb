"""Connection pools: our own, whose connections need no reset between two borrowers, or one that the caller gave us.

asyncpg's pool resets a connection at every release, which costs as much as a query. Connections that only this library
uses have nothing to reset, so `OwnPool` lends them as they are and closes one that was left in an unclear state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

import asyncpg  # type: ignore[import-untyped]

from ._connect import connect
from ._dsn import Dsn

Connection: TypeAlias = Any
"""A connection of the driver, in a pool or outside: the driver has no type for what the two have in common."""

IDLE: Final = 300.0
"""Seconds after which an idle connection is closed."""

ASK_AGAIN: Final = 1.0
"""Seconds after which a server that refused a further connection is asked for one again."""

RETRY: Final = 0.02
"""Seconds between attempts while there is no connection to wait for, but there was one a moment ago."""

VACATING: Final = 0.5
"""Seconds for which the server may still count a connection that was closed."""

_TOO_SHORT: Final = 0.001
"""Seconds in which no connection can be opened."""

_CLOSE: Final = 1.0
"""Seconds to wait for an orderly close."""


class ConnectionPool(Protocol):
    """Lends connections."""

    size: int

    async def acquire(self, wait: float) -> Connection:
        """Borrow a connection; waits for a free one, up to `wait` seconds.

        Raises:
            TimeoutError: no connection was free.
        """

    async def release(self, connection: Connection) -> None:
        """Return a connection; one that was terminated is replaced when the next one is needed."""

    async def expire(self) -> None:
        """Close every present connection, those in use as soon as they are released."""

    async def aclose(self) -> None:
        """Close the pool if it belongs to this library."""


class CallerPool:
    """The caller's asyncpg pool. It is never closed here."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.size: int = pool.get_max_size()
        self._pool = pool

    async def acquire(self, wait: float) -> Connection:
        """See `ConnectionPool`; where the server gives no further connection, waits for one that exists."""
        async with asyncio.timeout(wait):
            while True:
                try:
                    return await self._pool.acquire()
                except asyncpg.TooManyConnectionsError:
                    if not self._pool.get_size():
                        raise
                await asyncio.sleep(RETRY)

    async def release(self, connection: Connection) -> None:
        """See `ConnectionPool`."""
        await self._pool.release(connection, timeout=_CLOSE)

    async def expire(self) -> None:
        """See `ConnectionPool`."""
        await self._pool.expire_connections()

    async def aclose(self) -> None:
        """See `ConnectionPool`."""


async def fetch_uncompiled(connection: Connection, query: str, args: Sequence[object], timeout: float) -> list[Any]:
    """Run a query in a transaction in which the server compiles nothing, and return its rows.

    For sessions that are not the library's own, and queries for which the planner expects so many rows that the server
    would spend seconds compiling them. It costs two further round trips. All of it takes `timeout` seconds at most.
    """
    until = time.monotonic() + timeout
    try:
        await connection.execute("BEGIN; SET LOCAL jit = off", timeout=timeout)
        rows: list[Any] = await connection.fetch(query, *args, timeout=until - time.monotonic())
        await connection.execute("COMMIT", timeout=until - time.monotonic())
    except asyncpg.PostgresError:
        await connection.execute("ROLLBACK", timeout=until - time.monotonic())
        raise
    return rows


class OwnPool:
    """A pool that this library owns.

    Args:
        dsn: the address.
        size: connections at most; each is opened when it is first needed.
        options: of `asyncpg.connect`.
    """

    def __init__(self, dsn: Dsn, size: int, **options: Any) -> None:
        self.size = size
        self._dsn = dsn
        self._options = options
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[float, Connection]] = []  # last in, first out, so that those not needed grow old
        self._in_use: set[Connection] = set()
        self._parked: list[asyncio.Future[None]] = []  # waiting for a connection that exists
        self._full_until = 0.0  # the server has refused a further connection; it is asked again then
        self._refusal: Exception | None = None
        self._opening = 0
        self._vacated = time.monotonic()  # when a connection was last closed; the server notices a moment later

    async def acquire(self, wait: float) -> Connection:
        """See `ConnectionPool`. Where the server gives no further connection, waits for one that exists."""
        until = time.monotonic() + wait
        if self._slots.locked():
            async with asyncio.timeout(wait):
                await self._slots.acquire()
        else:
            await self._slots.acquire()  # at once, without a timer
        try:
            connection = None
            while connection is None:
                connection = self._take_idle() or await self._open(until)
        except BaseException:
            self._slots.release()
            raise
        self._in_use.add(connection)
        return connection

    def _take_idle(self) -> Connection | None:
        while self._idle:
            _, connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    async def _open(self, until: float) -> Connection | None:
        """Open a connection; None if one that exists may be free now, because the server gives no further one.

        Raises:
            asyncpg.TooManyConnectionsError: the server gives none, and there is none to wait for.
        """
        now = time.monotonic()
        if now >= self._full_until or not self._in_use:
            self._opening += 1
            try:
                return await connect(self._dsn, timeout=max(0.0, until - now), **self._options)
            except asyncpg.TooManyConnectionsError as error:
                self._full_until = time.monotonic() + ASK_AGAIN
                self._refusal = error
                is_alone = not self._in_use and not self._idle and self._opening == 1
                if is_alone and time.monotonic() > self._vacated + VACATING:
                    raise
            finally:
                self._opening -= 1
        parked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parked.append(parked)
        try:
            async with asyncio.timeout(min(until - time.monotonic(), ASK_AGAIN if self._in_use else RETRY)):
                await parked
        except TimeoutError:
            if time.monotonic() >= until - _TOO_SHORT and self._refusal is not None:
                raise self._refusal  # noqa: B904 - it says more
        finally:
            self._parked.remove(parked)
        return None

    async def release(self, connection: Connection) -> None:
        """See `ConnectionPool`."""
        now = time.monotonic()
        if connection not in self._in_use:
            connection.terminate()  # `expire` was called while it was in use
        elif not connection.is_closed():
            self._idle.append((now, connection))
        if connection.is_closed():
            self._vacated = now
        self._in_use.discard(connection)
        while self._idle and self._idle[0][0] < now - IDLE:
            self._idle.pop(0)[1].terminate()
        for parked in [parked for parked in self._parked if not parked.done()][:1]:
            parked.set_result(None)
        self._slots.release()

    async def expire(self) -> None:
        """See `ConnectionPool`."""
        self._in_use.clear()
        while self._idle:
            self._idle.pop()[1].terminate()  # pragma: no cover - CPython 3.11 does not trace what follows a throw

    async def aclose(self) -> None:
        """Close every connection: in order if the server answers within a second, by force otherwise."""
        closing = [connection for _, connection in self._idle]
        self._idle.clear()
        await asyncio.gather(*(connection.close(timeout=_CLOSE) for connection in closing), return_exceptions=True)
        for connection in [*closing, *self._in_use]:
            connection.terminate()
