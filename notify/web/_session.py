"""One connection's life, from opening to the reason of its end; longer than others, as each transport needs all of it.

A connection waits in `Session.next` alone, and during a replay in `Session.turn`. What ends or disturbs that wait comes
from outside: the ticker when a heartbeat or the end of the lifetime is due, `Closing` when the server shuts down,
`StreamLimits` when the user opens too many streams. Each of them notes why and interrupts both, so that the wait ends
without a timer, a task or a cancel scope for each connection. Only a connection that cannot be written to any more is
cancelled. All of this is in one module because whatever ends a connection has to know where the connection is waiting.

| reason | retry | why |
|---|---|---|
| `expired` | soon | the credentials have expired |
| `disconnected` | soon | `Notifier.disconnect`: a client that comes back by itself is refused |
| `shutdown` | soon | this process ends |
| `lifetime` | soon | the connection was open long enough: a client that is gone unnoticed is released |
| `replaced` | minutes | the user has opened more streams than allowed: soon would evict the next one |
| `overload` | half a minute | too many streams, the log cannot be read, or `authenticate` has failed |
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, Self, TypeAlias, cast

import anyio

from notify import BackendError, ClosedError, DisconnectedError, Event, InvalidEventIdError, Position, UsageError
from notify._asgi import Request, WebError

from . import _position
from ._admission import Admission, subscribed
from ._dialects import Dialect
from ._position import Asked
from ._site import Site
from ._ticker import NEVER
from ._translation import Translation

Reason: TypeAlias = Literal["expired", "disconnected", "shutdown", "replaced", "overload", "lifetime"]

REPLACED_RETRY: Final = (120.0, 300.0)
OVERLOAD_RETRY: Final = (15.0, 45.0)

MAX_QUEUE: Final = 60.0
"""Seconds that a connection waits for its turn to be opened, after a restart for example."""

LEAST_LIFETIME: Final = 0.8
LIFETIME_SPREAD: Final = 0.4
"""By which part of a lifetime the lifetimes differ, so that clients of one moment do not come back together."""


class Ended(Exception):
    """The connection is to end.

    Attributes:
        reason: why.
        retry: milliseconds after which the client should come back.
        mark: what the client is known by if it comes back after `disconnected`; otherwise empty.
        dialect: what its last frame is written in, if its clients know one.
    """

    def __init__(self, reason: Reason, retry: int, mark: str = "", dialect: Dialect | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry = retry
        self.mark = mark
        self.dialect = dialect

    @property
    def value(self) -> dict[str, Any]:
        """The data of the last frame, `notify.end`."""
        return {"reason": self.reason, "retry": self.retry}


def retry_of(site: Site, reason: Reason | None = None) -> int:
    """Return the milliseconds after which a client should reconnect, drawn at random, so that they are spread out.

    Args:
        site: the application.
        reason: why the connection ends; None for what the client is told at the beginning.
    """
    least, greatest = site.options.retry
    if reason is not None:
        if reason == "replaced":
            least, greatest = REPLACED_RETRY
        elif reason == "overload":
            least, greatest = OVERLOAD_RETRY
        elif reason == "shutdown":
            least, greatest = site.closing.returning(site.options.retry)
    return round(1000 * (least + (greatest - least) * random.random()))


def ended(site: Site, reason: Reason) -> Ended:
    """Return the end of a connection that has no session."""
    return Ended(reason, retry_of(site, reason), dialect=site.dialect)


def translation_of(site: Site, request: Request, asked: Asked, admission: Admission) -> Translation | None:
    """Return the dialect's frames for one connection; None if the application has no dialect."""
    if site.dialect is None:
        return None
    since = request.query.get("since", "")
    return Translation(site.dialect, asked.position, since, time.time(), len(admission.logs))


class Abortable(Protocol):
    """A connection that can be cancelled."""

    def abort(self) -> None:
        """Cancel it. Called from another task; never waits."""


