"""Presence in PostgreSQL: who is connected to which instance, leased for as long as its process renews."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Final, Self

import asyncpg  # type: ignore[import-untyped]

from notify import Background, Guarantees, NotifyError, RoutingInfo
from notify.adapters import OutageLog
from notify.errors import ClosedError, UsageError
from notify.event import check_user

from ._connection import PostgresDatabase
from ._names import PostgresNames
from ._wake import ErrorFuture, resolve_all

logger = logging.getLogger("notify.pg")

_NOWHERE: Final = RoutingInfo()
_GRACE: Final = 1.0

CHUNK: Final = 1000
"""Users whose registrations one statement writes."""


class PostgresPresence:
    """Counts connections in unlogged tables: fast, and empty after a crash of the server, which heals by itself.

    Invariants:
        I1. `_own` is the truth; the rows of this tracker follow it, in the order of the changes, by one task.
        I2. No row of another tracker is changed while that one's lease lasts.

    Args:
        dsn: a DSN, or an asyncpg pool, which is never closed here.
        schema: where the tables are; made if need be.
        table_prefix: what their names begin with.
        ttl: seconds after which the registrations of a process that died are gone. A third of it lies between two
            renewals, one statement for all registrations of this process.
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
        if not ttl > 0:
            raise UsageError(f"ttl must be greater than 0, not {ttl!r}")
        self._name = type(self).__name__
        self._names = PostgresNames(schema, table_prefix)
        self._db = PostgresDatabase(dsn, self._names, backend=self._name, timeout=timeout, pool_size=pool_size)
        self._background = Background(self._name)
        self._services = Background(self._name)
        self._ttl = ttl
        self._tracker = secrets.randbits(62)
        self._own: dict[str, dict[PostgresRegistration, RoutingInfo]] = {}
        self._changed: dict[str, None] = {}
        self._waiting: list[ErrorFuture] = []
        self._news = asyncio.Event()
        self._outage = OutageLog(logger, "writing presence is failing and is retried", "presence is written again")
        self._started = False

    async def register(self, user: str, routing: RoutingInfo | None = None) -> PostgresRegistration:
        """See `notify.abc.PresenceTracker.register`."""
        self._db.check()
        check_user(user)
        self._start()
        registration = PostgresRegistration(self, user)
        self._own.setdefault(user, {})[registration] = routing or _NOWHERE
        try:
            await self.written(user)
        except BaseException:
            self.forget(registration, user)
            raise
        return registration

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`."""
        self._db.check()
        return await self._background.run(self._locate, users) if users else {}

    async def aclose(self) -> None:
        """See `notify.abc.PresenceTracker.aclose`."""
        if self._db.closed:
            return
        if self._started:
            self._own.clear()
            try:
                await self._background.run(self._db.fetch, self._names.sql("leave"), self._tracker)
            except NotifyError as error:
                logger.warning("registrations could not be released and end with their lease: %s", error)
        self._db.close()
        await self._services.aclose(_GRACE)
        await self._background.aclose(_GRACE)
        await self._db.aclose()

    async def __aenter__(self) -> Self:
        """Make the tables if need be, so that what is wrong is known at once."""
        self._db.check()
        await self._background.run(self._db.fetch, "SELECT")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    # -- registrations -------------------------------------------------------------------------------------------

    def forget(self, registration: PostgresRegistration, user: str) -> bool:
        """Take a registration out and have the rows follow; return whether it was in. Never waits."""
        registrations = self._own.get(user, {})
        if registrations.pop(registration, None) is None:
            return False
        if not registrations:
            del self._own[user]
        self._changed[user] = None
        self._news.set()
        return True

    async def end(self, registration: PostgresRegistration, user: str) -> None:
        """Take a registration out, and wait until others see it."""
        if self.forget(registration, user) and not self._db.closed:
            try:
                await self.written(user)
            except NotifyError as error:
                logger.warning("the end of a registration is seen later: %s", error)

    async def written(self, user: str) -> None:
        """Wait until the rows of this user are as they should be.

        Raises:
            BackendUnavailableError: they could not be written; they will be when they can.
        """
        waiter: ErrorFuture = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._changed[user] = None
        self._news.set()
        error = await waiter
        if error is not None:
            raise error

    def _locations(self, user: str) -> dict[str, RoutingInfo]:
        return {routing.instance_id: routing for routing in self._own.get(user, {}).values()}

    # -- the rows ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._services.start(self._run)

    async def _run(self) -> None:
        """Write what changes, and renew the lease, until cancelled; keeps I1."""
        renewed = asyncio.get_running_loop().time()
        waiting: list[ErrorFuture] = []
        try:
            while True:
                pause = renewed + self._ttl / 3 - asyncio.get_running_loop().time()
                try:
                    async with asyncio.timeout(pause):
                        await self._news.wait()
                except TimeoutError:
                    renewed = asyncio.get_running_loop().time()
                    await self._try(self._renew)
                self._news.clear()
                waiting, self._waiting = self._waiting, []
                changed, self._changed = self._changed, {}
                error = await self._try(self._write, [*changed]) if changed else None
                if error is not None:  # they go with the next change, or renewal
                    self._changed = {**changed, **self._changed}  # pragma: no cover - CPython 3.11 does not trace it
                resolve_all(waiting, error)
        finally:
            resolve_all([*waiting, *self._waiting], ClosedError("the presence tracker is closed"))

    async def _try(self, function: Any, *args: object) -> NotifyError | None:
        try:
            await function(*args)
        except NotifyError as error:
            self._outage.failed(error)
            return error
        self._outage.recovered()
        return None

    async def _write(self, users: Sequence[str]) -> None:
        for start in range(0, len(users), CHUNK):
            part = users[start : start + CHUNK]
            rows = [(user, routing) for user in part for routing in self._locations(user).values()]
            await self._db.fetch(
                self._names.sql("attend"),
                self._tracker,
                self._ttl,
                part,
                [user for user, _ in rows],
                [routing.instance_id for _, routing in rows],
                [json.dumps(dict(routing.metadata)) for _, routing in rows],
            )

    async def _renew(self) -> None:
        """Renew the lease, remove the dead, and write everything anew where rows of ours are missing or too many."""
        rows = await self._db.fetch(self._names.sql("renew"), self._tracker, self._ttl)
        if rows[0]["count"] != sum(len(self._locations(user)) for user in self._own) and not self._changed:
            await self._db.fetch(self._names.sql("leave"), self._tracker)
            await self._write([*self._own])

    async def _locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        rows = await self._db.fetch(self._names.sql("locate"), users, self._tracker)
        found: dict[str, dict[str, RoutingInfo]] = {}
        for row in rows:
            metadata = MappingProxyType(json.loads(row["metadata"]))
            found.setdefault(row["user_id"], {})[row["instance_id"]] = RoutingInfo(row["instance_id"], metadata)
        located = {user: [*{**found.get(user, {}), **self._locations(user)}.values()] for user in users}
        return {user: places for user, places in located.items() if places}


class PostgresRegistration:
    """One connection of one user."""

    __slots__ = ("_tracker", "_user")

    def __init__(self, tracker: PostgresPresence, user: str) -> None:
        self._tracker = tracker
        self._user = user

    def release(self) -> None:
        """See `notify.abc.Registration.release`."""
        self._tracker.forget(self, self._user)

    async def aclose(self) -> None:
        """See `notify.abc.Registration.aclose`; where the database does not answer, others see it later."""
        await self._tracker.end(self, self._user)
