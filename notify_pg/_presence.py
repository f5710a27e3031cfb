"""Presence in PostgreSQL: where each user is connected, leased for as long as the process renews.

The tables are unlogged: writing them is cheap, and they are empty after a crash of the server. That heals by itself,
because every renewal counts the rows.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import ClassVar, Final, Self

import asyncpg  # type: ignore[import-untyped]

from notify import Guarantees, RoutingInfo
from notify.adapters import Background, LeaseKeeper, LeaseRegistration

from ._connection import PostgresDatabase
from ._names import PostgresNames
from ._schema import PRESENCE_TABLES

logger = logging.getLogger("notify.pg")

_GRACE: Final = 1.0

USERS_PER_WRITE: Final = 1000
"""Users whose registrations one statement writes."""


class PostgresPresence:
    """Knows which users are connected where, across processes. asyncio.

    Args:
        dsn: a DSN, or an asyncpg pool, which is never closed here.
        schema: where the tables are; made if need be.
        table_prefix: begins their names.
        ttl: seconds after which the registrations of a process that died are gone, from 0.1 to a day. A third of it
            lies between two renewals, one statement for all registrations of this process.
        timeout: seconds for one call.
        pool_size: connections at most, where a DSN was given.

    Raises:
        UsageError: an argument is unacceptable.
    """

    guarantees: ClassVar = Guarantees(shared=True, leased=True)

    def __init__(
        self,
        dsn: str | asyncpg.Pool,
        *,
        schema: str = "public",
        table_prefix: str = "notify_",
        ttl: float = 30.0,
        timeout: float = 4.0,
        pool_size: int = 4,
    ) -> None:
        owner = type(self).__name__
        self._names = PostgresNames(schema, table_prefix)
        self._db = PostgresDatabase(
            dsn, self._names, backend=owner, timeout=timeout, pool_size=pool_size, tables=PRESENCE_TABLES
        )
        self._background = Background(owner)
        self._leases = PostgresLeases(self._db, self._background, ttl)
        self._keeper = LeaseKeeper(
            self._leases, owner=owner, ttl=ttl, batch_size=USERS_PER_WRITE, asyncio_only=True, logger=logger
        )

    async def register(self, user: str, routing: RoutingInfo | None = None) -> LeaseRegistration:
        """See `notify.abc.PresenceTracker.register`."""
        return await self._keeper.register(user, routing)

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`."""
        return await self._keeper.locate(users)

    async def prepare(self) -> None:
        """Create the tables that do not exist; see `notify.abc.Prepare.prepare`."""
        self._keeper.check()
        self._db.check()
        await self._background.run(self._db.prepare)

    def script(self) -> str:
        """Return what creates the tables, those of the store included; see `notify.abc.Prepare.script`."""
        return self._db.schema.script()

    async def aclose(self) -> None:
        """See `notify.abc.PresenceTracker.aclose`. Takes a second or two at most; an unreleased lease expires."""
        await self._keeper.aclose()
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


class PostgresLeases:
    """One tracker's lease, and the rows under it: see `notify.adapters.LeaseBackend`.

    Invariant: while a lease lasts, only its own tracker changes the rows under it.
    """

    def __init__(self, db: PostgresDatabase, background: Background, ttl: float) -> None:
        self.tracker = secrets.randbits(62)
        self._db = db
        self._sql = db.names.sql
        self._background = background
        self._ttl = ttl

    async def write(self, changes: Mapping[str, Sequence[RoutingInfo]]) -> None:
        """See `notify.adapters.LeaseBackend.write`."""
        rows = [(user, to) for user, locations in changes.items() for to in locations]
        await self._db.fetch(
            self._sql("attend"),
            self.tracker,
            self._ttl,
            [*changes],
            [user for user, _ in rows],
            [to.instance_id for _, to in rows],
            [json.dumps(dict(to.metadata)) for _, to in rows],
            creates=True,
        )

    async def renew(self, locations: int | None) -> bool:
        """See `notify.adapters.LeaseBackend.renew`. Rows that are too many go with the rest, to be written again."""
        rows = await self._db.fetch(self._sql("renew"), self.tracker, self._ttl, creates=True)
        if locations in (None, rows[0]["count"]):
            return True
        await self.release(())
        return False

    async def fetch(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.adapters.LeaseBackend.fetch`."""
        # In a separate task, because asyncpg opens another connection to cancel a query.
        rows = await self._background.run(self._db.read, self._sql("locate"), users, self.tracker)
        found: dict[str, list[RoutingInfo]] = {}
        for row in rows:
            metadata = MappingProxyType(json.loads(row["metadata"]))
            found.setdefault(row["user_id"], []).append(RoutingInfo(row["instance_id"], metadata))
        return found

    async def release(self, users: Sequence[str]) -> None:
        """See `notify.adapters.LeaseBackend.release`."""
        if await self._db.has_tables():
            await self._db.fetch(self._sql("leave"), self.tracker)
