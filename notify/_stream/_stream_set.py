"""Streams that end together: all those of one notifier, or all those that one stream store created itself."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import count, cycle
from typing import Final, Protocol

import anyio

from .._runtime._stats import Counters
from ..event import Event
from ._expiry import Expiry
from ._gap_log import GapLog

RANKS: Final = 64
"""The streams of one set are divided into this many ranks; draining ends them rank by rank."""


next_generation: Final = count(1).__next__
"""Numbers every event that may end streams, in the order in which they happen."""


def _nothing() -> None:
    """Do nothing."""


class StreamSet:
    """Streams that end together.

    Attributes:
        cutoff: streams of a lower rank have ended; 0 while open, `RANKS` once closed.
        generation: the number of the latest event that may have ended some of these streams. A stream compares it with
            the number that it has seen, and asks whether it has ended only when it differs.
        counters: where open streams are counted.
        opening: called before a stream is opened.
        next_rank: returns the rank of a new stream, cycling through all ranks.
        audit_interval: seconds within which these streams want lost offers to be found; None: no preference.
        gap_log: where their gaps are logged.
    """

    def __init__(self, counters: Counters, audit_interval: float | None = None) -> None:
        self.cutoff = 0
        self.generation = next_generation()
        self.counters = counters
        self.audit_interval = audit_interval
        self.gap_log = GapLog()
        self.opening: Callable[[], None] = _nothing
        self.next_rank = cycle(range(RANKS)).__next__

    @property
    def closed(self) -> bool:
        """Whether every stream has ended."""
        return self.cutoff >= RANKS

    def attached(self, user: str, track: bool, streams: int = 1) -> None:
        """Note that a stream was opened; `streams` is 0 for a further log of one that counts already."""
        self.counters.open_streams += streams

    def is_ready(self, user: str, track: bool) -> bool:
        """Whether a stream can read at once, without waiting for presence or a router."""
        return True

    async def ready(self, user: str, track: bool) -> None:
        """Wait for what a stream needs before its first read; overriding methods keep this bounded."""

    def detached(self, user: str, track: bool, streams: int = 1) -> None:
        """Note that a stream was closed; called in finalisers too."""
        if not self.closed:
            self.counters.open_streams -= streams

    def cut(self, rank: int) -> None:
        """End the streams of lower ranks; those that were ended before stay so."""
        self.cutoff = max(self.cutoff, rank)
        self.generation = next_generation()

    def disconnect(self, user: str, reason: str, generation: int) -> None:
        """Make the streams check whether their user was disconnected."""
        self.generation = generation

    def close(self) -> None:
        """End every stream of the set."""
        self.cut(RANKS)
        self.counters.open_streams = 0


class Presence(Protocol):
    """Registers the users who have streams open."""

    def enter(self, user: str) -> None:
        """Count a stream that was opened."""

    def is_ready(self, user: str) -> bool:
        """Whether the user is registered, or a first attempt has failed."""

    async def ready(self, user: str) -> None:
        """Wait until the user is registered, for a bounded time."""

    def leave(self, user: str) -> None:
        """Count a stream that was closed; never waits."""


class Receiver(Protocol):
    """Receives events from other instances."""

    @property
    def is_receiving(self) -> bool:
        """Whether it receives."""

    async def ready(self) -> None:
        """Wait until it receives, for a bounded time."""


class External(Protocol):
    """A stream that a stream store without a `LiveLog` implements itself, as its set sees it."""

    rank: int

    @property
    def user(self) -> str:
        """The user whose log is read."""

    @property
    def is_open(self) -> bool:
        """Whether the stream counts as open."""

    def show(self, event: Event) -> None:
        """Hand the reader an ephemeral event."""

    def disconnect(self, reason: str) -> None:
        """End the stream for this reason; never waits."""

    async def aclose(self) -> None:
        """End the stream."""


class NotifierStreams(StreamSet):
    """The streams of one notifier: they start its services, count as presence of their users, and end together.

    Attributes:
        users: how many streams each user has open here.
        external: the streams of a stream store without a `LiveLog`.
        expiry: ends streams whose `expires_at` has come.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        audit_interval: float,
        opening: Callable[[], None],
        presence: Presence | None,
        receiver: Receiver | None,
        expiry: Expiry,
    ) -> None:
        super().__init__(counters, audit_interval)
        self.expiry = expiry
        self.opening = opening
        self._presence = presence
        self._receiver = receiver
        self.users: dict[str, int] = {}
        self.external: weakref.WeakSet[External] = weakref.WeakSet()

    def attached(self, user: str, track: bool, streams: int = 1) -> None:
        """Count a stream that was opened, and its user as present."""
        self.counters.open_streams += streams
        self.users[user] = self.users.get(user, 0) + 1
        if track and self._presence is not None:
            self._presence.enter(user)

    def is_ready(self, user: str, track: bool) -> bool:
        """Whether routed events are received and the user is registered."""
        if self._receiver is not None and not self._receiver.is_receiving:
            return False
        return not track or self._presence is None or self._presence.is_ready(user)

    async def ready(self, user: str, track: bool) -> None:
        """Wait until routed events are received and the user is registered; both bounded."""
        if self._receiver is not None:
            await self._receiver.ready()
        if track and self._presence is not None:
            await self._presence.ready(user)

    def detached(self, user: str, track: bool, streams: int = 1) -> None:
        """Count a stream that was closed; once the notifier is closed, everything was released already."""
        super().detached(user, track, streams)
        if user not in self.users:
            return
        self.users[user] -= 1
        if not self.users[user]:
            del self.users[user]
        if track and self._presence is not None:
            self._presence.leave(user)

    def disconnect(self, user: str, reason: str, generation: int) -> None:
        """Make the streams check whether their user was disconnected; end the external ones that were."""
        super().disconnect(user, reason, generation)
        for stream in [stream for stream in self.external if stream.user == user]:
            stream.disconnect(reason)

    def show_external(self, event: Event) -> int:
        """Show an ephemeral event to the open external streams of its user, or to all; return how many got it."""
        streams = [stream for stream in self.external if stream.is_open and event.user in ("", stream.user)]
        for stream in streams:
            stream.show(event)
        return len(streams)

    async def close_external(self) -> None:
        """Close the external streams that have ended by their rank."""
        async with anyio.create_task_group() as group:
            for stream in list(self.external):
                if stream.rank < self.cutoff:
                    group.start_soon(stream.aclose)
