"""Pure: what a cursor makes of an offered event, and what a log makes of a cursor.

Rules:
    1. The next event after a cursor is the one whose `prev` equals the cursor. Nothing else proves contiguity.
    2. An event at or before the cursor was seen.
    3. Anything else means that the log must be read from the cursor.
    4. An event without an id is ephemeral: it is in no log, follows everything and moves no cursor.
"""

from __future__ import annotations

from enum import Enum

from . import ids
from .abc import GapReason
from .event import Event


class Verdict(Enum):
    """What to do with an offered event."""

    NEXT = "next"
    SEEN = "seen"
    BEHIND = "behind"


def splice(cursor: str, event: Event) -> Verdict:
    """Judge one offered event against the cursor of one stream."""
    if not event.id or event.prev == cursor:
        return Verdict.NEXT
    if ids.parse(event.id) <= ids.parse(cursor):
        return Verdict.SEEN
    return Verdict.BEHIND


def continuity(after: str, first_prev: str | None, head: str, *, expired: bool = False) -> GapReason | None:
    """Return the gap between a position and what a log still holds after it: for stores, the value of `Page.gap`.

    Args:
        after: the position that was asked for.
        first_prev: `prev` of the first event after it; None where there is none.
        head: id of the last event ever appended to this log, `"0"` for none.
        expired: where nothing is left after the position, whether that is because of its age.

    A log that still knows its head but lost the events answers `trimmed` (or `expired`); one that was forgotten
    altogether answers `expired`; a position that the log never reached, or whose successor does not link back to it,
    was `rewound`: a restored backup, or a failover that lost its tail.
    """
    if first_prev is None:
        if after == head:
            return None
        if head == ids.ZERO:
            return "expired"
        if ids.parse(after) > ids.parse(head):
            return "rewound"
        return "expired" if expired else "trimmed"
    if first_prev == after:
        return None
    if first_prev == ids.ZERO:
        return "expired"
    return "trimmed" if ids.parse(first_prev) > ids.parse(after) else "rewound"
