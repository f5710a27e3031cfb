"""How a store of deliveries calls the database: what follows a failed attempt, and which error the caller gets.

Every write is one transaction, and all of them may be repeated: submissions have keys, moves have fences. An attempt
that certainly changed nothing is repeated here; one without an answer is not, because the second one would answer
something else than the first, such as that a move is refused because it was made.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from notify import Background
from notify.adapters import is_bug, report_bug
from notify.errors import NotifyError, PushRejectedError, PushUncertainError, UsageError

from ._connection import PostgresDatabase
from ._errors import PostgresDisposition, UnreachableError, describe, disposition_of
from ._pool import Connection

logger = logging.getLogger("notify.pg")

T = TypeVar("T")

_RETRIED: Final = {
    PostgresDisposition.CONFLICT: 5,
    PostgresDisposition.READ_ONLY: 1,
    PostgresDisposition.UNPREPARED: 1,
    PostgresDisposition.UNSENT: 10,
}
"""How often an attempt with this disposition is repeated."""


class DispatchCalls:
    """Calls the database in background tasks: cancelling a caller abandons only the wait.

    Args:
        db: the database.
        background: its tasks call.
    """

    def __init__(self, db: PostgresDatabase, background: Background) -> None:
        self._db = db
        self._background = background

    async def rows(self, query: str, *args: object) -> list[Any]:
        """Read; where the tables do not exist there are no rows.

        Raises:
            BackendUnavailableError: it failed.
        """
        self._db.check()
        return await self._background.run(self._db.read, query, *args)

    async def write(self, act: Callable[[Connection], Awaitable[T]], *, seconds: float = 0.0) -> T:
        """Call a function with a connection; it makes one transaction, or one statement.

        Args:
            act: the function.
            seconds: how long it may take; at least `timeout` of the database.

        Raises:
            PushRejectedError: certainly nothing was changed.
            PushUncertainError: that is unknown.
        """
        self._db.check()
        return await self._background.run(self._write, act, seconds)

    async def prepared(self) -> None:
        """Create the tables if that has not been done."""
        self._db.check()
        if not self._db.is_complete:
            await self._background.run(self._db.prepare)

    async def _write(self, act: Callable[[Connection], Awaitable[T]], seconds: float) -> T:
        until = time.monotonic() + max(self._db.timeout, seconds)
        tried: dict[PostgresDisposition, int] = {}
        while True:
            was_sent = False
            try:
                async with self._db.connection(until - time.monotonic(), creates=True) as connection:
                    was_sent = True
                    async with asyncio.timeout(until - time.monotonic()):
                        return await act(connection)
            except UsageError:
                raise
            except Exception as error:
                disposition = disposition_of(error)
                is_certain = not was_sent or disposition not in (PostgresDisposition.LOST, PostgresDisposition.BUG)
                tried[disposition] = tried.get(disposition, 0) + 1
                is_hopeless = isinstance(error, UnreachableError) or time.monotonic() >= until or self._db.closed
                if is_hopeless or not is_certain or tried[disposition] > _RETRIED.get(disposition, 0):
                    raise self.failure(error, is_certain=is_certain) from error
            await asyncio.sleep(random.uniform(0.0, 0.02))

    def failure(self, error: Exception, *, is_certain: bool) -> NotifyError:
        """Return the error for a write that failed."""
        why = report_bug(error, self._db.backend, logger) if is_bug(error, "asyncpg") else describe(error)
        if is_certain:
            return PushRejectedError(f"PostgreSQL changed nothing: {why}", backend=self._db.backend)
        return PushUncertainError(f"PostgreSQL did not answer, and may have done it: {why}", backend=self._db.backend)
