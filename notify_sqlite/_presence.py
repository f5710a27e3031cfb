"""Who is connected, in one SQLite file, for several processes of one host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import ClassVar, Self

from notify import Guarantees, RoutingInfo, UsageError
from notify.event import check_user

from . import _leases as leases
from ._connection import Path, SQLiteDatabase
from ._keeper import Keeper

_NOWHERE = RoutingInfo()


class SQLitePresence:
    """Counts connections of all processes that share the file. asyncio only.

    Each tracker has one lease, which one task renews for all of its registrations. What a process that died had
    registered is gone when its lease ends.

    Args:
        path: the file; its directory exists. It may be that of a store.
        table_prefix: begins the name of each table: `[a-z][a-z0-9_]{0,30}`.
        ttl: seconds after which a process that does not renew its lease counts as dead, from 0.1 on.
        timeout: seconds to wait for another process that writes.
        network: accept a file on a network file system, which only one host may ever open.
        clock: returns seconds since 1970; the processes' clocks agree.

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
        if not 0.1 <= ttl <= 86_400:
            raise UsageError(f"ttl is from 0.1 seconds to a day, not {ttl!r}")
        self._clock = clock
        self._database = SQLiteDatabase(
            path,
            owner=type(self).__name__,
            part="presence",
            table_prefix=table_prefix,
            synchronous="NORMAL",
            timeout=timeout,
            network=network,
        )
        self._keeper = Keeper(self._database, ttl, clock)

    async def register(self, user: str, routing: RoutingInfo | None = None) -> _Registration:
        """See `notify.abc.PresenceTracker.register`."""
        self._database.check()
        check_user(user)
        registration = _Registration(self._keeper, user, routing or _NOWHERE)
        self._keeper.add(registration)
        try:
            await self._keeper.settled()
        except BaseException:
            registration.release()
            raise
        return registration

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`; one's own registrations are known without asking the file."""
        self._database.check()
        wanted = list(dict.fromkeys(users))
        job = partial(leases.locate, sql=self._database.sql, users=wanted, but=self._keeper.lease, clock=self._clock)
        elsewhere = await self._database.read(job)
        located: dict[str, Sequence[RoutingInfo]] = {}
        for user in wanted:
            places = {to.instance_id: to for to in (*elsewhere.get(user, ()), *self._keeper.places(user))}
            if places:
                located[user] = list(places.values())
        return located

    async def aclose(self) -> None:
        """See `notify.abc.PresenceTracker.aclose`; others see it at once."""
        if not self._database.closed and not self._database.forked:
            await self._keeper.aclose()
        await self._database.aclose()

    async def __aenter__(self) -> Self:
        """Open the file, which the first use would do too."""
        await self._database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()


class _Registration:
    """One connection of one user."""

    __slots__ = ("__weakref__", "_keeper", "routing", "user")

    def __init__(self, keeper: Keeper, user: str, routing: RoutingInfo) -> None:
        self._keeper = keeper
        self.user = user
        self.routing = routing

    def release(self) -> None:
        """End the registration. Idempotent."""
        self._keeper.remove(self)

    async def aclose(self) -> None:
        """End the registration and wait until others see it. Idempotent."""
        self.release()
        await self._keeper.settled()
