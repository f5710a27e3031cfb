"""The interface of a backend that holds registrations under leases."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from ..abc import RoutingInfo


class LeaseBackend(Protocol):
    """What a `LeaseKeeper` needs from the backend that holds its registrations.

    `write`, `renew` and `release` are called by one task, one at a time. They are cancelled only when the keeper closes
    and the backend takes too long. Each method limits its own time, and may raise anything: an exception that is not
    one of the library's errors becomes the cause of a BackendUnavailableError.
    """

    @abstractmethod
    async def write(self, changes: Mapping[str, Sequence[RoutingInfo]]) -> None:
        """Store the locations of these users under the lease, which is acquired first if it is not held.

        Args:
            changes: each user's locations in this process, one for each instance, in place of those written before;
                an empty sequence removes the user.
        """

    @abstractmethod
    async def renew(self, locations: int | None) -> bool:
        """Renew the lease, and remove what dead processes have left. Called while anything is registered.

        Args:
            locations: how many locations should be stored under the lease; None if that is not known, because a write
                has failed that may have been executed.

        Returns:
            False if anything was lost: then everything is written again.
        """

    @abstractmethod
    async def fetch(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """Return where these users are registered under the living leases of other keepers.

        Users who are registered nowhere else may be left out. Called by any number of tasks, and cancelled with them: a
        driver that must not be cancelled in the middle of a call runs in a `Background`.
        """

    @abstractmethod
    async def release(self, users: Sequence[str]) -> None:
        """End the lease, and remove what was stored under it. Called once, after all other calls.

        Args:
            users: every user whose locations may be stored.
        """
