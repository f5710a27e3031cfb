"""Presence inside one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import ClassVar, Self

from notify import Guarantees, RoutingInfo
from notify.errors import ClosedError
from notify.event import check_user

_NOWHERE = RoutingInfo()


class MemoryPresence:
    """Counts connections in this process; they end with it, so nothing needs a lease."""

    guarantees: ClassVar = Guarantees()

    def __init__(self) -> None:
        self._users: dict[str, dict[_Registration, RoutingInfo]] = {}
        self._closed = False

    async def register(self, user: str, routing: RoutingInfo | None = None) -> _Registration:
        """See `notify.abc.PresenceTracker.register`."""
        return self.register_nowait(user, routing)

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`."""
        return self.locate_nowait(users)

    async def aclose(self) -> None:
        """See `notify.abc.PresenceTracker.aclose`."""
        self._closed = True
        self._users.clear()

    async def __aenter__(self) -> Self:
        """Return the tracker; there is nothing to prepare."""
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    def register_nowait(self, user: str, routing: RoutingInfo | None = None) -> _Registration:
        """See `notify.abc.PresenceTracker.register`."""
        self._check_open()
        check_user(user)
        registration = _Registration(self, user)
        self._users.setdefault(user, {})[registration] = routing or _NOWHERE
        return registration

    def locate_nowait(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`."""
        self._check_open()
        return {
            user: list({routing.instance_id: routing for routing in self._users[user].values()}.values())
            for user in users
            if user in self._users
        }

    def forget(self, registration: _Registration, user: str) -> None:
        """Take a registration out; nothing happens if it is out already."""
        registrations = self._users.get(user, {})
        registrations.pop(registration, None)
        if not registrations:
            self._users.pop(user, None)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the presence tracker is closed")


class _Registration:
    """One connection of one user."""

    __slots__ = ("_tracker", "_user")

    def __init__(self, tracker: MemoryPresence, user: str) -> None:
        self._tracker = tracker
        self._user = user

    def release(self) -> None:
        """End the registration. Idempotent."""
        self._tracker.forget(self, self._user)

    async def aclose(self) -> None:
        """End the registration. Idempotent."""
        self.release()
