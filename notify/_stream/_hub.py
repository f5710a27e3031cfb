"""The private side of a `LiveLog`: the fan-outs of the users with open streams, and reading the log for the streams."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from time import time_ns
from typing import Any, Final, NamedTuple

from .._codec import encode_payload
from .._runtime._background import Background
from .._runtime._commands import COMMANDS, DISCONNECT, FORGOTTEN, ORIGIN, user_hash
from .._runtime._loop_guard import LoopGuard
from .._runtime._outage_log import OutageLog
from .._runtime._stats import Counters
from ..abc import Immediate, Page, Store, ability
from ..errors import CodecError, UsageError
from ..event import Event, build_event
from ._base_stream import BaseStream
from ._cursor import Watermark
from ._reads import PAGE_SIZE, PageReader, Reads, as_unavailable, checked_page
from ._stream_set import StreamSet, next_generation
from ._user_streams import UserStreams

logger = logging.getLogger("notify")

DISCONNECTIONS_KEPT: Final = 10_000
"""Users without open streams whose disconnection is remembered, for streams that are not opened yet or detached."""


class Disconnection(NamedTuple):
    """A disconnection of a user: it ends the streams that have not seen this generation of their set."""

    generation: int
    reason: str


class StreamHub:
    """The `Source` of every stream of one log.

    Args:
        store: read from; None for a notifier without one.
        background: runs the tasks that read.
        counters: where failed reads are counted.
        buffer_size: entries of a user's ring.
        read_timeout: seconds that one read may take before it counts as failed.
        on_open: called with a user whose first stream was attached.
        on_close: called with a user whose last stream was detached; never waits, because it runs in finalisers too.

    Attributes:
        origin: identifies the streams of this hub among those of all instances.
        users: the fan-out of each user with open streams.
        sets: the stream sets, which end with the log.
        immediate: the store, if it answers at once.
        opening: the streams that wait for presence or a router before their first read.
        observe: called with each live event that a stream hands out, if set.
        everyone: the broadcasts again: a stream of several logs reads them here, not in the ring of each log.
        merged_logs: how many of the attached logs belong to streams of several logs.
        start: called when a user's first stream was attached, after `on_open`: starts what finds missed events.
    """

    def __init__(
        self,
        store: Store | None,
        *,
        background: Background,
        counters: Counters,
        buffer_size: int,
        read_timeout: float,
        on_open: Callable[[str], None] | None,
        on_close: Callable[[str], None] | None,
    ) -> None:
        self.name = type(store).__name__
        self.origin = secrets.token_hex(8)
        self.guard = LoopGuard("notifier or store")
        self.has_log = store is not None
        self.buffer_size = buffer_size
        self.observe: Callable[[Event], None] | None = None
        self.users: dict[str, UserStreams] = {}
        self._by_hash: dict[str, str] | None = None  # the users by `user_hash`, from the first `FORGOTTEN` on
        self.sets: list[StreamSet] = []
        self.opening: set[BaseStream] = set()
        self._disconnections: dict[str, Disconnection] = {}
        self._disconnections_kept = DISCONNECTIONS_KEPT
        self.everyone = UserStreams("", buffer_size, volatile=True)
        self.merged_logs = 0
        self.immediate: Immediate | None = None
        if ability(store, Immediate, read_nowait="read", head_nowait="head"):
            self.immediate = store
        self._store = store
        self._on_open = on_open
        self.start: Callable[[], None]  # set by the log
        self._unreadable = OutageLog(logger, "a received event cannot be read", "received events can be read again")
        self._on_close = on_close
        self._reads = Reads(
            self.fetch,
            self.watermark,
            background=background,
            counters=counters,
            name=self.name,
            timeout=read_timeout,
        )

    # -- for streams: `Source` -----------------------------------------------------------------------------------

    def attach(self, user: str) -> UserStreams:
        """Count one more open stream of this user and return what it listens to."""
        streams = self.users.get(user)
        if streams is None:
            streams = self.users[user] = UserStreams(user, self.buffer_size, not self.has_log)
            if self._by_hash is not None:
                self._by_hash[user_hash(user)] = user
            if self._on_open is not None:
                self._on_open(user)
            self.start()
        streams.streams += 1
        return streams

    def detach(self, streams: UserStreams) -> None:
        """Count one open stream fewer; the user's fan-out is removed with the last one."""
        streams.streams -= 1
        if not streams.streams:
            del self.users[streams.user]
            if self._by_hash is not None:
                self._by_hash.pop(user_hash(streams.user), None)
            if self._on_close is not None:
                self._on_close(streams.user)

    def request(self, stream: PageReader) -> None:
        """Read the page that the stream wants: at once if the store can, otherwise in a task."""
        if self.immediate is None:
            stream.start_reading()
            self._reads.request(stream)
            return
        after = stream.wanted
        try:
            if after is None:
                stream.receive_head(self.immediate.head_nowait(stream.user))
                return
            page = checked_page(self.immediate.read_nowait(stream.user, after, PAGE_SIZE))
        except UsageError as error:
            stream.fail(error)
        except Exception as error:
            stream.fail(as_unavailable(error, self.name))
        else:
            stream.receive(page, len(page.events) < PAGE_SIZE, self.watermark(stream.user))

    def disconnection(self, user: str, since: int) -> str | None:
        """Return why the user was disconnected after this generation; None if that did not happen."""
        latest = self._disconnections.get(user)
        return latest.reason if latest is not None and latest.generation > since else None

    # -- for the notifier ----------------------------------------------------------------------------------------

    def wake_ended(self) -> None:
        """Wake the streams that have ended by their set's cutoff."""
        waiting = [stream for streams in list(self.users.values()) for stream in streams.waiting]
        for stream in waiting:
            stream.wake_if_ended()
        self._wake_busy()

    def _wake_busy(self) -> None:
        """Wake those of the ended streams that wait for something other than an event."""
        for reading in self._reads.streams():
            reading.wake_if_ended()
        for opening in list(self.opening):
            opening.wake_if_ended()

    def offer(self, event: Event) -> int:
        """Offer an event to the open streams of its user; see `LiveLog.offer`."""
        streams = self.users.get(event.user)
        if streams is not None:
            return streams.streams if streams.offer(event) else 0
        if event.user or event.id:
            return 0
        taken = 0
        for each in list(self.users.values()):
            each.offer(event)
            taken += each.streams
        if self.everyone.streams:
            self.everyone.offer(event)
        return taken - self.merged_logs + self.everyone.streams

    def deliver(self, event: Event | bytes) -> int:
        """Offer what another process sent, or carry out its command; see `LiveLog.deliver`."""
        received = event if isinstance(event, Event) else self.decode(event)
        if received is None:
            return 0
        if not received.id:
            if received.meta.get(ORIGIN) == self.origin:
                return 0
            if received.type in COMMANDS:
                self.obey(received)
                return 0
        return self.offer(received)

    def decode(self, data: bytes) -> Event | None:
        """Return the event of these bytes, or log that they are not an event."""
        try:
            event = Event.from_bytes(data)
        except CodecError as error:
            self._unreadable.failed(error)
            return None
        self._unreadable.recovered()
        return event

    def obey(self, command: Event) -> None:
        """Carry out a command, from here or from another process."""
        if command.type == FORGOTTEN:
            if self._by_hash is None:
                self._by_hash = {user_hash(user): user for user in list(self.users)}
            for user in {command.user, self._by_hash.get(str(command.payload), "")} - {""}:
                self.resync(user)
        else:
            assert command.type == DISCONNECT  # the only other one of `COMMANDS`
            payload = command.payload if isinstance(command.payload, dict) else {}
            self._disconnect(str(payload.get("user", command.user)), str(payload.get("reason", "")))

    def _disconnect(self, user: str, reason: str) -> None:
        """End every stream of this user that exists now, even if its reader is busy."""
        number = next_generation()
        self._disconnections.pop(user, None)  # so that the order is that of the latest disconnection
        self._disconnections[user] = Disconnection(number, reason)
        if len(self._disconnections) > self._disconnections_kept:
            absent = [name for name in self._disconnections if name not in self.users]
            for name in absent[: -DISCONNECTIONS_KEPT // 2]:
                del self._disconnections[name]
            self._disconnections_kept = len(self._disconnections) + DISCONNECTIONS_KEPT // 2
        streams = self.users.get(user)
        for stream_set in list(self.sets):
            stream_set.disconnect(user, reason, number)
        if streams is not None:
            streams.wake()
        self._wake_busy()

    def command(self, type: str, user: str, payload: Any = None) -> Event:
        """Carry out a command here, and return it for the other processes."""
        data, micros = encode_payload(payload), time_ns() // 1000
        event = build_event("", "", user, type, data, micros, None, None, {ORIGIN: self.origin})
        self.obey(event)
        return event

    def close(self) -> None:
        """End every stream."""
        for stream_set in self.sets:
            stream_set.close()
        self.wake_ended()

    @property
    def reads_in_flight(self) -> int:
        """How many reads are queued or running."""
        return self._reads.in_flight

    # -- reading -------------------------------------------------------------------------------------------------

    def watermark(self, user: str) -> Watermark:
        """Return where the user's ring ends now."""
        streams = self.users.get(user)
        return Watermark(streams, streams.end if streams is not None else 0)

    async def fetch(self, user: str, after: str | None) -> Page:
        """Read one page, or the head alone."""
        assert self._store is not None
        if after is None:
            return Page((), None, await self._store.head(user))
        return await self._store.read(user, after, PAGE_SIZE)

    def resync(self, user: str | None = None) -> None:
        """Make the open streams of one user, or of all, read the log again."""
        if user is None:
            for streams in list(self.users.values()):  # a finaliser may remove users at any step
                streams.resync()
        elif user in self.users:
            self.users[user].resync()
