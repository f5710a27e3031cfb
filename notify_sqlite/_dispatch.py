"""A store of deliveries in one SQLite file, for several workers on one host."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Literal, Self, TypeVar

import anyio.lowlevel

from notify import Guarantees, UsageError
from notify.dispatch.abc import (
    Claim,
    Delivery,
    DeliveryAttempt,
    DigestItem,
    Move,
    Notification,
    RecipientRecord,
    State,
    Submission,
    Submitted,
    check_move,
    check_submission,
    checked,
    claims_of,
    delivery_of,
    instant,
    millis,
    notification_of,
)

from . import _digest_rows as digests
from ._connection import MAX_ROWS, SQLiteDatabase
from ._delivery_rows import DeliveryRows
from ._dispatch_users import SQLiteUserRecords
from ._opening import Path
from ._schema import script
from ._worker import Job

T = TypeVar("T")


@checked
class SQLiteDispatchStore(SQLiteUserRecords):
    """Keeps notifications and deliveries in one file on a local disk. Workers in several processes share it. asyncio.

    The file and its tables are created at first use. It may be the file of a log; each has its own tables.

    Args:
        path: the file; its directory must exist.
        table_prefix: begins the name of each table: `[a-z][a-z0-9_]{0,30}`.
        synchronous: `"FULL"`: what was stored survives a power loss. `"NORMAL"`: it survives a crash of the process;
            after a power loss, something that was sent may be sent again.
        timeout: seconds to wait while another connection holds the write lock.
        network: accept a file on a network file system, which only one host may ever open.
        clock: returns seconds since 1970; leases are measured by it. The processes' clocks agree.

    Raises:
        UsageError: an argument is not acceptable.
    """

    guarantees: ClassVar = Guarantees(durable=True, shared=True)

    def __init__(
        self,
        path: Path,
        *,
        table_prefix: str = "notify_",
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        timeout: float = 4.0,
        network: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._database = SQLiteDatabase(
            path,
            owner=type(self).__name__,
            part="dispatch",
            table_prefix=table_prefix,
            synchronous=synchronous,
            timeout=timeout,
            network=network,
        )
        self._sql = self._database.sql

    # -- DispatchStore -------------------------------------------------------------------------------------------

    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        """See `notify.dispatch.abc.DispatchStore.submit`; takes no connection.

        The transactions of an aiosqlite connection run in a thread that accepts single statements only.
        """
        self._database.check()
        if connection is not None:
            raise UsageError(
                "only PostgresDispatchStore supports connection=, not SQLiteDispatchStore: submit after the commit"
            )
        check_submission(submission)
        return await self._write(lambda rows: rows.submit(submission))

    async def claim(
        self, now: datetime, *, lease: float, limit: int = 50, channels: Sequence[str] | None = None
    ) -> Sequence[Claim]:
        """See `notify.dispatch.abc.DispatchStore.claim`; the write lock is taken only if something is due."""
        moment = millis(now)

        def is_anything_due(db: sqlite3.Connection) -> bool:
            return bool(DeliveryRows(db, self._sql).due(moment, self._now(), min(limit, 1), channels))

        if not await self._database.read(is_anything_due, False):
            return []
        return await self._write(lambda rows: rows.claim(moment, self._now(), lease, limit, channels))

    async def advance(self, moves: Sequence[Move], now: datetime) -> Sequence[bool]:
        """See `notify.dispatch.abc.DispatchStore.advance`."""
        self._database.check()
        for move in moves:
            check_move(move)
        moment = millis(now)
        return await self._write(lambda rows: rows.advance(moves, moment, self._now())) if moves else []

    async def resolve(
        self, id: str, to: State, now: datetime, *, reason: str = "", provider_id: str = ""
    ) -> Delivery | None:
        """See `notify.dispatch.abc.DispatchStore.resolve`."""
        moment = millis(now)
        return await self._write(lambda rows: rows.resolve(id, to, moment, reason, provider_id))

    async def cancel(
        self,
        notification: str,
        now: datetime,
        *,
        user: str | None = None,
        channel: str | None = None,
        reason: str = "cancelled",
        joins: bool = True,
    ) -> int:
        """See `notify.dispatch.abc.DispatchStore.cancel`."""
        moment = millis(now)
        return await self._write(lambda rows: rows.cancel(notification, moment, user, channel, reason, joins))

    # -- DispatchRecords, DeliveryTracking, Forget ---------------------------------------------------------------

    async def record(
        self, notification: str, user: str
    ) -> tuple[Notification, RecipientRecord, Sequence[Delivery], Sequence[DeliveryAttempt]] | None:
        """See `notify.dispatch.abc.DispatchRecords.record`."""

        def job(
            db: sqlite3.Connection,
        ) -> tuple[Notification, RecipientRecord, Sequence[Delivery], Sequence[DeliveryAttempt]] | None:
            place = (notification, user)
            record = db.execute(self._sql["get_recipient"], place).fetchone()
            stored = db.execute(self._sql["get_notification"], (notification,)).fetchone()
            if record is None or stored is None:
                return None
            deliveries = [delivery_of(row) for row in db.execute(self._sql["deliveries_of"], place)]
            attempts = [
                DeliveryAttempt(row[0], instant(row[1]), row[2], State(row[3]), row[4], row[5], bool(row[6]))
                for row in db.execute(self._sql["attempts_of"], place)
            ]
            return notification_of(stored), RecipientRecord(*record), deliveries, attempts

        return await self._view(job, None)

    async def delivery(self, id: str) -> Claim | None:
        """See `notify.dispatch.abc.DispatchRecords.delivery`."""

        def job(db: sqlite3.Connection) -> Claim | None:
            row = db.execute(self._sql["one_delivery"], (id,)).fetchone()
            return None if row is None else claims_of([row])[0]

        return await self._database.read(job, None)

    async def stuck(self, states: Sequence[State], *, after: str = "", limit: int = 100) -> Sequence[Delivery]:
        """See `notify.dispatch.abc.DispatchRecords.stuck`; an index has the states from FAILED on."""

        def job(db: sqlite3.Connection) -> Sequence[Delivery]:
            if states and min(states) >= State.FAILED:
                rows = [
                    row
                    for each in {*states}
                    for row in db.execute(self._sql["in_late_state"], (int(each), after, limit))
                ]
                return sorted(map(delivery_of, rows), key=lambda each: each.id)[:limit]
            numbers = json.dumps([int(state) for state in states])
            return [delivery_of(row) for row in db.execute(self._sql["in_states"], (numbers, after, limit))]

        return await self._database.read(job, [])

    async def hurry(self, now: datetime, *, user: str | None = None, channel: str | None = None) -> int:
        """See `notify.dispatch.abc.DispatchRecords.hurry`; a channel takes several transactions."""
        self._database.check()
        if user is None and channel is None:
            raise UsageError("hurry() needs user= or channel=: everything at once would be a stampede")
        moment = millis(now)

        def job(db: sqlite3.Connection) -> int:
            count = db.execute(self._sql["hurry_user"], (moment, moment, user, channel)).rowcount
            if channel is not None:
                count += db.execute(self._sql["unpark_user"], (moment, moment, channel, user)).rowcount
            return count

        if user is not None:
            return await self._transact(job)
        assert channel is not None
        count, found = 0, MAX_ROWS
        step = partial(DeliveryRows.hurry, channel=channel, now=moment, limit=MAX_ROWS)
        while found == MAX_ROWS:  # not until none is left: a channel that still fails keeps adding some
            found = await self._write(step)
            count += found
            await anyio.lowlevel.checkpoint()
        return count

    async def purge(self, before: datetime, *, limit: int = 500) -> int:
        """See `notify.dispatch.abc.DispatchRecords.purge`; some hundred rows in one transaction."""
        moment = millis(before)
        old = await self._database.read(
            lambda db: [id for (id,) in db.execute(self._sql["old"], (moment, limit))], list[str]()
        )
        count = 0
        for id in old:
            step = partial(DeliveryRows.purge, notification=id, limit=MAX_ROWS)
            while (is_gone := await self._write(step)) is False:
                await anyio.lowlevel.checkpoint()
            count += is_gone is True
        if await self._database.read(lambda _: True, False):
            await self._purge_leftovers(moment, self._now(), MAX_ROWS)
        return count

    async def open_channels(self) -> Sequence[str]:
        """See `notify.dispatch.abc.OpenChannels.open_channels`."""
        return await self._database.read(lambda db: DeliveryRows(db, self._sql).open_channels(), list[str]())

    async def track(self, id: str, act: Literal["opened", "clicked"], now: datetime) -> Delivery | None:
        """See `notify.dispatch.abc.DeliveryTracking.track`."""
        moment = millis(now)

        def job(db: sqlite3.Connection) -> Delivery | None:
            if act == "clicked":
                db.execute(self._sql["set_clicked"], (moment, moment, id))
            else:
                db.execute(self._sql["set_opened"], (moment, id))
            row = db.execute(self._sql["one_delivery"], (id,)).fetchone()
            return None if row is None else delivery_of(row)

        return await self._transact(job)

    async def forget(self, user: str) -> int:
        """See `notify.abc.Forget.forget`; returns the number of deliveries, some hundred rows in one transaction."""
        if not await self._database.read(lambda _: True, False):
            return 0
        count, last = 0, ""
        await self._transact(partial(self._forget_user_records, user=user))  # so that no digest of the user is closed
        while ids := await self._database.read(partial(self._notifications_of, user=user, after=last), list[str]()):
            count += await self._write(partial(DeliveryRows.forget, user=user, notifications=ids))
            last = ids[-1]
        await self._transact(partial(self._forget_user_records, user=user))  # what a worker put there in between
        return count

    def _notifications_of(self, db: sqlite3.Connection, user: str, after: str) -> list[str]:
        return [id for (id,) in db.execute(self._sql["notifications_of_user"], (after, user, MAX_ROWS // 10))]

    # -- DigestStore ---------------------------------------------------------------------------------------------

    async def close_digests(self, now: datetime, *, limit: int = 50) -> int:
        """See `notify.dispatch.abc.DigestStore.close_digests`; the write lock is taken only if something is due."""
        moment = millis(now)

        def is_anything_due(db: sqlite3.Connection) -> bool:
            return db.execute(self._sql["due_digests"], (moment, 1)).fetchone() is not None

        def job(db: sqlite3.Connection) -> int:
            return digests.close_due(DeliveryRows(db, self._sql), db, self._sql, moment, limit)

        return await self._transact(job) if await self._database.read(is_anything_due, False) else 0

    async def digest_items(
        self, digest: str, *, after: int = 0, limit: int = 500, channel: str | None = None
    ) -> Sequence[DigestItem]:
        """See `notify.dispatch.abc.DigestStore.digest_items`."""
        return await self._database.read(lambda db: digests.items(db, self._sql, digest, after, limit, channel), [])

    # -- opening and closing -------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """See `notify.abc.Prepare.prepare`. The directory has to exist."""
        await self._database.prepare()

    def script(self) -> str:
        """See `notify.abc.Prepare.script`. The first statement is not part of the transaction."""
        return f"PRAGMA journal_mode = WAL;\n{script(self._sql)}"

    async def aclose(self) -> None:
        """Close; calls in progress get a few seconds. Every method raises ClosedError from now on. Idempotent."""
        await self._database.aclose()

    async def __aenter__(self) -> Self:
        """Create the file and its tables, if need be; the first write would do so too."""
        await self._database.prepare()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    # -- inside --------------------------------------------------------------------------------------------------

    async def _write(self, act: Callable[[DeliveryRows], T]) -> T:
        return await self._transact(lambda db: act(DeliveryRows(db, self._sql)))

    async def _view(self, job: Job[T], empty: T) -> T:
        """Run a job that reads several tables, all in one view of the file."""

        def viewed(db: sqlite3.Connection) -> T:
            db.execute("BEGIN")
            try:
                return job(db)
            finally:
                db.execute("ROLLBACK")

        return await self._database.read(viewed, empty)

    def _now(self) -> int:
        """Return the store's clock in milliseconds."""
        return int(self._clock() * 1000)
