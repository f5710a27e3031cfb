"""All streams of one notifier: they open, count as present, and end together."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from .._runtime._loop_guard import LoopGuard
from .._runtime._stats import Counters
from ..abc import Gap, Position, StreamStore
from ..errors import ClosedError, UsageError
from ..event import Event
from ._live import StreamSet

if TYPE_CHECKING:
    from .._presence._local_presence import LocalPresence
    from .._push._routes import Listener


class NotifierStreams(StreamSet):
    """The streams of one notifier.

    Attributes:
        users: how many streams each user has open here.
        external: the streams that a stream store brought itself.
    """

    def __init__(
        self,
        counters: Counters,
        start_services: Callable[[], None],
        local_presence: LocalPresence | None,
        listener: Listener | None,
    ) -> None:
        super().__init__(counters)
        self.opening = start_services
        self._local_presence = local_presence
        self._listener = listener
        self.users: dict[str, int] = {}
        self.external: weakref.WeakSet[ExternalStream] = weakref.WeakSet()

    def attached(self, user: str, track: bool) -> None:
        """Count a stream that was opened, and its user as present."""
        super().attached(user, track)
        self.users[user] = self.users.get(user, 0) + 1
        if track and self._local_presence is not None:
            self._local_presence.enter(user)

    async def ready(self, user: str, track: bool) -> None:
        """Wait until routed events are heard and the user is registered; both bounded."""
        if self._listener is not None:
            await self._listener.ready()
        if track and self._local_presence is not None:
            await self._local_presence.ready(user)

    def detached(self, user: str, track: bool) -> None:
        """Count a stream that was closed; once the notifier is closed, everything was let go of already."""
        super().detached(user, track)
        if user not in self.users:
            return
        self.users[user] -= 1
        if not self.users[user]:
            del self.users[user]
        if track and self._local_presence is not None:
            self._local_presence.leave(user)

    def show_external(self, event: Event) -> int:
        """Show an ephemeral event to the open external streams of its user, or to all; return how many took it."""
        streams = [s for s in self.external if s.is_open and event.user in ("", s.user)]
        for stream in streams:
            stream.show(event)
        return len(streams)

    async def close_external(self) -> None:
        """Close the streams of a external stream store that have ended by their rank."""
        async with anyio.create_task_group() as group:
            for stream in list(self.external):
                if stream.rank < self.cutoff:
                    group.start_soon(stream.aclose)


class ExternalStream:
    """A stream of a stream store that brings its own streams, held to the notifier's rules of opening and closing."""

    def __init__(
        self,
        store: StreamStore,
        group: NotifierStreams,
        loop: LoopGuard,
        user: str,
        last_id: Position,
        *,
        track: bool,
        buffer_size: int,
    ) -> None:
        self._attached = self._closed = False  # first: the finaliser reads it though the store refuses
        self._inner = store.subscribe(user, last_id)
        self._group = group
        self._loop = loop
        self._user = user
        self._track = track
        self._reading: anyio.CancelScope | None = None
        self._ephemeral: deque[Event] = deque(maxlen=buffer_size)
        self._dropped = 0
        self.rank = group.next_rank()
        group.external.add(self)

    @property
    def user(self) -> str:
        """Whose log."""
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
        if self._reading is not None:
            raise UsageError("another task waits for the next event of this stream")
        with anyio.fail_after(timeout):
            await self._open()
            while not self._ephemeral:
                with anyio.CancelScope() as self._reading:  # by the contract, cancelling `next` loses nothing
                    try:
                        return await self._inner.next()
                    finally:
                        self._reading = None
                self._check_open()
            return self._ephemeral.popleft()

    def show(self, event: Event) -> None:
        """Let the reader have an ephemeral event, which the store knows nothing of."""
        self._dropped += len(self._ephemeral) == self._ephemeral.maxlen
        self._ephemeral.append(event)
        if self._reading is not None:
            self._reading.cancel()

    async def aclose(self) -> None:
        """End the stream; the store's own stream has one second to close."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
        self._detach()
        with anyio.move_on_after(1, shield=True):
            await self._inner.aclose()

    async def __aenter__(self) -> Self:
        """Open the stream."""
        try:
            await self._open()
            await self._inner.__aenter__()
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
        if self._closed or self.rank < self._group.cutoff:
            raise ClosedError(f"the stream of {self._user!r} is closed")

    async def _open(self) -> None:
        self._check_open()
        if not self._attached:
            self._loop.check()
            self._group.opening()
            self._group.attached(self._user, self._track)
            self._attached = True
            await self._group.ready(self._user, self._track)

    def _detach(self) -> None:
        if self._attached:
            self._attached = False
            self._group.detached(self._user, self._track)
