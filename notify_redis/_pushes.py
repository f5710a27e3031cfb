"""One event on its way into a log, and the command that appends it."""

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

Outcome: TypeAlias = Event | NotifyError
Done: TypeAlias = Callable[[Outcome], None]

_CACHED_NAMES: Final = 65_536

HOUR: Final = 3_600_000
"""In milliseconds."""


class PendingPush:
    """One event on its way.

    Attributes:
        names: the keys of the script, as the command says them.
        arguments: of the script for this event, likewise.
        done: told the outcome, once.
        stored: the event as its announcement has told already.
        since: the server's time before the first attempt whose outcome is unknown; None: there is none.
        trouble: what went wrong last.
    """

    __slots__ = ("arguments", "deadline", "done", "event", "names", "nonce", "outcome", "since", "stored", "trouble")

    def __init__(self, event: Event, nonce: bytes, names: bytes, deadline: float, done: Done) -> None:
        self.event = event
        self.nonce = nonce
        self.names = names
        self.deadline = deadline
        self.done = done
        body = encode(event)
        mark = b"$0\r\n" if event.key is None else b"$1\r\n1"
        self.arguments = b"$%d\r\n%b\r\n%b\r\n$%d\r\n%b\r\n" % (len(nonce), nonce, mark, len(body), body)
        self.since: float | None = None
        self.trouble: Exception | None = None
        self.stored: Event | None = None
        self.outcome: Outcome | None = None


class PushCommands:
    """Packs the command that appends some events; what is the same each time was packed before.

    Args:
        keys: the names.
        retention: how long to keep what.
        publish: the command that announces.
    """

    def __init__(self, keys: RedisNames, retention: Retention, *, exact: bool, inline: int, publish: bytes) -> None:
        self._keys = keys
        age = 0 if retention.max_age is None else max(1, int(retention.max_age * 1000))
        ttl = age and max(age, HOUR)
        window = max(1, int(retention.key_window * 1000))
        numbers = [b"%d" % number for number in (ttl, age, window, inline)]
        self._fixed = bulks(b"%d" % retention.max_len, b"=" if exact else b"~", *numbers, publish)
        self._names_of: Callable[[str], bytes] = lru_cache(_CACHED_NAMES)(self._pack_names)

    def names(self, event: Event) -> bytes:
        """Return the four keys of an event."""
        if event.key is None:
            return self._names_of(event.user)
        return bulks(*self._keys.of_user(event.user)[:3], self._keys.idempotency(event.user, event.key))

    def _pack_names(self, user: str) -> bytes:
        stream, index, retries, _ = self._keys.of_user(user)
        return bulks(stream, index, retries, stream)

    def pack(self, pushes: Sequence[PendingPush], ahead: float) -> bytes:
        """Return the command for one attempt.

        Args:
            pushes: of one slot in a cluster.
            ahead: the server's clock minus ours, in milliseconds.
        """
        count = len(pushes)
        deadline = b"%d" % (min([push.deadline for push in pushes]) * 1000 + ahead)
        unknown = [push.since for push in pushes if push.since is not None]
        since = b"%d" % min(unknown) if unknown else b""
        return b"".join(
            [
                _head(count),
                *[push.names for push in pushes],
                b"$%d\r\n%b\r\n" % (len(deadline), deadline),
                self._fixed,
                b"$%d\r\n%b\r\n" % (len(since), since),
                *[push.arguments for push in pushes],
            ]
        )


@lru_cache
def _head(count: int) -> bytes:
    """Return how the command for so many events begins."""
    return b"*%d\r\n%b" % (12 + 7 * count, bulks(b"EVALSHA", PUSH.sha, b"%d" % (4 * count)))
