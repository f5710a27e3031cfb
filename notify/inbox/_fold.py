"""Pure: the inbox of one user, as the fold of what was appended to its log; `notify.inbox.abc` has the rules.

This class is the reference for every store: the memory store uses it, and the suites compare other stores with it. It
has no clock and does no I/O, so that the same events give the same rows wherever they are applied: the time, the
retention, the end of a log and other inboxes are arguments. Times are milliseconds since 1970.

| effect | changes these items | leaves these alone |
|---|---|---|
| seen | unseen ones: seen now | seen ones |
| read | unread ones: read now, and seen now unless seen before | read ones, dismissed ones |
| unread | read or dismissed ones: unread and active, still seen | unread ones |
| dismissed | active ones: dismissed now; read and seen now unless they were before | dismissed ones |
| restored | dismissed ones: active, still read and seen | active ones |
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final

from notify import Event, InvalidEventIdError, ids
from notify.adapters import join_positions, split_positions

from ._rows import STATES, Key, Row, Rows, id_of, key_of
from .abc import ITEM, Counts, InboxRetention, ItemPage, ItemQuery, State

MARKS: Final[Mapping[str, tuple[str, ...]]] = {
    "notify.seen": ("unread",),
    "notify.read": ("unread",),
    "notify.unread": ("read", "dismissed"),
    "notify.dismissed": ("unread", "read"),
    "notify.restored": ("dismissed",),
}
"""The changes that affect single items, each with the lists of rows (`Rows.lists`) in which it can find any."""

DUE_AT_ONCE: Final = 500
"""How many due rows one write removes at most: a write to a neglected inbox must not take long."""

SPARE: Final = 256
"""Fresh items beyond `max_items` that wait for their removal: removing many at once costs less."""

OVERFULL: Final = 10
"""`keep_unread` keeps at most this many times `max_items` items: an inbox that is never read must not grow on."""


@dataclass(slots=True)
class Followed:
    """A log other than the user's own whose items the inbox also lists: a topic, or a session that was merged.

    Attributes:
        since: the position after which its items are listed.
        position: the position up to which they were copied.
        merged: whether it is a merged session, from which nothing is copied until the next merge.
    """

    since: str
    position: str
    merged: bool = False


class InboxFold:
    """The inbox of one user.

    Args:
        user: whose inbox it is.

    Invariants:
        I1. Every item is in `_rows` or in `_fresh`. `rows` puts all of them into `_rows`; `_read` need not.
        I2. An item in `_fresh` has no group, expiry or state, and is newer than every row; nothing in the inbox is due
            before `_calm_until`. So a row that is made later is the same one; changes and pages need one.

    Attributes:
        position: the id of the last event that was applied.
        logs: the followed topics and merged sessions, by name.
    """

    def __init__(self, user: str) -> None:
        self.user = user
        self._rows = Rows()
        self._fresh: list[Event | Row] = []
        self._most = 0
        self._calm_until: float = 0
        self._retention = InboxRetention()
        self.position = ids.ZERO
        self.logs: dict[str, Followed] = {}

    # -- what events do ------------------------------------------------------------------------------------------

    def apply(self, event: Event, now: int, retention: InboxRetention) -> None:
        """Apply an item, or a change of `MARKS`, that has been appended to the log of this user."""
        fresh = self._fresh
        if (
            event.group is None
            and event.meta.get(ITEM) == ""
            and (
                now < self._calm_until and retention is self._retention
                if fresh
                else self._is_calm(event, now, retention)
            )
        ):
            fresh.append(event)  # keeps I2
            if len(fresh) == self._most:
                del fresh[:SPARE]  # older than what the retention keeps
        else:
            if ITEM in event.meta:
                self.rows.add(Row(event, ""))
            self.remove_due(now, retention, DUE_AT_ONCE)  # before others have to go for an item that is due already
            if ITEM in event.meta:
                self._trim(retention)
            elif event.type in MARKS:
                self.rows.change(self.found(event, now, retention), event.type.removeprefix("notify."), now)
        self.position = event.id

    def _is_calm(self, event: Event, now: int, retention: InboxRetention) -> bool:
        """Return whether this item can be the first of `_fresh`, and note what decides whether others can follow it."""
        rows, number = self._rows, ids.parse(event.id)
        self._retention = retention
        self._most = retention.max_items * (OVERFULL if retention.keep_unread else 1) + SPARE
        self._calm_until = rows.calm_until(number[0], retention)
        return now < self._calm_until and all(keys[-1][:2] < number for keys in rows.lists.values() if keys)

    @property
    def rows(self) -> Rows:
        """The rows of all items; keeps I1."""
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            self._rows.add_fresh([_row(entry) for entry in fresh])
            self._trim(self._retention)
        return self._rows

    def _read(self, now: int, retention: InboxRetention) -> Rows:
        """Return the rows. Items stay in `_fresh` if nothing is due and nothing is over the limit: all are listed."""
        if (
            now < self._calm_until
            and retention is self._retention
            and len(self._rows) + len(self._fresh) <= retention.max_items
        ):
            return self._rows
        return self.rows

    def found(self, event: Event, now: int, retention: InboxRetention) -> list[Row]:
        """Return the rows whose state a change of `MARKS` changes, newest first; the event may be a draft."""
        rows = [row for row in self._named(event) if row.place in MARKS[event.type]]
        if event.type == "notify.seen":
            rows = [row for row in rows if row.seen is None]
        if event.id:  # items of other logs are taken over before a change that names them; their clocks may be ahead
            own = ids.parse(event.id)
            rows = [row for row in rows if row.key[2] or row.key[:2] < own]
        due = {*self.rows.due(now, retention)}
        return sorted((row for row in rows if row.key not in due), key=lambda row: row.key, reverse=True)

    def _named(self, event: Event) -> Collection[Row]:
        """Return the rows that the payload names; an empty list if the library does not write such a payload."""
        payload: Any = event.payload
        match payload:
            case {"ids": [*texts]}:
                keys = {key_of(text) for text in texts}
                return [self.rows.by_key[key] for key in keys if key is not None and key in self.rows.by_key]
            case {"up_to": str(position)}:
                return self.rows.up_to(self._bounds(position), MARKS[event.type])
            case {"group": str(group)}:
                dismissed = event.type == "notify.restored"
                return [row for row in self.rows.of_group(group) if (row.place == "dismissed") == dismissed]
        return ()

    def _bounds(self, up_to: str) -> dict[str, tuple[int, int]]:
        """Return the position in each log that `up_to` covers; the user's own log is the empty string."""
        key = key_of(up_to)
        if key is not None:
            return {key[2]: key[:2]}
        try:
            found = split_positions(up_to, [self.user, *self.logs])
        except InvalidEventIdError:
            return {}
        return {"" if log == self.user else log: ids.parse(id) for log, id in found.items()}

    def _add(self, rows: Collection[Row], retention: InboxRetention) -> None:
        """Insert rows, then remove the oldest beyond `max_items`."""
        for row in rows:
            self.rows.add(row)
        self._trim(retention)

    def _trim(self, retention: InboxRetention) -> None:
        """Remove the oldest items beyond what the retention keeps."""
        rows, limit = self._rows, retention.max_items
        if len(rows) <= limit:
            return
        if retention.keep_unread:
            rows.remove(rows.oldest(("read", "dismissed"), len(rows) - limit))
            limit *= OVERFULL
        rows.remove(rows.oldest(("unread", "read", "dismissed"), len(rows) - limit))

    # -- other logs ----------------------------------------------------------------------------------------------

    def follow(self, topic: str, since: str) -> None:
        """List the items of a topic after a position; does nothing if the topic is followed already."""
        self.logs.setdefault(topic, Followed(since, since))

    def unfollow(self, topic: str) -> bool:
        """Remove a topic and its items, and return whether it was followed."""
        if topic not in self.logs or self.logs[topic].merged:
            return False
        del self.logs[topic]
        self.rows.remove([row.key for row in self.rows.of_log(topic)])
        return True

    def pull(self, topic: str, source: InboxFold | None, head: str, now: int, retention: InboxRetention) -> int:
        """Copy the items that a topic has got since the last pull, as unseen ones, and return how many.

        Args:
            topic: the name of a followed topic.
            source: the topic's own inbox; None if it has none.
            head: the end of the topic's log, read before `source`, so that no item at or before it is missing there.
            now: milliseconds since 1970.
            retention: that of all inboxes.
        """
        followed = self.logs[topic]
        if head == followed.position or ids.compare(head, followed.position) <= 0:
            return 0
        new = [] if source is None else source.own_after(followed.position, now, retention)
        self.remove_due(now, retention, DUE_AT_ONCE)
        if new:
            self._add([row.copy(topic, with_state=False) for row in new], retention)
        followed.position = head
        return len(new)

    def own_after(self, position: str, now: int, retention: InboxRetention) -> list[Row]:
        """Return the rows of the user's own log after a position that are not due, oldest first."""
        rows = self.rows.of_log("", ids.parse(position))
        due = {*self.rows.due(now, retention)}
        return [row for row in rows if row.key not in due]

    def merge(self, session: str, source: InboxFold, until: str, now: int, retention: InboxRetention) -> list[str]:
        """Copy the items and follows of a session up to a position, and return the topics that are new here."""
        known = self.logs.setdefault(session, Followed(ids.ZERO, ids.ZERO, merged=True))
        last = ids.parse(until)
        new = [row for row in source.own_after(known.position, now, retention) if row.key[:2] <= last]
        rows = [row.copy(session, with_state=True) for row in new]
        topics = [topic for topic in source.logs if topic not in self.logs and topic != self.user]
        for topic in topics:
            theirs = source.logs[topic]
            self.logs[topic] = Followed(theirs.since, theirs.position, theirs.merged)
            rows += [row.copy(topic, with_state=True) for row in source.rows.of_log(topic)]
        self._add(rows, retention)
        known.position = max(known.position, until, key=ids.parse)
        return topics

    # -- retention -----------------------------------------------------------------------------------------------

    def remove_due(self, now: int, retention: InboxRetention, limit: int) -> int:
        """Remove at most `limit` due rows, and return how many were removed."""
        if self._fresh and now < self._calm_until and retention is self._retention:
            return 0  # by I2; most inboxes that a sweep looks at are like this
        due = self.rows.due(now, retention)
        return self.rows.remove(due[:limit]) if due else 0

    # -- reading -------------------------------------------------------------------------------------------------

    def positions(self, head: str) -> str:
        """Return the position for which the rows are exact; `head` is the end of the user's own log."""
        logs = sorted(self.logs, key=lambda log: (self.logs[log].merged, log))
        return join_positions({self.user: head} | {log: self.logs[log].position for log in logs})

    def counts(self, head: str, now: int, retention: InboxRetention) -> Counts:
        """Return how many rows are active and not due."""
        rows = self._read(now, retention)
        fresh = len(self._fresh)
        due = [rows.by_key[key] for key in rows.due(now, retention)]
        unread = len(rows.lists["unread"]) - sum(row.place == "unread" for row in due) + fresh
        read = len(rows.lists["read"]) - sum(row.place == "read" for row in due)
        unseen = rows.unseen - sum(row.seen is None for row in due) + fresh
        return Counts(unread + read, unseen, unread, self.positions(head))

    def page(self, query: ItemQuery, head: str, now: int, retention: InboxRetention) -> ItemPage:
        """Return the items that a query asks for.

        Raises:
            InvalidEventIdError: `query.before` is not the id of an item.
        """
        counts = self.counts(head, now, retention)
        due = {*self._read(now, retention).due(now, retention)}
        if query.ids is not None:
            keys = {key for key in map(key_of, query.ids) if key in self.rows.by_key and key not in due}
            named = [self.rows.by_key[key].item() for key in sorted(keys, reverse=True)]
            return ItemPage(named, None, counts, counts.position)
        rows = [row for row in islice(self._asked(query, due), query.limit + 1 if query.limit else 0)]
        items = [row.item() for row in rows[: query.limit]]
        return ItemPage(items, items[-1].id if len(rows) > len(items) else None, counts, counts.position)

    def _asked(self, query: ItemQuery, due: Collection[Key]) -> Iterator[Row]:
        before = None if query.before is None else key_of(query.before)
        if query.before is not None and before is None:
            raise InvalidEventIdError(f"before= must be the id of an item, not {query.before!r:.80}")
        for row in self._newest(query.state, before):
            if (
                row.key not in due
                and (query.types is None or row.event.type in query.types)
                and (query.group is None or row.event.group == query.group)
            ):
                yield row

    def _newest(self, state: State, before: Key | None) -> Iterator[Row]:
        """Iterate over the rows in a state, newest first; with `before`, over those that are older than this key."""
        listed = self._rows.newest(state, before)
        if not self._fresh or "unread" not in STATES[state]:
            return listed
        return chain(self._newest_fresh(before), listed)

    def _newest_fresh(self, before: Key | None) -> Iterator[Row]:
        fresh = self._fresh
        end = len(fresh) if before is None else bisect_left(fresh, before, key=lambda entry: _row(entry).key)
        for index in range(end - 1, -1, -1):
            row = fresh[index] = _row(fresh[index])  # the next page needs it again
            yield row


def _row(entry: Event | Row) -> Row:
    """Return the row of a fresh item."""
    return entry if isinstance(entry, Row) else Row(entry, "")


def ids_of(rows: Collection[Row], limit: int) -> tuple[str, ...]:
    """Return the ids of the first `limit` rows."""
    return tuple(id_of(row.key) for row in islice(rows, limit))
