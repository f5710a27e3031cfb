"""Items of other logs: topics that are followed and pulled, sessions that were merged.

Everything happens inside one transaction, and SQLite has one writer: what a pull reads of a topic cannot change before
the rows and the position of the follower are written, so neither is lost or repeated, however many pull at once.
"""

from __future__ import annotations

from notify import Event, UsageError, ids
from notify.inbox.abc import MAX_TOPICS

from ._box import InboxWriter
from ._connection import MAX_ROWS
from ._items import PLACES, payload_of
from ._record import Row

FOLLOWED = "notify.followed"
UNFOLLOWED = "notify.unfollowed"
MERGED = "notify.merged"


def pull(writer: InboxWriter, user: str, limit: int = -1) -> tuple[int, bool]:
    """Take over what topics have got, as new items; return how many, and whether that was all.

    Args:
        writer: of the transaction.
        user: the follower.
        limit: items that are looked at; -1: all.
    """
    copied, left = 0, limit
    for topic, position, head in writer.read("moved_topics", user):
        rows = _items_between(writer, topic, position, head, left)
        if rows:
            copied += _copy(writer, user, topic, rows, with_state=False)
        left -= len(rows) if limit > 0 else 0
        writer.read("set_position", position := rows[-1][0] if left == 0 else head, user, topic, position)
        if left == 0:
            return copied, False
    return copied, True


def _items_between(writer: InboxWriter, user: str, after: int, until: int, limit: int = -1) -> list[Row]:
    """Return the items of a user's own log after one position and up to another, oldest first; -1: all of them."""
    rows = [row for place in PLACES["all"] for row in writer.read("items_after", user, place, after, until, limit)]
    rows.sort(key=lambda row: row[0])
    return rows if limit < 0 else rows[:limit]


def _copy(writer: InboxWriter, user: str, log: str, rows: list[Row], *, with_state: bool) -> int:
    """Copy rows of another inbox, except for due ones, and return how many."""
    box = writer.box(user)
    copied = 0
    for id_, _, group, seen_at, read_at, dismissed_at, expires_at, *content in rows:
        if not writer.limits.is_due(id_, read_at, expires_at):
            times = (seen_at, read_at, dismissed_at) if with_state else (None, None, None)
            writer.copy(box, (id_, log, group, *times, expires_at, *content))
            copied += 1
    if copied or with_state:
        writer.trim(box)
    return copied


def complete(writer: InboxWriter, draft: Event) -> Event | None:
    """Return what has to be appended for a change of what is followed or merged; None if it would change nothing.

    Raises:
        UsageError: more than `MAX_TOPICS` logs would be followed or merged.
    """
    user, payload = draft.user, draft.payload
    logs = {row[0]: row for row in writer.read("logs", user)}
    if draft.type == UNFOLLOWED:
        _, _, _, merged, _ = logs.get(payload["topic"], (None, None, None, True, None))
        return None if merged else draft
    if draft.type == FOLLOWED:
        topic = payload["topic"]
        if topic == user or topic in logs:
            return None
        _check_room(logs.keys() | {topic})
        return _with(writer, draft, "since", topic)
    session = payload["session"]
    draft = _with(writer, draft, "until", session)
    if session == user or ids.pack(draft.payload["until"]) <= (logs[session][2] if session in logs else 0):
        return None
    theirs = {row[0] for row in writer.read("logs", session)}
    _check_room(logs.keys() | {session} | (theirs - {user}))
    return draft


def _check_room(logs: set[str]) -> None:
    if len(logs) > MAX_TOPICS:
        raise UsageError(f"a user can follow {MAX_TOPICS} topics, merged sessions included: unfollow some first")


def _with(writer: InboxWriter, draft: Event, name: str, log: str) -> Event:
    """Return the draft with the end of a log as this member of its payload, unless that has a value."""
    if draft.payload.get(name) is not None:
        return draft
    head = writer.read("head_of", log)
    return Event(
        draft.user,
        draft.type,
        draft.payload | {name: ids.unpack(head[0][1]) if head else ids.ZERO},
        timestamp=draft.timestamp,
        group=draft.group,
        key=draft.key,
        meta=draft.meta,
    )


def apply(writer: InboxWriter, event: Event) -> None:
    """Apply a change of what is followed or merged; nothing if it is not one that the library writes."""
    payload = payload_of(event)
    match event.type, payload:
        case "notify.followed", {"topic": str(topic), "since": str(since)} if ids.is_id(since) and topic != event.user:
            _follow(writer, event.user, topic, ids.pack(since))
        case "notify.unfollowed", {"topic": str(topic)}:
            unfollow(writer, event.user, topic)
        case "notify.merged", {"session": str(session), "until": str(until)} if ids.is_id(until):
            if session != event.user:
                _merge(writer, event.user, session, ids.pack(until))


def _follow(writer: InboxWriter, user: str, topic: str, since: int) -> None:
    writer.db.execute(writer.sql["insert_follow"], (user, topic, since, since, 0))
    writer.box(user).changed = True  # who follows has an inbox


def unfollow(writer: InboxWriter, user: str, topic: str, limit: int = -1) -> int:
    """Remove a topic and its items; return how many. If these are as many as the limit, more may be left.

    Args:
        writer: of the transaction.
        user: the follower.
        topic: what is followed, or not.
        limit: items that are removed; -1: all.
    """
    if not writer.read("follow", user, topic):
        return 0
    rows = writer.read("items_of_log", user, topic, limit)
    writer.remove(writer.load(user), rows)
    if len(rows) != limit:
        writer.db.execute(writer.sql["delete_follow"], (user, topic))
    return len(rows)


def _merge(writer: InboxWriter, user: str, session: str, until: int) -> None:
    """Take over the items and follows of a session, in their present states."""
    db, sql = writer.db, writer.sql
    db.execute(sql["insert_follow"], (user, session, 0, 0, 1))
    writer.box(user).changed = True
    logs = {row[0]: row for row in writer.read("logs", user)}
    new = _items_between(writer, session, logs[session][2], until)
    _copy(writer, user, session, new, with_state=True)
    for topic, since, position, merged, _ in writer.read("logs", session):
        if topic not in logs and topic != user:
            db.execute(sql["insert_follow"], (user, topic, since, position, merged))
            _copy(writer, user, topic, writer.read("all_of_log", session, topic), with_state=True)
    db.execute(sql["set_position"], (until, user, session, until))


def erase(writer: InboxWriter, user: str) -> bool:
    """Remove some of an inbox, of whom its user follows, and of what its followers took over; return if that is all.

    What was merged into the inbox of another user stays: it is that user's.
    """
    db, sql = writer.db, writer.sql
    box = writer.load(user)
    rows = writer.oldest(box, MAX_ROWS, PLACES["all"])
    writer.remove(box, rows)
    left = MAX_ROWS - len(rows)
    while left > 0 and (found := writer.read("followers_after", user, "", 1)):
        left -= 1 + unfollow(writer, found[0][0], user, left)
    writer.flush()
    if left <= 0:
        return False
    db.execute(sql["forget_follows"], (user,))
    db.execute(sql["forget_box"], (user,))
    return True
