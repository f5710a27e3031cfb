"""A router over NOTIFY: stores nothing, and every instance that shares the channel receives every event."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import ClassVar, Final, Self

import asyncpg  # type: ignore[import-untyped]
from anyio.abc import TaskStatus

from notify import Background, Event, Guarantees, RoutingInfo
from notify.abc import Deliver
from notify.errors import UsageError

from ._connection import PostgresDatabase
from ._fragments import ALL, FragmentAssembler, split
from ._listen import PostgresListener
from ._names import PostgresNames, short_key
from ._wake import PostgresWakePublisher

logger = logging.getLogger("notify.pg")

_GRACE: Final = 1.0


class PostgresRouter:
    """Routes events over one channel of a PostgreSQL database. asyncio only.

    A payload of NOTIFY holds less than 8,000 bytes, so a larger event is sent in fragments, in one transaction. What is
    lost, for example while an instance reconnects, is found in the log; an ephemeral event is not.

    Args:
        dsn: a DSN, or an asyncpg pool, which is never closed here.
        listen_dsn: the address to listen at, if `dsn` leads through a pooler.
        schema: names the channel, together with the prefix: routers that share both share their events.
        table_prefix: see `schema`.
        max_size: bytes of an event's wire form; a larger event is not routed.
        probe_interval: seconds between two probes of the listening connection, and for each to come back; a connection
            over which one does not come back is replaced.
        timeout: seconds for one call.
        pool_size: connections at most, where a DSN was given.

    Attributes:
        dropped: how many events were too large.

    Raises:
        UsageError: an argument is unacceptable.
    """

    guarantees: ClassVar = Guarantees(shared=True)

    def __init__(
        self,
        dsn: str | asyncpg.Pool,
        *,
        listen_dsn: str | None = None,
        schema: str = "public",
        table_prefix: str = "notify_",
        max_size: int = 262_144,
        probe_interval: float = 5.0,
        timeout: float = 4.0,
        pool_size: int = 2,
    ) -> None:
        for option, value in (("probe_interval", probe_interval), ("max_size", max_size)):
            if not value > 0:
                raise UsageError(f"{option} must be greater than 0, not {value!r}")
        self._name = type(self).__name__
        names = PostgresNames(schema, table_prefix)
        self._channel = names.route_channel
        self._db = PostgresDatabase(dsn, names, backend=self._name, timeout=timeout, pool_size=pool_size, tables=())
        self._db.set_listen_dsn(listen_dsn)
        self._background = Background(self._name)
        self._publisher = PostgresWakePublisher(self._db, self._channel, self._background)
        self._probe_interval = probe_interval
        self._max_size = max_size
        self.dropped = 0

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        """See `notify.abc.Router.route`; events that wait while others are being sent share the next statement."""
        self._db.check()
        raw = event.to_bytes()
        if len(raw) > self._max_size:
            self.dropped += 1
            logger.warning(
                "event %s is not routed: its %d bytes exceed max_size=%d; streams read it from the log",
                event.id, len(raw), self._max_size,
            )  # fmt: skip
            return
        target = ALL if to is None else short_key(to.instance_id)
        await self._publisher.send(*split(target, raw))

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        """See `notify.abc.ReceivingRouter.receive`; returns only by an exception, when the connection is lost."""
        self._db.check()
        assembler = FragmentAssembler(deliver)
        targets = (ALL, short_key(instance_id))

        def take(payload: str) -> None:
            if payload.partition(" ")[0] in targets:
                assembler.take(payload)

        listener = PostgresListener(
            self._db,
            self._publisher,
            self._channel,
            probe_interval=self._probe_interval,
            on_payload=take,
        )
        await listener.listen(task_status=task_status)

    async def aclose(self) -> None:
        """Send what is waiting and close the connections that the router has opened. Idempotent."""
        if not self._db.closed:
            self._db.close()
            await self._background.settle(_GRACE)
            await self._background.aclose(_GRACE)
            await self._db.aclose()

    async def __aenter__(self) -> Self:
        """Return the router; it connects at first use."""
        self._db.check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()
