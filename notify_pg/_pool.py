"""Connection pools: our own, whose connections need no reset between two borrowers, or one that the caller gave us.

asyncpg's pool resets a connection at every release, which costs as much as a query. Connections that only this library
uses have nothing to reset, so `OwnPool` lends them as they are and closes one that was left in an unclear state.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, Protocol, TypeAlias

import asyncpg  # type: ignore[import-untyped]

from ._connect import connect
from ._dsn import Dsn

Connection: TypeAlias = Any
"""A connection of the driver, in a pool or outside: the driver has no type for what the two have in common."""

IDLE: Final = 300.0
"""Seconds after which an idle connection is closed."""

_CLOSE: Final = 1.0
"""Seconds to wait for an orderly close."""


class ConnectionPool(Protocol):
    """Lends connections."""

    size: int

    async def acquire(self) -> Connection:
        """Borrow a connection; waits for a free one."""

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

    async def acquire(self) -> Connection:
        """See `ConnectionPool`."""
        return await self._pool.acquire()

    async def release(self, connection: Connection) -> None:
        """See `ConnectionPool`."""
        await self._pool.release(connection, timeout=_CLOSE)

    async def expire(self) -> None:
        """See `ConnectionPool`."""
        await self._pool.expire_connections()

    async def aclose(self) -> None:
        """See `ConnectionPool`."""


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

    async def acquire(self) -> Connection:
        """See `ConnectionPool`."""
        await self._slots.acquire()
        try:
            connection = None
            while self._idle and connection is None:
                _, connection = self._idle.pop()
                connection = None if connection.is_closed() else connection
            if connection is None:
                connection = await connect(self._dsn, **self._options)
        except BaseException:
            self._slots.release()
            raise
        self._in_use.add(connection)
        return connection

    async def release(self, connection: Connection) -> None:
        """See `ConnectionPool`."""
        now = time.monotonic()
        if connection not in self._in_use:
            connection.terminate()  # `expire` was called while it was in use
        elif not connection.is_closed():
            self._idle.append((now, connection))
        self._in_use.discard(connection)
        while self._idle and self._idle[0][0] < now - IDLE:
            self._idle.pop(0)[1].terminate()
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
