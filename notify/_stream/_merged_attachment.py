"""A stream of several logs, as their live sides see it: attached, fed with pages, detached.

`MergedSubscription` adds what the reader sees. Each log is in exactly one place, so that finding the next
event costs the same however many logs there are:

| a log that | is in |
|---|---|
| is live and has read its ring | `UserStreams.waiting` of its user |
| is live and has entries to read | `Shared.ready` |
| has a page to yield from | `_heap`, by the id of its next event |
| needs a page | `_pending`; once the page is there, in `Shared.arrived` too |
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from heapq import heappush

import anyio

from .. import ids
from .._runtime._waking import wake
from ..abc import Gap, Position
from ..errors import UsageError
from ..event import check_user, plain
from ._base_stream import BaseStream, Source
from ._cursor import GAPS_KEPT, CursorState
from ._merged_log import MergedLog, Shared
from ._position import FROM_NOW, NOW, parse_positions
from ._stream_set import StreamSet
from ._token import MAX_LOGS


def check_users(users: Iterable[str]) -> list[str]:
    """Return the users of a stream of several logs, each once.

    Raises:
        InvalidEventError: one of them is not a user id.
        UsageError: there are none, or more than `MAX_LOGS`.
    """
    named: list[str] = []
    for user in users:
        check_user(user)
        named.append(plain(user))
    named = list(dict.fromkeys(named))
    if not 1 <= len(named) <= MAX_LOGS:
        raise UsageError(f"subscribe() takes 1 to {MAX_LOGS} users for one stream, not {len(named)}")
    return named


class MergedAttachment(BaseStream):
    """The part of a stream of several logs with which its logs work.

    Invariants:
        I1. As for `BaseStream`.
        I2. While `_attached`, every log is attached and, once `_begun`, in exactly one of the places above.
    """

    __slots__ = (
        "_abandoned",
        "_attached",
        "_begun",
        "_dropped",
        "_everyone",
        "_fixing",
        "_gaps",
        "_heap",
        "_logs",
        "_number",
        "_pending",
        "_shared",
        "_signals",
        "_synced",
        "_yield_due",
    )

    def __init__(
        self,
        source: Source,
        stream_set: StreamSet,
        users: list[str],
        position: Position,
        signals: bool = False,
        max_lag: int | None = None,
        track: bool = True,
        expires: float | None = None,
        since: int | None = None,
    ) -> None:
        self._attached = False  # first: the finaliser reads it even if the position is refused
        positions = parse_positions(position, users)
        super().__init__(source, stream_set, track, max_lag, expires, since)
        self._shared = Shared(self, source.everyone)
        self._signals = signals
        self._logs = {
            user: MergedLog(start, stream_set.counters, self._shared, signals=signals)
            for user, start in zip(users, positions, strict=True)
        }
        self._everyone = MergedLog(NOW, stream_set.counters, self._shared, signals=False)
        self._heap: list[tuple[int, int, int, MergedLog]] = []
        self._pending: dict[MergedLog, None] = {}
        self._number = 0
        self._gaps: deque[Gap] = deque(maxlen=GAPS_KEPT)
        self._dropped = 0  # by the logs that were removed
        self._fixing: list[anyio.Event] = []
        self._abandoned = False  # attached only until the reads in flight have fixed or advanced the cursors
        self._begun = False
        self._yield_due = False
        self._synced = not source.has_log

    # -- the places of the logs ----------------------------------------------------------------------------------

    def _settle(self, log: MergedLog) -> None:
        """Put a log where it belongs: keeps I2."""
        if log.page:
            self._number += 1
            heappush(self._heap, (*ids.parse(log.page[-1].id), self._number, log))
        elif log.state is not CursorState.LIVE:
            self._pending[log] = None
            if log.state is CursorState.BEHIND and not self._abandoned:
                self._source.request(log)
        elif log.streams is not None and log.index == log.streams.end:
            log.rest()
        else:
            self._shared.ready.append(log)

    def _accept_arrived(self) -> None:
        """Accept the pages that have arrived for logs that wait for one."""
        arrived = self._shared.arrived
        while arrived and self._pending:
            logs = [log for log in arrived if log in self._pending]
            if not logs:
                return
            for log in logs:
                self._accept(log)

    def _accept(self, log: MergedLog) -> None:
        page, reached_end, watermark = self._shared.arrived.pop(log)
        self._pending.pop(log, None)
        was_fixed = log.start is not FROM_NOW
        gap = log.accept(page, reached_end, watermark, log.user, time.time_ns() // 1000)
        if gap is not None:
            self._set.gap_log.note(gap, log.user, time.monotonic())
            self._gaps.append(replace(gap, user=log.user))
        self._yield_due = self._shared.opened and was_fixed  # lets other tasks run during a long replay
        if log.state is CursorState.BEHIND and log.page and not self._abandoned and self._source.immediate is None:
            self._source.request(log)  # reads the next page while this one is handed out
        self._settle(log)
        self._note_opened()

    def _note_opened(self) -> None:
        """Note whether the position of every log is fixed."""
        if not self._shared.opened:
            self._shared.opened = all(log.opened for log in self._logs.values())
        if self._fixing and all(log.start is not FROM_NOW for log in self._logs.values()):
            self._release_fixing()

    def _release_fixing(self) -> None:
        fixing, self._fixing = self._fixing, []
        for fixed in fixing:
            fixed.set()

    # -- opening -------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        if not self._attached:
            self._attach()
        if self._attached and not self._is_ready():
            # What starts from now on begins here, even if the reader is cancelled before presence and router are ready.
            for log in self._logs.values():
                if log.start is FROM_NOW and self._source.has_log and not log.is_reading:
                    self._begin_log(log)
            while self._pending and self._failure is None and not self._must_return:
                await self.waiter  # type: ignore[misc]  # an attached stream has one; a head is accepted as it arrives
            if self.is_attached and self._failure is None and not self._must_return:
                await self._until_ready(self._ready)
        if self._attached and self._failure is None and not self._must_return:
            self._begin()

    def _is_ready(self) -> bool:
        return all(self._set.is_ready(user, self._track) for user in self._logs)

    async def _ready(self) -> None:
        for user in list(self._logs):
            await self._set.ready(user, self._track)

    def _attach(self) -> None:
        """Attach to the live side: only then may the logs be read."""
        self._source.guard.check()
        self._watch_expiry()
        if self.is_over:
            return
        self.waiter = self._shared.waiter = self._source.guard.new_waiter()
        self._set.opening()
        self._attached = True
        for number, (user, log) in enumerate(self._logs.items()):
            self._attach_log(user, log, streams=not number)
        everyone = self._everyone
        everyone.streams = self._source.everyone
        everyone.streams.streams += 1
        everyone.attach(everyone.streams)
        everyone.state = CursorState.LIVE
        everyone.rest()

    def _attach_log(self, user: str, log: MergedLog, *, streams: int) -> None:
        log.streams = self._source.attach(user)
        self._source.merged_logs += 1
        log.attach(log.streams)
        self._set.attached(user, self._track, streams)

    def _begin(self) -> None:
        """Begin to read, or continue after the pages that have arrived."""
        self._begun = True
        for log in list(self._logs.values()):
            self._begin_log(log)
        self._note_opened()

    def _begin_log(self, log: MergedLog) -> None:
        if log.streams is None or log in self._pending:
            return
        log.streams.leave(log)
        if log in self._shared.ready:
            self._shared.ready.remove(log)
        if self._source.has_log:
            log.state = CursorState.BEHIND
        else:
            log.state = CursorState.LIVE
            log.open()
        self._settle(log)

    # -- for its logs: `Owner` -----------------------------------------------------------------------------------

    def page_arrived(self, log: MergedLog) -> None:
        """Wake the reader; a head fixes the position of its log at once, whether or not there is a reader."""
        if log.start is FROM_NOW:
            self._accept(log)
        if not self._abandoned:
            wake(self.waiter)
        elif not self._reading():
            self._detach()

    def read_failed(self, log: MergedLog, error: Exception) -> None:
        """Note that a read has failed: with any error before the stream has opened, later only with a final one."""
        if self._abandoned:
            self._detach()
            return
        self._failure = error
        if self._shared.opened:
            self._close()
            return
        wake(self.waiter)

    def _reading(self) -> bool:
        """Whether a read is in flight that fixes or advances a cursor."""
        return any(log.is_reading and log not in self._shared.arrived for log in self._pending)

    # -- ending --------------------------------------------------------------------------------------------------

    @property
    def is_attached(self) -> bool:
        """Whether the stream counts as open."""
        return self._attached

    @property
    def _name(self) -> str:
        return ", ".join(map(repr, self._logs))

    def _detach(self) -> None:
        """Leave the live side: keeps I2. The logs keep the pages that have arrived."""
        self._abandoned = True  # so that nothing is requested
        self._accept_arrived()
        self._attached = self._begun = self._abandoned = False
        for number, (user, log) in enumerate(self._logs.items()):
            self._detach_log(user, log, streams=not number)
        everyone, self._everyone.streams = self._everyone.streams, None
        assert everyone is not None
        self._everyone.detach(everyone)
        everyone.leave(self._everyone)
        everyone.streams -= 1
        self._heap.clear()
        self._pending.clear()
        self._shared.arrived.clear()
        self._shared.ready.clear()
        self._release_fixing()

    def _detach_log(self, user: str, log: MergedLog, *, streams: int) -> None:
        left, log.streams = log.streams, None
        assert left is not None
        log.detach(left)
        left.leave(log)
        self._source.detach(left)
        self._source.merged_logs -= 1
        self._set.detached(user, self._track, streams)

    def _discard(self) -> None:
        for log in self._logs.values():
            log.discard()
        self._release_fixing()

    def _disconnection(self) -> str | None:
        reasons = (self._source.disconnection(user, abs(self._seen)) for user in self._logs)
        return next((reason for reason in reasons if reason is not None), None)
