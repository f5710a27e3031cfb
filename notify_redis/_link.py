"""One connection that any number of tasks share: what they send goes out together, in one piece for each caller.

A caller hands over packed commands and waits for a future; it never touches the connection, so cancelling it abandons
the wait and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel
from redis.exceptions import RedisError, ResponseError

from notify import Background, ClosedError

from ._connection import Wire, ask, hang_up, pack, read
from ._errors import FAILURES, NoAnswerError, NotSentError
from ._scripts import SCRIPTS

logger = logging.getLogger("notify")

REPLIES_PER_YIELD: Final = 64
"""Replies taken from one read of the socket before others may run."""

EVIDENCE: Final = 3.0
"""Seconds after which a connection that failed says nothing about the next one any more."""


class Call:
    """Commands of one caller, and what was answered so far."""

    __slots__ = ("answer", "commands", "count", "epoch", "replies")

    def __init__(
        self, commands: bytes, count: int, answer: asyncio.Future[list[Any]], epoch: int | None = None
    ) -> None:
        self.epoch = epoch
        self.commands = commands
        self.count = count
        self.answer = answer
        self.replies: list[Any] = []

    def fail(self, error: Exception) -> None:
        """Tell the caller, if it still waits."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Link:
    """A pipelined connection, made at first need and again after it broke.

    Invariants:
        I1. A call is in `_outbox` until the moment its bytes are handed to the driver, in `_sent` from then on until
            its last reply: so "not sent" and "no answer" are told apart.
        I2. Replies come in the order of `_sent`; after any doubt about that the connection is dropped.

    Args:
        connect: returns a new connection.
        background: whose task serves it.
        prepare: called with each new connection before it is used.

    Attributes:
        epoch: how many connections there were.
        ahead: this server's clock minus ours, in milliseconds; never too large.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Wire]],
        background: Background,
        *,
        prepare: Callable[[Wire], Awaitable[None]] | None = None,
    ) -> None:
        self._connect = connect
        self._background = background
        self._prepare = prepare
        self._outbox: deque[Call] = deque()
        self._sent: deque[Call] = deque()
        self._ready: asyncio.Event | None = None
        self._hopeful: list[asyncio.Future[None]] = []
        self._serving = self._dropped = False
        self._scope: anyio.CancelScope | None = None
        self._last_reply = 0.0
        self._down_since = self._failed_at = 0.0
        self.epoch = 0
        self.ahead = 0.0

    async def connected(self, timeout: float) -> int:
        """Wait until there is a connection and return its epoch.

        Raises:
            NotSentError: it could not be made in time.
            ClosedError: the owner is closed.
        """
        if self._ready is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._hopeful.append(waiter)
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
            NoAnswerError: the connection broke, or nothing came in time.
            ClosedError: the owner is closed.
        """
        call = Call(b"".join(commands), len(commands), asyncio.get_running_loop().create_future(), epoch)
        self._outbox.append(call)
        try:
            self._start()
            with anyio.move_on_after(timeout):
                return await call.answer
        finally:
            if not call.answer.done():
                call.answer.cancel()
            unsent = call in self._outbox
            if unsent:
                self._outbox.remove(call)
        if unsent:
            raise NotSentError(f"not connected within {timeout:.1f} s")
        if time.monotonic() - self._last_reply >= timeout * 0.9:
            self.drop()  # nobody had an answer: it hangs
        raise NoAnswerError(f"no answer within {timeout:.1f} s")

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
        """Have the connection made, or what is new in the outbox sent."""
        if self._ready is not None:
            self._ready.set()
        elif not self._serving:
            self._serving = True
            try:
                self._background.start(self._serve)
            except ClosedError:
                self._serving = False
                raise

    def drop(self) -> None:
        """Break the connection off; the next call makes another one."""
        if self._scope is not None:
            self._ready = None  # what is asked from now on waits for the next connection
            self._dropped = True
            self._scope.cancel()

    async def _serve(self) -> None:
        """Connect, send and read until the connection breaks."""
        wire: Wire | None = None
        ready = False
        failure: Exception = NotSentError("the connection was dropped")
        try:
            with anyio.CancelScope() as self._scope:
                try:
                    wire = await self._connect()
                    await self._load(wire)
                    if self._prepare is not None:
                        await self._prepare(wire)
                    self.epoch += 1
                    self._down_since = 0.0
                    ready = True
                    self._ready = asyncio.Event()
                    self._tell_hopeful(None)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._read, wire, tasks.cancel_scope)
                        await self._write(wire, self._ready)
                        tasks.cancel_scope.cancel()
                except* (RedisError, OSError, *FAILURES) as group:
                    failure = first_of(group)
        finally:
            if not ready:
                self._failed_at = time.monotonic()
                self._down_since = self._down_since or self._failed_at
            self._serving = False
            self._scope = self._ready = None
            sent, self._sent = self._sent, deque()
            for call in sent:
                error = NoAnswerError(f"the connection broke before the answer: {failure}")
                error.__cause__ = failure
                call.fail(error)
            if self._dropped and not self._background.closed and (self._outbox or self._hopeful):
                self._start()
            else:
                self._refuse(failure)
            self._dropped = False
            if wire is not None:
                await hang_up(wire)

    def _refuse(self, failure: Exception) -> None:
        """Tell everybody who waits for a connection that there is none."""
        self._tell_hopeful(failure)
        unsent, self._outbox = self._outbox, deque()
        for call in unsent:
            refusal = NotSentError(str(failure))
            refusal.__cause__ = failure.__cause__ or failure
            call.fail(refusal)

    async def _load(self, wire: Wire) -> None:
        """Load the scripts and look at the server's clock."""
        with anyio.fail_after(5.0):
            replies = await ask(wire, pack(b"TIME"), *(pack(b"SCRIPT", b"LOAD", each.source) for each in SCRIPTS))
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise NotSentError(f"the server refuses what is needed: {reply}") from reply
        seconds, micros = replies[0]
        self.calibrate(int(seconds) * 1000 + int(micros) // 1000)

    def calibrate(self, server_ms: float) -> None:
        """Note the server's time, which it told some time before now: so `ahead` errs to the small side."""
        self.ahead = server_ms - time.monotonic() * 1000

    async def _write(self, wire: Wire, ready: asyncio.Event) -> None:
        while True:
            outbox = self._outbox
            if outbox:
                if not self._sent:
                    self._last_reply = time.monotonic()
                pieces = [call.commands for call in outbox if self._may_go(call)]
                self._sent.extend(call for call in outbox if not call.answer.done())  # keeps I1
                outbox.clear()
                if pieces:
                    await wire.send_packed_command(b"".join(pieces), check_health=False)
            ready.clear()
            if not self._outbox:
                await ready.wait()

    def _may_go(self, call: Call) -> bool:
        if call.epoch not in (None, self.epoch):
            call.fail(NotSentError("the connection is another one by now"))
        return not call.answer.done()

    def _tell_hopeful(self, failure: Exception | None) -> None:
        hopeful, self._hopeful = self._hopeful, []
        for waiter in hopeful:
            if waiter.done():
                continue
            if failure is None:
                waiter.set_result(None)
            else:
                error = NotSentError(str(failure))
                error.__cause__ = failure
                waiter.set_exception(error)

    async def _read(self, wire: Wire, scope: anyio.CancelScope) -> None:
        sent, since_yield = self._sent, 0
        while True:
            try:
                reply = await read(wire)
            except ResponseError as error:
                reply = error
            if not sent:
                raise NoAnswerError("the server answered what nobody asked")
            self._last_reply = time.monotonic()
            call = sent[0]
            call.replies.append(reply)
            if len(call.replies) == call.count:
                sent.popleft()  # keeps I2
                if not call.answer.done():
                    call.answer.set_result(call.replies)
            since_yield += 1
            if since_yield >= REPLIES_PER_YIELD:
                since_yield = 0
                await anyio.lowlevel.checkpoint()


def first_of(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first exception in a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
