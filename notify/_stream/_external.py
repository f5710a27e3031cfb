"""Wraps the streams of a stream store without a `LiveLog`, so that they follow the notifier's rules."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

import anyio

from .._runtime._loop_guard import LoopGuard
from ..abc import Gap, Position, StreamStore
from ..errors import ClosedError, DisconnectedError, UsageError
from ..event import Event
from ._stream_set import NotifierStreams


class ExternalStream:
    """A stream that a stream store implements itself, but opened, counted and closed by the notifier's rules."""

    def __init__(
        self,
        store: StreamStore,
        streams: NotifierStreams,
        guard: LoopGuard,
        user: str,
        last_id: Position,
        *,
        track: bool,
        buffer_size: int,
        expires: float | None = None,
    ) -> None:
        self._attached = self._closed = False  # first: the finaliser reads it even if the store refuses
        self._inner = store.subscribe(user, last_id)
        self._streams = streams
        self._guard = guard
        self._user = user
        self._track = track
        self._reading: anyio.CancelScope | None = None
        self._busy = False
        self._held = False  # whether a cancelled `next` leaves the stream attached
        self._ephemeral: deque[Event] = deque(maxlen=buffer_size)
        self._dropped = 0
        self._expires = expires
        self._failure: DisconnectedError | None = None
        self.rank = streams.next_rank()
        streams.external.add(self)

    @property
    def user(self) -> str:
        """The user whose log is read."""
        return self._user

    @property
    def last_id(self) -> str:
        """The resume token."""
        return self._inner.last_id

    @property
    def dropped(self) -> int:
        """How many ephemeral events were lost because the reader was away and the buffer full."""
        return self._dropped + self._inner.dropped

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The latest gaps, as far as the store reports them."""
        return tuple(self._inner.gaps)

    def __aiter__(self) -> Self:
        """Return the stream."""
        return self

    async def __anext__(self) -> Event:
        """As `next()`, but a closed stream ends the loop."""
        try:
            return await self.next()
        except ClosedError:
            raise StopAsyncIteration from None

    async def next(self, timeout: float | None = None) -> Event:
        """Return the next event; see `notify.abc.Stream.next`."""
        self._guard.check()
        if self._busy:
            raise UsageError("another task is already waiting in next() of this stream")
        self._busy = True
        try:
            with anyio.fail_after(timeout):
                event = await self._next()
            self._streams.counters.yielded += 1
        except DisconnectedError:
            with anyio.move_on_after(1, shield=True):
                await self._inner.aclose()
            raise
        except Exception:  # also the timeout, which does not mean that the reader is gone
            raise
        except BaseException:  # the caller was cancelled
            if not self._held:
                self._detach()
            raise
        else:
            return event
        finally:
            self._busy = False

    def show(self, event: Event) -> None:
        """Hand the reader an ephemeral event, which is not in the store."""
        self._dropped += len(self._ephemeral) == self._ephemeral.maxlen
        self._ephemeral.append(event)
        if self._reading is not None:
            self._reading.cancel()

    def disconnect(self, reason: str) -> None:
        """End the stream for this reason. The store's own stream is closed by the reader, here or in `aclose`."""
        if self._closed:
            return
        because = f": {reason}" if reason else ""
        message = f"the stream of {self._user!r} was disconnected{because}"
        self._failure = DisconnectedError(message, reason=reason, last_id=self.last_id)
        self._end()

    @property
    def is_over(self) -> bool:
        """Whether the stream has ended."""
        return self._closed

    def expire(self) -> None:
        """End the stream because its `expires_at` has come."""
        self.disconnect("expired")

    async def aclose(self) -> None:
        """End the stream; the store's own stream has one second to close."""
        if not self._guard.check_closing():  # its event loop has ended
            self._detach()
            return
        self._end()
        with anyio.move_on_after(1, shield=True):
            await self._inner.aclose()

    def disconnect_if(self, reason: str | None) -> None:
        """End the stream if there is a reason."""
        if reason is not None:
            self.disconnect(reason)

    def _end(self) -> None:
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
        self._detach()

    async def __aenter__(self) -> Self:
        """Open the stream; one that was disconnected can be entered, and its loop ends at once."""
        try:
            await self._open()
            await self._inner.__aenter__()
            self._held = True
        except DisconnectedError:
            return self
        except BaseException:
            self._detach()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        await self.aclose()

    def __del__(self) -> None:
        self._detach()

    @property
    def is_open(self) -> bool:
        """Whether the stream counts as open."""
        return self._attached

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if self._closed or self.rank < self._streams.cutoff:
            raise ClosedError(f"the stream of {self._user!r} is closed")

    async def _open(self) -> None:
        self._check_open()
        if not self._attached:
            self._guard.check()
            if self._expires is not None:
                expires, self._expires = self._expires, None
                self._streams.expiry.watch(self, expires)
                self._check_open()
            self._streams.opening()
            self._streams.attached(self._user, self._track)
            self._attached = True
            await self._streams.ready(self._user, self._track)

    async def _next(self) -> Event:
        await self._open()
        while not self._ephemeral:
            with anyio.CancelScope() as self._reading:  # by the contract, cancelling `next` loses nothing
                try:
                    return await self._inner.next()
                finally:
                    self._reading = None
            self._check_open()
        return self._ephemeral.popleft()

    def _detach(self) -> None:
        if self._attached:
            self._attached = False
            self._streams.detached(self._user, self._track)
