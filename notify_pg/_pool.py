"""Connections: our own, which cost next to nothing to borrow, or those of a pool that the caller gave us."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, Protocol, TypeAlias

import asyncpg  # type: ignore[import-untyped]

from ._dsn import connect

Connection: TypeAlias = Any
"""A driver's connection, in or out of a pool: what the two have in common is not typed by the driver."""

IDLE: Final = 300.0
"""Seconds after which a connection that nobody borrows is closed."""

_CLOSE: Final = 1.0


class Pool(Protocol):
    """Where connections come from."""

    size: int

    async def take(self) -> Connection:
        """Borrow a connection, once there is one."""

    async def give_back(self, connection: Connection) -> None:
        """Return a connection; one that was terminated is replaced when needed."""

    async def expire(self) -> None:
        """Use none of the present connections again once they were given back."""

    async def aclose(self) -> None:
        """Close what is ours."""


class CallerPool:
    """The caller's pool. It stays open."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.size: int = pool.get_max_size()
        self._pool = pool

    async def take(self) -> Connection:
        """See `Pool`."""
        return await self._pool.acquire()

    async def give_back(self, connection: Connection) -> None:
        """See `Pool`."""
        await self._pool.release(connection, timeout=_CLOSE)

    async def expire(self) -> None:
        """See `Pool`."""
        await self._pool.expire_connections()

    async def aclose(self) -> None:
        """See `Pool`."""


class OwnPool:
    """Connections that only we use, so that none has to be reset: the driver's own pool takes as long as a query.

    Args:
        dsn: where to.
        size: connections at most; they are opened when needed.
        options: of `asyncpg.connect`.
    """

    def __init__(self, dsn: str, size: int, **options: Any) -> None:
        self.size = size
        self._dsn = dsn
        self._options = options
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[float, Connection]] = []  # the one given back last is the first to be taken
        self._lent: set[Connection] = set()

    async def take(self) -> Connection:
        """See `Pool`."""
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
        self._lent.add(connection)
        return connection

    async def give_back(self, connection: Connection) -> None:
        """See `Pool`."""
        now = time.monotonic()
        if connection not in self._lent:
            connection.terminate()  # it has expired
        elif not connection.is_closed():
            self._idle.append((now, connection))
        self._lent.discard(connection)
        while self._idle and self._idle[0][0] < now - IDLE:
            self._idle.pop(0)[1].terminate()
        self._slots.release()

    async def expire(self) -> None:
        """See `Pool`."""
        self._lent.clear()
        while self._idle:
            self._idle.pop()[1].terminate()  # pragma: no cover - CPython 3.11 does not trace what follows a throw

    async def aclose(self) -> None:
        """See `Pool`: politely, if the server answers within a second."""
        closing = [connection for _, connection in self._idle]
        self._idle.clear()
        await asyncio.gather(*(connection.close(timeout=_CLOSE) for connection in closing), return_exceptions=True)
        for connection in [*closing, *self._lent]:
            connection.terminate()
