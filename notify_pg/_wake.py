"""The doorbell: tells every listening process which users have news. Never part of a transaction that saves.

A NOTIFY holds a lock of the whole server until its commit has reached the disk, so saves that carried one would queue
up behind each other. A ring is a statement of its own, names many users at once, and does not wait for the disk. It is
only a hint: what fails here is found by audits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final, TypeAlias

from notify import Background, ClosedError, NotifyError

from ._connection import PostgresDatabase
from ._trouble import Trouble

MAX_PAYLOAD: Final = 7900
"""Bytes; the server takes fewer than 8,000."""

WINDOW: Final = 0.001
"""Seconds from one ring to the next while more comes in."""


ErrorFuture: TypeAlias = "asyncio.Future[NotifyError | None]"
"""Somebody who waits for an error, or for none."""


class PostgresWakePublisher:
    """Rings on one channel.

    Args:
        db: where.
        channel: on which.
        background: whose task rings.

    Attributes:
        failures: how many rings have failed.
    """

    def __init__(self, db: PostgresDatabase, channel: str, background: Background) -> None:
        self._db = db
        self._channel = channel
        self._background = background
        self._sql = db.names.sql("ring")
        self._keys: set[str] = set()
        self._words: list[str] = []
        self._waiting: list[ErrorFuture] = []
        self._tag = ""
        self._is_sending = False
        self._trouble = Trouble(
            "the doorbell does not ring, so others look for news by themselves", "the doorbell rings again"
        )
        self.failures = 0

    @property
    def is_broken(self) -> bool:
        """Whether the last ring has failed."""
        return self._trouble.lasts

    def ring(self, tag: str, keys: Iterable[str]) -> None:
        """Announce news under these short keys. Never waits."""
        self._tag = tag
        self._keys.update(keys)
        self._start()

    def say(self, *payloads: str) -> None:
        """Send whole payloads as they are."""
        self._words += payloads
        self._start()

    async def tell(self, *payloads: str) -> None:
        """Send whole payloads as they are, and wait until they are sent.

        Raises:
            BackendUnavailableError: they may not have been.
        """
        waiter: ErrorFuture = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self.say(*payloads)
        error = await waiter
        if error is not None:
            raise error

    def _start(self) -> None:
        if not self._is_sending and not self._background.closed:
            self._is_sending = True
            self._background.start(self._ring)

    async def _ring(self) -> None:
        waiting: list[ErrorFuture] = []
        try:
            while self._keys or self._words:
                payloads, self._words = self._words, []
                waiting, self._waiting = self._waiting, []
                if self._keys:
                    payloads = [*payloads, *pack_keys(self._tag, self._keys)]
                    self._keys = set()
                began = time.monotonic()
                error = await self._send(payloads)
                resolve_all(waiting, error)
                if self._keys or self._words:
                    await asyncio.sleep(max(0.0, began + WINDOW - time.monotonic()))
        finally:
            self._is_sending = False
            if self._background.closed:
                resolve_all([*waiting, *self._waiting], ClosedError("closed; it may not have been sent"))

    async def _send(self, payloads: list[str]) -> NotifyError | None:
        try:
            await self._db.fetch(self._sql, self._channel, payloads)
        except NotifyError as error:
            self.failures += 1
            self._trouble.met(str(error))
            return error
        self._trouble.ended()
        return None


def resolve_all(waiters: Iterable[ErrorFuture], error: NotifyError | None) -> None:
    """Tell the outcome to whoever still waits."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(error)


def pack_keys(tag: str, keys: Iterable[str]) -> list[str]:
    """Return payloads that hold all keys, each payload as many as fit."""
    keys = [*keys]
    whole = " ".join([tag, *keys])
    if len(whole) <= MAX_PAYLOAD:
        return [whole]
    payloads = [tag]
    for key in keys:
        if len(payloads[-1]) + 1 + len(key) > MAX_PAYLOAD:
            payloads.append(tag)
        payloads[-1] += f" {key}"
    return payloads
