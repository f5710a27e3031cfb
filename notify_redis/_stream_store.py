"""A Redis store that streams: every process receives every event, over one pub/sub connection to each master.

The push script (`_lua/push.lua`) publishes each event on its user's channel in the same step in which it appends it, so
an event is never stored without being announced, and no module of this package has to wake other processes.
An announcement carries both ids and the event, so a live event costs no query.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from notify import Event, Page, Stream
from notify.abc import Position
from notify.adapters import LiveLog
from notify.errors import CodecError, UsageError

from ._connection import RedisUrl
from ._ephemeral import MARK, EphemeralSender, decode_message
from ._listen import Subscriptions
from ._names import partition_of
from ._record import decode
from ._store import RedisStore
from ._wake import BROADCASTS
from ._xread import WakeReader

logger = logging.getLogger("notify.redis")

SEND_GRACE: Final = 0.25
"""Seconds that closing waits for ephemeral events that are about to be sent."""

SUBSCRIBE_TIMEOUT: Final = 0.5
"""Seconds that a first read waits for its channel to be confirmed: what is received from then on need not be read."""


class RedisStreamStore(RedisStore):
    """As `RedisStore`; every event reaches the open streams of every process.

    Each process is subscribed to exactly the users who have streams open in it. An announcement is only a hint: streams
    read the log for events that no announcement brought.

    Args:
        url: as for `RedisStore`, and so are the other options.
        wake: how this process learns of new events: `"pubsub"`, or `"xread"`, a stream that all processes read: see
            docs/backends/redis.md. Processes with different values tell each other everything.
        probe_interval: seconds between two probes; after two intervals without one the connection is replaced.

    Raises:
        UsageError: an argument is unacceptable.
    """

    def __init__(
        self,
        url: RedisUrl,
        *,
        wake: Literal["pubsub", "xread"] = "pubsub",
        probe_interval: float = 5.0,
        **options: Any,
    ) -> None:
        if wake not in ("pubsub", "xread"):
            raise UsageError(f"wake must be 'pubsub' or 'xread', not {wake!r:.100}")
        super().__init__(url, **options)
        if not probe_interval > 0:
            raise UsageError(f"probe_interval must be greater than 0, not {probe_interval!r}")
        name = secrets.token_hex(6)
        self._users: dict[bytes, str] = {}
        self._wakes.always = wake == "xread"
        self._ephemerals = EphemeralSender(self._client, self._names, self._wakes)
        self._subscriptions: Subscriptions | WakeReader
        if wake == "xread":
            self._subscriptions = WakeReader(
                self._client,
                self._wakes,
                probe_interval=probe_interval,
                on_message=self._on_message,
                on_gap=self._catch_up,
            )
        else:
            self._subscriptions = Subscriptions(
                self._client,
                probe=lambda partition: self._names.named_channel(partition, "c", name),
                probe_interval=probe_interval,
                on_message=self._on_message,
                on_gap=self._catch_up,
            )
        self._saver.on_stored = self._on_stored
        self._live = LiveLog(
            self,
            background=self._client.background,
            read_timeout=self._timeout + 1.0,
            on_open=self._on_open,
            on_close=self._on_close,
            is_receiving=lambda: self._subscriptions.is_reliable,
        )
        self._positions = self._live.positions()

    @property
    def live(self) -> LiveLog:
        """The live side, shared by every notifier that uses this store."""
        return self._live

    @property
    def is_receiving(self) -> bool:
        """Whether announcements arrive; while they do not, streams look for new events every second."""
        return self._subscriptions.is_receiving

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """See `notify.abc.StreamStore.subscribe`."""
        return self._live.subscribe(user, last_id)

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`."""
        await self._subscribed(user)
        return await super().read(user, after, limit)

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """See `notify.abc.ReadMany.read_many`."""
        return await super().read_many(after, limit)

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        await self._subscribed(user)
        return await super().head(user)

    async def aclose(self) -> None:
        """End every stream. Idempotent."""
        self._live.close()
        if not self._client.closed:
            await self._ephemerals.settle(SEND_GRACE)
        await super().aclose()

    async def __aenter__(self) -> Self:
        """Connect, so that a wrong address raises here; the first use would do it too."""
        await super().__aenter__()
        return self

    def send_ephemeral(self, event: Event) -> None:
        """See `notify.abc.Ephemerals.send_ephemeral`."""
        self._ephemerals.send(event)

    # -- receiving -----------------------------------------------------------------------------------------------

    def _on_open(self, user: str) -> None:
        if self._wakes.broadcasts not in self._subscriptions:
            self._subscriptions.open(self._wakes.broadcasts, BROADCASTS)
        channel = self._names.channel(user)
        self._users[channel] = user
        self._subscriptions.open(channel, partition_of(user))

    def _on_close(self, user: str) -> None:
        channel = self._names.channel(user)
        self._users.pop(channel, None)
        self._subscriptions.close(channel)

    async def _subscribed(self, user: str) -> None:
        """Wait until the user's channel is confirmed, if a stream is open: attach live first, then read history."""
        self._client.check_open()
        channel = self._names.channel(user)
        if channel in self._subscriptions:
            await self._subscriptions.ready(channel, SUBSCRIBE_TIMEOUT)

    def _on_stored(self, event: Event) -> None:
        """Offer an event that was stored by this process, unless its announcement has arrived before the reply."""
        user = event.user
        if user in self._positions and self._positions[user] != event.id:
            self._live.offer(event)

    def _catch_up(self, channel: bytes | None) -> None:
        """Read what may have been missed: for one user, or for all of them in few queries."""
        if channel is None:
            self._live.catch_up()
        elif channel in self._users:  # pragma: no branch - else its last stream was closed just now
            self._live.catch_up([self._users[channel]])

    def _on_message(self, channel: bytes, message: bytes) -> None:
        """Offer an announced event to the streams of its user; called for every message: `id prev nonce record`."""
        if message[:2] == MARK:
            self._on_ephemeral(channel, message)
            return
        user = self._users.get(channel)
        if user is None:
            return
        id_bytes, _, rest = message.partition(b" ")
        id_ = id_bytes.decode(errors="replace")
        if self._positions[user] == id_:  # pushed here, or announced before
            return
        prev, _, rest = rest.partition(b" ")
        nonce, _, record = rest.partition(b" ")
        try:
            event = self._saver.own_event(nonce, id_, prev.decode())
            if event is None and record:
                event = decode(record, id_, prev.decode())
            if event is not None and event.user == user:
                self._live.offer(event)
                return
        except (CodecError, UsageError, ValueError) as error:
            logger.warning("an announcement to %r cannot be read: %s", user, error)
        self._live.resync(user)  # too large to be announced, or published by another program: each stream reads

    def _on_ephemeral(self, channel: bytes, message: bytes) -> None:
        """Deliver an event of another process that is not stored: to the channel's user, or to all."""
        user = "" if channel == self._wakes.broadcasts else self._users.get(channel)
        if user is not None:
            try:
                event = decode_message(message, user)
            except (CodecError, UsageError) as error:
                logger.warning("a message to %r cannot be read: %s", user or "all", error)
            else:
                self._live.deliver(event)
