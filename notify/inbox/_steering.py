"""The part of an inbox's stream that decides which logs it reads: when it opens, and when it yields follows.

`InboxStream` adds the public methods and the counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol
from weakref import ref

import anyio
import anyio.lowlevel

from notify import ClosedError, Event, InvalidEventIdError, NotifyError, Position, UsageError, ids
from notify.abc import Interruptible, MergedStream
from notify.adapters import split_positions

from ._following import FollowSet, Steps, is_plain_id, start_of
from .abc import Follow

logger = logging.getLogger("notify")

_SPARE: Final = "notify.inbox"
"""A placeholder for the user's own log while that is re-added at another position: a stream needs at least one log."""


class Inner(MergedStream, Interruptible, Protocol):
    """The stream that a notifier returns for several logs, and that an inbox's stream wraps."""


class SteeredStream:
    """A stream of several logs that adds and removes topics as its user follows and unfollows them.

    Args:
        inner: the stream of the user's log and the further logs, not open yet.
        last_id: where it starts.
        read_follows: starts to read what a user follows, and later calls `follows_read` or `follows_failed`; raises
            ClosedError if the inbox is closed.
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_closed",
        "_failure",
        "_follows",
        "_inner",
        "_interrupted",
        "_is_full",
        "_last_id",
        "_read",
        "_reading",
        "_ready",
        "_roused",
        "_stale",
        "_unfollowed",
        "_user",
        "_wake",
    )

    def __init__(
        self, inner: Inner, last_id: Position, read_follows: Callable[[ref[SteeredStream], str], None]
    ) -> None:
        self._inner = inner
        self._user = inner.user
        self._base = set(inner.users)
        self._last_id = last_id
        self._read = read_follows
        self._follows = FollowSet()
        self._unfollowed: dict[str, str] = {}  # by topic that is no longer followed: how far it was read
        self._is_full = False
        self._ready = self._closed = False
        self._reading = self._stale = False  # whether follows are being read, and whether they are to be read again
        self._wake: anyio.Event | None = None
        self._failure: NotifyError | None = None
        self._interrupted = False  # by the caller
        self._roused = False  # by a task of the inbox
        if is_plain_id(last_id) and len(self._base) > 1:  # to the notifier it would be a mere time, for every log
            self._start_own_at(last_id)

    @property
    def user(self) -> str:
        """Whose inbox it is."""
        return self._user

    @property
    def is_ready(self) -> bool:
        """Whether it knows what the user follows."""
        return self._ready

    # -- opening -------------------------------------------------------------------------------------------------

    async def _prepare(self, timeout: float | None) -> None:
        """Wait until the followed topics are known.

        Args:
            timeout: seconds; None: without a limit; 0: only as long as a store needs that answers at once.

        Raises:
            TimeoutError: they are not known in time. The read goes on, and a later call waits for the same one.
            ClosedError: the stream was closed.
            NotifyError: they could not be read.
        """
        with anyio.fail_after(timeout if timeout is None or timeout > 0 else None):
            while not self._ready:
                self._read_follows()
                self._wake = anyio.Event()
                try:
                    if timeout is None or timeout > 0:
                        await self._wake.wait()
                    else:
                        await _moment()
                finally:
                    self._wake = None
                self._raise_if_disturbed()
                if timeout is not None and timeout <= 0 and not self.is_ready:
                    raise TimeoutError

    def _raise_if_disturbed(self) -> None:
        if self._closed:
            raise ClosedError(f"the stream of {self._user!r} is closed")
        if self._interrupted:
            self._interrupted, self._roused = False, True  # the wrapped stream was interrupted too
            raise TimeoutError("the stream was interrupted")
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _read_follows(self) -> None:
        """Start to read what the user follows; if a read is in progress, start another one when it has ended."""
        if self._reading:
            self._stale = self._ready
            return
        try:
            self._read(ref(self), self._user)
        except ClosedError:
            if not self._ready:
                raise
        else:
            self._reading = True

    def follows_read(self, head: str, follows: Iterable[Follow]) -> None:
        """Accept what the user follows, and the end of the user's log, which was read before that."""
        self._reading = False
        steps = self._follows.replace(follows, head)
        if self._ready:
            self._take(steps)
            if self._stale:
                self._stale = False
                self._read_follows()
            return
        if self._last_id is None or self._last_id == "":
            self._start_own_at("0-0" if head == ids.ZERO else head)  # so no follow after that is missed
        for topic, since in steps.add.items():
            self._add(topic, start_of(topic, since, self._last_id, self._user))
        self._ready = True
        self._wake_up()

    def follows_failed(self, error: NotifyError) -> None:
        """Note that the follows could not be read: an error while the stream opens, later only a missed refresh."""
        self._reading = False
        self._failure = None if self._ready else error
        self._wake_up()

    def _start_own_at(self, position: Position) -> None:
        """Start the user's own log at another position, before the stream is opened."""
        own, is_only = self._user, len(self._base) == 1
        with suppress(ClosedError):  # disconnected already: the next call of the reader raises it
            spare = self._spare()
            if is_only:
                self._inner.add(spare)
            self._inner.remove(own)
            self._inner.add(own, position)
            if is_only:
                self._inner.remove(spare)

    def _spare(self) -> str:
        """Return the placeholder: a name that is none of those that are read."""
        name = _SPARE
        while name in self._inner.users:
            name += "."
        return name

    # -- events that pass ----------------------------------------------------------------------------------------

    def _steer(self, event: Event) -> None:
        """React to an event of the user's own log that may change which topics are followed."""
        if event.type in ("notify.followed", "notify.unfollowed"):
            self._take(self._follows.steer(event))
        elif event.type == "notify.merged":
            self._read_follows()  # the session's follows are the user's now

    def _take(self, steps: Steps) -> None:
        """Start and stop reading topics."""
        for topic in steps.remove:
            if topic not in self._base:
                position = split_positions(self._inner.last_id, [self._user, topic]).get(topic)
                if position is not None:
                    self._unfollowed[topic] = position
                self._inner.remove(topic)
        for topic, since in steps.add.items():
            self._add(topic, max(since, self._unfollowed.pop(topic, ids.ZERO), key=ids.parse))

    def _add(self, topic: str, position: Position) -> None:
        try:
            self._inner.add(topic, position)
        except ClosedError:
            return  # the next call of the reader raises it
        except (UsageError, InvalidEventIdError) as error:
            if not self._is_full:
                logger.warning("the stream of inbox %r does not show topic %r: %s", self._user, topic, error)
            self._is_full = True

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()


async def _moment() -> None:
    """Let a task that was just started take a few steps: enough for a store that answers at once."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
