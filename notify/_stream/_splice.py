"""Pure: how an offered event relates to a cursor.

Rules:
    1. The next event after a cursor is the one whose `prev` equals the cursor. Nothing else proves contiguity.
    2. An event at or before the cursor was seen.
    3. Anything else means that the log must be read from the cursor.
    4. An event without an id is ephemeral: it is in no log, follows everything and moves no cursor.
"""

from __future__ import annotations

from enum import Enum

from .. import ids
from ..event import Event


class Contiguity(Enum):
    """What to do with an offered event."""

    NEXT = "next"
    SEEN = "seen"
    BEHIND = "behind"


def splice(cursor: str, event: Event) -> Contiguity:
    """Judge one offered event against the cursor of one stream."""
    if not event.id or event.prev == cursor:
        return Contiguity.NEXT
    if ids.parse(event.id) <= ids.parse(cursor):
        return Contiguity.SEEN
    return Contiguity.BEHIND
