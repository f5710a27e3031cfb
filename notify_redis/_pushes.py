"""One event on its way into a log, and those of one caller together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from notify import Event
from notify.errors import NotifyError

from ._entry import encode


@dataclass(frozen=True)
class Retention:
    """What the script is told of how long to keep what; durations in milliseconds, 0 for ever."""

    max_len: int
    exact: bool
    ttl: int
    age: int
    key_window: int
    inline: int


class Push:
    """One event on its way.

    Attributes:
        stored: the event as its announcement has told already.
        since: the server's time before the first attempt whose outcome is unknown; None: there is none.
        trouble: what went wrong last.
    """

    __slots__ = ("batch", "body", "deadline", "event", "names", "nonce", "outcome", "since", "stored", "trouble")

    def __init__(self, event: Event, batch: Batch, nonce: bytes, names: tuple[bytes, ...], deadline: float) -> None:
        self.event = event
        self.batch = batch
        self.nonce = nonce
        self.names = names
        self.deadline = deadline
        self.body = encode(event)
        self.since: float | None = None
        self.trouble: Exception | None = None
        self.stored: Event | None = None
        self.outcome: Event | NotifyError | None = None

    def finish(self, outcome: Event | NotifyError) -> None:
        """Set the outcome, once."""
        if self.outcome is None:
            self.outcome = outcome
            self.batch.one_less(self)


class Batch:
    """The pushes of one caller."""

    __slots__ = ("done", "left", "under_way")

    def __init__(self, left: int, under_way: dict[bytes, Push]) -> None:
        self.left = left
        self.under_way = under_way
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def one_less(self, push: Push) -> None:
        """Count an outcome; the last one wakes the caller."""
        del self.under_way[push.nonce]
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)
