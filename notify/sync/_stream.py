"""A stream that threads read: each event is fetched on the notifier's loop, and kept until a thread takes it."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

import anyio

from ..abc import Gap, Stream
from ..errors import ClosedError, UsageError
from ..event import Event
from ._loop import NotifierLoop, refuse_event_loop


class SyncStream:
    """An iterator over a user's events, and a context manager, like the `Stream` that it reads.

    `with` opens it on entering and closes it on leaving. Without `with`, the first step opens it, and it closes when
    it is garbage collected. Interrupting `next`, for example with Ctrl-C, loses nothing: the event is returned by
    the next call. Threads may share a stream: each event goes to one of them.
    """

    def __init__(self, loop: NotifierLoop, stream: Stream) -> None:
        self._loop = loop
        self._stream = stream
        self._turn = anyio.Lock()
        self._taken: deque[tuple[Event, str]] = deque()  # taken by the thread, so that no interrupt can lose one
        self._last_id = ""
        self._is_open = False

    @property
    def user(self) -> str:
        """The user whose events are yielded."""
        return self._stream.user

    @property
    def last_id(self) -> str:
        """The resume token: everything up to here was returned."""
        return self._last_id or self._stream.last_id

    @property
    def dropped(self) -> int:
        """Ephemeral events lost to a full buffer."""
        return self._stream.dropped

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The gaps so far."""
        return self._stream.gaps

    def next(self, timeout: float | None = None) -> Event:
        """Wait for the next event.

        Args:
            timeout: seconds to wait; None: no limit; 0: return an event only if one is already available.

        Raises:
            TimeoutError: no event within the timeout; a later call returns it.
            ClosedError: the stream or its notifier is closed.
            UsageError: called on an event loop, or in a process forked since the stream was made.
        """
        self._check("next")
        while True:
            self._loop.call(self._fetch, timeout)
            try:
                event, self._last_id = self._taken.popleft()
            except IndexError:  # another thread took it
                continue
            return event

    def close(self) -> None:
        """Close the stream; a blocked `next` raises ClosedError. Idempotent."""
        if self._loop.is_alive:
            refuse_event_loop("subscribe")
            try:
                self._loop.call(self._stream.aclose)
            except ClosedError:
                return  # the notifier has closed it

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Event:
        """Wait for the next event; the iteration ends when the stream or its notifier is closed."""
        try:
            return self.next()
        except ClosedError:
            raise StopIteration from None

    def __enter__(self) -> Self:
        """Open: events pushed from now on are not missed."""
        self._check("subscribe")
        self._last_id = self._loop.call(self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _check(self, name: str) -> None:
        refuse_event_loop(name)
        if self._loop.is_forked:
            raise UsageError("this stream was made before a fork: call subscribe() in each process")

    async def _open(self) -> str:
        if not self._is_open:
            await self._turn.acquire()
            try:
                if not self._is_open:
                    await self._stream.__aenter__()
                    self._is_open = True
            finally:
                self._turn.release()
        return self._stream.last_id

    async def _fetch(self, timeout: float | None) -> None:
        """Wait until an event can be taken."""
        await self._open()
        if self._turn.locked():  # another thread, or a call that was interrupted, is waiting for an event
            with anyio.fail_after(timeout):
                await self._turn.acquire()
        else:
            self._turn.acquire_nowait()
        try:
            if not self._taken:
                event = await self._stream.next(timeout)
                self._taken.append((event, self._stream.last_id))
        finally:
            self._turn.release()
