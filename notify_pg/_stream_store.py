"""A store in PostgreSQL that streams: processes that share the tables announce their events to each other."""

from __future__ import annotations

import asyncpg  # type: ignore[import-untyped]

from notify import Event, LiveLog, Stream
from notify.abc import Position
from notify.errors import UsageError

from ._ephemeral import MARK, PostgresEphemerals
from ._listen import PostgresListener
from ._names import short_key
from ._store import PostgresStore


class PostgresStreamStore(PostgresStore):
    """As `PostgresStore`; every save, in whichever process, reaches the open streams.

    It listens over its own connection, which must not go through a pooler in transaction mode.

    Args:
        dsn: as for `PostgresStore`. Of a given pool, one connection is kept to listen.
        listen_dsn: the address to listen at, if `dsn` leads through a pooler.
        probe_interval: seconds between two probes of the listening connection, and for each to come back. A connection
            over which one does not come back is replaced; until then new events are polled for every second.
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
        max_payload: int = 65_536,
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
            max_payload=max_payload,
            relay=relay,
        )
        self._db.set_listen_dsn(listen_dsn)
        self._listener = PostgresListener(
            self._db,
            self._publisher,
            self._names.wake_channel,
            probe_interval=probe_interval,
            on_payload=self._on_wake,
        )
        self._live = LiveLog(
            self,
            background=self._services,
            on_open=self._on_open,
            on_close=self._on_close,
            listen=self._listener.listen,
        )
        self._users: dict[str, set[str]] = {}  # those with open streams, by short key
        self._ephemerals = PostgresEphemerals(self._publisher, self._background, self._users, self._live.deliver)

    @property
    def live(self) -> LiveLog:
        """The live side, which the notifiers of this store share."""
        return self._live

    @property
    def is_receiving(self) -> bool:
        """Whether wake messages are known to arrive; while they are not, new events are polled for every second."""
        return self._live.is_receiving

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """See `notify.abc.StreamStore.subscribe`."""
        return self._live.subscribe(user, last_id)

    def send_ephemeral(self, event: Event) -> None:
        """See `notify.abc.Ephemerals.send_ephemeral`; lost where a pooler does not let LISTEN through."""
        self._start()
        self._ephemerals.send(event)

    def wake(self, *users: str) -> None:
        """See `PostgresStore.wake`; the streams of this process, which ignores its own messages, are woken too."""
        super().wake(*users)
        self._live.catch_up(users)

    async def _close(self) -> None:
        self._live.close()
        await super()._close()

    def _on_open(self, user: str) -> None:
        self._users.setdefault(short_key(user), set()).add(user)

    def _on_close(self, user: str) -> None:
        key = short_key(user)
        users = self._users.get(key, set())
        users.discard(user)
        if not users:
            self._users.pop(key, None)

    def _on_stored(self, events: list[Event]) -> None:
        super()._on_stored(events)
        offer = self._live.offer
        for event in events:
            offer(event)

    def _on_wake(self, payload: str) -> None:
        """Read what a message announces, all its users in one query; our own events have been offered already."""
        if payload.startswith(MARK):
            self._ephemerals.take(payload)
            return
        origin, *keys = payload.split(" ")
        if origin != self._origin:
            self._live.catch_up(user for key in keys for user in self._users.get(key, ()))
