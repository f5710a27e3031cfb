"""The deliveries of the memory store, found by their ids and by their recipients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from notify.dispatch.abc import Delivery


@dataclass
class MemoryDelivery:
    """A delivery, when its lease ends in milliseconds of the store's clock, and with which fence it was last begun."""

    delivery: Delivery
    lease_until: int = 0
    begun: int = 0


class MemoryDeliveries(dict[str, MemoryDelivery]):
    """All deliveries, by their ids. `add` and `drop` are the only ways to change which there are.

    Invariants:
        I1. Each of them is in `_recipients`, under its notification and user, once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._recipients: dict[tuple[str, str], list[MemoryDelivery]] = {}

    def add(self, row: MemoryDelivery) -> None:
        """Add a row, unless there is one with its id."""
        each = row.delivery
        if self.setdefault(each.id, row) is row:
            self._recipients.setdefault((each.notification, each.user), []).append(row)  # keeps I1

    def drop(self, ids: Iterable[str]) -> None:
        """Remove the rows with these ids, and any others of the same notifications and users."""
        for id in ids:
            row = self.get(id)
            if row is not None:
                for other in self._recipients.pop((row.delivery.notification, row.delivery.user)):
                    del self[other.delivery.id]  # keeps I1

    def of(self, notification: str, user: str) -> list[Delivery]:
        """Return the deliveries of a notification to a user, in the order in which they were added."""
        return [row.delivery for row in self._recipients.get((notification, user), ())]


def urgency(row: MemoryDelivery) -> tuple[int, datetime, str]:
    """Return what waiting deliveries are sorted by, the first to be claimed first."""
    assert row.delivery.due_at is not None
    return -row.delivery.priority, row.delivery.due_at, row.delivery.id
