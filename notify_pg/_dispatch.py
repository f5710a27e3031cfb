"""A store of deliveries in PostgreSQL, for any number of workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, Literal, Self

import anyio.lowlevel
import asyncpg  # type: ignore[import-untyped]

from notify import Background, Guarantees, UsageError
from notify.dispatch.abc import (
    NOTIFICATION_COLUMNS,
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
    cap_prefix,
    check_move,
    check_submission,
    checked,
    claims_of,
    delivery_of,
    instant,
    millis,
    notification_of,
    runs,
    span,
)

from ._connection import PostgresDatabase
from ._delivery_rows import LEGAL_LATER, advance_arguments, attempt_of, submit_arguments
from ._dispatch_calls import DispatchCalls
from ._dispatch_schema import PostgresDispatchSchema
from ._dispatch_users import PostgresUserRecords
from ._names import PostgresNames
from ._outbox import check_transaction
from ._pool import Connection

_FORGET: Final = 60.0
"""Seconds for erasing a user, unless a call may take longer anyway."""

_GRACE: Final = 1.0

PURGED: Final = 5000
"""Deliveries that one transaction removes at most."""

HURRIED: Final = 5000
"""The most deliveries that one transaction makes due: this many that wait, and as many that are parked."""


@checked
class PostgresDispatchStore(PostgresUserRecords):
    """Keeps notifications and deliveries in PostgreSQL; any number of workers share them. asyncio.

    Leases are measured by the server's clock.

    Args:
        dsn: a DSN, or an asyncpg pool, which is never closed here.
        schema: where the tables are; made if need be.
        table_prefix: begins their names.
        timeout: seconds for one call.
        pool_size: connections at most, where a DSN was given.

    Raises:
        UsageError: an argument is unacceptable.
    """

    guarantees: ClassVar = Guarantees(durable=True, shared=True)

    def __init__(
        self,
        dsn: str | asyncpg.Pool,
        *,
        schema: str = "public",
        table_prefix: str = "notify_",
        timeout: float = 4.0,
        pool_size: int = 8,
    ) -> None:
        owner = type(self).__name__
        names = PostgresNames(schema, table_prefix)
        self._schema = PostgresDispatchSchema(names, timeout)
        self._db = PostgresDatabase(
            dsn, names, backend=owner, timeout=timeout, pool_size=pool_size, schema=self._schema
        )
        self._background = Background(owner)
        self._calls = DispatchCalls(self._db, self._background)
        self._sql = names.sql
        self._names = names

    # -- DispatchStore -------------------------------------------------------------------------------------------

    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        """See `notify.dispatch.abc.DispatchStore.submit`.

        With a connection, an asyncpg one: the key is locked until its transaction ends, so commit soon.
        """
        self._db.check()
        check_submission(submission)
        if connection is None:
            return await self._calls.write(partial(self._submit, submission))
        check_transaction(connection)
        await self._calls.prepared()
        try:
            async with connection.transaction():
                return await self._submit(submission, connection)
        except UsageError:
            raise
        except Exception as error:
            raise self._calls.failure(error, is_certain=True) from error

    async def claim(
        self, now: datetime, *, lease: float, limit: int = 50, channels: Sequence[str] | None = None
    ) -> Sequence[Claim]:
        """See `notify.dispatch.abc.DispatchStore.claim`."""
        arguments = (millis(now), span(lease), limit, None if channels is None else [*channels])

        async def act(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(self._sql("dispatch_claim"), *arguments)
            return rows

        return claims_of(await self._calls.write(act))

    async def advance(self, moves: Sequence[Move], now: datetime) -> Sequence[bool]:
        """See `notify.dispatch.abc.DispatchStore.advance`."""
        self._db.check()
        for move in moves:
            check_move(move)
        moment = millis(now)
        parts = [(run, advance_arguments(run, moment)) for run in runs(moves)]
        query = self._sql("dispatch_advance")

        async def each(connection: Connection) -> list[bool]:
            made: list[bool] = []
            for run, arguments in parts:
                ids = {*(await connection.fetchval(query, *arguments) or ())}
                made += [move.id in ids for move in run]
            return made

        async def act(connection: Connection) -> list[bool]:
            if len(parts) == 1:
                return await each(connection)
            async with connection.transaction():
                return await each(connection)

        return await self._calls.write(act) if parts else []

    async def resolve(
        self, id: str, to: State, now: datetime, *, reason: str = "", provider_id: str = ""
    ) -> Delivery | None:
        """See `notify.dispatch.abc.DispatchStore.resolve`."""
        arguments = (id, int(to), millis(now), reason, provider_id, LEGAL_LATER)

        async def act(connection: Connection) -> Any:
            async with connection.transaction():
                await connection.execute(
                    f"SELECT {self._names.function('resolve_delivery')}($1, $2, $3, $4, $5, $6)", *arguments
                )
                return await connection.fetchrow(self._sql("dispatch_one"), id)

        row = await self._calls.write(act)
        return None if row is None else delivery_of(tuple(row))

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
        only = None if channel is None else json.dumps([channel], separators=(",", ":"))
        if not joins:
            only = ""  # the channels of no digest
        arguments = (notification, millis(now), user, channel, only, reason)
        return int(await self._calls.write(partial(self._call, "cancel_deliveries", *arguments)))

    # -- DispatchRecords, DeliveryTracking, Forget ---------------------------------------------------------------

    async def record(
        self, notification: str, user: str
    ) -> tuple[Notification, RecipientRecord, Sequence[Delivery], Sequence[DeliveryAttempt]] | None:
        """See `notify.dispatch.abc.DispatchRecords.record`."""
        rows = await self._calls.rows(self._sql("dispatch_record"), notification, user)
        if not rows:
            return None
        *columns, deliveries, attempts = rows[0]
        count = len(NOTIFICATION_COLUMNS)
        return (
            notification_of(columns[:count]),
            RecipientRecord(*columns[count:]),
            [delivery_of(row) for row in json.loads(deliveries or "[]")],
            [attempt_of(row) for row in json.loads(attempts or "[]")],
        )

    async def delivery(self, id: str) -> Claim | None:
        """See `notify.dispatch.abc.DispatchRecords.delivery`."""
        rows = await self._calls.rows(self._sql("dispatch_one"), id)
        return claims_of([tuple(rows[0])])[0] if rows else None

    async def stuck(self, states: Sequence[State], *, after: str = "", limit: int = 100) -> Sequence[Delivery]:
        """See `notify.dispatch.abc.DispatchRecords.stuck`; an index has the states from FAILED on."""
        if states and min(states) >= State.FAILED:
            late = self._sql("dispatch_stuck_late")
            parts = [await self._calls.rows(late, int(each), after, limit) for each in {*states}]
            found = [delivery_of(tuple(row)) for rows in parts for row in rows]
            return sorted(found, key=lambda each: each.id)[:limit]
        rows = await self._calls.rows(self._sql("dispatch_stuck"), [int(state) for state in states], after, limit)
        return [delivery_of(tuple(row)) for row in rows]

    async def hurry(self, now: datetime, *, user: str | None = None, channel: str | None = None) -> int:
        """See `notify.dispatch.abc.DispatchRecords.hurry`; a channel takes several transactions."""
        self._db.check()
        if user is None and channel is None:
            raise UsageError("hurry() needs user= or channel=: everything at once would be a stampede")
        if user is not None:
            return int(await self._calls.write(partial(self._value, "dispatch_hurry_user", millis(now), user, channel)))
        count, found = 0, HURRIED
        step = partial(self._row, "dispatch_hurry_channel", millis(now), channel, HURRIED)
        while found >= HURRIED:  # not until none is left: a channel that still fails keeps adding some
            hurried, found = await self._calls.write(step)
            count += hurried
            await anyio.lowlevel.checkpoint()
        return count

    async def purge(self, before: datetime, *, limit: int = 500) -> int:
        """See `notify.dispatch.abc.DispatchRecords.purge`; a notification with many recipients in several steps."""
        moment = millis(before)
        if not await self._calls.rows("SELECT 1"):
            return 0
        old = [row["id"] for row in await self._calls.rows(self._sql("dispatch_old"), moment, limit)]
        count = 0
        for id in old:
            while (is_gone := await self._calls.write(partial(self._call, "purge_notification", id, PURGED))) is False:
                await anyio.lowlevel.checkpoint()
            count += is_gone is True
        while await self._calls.write(partial(self._value, "dispatch_leftovers", moment, PURGED)) == PURGED:
            await anyio.lowlevel.checkpoint()
        return count

    async def open_channels(self) -> Sequence[str]:
        """See `notify.dispatch.abc.OpenChannels.open_channels`."""
        return [row["channel"] for row in await self._calls.rows(self._sql("dispatch_channels"))]

    async def track(self, id: str, act: Literal["opened", "clicked"], now: datetime) -> Delivery | None:
        """See `notify.dispatch.abc.DeliveryTracking.track`."""
        row = await self._calls.write(partial(self._row, "dispatch_track", id, millis(now), act == "clicked"))
        return None if row is None else delivery_of(tuple(row))

    async def forget(self, user: str) -> int:
        """See `notify.abc.Forget.forget`; returns the number of deliveries. One transaction.

        It reads through the recipients of all notifications that are kept, so it has a minute at least.
        """
        if not await self._calls.rows("SELECT 1"):
            return 0
        query = f"SELECT {self._names.function('forget_recipient')}($1, $2)"
        seconds = max(_FORGET, self._db.timeout)

        async def act(connection: Connection) -> int:
            return int(await connection.fetchval(query, user, cap_prefix(user), timeout=seconds))

        return await self._calls.write(act, seconds=seconds)

    # -- DigestStore ---------------------------------------------------------------------------------------------

    async def close_digests(self, now: datetime, *, limit: int = 50) -> int:
        """See `notify.dispatch.abc.DigestStore.close_digests`."""
        return int(await self._calls.write(partial(self._call, "close_digests", millis(now), limit)))

    async def digest_items(
        self, digest: str, *, after: int = 0, limit: int = 500, channel: str | None = None
    ) -> Sequence[DigestItem]:
        """See `notify.dispatch.abc.DigestStore.digest_items`."""
        rows = await self._calls.rows(self._sql("dispatch_items"), digest, limit, after, channel)
        return [DigestItem(instant(row[0]), notification_of(tuple(row)[2:]), row[1]) for row in rows]

    # -- opening and closing -------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Create the tables that do not exist; see `notify.abc.Prepare.prepare`."""
        self._db.check()
        await self._background.run(self._db.prepare)

    def script(self) -> str:
        """Return what creates the tables; see `notify.abc.Prepare.script`."""
        return self._schema.script()

    async def aclose(self) -> None:
        """Close; calls in progress get a second. Every method raises ClosedError from now on. Idempotent."""
        self._db.close()
        await self._background.settle(_GRACE)
        await self._background.aclose(_GRACE)
        await self._db.aclose()

    async def __aenter__(self) -> Self:
        """Create the tables if necessary, so that a problem is reported at once."""
        await self.prepare()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    # -- inside --------------------------------------------------------------------------------------------------

    async def _submit(self, submission: Submission, connection: Connection) -> Submitted:
        arguments = submit_arguments(submission)
        names = ", ".join(f"${number}" for number in range(1, len(arguments) + 1))
        query = f"SELECT * FROM {self._names.function('submit_notification')}({names})"
        row = await connection.fetchrow(query, *arguments)
        if row["answer"] == "other":
            raise UsageError(f"the key {submission.key!r:.80} was used for another request: use a new one")
        return Submitted(row["notification"], row["answer"] == "replay", row["reached"])
