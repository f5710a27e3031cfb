"""Pushes without an outcome, and calls of the push script that append them (`_lua/push.lua`), encoded.

Events that have an effect on an inbox are in calls of their own, of a longer script (`_lua/effect.lua`): one that has
none pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

from notify import Event
from notify.adapters import Retention, split_positions
from notify.errors import InvalidEventIdError, NotifyError
from notify.inbox.abc import CHANGES, ITEM, InboxRetention

from ._connection import bulks
from ._inbox_keys import LAST_MS, name_in_positions
from ._names import RedisNames
from ._record import encode
from ._scripts import APPLY, PUSH, Script
from ._wake import ARGUMENTS, WakeStreams

HOUR_MS: Final = 3_600_000

_CACHED_NAMES: Final = 65_536

PLAIN: Final = b"i"
"""An item that has no group and does not expire."""

ALWAYS: Final = b"s"
"""An event that is stored whether or not it changes its inbox."""

_PLAIN_BULK: Final = bulks(PLAIN)

Outcome: TypeAlias = Event | NotifyError
Done: TypeAlias = Callable[[Outcome], None]


class PendingPush:
    """One event that has no outcome yet.

    Attributes:
        partition: of the event's user.
        names: the keys of the script for this event, encoded as bulk strings.
        arguments: the arguments of the script for this event, likewise.
        done: called once, with the outcome.
        effect: how an inbox is changed by it (see `_lua/effect.lua`); None for an event without an effect.
        answer: what the script returned for a change of an inbox.
        announced: the stored event, if its announcement arrived before the reply.
        is_held: whether it was sent, or handed to `_retry`: later pushes to its user wait until it has its outcome.
        unknown_since: the server's time in milliseconds before the first attempt that may have been executed without a
            reply; None: there was no such attempt.
        failure: why the latest attempt failed.
    """

    __slots__ = (
        "announced",
        "answer",
        "arguments",
        "deadline",
        "done",
        "effect",
        "event",
        "failure",
        "is_held",
        "names",
        "nonce",
        "outcome",
        "partition",
        "unknown_since",
    )

    def __init__(self, event: Event, nonce: bytes, names: bytes, partition: int, deadline: float, done: Done) -> None:
        self.event = event
        self.nonce = nonce
        self.names = names
        self.partition = partition
        self.deadline = deadline
        self.done = done
        record = encode(event)
        keyed = b"$0\r\n" if event.key is None else b"$1\r\n1"
        self.arguments = b"$%d\r\n%b\r\n%b\r\n$%d\r\n%b\r\n" % (len(nonce), nonce, keyed, len(record), record)
        self.effect: bytes | None = None
        if event.meta and ITEM in event.meta:
            self.effect = _item_effect(event)
        elif event.type in CHANGES:
            self.effect = ALWAYS + own_position(event)
        self.answer: list[Any] | None = None
        self.unknown_since: float | None = None
        self.failure: Exception | None = None
        self.announced: Event | None = None
        self.is_held = False
        self.outcome: Outcome | None = None


def _item_effect(event: Event) -> bytes:
    """Return how the script inserts an item."""
    expiry = event.meta[ITEM]
    if not expiry and event.group is None:
        return PLAIN
    expires = expiry if expiry.isascii() and expiry.isdigit() and int(expiry[:20]) <= LAST_MS else ""
    group = "" if event.group is None else f"\n{event.group}"
    return f"i{expires}{group}".encode()


def own_position(event: Event) -> bytes:
    """Return what the script of a change needs beside its payload: a log's name in positions, or the own position."""
    payload = event.payload if event.type in CHANGES else None
    match payload:
        case {"topic": str(topic), "since": _}:
            return name_in_positions(topic)
        case {"session": str(session)}:
            return name_in_positions(session)
        case {"up_to": str(position)}:
            try:
                return split_positions(position, [event.user]).get(event.user, "").encode()
            except InvalidEventIdError:
                return b""
    return b""


