"""Keeps the file in step with what one tracker has registered: one task for all registrations."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final, Protocol, TypeVar

import anyio

from notify import BackendError, BackendUnavailableError, Background, ClosedError, NotifyError, RoutingInfo

from . import _leases as leases
from ._connection import Job, SQLiteDatabase
from ._errors import unavailable

logger = logging.getLogger("notify.sqlite")

T = TypeVar("T")

_GRACE: Final = 1.0


class Registered(Protocol):
    """A registration, as its keeper sees it."""

    user: str
    routing: RoutingInfo


class _Wait:
    """Somebody who waits until the file shows what he did."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: NotifyError | None = None

    def finish(self, error: NotifyError | None) -> None:
        self.error = error
        self.done.set()


class Keeper:
    """Writes what changed, and renews the lease while anything is registered.

    Invariants:
        I1. The file shows what `_places` says, but for the places in `_dirty` and those being written.
        I2. A place is in `_places` exactly while somebody is registered there.

    Args:
        database: written to.
        ttl: seconds that a lease lasts.
        clock: returns seconds since 1970.
    """

    def __init__(self, database: SQLiteDatabase, ttl: float, clock: Callable[[], float]) -> None:
        self.lease = secrets.token_hex(16)
        self._database = database
        self._background = Background(database.owner)
        self._ttl = ttl
        self._clock = clock
        self._places: dict[leases.Place, list[Registered]] = {}
        self._instances: dict[str, set[str]] = {}
        self._dirty: dict[leases.Place, None] = {}
        self._shown: set[leases.Place] = set()
        self._waiting: list[_Wait] = []
        self._poked = anyio.Event()
        self._renew_at = 0.0
        self._writing = self._started = self._closed = False

    def add(self, registration: Registered) -> None:
        """Count a registration; `settled` tells when others see it."""
        user, instance = place = _place(registration)
        there = self._places.setdefault(place, [])
        if not there or there[-1].routing != registration.routing:
            self._touch(place)
        there.append(registration)
        self._instances.setdefault(user, set()).add(instance)

    def remove(self, registration: Registered) -> None:
        """Take a registration out, without waiting; nothing happens if it is out already."""
        user, instance = place = _place(registration)
        there = self._places.get(place, [])
        if registration not in there:
            return
        latest = there[-1].routing
        there.remove(registration)
        if not there:
            del self._places[place]  # keeps I2
            self._instances[user].discard(instance)
            if not self._instances[user]:
                del self._instances[user]
        if not there or there[-1].routing != latest:
            self._touch(place)

    def places(self, user: str) -> list[RoutingInfo]:
        """Return where this user is registered, as the latest registration at each instance says."""
        return [self._places[user, instance][-1].routing for instance in self._instances.get(user, ())]

    async def settled(self) -> None:
        """Wait until the file shows what was registered and released so far.

        Raises:
            BackendUnavailableError: that failed; it is tried again all the same.
            ClosedError: the tracker was closed meanwhile.
        """
        if self._closed or not (self._dirty or self._writing):
            return
        if not self._started:
            self._background.start(self._run)
            self._started = True
        wait = _Wait()
        self._waiting.append(wait)
        self._poked.set()
        await wait.done.wait()
        if wait.error is not None:
            raise wait.error

    async def aclose(self) -> None:
        """End every registration; others see it at once. Called once."""
        self._closed = True
        self._places.clear()
        self._instances.clear()
        await self._background.aclose(_GRACE)
        if self._started:
            try:
                await self._database.jobs.run(self._end)
            except BackendError as error:
                logger.warning("cannot release presence, which ends in %s s: %r", self._ttl, error)

    async def _end(self) -> None:
        sql = self._database.sql
        await self._database.write(partial(leases.expire, sql=sql, lease=self.lease))
        while not await self._database.write(partial(leases.remove, sql=sql, lease=self.lease)):
            pass

    def _touch(self, place: leases.Place) -> None:
        self._dirty[place] = None
        self._poked.set()

    async def _run(self) -> None:
        waiting: list[_Wait] = []
        error: BackendUnavailableError | None = None
        try:
            while True:
                if not self._waiting and (error is not None or not self._dirty):
                    await self._rest(self._ttl / 6 if error is not None else self._renew_at - anyio.current_time())
                self._poked = anyio.Event()
                waiting, self._waiting = self._waiting, []
                error = await self._step()
                for wait in waiting:
                    wait.finish(error)
        finally:  # the tracker closes
            for wait in (*waiting, *self._waiting):
                wait.finish(ClosedError(f"{self._database.owner} is closed"))

    async def _rest(self, seconds: float) -> None:
        """Wait until something changes, or until it is time; without registrations it never is."""
        with anyio.move_on_after(max(seconds, 0.0) if self._places else math.inf):
            await self._poked.wait()

    async def _step(self) -> BackendUnavailableError | None:
        """Write what changed, and renew the lease where that is due; return what went wrong."""
        self._writing = True
        try:
            if anyio.current_time() >= self._renew_at:
                await self._renew()
            while self._dirty:
                await self._write_some()
        except BackendError as error:
            failure = unavailable(error, self._database.owner, self._database.path)
            failure.__cause__ = error
            logger.warning("cannot write presence: %r", failure)
            return failure
        finally:
            self._writing = False
        return None

    async def _renew(self) -> None:
        """Renew the lease; where the file has lost something of it, write everything again."""
        renewed = anyio.current_time()
        shown = await self._database.write(self._job(leases.renew))
        if shown != len(self._shown):
            self._shown.clear()
            self._dirty.update(dict.fromkeys(self._places))
        self._renew_at = renewed + self._ttl / 3

    async def _write_some(self) -> None:
        places = list(islice(self._dirty, leases.CHUNK))
        for place in places:
            del self._dirty[place]
        there = [(place, self._places[place][-1].routing if place in self._places else None) for place in places]
        try:
            await self._database.write(self._job(leases.write, places=there))
        except BaseException:
            self._dirty.update(dict.fromkeys(places))  # keeps I1
            raise
        for place, routing in there:
            if routing is None:
                self._shown.discard(place)
            else:
                self._shown.add(place)

    def _job(self, job: Callable[..., T], **arguments: object) -> Job[T]:
        now, ttl = int(self._clock() * 1000), int(self._ttl * 1000)
        return partial(job, sql=self._database.sql, lease=self.lease, now=now, ttl=ttl, **arguments)


def _place(registration: Registered) -> leases.Place:
    return registration.user, registration.routing.instance_id
