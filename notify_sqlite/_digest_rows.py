"""What one transaction does to the rows of digests. Every function runs in the connection's thread."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Protocol

from notify.dispatch.abc import (
    Delivery,
    DigestItem,
    DigestJoin,
    Notification,
    RecipientRecord,
    channels_text,
    delivery_id,
    digest_id,
    instant,
    millis,
    next_generation,
    notification_of,
    slid,
)


class DeliverySink(Protocol):
    """Stores the notification of a digest."""

    def add_notification(self, notification: Notification) -> None:
        """Store a notification."""

    def add_recipient(self, record: RecipientRecord) -> None:
        """Store a recipient."""

    def add_deliveries(self, deliveries: Sequence[Delivery], now: int) -> None:
        """Store deliveries."""


def join(rows: DeliverySink, db: sqlite3.Connection, sql: Mapping[str, str], join: DigestJoin, now: int) -> None:
    """Put a notification into the open digest of a key, which is opened if need be; close it at its limit."""
    if db.execute(sql["has_joined"], (join.notification, join.key)).fetchone():
        return
    found = db.execute(sql["open_digest"], (join.key,)).fetchone()
    if found is None:
        (last,) = db.execute(sql["last_generation"], (join.key,)).fetchone()
        generation = next_generation(last, now)
        id, count = digest_id(join.key, generation), 1
        ends = now, millis(join.closes_at), millis(join.due_at)
        row = (id, join.key, generation, join.user, join.type, channels_text(join), *ends)
        db.execute(sql["add_digest"], row)
    else:
        id, count = found[0], found[4] + 1
        closes, due = slid(join, *found[1:4])
        db.execute(sql["move_digest"], (join.type, channels_text(join), closes, due, id))
    db.execute(sql["add_item"], (join.key, join.notification, id, now))
    if join.limit is not None and count >= join.limit:
        close(rows, db, sql, id, now)


def leave(
    db: sqlite3.Connection, sql: Mapping[str, str], notification: str, user: str | None, channel: str | None
) -> int:
    """Take a notification out of the digests that are open; return out of how many."""
    only = None if channel is None else json.dumps([channel], separators=(",", ":"))
    if user is None:
        found = db.execute(sql["items_to_leave"], (notification, only)).fetchall()
    else:  # one user has few of a notification's digest items, of which there may be many
        found = db.execute(sql["items_to_leave_of_user"], (notification, only, user)).fetchall()
    for number, id in found:
        db.execute(sql["leave"], (number,))
        db.execute(sql["count_down"], (id,))
    return len(found)


def close_due(rows: DeliverySink, db: sqlite3.Connection, sql: Mapping[str, str], now: int, limit: int) -> int:
    """Close digests that are due, the earliest first; return how many."""
    due = db.execute(sql["due_digests"], (now, limit)).fetchall()
    for (id,) in due:
        close(rows, db, sql, id, now)
    return len(due)


def close(rows: DeliverySink, db: sqlite3.Connection, sql: Mapping[str, str], id: str, now: int) -> None:
    """Close a digest and store its notification."""
    db.execute(sql["close_digest"], (id,))
    user, type, channels = db.execute(sql["get_digest"], (id,)).fetchone()
    address = db.execute(sql["last_address"], (user, id)).fetchone()
    at = instant(now)
    rows.add_notification(Notification(id, type, b"{}", at, digest=id))
    rows.add_recipient(RecipientRecord(id, user, address=b"" if address is None else address[0]))
    deliveries = [
        Delivery(delivery_id(id, user, channel), id, user, channel, due_at=at) for channel in json.loads(channels)
    ]
    rows.add_deliveries(deliveries, now)


def items(
    db: sqlite3.Connection, sql: Mapping[str, str], digest: str, after: int, limit: int, channel: str | None
) -> list[DigestItem]:
    """Return what a digest has collected, cancelled items left out."""
    rows = db.execute(sql["items"], (channel, digest, limit, after))
    return [DigestItem(instant(row[0]), notification_of(row[2:]), row[1]) for row in rows]
