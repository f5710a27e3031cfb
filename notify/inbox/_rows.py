"""Pure: the rows of one inbox, sorted, counted and indexed, so that a page does not look at every row.

Each row is in exactly one of three lists, sorted by key: `unread`, `read` and `dismissed`. The answer to a query is one
of these lists, or several merged. A few rows are inserted, moved or removed by bisection; a change of many rows
rebuilds the lists that it affects, because each insertion into a list is linear in its length.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import islice
from typing import Final, TypeAlias, TypeVar

from notify import Event, ids
from notify.event import build_event

from .abc import ITEM, InboxRetention, Item, State

Key: TypeAlias = tuple[int, int, str]
"""What rows are sorted by: the two numbers of the event's id, then the log; empty for the user's own log."""

STATES: Final[dict[State, tuple[str, ...]]] = {
    "active": ("unread", "read"),
    "unread": ("unread",),
    "read": ("read",),
    "dismissed": ("dismissed",),
    "all": ("unread", "read", "dismissed"),
}
"""The lists that contain the items of each state."""

_FEW: Final = 16
"""Up to this many rows, one insertion or removal after the other is faster than rebuilding a list."""

_NOWHERE: Final = (-1, -1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, which a datetime can hold."""

_T = TypeVar("_T", Key, tuple[int, Key])


def key_of(id: object) -> Key | None:
    """Return the key of an item's id, `<id>` or `<id>@<log>`; None if it is not the id of an item."""
    if not isinstance(id, str):
        return None
    number, at, log = id.partition("@")
    return (*ids.parse(number), log) if ids.is_id(number) and bool(at) == bool(log) else None


def id_of(key: Key) -> str:
    """Return the id of the item with this key."""
    number = ids.format(*key[:2])
    return f"{number}@{key[2]}" if key[2] else number


class Row:
    """One item. Times are milliseconds since 1970; None: not seen, not read, not dismissed, does not expire."""

    __slots__ = ("_item", "dismissed", "event", "expires", "key", "read", "seen")

    def __init__(self, event: Event, log: str) -> None:
        """Make an unseen row of a stored event.

        Args:
            event: the event.
            log: the log that it comes from; empty for the user's own.
        """
        ms, _, sequence = event.id.partition("-")  # a store has given it: a third of the time of `ids.parse`
        self.key: Key = (int(ms), int(sequence), log)
        self.event = event
        expiry = event.meta[ITEM]
        self.expires = _expiry_of(expiry) if expiry else None
        self.seen: int | None = None
        self.read: int | None = None
        self.dismissed: int | None = None
        self._item: Item | None = None

    @property
    def place(self) -> str:
        """The name of the list to which this row belongs."""
        return "dismissed" if self.dismissed is not None else "unread" if self.read is None else "read"

    def copy(self, log: str, *, with_state: bool) -> Row:
        """Return a copy for another inbox, where it comes from `log`; without its state it is unseen."""
        row = Row(self.event, log)
        if with_state:
            row.seen, row.read, row.dismissed = self.seen, self.read, self.dismissed
        return row

    def item(self) -> Item:
        """Return the item as `Inbox.list` does: the same object until its state changes, because pages repeat."""
        item = self._item
        if item is None:
            times = (self.seen, self.read, self.dismissed, self.expires)
            sent = self.event
            event = build_event(sent.id, "", sent.user, sent.type, sent.data, sent.micros, sent.group, None, sent.meta)
            item = self._item = Item(event, id_of(self.key), *(None if ms is None else _moment(ms) for ms in times))
        return item

    def change(self, effect: str, now: int) -> None:
        """Apply an effect: the type of a change without `notify.`."""
        self._item = None
        if effect in ("seen", "read", "dismissed") and self.seen is None:
            self.seen = now
        if effect in ("read", "dismissed") and self.read is None:
            self.read = now
        if effect == "dismissed":
            self.dismissed = now
        elif effect in ("unread", "restored"):
            self.dismissed = None
        if effect == "unread":
            self.read = None