class PushCommands:
    """Encodes calls of the push script. The parts that never change are encoded once.

    Args:
        names: of keys.
        retention: what the script trims and expires.
        exact: trim to exactly `max_len`.
        inline: bytes of a record up to which the announcement carries it.
        wakes: where events are announced.

    Attributes:
        inbox_retention: what the script removes from inboxes.
    """

    def __init__(
        self, names: RedisNames, retention: Retention, *, exact: bool, inline: int, wakes: WakeStreams
    ) -> None:
        self._names = names
        self.wakes = wakes
        age = 0 if retention.max_age is None else max(1, int(retention.max_age * 1000))
        ttl = age and max(age, HOUR_MS)
        window = max(1, int(retention.key_window * 1000))
        numbers = [b"%d" % number for number in (ttl, age, window, inline)]
        self._fixed = bulks(b"%d" % retention.max_len, b"=" if exact else b"~", *numbers)
        self.inbox_retention = InboxRetention()
        self._inbox: Callable[[str], bytes] = lru_cache(_CACHED_NAMES)(self._encode_inbox)
        self._of_user: Callable[[str], tuple[bytes, int]] = lru_cache(_CACHED_NAMES)(self._encode_user)

    def names_of(self, event: Event) -> tuple[bytes, int]:
        """Return the script's four keys for an event, encoded, and the partition."""
        if event.key is None:
            return self._of_user(event.user)
        stream, index, retries, partition = self._names.of_user(event.user)
        return bulks(stream, index, retries, self._names.idempotency(event.user, event.key)), partition

    def _encode_inbox(self, user: str) -> bytes:
        return bulks(*self._names.inbox(user)[1:])

    def _encode_user(self, user: str) -> tuple[bytes, int]:
        stream, index, retries, partition = self._names.of_user(user)
        return bulks(stream, index, retries, stream), partition

    def encode(self, pushes: Sequence[PendingPush], ahead: float) -> bytes:
        """Return one call of the script.

        Args:
            pushes: of one hash slot, in a cluster.
            ahead: the server's clock minus ours, in milliseconds.
        """
        deadline = b"%d" % (min([push.deadline for push in pushes]) * 1000 + ahead)
        unknown = [push.unknown_since for push in pushes if push.unknown_since is not None]
        since = b"%d" % min(unknown) if unknown else b""
        has_effects = any([push.effect is not None for push in pushes])
        names = [push.names for push in pushes]
        return b"".join(
            [
                _head(len(pushes), has_effects),
                *(names if not has_effects else map(self._names_with_inbox, pushes)),
                b"$%d\r\n%b\r\n" % (len(deadline), deadline),
                self._fixed,
                self.wakes.arguments(pushes[0].partition),
                b"$%d\r\n%b\r\n" % (len(since), since),
                *(self._effects(pushes) if has_effects else [push.arguments for push in pushes]),
            ]
        )

    def _names_with_inbox(self, push: PendingPush) -> bytes:
        return push.names + self._inbox(push.event.user)

    def _effects(self, pushes: Sequence[PendingPush]) -> list[bytes]:
        """Return the arguments of events of which some have an effect."""
        found = [bulks(*retention_arguments(self.inbox_retention))]
        for push in pushes:
            found += (push.arguments, _PLAIN_BULK if push.effect is PLAIN else bulks(push.effect or b""))
        return found


def retention_arguments(retention: InboxRetention) -> tuple[bytes, bytes, bytes]:
    """Return what scripts know of the retention of inboxes."""
    age = -1 if retention.max_age is None else int(retention.max_age * 1000)
    return b"%d" % retention.max_items, b"%d" % age, b"1" if retention.keep_unread else b""


@lru_cache
def _head(events: int, has_effects: bool) -> bytes:
    """Return the beginning of a call for this number of events."""
    script: Script
    script, keys, others, each = (APPLY, 15, 14, 4) if has_effects else (PUSH, 4, 11, 3)
    head = bulks(b"EVALSHA", script.sha, b"%d" % (keys * events))
    return b"*%d\r\n%b" % (others + ARGUMENTS + (keys + each) * events, head)
