"""One connection that any number of tasks share: commands go out as they come, and replies arrive in the same order.

It is longer than other modules, because sending, timeouts and the life of the connection share one state.

A caller hands over packed commands and gets their replies. It never touches the connection itself, so cancelling a
caller abandons its wait and nothing else: no command is ever half sent.

| State        | Event                                         | Next                                               |
|--------------|-----------------------------------------------|----------------------------------------------------|
| idle         | a request, or `connected`                     | connecting                                         |
| connecting   | connected, scripts loaded, settings checked   | connected: waiting requests are sent               |
| connecting   | refused, or no connection in time             | idle: waiting requests fail with NotSentError      |
| connected    | the connection breaks                         | idle: sent requests fail with NoAnswerError        |
| connected    | no reply for as long as a request may take    | dropped                                            |
| dropped      | requests wait, or have arrived since          | connecting                                         |

The next request connects again. While the server cannot be reached, a timer does so too, so that calls which fail at
once (`_reach`) do not have to find out when it is back. The callers that repeat requests (`_retry`, `RedisClient.ask`)
back off.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias

import anyio
import anyio.lowlevel
from redis.exceptions import RedisError, ResponseError

from notify.adapters import Background, backoff
from notify.errors import ClosedError

from ._connection import Connection, Replies, ask, hang_up, pack, transmitter
from ._errors import FAILURES, BugError, NoAnswerError, NotSentError, bug, not_sent, phrase, refused
from ._reach import Reach, reach_of
from ._scripts import SCRIPTS

REPLIES_PER_YIELD: Final = 64
"""Replies taken from one read of the socket before other tasks may run."""

RECONNECT_DELAY: Final = 1.0
"""Seconds at most between two attempts to connect in the background."""

SETUP_TIMEOUT: Final = 5.0
"""Seconds for loading the scripts on a new connection."""

MIN_TIMEOUT: Final = 0.02
"""Seconds below which a request is not repeated: its timeout would only turn a known failure into an unknown one."""

LATE: Final = 0.2
"""Seconds by which a timer may be late before the event loop, and not the server, is to blame for missing replies."""

MIN_SILENCE: Final = 0.5
"""Seconds without any reply before a connection may count as frozen, however little time a request had left."""

GRACE: Final = 0.03
"""Seconds that a call to an unreachable server takes at most: enough to see that it is back."""

OnReplies: TypeAlias = Callable[[list[Any] | Exception], None]
"""Takes the replies, each a value or a ResponseError; or NotSentError or NoAnswerError. Neither waits nor raises."""


class PipelinedRequest:
    """Packed commands of one caller, and the replies received so far.

    Args:
        commands: joined.
        count: how many commands, hence replies.
        on_replies: called once with the outcome.
        timeout: seconds until the request has failed.
        epoch: send it over this connection or not at all.

    Attributes:
        due: when it has failed, by the monotonic clock.
        on_replies: None once it was called, or once the caller has gone.
    """

    __slots__ = ("commands", "count", "due", "epoch", "on_replies", "replies", "timeout")

    def __init__(
        self, commands: bytes, count: int, on_replies: OnReplies, timeout: float, epoch: int | None = None
    ) -> None:
        self.commands = commands
        self.count = count
        self.on_replies: OnReplies | None = on_replies
        self.timeout = max(0.0, timeout)
        self.due = time.monotonic() + self.timeout
        self.epoch = epoch
        self.replies: list[Any] = []

    def finish(self, outcome: list[Any] | Exception) -> None:
        """Report the outcome, unless that was done before or the caller has gone."""
        on_replies, self.on_replies = self.on_replies, None
        if on_replies is not None:
            on_replies(outcome)


class PipelinedConnection:
    """A connection to one node, shared by all requests, with the states above.

    Invariants:
        I1. A request is in `_outbox` until its bytes are handed to the transport, and in `_sent` from then until its
            last reply: so "not sent" and "no answer" are distinguished.
        I2. Replies arrive in the order of `_sent`; after any doubt about that the connection is dropped.

    Args:
        connect: returns a new connection.
        background: runs the task that connects and reads.
        prepare: called with each new connection before it is used.
        owner: the part's name, for messages.
        server: names the server, for `reach_of`.

    Attributes:
        reach: whether the server can be reached.
        failure: why the latest connection ended, or could not be made.
        epoch: how many connections there were.
        ahead: the server's clock minus ours, in milliseconds; never too large.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        background: Background,
        *,
        prepare: Callable[[Connection], Awaitable[None]],
        owner: str = "notify_redis",
        server: str = "",
    ) -> None:
        self.reach = reach_of(server) if server else Reach()
        self._refusal = Reach()  # of this login, which says nothing about others
        self._delays = self._new_delays()
        self._retry: asyncio.TimerHandle | None = None
        self._is_retired = False
        self._connect = connect
        self._owner = owner
        self._server = server
        self._background = background
        self._prepare = prepare
        self._outbox: deque[PipelinedRequest] = deque()
        self._sent: deque[PipelinedRequest] = deque()
        self._transmit: Callable[[bytes], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._was_late = False
        self._waiting: list[asyncio.Future[None]] = []
        self._serving = self._dropped = False
        self._scope: anyio.CancelScope | None = None
        self._last_reply = 0.0
        self.failure: Exception = NotSentError("the connection was dropped")
        self.epoch = 0
        self.ahead = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, so that a request posted now is sent now, to a server that may answer."""
        return self._transmit is not None and not self.reach.is_down

    async def connected(self, timeout: float) -> int:
        """Wait until there is a connection and return its epoch.

        Raises:
            NotSentError: there was none in time.
            RefusedError: the server refused it.
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

    def down_for(self) -> float:
        """Return for how many seconds connecting has failed, as far as is known; start another attempt if it has."""
        seconds = max(self.reach.down_for(), self._refusal.down_for())
        if seconds:
            self._start()
        return seconds

    async def check_reach(self) -> None:
        """Fail within GRACE if the server is known to be unreachable; if it answers in that time, it is reachable.

        Raises:
            NotSentError: it is.
        """
        if not self.reach.is_down:
            return
        with suppress(*FAILURES):
            await self.call([pack(b"PING")], GRACE)
        if self.reach.is_down:
            seconds = self.reach.down_for()
            raise not_sent(f"no connection for {seconds:.1f} s: {phrase(self.cause)}", self.cause)

    @property
    def cause(self) -> Exception:
        """Why the server cannot be reached, as far as is known."""
        return (self.reach.failure if self.reach.is_down else None) or self.failure

    # -- sending -------------------------------------------------------------------------------------------------

    async def call(self, commands: Sequence[bytes], timeout: float, *, epoch: int | None = None) -> list[Any]:
        """Send packed commands and return their replies, each a value or a ResponseError.

        Args:
            commands: what to send.
            timeout: seconds to wait at most.
            epoch: send them over this connection or not at all.

        Raises:
            NotSentError: there was no connection in time, or it is another one by now.
            RefusedError: the server refused the connection.
            NoAnswerError: the connection broke, or no reply came in time.
            ClosedError: the owner is closed.
        """
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        request = PipelinedRequest(b"".join(commands), len(commands), partial(_resolve, answer), timeout, epoch)
        self.post(request)
        try:
            return await answer
        finally:
            request.on_replies = None
            if request in self._outbox:
                self._outbox.remove(request)

    def post(self, request: PipelinedRequest) -> None:
        """Send a request at once, or as soon as there is a connection. Never waits.

        Raises:
            ClosedError: the owner is closed.
        """
        self._outbox.append(request)
        try:
            self._start()
        except ClosedError:  # pragma: no cover - closed since the caller looked
            self._outbox.remove(request)
            raise
        if self._timer is None or request.due < self._timer_due:
            self._set_timer(request.due)

    async def reload(self, timeout: float) -> None:
        """Load the scripts again, after the server has lost them.

        Raises:
            NotSentError, NoAnswerError, ClosedError: as `call`.
        """
        await self.call([pack(b"SCRIPT", b"LOAD", each.source) for each in SCRIPTS], timeout)

    def _start(self) -> None:
        """Send what is in the outbox, or start connecting."""
        if self._transmit is not None:
            self._flush(self._transmit)
        elif not self._serving:
            self._serving = True
            try:
                self._background.start(self._serve)
            except ClosedError:  # pragma: no cover - closed since the caller looked
                self._serving = False
                raise

    def _flush(self, transmit: Callable[[bytes], None]) -> None:
        """Hand the outbox to the transport, in one piece."""
        outbox, self._outbox = self._outbox, deque()
        if not self._sent:
            self._last_reply = time.monotonic()
        requests = [request for request in outbox if self._may_send(request)]
        if requests:
            self._sent.extend(requests)  # keeps I1
            transmit(requests[0].commands if len(requests) == 1 else b"".join([each.commands for each in requests]))

    def _may_send(self, request: PipelinedRequest) -> bool:
        if request.epoch not in (None, self.epoch):
            request.finish(NotSentError("the connection is another one by now"))
        return request.on_replies is not None

    # -- timeouts: one timer for all requests --------------------------------------------------------------------

    def _set_timer(self, due: float) -> None:
        self._cancel_timer()
        self._timer_due = due
        self._timer = asyncio.get_running_loop().call_later(due - time.monotonic(), self._time_out)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        """Fail the requests that are due. A connection without any reply for nearly as long is frozen: drop it."""
        self._timer = None
        now = time.monotonic() + 0.001  # timers may be that early
        if now - self._timer_due > LATE and not self._was_late:  # this process was busy: replies may be waiting here
            self._was_late = True
            self._set_timer(now + LATE)
            return
        self._was_late = False
        is_frozen = False
        for request in [each for each in self._outbox if each.due <= now]:
            self._outbox.remove(request)
            request.finish(NotSentError("not connected in time"))
        for request in [each for each in self._sent if each.due <= now and each.on_replies is not None]:
            is_frozen = is_frozen or now - self._last_reply >= max(request.timeout * 0.9, MIN_SILENCE)
            request.finish(NoAnswerError("no answer in time"))
        if is_frozen:
            self.reach.failed(NoAnswerError(f"{self._server or 'the server'} does not answer"), self._last_reply)
            self.drop()
        waiting = [each.due for each in (*self._outbox, *self._sent) if each.on_replies is not None]
        if waiting and self._timer is None:
            self._set_timer(min(waiting))

    def drop(self) -> None:
        """Disconnect; the next request connects again."""
        if self._scope is not None:
            self._transmit = None  # requests from now on wait for the next connection
            self._dropped = True
            self._scope.cancel()

    def retire(self) -> None:
        """Disconnect from a node that is no longer a master: only a request connects again."""
        self._is_retired = True
        self.drop()

    # -- one connection ------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Connect, and read until the connection breaks or is dropped."""
        connection: Connection | None = None
        ready = False
        failure: Exception = NotSentError("the connection was dropped")
        began = time.monotonic()
        try:
            with anyio.CancelScope() as self._scope:
                try:
                    connection = await self._connect()
                    await self._set_up(connection)
                    self.epoch += 1
                    ready = True
                    self._reached()
                    self._transmit = transmitter(connection)
                    self._resolve_waiting(None)
                    self._start()
                    await self._read(Replies(connection))
                except (RedisError, OSError, *FAILURES) as error:
                    failure = error
                except Exception as error:
                    failure = bug(error, self._owner)
                if not ready:
                    (self._refusal if refused(failure) else self.reach).failed(failure, began)
        finally:
            self._disconnected(failure)
            if connection is not None:
                await hang_up(connection)

    def _disconnected(self, failure: Exception) -> None:
        """Fail the sent requests. If `drop` caused this, connect again for the waiting ones, else fail them too."""
        self.failure = failure
        self._serving = False
        self._scope = self._transmit = None
        reconnect = self._dropped and not self._background.closed and bool(self._outbox or self._waiting)
        self._dropped = False
        sent, self._sent = self._sent, deque()
        if reconnect:
            self._start()
        else:
            self._resolve_waiting(failure)
            unsent, self._outbox = self._outbox, deque()
            for request in unsent:
                request.finish(not_sent(phrase(failure), failure))
            if self.reach.is_failing and not refused(failure):
                self._connect_later()
        if not self._outbox:
            self._cancel_timer()
        for request in sent:
            text = phrase(failure)
            broken = NoAnswerError(text if isinstance(failure, BugError) else f"the connection broke: {text}")
            broken.__cause__ = failure.__cause__ if isinstance(failure, BugError) else failure
            request.finish(broken)

    def _reached(self) -> None:
        self.reach.succeeded()
        self._refusal.succeeded()
        self._delays = self._new_delays()

    @staticmethod
    def _new_delays() -> Iterator[float]:
        return backoff(random.random, first=0.1, limit=RECONNECT_DELAY)

    def _connect_later(self) -> None:
        """Try again in the background, until the owner is closed or the node is no longer a master."""
        if self._retry is None and not self._background.closed and not self._is_retired:
            self._retry = asyncio.get_running_loop().call_later(next(self._delays), self._connect_again)

    def _connect_again(self) -> None:
        self._retry = None
        if not self._background.closed and not self._is_retired:
            self._start()

    async def _set_up(self, connection: Connection) -> None:
        """Load the scripts, read the server's clock, and prepare."""
        with anyio.fail_after(SETUP_TIMEOUT):
            replies = await ask(connection, pack(b"TIME"), *(pack(b"SCRIPT", b"LOAD", each.source) for each in SCRIPTS))
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise not_sent(f"the server refuses a command that is needed: {phrase(reply)}", reply)
        seconds, micros = replies[0]
        self.calibrate(int(seconds) * 1000 + int(micros) // 1000)
        await self._prepare(connection)

    def calibrate(self, server_ms: float) -> None:
        """Note the server's time. It was read a moment ago, so `ahead` errs towards too small."""
        self.ahead = server_ms - time.monotonic() * 1000

    def _resolve_waiting(self, failure: Exception | None) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if waiter.done():
                continue
            if failure is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(not_sent(phrase(failure), failure))

    async def _read(self, replies: Replies) -> None:
        sent, since_yield = self._sent, 0
        while True:
            received = await replies.take()
            self._last_reply = time.monotonic()
            if self.reach.is_failing:
                self.reach.succeeded()
            for reply in received:
                if not sent:  # pragma: no cover - I2 in doubt; no server is known to do this
                    raise NoAnswerError("the server sent a reply that was not asked for")
                request = sent[0]
                request.replies.append(reply)
                if len(request.replies) == request.count:
                    sent.popleft()  # keeps I2
                    request.finish(request.replies)
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
