"""One event on its way into the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from .._runtime._waking import Waiter
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
        report: called with this save and its outcome by such a store; set before the save is handed over.
        waiter: what the caller waits on; None until it waits.
    """

    __slots__ = (
        "absent",
        "accepted",
        "deadline",
        "event",
        "locations",
        "micros",
        "outcome",
        "report",
        "waiter",
        "waits_in",
    )

    report: Callable[[Save, Event | NotifyError], None]

    def __init__(self, event: Event, waiter: Waiter | None = None) -> None:
        self.event = event
        self.micros = event.micros
        self.locations: Locations = UNLOCATED
        self.outcome: Event | NotifyError | None = None
        self.absent = False
        self.accepted = False
        self.waits_in: deque[Save] | None = None
        self.deadline = 0.0
        self.waiter = waiter

    def __call__(self, outcome: Event | NotifyError) -> None:
        """Report the outcome. A save is itself the callback of `save_soon`, which is one object fewer for each push."""
        self.report(self, outcome)

    def finish(self, outcome: Event | NotifyError) -> None:
        """Set the outcome and wake the caller, if it still waits."""
        self.outcome = outcome
        if self.waiter is not None:
            self.waiter.wake()
