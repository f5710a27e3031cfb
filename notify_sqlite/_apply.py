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
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from notify import Event, InvalidEventIdError, ids
from notify.adapters import split_positions
from notify.inbox.abc import ITEM

from ._box import InboxWriter
from ._follow import apply as apply_logs
from ._items import InboxLimits, exact_key_of, expiry_of, key_of, payload_of
from ._record import Row

Times: TypeAlias = tuple[int | None, int | None, int | None]
"""When an item was seen, read and dismissed."""

_FEW: Final = 50
"""Items that are changed one by one, which costs as much as a look at some hundred others in between them."""

Listed: TypeAlias = tuple[Event, int, str]
"""An event that was appended, its packed id, and its `meta` as JSON."""

MARKS: Final[Mapping[str, str]] = {
    f"notify.{effect}": effect for effect in ("seen", "read", "unread", "dismissed", "restored")
}
"""The changes that affect single items."""


def apply(db: sqlite3.Connection, sql: Mapping[str, str], events: Sequence[Listed], limits: InboxLimits) -> None:
    """Apply events that were appended by this transaction, in order."""
    writer = InboxWriter(db, sql, limits)
    writer.load_all([*{event.user: None for event, _, _ in events}])
    for event, id_, meta in events:
        expiry = event.meta.get(ITEM)
        content = (event.type, bytearray(event.data), event.micros, meta)  # not `bytes`: see `append`
        if expiry == "" and event.group is None:
            writer.send_plain(writer.box(event.user), id_, content)
        elif expiry is not None:
            row = (id_, "", event.group, None, None, None, expiry_of(event.meta), *content)
            writer.send(writer.box(event.user), row)
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
    found, bounds = _named(writer, event, effect)
    changed = [
        (row, times)
        for row in sorted(found, key=lambda row: (row[0], row[1]), reverse=True)
        if (times := after(effect, row[2:5], now)) is not None and not writer.limits.is_due(row[0], row[3], row[5])
    ]
    if bounds is None or len(changed) <= _FEW:
        writer.set_times(box, changed)
    else:
        writer.set_up_to(box, changed, effect, bounds)
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


def _named(writer: InboxWriter, event: Event, effect: str) -> tuple[list[Row], Mapping[str, int] | None]:
    """Return the items that the payload names, none if it is malformed, and the bounds that it names them by."""
    user = event.user
    match payload_of(event):
        case {"ids": [*texts]}:
            keys = {exact_key_of(text) for text in texts} - {None}
            return [row for key in keys if key is not None for row in writer.read("named_item", user, *key)], None
        case {"up_to": str(position)}:
            bounds = _bounds(writer, user, position)
            rows = writer.read(f"up_to_{effect}", user, max(bounds.values(), default=-1))
            return [row for row in rows if row[0] <= bounds.get(row[1], -1)], bounds
        case {"group": str(group)}:
            rows = writer.read("named_group", user, group)
            return [row for row in rows if (row[4] is not None) == (effect == "restored")], None
    return [], None


def _bounds(writer: InboxWriter, user: str, up_to: str) -> dict[str, int]:
    """Return the position in each log that the text names."""
    key = key_of(up_to)
    if key is not None:
        return {key[1]: key[0]}
    logs = [row[0] for row in writer.read("logs", user)]
    try:
        found = split_positions(up_to, [user, *logs])
    except InvalidEventIdError:
        return {}
    return {"" if log == user else log: ids.pack(id_) for log, id_ in found.items()}