class Session:
    """One stream for one client; a context manager.

    Raises:
        WebError: what the client asks for is unacceptable.
        Ended: the notifier is closed.

    Args:
        site: the application.
        admission: what is read, and for which client.
        position: where to start; one that is not a position is noted in `is_invalid`, and the stream starts from now.
        line: the connection, so that it can be cancelled; None for a request that is answered at once.
        counted: whether it counts against the limits.
        tells_sync: whether the caller tells the client itself that there is nothing to replay: then a stream of one log
            that starts from now does not yield `notify.sync`.

    Attributes:
        has_log: whether there is a log to resume from; otherwise the stream yields no `notify.sync`.
        is_from_now: whether the stream starts from now, and reads nothing but the end of its logs; False with an inbox,
            whose counts it reads too.
        is_invalid: whether the position that was asked for is not one.
        is_one_log: whether the stream reads one log for certain, so that its position is the id of the latest event.
        user: whose stream this is.
        slot: see `_ticker.Timed`.
        stream: its `next` may be awaited directly, without a frame between the task and the stream: what it raises is
            for `is_due`. Its `next_nowait` returns the next event if it is in hand.
        written: when bytes were last written, by the monotonic clock: a heartbeat is due `heartbeat` seconds later.
        sending: since when a send has been in progress; 0 if none is.
    """

    __slots__ = (
        "_counted",
        "_expires_at",
        "_is_open",
        "_line",
        "_login",
        "_reason",
        "_site",
        "_until",
        "_woken",
        "has_log",
        "is_from_now",
        "is_invalid",
        "is_one_log",
        "sending",
        "slot",
        "stream",
        "user",
        "written",
    )

    def __init__(
        self,
        site: Site,
        admission: Admission,
        position: Position,
        line: Abortable | None,
        *,
        counted: bool = True,
        tells_sync: bool = False,
    ) -> None:
        identity = admission.identity
        self._site = site
        self._line = line
        self._counted = counted
        self._reason: Reason | None = None
        self._is_open = self._woken = False
        self._expires_at = identity.expires_at
        self._login = admission.login
        self.user = identity.user
        self.slot = -1
        self.sending = 0.0
        self.written = time.monotonic()
        self._until = self.written + site.options.lifetime * (LEAST_LIFETIME + LIFETIME_SPREAD * random.random())
        self.has_log = site.has_log
        self.is_invalid = False
        self.is_from_now = not position and site.inbox is None
        try:
            try:
                self.stream = subscribed(site, admission, position or None)
            except InvalidEventIdError:
                self.is_invalid = True
                self.is_from_now = site.inbox is None
                self.stream = subscribed(site, admission, None)
        except ClosedError:
            raise ended(site, "shutdown") from None
        except UsageError as error:
            raise WebError(400, "bad_request", str(error)) from error
        self.is_one_log = len(admission.logs) == 1 and site.inbox is None
        if tells_sync and self.is_from_now and self.is_one_log:
            self.stream.omit_sync()

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def last_id(self) -> str:
        """The position of the stream; empty if there is no log."""
        return self.stream.last_id if self.has_log else ""

    async def next(self) -> Event | None:
        """Return the next event; None if a heartbeat is due, or after `wake`.

        Raises:
            Ended: the connection is to end.
        Cancellation: loses and repeats nothing.
        """
        while True:
            try:
                return await self.stream.next()
            except (TimeoutError, ClosedError, BackendError) as error:
                if self.is_due(error):
                    return None

    async def next_in_turn(self) -> Event | None:
        """Return the next event of a replay, as `next` does, in a turn.

        Raises:
            Ended: the connection is to end.
        Cancellation: loses and repeats nothing.
        """
        if not self._site.turns.take(self) and not await self.turn():
            return None
        try:
            return await self.next()
        finally:
            self._site.turns.release(self)

    async def turn(self) -> bool:
        """Wait for a turn to replay, which `Turns.release` ends; False if a heartbeat is due, or after `wake`.

        Raises:
            Ended: the connection is to end.
        """
        self._raise_if_stopped()
        while not await self._site.turns.acquire(self):
            self._raise_if_stopped()
            if self._takes_note():
                return False
        return True

    def is_due(self, error: Exception) -> bool:
        """Judge what the stream's `next` has raised: return whether a heartbeat is due, or `wake` was called.

        Raises:
            Ended: the connection is to end.
        """
        if not isinstance(error, TimeoutError):
            raise self._end_of(error) from None
        self._raise_if_stopped()
        return self._takes_note()

    def _raise_if_stopped(self) -> None:
        if self._reason is not None:
            raise self.ended(self._reason) from None

    def _takes_note(self) -> bool:
        is_due = self._woken or time.monotonic() >= self.written + self._site.options.heartbeat
        self._woken = False
        return is_due

    def wake(self) -> None:
        """Make `next` return None soon, for a task that has something else to do. Never waits."""
        if self._is_open:
            self._woken = True
            self._interrupt()

    def _interrupt(self) -> None:
        """End the wait in progress, or else the following one."""
        self._site.turns.interrupt(self)
        if self._is_open:  # opening it cannot be interrupted without ending it
            self.stream.interrupt()

    # -- ending --------------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """End the connection soon, for a `Reason`; the first one counts. Never waits."""
        if self._reason is None:
            self._reason = cast("Reason", reason)
            self._site.turns.interrupt(self)
            self.stream.interrupt()
            if self.sending and reason == "shutdown":  # a client that does not read is not waited for
                self._site.ticker.discard(self)
                self._site.ticker.add(self, self._patience())

    def shut_down(self) -> None:
        """End the connection soon because the server shuts down."""
        self.stop("shutdown")

    def ended(self, reason: Reason) -> Ended:
        """Return the end for this reason."""
        known_by = _position.mark(self._login, self.last_id) if reason == "disconnected" else ""
        return Ended(reason, retry_of(self._site, reason), known_by, self._site.dialect)

    def _end_of(self, error: Exception) -> Ended:
        if self._reason is not None:
            return self.ended(self._reason)
        if isinstance(error, DisconnectedError):
            expires_at = self._expires_at
            expired = expires_at is not None and expires_at <= datetime.now(UTC)
            return self.ended("expired" if expired else "disconnected")
        if isinstance(error, ClosedError) and not isinstance(error.__cause__, BackendError):
            return self.ended("shutdown")
        return self.ended("overload")

    def tick(self, now: float) -> float:
        """Do what is due; see `_ticker.Timed`."""
        options = self._site.options
        if self.sending:
            if now >= self._patience():
                assert self._line is not None  # only a connection that can be cancelled is sent to
                self._line.abort()
                return NEVER
            return min(self._patience(), now + min(options.heartbeat, options.lifetime) / 2)  # it may end any moment
        if now >= self._until:
            self.stop("lifetime")
            return now + options.send_timeout
        if now >= self.written + options.heartbeat:
            self._interrupt()
            return now + options.heartbeat / 2
        return min(self.written + options.heartbeat, self._until, now + options.send_timeout)

    def _patience(self) -> float:
        """Return until when the send in progress may last."""
        options = self._site.options
        seconds = options.send_timeout
        return self.sending + (min(seconds, options.drain) if self._reason == "shutdown" else seconds)

    # -- lifecycle -----------------------------------------------------------------------------------------------

    def enlist(self) -> bool:
        """Count the connection, and take a turn to open it in; return False if all turns are taken: then `line_up`.

        The stream reads its first page in its turn: thousands of pages read at once would fill the memory. A stream
        that starts from now reads no page, so it needs no turn, and a new page of the site does not wait for replays.

        Raises:
            Ended: there is no room, or the connection is to end.
        """
        site = self._site
        if self._reason is not None:
            raise self.ended(self._reason)
        if self._counted:
            if site.limits.is_full:  # others were let in while this client was authenticated
                raise self.ended("overload")
            site.limits.add(self)
        site.ticker.add(self, min(self._until, self.written + site.ticker.interval))
        return self.is_from_now or site.turns.take(self)

    async def line_up(self, keep_alive: Callable[[], Awaitable[None]] | None = None) -> None:
        """Wait for the turn, once `enlist` has returned False; `keep_alive` is called when a heartbeat is due.

        Raises:
            Ended: no turn has come, or the connection is to end.
        Cancellation: nothing stays counted.
        """
        try:
            with anyio.fail_after(MAX_QUEUE):
                while not await self.turn():
                    if keep_alive is not None:
                        await keep_alive()
        except BaseException as error:
            self._release()
            if isinstance(error, TimeoutError):
                raise self._end_of(error) from None
            raise

    async def open(self) -> None:
        """Open the stream, in a turn: nothing is missed from here on. `aclose` closes it.

        Raises:
            Ended: it cannot be opened.
        Cancellation: nothing stays open.
        """
        if self.slot < 0 and not self.enlist():
            await self.line_up()
        try:
            await self.stream.__aenter__()
        except BaseException as error:
            self._release()
            if isinstance(error, TimeoutError | ClosedError | BackendError):
                raise self._end_of(error) from None
            raise
        if not self.is_from_now:
            self._site.turns.release(self)
        self._is_open = True

    async def aclose(self) -> None:
        """Close the stream. Never waits."""
        self._release()
        await self.stream.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        """Open the stream; see `open`."""
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the stream."""
        await self.aclose()

    def _release(self) -> None:
        self._site.ticker.discard(self)
        self._site.limits.discard(self)
        self._site.turns.discard(self)
