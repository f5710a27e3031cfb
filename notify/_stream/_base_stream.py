"""What every stream is, whether it reads one log or several: one reader at a time, an end, and a release.

`Subscription` and `MergedSubscription` find the events.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

import anyio
import anyio.lowlevel

from .._runtime._loop_guard import LoopGuard
from .._runtime._waking import Waiter, wake
from ..abc import Immediate
from ..errors import ClosedError, DisconnectedError, SlowConsumerError, UsageError
from ..event import Event
from ._reads import PageReader
from ._stream_set import NotifierStreams, StreamSet
from ._user_streams import UserStreams


class Source(Protocol):
    """The live side of a log, as its streams see it."""

    @property
    def guard(self) -> LoopGuard:
        """The event loop."""

    @property
    def has_log(self) -> bool:
        """Whether there is a log to read."""

    @property
    def immediate(self) -> Immediate | None:
        """The store, if it answers at once."""

    @property
    def observe(self) -> Callable[[Event], None] | None:
        """A function to call with each live event that is handed out, if any."""

    @property
    def opening(self) -> set[BaseStream]:
        """The streams that wait for presence or a router before their first read."""

    @property
    def everyone(self) -> UserStreams:
        """The ring of the broadcasts."""

    merged_logs: int
    """How many of the attached logs belong to streams of several."""

    def attach(self, user: str) -> UserStreams:
        """Count one more open stream of this user."""

    def detach(self, streams: UserStreams) -> None:
        """Count one open stream fewer."""

    def request(self, stream: PageReader) -> None:
        """Read the page that the stream wants, and call its `receive` or `fail`."""

    def disconnection(self, user: str, since: int) -> str | None:
        """Return why the user was disconnected after this generation; None if that did not happen."""


class BaseStream:
    """The base of the streams.

    Invariants:
        I1. `_rank < set.cutoff` once the stream has ended with its set; it is -1 once this stream was closed by itself.
        I2. `_seen` is negative exactly while an interruption has not reached the reader: every call of `next` compares
            `_seen` anyway, so being interruptible costs nothing.

    Attributes:
        waiter: what the reader waits on; set from the first attachment on.
    """

    __slots__ = (
        "__weakref__",
        "_busy",
        "_expires",
        "_failure",
        "_held",
        "_max_lag",
        "_opening",
        "_rank",
        "_seen",
        "_set",
        "_source",
        "_track",
        "waiter",
    )

    def __init__(
        self,
        source: Source,
        stream_set: StreamSet,
        track: bool,
        max_lag: int | None,
        expires: float | None,
        since: int | None = None,
    ) -> None:
        self._source = source
        self._set = stream_set
        self._track = track
        self._max_lag = max_lag
        self._expires = expires  # seconds since 1970, until the stream is opened; then `Expiry` knows it
        self._rank = stream_set.next_rank()
        # ends of streams up to this generation do not concern this stream
        self._seen = stream_set.generation if since is None else since
        self._busy = False
        self._held = False  # whether a cancelled `next` leaves the stream attached
        self._failure: Exception | None = None
        self._opening: anyio.CancelScope | None = None
        self.waiter: Waiter | None = None

    # -- what the two kinds of streams define --------------------------------------------------------------------

    @property
    @abstractmethod
    def last_id(self) -> str:
        """The resume token."""

    @property
    @abstractmethod
    def is_attached(self) -> bool:
        """Whether the stream counts as open."""

    @property
    @abstractmethod
    def _name(self) -> str:
        """Whose stream this is, for messages."""

    @abstractmethod
    async def __anext__(self, ended: type[Exception] = StopAsyncIteration) -> Event:
        """As `next()`, but a closed stream ends the loop."""

    @abstractmethod
    def _take_at_once(self) -> Event | None:
        """Return the next event, if that needs no waiting."""

    def _enter_nowait(self) -> bool:
        """Attach, and fix the position, if that needs no waiting; return whether the stream is open."""
        return False

    @abstractmethod
    async def _enter(self) -> None:
        """Attach, and fix the position."""

    @abstractmethod
    def _detach(self) -> None:
        """Leave the live side."""

    @abstractmethod
    def _discard(self) -> None:
        """Drop what was read and not handed out: the stream has ended."""

    @abstractmethod
    def _interrupted(self) -> None:
        """Detach after a bare `next` was cancelled, unless the stream is entered."""

    @abstractmethod
    def _disconnection(self) -> str | None:
        """Return why the stream was disconnected since `_seen`, if it was."""

    @abstractmethod
    def _lag(self, limit: int) -> int:
        """Return how many live events are still to be handed out; exact only above `limit`."""

    # -- what the reader sees ------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        """Return the stream."""
        return self

    def next(self, timeout: float | None = None) -> Coroutine[Any, Any, Event]:
        """Return the next event; see `notify.abc.Stream.next`."""
        if timeout is None:
            return self.__anext__(ClosedError)
        return self._next_within(timeout) if timeout > 0 else self._next_at_once()

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

    async def _next_at_once(self) -> Event:
        """Return an available event; otherwise let reads in progress run for a moment, so that polling succeeds."""
        self._check_idle()
        event = self._take_at_once()
        if event is None:
            self._busy = True
            try:
                await anyio.lowlevel.checkpoint()
            except BaseException:  # the caller was cancelled
                self._interrupted()
                raise
            finally:
                self._busy = False
            event = self._take_at_once()
            if event is None:
                raise TimeoutError
        self._set.counters.yielded += 1
        return event

    @abstractmethod
    def next_nowait(self) -> Event | None:
        """Return the next event that is in hand; see `notify.abc.Interruptible`."""

    def interrupt(self) -> None:
        """Make the current `next`, or the following one, raise TimeoutError; see `notify.abc.Interruptible`."""
        if self._seen > 0:
            self._seen = -self._seen  # keeps I2
            self._wake()

    async def aclose(self) -> None:
        """End the stream at once; no event is yielded after it. Idempotent, never waits."""
        if self.is_attached:
            self._source.guard.check_closing()
        self._close()

    async def __aenter__(self) -> Self:
        """Open the stream: its position is fixed, and from here on nothing is missed.

        A stream that was disconnected, or whose `expires_at` has passed, can be entered: its loop ends at once.
        """
        if self._busy or self.waiter is not None:
            self._check_idle()
        try:
            if self._seen != self._set.generation or self._max_lag is not None:
                self._raise_if_ended(ClosedError)
            if not self._enter_nowait():
                await self._enter()
        except DisconnectedError:
            return self
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
        if self.is_attached:
            self._source.guard.call(self._close)  # the garbage collector may run in any thread

    def _check_idle(self) -> None:
        if self.waiter is not None and self.is_attached:
            self._source.guard.check()
        if self._busy:
            self._raise_if_ended(ClosedError)
            raise UsageError("another task is already waiting in next() of this stream")

    # -- opening -------------------------------------------------------------------------------------------------

    def _watch_expiry(self) -> None:
        """Let the notifier end the stream at its `expires_at`."""
        if self._expires is not None and isinstance(self._set, NotifierStreams):
            expires, self._expires = self._expires, None
            self._set.expiry.watch(self, expires)

    async def _until_ready(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Wait for presence and router, or until the stream ends."""
        with anyio.CancelScope() as self._opening:
            self._source.opening.add(self)
            try:
                await ready()
            finally:
                self._source.opening.discard(self)
                self._opening = None

    # -- ending --------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the stream has ended."""
        return self._rank < self._set.cutoff or (
            self._seen != self._set.generation and self._disconnection() is not None
        )

    @property
    def _must_return(self) -> bool:
        """Whether the reader must not go on waiting."""
        return self._seen < 0 or self.is_over

    def expire(self) -> None:
        """End the stream because its `expires_at` has come."""
        self._disconnect("expired")

    def wake_if_ended(self) -> None:
        """Wake a waiting reader if its stream has ended."""
        if self.is_over:
            self._wake()

    def _wake(self) -> None:
        wake(self.waiter)
        if self._opening is not None:
            self._opening.cancel()

    def _raise_if_ended(self, ended: type[Exception]) -> None:
        """Raise if the stream has ended, or was interrupted.

        Asked when the set's generation differs from what this stream has seen.
        """
        if self._rank >= self._set.cutoff:
            was_interrupted = self._seen < 0
            if self._seen != self._set.generation:
                reason = self._disconnection()
                if reason is not None:
                    self._disconnect(reason)
                    self._raise_end(ended)
                self._seen = self._set.generation  # keeps I2
            lag = 0 if self._max_lag is None else self._lag(self._max_lag)
            if self._max_lag is None or lag <= self._max_lag:
                if was_interrupted:
                    raise TimeoutError("the stream was interrupted")
                return
            message = f"the reader of {self._name} is {lag} live events behind; at most {self._max_lag} are allowed"
            self._failure = SlowConsumerError(message, last_id=self.last_id)
        self._close()
        self._raise_end(ended)

    def _raise_end(self, ended: type[Exception]) -> NoReturn:
        if isinstance(self._failure, SlowConsumerError):
            raise self._failure
        if isinstance(self._failure, DisconnectedError) and ended is ClosedError:
            raise self._failure.with_traceback(None)
        raise ended(f"the stream of {self._name} is closed") from self._failure

    def _disconnect(self, reason: str) -> None:
        because = f": {reason}" if reason else ""
        message = f"the stream of {self._name} was disconnected{because}"
        self._failure = DisconnectedError(message, reason=reason, last_id=self.last_id)
        self._close()

    def _close(self) -> None:
        """End for good, synchronously: works while cancelled and in a finaliser. Keeps I1."""
        self._rank = -1
        self._seen = 0  # every call of `next` checks whether the stream has ended
        if self.is_attached:
            self._detach()
        self._discard()
        self._wake()
