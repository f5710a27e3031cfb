"""The stream of an inbox: a stream of several logs that the events of the user's own log steer, and that yields counts.

It wraps a stream of the notifier, which does the work: cursors, waiting, ending. What this one adds is decided in the
step in which an event passes, or comes from a task that all streams share; such a task interrupts the wrapped stream,
so there is one place to wait, and no task for each stream.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Final, Protocol, Self
from weakref import ref

import anyio
import anyio.lowlevel

from notify import ClosedError, Event, InvalidEventIdError, NotifyError, Position, SlowConsumerError, UsageError, ids
from notify.abc import Gap, Interruptible, MergedStream
from notify.adapters import split_positions
from notify.event import NO_META, build_event

from ._counting import Counting
from ._following import FollowSet, Steps, is_plain_id, start_of
from .abc import CHANGES, ITEM, Counts, Follow

logger = logging.getLogger("notify")

_STEERING: Final = frozenset({"notify.followed", "notify.unfollowed"})
_SPARE: Final = "notify.inbox"
"""A log that stands in for the user's own while its position is exchanged, and is never read."""


class Inner(MergedStream, Interruptible, Protocol):
    """What a notifier returns for several logs."""


class InboxStream:
    """One reader's path through an inbox: the user's own log, further logs, and the topics that the user follows.

    A `MergedStream` with everything that the streams of a notifier have (`Interruptible` too), which see.

    Args:
        inner: the stream of the user's log and the further logs, not open yet.
        last_id: where it starts.
        signals: whether signals are yielded, `notify.counts` among them.
        read_follows: starts to read what a user follows, and later calls `follows_read` or `follows_failed`; raises
            ClosedError if the inbox is closed.
        counting: reads counts.
    """

    __slots__ = (
        "__weakref__",
        "_answer",
        "_base",
        "_busy",
        "_closed",
        "_counting",
        "_counts_due",
        "_failure",
        "_follows",
        "_inner",
        "_interrupted",
        "_is_full",
        "_last_id",
        "_left",
        "_read",
        "_reading",
        "_ready",
        "_roused",
        "_signals",
        "_stale",
        "_sync",
        "_synced",
        "_user",
        "_wake",
    )

    def __init__(
        self,
        inner: Inner,
        last_id: Position,
        *,
        signals: bool,
        read_follows: Callable[[ref[InboxStream], str], None],
        counting: Counting,
    ) -> None:
        self._inner = inner
        self._user = inner.user
        self._base = set(inner.users)
        self._last_id = last_id
        self._signals = signals
        self._read = read_follows
        self._counting = counting
        self._follows = FollowSet()
        self._left: dict[str, str] = {}  # positions in topics that are not followed any more
        self._is_full = False
        self._ready = self._busy = self._closed = False
        self._reading = self._stale = False  # whether follows are being read, and whether they are to be read again
        self._wake: anyio.Event | None = None
        self._failure: NotifyError | None = None
        self._interrupted = False  # by the caller
        self._roused = False  # by a task of the inbox
        self._synced = False
        self._sync: Event | None = None  # held back until the counts are known
        self._counts_due = False
        self._answer: tuple[Counts | None] | None = None
        if is_plain_id(last_id) and len(self._base) > 1:  # to the notifier it would be a mere time, for every log
            self._start_own_at(last_id)

    # -- what the reader sees ------------------------------------------------------------------------------------

    @property
    def user(self) -> str:
        """Whose inbox it is."""
        return self._user

    @property
    def is_ready(self) -> bool:
        """Whether it knows what the user follows."""
        return self._ready

    @property
    def users(self) -> tuple[str, ...]:
        """The logs that are read, the user's own first."""
        return (self._user, *(user for user in self._inner.users if user != self._user))

    @property
    def last_id(self) -> str:
        """The resume token, with the position in each topic too. Before the stream is open: what it was given."""
        if not self._ready and isinstance(self._last_id, str):
            return self._last_id
        return self._inner.last_id

    @property
    def dropped(self) -> int:
        """How many ephemeral events were lost because the reader was away and the buffer full."""
        return self._inner.dropped

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The latest gaps that this stream has found, oldest first, at most 16."""
        return self._inner.gaps

    def __aiter__(self) -> Self:
        """Return the stream."""
        return self

    async def __anext__(self) -> Event:
        """As `next()`, but a closed stream ends the loop."""
        try:
            return await self.next()
        except SlowConsumerError:
            raise
        except ClosedError as error:
            raise StopAsyncIteration from error

    async def next(self, timeout: float | None = None) -> Event:
        """Return the next event; see `notify.abc.Stream.next`."""
        self._check_idle()
        deadline = None if timeout is None else anyio.current_time() + timeout
        self._busy = True
        try:
            if not self._ready:
                await self._prepare(timeout)
            while True:
                event = self._inner.next_nowait()
                if event is None:
                    self._request_counts()
                    left = None if deadline is None else deadline - anyio.current_time()
                    try:
                        event = await self._inner.next(left)
                    except TimeoutError as error:
                        event = self._signal(error)
                        if event is None:
                            continue
                        return event
                shown = self._passing(event)
                if shown is not None:
                    return shown
        finally:
            self._busy = False

    def next_nowait(self) -> Event | None:
        """Return the next event that is in hand; see `notify.abc.Interruptible`."""
        self._check_idle()
        while self._ready and (event := self._inner.next_nowait()) is not None:
            shown = self._passing(event)
            if shown is not None:
                return shown
        return None

    def interrupt(self) -> None:
        """Make the current `next`, or the following one, raise TimeoutError; see `notify.abc.Interruptible`."""
        self._interrupted = True
        self._inner.interrupt()
        self._wake_up()

    def add(self, user: str, position: Position = None) -> Awaitable[None]:
        """Read one more log, whatever the user follows; see `notify.abc.MergedStream.add`."""
        added = self._inner.add(user, position)
        self._base.add(user)
        return added

    def remove(self, user: str) -> Awaitable[None]:
        """Stop reading a log, unless the user follows it; see `notify.abc.MergedStream.remove`.

        Raises:
            UsageError: it is the user's own log.
        """
        if user == self._user:
            raise UsageError(f"{user!r} is the log of this inbox: close the stream instead of removing it")
        self._base.discard(user)
        return self._inner.remove(_SPARE if user in self._follows.topics else user)  # removing that has no effect

    async def aclose(self) -> None:
        """End the stream at once; no event is yielded after it. Idempotent, never waits."""
        self._closed = True
        self._wake_up()
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        """Open the stream: its positions are fixed, and from here on nothing is missed."""
        self._check_idle()
        self._busy = True
        try:
            if not self._ready:
                await self._prepare(None)
            await self._inner.__aenter__()
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._busy = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        await self.aclose()

    def __repr__(self) -> str:
        return f"<InboxStream user={self._user!r} last_id={self.last_id!r:.80} over {self._inner!r}>"

    def _check_idle(self) -> None:
        if self._busy:
            raise UsageError("another task is already waiting in next() of this stream")

    # -- opening -------------------------------------------------------------------------------------------------

    async def _prepare(self, timeout: float | None) -> None:
        """Wait until the topics are known, as `next` waits; a later call goes on waiting for the same answer."""
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
                if not self._ready and timeout is not None and timeout <= 0:
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
        """Start to read what the user follows; if that is in progress, once more when it has ended."""
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
        """Take what the user follows, and the end of the user's log from before that was read."""
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
        """Note that it could not be read."""
        self._reading = False
        self._failure = None if self._ready else error
        self._wake_up()

    def _start_own_at(self, position: Position) -> None:
        """Exchange the position in the user's own log, before the stream is opened."""
        own, is_only = self._user, len(self._base) == 1
        if is_only:
            self._inner.add(_SPARE)
        self._inner.remove(own)
        self._inner.add(own, position)
        if is_only:
            self._inner.remove(_SPARE)

    # -- events that pass ----------------------------------------------------------------------------------------

    def _passing(self, event: Event) -> Event | None:
        """React to an event that the wrapped stream has yielded; return None if the reader does not get it."""
        if event.type == "notify.sync":
            self._synced = True
            if self._signals:
                self._sync, self._counts_due = event, True
            return None
        if event.type == "notify.gap":
            self._counts_due = True
            if event.user == self._user:
                self._read_follows()
            return event if self._signals else None
        if event.type in CHANGES:
            if event.user == self._user:
                self._counts_due = True
                if event.type in _STEERING:
                    self._take(self._follows.steer(event))
                elif event.type == "notify.merged":
                    self._read_follows()  # the session's follows are the user's now
        elif ITEM in event.meta and (event.user == self._user or event.user in self._follows.topics):
            self._counts_due = True
            expiry = event.meta[ITEM]
            if self._signals and expiry.isdigit():
                self._counting.expires(self, int(expiry))
        return event

    def _take(self, steps: Steps) -> None:
        """Read other topics than before."""
        for topic in steps.remove:
            if topic not in self._base:
                position = split_positions(self._inner.last_id, [self._user, topic]).get(topic)
                if position is not None:
                    self._left[topic] = position
                self._inner.remove(topic)
        for topic, since in steps.add.items():
            self._add(topic, max(since, self._left.pop(topic, ids.ZERO), key=ids.parse))

    def _add(self, topic: str, position: Position) -> None:
        try:
            self._inner.add(topic, position)
        except ClosedError:
            return  # the reader finds that out by itself
        except (UsageError, InvalidEventIdError) as error:
            if not self._is_full:
                logger.warning("the stream of inbox %r does not show topic %r: %s", self._user, topic, error)
            self._is_full = True

    # -- counts --------------------------------------------------------------------------------------------------

    def _request_counts(self) -> None:
        """Ask for counts if something has passed that changes them, now that nothing else is in hand."""
        if self._counts_due and self._synced:
            self._counts_due = False
            if self._signals:
                self._counting.request(self)

    def answered(self, counts: Counts | None) -> None:
        """Take counts that were asked for; see `_counting.Counted`."""
        if counts is not None or self._sync is not None:
            self._answer = (counts,)
            self._rouse()

    def _rouse(self) -> None:
        self._roused = True
        self._inner.interrupt()

    def _signal(self, error: TimeoutError) -> Event | None:
        """Return the signal for which the wrapped stream was interrupted; None if it only has to go on waiting.

        Raises:
            TimeoutError: it was interrupted by the caller, or not at all: its timeout has passed.
        """
        roused, self._roused = self._roused, False
        if self._interrupted:
            self._interrupted = False
            if self._answer is not None:
                self._rouse()
            raise error
        if self._answer is None:
            if roused:
                return None
            raise error
        (counts,), self._answer = self._answer, None
        payload: dict[str, Any] = {}
        if counts is not None:
            payload = {
                "total": counts.total,
                "unseen": counts.unseen,
                "unread": counts.unread,
                "position": counts.position,
            }
        if self._sync is None:
            return _control(self._user, "notify.counts", "", payload)
        self._sync = None
        return _control("", "notify.sync", self.last_id, payload)

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()


def _control(user: str, type: str, position: str, payload: dict[str, Any]) -> Event:
    data = json.dumps(payload, separators=(",", ":")).encode()
    return build_event(position, position, user, type, data, time.time_ns() // 1000, None, None, NO_META)


async def _moment() -> None:
    """Let a task that was just started take a few steps: enough for a store that answers at once."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