class Rows:
    """The rows of one inbox.

    Invariants:
        I1. Each row is in the list `row.place`, and in no other; the lists are sorted.
        I2. No two rows have both the same log and the same group.
        I3. `unseen` is the number of rows that are not seen. All are in `unread`: reading and dismissing mark as seen.
        I4. No row is from before `oldest_ms`: one look shows that none is too old.
    """

    def __init__(self) -> None:
        self.by_key: dict[Key, Row] = {}
        self.lists: dict[str, list[Key]] = {"unread": [], "read": [], "dismissed": []}
        self.unseen = 0
        self.oldest_ms: float = math.inf
        self.expiring: list[tuple[int, Key]] = []
        self._groups: dict[str, dict[str, Key]] = {}

    def __len__(self) -> int:
        """Return how many rows there are, due ones included."""
        return len(self.by_key)

    def add(self, row: Row) -> None:
        """Insert a row. It replaces the row with the same key, and the one with the same log and group."""
        key, group = row.key, row.event.group
        if group is not None:
            logs = self._groups.get(group)
            if logs is not None and key[2] in logs:
                self.remove([logs[key[2]]])  # keeps I2
            self._groups.setdefault(group, {})[key[2]] = key
        if self.by_key.setdefault(key, row) is not row:
            self.remove([key])
            self.by_key[key] = row
        keys = self.lists["unread" if row.read is None else row.place]
        if keys and key < keys[-1]:
            insort(keys, key)
        else:
            keys.append(key)  # keeps I1
        if row.seen is None:
            self.unseen += 1  # keeps I3
        if row.expires is not None:
            insort(self.expiring, (row.expires, key))
        if key[0] < self.oldest_ms:
            self.oldest_ms = key[0]  # keeps I4

    def add_fresh(self, rows: Sequence[Row]) -> None:
        """Insert rows that have no group, no expiry and no state, the oldest first."""
        keys = [row.key for row in rows]
        if not self.by_key.keys().isdisjoint(keys):
            for row in rows:
                self.add(row)
            return
        self.by_key.update(zip(keys, rows, strict=True))
        unread = self.lists["unread"]
        is_sorted = not unread or unread[-1] < keys[0]
        unread += keys
        if not is_sorted:
            unread.sort()  # keeps I1
        self.unseen += len(keys)  # keeps I3
        self.oldest_ms = min(self.oldest_ms, keys[0][0])  # keeps I4

    def remove(self, keys: Iterable[Key]) -> int:
        """Remove the rows with these keys and return how many there were."""
        gone = [row for key in keys if (row := self.by_key.pop(key, None)) is not None]
        self._leave(gone)
        if self.expiring:
            _take(self.expiring, [(row.expires, row.key) for row in gone if row.expires is not None])
        for row in gone:
            self.unseen -= row.seen is None  # keeps I3
            if row.event.group is not None:
                logs = self._groups[row.event.group]
                del logs[row.key[2]]
                if not logs:
                    del self._groups[row.event.group]
        return len(gone)

    def change(self, rows: Collection[Row], effect: str, now: int) -> None:
        """Apply an effect to rows; `effect` is the type of a change without `notify.`."""
        self._leave(rows)
        for row in rows:
            self.unseen -= row.seen is None
            row.change(effect, now)
            self.unseen += row.seen is None  # keeps I3
        for name, keys in _by_place(rows).items():
            _give(self.lists[name], keys)  # keeps I1

    def of_group(self, group: str) -> list[Row]:
        """Return the rows of a group: at most one of each log."""
        return [self.by_key[key] for key in self._groups.get(group, {}).values()]

    def of_log(self, log: str, after: tuple[int, int] = (0, 0)) -> list[Row]:
        """Return the rows of one log that are after a position, oldest first."""
        start = _behind(after)
        parts = [keys[bisect_left(keys, start) :] for keys in self.lists.values() if keys and keys[-1] >= start]
        keys = parts[0] if len(parts) == 1 else merge(*parts)  # mostly they are all unread
        return [self.by_key[key] for key in keys if key[2] == log]

    def up_to(self, bounds: dict[str, tuple[int, int]], names: Iterable[str]) -> list[Row]:
        """Return the rows in these lists that are at or before the bound of their log; none of logs without a bound."""
        if not bounds:
            return []
        end = _behind(max(bounds.values()))
        return [
            self.by_key[key]
            for name in names
            for key in self.lists[name][: bisect_left(self.lists[name], end)]
            if key[:2] <= bounds.get(key[2], _NOWHERE)
        ]

    def newest(self, state: State, before: Key | None) -> Iterator[Row]:
        """Iterate over the rows in a state, newest first; with `before`, over those that are older than this key."""
        parts = [self.lists[name] for name in STATES[state]]
        ends = [len(keys) if before is None else bisect_left(keys, before) for keys in parts]
        backwards = (map(keys.__getitem__, range(end - 1, -1, -1)) for keys, end in zip(parts, ends, strict=True))
        return map(self.by_key.__getitem__, merge(*backwards, reverse=True))

    def oldest(self, names: Iterable[str], count: int) -> list[Key]:
        """Return the oldest keys in these lists."""
        return [*islice(merge(*(self.lists[name] for name in names)), max(count, 0))]

    def calm_until(self, ms: int, retention: InboxRetention) -> float:
        """Return the time before which none of these rows, nor one from `ms`, becomes due."""
        age = retention.max_age
        until = math.inf if age is None else min(self.oldest_ms, ms) + int(age * 1000)
        return min(until, self.expiring[0][0]) if self.expiring else until

    def due(self, now: int, retention: InboxRetention) -> list[Key]:
        """Return the keys of all due rows. Cost: proportional to their number; two comparisons where there is none."""
        expiring, age = self.expiring, retention.max_age
        horizon = -math.inf if age is None else now - int(age * 1000)
        if self.oldest_ms >= horizon and not (expiring and expiring[0][0] <= now):
            return []
        due: set[Key] = set()
        for expires, key in expiring:
            if expires > now:
                break
            due.add(key)
        self.oldest_ms = min((keys[0][0] for keys in self.lists.values() if keys), default=math.inf)  # keeps I4
        if self.oldest_ms < horizon:
            for name, keys in self.lists.items():
                if name == "unread" and retention.keep_unread:
                    continue
                for key in keys:
                    if key[0] >= horizon:
                        break
                    due.add(key)
        return [*due]

    def _leave(self, rows: Collection[Row]) -> None:
        if len(rows) <= _FEW:
            for row in rows:
                keys = self.lists[row.place]
                del keys[bisect_left(keys, row.key)]
            return
        for name, keys in _by_place(rows).items():
            _take(self.lists[name], keys)


def _behind(position: tuple[int, int]) -> Key:
    """Return a bound between the keys at this position, of any log, and those after it."""
    return (position[0], position[1] + 1, "")


def _by_place(rows: Iterable[Row]) -> dict[str, list[Key]]:
    places: dict[str, list[Key]] = {}
    for row in rows:
        places.setdefault(row.place, []).append(row.key)
    return places


def _take(entries: list[_T], gone: Collection[_T]) -> None:
    """Remove entries from a sorted list, which contains them."""
    if len(gone) > _FEW:
        gone = set(gone)
        entries[:] = [entry for entry in entries if entry not in gone]
    else:
        for entry in gone:
            del entries[bisect_left(entries, entry)]


def _give(entries: list[Key], new: Collection[Key]) -> None:
    """Insert entries into a sorted list."""
    if len(new) > _FEW:
        entries += new
        entries.sort()
    else:
        for entry in new:
            insort(entries, entry)


def _expiry_of(text: str) -> int | None:
    """Return the milliseconds since 1970 in the meta of an item; None if the library does not write such a text."""
    expires = int(text[:20]) if text.isascii() and text.isdigit() else _LAST_MS + 1
    return expires if expires <= _LAST_MS else None


def _moment(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
