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

import anyio.lowlevel

from ..abc import Gap
from ..errors import ClosedError
from ..event import Event
from ..ids import ZERO
from ._attachment import Attachment
from ._cursor import BEHIND, LIVE, NEW, READING
from ._ring import RESYNC


class Subscription(Attachment):
    """One reader's path through one user's log; see `notify.abc.Stream` for the promises.

    Invariants:
        I1, I2. Those of `Attachment`.
        I3. The cursor moves only in the synchronous step that returns the event.
        I4. A LIVE stream that waits has read every entry of its ring, and is in `UserStreams.waiting`.
        I5. A stream whose bare `next` was cancelled is not attached, or only until the page in flight arrives: it may
            never be called again, and the traceback of the cancellation can keep it from being finalised.
    """

    __slots__ = ()

    # -- what the reader sees ------------------------------------------------------------------------------------

    @property
    def last_id(self) -> str:
        """The resume token: everything up to here was yielded, nothing after it."""
        cursor = self._cursor
        last_id = cursor.last_id  # the token, except perhaps at the beginning: saves a call for each event
        return last_id if last_id != ZERO else cursor.token

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
        return self._cursor.state is LIVE and not self._cursor.page

    def omit_sync(self) -> None:
        """Do not yield `notify.sync`: the caller tells its client itself. For streams that start from now."""
        self._cursor.tell_no_sync()

    async def __anext__(self, ended: type[Exception] = StopAsyncIteration) -> Event:
        """As `next()`, but a closed stream ends the loop.

        The usual path of an event is in this one frame: another frame would cost each idle stream 200 bytes.
        """
        if self._busy:
            self._check_idle()
        cursor = self._cursor
        while True:
            if self._seen != self._set.generation or self._max_lag is not None:
                self._raise_if_ended(ended)
            if cursor.page:
                event = cursor.page.pop()
                cursor.last_id = event.id  # keeps I3
                cursor.counters.yielded += 1
                return event
            streams = self._streams
            if streams is not None and cursor.state is LIVE:
                index = cursor.index
                if index == streams.end:
                    self.slot = len(streams.waiting)
                    streams.waiting.append(self)  # keeps I4
                    self._busy = True
                    try:
                        await self.waiter  # type: ignore[misc]  # a live stream has one
                    except BaseException as error:
                        if isinstance(error, Exception):  # an event loop refuses the waiter of another one
                            self._source.guard.check()
                        self._interrupted()
                        raise
                    finally:
                        self._busy = False
                        if streams.waiting:
                            streams.leave(self)  # unless it has just been woken
                    continue
                if index >= streams.oldest:
                    event = streams.events[index - streams.end]
                    if event.prev == cursor.last_id and event.id and not streams.volatile:  # nearly every offer
                        cursor.index = index + 1  # keeps I3
                        cursor.last_id = event.id
                        cursor.counters.yielded += 1
                        if self._source.observe is not None:
                            self._source.observe(event)
                        return event
                    if not event.id and event is not RESYNC and not streams.volatile:
                        cursor.pass_ephemeral()
                        cursor.counters.yielded += 1
                        if self._source.observe is not None:
                            self._source.observe(event)
                        return event
                taken = cursor.take(streams)
                if taken is not None:
                    cursor.counters.yielded += 1
                    if self._source.observe is not None:
                        self._source.observe(taken)
                    return taken
            if cursor.state is not LIVE:
                await self._advance()

    def next_nowait(self) -> Event | None:
        """Return the next event of the page in hand or of the ring; see `notify.abc.Interruptible`."""
        if self._busy:
            self._check_idle()
        cursor, streams = self._cursor, self._streams
        page = cursor.page
        if not page and (streams is None or streams.end == cursor.index):  # as after nearly every event
            return None
        if self._seen != self._set.generation or self._max_lag is not None:
            return None
        if page:
            event = page.pop()
            if not page:
                cursor.page = None
            cursor.last_id = event.id  # keeps I3
        elif streams is None or cursor.state is not LIVE:
            return None
        else:
            taken = cursor.take(streams)
            if taken is None:
                return None
            event = taken
            if self._source.observe is not None:
                self._source.observe(event)
        cursor.counters.yielded += 1
        return event

    def _enter_nowait(self) -> bool:
        """Do what `_advance` does, in one step: without a coroutine, for a store that answers at once."""
        cursor = self._cursor
        if self._source.immediate is None or cursor.state is not NEW:
            return False
        if self._streams is None:
            self._attach()
        if self._streams is None or not self._set.is_ready(self.user, self._track):
            return False
        cursor.state = BEHIND  # nothing can have ended it since `__aenter__` has looked
        self._source.request(self)
        if self._prefetched is not None:
            self._accept(*self._prefetched)
        return cursor.opened

    async def _enter(self) -> None:
        while self._streams is None or not self._cursor.opened:
            await self._advance()
            if self._seen != self._set.generation or self._max_lag is not None:
                self._raise_if_ended(ClosedError)

    def _take_at_once(self) -> Event | None:
        """Return the next event that this process knows of, or that an immediate store finds.

        It does not wait for presence and router either: until they are ready, the stream relies on the log.
        """
        cursor = self._cursor
        has_looked = self._source.immediate is None
        while True:
            if cursor.state is NEW:
                if self._streams is None:
                    self._raise_if_ended(ClosedError)
                    self._attach()
                self._opened()
            self._raise_if_ended(ClosedError)
            if cursor.page:
                event = cursor.page.pop()
                cursor.last_id = event.id  # keeps I3
                return event
            streams = self._streams
            assert streams is not None  # what leads to an end was asked above
            if cursor.state is LIVE:
                taken = cursor.take(streams)
                if taken is not None and self._source.observe is not None:
                    self._source.observe(taken)
                if taken is not None or (has_looked and self.synced):
                    return taken
                cursor.state, has_looked = BEHIND, True
            if cursor.state is BEHIND:
                self._raise_failure()
                self._source.request(self)
            if self._prefetched is not None:
                self._accept(*self._prefetched)
            elif cursor.state is READING:
                return None

    def __repr__(self) -> str:
        state = "closed" if self.is_over else self._cursor.state.value
        return f"<Subscription user={self.user!r} last_id={self.last_id!r} {state}>"

    # -- opening and reading -------------------------------------------------------------------------------------

    async def _advance(self) -> None:
        """Do one step towards having something to yield: open, read a page, or wait for the page."""
        if self._busy or self.waiter is not None:
            self._check_idle()
        self._busy = True
        self._abandoned = False
        cursor = self._cursor
        was_open = cursor.opened
        try:
            if cursor.state is NEW:  # attached first, then the log is read: in this order no event is missed
                if self._streams is None:
                    self._attach()
                if self._streams is not None and not self._set.is_ready(self.user, self._track):
                    await self._wait_until_ready()
                self._opened()
            is_over = self._seen != self._set.generation and self.is_over
            if cursor.state is BEHIND and self._failure is None and self._streams is not None and not is_over:
                if not cursor.page:  # attached again with a page in hand: that comes first
                    self._source.request(self)
            if self._prefetched is not None:  # the usual case with a store that answers at once
                self._accept(*self._prefetched)
            elif cursor.state is READING:
                await self._receive_page()
            if cursor.state is BEHIND and cursor.page and self._source.immediate is None:
                self._source.request(self)  # reads the next page while this one is handed out
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
        if self._failure is not None:
            self._raise_failure()

    def _raise_failure(self) -> None:
        """Raise the error of a read that failed before the stream was open."""
        failure = self._failure
        if failure is not None and not self._cursor.opened and self._streams is not None:
            self._failure = None
            self._detach()
            raise failure

    # -- ending --------------------------------------------------------------------------------------------------

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
