"""The caller's own transactions: events that exist exactly if he commits.

A wake-up that was sent before the commit would make readers look too early, and one sent inside the transaction would
hold a lock of the whole server until the commit has reached the disk. So it is sent when the transaction is over,
which the driver knows without asking: the connection is looked at, and only while there is something to wait for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from notify import Background, Event, NotifyError, UsageError

from ._connection import PostgresDatabase
from ._errors import rejected
from ._record import columns
from ._trouble import Trouble

FIRST_LOOK: Final = 0.002
LAST_LOOK: Final = 0.1
"""Seconds between looks at a transaction that goes on: from the first to the last, doubling."""

WATCHED: Final = 10_000
"""Transactions looked at; what comes beyond is found by audits."""

RELAYED: Final = 500
"""Events that a relay moves in one transaction."""


class TransactionWatcher:
    """Waits for the end of transactions.

    Args:
        background: whose task looks.
    """

    def __init__(self, background: Background) -> None:
        self._background = background
        self._waiting: list[tuple[Any, Callable[[], None]]] = []
        self._looking = False

    def after(self, connection: Any, then: Callable[[], None]) -> None:
        """Call `then` soon after the transaction that the connection is in has ended, either way."""
        if len(self._waiting) < WATCHED:
            self._waiting.append((connection, then))
        if not self._looking:
            self._looking = True
            self._background.start(self._look)

    async def _look(self) -> None:
        pause = FIRST_LOOK
        try:
            while self._waiting:
                await asyncio.sleep(pause)
                waiting, self._waiting = self._waiting, []
                for connection, then in waiting:
                    if is_in_transaction(connection):
                        self._waiting.append((connection, then))
                    else:
                        then()
                pause = FIRST_LOOK if len(self._waiting) < len(waiting) else min(2 * pause, LAST_LOOK)
        finally:
            self._looking = False


def is_in_transaction(connection: Any) -> bool:
    """Return whether a transaction is open on a connection: not where it was closed, or returned to its pool."""
    try:
        return not connection.is_closed() and bool(connection.is_in_transaction())
    except asyncpg.InterfaceError:
        return False


def check_transaction(connection: Any) -> None:
    """Raise UsageError unless this is a connection of the driver's with a transaction open."""
    if not isinstance(connection, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
        raise UsageError(
            f"an asyncpg connection is needed, not {type(connection).__name__}; "
            "of SQLAlchemy's: (await connection.get_raw_connection()).driver_connection"
        )
    if not is_in_transaction(connection):
        raise UsageError("no transaction is open on this connection: it would make no difference, so this is a mistake")


class PostgresOutbox:
    """Events that wait in a table for their log, which nobody's transaction needs to lock meanwhile.

    Args:
        db: where.
        limits: of length, and of the key window in milliseconds.
        interval: seconds between looks for what other processes have left.
        on_moved: called with the users whose logs have got something.
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
        self._look = asyncio.Event()
        self._trouble = Trouble("the outbox could not be emptied, which is tried again", "the outbox is emptied again")

    async def enqueue(self, events: Sequence[Event], connection: Any) -> None:
        """Leave events in the outbox, in the caller's transaction.

        Raises:
            PushRejectedError: it failed, and the transaction with it.
        """
        try:
            await connection.execute(self._enqueue, *columns(events))
        except Exception as error:
            raise rejected(error, self._db.backend) from error

    def look(self) -> None:
        """Have the relay look at once. Never waits."""
        self._look.set()

    async def run(self) -> None:
        """Move what is in the outbox into the logs, until cancelled."""
        while True:
            try:
                moved = await self.relay()
                self._trouble.ended()
            except NotifyError as error:
                self._trouble.met(str(error))
                moved = 0
            if moved < RELAYED:
                await self._pause()

    async def relay(self) -> int:
        """Move some events and return how many; 0 also while another process moves them."""
        rows = await self._db.fetch(self._relay, self._db.names.relay_lock, RELAYED, *self._limits)
        users = rows[0]["users"]
        if users:
            self._on_moved(users)
        moved: int = rows[0]["moved"]
        return moved

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval * random.uniform(0.7, 1.0)):
                await self._look.wait()
        except TimeoutError:
            pass
        self._look.clear()
