"""Presence inside one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import ClassVar, Self

from notify import Guarantees, RoutingInfo
from notify.adapters import LoopGuard, check_user
from notify.errors import ClosedError

_NOWHERE = RoutingInfo()


class MemoryPresence:
    """Counts the connections of this process. They end when the process does, so nothing needs a lease."""

    guarantees: ClassVar = Guarantees()

    def __init__(self) -> None:
        self._users: dict[str, dict[MemoryRegistration, RoutingInfo]] = {}
        self._closed = False
        self._guard = LoopGuard(type(self).__name__)

    async def register(self, user: str, routing: RoutingInfo | None = None) -> MemoryRegistration:
        """See `notify.abc.PresenceTracker.register`."""
        return self.register_nowait(user, routing)

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`."""
        return self.locate_nowait(users)

    async def aclose(self) -> None:
        """See `notify.abc.PresenceTracker.aclose`."""
        self._guard.check_closing()
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

    # -- ImmediatePresence ---------------------------------------------------------------------------------------

    def register_nowait(self, user: str, routing: RoutingInfo | None = None) -> MemoryRegistration:
        """See `notify.abc.PresenceTracker.register`."""
        self._check_open()
        check_user(user)
        registration = MemoryRegistration(self, user)
        self._users.setdefault(user, {})[registration] = routing or _NOWHERE
        return registration

    def locate_nowait(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`."""
        self._check_open()
        # One location for each instance, however many connections it holds; the latest registration decides.
        return {
            user: list({routing.instance_id: routing for routing in self._users[user].values()}.values())
            for user in users
            if user in self._users
        }

    def forget(self, registration: MemoryRegistration, user: str) -> None:
        """Remove a registration; nothing happens if it was removed before."""
        registrations = self._users.get(user, {})
        registrations.pop(registration, None)
        if not registrations:
            self._users.pop(user, None)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the {type(self).__name__} is closed")
        self._guard.check_if_running()


class MemoryRegistration:
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
