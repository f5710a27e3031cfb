"""A base class for presence trackers over a key-value store whose entries expire: three methods make a tracker."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

import anyio

from .._runtime._background import Background, without_stray_cancellation
from ..abc import Guarantees, RoutingInfo
from ..errors import UsageError
from ._lease_keeper import LeaseKeeper, LeaseRegistration

T = TypeVar("T")

_MARK: Final = "notify.tracker"
"""The entry in a location's metadata by which a tracker recognises its own locations."""

_GRACE: Final = 1.0


class LeasedPresence(ABC):
    """A presence tracker over a store of entries that expire. Subclass it and write `put`, `drop` and `fetch`.

    Everything else is here: registrations are counted, and every entry is put again three times within `ttl`, by one
    task for the whole process; this also restores entries that the store has lost. Closing drops the entries, which
    takes a second at most. Exceptions of the three methods reach callers as a BackendUnavailableError, and are logged
    once per outage.

    The methods run in tasks that the tracker owns, so cancelling a caller never cancels a call of the driver. A call
    that takes longer than `timeout` is cancelled, and counts as failed.

    Args:
        ttl: seconds after which the entries of a process that died are gone, from 0.1 to a day.
        timeout: seconds that one call of `put`, `drop` or `fetch` may take.

    Attributes:
        ttl: as given; a subclass may set another default.
        tracker_id: letters and digits that no other tracker has. It belongs in the key of every entry, so that
            processes do not overwrite each other's entries.
        max_concurrent_writes: calls of `put` and `drop` at the same time, all for different users.

    Raises:
        UsageError: `ttl` or `timeout` is out of range.
    """

    guarantees: ClassVar = Guarantees(shared=True, leased=True)
    ttl: float = 30.0
    max_concurrent_writes: ClassVar[int] = 16

    def __init__(self, *, ttl: float | None = None, timeout: float = 4.0) -> None:
        if not timeout > 0:
            raise UsageError(f"timeout must be greater than 0 seconds, got {timeout!r}")
        owner = type(self).__name__
        self.ttl = self.ttl if ttl is None else ttl
        self.tracker_id = secrets.token_hex(8)
        self._background = Background(owner)
        self._keeper = LeaseKeeper(_Entries(self, self._background, timeout), owner=owner, ttl=self.ttl)

    @abstractmethod
    async def put(self, user: str, routes: Sequence[RoutingInfo]) -> None:
        """Store where this process has the user registered, to expire after `ttl` seconds.

        Args:
            user: as `check_user` accepts it: `safe_name` makes it fit for most keys.
            routes: at least one, in place of those put before. Their metadata is stored whole.
        """

    @abstractmethod
    async def drop(self, user: str) -> None:
        """Remove what this process has put for this user. There may be nothing."""

    @abstractmethod
    async def fetch(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """Return what any process has put for these users and has not expired; users without routes may be left out.

        It must raise if the store does not answer: an empty answer would mean that the users are offline.
        """

    async def register(self, user: str, routing: RoutingInfo | None = None) -> LeaseRegistration:
        """See `notify.abc.PresenceTracker.register`."""
        return await self._keeper.register(user, routing)

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`."""
        return await self._keeper.locate(users)

    async def aclose(self) -> None:
        """See `notify.abc.PresenceTracker.aclose`. A subclass with its own connection closes that afterwards."""
        await self._keeper.aclose()
        await self._background.aclose(_GRACE)

    async def abandon(self) -> None:
        """Stop as if the process had been killed: drop nothing, put nothing again. For tests of what happens then."""
        await self._keeper.abandon()
        await self._background.aclose(_GRACE)

    async def __aenter__(self) -> Self:
        """Return the tracker."""
        self._keeper.check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()


class _Entries:
    """A backend for a keeper in which each user's entry has its own lease."""

    def __init__(self, tracker: LeasedPresence, background: Background, timeout: float) -> None:
        self._tracker = tracker
        self._background = background
        self._timeout = timeout

    async def write(self, changes: Mapping[str, Sequence[RoutingInfo]]) -> None:
        """Put and drop, several users at the same time."""
        pending = iter(changes.items())
        errors: list[Exception] = []

        async def work() -> None:
            for user, routes in pending:
                if errors:  # the store is unavailable: the others would only make the failure take longer
                    return
                try:
                    if routes:
                        await self._call(self._tracker.put, user, [self._marked(to) for to in routes])
                    else:
                        await self._call(self._tracker.drop, user)
                except Exception as error:
                    errors.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(min(len(changes), self._tracker.max_concurrent_writes)):
                tasks.start_soon(work)
        if errors:
            raise errors[0]

    async def renew(self, locations: int | None) -> bool:
        """Return False, so that the keeper puts every entry again, which renews it."""
        return False

    async def fetch(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """Fetch, and leave out this tracker's own entries, which may be older than what the keeper knows."""
        found = await self._background.run(self._call, self._tracker.fetch, users)
        return {
            user: [_unmarked(to) for to in routes if to.metadata.get(_MARK) != self._tracker.tracker_id]
            for user, routes in found.items()
        }

    async def release(self, users: Sequence[str]) -> None:
        """Drop the entries of these users."""
        await self.write(dict.fromkeys(users, ()))

    async def _call(self, method: Callable[..., Any], *args: object) -> Any:
        with anyio.fail_after(self._timeout):
            return await without_stray_cancellation(method, *args)

    def _marked(self, to: RoutingInfo) -> RoutingInfo:
        return RoutingInfo(to.instance_id, MappingProxyType({**to.metadata, _MARK: self._tracker.tracker_id}))


def _unmarked(to: RoutingInfo) -> RoutingInfo:
    return RoutingInfo(
        to.instance_id, MappingProxyType({name: text for name, text in to.metadata.items() if name != _MARK})
    )
