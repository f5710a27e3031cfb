"""Pure: the registrations of this process, counted for each user and location."""

from __future__ import annotations

from typing import Protocol

from ..abc import RoutingInfo


class Registered(Protocol):
    """One connection of one user."""

    @property
    def user(self) -> str:
        """The connected user."""

    @property
    def routing(self) -> RoutingInfo:
        """Where."""


class Registrations:
    """Registrations by user and instance.

    A user who is registered several times at one instance has one location there, with the metadata of the latest
    registration that lasts. A finaliser may remove a registration at any moment, so nothing here iterates over a dict
    in steps between which a finaliser could run.

    Invariant: a user is in `_users`, and an instance among that user's, exactly while a registration for them lasts.
    """

    def __init__(self) -> None:
        self._users: dict[str, dict[str, dict[Registered, None]]] = {}

    def __bool__(self) -> bool:
        """Whether anyone is registered."""
        return bool(self._users)

    def users(self) -> tuple[str, ...]:
        """Return the registered users."""
        return tuple(self._users)

    def locations(self, user: str) -> list[RoutingInfo]:
        """Return where a user is registered: one location for each instance, in the order of registration."""
        instances = tuple(self._users.get(user, {}).values())
        latest = [next(reversed(registrations), None) for registrations in instances]
        return [registration.routing for registration in latest if registration is not None]

    def add(self, registration: Registered) -> bool:
        """Count a registration, and return whether the user's locations have changed."""
        instances = self._users.setdefault(registration.user, {})
        registrations = instances.setdefault(registration.routing.instance_id, {})
        before = _location(registrations)
        registrations[registration] = None
        return before != registration.routing

    def remove(self, registration: Registered) -> bool:
        """Remove a registration if it is there, and return whether the user's locations have changed."""
        user, instance_id = registration.user, registration.routing.instance_id
        instances = self._users.get(user, {})
        registrations = instances.get(instance_id, {})
        if registration not in registrations:
            return False
        before = _location(registrations)
        del registrations[registration]
        if not registrations:
            del instances[instance_id]
            if not instances:
                del self._users[user]
        return before != _location(registrations)

    def clear(self) -> None:
        """Remove every registration."""
        self._users.clear()


def _location(registrations: dict[Registered, None]) -> RoutingInfo | None:
    return next(reversed(registrations)).routing if registrations else None
