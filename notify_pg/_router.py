"""A router over NOTIFY: nothing is stored, and every instance of the database's applications hears every event."""

from __future__ import annotations

import logging
import secrets
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections import OrderedDict
from types import TracebackType
from typing import Final, Self

import asyncpg  # type: ignore[import-untyped]
from anyio.abc import TaskStatus

from notify import Background, CodecError, Event, RoutingInfo
from notify.abc import Deliver
from notify.errors import UsageError

from ._connection import PostgresDatabase
from ._listen import PostgresListener
from ._names import PostgresNames, short_key
from ._wake import MAX_PAYLOAD, PostgresWakePublisher

logger = logging.getLogger("notify.pg")

EVERYBODY: Final = "*"
"""Whom a payload is for: this, or the short key of an instance."""

HEADER: Final = 64
"""Bytes of a payload that hold no event, at most."""

PIECE: Final = MAX_PAYLOAD - HEADER

INCOMPLETE: Final = 64
"""Events of which only a part has arrived yet."""

_GRACE: Final = 1.0


class PostgresRouter:
    """Routes events over one channel of a PostgreSQL database. asyncio only.

    A payload of NOTIFY holds less than 8,000 bytes, so a larger event goes in several, of one transaction. What is lost
    (while an instance reconnects, say) is found in the log; an ephemeral event is not.

    Args:
        where: a DSN, or an asyncpg pool, which is never closed here.
        listen_dsn: where to listen, if `where` leads through a pooler.
        schema: names the channel, with the prefix: routers that share both share their events.
        table_prefix: as `schema`.
        max_size: bytes of an event's wire form; a larger one is not routed.
        heartbeat: seconds between two canaries; after two without one the connection is replaced.
        timeout: seconds for one call.
        pool_size: connections at most, where a DSN was given.

    Attributes:
        dropped: how many events were too large.

    Raises:
        UsageError: an argument is unacceptable.
    """

    def __init__(
        self,
        where: str | asyncpg.Pool,
        *,
        listen_dsn: str | None = None,
        schema: str = "public",
        table_prefix: str = "notify_",
        max_size: int = 262_144,
        heartbeat: float = 5.0,
        timeout: float = 4.0,
        pool_size: int = 2,
    ) -> None:
        if not heartbeat > 0 or not max_size > 0:
            raise UsageError(f"heartbeat and max_size are positive: {heartbeat!r}, {max_size!r}")
        self._name = type(self).__name__
        names = PostgresNames(schema, table_prefix)
        self._channel = names.route_channel
        self._db = PostgresDatabase(
            where, names, backend=self._name, timeout=timeout, pool_size=pool_size, tables=False
        )
        self._db.set_listen_dsn(listen_dsn)
        self._background = Background(self._name)
        self._publisher = PostgresWakePublisher(self._db, self._channel, self._background)
        self._heartbeat = heartbeat
        self._max_size = max_size
        self.dropped = 0

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        """See `notify.abc.Router.route`; events that wait while others are sent go together."""
        self._db.check()
        raw = event.to_bytes()
        if len(raw) > self._max_size:
            self.dropped += 1
            logger.warning("event %s has %d bytes and is not routed; the log has it", event.id, len(raw))
            return
        text = b64encode(raw).decode()
        target = EVERYBODY if to is None else short_key(to.instance_id)
        total = -(-len(text) // PIECE)
        name = secrets.token_hex(6)
        pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
        await self._publisher.tell(
            *(f"{target} {name} {number} {total} {piece}" for number, piece in enumerate(pieces))
        )

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        """See `notify.abc.ReceivingRouter.receive`; reconnects by itself."""
        self._db.check()
        inbox = FragmentAssembler(instance_id, deliver)
        listener = PostgresListener(
            self._db,
            self._publisher,
            self._channel,
            heartbeat=self._heartbeat,
            on_connected=task_status.started,
            on_payload=inbox.take,
        )
        await listener.listen()

    async def aclose(self) -> None:
        """Send what waits and close what is ours. Idempotent."""
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


class FragmentAssembler:
    """Puts the pieces of events together for one instance."""

    def __init__(self, instance_id: str, deliver: Deliver) -> None:
        self._targets = (EVERYBODY, short_key(instance_id))
        self._deliver = deliver
        self._pieces: OrderedDict[str, list[str]] = OrderedDict()

    def take(self, payload: str) -> None:
        """Take a payload; the pieces of one event come in order, perhaps with others between them."""
        try:
            target, name, number, total, piece = payload.split(" ")
            if target not in self._targets:
                return
            pieces = self._pieces.setdefault(name, [])
            if int(number) == len(pieces):
                pieces.append(piece)
            if len(self._pieces) > INCOMPLETE:
                self._pieces.popitem(last=False)
            if len(pieces) < int(total):
                return
            self._pieces.pop(name, None)
            event = Event.from_bytes(b64decode("".join(pieces), validate=True))
        except (ValueError, Base64Error, CodecError) as error:
            logger.warning("what was heard is no event of ours: %r", error)
        else:
            self._deliver(event)
