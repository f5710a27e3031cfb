"""Events in the caller's own transaction: they exist exactly if it commits.

A wake message sent before the commit would make readers look too early. One sent inside the transaction, as `NOTIFY`
allows, would hold a lock of the whole server until the commit is on disk. So it is sent after the transaction, whose
end asyncpg does not announce: the connection object knows without a query whether a transaction is open, and is
polled while there is one to wait for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import asyncpg  # type: ignore[import-untyped]

from notify import Background, Event, NotifyError, UsageError
from notify.abc import Backlog
from notify.adapters import OutageLog
from notify.errors import BackendUnavailableError, InvalidEventError, PayloadTooLargeError
from notify.event import check_pushed_type
from notify.inbox.abc import ITEM

from ._connection import PostgresDatabase
from ._errors import describe, is_about_data, rejected, unavailable
from ._inbox import Fetch
from ._pool import Connection
from ._record import columns

logger = logging.getLogger("notify.pg")

MIN_POLL: Final = 0.002
MAX_POLL: Final = 0.1
"""Seconds between polls of an open transaction: from the first to the last, doubling."""

MAX_WATCHED: Final = 10_000
"""Transactions polled at a time; the events of further ones are found by the audit."""

RELAYED: Final = 500
"""Events that a relay moves in one transaction."""

WATCH: Final = 60.0
"""Seconds for which an event may wait in the outbox."""

COUNTED: Final = 10_000
"""Rows up to which the outbox is counted."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
MICROS_END: Final = 253_402_300_800_000_000
"""The year 10000, which a datetime cannot hold."""

_SPACE: Final = re.compile(rb'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')


