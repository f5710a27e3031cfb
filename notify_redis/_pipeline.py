"""One connection that any number of tasks share: what they send goes out together, in one piece for each caller.

A caller hands over packed commands and is told their replies; it never touches the connection, so cancelling it
abandons the wait and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import anyio
import anyio.lowlevel
from redis.exceptions import RedisError, ResponseError

from notify.adapters import Background
from notify.errors import ClosedError

from ._connection import Connection, Replies, ask, hang_up, pack, transmitter
from ._errors import FAILURES, NoAnswerError, NotSentError, not_sent
from ._scripts import SCRIPTS

logger = logging.getLogger("notify.redis")

REPLIES_PER_YIELD: Final = 64
"""Replies taken from one read of the socket before others may run."""

EVIDENCE: Final = 3.0
"""Seconds after which a connection that failed says nothing about the next one any more."""


Tell: TypeAlias = Callable[[list[Any] | Exception], None]
"""Takes the replies, each a value or a ResponseError, or NotSentError or NoAnswerError. Neither waits nor raises."""


class Request:
    """Commands of one caller, and what was answered so far.

    Attributes:
        timeout: seconds until the answer is given up.
        due: when that is, by the monotonic clock.
        tell: told once; None from then on.
    """

    __slots__ = ("commands", "count", "due", "epoch", "replies", "tell", "timeout")

    def __init__(self, commands: bytes, count: int, tell: Tell, timeout: float, epoch: int | None = None) -> None:
        self.epoch = epoch
        self.commands = commands
        self.count = count
        self.tell: Tell | None = tell
        self.timeout = max(0.0, timeout)
        self.due = time.monotonic() + self.timeout
        self.replies: list[Any] = []

    def end(self, outcome: list[Any] | Exception) -> None:
        """Tell the caller, unless it was told before or has gone."""
        tell, self.tell = self.tell, None
        if tell is not None:
            tell(outcome)


class PipelinedConnection:
    """A pipelined connection, made at first need and again after it broke.

    Invariants:
        I1. A call is in `_outbox` until the moment its bytes are handed to the transport, in `_sent` from then on until
            its last reply: so "not sent" and "no answer" are told apart.
        I2. Replies come in the order of `_sent`; after any doubt about that the connection is dropped.

    Args:
        connect: returns a new connection.
        background: whose task serves it.
        prepare: called with each new connection before it is used.

    Attributes:
        trouble: why the latest connection ended or could not be made.
        epoch: how many connections there were.
        ahead: this server's clock minus ours, in milliseconds; never too large.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        background: Background,
        *,
        prepare: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._connect = connect
        self._background = background
        self._prepare = prepare
        self._outbox: deque[Request] = deque()
        self._sent: deque[Request] = deque()
        self._transmit: Callable[[bytes], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watched = 0.0
        self._waiting: list[asyncio.Future[None]] = []
        self._serving = self._dropped = False
        self._scope: anyio.CancelScope | None = None
        self._last_reply = 0.0
        self._down_since = self._failed_at = 0.0
        self.trouble: Exception = NotSentError("the connection was dropped")
        self.epoch = 0
        self.ahead = 0.0

    async def connected(self, timeout: float) -> int:
        """Wait until there is a connection and return its epoch.

        Raises:
            NotSentError: it could not be made in time.
            RefusedError: the server does not let us in.
            ClosedError: the owner is closed.
        """
        if self._transmit is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            self._start()
            with anyio.move_on_after(timeout):
                await waiter
            if not waiter.done() or waiter.cancelled():
                raise NotSentError(f"not connected within {timeout:.1f} s")
        return self.epoch

    async def call(self, commands: Sequence[bytes], timeout: float, *, epoch: int | None = None) -> list[Any]:
        """Send packed commands and return their replies, each a value or a ResponseError.

        Args:
            commands: what to send.
            timeout: seconds to wait at most.
            epoch: send them over this connection or not at all.

        Raises:
            NotSentError: the connection could not be made in time, or is another one by now.
            RefusedError: the server does not let us in.
            NoAnswerError: the connection broke, or nothing came in time.
            ClosedError: the owner is closed.
        """
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        call = Request(b"".join(commands), len(commands), partial(_resolve, answer), timeout, epoch)
        self.post(call)
        try:
            return await answer
        finally:
            call.tell = None
            if call in self._outbox:
                self._outbox.remove(call)

    def post(self, call: Request) -> None:
        """Send a call at once, or as soon as there is a connection; it is told by its time. Never waits.

        Raises:
            ClosedError: the owner is closed.
        """
        self._outbox.append(call)
        try:
            self._start()
        except ClosedError:  # pragma: no cover - closed since the caller has looked
            self._outbox.remove(call)
            raise
        if self._timer is None or call.due < self._watched:
            self._watch(call.due)

    @property
    def is_up(self) -> bool:
        """Whether there is a connection: what is posted now is sent now."""
        return self._transmit is not None

    def down_for(self) -> float:
        """Return for how many seconds no connection can be made, as seen lately; have it tried again meanwhile."""
        now = time.monotonic()
        if not self._down_since or now - self._failed_at > EVIDENCE:
            return 0.0
        self._start()
        return now - self._down_since

    async def reload(self, timeout: float) -> None:
        """Load the scripts again, after the server has lost them.

        Raises:
            NotSentError, NoAnswerError, ClosedError: as `call`.
        """
        await self.call([pack(b"SCRIPT", b"LOAD", each.source) for each in SCRIPTS], timeout)

    def _start(self) -> None:
        """Send what is in the outbox, or have the connection made."""
        if self._transmit is not None:
            self._flush(self._transmit)
        elif not self._serving:
            self._serving = True
            try:
                self._background.start(self._serve)
            except ClosedError:  # pragma: no cover - closed since the caller has looked
                self._serving = False
                raise

    def _flush(self, transmit: Callable[[bytes], None]) -> None:
        """Hand the outbox over to the transport, in one piece."""
        outbox, self._outbox = self._outbox, deque()
        if not self._sent:
            self._last_reply = time.monotonic()
        calls = [call for call in outbox if self._may_go(call)]
        if calls:
            self._sent.extend(calls)  # keeps I1
            transmit(calls[0].commands if len(calls) == 1 else b"".join([call.commands for call in calls]))

    def _may_go(self, call: Request) -> bool:
        if call.epoch not in (None, self.epoch):
            call.end(NotSentError("the connection is another one by now"))
        return call.tell is not None

    def _watch(self, due: float) -> None:
        """See to it that calls are given up in time: one timer for all."""
        self._watch_no_more()
        self._watched = due
        self._timer = asyncio.get_running_loop().call_later(due - time.monotonic(), self._give_up)

    def _watch_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """Tell those whose time is over; a connection over which nothing came for long hangs."""
        self._timer = None
        now = time.monotonic() + 0.001  # timers may be that early
        hangs = False
        for call in [call for call in self._outbox if call.due <= now]:
            self._outbox.remove(call)
            call.end(NotSentError("not connected in time"))
        for call in [call for call in self._sent if call.due <= now and call.tell is not None]:
            hangs = hangs or now - self._last_reply >= call.timeout * 0.9
            call.end(NoAnswerError("no answer in time"))
        if hangs:
            self.drop()
        waiting = [call.due for call in (*self._outbox, *self._sent) if call.tell is not None]
        if waiting and self._timer is None:
            self._watch(min(waiting))

    def drop(self) -> None:
        """Break the connection off; the next call makes another one."""
        if self._scope is not None:
            self._transmit = None  # what is asked from now on waits for the next connection
            self._dropped = True
            self._scope.cancel()

    async def _serve(self) -> None:
        """Connect and read until the connection breaks."""
        connection: Connection | None = None
        ready = False
        failure: Exception = NotSentError("the connection was dropped")
        try:
            with anyio.CancelScope() as self._scope:
                try:
                    connection = await self._connect()
                    await self._load(connection)
                    await self._prepare(connection)
                    self.epoch += 1
                    self._down_since = 0.0
                    ready = True
                    self._transmit = transmitter(connection)
                    self._resolve_waiting(None)
                    self._start()
                    await self._read(Replies(connection))
                except (RedisError, OSError, *FAILURES) as error:
                    failure = error
        finally:
            if not ready:
                self._failed_at = time.monotonic()
                self._down_since = self._down_since or self._failed_at
            self.trouble = failure
            self._serving = False
            self._scope = self._transmit = None
            again = self._dropped and not self._background.closed and bool(self._outbox or self._waiting)
            self._dropped = False
            sent, self._sent = self._sent, deque()
            if again:
                self._start()
            else:
                self._refuse(failure)
            if not self._outbox:
                self._watch_no_more()
            for call in sent:
                broken = NoAnswerError(f"the connection broke before the answer: {failure}")
                broken.__cause__ = failure
                call.end(broken)
            if connection is not None:
                await hang_up(connection)

    def _refuse(self, failure: Exception) -> None:
        """Tell everybody who waits for a connection that there is none."""
        self._resolve_waiting(failure)
        unsent, self._outbox = self._outbox, deque()
        for call in unsent:
            call.end(not_sent(str(failure), failure))

    async def _load(self, connection: Connection) -> None:
        """Load the scripts and look at the server's clock."""
        with anyio.fail_after(5.0):
            replies = await ask(connection, pack(b"TIME"), *(pack(b"SCRIPT", b"LOAD", each.source) for each in SCRIPTS))
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise not_sent(f"the server refuses what is needed: {reply}", reply)
        seconds, micros = replies[0]
        self.calibrate(int(seconds) * 1000 + int(micros) // 1000)

    def calibrate(self, server_ms: float) -> None:
        """Note the server's time, which it told some time before now: so `ahead` errs to the small side."""
        self.ahead = server_ms - time.monotonic() * 1000

    def _resolve_waiting(self, failure: Exception | None) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if waiter.done():
                continue
            if failure is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(not_sent(str(failure), failure))

    async def _read(self, replies: Replies) -> None:
        sent, since_yield = self._sent, 0
        while True:
            came = await replies.take()
            self._last_reply = time.monotonic()
            for reply in came:
                if not sent:  # pragma: no cover - I2 in doubt: nothing is known that does this
                    raise NoAnswerError("the server answered what nobody asked")
                call = sent[0]
                call.replies.append(reply)
                if len(call.replies) == call.count:
                    sent.popleft()  # keeps I2
                    call.end(call.replies)
                since_yield += 1
                if since_yield >= REPLIES_PER_YIELD:
                    since_yield = 0
                    await anyio.lowlevel.checkpoint()


def _resolve(answer: asyncio.Future[list[Any]], outcome: list[Any] | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
