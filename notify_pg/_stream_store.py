"""A store in PostgreSQL that streams: every process that shares the tables hears the doorbell of every other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

import asyncpg  # type: ignore[import-untyped]

from notify import Event, LiveLog, NotifyError, Stream
from notify.abc import Position
from notify.adapters import OutageLog
from notify.errors import UsageError

from ._listen import PostgresListener
from ._names import short_key
from ._store import PostgresStore

logger = logging.getLogger("notify.pg")

AUDIT: Final = 30.0
"""Seconds between looks for news that no doorbell announced."""

AUDIT_WHILE_DEAF: Final = 1.0
"""The same while the doorbell is not known to be heard."""

NEWS: Final = 64
"""Events of one user to be read after a ring; who has more reads the log."""

USERS: Final = 500
"""Users whose news one query reads."""

OPENING: Final = 0.05
"""Seconds after which users whose streams were still being opened are looked at again."""


class PostgresStreamStore(PostgresStore):
    """As `PostgresStore`; every save, in whichever process, reaches the open streams.

    One connection of its own listens; it must not lead through a pooler in transaction mode.

    Args:
        dsn: as for `PostgresStore`. Of a pool that is given, one connection is kept for listening.
        listen_dsn: where to listen, if `dsn` leads through a pooler.
        probe_interval: seconds between two canaries. After two without one the connection is replaced, and until one is
            heard again the streams look for news each second.
    """

    def __init__(
        self,
        dsn: str | asyncpg.Pool,
        *,
        listen_dsn: str | None = None,
        probe_interval: float = 5.0,
        schema: str = "public",
        table_prefix: str = "notify_",
        max_len: int = 1000,
        max_age: float | None = 7 * 86_400.0,
        key_window: float = 86_400.0,
        timeout: float = 4.0,
        pool_size: int = 8,
        relay: float | None = None,
    ) -> None:
        if not probe_interval > 0:
            raise UsageError(f"probe_interval must be greater than 0, not {probe_interval!r}")
        super().__init__(
            dsn,
            schema=schema,
            table_prefix=table_prefix,
            max_len=max_len,
            max_age=max_age,
            key_window=key_window,
            timeout=timeout,
            pool_size=pool_size,
            relay=relay,
        )
        self._db.set_listen_dsn(listen_dsn)
        self._live = LiveLog(self, background=self._background, on_open=self._opened, on_close=self._closed)
        self._listener = PostgresListener(
            self._db,
            self._publisher,
            self._names.wake_channel,
            probe_interval=probe_interval,
            on_listening=self._look_at_all,
            on_payload=self._hear,
        )
        self._users: dict[str, set[str]] = {}  # by short key
        self._news: set[str] = set()
        self._rung = asyncio.Event()
        self._listening = False
        self._unread = OutageLog(
            logger, "news could not be read, so each stream reads for itself", "news can be read again"
        )
        self._blind = OutageLog(
            logger, "news could not be looked for, which is tried again", "news can be looked for again"
        )

    @property
    def live(self) -> LiveLog:
        """The live side, shared by whoever uses this store."""
        return self._live

    @property
    def is_receiving(self) -> bool:
        """Whether the doorbell is known to be heard; while it is not, news is looked for each second."""
        return self._listener.is_receiving

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """See `notify.abc.StreamStore.subscribe`."""
        return self._live.subscribe(user, last_id)

    async def _close(self) -> None:
        self._live.close()
        await super()._close()

    # -- who listens to what -------------------------------------------------------------------------------------

    def _opened(self, user: str) -> None:
        self._users.setdefault(short_key(user), set()).add(user)
        if not self._listening:
            self._start()
            self._listening = True
            self._services.start(self._listener.run)
            self._services.start(self._read_news)
            self._services.start(self._audit)

    def _closed(self, user: str) -> None:
        key = short_key(user)
        users = self._users.get(key, set())
        users.discard(user)
        if not users:
            self._users.pop(key, None)

    # -- news ----------------------------------------------------------------------------------------------------

    def _on_stored(self, events: list[Event]) -> None:
        super()._on_stored(events)
        for event in events:
            self._live.offer(event)

    def wake(self, *users: str) -> None:
        """See `PostgresStore.wake`; the streams of this process are woken too."""
        super().wake(*users)
        self._look_at(user for user in users if user in self._live.users)

    def _hear(self, payload: str) -> None:
        """Have the news of the users that a ring names read, unless it is our own: those were offered already."""
        tag, *keys = payload.split(" ")
        if tag != self._origin:
            self._look_at(user for key in keys for user in self._users.get(key, ()))

    def _look_at_all(self) -> None:
        """Have read what rang while nobody listened: hundreds of users to a query, not one stream to a query."""
        self._look_at(self._live.users)

    def _look_at(self, users: Iterable[str]) -> None:
        self._news.update(users)
        if self._news:
            self._rung.set()

    async def _read_news(self) -> None:
        """Read what users have news of, all of them in one query, and offer it; what rings meanwhile comes next."""
        while True:
            await self._rung.wait()
            self._rung.clear()
            while self._news:
                users = [self._news.pop() for _ in range(min(USERS, len(self._news)))]
                await self._offer_news(users)

    async def _offer_news(self, users: list[str]) -> None:
        known: dict[str, str] = {}
        opening: list[str] = []
        for user in users:
            topic = self._live.users.get(user)
            if topic is None:
                continue
            if topic.last_id is not None:
                known[user] = topic.last_id
            else:
                opening.append(user)
        if opening:  # they read already, but perhaps too early for this ring
            asyncio.get_running_loop().call_later(OPENING, self._look_at, opening)
        try:
            pages = await self._read_many(known, NEWS) if known else {}
        except NotifyError as error:
            self._unread.failed(error)
            for user in known:
                self._live.resync(user)
            return
        self._unread.recovered()
        for user, page in pages.items():
            if page.gap is not None or len(page.events) >= NEWS:
                self._live.resync(user)
            else:
                for event in page.events:
                    self._live.offer(event)

    async def _audit(self) -> None:
        """Look for news that no ring announced, more often while none is heard."""
        elapsed = 0.0
        while True:
            await asyncio.sleep(AUDIT_WHILE_DEAF)
            elapsed += AUDIT_WHILE_DEAF
            if self._listener.is_receiving and elapsed < AUDIT:
                continue
            elapsed = 0.0
            try:
                await self._live.audit()
                if any(topic.last_id is not None for topic in self._live.users.values()):
                    self._blind.recovered()  # somebody was looked for
            except Exception as error:  # a look that takes too long, too: without another one, streams stay behind
                self._blind.failed(repr(error))
