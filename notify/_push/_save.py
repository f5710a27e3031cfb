"""One event on its way into the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from .._runtime._waking import Waiter, wake
from ..abc import RoutingInfo
from ..errors import NotifyError
from ..event import Event

Locations: TypeAlias = Sequence[RoutingInfo] | None
"""Where to route an event once it is stored; None for every instance."""

UNLOCATED: Final[Locations] = [RoutingInfo("unlocated")]
"""This very object means that presence has not been asked yet."""


class Save:
    """One event that is being saved.

    Attributes:
        event: the draft.
        micros: its timestamp, which distinguishes it from the first event of a repeated key.
        locations: where it is routed to once it is stored.
        outcome: the stored event or the error, once known.
        absent: whether the policy for absent users dropped it.
        accepted: whether its place among the saves of its user is fixed.
        waits_in: where it waits to be sent; None once it is on its way.
        deadline: when it counts as failed, for a store that batches by itself.
        waiter: what the caller waits on.
    """

    __slots__ = ("absent", "accepted", "deadline", "event", "locations", "micros", "outcome", "waiter", "waits_in")

    def __init__(self, event: Event, waiter: Waiter) -> None:
        self.event = event
        self.micros = event.micros
        self.locations: Locations = UNLOCATED
        self.outcome: Event | NotifyError | None = None
        self.absent = False
        self.accepted = False
        self.waits_in: deque[Save] | None = None
        self.deadline = 0.0
        self.waiter = waiter

    def finish(self, outcome: Event | NotifyError) -> None:
        """Set the outcome and wake the caller, if it still waits."""
        self.outcome = outcome
        wake(self.waiter)
