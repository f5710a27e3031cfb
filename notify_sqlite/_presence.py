"""Presence in one SQLite file: where each user is connected, for several processes of one host."""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, TracebackType
from typing import ClassVar, Self, TypeVar

from notify import Guarantees, RoutingInfo
from notify.adapters import LeaseKeeper, LeaseRegistration

from ._connection import MAX_ROWS, SQLiteDatabase
from ._opening import Path
from ._worker import Job, roll_back

logger = logging.getLogger("notify.sqlite")

T = TypeVar("T")


class SQLitePresence:
    """Knows which users are connected where, across the processes that share the file. asyncio only.

    Args:
        path: the file; its directory exists. It may be that of a store.
        table_prefix: begins the name of each table: `[a-z][a-z0-9_]{0,30}`.
        ttl: seconds after which a process that does not renew its lease counts as dead, from 0.1 to a day.
        timeout: seconds to wait for another process that writes.
        network: accept a file on a network file system, which only one host may ever open.
        clock: returns seconds since 1970; the processes' clocks agree. Called in any thread.

    Raises:
        UsageError: an argument is unacceptable.
    """

    guarantees: ClassVar = Guarantees(shared=True, leased=True)

    def __init__(
        self,
        path: Path,
        *,
        table_prefix: str = "notify_",
        ttl: float = 30.0,
        timeout: float = 4.0,
        network: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        owner = type(self).__name__
        self._database = SQLiteDatabase(
            path,
            owner=owner,
            part="presence",
            table_prefix=table_prefix,
            synchronous="NORMAL",
            timeout=timeout,
            network=network,
        )
        self._leases = SQLiteLeases(self._database, ttl, clock)
        self._keeper = LeaseKeeper(
            self._leases, owner=owner, ttl=ttl, batch_size=MAX_ROWS, asyncio_only=True, logger=logger
        )

    async def register(self, user: str, routing: RoutingInfo | None = None) -> LeaseRegistration:
        """See `notify.abc.PresenceTracker.register`."""
        return await self._keeper.register(user, routing)

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`."""
        return await self._keeper.locate(users)

    async def aclose(self) -> None:
        """See `notify.abc.PresenceTracker.aclose`. A lease that cannot be released, for want of the lock, expires."""
        await self._keeper.aclose()
        await self._database.aclose()

    async def __aenter__(self) -> Self:
        """Create the file and its tables, if need be; the first registration would do so too."""
        self._keeper.check()
        await self._database.prepare()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()


class SQLiteLeases:
    """One tracker's lease, and the rows under it: see `notify.adapters.LeaseBackend`.

    A lease counts while `now < expires <= now + ttl`. The second half is for a clock that steps back: without it the
    lease of a crashed process would count for longer. Living processes renew theirs soon.

    The methods that take a connection are jobs: they run in its thread, inside one transaction.
    """

    def __init__(self, database: SQLiteDatabase, ttl: float, clock: Callable[[], float]) -> None:
        self.lease = secrets.token_hex(16)
        self._database = database
        self._sql = database.sql
        self._ttl = ttl
        self._clock = clock

    async def write(self, changes: Mapping[str, Sequence[RoutingInfo]]) -> None:
        """See `notify.adapters.LeaseBackend.write`."""
        await self._transact(partial(self._write, changes=changes))

    async def renew(self, locations: int | None) -> bool:
        """See `notify.adapters.LeaseBackend.renew`."""
        return locations in (None, await self._transact(self._renew))

    async def fetch(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.adapters.LeaseBackend.fetch`."""
        return await self._database.read(partial(self._fetch, users=users), {})

    async def release(self, users: Sequence[str]) -> None:
        """See `notify.adapters.LeaseBackend.release`. The lease goes first: without it, its rows no longer count."""
        await self._transact(self._expire)
        while not await self._transact(partial(self._remove, lease=self.lease)):
            pass

    async def _transact(self, job: Job[T]) -> T:
        return await self._database.change(job, "cannot be written")

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _grant(self, db: sqlite3.Connection) -> int:
        """Grant or renew the lease, and return the time in milliseconds."""
        now, ttl = int(self._clock() * 1000), int(self._ttl * 1000)
        db.execute(self._sql["renew_lease"], (self.lease, now + ttl, ttl))
        return now

    def _write(self, db: sqlite3.Connection, changes: Mapping[str, Sequence[RoutingInfo]]) -> None:
        self._grant(db)
        for user, locations in changes.items():
            db.execute(self._sql["delete_user"], (self.lease, user))
            for to in locations:
                meta = json.dumps(dict(to.metadata)) if to.metadata else None
                db.execute(self._sql["set_presence"], (self.lease, user, to.instance_id, meta))

    def _renew(self, db: sqlite3.Connection) -> int:
        """Renew the lease and return how many locations are under it; remove some of what crashed processes left."""
        now = self._grant(db)
        (count,) = db.execute(self._sql["count_presence"], (self.lease,)).fetchone()
        for (lease,) in db.execute(self._sql["dead_leases"], (now,)).fetchall():
            if not self._remove(db, lease):
                break  # the rest goes with the next renewals
        return int(count)

    def _expire(self, db: sqlite3.Connection) -> None:
        db.execute(self._sql["delete_lease"], (self.lease,))

    def _remove(self, db: sqlite3.Connection, lease: str) -> bool:
        """Remove a lease and what is under it; return False if there may be more rows than one transaction removes."""
        rows = db.execute(self._sql["presence_of_lease"], (lease, MAX_ROWS)).fetchall()
        db.executemany(self._sql["delete_presence"], rows)
        if len(rows) == MAX_ROWS:
            return False
        db.execute(self._sql["delete_lease"], (lease,))
        return True

    def _fetch(self, db: sqlite3.Connection, users: Sequence[str]) -> dict[str, list[RoutingInfo]]:
        """Return where these users are connected under the living leases of others.

        All in one view of the file, and by the time after that was taken: a lease that is renewed in between would seem
        to come from a clock that is ahead, and its users to be offline.
        """
        found: dict[str, list[RoutingInfo]] = {}
        db.execute("BEGIN")
        try:
            db.execute(self._sql["any_lease"]).fetchone()
            now = int(self._clock() * 1000)
            for user in users:
                rows = db.execute(self._sql["locate"], (user, self.lease, now)).fetchall()
                if rows:
                    found[user] = [RoutingInfo(instance, _metadata(meta)) for instance, meta in rows]
        finally:
            roll_back(db)
        return found


def _metadata(text: str | None) -> Mapping[str, str]:
    return MappingProxyType(json.loads(text) if text else {})
