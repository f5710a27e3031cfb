"""The stream of several logs: one cursor for each, one waiter for all of them, and no task.

Until the replay of all logs is over, an event is yielded only if no log is pending: then the smallest id of the heap is
the next one of the merged replay. After that, events are yielded as they become available: logs that wait for a page
delay no other, and logs with live events take turns.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Generator
from heapq import heapify, heappop
from typing import Any

import anyio
import anyio.lowlevel

from .._runtime._waking import wake
from ..abc import Gap, Position
from ..errors import ClosedError, UsageError
from ..event import Event, check_user, plain
from . import _token
from ._cursor import CursorState, control
from ._merged_attachment import MergedAttachment
from ._merged_log import MergedLog
from ._position import Start, parse_position


class MergedSubscription(MergedAttachment):
    """One reader's path through several logs; see `notify.abc.MergedStream` for the promises.

    Invariants:
        I1, I2. As for `MergedAttachment`.
        I3. A log's cursor moves only in the synchronous step that returns its event.
    """

    __slots__ = ()

    # -- what the reader sees ------------------------------------------------------------------------------------

    @property
    def user(self) -> str:
        """The first of the users whose logs are read."""
        return next(iter(self._logs))

    @property
    def users(self) -> tuple[str, ...]:
        """The users whose logs are read, in the order in which they were named."""
        return tuple(self._logs)

    @property
    def last_id(self) -> str:
        """The resume token: a position for each log; a plain id if there is one log."""
        if len(self._logs) == 1:
            return next(iter(self._logs.values())).token
        return _token.encode(
            (user, _token.Place(log.token, log.start is Start.TIME))
            for user, log in self._logs.items()
            if log.start is not Start.NOW
        )

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The latest gaps that this stream has found, oldest first, at most 16."""
        return tuple(self._gaps)

    @property
    def dropped(self) -> int:
        """How many ephemeral events were lost because the reader was away and the buffer full."""
        logs = [*self._logs.values(), self._everyone]
        return self._dropped + sum(
            log.dropped + (0 if log.streams is None else log.missed(log.streams)) for log in logs
        )

    @property
    def synced(self) -> bool:
        """Whether the replay of all logs is over: what follows is live."""
        return self._synced

    async def __anext__(self, ended: type[Exception] = StopAsyncIteration) -> Event:
        """As `next()`, but a closed stream ends the loop."""
        self._check_idle()
        self._abandoned = False
        while True:
            if self._seen != self._set.generation or self._max_lag is not None:
                self._raise_if_ended(ended)
            if not self._yield_due:
                event = self._step()
                if event is not None:
                    self._set.counters.yielded += 1
                    return event
            await self._wait()

    def next_nowait(self) -> Event | None:
        """Return the next event that is in hand; see `notify.abc.Interruptible`."""
        self._check_idle()
        if self._yield_due or self._seen != self._set.generation or self._max_lag is not None:
            return None
        event = self._step()
        if event is not None:
            self._set.counters.yielded += 1
        return event

    def add(self, user: str, position: Position = None) -> Awaitable[None]:
        """Read one more log; see `notify.abc.MergedStream.add`."""
        if self._seen < 0 and not self.is_over:
            self._seen = -self._set.generation  # keeps I2: the interruption is for the reader
        else:
            self._raise_if_ended(ClosedError)
        check_user(user)
        user = plain(user)
        if user in self._logs:
            return _Fixed(None)
        if len(self._logs) >= _token.MAX_LOGS:
            raise UsageError(f"a stream reads at most {_token.MAX_LOGS} logs: remove one before adding {user!r}")
        self._source.guard.check()
        log = MergedLog(parse_position(position, user), self._set.counters, self._shared, signals=self._signals)
        self._logs[user] = log
        if not self._attached:
            return _Fixed(None)
        self._attach_log(user, log, streams=0)
        if self._begun:
            self._begin_log(log)
            wake(self.waiter)
        if log.start is not Start.NOW or not self._source.has_log:
            return _Fixed(None)
        fixed = anyio.Event()
        self._fixing.append(fixed)
        return _Fixed(fixed)

    def remove(self, user: str) -> Awaitable[None]:
        """Stop reading a log; see `notify.abc.MergedStream.remove`."""
        if user in self._logs:
            self._source.guard.check()
            if len(self._logs) == 1:
                raise UsageError(f"{user!r} is the only log of this stream: close the stream instead of removing it")
            log = self._logs.pop(user)
            if self._attached:
                self._heap = [entry for entry in self._heap if entry[3] is not log]
                heapify(self._heap)
                self._pending.pop(log, None)
                self._shared.arrived.pop(log, None)
                self._detach_log(user, log, streams=0)
                self._note_opened()
                wake(self.waiter)  # the replay may have waited for this log
            self._dropped += log.dropped
        return _Fixed(None)

    def __repr__(self) -> str:
        state = "closed" if self.is_over else "open" if self._attached else "not attached"
        return f"<MergedSubscription users={list(self._logs)!r:.80} last_id={self.last_id!r:.80} {state}>"

    # -- finding the next event ----------------------------------------------------------------------------------

    def _step(self) -> Event | None:
        """Return the next event that is there, if any."""
        if not self._begun:
            return None
        self._accept_arrived()
        if self._heap and (self._synced or not self._pending):
            return self._take_replayed()
        if not self._synced:
            if self._pending or not self._shared.opened:
                return None
            self._synced = True
            if self._signals:
                return control("", "notify.sync", self.last_id, self.last_id, {}, time.time_ns() // 1000)
        ready = self._shared.ready
        while ready:
            log = ready.popleft()
            if log.streams is None or log.state is not CursorState.LIVE:
                continue  # removed, or reading the log since
            event = log.take(log.streams)
            self._settle(log)
            if event is not None:
                if self._source.observe is not None:
                    self._source.observe(event)
                return event
        return None

    def _take_replayed(self) -> Event:
        log = heappop(self._heap)[3]
        assert log.page  # a log in the heap has a page in hand
        event = log.page.pop()
        log.last_id = event.id  # keeps I3
        self._settle(log)
        return event

    # -- waiting -------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Wait for the next step towards an event: the opening, a page, or an offer."""
        self._check_idle()
        self._busy = True
        self._abandoned = False
        try:
            if not self._begun:
                await self._open()
            elif self._yield_due:
                self._yield_due = False
                await anyio.lowlevel.checkpoint()
            else:
                assert self.waiter is not None  # by I2: it has begun, so it was attached
                await self.waiter
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._busy = False
        self._raise_failure()

    async def _enter(self) -> None:
        while not (self._begun and self._shared.opened):
            await self._wait()
            self._accept_arrived()
            self._raise_if_ended(ClosedError)

    def _take_at_once(self) -> Event | None:
        has_looked = self._source.immediate is None
        self._abandoned = False
        while True:
            self._raise_if_ended(ClosedError)
            if not self._attached:
                self._attach()
            self._raise_if_ended(ClosedError)
            if not self._begun:
                self._begin()
            event = self._step()
            self._raise_failure()
            if event is not None or (has_looked and not self._shared.arrived):
                return event
            if not self._pending and not has_looked:
                has_looked = True
                for log in self._logs.values():
                    if log.state is CursorState.LIVE:
                        self._begin_log(log)
            elif not any(log in self._pending for log in self._shared.arrived):
                return None

    # -- ending --------------------------------------------------------------------------------------------------

    def _raise_failure(self) -> None:
        """Raise the error of a read that failed before the stream was open."""
        failure = self._failure
        if failure is not None and not self._shared.opened and self._attached:
            self._failure = None
            self._detach()
            raise failure

    def _interrupted(self) -> None:
        """Detach after a bare `next` was cancelled, once reads in flight have arrived: each call makes progress."""
        if not self._attached or self._held:
            return
        if self._reading():
            self._abandoned = True
            return
        self._detach()

    def _lag(self, limit: int) -> int:
        if not (self._begun and self._synced):
            return 0
        logs = [*self._logs.values(), self._everyone]
        return sum(log.lag(log.streams, 0) for log in logs if log.streams is not None)


class _Fixed:
    """The result of `add` and `remove`, which take effect at once: awaiting it waits until the position is fixed."""

    __slots__ = ("_event",)

    def __init__(self, event: anyio.Event | None) -> None:
        self._event = event

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait."""
        if self._event is not None:
            yield from self._event.wait().__await__()
