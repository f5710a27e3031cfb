"""A Redis store that streams: every process hears of every event, over one pub/sub connection for each master."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final, Self

import anyio

from notify import Event, LiveLog, Page, Stream
from notify.abc import Position
from notify.errors import ClosedError, CodecError, UsageError

from ._connection import RedisUrl
from ._listen import Subscriptions
from ._record import decode
from ._store import RedisStore

logger = logging.getLogger("notify.redis")

SUBSCRIBE_WAIT: Final = 0.5
"""Seconds that a first read waits for its channel: what is heard from then on need not be read twice."""

AUDIT_INTERVAL: Final = 30.0
"""Seconds within which an event is found though every hint was lost."""

DEAF_AUDIT_INTERVAL: Final = 1.0
"""The same while the pub/sub connection is known not to hear."""


class RedisStreamStore(RedisStore):
    """As `RedisStore`; every event reaches the open streams of every process.

    Each process is subscribed to exactly the users who have streams open in it. What is heard is only a hint: streams
    read the log for whatever was missed, after a reconnection, or when a probe every few seconds does not come back.

    Args:
        url: as for `RedisStore`, and so are the rest.
        probe_interval: seconds between two canaries; after two without one the connection is made again.

    Raises:
        UsageError: an argument is unacceptable.
    """

    def __init__(self, url: RedisUrl, *, probe_interval: float = 5.0, **options: Any) -> None:
        super().__init__(url, **options)
        if not probe_interval > 0:
            raise UsageError(f"probe_interval must be greater than 0, not {probe_interval!r}")
        name = secrets.token_hex(6)
        self._users: dict[bytes, str] = {}
        self._hearing = Subscriptions(
            self._client,
            probe=lambda partition: self._names.named(partition, "c", name),
            interval=probe_interval,
            on_message=self._hear,
            on_gap=self._catch_up_soon,
        )
        self._saver.on_stored = self._show
        self._catching_up = self._again = self._auditing = False
        self._live = LiveLog(
            self,
            background=self._client.background,
            read_timeout=self._timeout + 1.0,
            on_open=self._open,
            on_close=self._close,
        )

    @property
    def live(self) -> LiveLog:
        """The live side, shared by whoever uses this store."""
        return self._live

    @property
    def is_receiving(self) -> bool:
        """Whether new events are being announced; while they are not, streams look for them every second."""
        return self._hearing.alive

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """See `notify.abc.StreamStore.subscribe`."""
        return self._live.subscribe(user, last_id)

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`."""
        await self._until_heard(user)
        return await super().read(user, after, limit)

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """See `notify.abc.ReadMany.read_many`."""
        return await super().read_many(after, limit)

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        await self._until_heard(user)
        return await super().head(user)

    async def aclose(self) -> None:
        """End every stream. Idempotent."""
        self._live.close()
        await super().aclose()

    async def __aenter__(self) -> Self:
        """Connect, so that a wrong address shows here; the first use would do it too."""
        await super().__aenter__()
        return self

    # -- hearing -------------------------------------------------------------------------------------------------

    def _open(self, user: str) -> None:
        stream, _, _, partition = self._names.of_user(user)
        self._users[stream] = user
        self._hearing.open(stream, partition)
        if not self._auditing:
            self._auditing = True
            self._client.start(self._live.audit_forever, AUDIT_INTERVAL)
            self._client.start(self._audit_while_deaf)

    def _close(self, user: str) -> None:
        stream = self._names.stream(user)
        self._users.pop(stream, None)
        self._hearing.close(stream)

    async def _until_heard(self, user: str) -> None:
        self._client.check_open()
        if user in self._live.users:
            await self._hearing.ready(self._names.stream(user), SUBSCRIBE_WAIT)

    def _show(self, event: Event) -> None:
        """Offer an event that was just stored here, unless its announcement has come before."""
        topic = self._live.users.get(event.user)
        if topic is not None and topic.last_id != event.id:
            self._live.offer(event)

    def _hear(self, channel: bytes, message: bytes) -> None:
        """Offer an announced event to the streams of its user; called for every message."""
        user = self._users.get(channel)
        topic = self._live.users.get(user) if user is not None else None
        if user is None or topic is None:
            return
        place, _, rest = message.partition(b" ")
        id_ = place.decode(errors="replace")
        if topic.last_id == id_:  # pushed here, or announced before
            return
        prev, _, rest = rest.partition(b" ")
        nonce, _, body = rest.partition(b" ")
        try:
            event = self._saver.own_event(nonce, id_, prev.decode())
            if event is None and body:
                event = decode(body, id_, prev.decode())
            if event is not None and event.user == user:
                self._live.offer(event)
                return
        except (CodecError, UsageError, ValueError) as error:
            logger.warning("an announcement to %r cannot be read: %s", user, error)
        self._live.resync(user)  # too large to be announced, or not ours: each stream reads

    # -- healing -------------------------------------------------------------------------------------------------

    def _catch_up_soon(self, channel: bytes | None) -> None:
        """Have the log looked at: for one user, or for all of them in few queries."""
        if channel is not None:
            if channel in self._users:  # pragma: no branch - else its last stream was closed just now
                self._live.resync(self._users[channel])
            return
        self._again = True
        if not self._catching_up:  # pragma: no branch - else it looks again
            self._catching_up = True
            try:
                self._client.start(self._catch_up)
            except ClosedError:  # pragma: no cover - closed just now
                return

    async def _catch_up(self) -> None:
        try:
            while self._again:
                self._again = False
                for user, topic in list(self._live.users.items()):
                    if topic.last_id is None:  # pragma: no cover - its first read is under way, and may be too early
                        self._live.resync(user)
                try:
                    await self._live.audit()
                except ClosedError:  # pragma: no cover - closed in the midst of it
                    return
                except Exception as error:
                    logger.warning("cannot look for what was missed: %r", error)
                    self._live.resync()  # each stream reads for itself, as soon as it can
        finally:
            self._catching_up = False

    async def _audit_while_deaf(self) -> None:
        while True:
            await anyio.sleep(DEAF_AUDIT_INTERVAL)
            if self._hearing.alive or not self._users:
                continue
            try:
                await self._live.audit()
            except ClosedError:  # pragma: no cover - closed in the midst of it
                return
            except Exception as error:
                logger.debug("cannot look for news: %r", error)
