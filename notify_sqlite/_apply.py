"""What items and changes do to the rows of an inbox, in the transaction that appends them.

| effect | an item that it finds | afterwards |
|---|---|---|
| seen | never shown | seen now |
| read | unread | read now; seen now unless it was before |
| unread | read or dismissed | neither; seen as before |
| dismissed | active | dismissed now; read and seen now unless it was before |
| restored | dismissed | not dismissed; read and seen as before |

An id that this store gives is greater than every other in the file, so whatever is found is before the change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from notify import Event, InvalidEventIdError, ids
from notify.adapters import split_positions
from notify.inbox.abc import CHANGES, ITEM

from ._box import InboxWriter
from ._follow import apply as apply_logs
from ._items import InboxLimits, exact_key_of, key_of, row_of
from ._record import Row

Times: TypeAlias = tuple[int | None, int | None, int | None]
"""When an item was seen, read and dismissed."""

MARKS: Final[Mapping[str, str]] = {
    f"notify.{effect}": effect for effect in ("seen", "read", "unread", "dismissed", "restored")
}
"""The changes that affect single items."""


def concerns(event: Event) -> bool:
    """Return whether an event has an effect on an inbox."""
    return event.type in CHANGES or (bool(event.meta) and ITEM in event.meta)


def apply(db: sqlite3.Connection, sql: Mapping[str, str], events: Iterable[Event], limits: InboxLimits) -> None:
    """Apply events that were appended by this transaction, in order."""
    writer = InboxWriter(db, sql, limits)
    for event in events:
        if ITEM in event.meta:
            box = writer.box(event.user)
            writer.add(box, row_of(event))
            writer.trim(box)
        elif event.type in MARKS:
            mark(writer, event)
        else:
            apply_logs(writer, event)
    writer.flush()


def mark(writer: InboxWriter, event: Event) -> list[Row]:
    """Apply one of `MARKS`, which may be a draft; return the items that it gave another state, newest first."""
    box = writer.box(event.user)
    effect, now = MARKS[event.type], writer.limits.now
    if not box.kept:
        return []
    changed = []
    for row in sorted(_named(writer, event, effect), key=lambda row: (row[0], row[1]), reverse=True):
        times = after(effect, row[2:5], now)
        if times is not None and not writer.limits.is_due(row[0], row[3], row[5]):
            changed.append((row, times))
    writer.set_times(box, changed)
    return [row for row, _ in changed]


def after(effect: str, times: Sequence[int | None], now: int) -> Times | None:
    """Return the times of an item that was given this effect; None if that changes nothing."""
    seen_at, read_at, dismissed_at = times
    seen_now = now if seen_at is None else seen_at
    match effect:
        case "seen":
            return (now, read_at, dismissed_at) if seen_at is None else None
        case "read":
            return (seen_now, now, dismissed_at) if read_at is None else None
        case "unread":
            return None if read_at is None else (seen_at, None, None)
        case "dismissed":
            return (seen_now, now if read_at is None else read_at, now) if dismissed_at is None else None
        case _:
            return None if dismissed_at is None else (seen_at, read_at, None)


def _named(writer: InboxWriter, event: Event, effect: str) -> list[Row]:
    """Return the items that the payload names; none if it is not one that the library writes."""
    db, sql, user = writer.db, writer.sql, event.user
    payload: Any = event.payload
    match payload:
        case {"ids": [*texts]}:
            keys = {exact_key_of(text) for text in texts} - {None}
            found = (db.execute(sql["named_item"], (user, *key)).fetchone() for key in keys if key is not None)
            return [row for row in found if row is not None]
        case {"up_to": str(position)}:
            bounds = _bounds(writer, user, position)
            rows = db.execute(sql[f"up_to_{effect}"], (user, max(bounds.values(), default=-1))).fetchall()
            return [row for row in rows if row[0] <= bounds.get(row[1], -1)]
        case {"group": str(group)}:
            is_dismissed = effect == "restored"
            rows = db.execute(sql["named_group"], (user, group)).fetchall()
            return [row for row in rows if (row[4] is not None) == is_dismissed]
    return []


def _bounds(writer: InboxWriter, user: str, up_to: str) -> dict[str, int]:
    """Return the position in each log that the text names."""
    key = key_of(up_to)
    if key is not None:
        return {key[1]: key[0]}
    logs = [row[0] for row in writer.db.execute(writer.sql["logs"], (user,))]
    try:
        found = split_positions(up_to, [user, *logs])
    except InvalidEventIdError:
        return {}
    return {"" if log == user else log: ids.pack(id_) for log, id_ in found.items()}