Statement: TypeAlias = Callable[[Sequence[Event], Fetch], Awaitable[tuple[str, tuple[Any, ...]]]]


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
        statement: returns the statement that saves a batch, and its arguments from the fifth on.
        max_payload: bytes of JSON that an event may have.
        interval: seconds between polls for events that other processes have left.
        on_moved: called with the users whose logs have new events.

    Attributes:
        last_backlog: the backlog when it was last checked.
    """

    def __init__(
        self,
        db: PostgresDatabase,
        *,
        statement: Statement,
        max_payload: int,
        interval: float,
        on_moved: Callable[[Sequence[str]], None],
    ) -> None:
        self._db = db
        self._statement = statement
        self._max_payload = max_payload
        self._interval = interval
        self._on_moved = on_moved
        self._sql = db.names.sql
        self._wake = asyncio.Event()
        self._left: list[int] = []  # rows that can neither be moved nor set aside
        self.last_backlog = Backlog()
        self._outage = OutageLog(logger, "the outbox relay is failing and is retried", "the outbox relay works again")
        self._waiting = OutageLog(
            logger, "events wait in the outbox, and no relay moves them", "the outbox is moved again"
        )

    async def enqueue(self, events: Sequence[Event], connection: Any) -> None:
        """Insert events into the outbox, in the caller's transaction.

        Raises:
            PayloadTooLargeError: a payload is over the limit; nothing is inserted.
            PushRejectedError: it failed, and the transaction with it.
        """
        for event in events:
            if len(event.data) > self._max_payload:
                raise PayloadTooLargeError(len(event.data), self._max_payload)
        try:
            await connection.execute(self._sql("enqueue"), *columns(events))
        except Exception as error:
            raise rejected(error, self._db.backend) from error

    def relay_soon(self) -> None:
        """Make the relay run now. Never waits."""
        self._wake.set()

    async def run(self) -> None:
        """Move events from the outbox to their logs until cancelled."""
        while True:
            try:
                moved = await self.relay() if await self._db.has_tables() else 0
                self._outage.recovered()
            except NotifyError as error:
                self._outage.failed(error)
                moved = 0
            if moved < RELAYED:
                await self._wait()

    async def watch(self) -> None:
        """Check the backlog every minute, and warn once of events that wait for longer, until cancelled."""
        while True:
            await asyncio.sleep(WATCH * random.uniform(0.5, 1.0))
            try:
                backlog = await self.backlog()
            except NotifyError:
                continue  # the parts that need the server say so
            if backlog.age > WATCH:
                self._waiting.failed("start a process whose store has relay=")
            else:
                self._waiting.recovered()

    async def backlog(self) -> Backlog:
        """See `notify.abc.HasOutbox.backlog`."""
        if not await self._db.has_tables():
            return Backlog()
        (row,) = await self._db.fetch(self._sql("outbox_backlog"), COUNTED)
        try:
            dead = (await self._db.fetch(self._sql("outbox_dead"), COUNTED))[0]["dead"]
        except BackendUnavailableError:
            dead = 0  # an earlier release made the tables, and this role may not add one
        self.last_backlog = Backlog(row["waiting"], row["age"], dead)
        return self.last_backlog

    async def relay(self) -> int:
        """Move one batch and return how many rows; 0 also while another process is moving events."""
        try:
            async with self._db.connection(self._db.timeout) as connection, connection.transaction():
                rows = await connection.fetch(
                    self._sql("outbox_take"), self._db.names.relay_lock, RELAYED, self._max_payload, self._left
                )
                users = await self._move(connection, rows) if rows else []
        except Exception as error:
            raise unavailable(error, self._db.backend) from error
        if users:
            self._on_moved(users)
        return len(rows)

    async def _move(self, connection: Connection, rows: Sequence[Any]) -> list[str]:
        """Move rows to their logs, and rows that no log may hold to `outbox_dead`; return the users."""
        drafts: list[tuple[int, Event]] = []
        reasons: dict[int, str] = {}
        for row in rows:
            try:
                drafts.append((row["id"], draft_of(row, self._max_payload)))
            except InvalidEventError as error:
                reasons[row["id"]] = str(error)
        reasons |= await self._save(connection, drafts)
        moved = [(number, draft.user) for number, draft in drafts if number not in reasons]
        await connection.execute(self._sql("outbox_remove"), [number for number, _ in moved])
        if reasons:
            await self._set_aside(connection, reasons)
        return [user for _, user in moved]

    async def _save(self, connection: Connection, drafts: Sequence[tuple[int, Event]]) -> dict[int, str]:
        """Append drafts to their logs; return the reason for each one that the database refuses."""
        if not drafts:
            return {}
        try:
            async with connection.transaction():
                sql, arguments = await self._statement([draft for _, draft in drafts], connection.fetch)
                await connection.fetchrow(sql, None, None, False, 0, *arguments)
        except asyncpg.PostgresError as error:
            if not is_about_data(error):
                raise
            if len(drafts) == 1:
                return {drafts[0][0]: describe(error)}
            half = len(drafts) // 2
            return await self._save(connection, drafts[:half]) | await self._save(connection, drafts[half:])
        return {}

    async def _set_aside(self, connection: Connection, reasons: dict[int, str]) -> None:
        try:
            async with connection.transaction():
                await connection.execute(self._sql("outbox_set_aside"), [*reasons], [*reasons.values()])
            what = "set aside"
        except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError) as error:
            self._left += reasons
            what = f"left there, because they cannot be set aside ({describe(error)})"
        number, reason = next(iter(reasons.items()))
        logger.warning("%d events of the outbox are %s; the first, row %d: %s", len(reasons), what, number, reason)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._interval * random.uniform(0.7, 1.0)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()


def draft_of(row: Any, max_payload: int) -> Event:
    """Return the event of a row of the outbox, with compact JSON.

    Raises:
        InvalidEventError: `push` would refuse it.
    """
    check_pushed_type(row["type"])
    if row["size"] > 2 * max_payload:
        raise PayloadTooLargeError(row["size"], max_payload)
    try:
        payload = json.loads(row["data"].decode("utf-8"), parse_constant=_refuse)
        meta = json.loads(row["meta"]) if row["meta"] is not None else None
    except (ValueError, RecursionError) as error:  # too many digits or brackets, too
        raise InvalidEventError(f"data or meta is not a JSON value: {error}") from error
    if not 0 <= row["micros"] < MICROS_END:
        raise InvalidEventError("micros must be in the years 1970 to 9999")
    names = {"group": row["topic"], "key": row["key"], "meta": meta, "timestamp": EPOCH + row["micros"] * MICROSECOND}
    Event(row["user_id"], row["type"], payload, **names)
    _check_meta(meta)
    data = _SPACE.sub(lambda found: found[1] or b"", row["data"])  # the numbers stay as they were written
    if len(data) > max_payload:
        raise PayloadTooLargeError(len(data), max_payload)
    return Event(row["user_id"], row["type"], data=data, **names)


def _check_meta(meta: Mapping[str, str] | None) -> None:
    """Raise InvalidEventError for a name that is reserved, but for the one that makes an item of an event."""
    reserved = [name for name in meta or () if name.startswith("notify.") and name != ITEM]
    if reserved:
        raise InvalidEventError(f"names in meta that begin with notify. are reserved: {reserved[0]!r:.80}")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")
