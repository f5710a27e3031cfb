"""Tells other processes which users have new events, by NOTIFY in a separate statement.

A NOTIFY holds a lock of the whole server until its commit has reached the disk. Saves that carried one would wait for
each other; measured with 32 clients, a sixth to a twelfth of the throughput was left. So a wake message is never part
of a transaction that saves, names many users at once, and does not wait for the disk. It is only a hint: what a lost
one announced is found by the audit.

A payload is the sender's origin, by which it recognizes its own messages, and the short keys of users.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Final, TypeAlias

from notify import Background, ClosedError, NotifyError
from notify.adapters import OutageLog

from ._connection import PostgresDatabase

logger = logging.getLogger("notify.pg")

MAX_PAYLOAD: Final = 7900
"""Bytes; the server accepts fewer than 8,000."""

WINDOW: Final = 0.0005
"""Seconds between two statements while more messages come in, so that one statement carries those of many saves."""


ErrorFuture: TypeAlias = "asyncio.Future[NotifyError | None]"
"""A future that is resolved with an error, or with None for success."""


class PostgresWakePublisher:
    """Sends notifications to one channel. Notifications that arrive while one is in progress go with the next.

    Args:
        db: the database.
        channel: the channel's name.
        background: its task sends.
        origin: begins each payload of short keys.

    Attributes:
        failures: how many statements have failed.
    """

    def __init__(self, db: PostgresDatabase, channel: str, background: Background, origin: str = "") -> None:
        self._db = db
        self._channel = channel
        self._background = background
        self._sql = db.names.sql("notify")
        self._keys: set[str] = set()
        self._payloads: list[str] = []
        self._waiting: list[ErrorFuture] = []
        self._origin = origin
        self._is_sending = False
        self._outage = OutageLog(
            logger, "NOTIFY is failing, so other processes find new events by polling", "NOTIFY works again"
        )
        self.failures = 0

    @property
    def is_failing(self) -> bool:
        """Whether the latest statement failed."""
        return self._outage.is_failing

    def publish(self, keys: Iterable[str]) -> None:
        """Announce new events of the users with these short keys. Never waits."""
        self._keys.update(keys)
        self._start()

    def send_soon(self, *payloads: str) -> None:
        """Send payloads as they are. Never waits."""
        self._payloads += payloads
        self._start()

    async def send(self, *payloads: str) -> None:
        """Send payloads as they are, and wait until the server has accepted them.

        Raises:
            BackendUnavailableError: they may not have been sent.
        """
        sent: ErrorFuture = asyncio.get_running_loop().create_future()
        self._waiting.append(sent)
        self.send_soon(*payloads)
        error = await sent
        if error is not None:
            raise error

    def _start(self) -> None:
        if not self._is_sending and not self._background.closed:
            self._is_sending = True
            self._background.start(self._send_pending)

    async def _send_pending(self) -> None:
        waiting: list[ErrorFuture] = []
        try:
            while self._keys or self._payloads:
                payloads, self._payloads = self._payloads, []
                waiting, self._waiting = self._waiting, []
                if self._keys:
                    payloads = [*payloads, *pack_keys(self._origin, self._keys)]
                    self._keys = set()
                began = time.monotonic()
                error = await self._execute(payloads)
                resolve_all(waiting, error)
                if self._keys or self._payloads:
                    await asyncio.sleep(max(0.0, began + WINDOW - time.monotonic()))
        finally:
            self._is_sending = False
            if self._background.closed:
                resolve_all([*waiting, *self._waiting], ClosedError("closed; the message may not have been sent"))

    async def _execute(self, payloads: list[str]) -> NotifyError | None:
        try:
            await self._db.fetch(self._sql, self._channel, payloads)
        except NotifyError as error:
            self.failures += 1
            self._outage.failed(error)
            return error
        self._outage.recovered()
        return None


def resolve_all(futures: Iterable[ErrorFuture], error: NotifyError | None) -> None:
    """Resolve the futures whose callers have not been cancelled."""
    for future in futures:
        if not future.done():
            future.set_result(error)


def pack_keys(origin: str, keys: Iterable[str]) -> list[str]:
    """Return payloads that together hold all keys, as many as fit into each."""
    keys = [*keys]
    whole = " ".join([origin, *keys])
    if len(whole) <= MAX_PAYLOAD:
        return [whole]
    payloads = [origin]
    for key in keys:
        if len(payloads[-1]) + 1 + len(key) > MAX_PAYLOAD:
            payloads.append(origin)
        payloads[-1] += f" {key}"
    return payloads
