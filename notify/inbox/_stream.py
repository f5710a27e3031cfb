"""The stream of an inbox: the user's own log and the topics that the user follows, and the counts.

It wraps a stream of the notifier, which has the cursors, waits and ends. What this one adds happens either when an
event passes through it, or in a task that all streams of an inbox share. Such a task interrupts the wrapped stream to
hand over its result, so a stream waits in one place only and needs no task of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self
from weakref import ref

import anyio

from notify import ClosedError, Event, Position, SlowConsumerError, UsageError
from notify.abc import Gap
from notify.event import NO_META, build_event

from ._counting import Counting
from ._steering import Inner, SteeredStream
from .abc import CHANGES, ITEM, Counts


class InboxStream(SteeredStream):
    """What one reader gets of an inbox: the user's own log, further logs, and the topics that the user follows.

    `Inbox.subscribe` returns it. A `notify.abc.MergedStream` and `notify.abc.Interruptible`, like the streams of a
    notifier, and used in the same way.

    Args:
        inner: the stream of the user's log and the further logs, not open yet.
        last_id: where it starts.
        signals: whether signals are yielded, `notify.counts` among them.
        read_follows: starts to read what a user follows, and later calls `follows_read` or `follows_failed`; raises
            ClosedError if the inbox is closed.
        counting: reads counts.
    """

    __slots__ = (
        "_answer",
        "_busy",
        "_counting",
        "_counts_due",
        "_signals",
        "_sync",
        "_synced",
    )

    def __init__(
        self,
        inner: Inner,
        last_id: Position,
        *,
        signals: bool,
        read_follows: Callable[[ref[SteeredStream], str], None],
        counting: Counting,
    ) -> None:
        super().__init__(inner, last_id, read_follows)
        self._signals = signals
        self._counting = counting
        self._busy = False
        self._synced = False
        self._sync: Event | None = None  # held back until the counts are known
        self._counts_due = False
        self._answer: tuple[Counts | None] | None = None

    # -- what the reader sees ------------------------------------------------------------------------------------

    @property
    def users(self) -> tuple[str, ...]:
        """The logs that are read, the user's own first."""
        return (self._user, *(user for user in self._inner.users if user != self._user))

    @property
    def last_id(self) -> str:
        """The resume token, which includes the position in each topic. Before the stream is open: what it was given."""
        if not self._ready and isinstance(self._last_id, str):
            return self._last_id
        return self._inner.last_id

    @property
    def dropped(self) -> int:
        """How many ephemeral events were lost because the reader was too slow and the buffer was full."""
        return self._inner.dropped

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The latest gaps that this stream has found, oldest first, at most 16."""
        return self._inner.gaps

    def __aiter__(self) -> Self:
        """Return the stream."""
        return self

    async def __anext__(self) -> Event:
        """As `next()`, but the end of the stream ends the loop; SlowConsumerError is still raised."""
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
        """Return the next event if it is there without waiting; see `notify.abc.Interruptible`."""
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
        # Removing what is not read has no effect.
        return self._inner.remove(self._spare() if user in self._follows.topics else user)

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

    # -- events that pass ----------------------------------------------------------------------------------------

    def _passing(self, event: Event) -> Event | None:
        """React to an event of the wrapped stream; return None if the reader does not get it, or not yet."""
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
        if ITEM in event.meta:  # first, as in a store: an event with this name is an item, whatever its type
            if event.user == self._user or event.user in self._follows.topics:
                self._counts_due = True
                expiry = event.meta[ITEM]
                if self._signals and expiry.isdigit():
                    self._counting.expires(self, int(expiry))
        elif event.type in CHANGES and event.user == self._user:
            self._counts_due = True
            self._steer(event)
        return event

    # -- counts --------------------------------------------------------------------------------------------------

    def _request_counts(self) -> None:
        """Request counts if an event has passed that changes them; called after a burst, not within one."""
        if self._counts_due and self._synced:
            self._counts_due = False
            if self._signals:
                self._counting.request(self)

    def accept_counts(self, counts: Counts | None) -> None:
        """Accept the counts that were requested; see `_counting.CountsReceiver`."""
        if counts is not None or self._sync is not None:
            self._answer = (counts,)
            self._rouse()

    def _rouse(self) -> None:
        self._roused = True
        self._inner.interrupt()

    def _signal(self, error: TimeoutError) -> Event | None:
        """Return the signal for which the wrapped stream was interrupted; None: there is none, wait on.

        Args:
            error: what the wrapped stream has raised.

        Raises:
            TimeoutError: `error`, because the caller interrupted the stream or its timeout has passed.
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


def _control(user: str, type: str, position: str, payload: dict[str, Any]) -> Event:
    data = json.dumps(payload, separators=(",", ":")).encode()
    return build_event(position, position, user, type, data, time.time_ns() // 1000, None, None, NO_META)
