"""The stream that `Notifier.subscribe` and stream stores return: a cursor, and a waiter for its reader.

It owns no queue, no task and no connection. An idle one is this object, its cursor, its reader's task and one waiter.
The states and what leads from one to the next are those of `_cursor.py`; this is what a stream does in each:

| state | `next` does | then |
|---|---|---|
| NEW | attaches to its user's fan-out, and only then reads: nothing is missed between the two | BEHIND or LIVE |
| BEHIND | requests the page after its cursor | READING |
| READING | waits; `receive` gets the page, or `fail` the error | BEHIND or LIVE |
| LIVE | takes the next entry of the ring, or waits for an offer | LIVE, or BEHIND |
| NEW again | a bare `next` was cancelled: detached; the next call attaches again at the cursor | as NEW |
| ended | raises `ClosedError`, or ends the loop | - |
"""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from ..abc import Gap, Position
from ..errors import ClosedError, SlowConsumerError, UsageError
from ..event import Event
from ._attachment import Attachment, Source
from ._cursor import State
from ._stream_set import StreamSet

_LIVE = State.LIVE  # a member of an enum is a descriptor in Python 3.11: 80 ns at each access


class Subscription(Attachment):
    """One reader's path through one user's log; see `notify.abc.Stream` for the promises.

    Invariants:
        I1, I2. Those of `Attachment`.
        I3. The cursor moves only in the synchronous step that returns the event.
        I4. A LIVE stream that waits has read every entry of its ring, and is in `UserStreams.waiting`.
        I5. A stream whose bare `next` was cancelled is not attached, or only until the page in flight arrives: it may
            never be called again, and the traceback of the cancellation can keep it from being finalised.
    """

    __slots__ = ("_busy", "_held", "_max_lag")

    def __init__(
        self,
        source: Source,
        stream_set: StreamSet,
        user: str,
        position: Position,
        *,
        signals: bool = False,
        max_lag: int | None = None,
        track: bool = True,
    ) -> None:
        super().__init__(source, stream_set, user, position, signals=signals, track=track)
        self._max_lag = max_lag
        self._busy = False
        self._held = False  # whether a cancelled `next` leaves the stream attached

    # -- what the reader sees ------------------------------------------------------------------------------------

    @property
    def last_id(self) -> str:
        """The resume token: everything up to here was yielded, nothing after it."""
        return self._cursor.last_id

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The latest gaps that this stream has found, oldest first, at most 16."""
        return self._cursor.gaps

    @property
    def dropped(self) -> int:
        """How many ephemeral events were lost because the reader was away and the buffer full."""
        dropped = self._cursor.dropped
        return dropped if self._streams is None else dropped + self._cursor.missed(self._streams)

    @property
    def synced(self) -> bool:
        """Whether the replay is over: what follows is live."""
        return self._cursor.state is State.LIVE and not self._cursor.page

    def __aiter__(self) -> Self:
        """Return the stream."""
        return self

    async def __anext__(self, ended: type[Exception] = StopAsyncIteration) -> Event:
        """As `next()`, but a closed stream ends the loop.

        The usual path of an event is in this one frame: another frame would cost each idle stream 200 bytes.
        """
        if self._busy:
            self._check_idle()
        cursor = self._cursor
        while True:
            if self._rank < self._set.cutoff or self._max_lag is not None:
                self._raise_if_ended(ended)
            page = cursor.page
            if page:
                event = page.pop()
                cursor.last_id = event.id  # keeps I3
                return event
            streams = self._streams
            if streams is not None and cursor.state is _LIVE:
                behind = streams.end - cursor.index
                if not behind:
                    self.slot = len(streams.waiting)
                    streams.waiting.append(self)  # keeps I4
                    self._busy = True
                    try:
                        await self.waiter  # type: ignore[misc]  # a live stream has one
                    except BaseException as error:
                        if isinstance(error, Exception):  # that of an event loop for the waiter of another one
                            self._source.guard.check()
                        self._interrupted()
                        raise
                    finally:
                        self._busy = False
                        if streams.waiting:
                            streams.leave(self)  # unless it has just been woken
                    continue
                if behind <= len(streams.events) and behind <= streams.size:
                    event = streams.events[-behind]
                    if event.prev == cursor.last_id and event.id and not streams.volatile:  # nearly every offer
                        cursor.index += 1  # keeps I3
                        cursor.last_id = event.id
                        if self._source.observe is not None:
                            self._source.observe(event)
                        return event
                taken = cursor.take(streams)
                if taken is not None:
                    if self._source.observe is not None:
                        self._source.observe(taken)
                    return taken
            if cursor.state is not _LIVE:
                await self._advance()

    def next(self, timeout: float | None = None) -> Coroutine[Any, Any, Event]:
        """Return the next event; see `notify.abc.Stream.next`."""
        return self.__anext__(ClosedError) if timeout is None else self._next_within(timeout)

    async def _next_within(self, timeout: float) -> Event:
        held, self._held = self._held, True  # reaching the timeout does not mean that the reader is gone
        try:
            with anyio.fail_after(timeout):
                return await self.__anext__(ClosedError)
        except Exception:
            raise
        except BaseException:  # the caller was cancelled
            self._held = held
            self._interrupted()
            raise
        finally:
            self._held = held

    async def aclose(self) -> None:
        """End the stream at once; no event is yielded after it. Idempotent, never waits."""
        if self._streams is not None:
            self._source.guard.check_closing()
        self._close()

    async def __aenter__(self) -> Self:
        """Open the stream: its position is fixed, and from here on nothing is missed."""
        self._check_idle()
        try:
            self._raise_if_ended(ClosedError)
            while self._streams is None or not self._cursor.opened:
                await self._advance()
                self._raise_if_ended(ClosedError)
        except BaseException:
            self._close()
            raise
        self._held = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        self._close()

    def __del__(self) -> None:
        if self._streams is not None:
            self._source.guard.call(self._close)  # the garbage collector may run in any thread

    def __repr__(self) -> str:
        return f"<Subscription user={self.user!r} last_id={self.last_id!r} {self._cursor.state.value}>"

    def _check_idle(self) -> None:
        if self._streams is not None:
            self._source.guard.check()
        if self._busy:
            self._raise_if_ended(ClosedError)
            raise UsageError("another task is already waiting in next() of this stream")

    # -- opening and reading -------------------------------------------------------------------------------------

    async def _advance(self) -> None:
        """Do one step towards having something to yield: open, read a page, or wait for the page."""
        self._check_idle()
        self._busy = True
        self._abandoned = False
        cursor = self._cursor
        was_open = cursor.opened
        try:
            if cursor.state is State.NEW:
                await self._open()
            if cursor.state is State.BEHIND and self._streams is not None and self._rank >= self._set.cutoff:
                if not cursor.page:  # attached again with a page in hand: that comes first
                    self._source.request(self)
            if cursor.state is State.READING and self._prefetched is None and self.waiter is not None:
                await self.waiter
            if self._prefetched is not None:
                self._accept(*self._prefetched)
            if cursor.state is State.BEHIND and cursor.page:
                self._source.prefetch(self)
                # One step for the task of the read, one for that of the store: then the server has been asked, and
                # works while this page is handed out.
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
            elif was_open:
                await anyio.lowlevel.checkpoint()  # others run during a long replay; last, so every call makes progress
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._busy = False
        failure = self._failure
        if failure is not None and not cursor.opened and self._streams is not None:
            self._failure = None
            self._detach()
            raise failure

    # -- ending --------------------------------------------------------------------------------------------------

    def _raise_if_ended(self, ended: type[Exception]) -> None:
        if self._rank >= self._set.cutoff:
            if self._max_lag is None or self._streams is None or not self._cursor.synced:
                return
            lag = self._cursor.lag(self._streams, self._max_lag)
            if lag <= self._max_lag:
                return
            message = f"the reader of {self.user!r} is {lag} live events behind; at most {self._max_lag} are allowed"
            self._failure = SlowConsumerError(message, last_id=self.last_id)
        self._close()
        if isinstance(self._failure, SlowConsumerError):
            raise self._failure
        raise ended(f"the stream of {self.user!r} is closed") from self._failure

    def _interrupted(self) -> None:
        """Detach after a bare `next` was cancelled: keeps I5.

        If a page is being read, detach when it arrives: it fixes the position of a stream that is being opened, and
        without it a caller whose timeout is shorter than one read would never get on.
        """
        if self._streams is None or self._held:
            return
        if not self._cursor.page:
            if self._prefetched is not None:
                self._accept(*self._prefetched)
            elif self.is_reading:
                self._abandoned = True
                return
        self._detach()
