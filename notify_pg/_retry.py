"""The attempts to save one batch: at most one of them stores it.

An attempt that got no answer is repeated on another connection, with the same nonce and the same deadline. The
statement stores nothing once its nonce is taken, but returns what the attempt that took it has stored; and it stores
nothing after the deadline, by the server's clock. So neither a repeated attempt nor one that the server executes late,
after it was hung, can append twice.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

from notify.errors import UsageError
from notify.event import Event

from ._connection import PostgresDatabase
from ._errors import PostgresDisposition, detail_of, disposition_of, is_locked, is_temporary
from ._pauses import pauses
from ._record import columns

_ONCE: Final = {
    PostgresDisposition.CONFLICT,
    PostgresDisposition.READ_ONLY,
    PostgresDisposition.UNPREPARED,
    PostgresDisposition.LATE,
}
"""What is repeated once: the first attempt was rolled back, and the second one may do better."""


class LogLockedError(Exception):
    """Another transaction holds a log of the batch; nothing is stored."""


class AttemptsFailedError(Exception):
    """No attempt has succeeded.

    Attributes:
        error: why the last one failed, or what lost one.
        is_unknown: whether the batch may be stored all the same.
    """

    def __init__(self, error: Exception, *, is_unknown: bool) -> None:
        super().__init__(error)
        self.error = error
        self.is_unknown = is_unknown


class PostgresRetries:
    """Saves one batch.

    Args:
        db: where.
        sql: the statement.
        limits: of length, and of the key window in milliseconds.
        events: the batch.
        until: when to give up, by the monotonic clock.
    """

    def __init__(
        self, db: PostgresDatabase, sql: str, limits: tuple[int, int], events: Sequence[Event], until: float
    ) -> None:
        self._db = db
        self._sql = sql
        self._limits = limits
        self._columns = columns(events)
        self._until = until
        self._nonce = secrets.randbits(62)
        self._deadline: int | None = None
        self._sent = False
        self._lost: Exception | None = None
        self._seen: set[PostgresDisposition] = set()

    async def run(self, wait: float | None) -> Any:
        """Return the row that the statement answers with.

        Args:
            wait: seconds to wait for a lock before `LogLockedError`; None: as long as there is time.

        Raises:
            LogLockedError: somebody else holds a log.
            AttemptsFailedError: it is not stored, or nobody knows.
            UsageError: the database cannot be used from here.
        """
        failure: Exception = TimeoutError("others took all the time; nothing was sent")
        delays = pauses(random.random, first=0.02, limit=0.5)
        while (left := self._until - time.monotonic()) > 0:
            try:
                return await self._once(left, wait)
            except UsageError:
                raise
            except Exception as error:
                failure = error
            if wait is not None and self._lost is None and is_locked(failure):
                raise LogLockedError from failure
            if self._ends_with(failure):
                break
            await asyncio.sleep(min(next(delays), max(0.0, self._until - time.monotonic())))
        raise AttemptsFailedError(self._lost or failure, is_unknown=self._lost is not None)

    async def _once(self, left: float, wait: float | None) -> Any:
        self._sent = False
        patience = min(left, self._db.timeout / 2) if wait is not None else left
        async with self._db.connection(patience) as connection:
            if self._deadline is None:
                self._deadline = self._db.server_micros(self._until)
            self._sent = True
            row = await connection.fetchrow(
                self._sql,
                self._nonce,
                self._deadline,
                self._lost is not None,
                max(1, int(min(patience * 0.8, patience if wait is None else wait) * 1000)),
                *self._limits,
                *self._columns,
                timeout=patience,
            )
        self._db.set_clock(row["clock"])
        return row

    def _ends_with(self, error: Exception) -> bool:
        """Note a failure and return whether another attempt is pointless."""
        what = disposition_of(error)
        if not self._sent or what is PostgresDisposition.UNSENT:
            return what is PostgresDisposition.REFUSED and not is_temporary(error)
        if what is PostgresDisposition.LOST:
            self._lost = error
            return False
        if what is PostgresDisposition.LATE:
            self._db.set_clock(int(detail_of(error)))
        if self._lost is not None:
            return what is PostgresDisposition.LATE
        if what is PostgresDisposition.LATE:
            self._deadline = None  # no attempt is under way: the clock was wrong
        if what in _ONCE and what not in self._seen:
            self._seen.add(what)
            return False
        return True
