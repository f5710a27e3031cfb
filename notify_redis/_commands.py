"""Pushes without an outcome, and calls of the push script that append them (`_lua/push.lua`), encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from notify import Event
from notify.adapters import Retention
from notify.errors import NotifyError

from ._connection import bulks
from ._names import RedisNames
from ._record import encode
from ._scripts import PUSH
from ._wake import ARGUMENTS, WakeStreams

HOUR_MS: Final = 3_600_000

_CACHED_NAMES: Final = 65_536

Outcome: TypeAlias = Event | NotifyError
Done: TypeAlias = Callable[[Outcome], None]


class PendingPush:
    """One event that has no outcome yet.

    Attributes:
        partition: of the event's user.
        names: the keys of the script for this event, encoded as bulk strings.
        arguments: the arguments of the script for this event, likewise.
        done: called once, with the outcome.
        announced: the stored event, if its announcement arrived before the reply.
        is_held: whether it was sent, or handed to `_retry`: later pushes to its user wait until it has its outcome.
        unknown_since: the server's time in milliseconds before the first attempt that may have been executed without a
            reply; None: there was no such attempt.
        failure: why the latest attempt failed.
    """

    __slots__ = (
        "announced",
        "arguments",
        "deadline",
        "done",
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
        self.unknown_since: float | None = None
        self.failure: Exception | None = None
        self.announced: Event | None = None
        self.is_held = False
        self.outcome: Outcome | None = None


class PushCommands:
    """Encodes calls of the push script. The parts that never change are encoded once.

    Args:
        names: of keys.
        retention: what the script trims and expires.
        exact: trim to exactly `max_len`.
        inline: bytes of a record up to which the announcement carries it.
        wakes: where events are announced.
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
        self._of_user: Callable[[str], tuple[bytes, int]] = lru_cache(_CACHED_NAMES)(self._encode_user)

    def names_of(self, event: Event) -> tuple[bytes, int]:
        """Return the script's four keys for an event, encoded, and the partition."""
        if event.key is None:
            return self._of_user(event.user)
        stream, index, retries, partition = self._names.of_user(event.user)
        return bulks(stream, index, retries, self._names.idempotency(event.user, event.key)), partition

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
        return b"".join(
            [
                _head(len(pushes)),
                *[push.names for push in pushes],
                b"$%d\r\n%b\r\n" % (len(deadline), deadline),
                self._fixed,
                self.wakes.arguments(pushes[0].partition),
                b"$%d\r\n%b\r\n" % (len(since), since),
                *[push.arguments for push in pushes],
            ]
        )


@lru_cache
def _head(events: int) -> bytes:
    """Return the beginning of a call for this number of events."""
    return b"*%d\r\n%b" % (11 + ARGUMENTS + 7 * events, bulks(b"EVALSHA", PUSH.sha, b"%d" % (4 * events)))
