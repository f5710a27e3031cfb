"""Presence by lease: keeps the registrations of one process in a backend that several processes share.

A process that dies takes its lease with it: the backend stops returning its registrations once the lease has run out,
and no other process has to notice the crash. The price is that the lease has to be renewed. One task does so for all
registrations of the process, however many there are. The same task writes what changes, so the backend never sees two
writes of one keeper at the same time, and never out of order.

| What happens | What the task does |
|---|---|
| a user's locations change | writes them at once, together with whatever else changed while it was writing |
| a third of `ttl` has passed | renews the lease, unless nothing is registered |
| `renew` answers that something was lost | writes all registrations again |
| the backend fails | fails the waiting calls of `register`; retries after growing delays, or at the next call |
| the keeper is closed | finishes its current write, releases the lease, ends |
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

import anyio

from .._runtime._background import Background, without_stray_cancellation
from .._runtime._backoff import backoff
from .._runtime._driver_errors import DriverErrors
from .._runtime._loop_guard import LoopGuard
from .._runtime._outage_log import OutageLog
from .._runtime._waking import Waiter
from ..abc import RoutingInfo
from ..errors import BackendUnavailableError, ClosedError, NotifyError, UsageError
from ..event import check_user
from ._lease_backend import LeaseBackend
from ._registrations import Registrations

T = TypeVar("T")

_NOWHERE: Final = RoutingInfo()

_GRACE: Final = 1.0
"""Seconds that closing waits for the backend. What is not released by then expires with its lease."""

_MIN_TTL: Final = 0.1
_MAX_TTL: Final = 86_400.0

_RENEWALS: Final = 3
"""Renewals within one time to live: two may fail before others consider the process dead."""


class LeaseKeeper:
    """Counts the registrations of one process, and keeps a backend informed of where its users are.

    A user who is registered several times at one instance has one location there, with the metadata of the latest
    registration that lasts. The process's own registrations are known without asking the backend.

    Invariants:
        I1. The backend holds what `_registrations` says, except for the users in `_changed`, who are written next, and
            in `_writing`, who are being written.
        I2. A wait is in one list of `_changed` or `_writing` until it is finished, and it is finished once.
        I3. The backend holds as many locations of each user as `_stored` says, except for the users in `_unsure`, whose
            latest write has failed and may have been executed.

    Args:
        backend: holds the leases.
        owner: the tracker's name, for messages and for `BackendError.backend`.
        ttl: seconds that a lease lasts, from 0.1 to a day. It is renewed three times as often.
        batch_size: the most users in one call of `write`.
        asyncio_only: whether the driver needs asyncio.
        logger: where outages are logged.

    Attributes:
        check: raises unless the keeper is open and on the event loop where it was first used: see `LoopGuard.check`.

    Raises:
        UsageError: `ttl` is out of range.
    """

    def __init__(
        self,
        backend: LeaseBackend,
        *,
        owner: str,
        ttl: float = 30.0,
        batch_size: int = 500,
        asyncio_only: bool = False,
        logger: logging.Logger | None = None,
    ) -> None:
        if not _MIN_TTL <= ttl <= _MAX_TTL:
            raise UsageError(f"ttl must be from {_MIN_TTL} to {_MAX_TTL:.0f} seconds, got {ttl!r}")
        self._backend = backend
        self._owner = owner
        self._ttl = ttl
        self._batch_size = batch_size
        self._logger = logger or logging.getLogger("notify")
        self._guard = LoopGuard(owner, asyncio_only=asyncio_only)
        self.check = self._guard.check
        self._background = Background(owner)
        self._errors = DriverErrors(owner)
        self._outage = OutageLog(
            self._logger,
            f"{owner} cannot write or renew its registrations, and keeps trying",
            f"{owner} writes and renews its registrations again",
        )
        self._registrations = Registrations()
        self._changed: dict[str, list[_Wait]] = {}
        self._writing: dict[str, list[_Wait]] = {}
        self._stored: dict[str, int] = {}
        self._unsure: set[str] = set()
        self._news: anyio.Event | None = None
        self._is_urgent = False
        self._is_running = False
        self._is_leased = False
        self._renew_at = math.inf

    # -- presence ------------------------------------------------------------------------------------------------

    async def register(self, user: str, routing: RoutingInfo | None = None) -> LeaseRegistration:
        """Count one more connection, and wait until other processes see it. See `PresenceTracker.register`."""
        self.check()
        check_user(user)
        registration = LeaseRegistration(self, user, routing or _NOWHERE)
        if self._registrations.add(registration):
            self._touch(user)
        try:
            await self.written(user)
        except BaseException:
            registration.release()
            raise
        return registration

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """Return where each of these users is connected, here and elsewhere. See `PresenceTracker.locate`."""
        self.check()
        if not users:
            return {}
        elsewhere = await self._call(self._backend.fetch, users)
        located: dict[str, Sequence[RoutingInfo]] = {}
        for user in users:
            locations = {to.instance_id: to for to in (*elsewhere.get(user, ()), *self.locations(user))}
            if locations:
                located[user] = [*locations.values()]
        return located

    def locations(self, user: str) -> list[RoutingInfo]:
        """Return where the user is registered by this process."""
        return self._registrations.locations(user)

    def release(self, registration: LeaseRegistration) -> None:
        """End a registration, in this process at once, elsewhere soon. Never waits; any thread, any finaliser."""
        self._guard.call(partial(self._remove, registration))

    async def written(self, user: str) -> None:
        """Wait until other processes see what was registered and released for this user so far.

        Raises:
            BackendUnavailableError: it could not be written; the keeper keeps retrying.
            ClosedError: the keeper is closed.
        """
        self.check()
        waits = self._changed.get(user)
        if waits is None:
            waits = self._writing.get(user)  # unchanged since: otherwise it would be in `_changed`
        if waits is None:
            return
        wait = _Wait(self._guard.new_waiter())
        waits.append(wait)
        if not self._is_running:
            self._is_running = True
            self._background.start(self._run)
        self._is_urgent = True
        self._wake()
        await wait.waiter
        if wait.error is not None:
            raise wait.error

    async def aclose(self) -> None:
        """Release everything, and wait at most a second for it; what is left expires.

        Idempotent. A call during another one waits as well: its caller closes the client that the release needs.
        """
        if not self._guard.closed:
            self._guard.close()
            self._registrations.clear()
            error = self._closed()
            _finish(self._changed, error)
            _finish(self._writing, error)
            self._wake()
        if not self._guard.forked:  # else the task is in another process
            await self._background.settle(_GRACE)
            await self._background.aclose(_GRACE)

    async def abandon(self) -> None:
        """Stop as if the process had been killed: release nothing, renew nothing. For tests of what happens then."""
        self._guard.close()
        await self._background.aclose(_GRACE)

    # -- the task ------------------------------------------------------------------------------------------------

    def _remove(self, registration: LeaseRegistration) -> None:
        if self._registrations.remove(registration):
            self._touch(registration.user)

    def _touch(self, user: str) -> None:
        self._changed.setdefault(user, [])  # keeps I1
        if not self._outage.is_failing:  # during an outage the next attempt waits for its delay
            self._wake()

    def _wake(self) -> None:
        if self._news is not None:
            with suppress(RuntimeError):  # the event loop has ended, and the task with it
                self._news.set()

    async def _run(self) -> None:
        """Write what changes and renew the lease, until the keeper is closed; then release it."""
        delays = self._delays()
        try:
            while not self._guard.closed:
                self._is_urgent = False
                await self._step()
                if self._outage.is_failing:
                    await self._rest(next(delays), self._is_urgent)
                else:
                    delays = self._delays()
                    await self._rest(self._renew_at - anyio.current_time(), bool(self._changed))
            if self._is_leased:
                await self._release()
        finally:
            self._is_running = False  # if this is not the end of the keeper, the next call starts another task
            error = self._closed() if self._guard.closed else self._ended()
            self._postpone(error)
            _finish(self._changed, error)  # keeps I2

    async def _rest(self, seconds: float, has_work: bool) -> None:
        if has_work or self._guard.closed:
            return
        self._news = anyio.Event()  # no other task runs between the check above and this
        with anyio.move_on_after(max(0.0, seconds)):
            await self._news.wait()

    async def _step(self) -> None:
        """Renew the lease if that is due, and write all that has changed."""
        self._writing, self._changed = self._changed, {}
        try:
            await self._renew_if_due()
            while self._writing and not self._guard.closed:
                await self._write_batch()
                await self._renew_if_due()
        except NotifyError as error:
            self._postpone(error)
            self._outage.failed(error)
        else:
            self._outage.recovered()
            if not self._registrations:
                self._renew_at = math.inf  # nothing needs the lease

    def _postpone(self, error: NotifyError) -> None:
        """Fail the calls that wait for what is being written; it is written in the next step."""
        failed, self._writing = self._writing, {}
        self._changed = {user: [] for user in failed} | self._changed  # keeps I1
        _finish(failed, error)  # keeps I2

    async def _renew_if_due(self) -> None:
        now = anyio.current_time()
        if now < self._renew_at:
            return
        is_complete = await self._call(self._backend.renew, None if self._unsure else sum(self._stored.values()))
        self._renew_at = now + self._ttl / _RENEWALS
        if not is_complete:
            for user in self._registrations.users():
                self._changed.setdefault(user, [])  # keeps I1

    async def _write_batch(self) -> None:
        users = list(islice(self._writing, self._batch_size))
        changes = {user: self.locations(user) for user in users}
        began = anyio.current_time()
        self._is_leased = True
        self._unsure.update(users)  # keeps I3
        await self._call(self._backend.write, changes)
        self._unsure.difference_update(users)
        if self._renew_at == math.inf:
            self._renew_at = began + self._ttl / _RENEWALS
        for user, locations in changes.items():
            self._stored[user] = len(locations)
            if not locations:
                del self._stored[user]
        _finish({user: self._writing.pop(user, []) for user in users}, None)  # keeps I2

    async def _release(self) -> None:
        try:
            await self._call(self._backend.release, [*{**self._stored, **dict.fromkeys(self._unsure)}])
        except NotifyError as error:
            self._logger.warning(
                "%s cannot release presence, so its registrations expire within %s s: %s", self._owner, self._ttl, error
            )

    async def _call(self, method: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the backend; whatever it raises is a NotifyError, unless this task is cancelled."""
        with self._errors.reading():
            return await without_stray_cancellation(method, *args)

    def _delays(self) -> Iterator[float]:
        longest = min(2.0, self._ttl / (2 * _RENEWALS))
        return backoff(random.random, first=min(0.05, longest), limit=longest)

    def _closed(self) -> ClosedError:
        return ClosedError(f"the {self._owner} is closed")

    def _ended(self) -> BackendUnavailableError:
        return BackendUnavailableError(f"the task of the {self._owner} was ended", backend=self._owner)


class LeaseRegistration:
    """One connection of one user.

    Attributes:
        user: the connected user.
        routing: where.
    """

    __slots__ = ("__weakref__", "_keeper", "routing", "user")

    def __init__(self, keeper: LeaseKeeper, user: str, routing: RoutingInfo) -> None:
        self._keeper = keeper
        self.user = user
        self.routing = routing

    def release(self) -> None:
        """End the registration without waiting. Idempotent."""
        self._keeper.release(self)

    async def aclose(self) -> None:
        """End the registration and wait until others see it; an outage of the backend is logged, not raised."""
        self.release()
        with suppress(NotifyError):  # it has ended here, and others see that when the backend is back or the lease ends
            await self._keeper.written(self.user)


class _Wait:
    """A call that waits until a user's locations are written."""

    __slots__ = ("error", "waiter")

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.error: NotifyError | None = None


def _finish(waits: Mapping[str, list[_Wait]], error: NotifyError | None) -> None:
    for each in tuple(waits.values()):
        for wait in each:
            wait.error = error
            wait.waiter.wake()
        each.clear()
