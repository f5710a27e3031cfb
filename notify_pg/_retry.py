"""Saves one batch in as many attempts as it takes, of which at most one stores it.

An attempt without an answer is repeated on another connection, with the same nonce and the same deadline. The statement
stores nothing if its nonce is taken, and returns what the attempt with that nonce has stored. It stores nothing after
the deadline either, by the server's clock. So neither a repeated attempt, nor one that a hung server executes late, can
append an event twice.

What follows a failed attempt, by its disposition (`_errors`):

- not sent at all: the next attempt, for as long as there is time, unless the server is known to be unreachable;
- LOST: the next attempt; from now on the outcome is unknown unless a later attempt returns it;
- CONFLICT, READ_ONLY, UNPREPARED, LATE: rolled back, and retried once, since the second attempt may succeed;
- REFUSED: the end;
- BUG, a mistake in this library: the end, with an unknown outcome if the statement was on its way.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

from notify.adapters import backoff
from notify.errors import UsageError

from ._connection import PostgresDatabase
from ._errors import PostgresDisposition, UnreachableError, detail_of, disposition_of, is_locked, is_temporary

_RETRIED_ONCE: Final = {
    PostgresDisposition.CONFLICT,
    PostgresDisposition.READ_ONLY,
    PostgresDisposition.UNPREPARED,
    PostgresDisposition.LATE,
}


class LogLockedError(Exception):
    """Another transaction holds a log of the batch; nothing is stored."""


class AttemptsFailedError(Exception):
    """No attempt succeeded.

    Attributes:
        error: why the last attempt failed, or the first error after which the outcome was unknown.
        is_unknown: whether the batch may be stored anyway.
    """

    def __init__(self, error: Exception, *, is_unknown: bool) -> None:
        super().__init__(error)
        self.error = error
        self.is_unknown = is_unknown


class PostgresRetries:
    """The attempts to save one batch.

    Args:
        db: the database.
        sql: the statement.
        arguments: its arguments from the fifth on; the first four are the nonce, the deadline, whether it may have
            been executed before, and how long to wait for a lock.
        until: when to give up, by the monotonic clock.
    """

    def __init__(self, db: PostgresDatabase, sql: str, arguments: Sequence[object], until: float) -> None:
        self._db = db
        self._sql = sql
        self._arguments = arguments
        self._until = until
        self._nonce = secrets.randbits(62)
        self._deadline: int | None = None
        self._was_sent = False
        self._lost: Exception | None = None
        self._retried: set[PostgresDisposition] = set()

    async def run(self, lock_wait: float | None) -> Any:
        """Return the row that the statement answers with.

        Args:
            lock_wait: seconds to wait for a lock before `LogLockedError`; None: as long as there is time.

        Raises:
            LogLockedError: another transaction holds a log.
            AttemptsFailedError: not stored, or outcome unknown.
            UsageError: the database cannot be used from here.
        """
        failure: Exception = TimeoutError("timed out waiting for a connection; nothing was sent")
        delays = backoff(random.random, first=0.02, limit=0.5)
        while (left := self._until - time.monotonic()) > 0:
            try:
                return await self._attempt(left, lock_wait)
            except UsageError:
                raise
            except Exception as error:
                failure = error
            if lock_wait is not None and self._lost is None and is_locked(failure):
                raise LogLockedError from failure
            if self._is_final(failure):
                break
            await asyncio.sleep(min(next(delays), max(0.0, self._until - time.monotonic())))
        raise AttemptsFailedError(self._lost or failure, is_unknown=self._lost is not None)

    async def _attempt(self, left: float, lock_wait: float | None) -> Any:
        self._was_sent = False
        wait = min(left, self._db.timeout / 2) if lock_wait is not None else left  # leaves time for a second attempt
        async with self._db.connection(wait, creates=True) as connection:
            if self._deadline is None:
                self._deadline = self._db.server_micros(self._until)
            self._was_sent = True
            row = await connection.fetchrow(
                self._sql,
                self._nonce,
                self._deadline,
                self._lost is not None,
                max(1, int(min(wait * 0.8, wait if lock_wait is None else lock_wait) * 1000)),
                *self._arguments,
                timeout=wait,
            )
        self._db.set_clock(row["clock"])
        return row

    def _is_final(self, error: Exception) -> bool:
        """Record a failed attempt and return whether another one is pointless."""
        disposition = disposition_of(error)
        if disposition is PostgresDisposition.BUG:
            self._lost = self._lost or (error if self._was_sent else None)
            return True
        if not self._was_sent or disposition is PostgresDisposition.UNSENT:
            is_hopeless = isinstance(error, UnreachableError) and self._lost is None
            return is_hopeless or (disposition is PostgresDisposition.REFUSED and not is_temporary(error))
        if disposition is PostgresDisposition.LOST:
            self._lost = error
            return False
        if disposition is PostgresDisposition.LATE:
            self._db.set_clock(int(detail_of(error)))
        if self._lost is not None:
            return disposition is PostgresDisposition.LATE
        if disposition is PostgresDisposition.LATE:
            self._deadline = None  # no attempt is in progress, so the clocks differed: compute a new deadline
        if disposition in _RETRIED_ONCE and disposition not in self._retried:
            self._retried.add(disposition)
            return False
        return True
