"""Events in the caller's own transaction: they exist exactly if it commits.

A wake message sent before the commit would make readers look too early. One sent inside the transaction, as `NOTIFY`
allows, would hold a lock of the whole server until the commit is on disk. So it is sent after the transaction, whose
end asyncpg does not announce: the connection object knows without a query whether a transaction is open, and is
polled while there is one to wait for.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from notify import Background, Event, NotifyError, UsageError
from notify.adapters import OutageLog

from ._connection import PostgresDatabase
from ._errors import rejected
from ._record import columns

logger = logging.getLogger("notify.pg")

MIN_POLL: Final = 0.002
MAX_POLL: Final = 0.1
"""Seconds between polls of an open transaction: from the first to the last, doubling."""

MAX_WATCHED: Final = 10_000
"""Transactions polled at a time; the events of further ones are found by the audit."""

RELAYED: Final = 500
"""Events that a relay moves in one transaction."""


class TransactionWatcher:
    """Calls functions after transactions have ended.

    Args:
        background: its task polls.
    """

    def __init__(self, background: Background) -> None:
        self._background = background
        self._waiting: list[tuple[Any, Callable[[], None]]] = []
        self._polling = False

    def call_after(self, connection: Any, function: Callable[[], None]) -> None:
        """Call the function soon after the connection's transaction has ended, by commit or rollback."""
        if len(self._waiting) < MAX_WATCHED:
            self._waiting.append((connection, function))
        if not self._polling:
            self._polling = True
            self._background.start(self._poll)

    async def _poll(self) -> None:
        delay = MIN_POLL
        try:
            while self._waiting:
                await asyncio.sleep(delay)
                waiting, self._waiting = self._waiting, []
                for connection, function in waiting:
                    if is_in_transaction(connection):
                        self._waiting.append((connection, function))
                    else:
                        function()
                delay = MIN_POLL if len(self._waiting) < len(waiting) else min(2 * delay, MAX_POLL)
        finally:
            self._polling = False


def is_in_transaction(connection: Any) -> bool:
    """Return whether a transaction is open; False if the connection was closed or returned to its pool."""
    try:
        return not connection.is_closed() and bool(connection.is_in_transaction())
    except asyncpg.InterfaceError:
        return False


def check_transaction(connection: Any) -> None:
    """Raise UsageError unless this is an asyncpg connection with an open transaction."""
    if not isinstance(connection, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
        raise UsageError(
            f"connection must be an asyncpg connection, got {type(connection).__name__}; "
            "with SQLAlchemy: (await connection.get_raw_connection()).driver_connection"
        )
    if not is_in_transaction(connection):
        raise UsageError(
            "connection has no open transaction, so passing it has no effect: open one, or push without connection="
        )


class PostgresOutbox:
    """A table in which events wait for a relay to move them to their logs, so that the caller locks no log.

    Args:
        db: the database.
        limits: maximum length, and key window in milliseconds.
        interval: seconds between polls for events that other processes have left.
        on_moved: called with the users whose logs have new events.
    """

    def __init__(
        self,
        db: PostgresDatabase,
        *,
        limits: tuple[int, int],
        interval: float,
        on_moved: Callable[[Sequence[str]], None],
    ) -> None:
        self._db = db
        self._limits = limits
        self._interval = interval
        self._on_moved = on_moved
        self._enqueue = db.names.sql("enqueue")
        self._relay = db.names.sql("relay")
        self._wake = asyncio.Event()
        self._outage = OutageLog(logger, "the outbox relay is failing and is retried", "the outbox relay works again")

    async def enqueue(self, events: Sequence[Event], connection: Any) -> None:
        """Insert events into the outbox, in the caller's transaction.

        Raises:
            PushRejectedError: it failed, and the transaction with it.
        """
        try:
            await connection.execute(self._enqueue, *columns(events))
        except Exception as error:
            raise rejected(error, self._db.backend) from error

    def relay_soon(self) -> None:
        """Make the relay run now. Never waits."""
        self._wake.set()

    async def run(self) -> None:
        """Move events from the outbox to their logs until cancelled."""
        while True:
            try:
                moved = await self.relay()
                self._outage.recovered()
            except NotifyError as error:
                self._outage.failed(error)
                moved = 0
            if moved < RELAYED:
                await self._wait()

    async def relay(self) -> int:
        """Move one batch and return how many; 0 also while another process is moving events."""
        if not await self._db.has_tables():
            return 0
        rows = await self._db.fetch(self._relay, self._db.names.relay_lock, RELAYED, *self._limits)
        users = rows[0]["users"]
        if users:
            self._on_moved(users)
        moved: int = rows[0]["moved"]
        return moved

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._interval * random.uniform(0.7, 1.0)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
