"""The layout of an inbox in Redis: its keys, the members of its sorted sets, and the values of its hashes.

The keys of one inbox, all in its user's slot (`RedisNames.inbox`); `_lua/inbox.lua` has the functions that keep them
consistent, and only scripts write them:

| suffix | type | what |
|---|---|---|
| `:ia` | sorted set | members of active items |
| `:id` | sorted set | members of dismissed items |
| `:in` | sorted set | those active ones that are unseen |
| `:iu` | sorted set | those active ones that are unread |
| `:ib` | hash | member to the event's record (see `_record`); empty field: id of the last event that was applied |
| `:it` | hash | member to `seen,read,dismissed`, each in milliseconds since 1970 or empty; no field for a new item |
| `:ig` | hash | log, newline, group to the member of its one item |
| `:ix` | sorted set | members of items that expire; the score is when, in milliseconds since 1970 |
| `:iw` | string | members of new items that are not in `:ia`, `:in` and `:iu` yet, one after the other |
| `:il` | hash | name of a followed or merged log: its state |

Two more keys are not of one inbox. `::inboxes`, in each partition: inboxes, scored by a time before which nothing in
them is due. `:if`, in a topic's slot: its followers, by name. That one is only an index: readers check it against
`:il`, and every pull of a follower repairs it.

A member is sixteen hexadecimal digits of the id, 44 bits for the milliseconds and 20 for the sequence number, then the
name of the log if that is not the user's own. All scores are 0, so members sort by id, then log, and a count or the
start of a page costs O(log n). The id cannot be the score: it needs 64 bits, and a score is exact up to 53.

The state of another log has these fields, separated by spaces: its kind (`f` followed, `m` merged), the position after
which its items are listed, the position up to which they were copied, its name in positions (`join_positions`), the
digits of the event that added it, by which logs are ordered, and, for a session whose merge was saved as an event but
not copied yet, up to where it is to be copied.

The keys do not expire: retention removes items, and Redis removes empty sets and hashes. The empty field of `:ib`,
about 100 bytes, stays until `forget`, even if the inbox is empty: without it, ids could be given a second time once
the log is gone.

A new item that has no group and does not expire takes two writes, to `:ib` and `:iw`. The next script that changes or
removes items moves it from `:iw` to the sorted sets, and so does the append that makes it a hundred: adding many
members in one command costs less than one at a time. Scripts that only read look at `:iw` too and leave it as it is,
because the server may refuse writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from notify import ids
from notify.adapters import join_positions

PARTS: Final = ("ia", "id", "in", "iu", "ib", "it", "ig", "ix", "iw", "il")
"""The suffixes of an inbox's keys, in the order in which scripts get them."""

FOLLOWED: Final = "f"
MERGED: Final = "m"

LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, which a datetime can hold; what expires later does not expire."""

_LAST_MS: Final = (1 << 44) - 1
_LAST_SEQUENCE: Final = (1 << 20) - 1


def member_of(id: str, log: str = "") -> bytes:
    """Return the member of an item; an id that does not fit becomes the greatest that does.

    Raises:
        InvalidEventIdError: `id` is not an id.
    """
    ms, sequence = ids.parse(id)
    if ms > _LAST_MS:
        ms, sequence = _LAST_MS, _LAST_SEQUENCE
    return b"%011x%05x%b" % (ms, min(sequence, _LAST_SEQUENCE), log.encode())


def split_member(member: bytes) -> tuple[str, str]:
    """Return the id and the log of a member; the log is empty for the user's own."""
    return ids.format(int(member[:11], 16), int(member[11:16], 16)), member[16:].decode()


def item_id(member: bytes) -> str:
    """Return the id by which readers know the item: `<id>`, or `<id>@<log>`."""
    id_, log = split_member(member)
    return f"{id_}@{log}" if log else id_


def split_item_id(text: str) -> tuple[str, str] | None:
    """Return the id and the log of an item's id; None if the text is not one."""
    id_, at, log = text.partition("@")
    return (id_, log) if ids.is_id(id_) and bool(at) == bool(log) else None


def strings(texts: Iterable[bytes]) -> bytes:
    """Return texts as one, each after its length, so that scripts can split them again."""
    return b"".join([b"%d:%b" % (len(text), text) for text in texts])


def name_in_positions(log: str) -> bytes:
    """Return the name that a log has within a position of several logs."""
    other = "a" if log != "a" else "b"
    return join_positions({log: ids.ZERO, other: ids.ZERO}).split(".", 2)[1].encode()


class RedisInboxLog(NamedTuple):
    """The state of a log that is followed or was merged.

    Attributes:
        kind: `FOLLOWED` or `MERGED`.
        since: the position after which its items are listed.
        position: up to where they were copied.
        last: up to where the items of a session are still to be copied; usually empty.
        text: the state as it is stored.
    """

    kind: str
    since: str
    position: str
    last: str
    text: bytes

    @property
    def is_followed(self) -> bool:
        """Whether it is a topic, from which items are copied."""
        return self.kind == FOLLOWED

    @property
    def is_open(self) -> bool:
        """Whether something may have to be copied from it."""
        return self.is_followed or bool(self.last)

    def at(self, position: str) -> bytes:
        """Return the state after copying up to a position."""
        kind, since, _, name, order = self.text.split(b" ")[:5]
        return b" ".join((kind, since, position.encode(), name, order))

    def without_order(self) -> bytes:
        """Return the state but for the order, which another inbox gives it."""
        return b" ".join(self.text.split(b" ")[:4]) + b" "


def read_logs(reply: Sequence[bytes]) -> dict[str, RedisInboxLog]:
    """Return the logs of a reply to HGETALL, in the order in which they were added."""
    pairs = zip(reply[::2], reply[1::2], strict=True)
    found: list[tuple[str, str, RedisInboxLog]] = []
    for name, text in pairs:
        kind, since, position, _, order, *last = text.decode().split(" ")
        found.append((order, name.decode(), RedisInboxLog(kind, since, position, "".join(last), text)))
    return {name: log for _, name, log in sorted(found)}


def position_of(user: str, own: str, logs: Mapping[str, RedisInboxLog]) -> str:
    """Return the position for which an inbox is exact: followed topics by name, then merged sessions."""
    names = sorted(logs, key=lambda name: (not logs[name].is_followed, name))
    return join_positions({user: own} | {name: logs[name].position for name in names})
