"""Hears a channel: over one connection of its own, which is opened again after each loss and proven by canaries."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from typing import Final

from ._connection import PostgresDatabase
from ._errors import describe
from ._pauses import pauses
from ._pool import Connection
from ._trouble import Trouble
from ._wake import PostgresWakePublisher

PROBE: Final = "!"
"""What a canary begins with, and nothing else."""


class NotReceivingError(Exception):
    """The connection does not hear what was said on the channel."""


class PostgresListener:
    """Listens until cancelled.

    Invariants:
        I1. `on_connected` is called after LISTEN has completed: what it reads then, and what is heard from then on,
            leaves nothing out.
        I2. `is_receiving` is true only while the last canary came back in time.

    The listening connection runs nothing but LISTEN: a transaction left open in it would keep the server's queue from
    being emptied.

    Args:
        db: where.
        doorbell: sends the canaries, the way that every hint takes.
        channel: what to hear.
        heartbeat: seconds between canaries, and for each to come back.
        on_connected: called when a connection listens.
        on_payload: called with what is heard. Neither waits.
    """

    def __init__(
        self,
        db: PostgresDatabase,
        doorbell: PostgresWakePublisher,
        channel: str,
        *,
        heartbeat: float,
        on_connected: Callable[[], None],
        on_payload: Callable[[str], None],
    ) -> None:
        self._db = db
        self._doorbell = doorbell
        self._channel = channel
        self._heartbeat = heartbeat
        self._on_connected = on_connected
        self._on_payload = on_payload
        self._tag = secrets.token_hex(4)
        self._canary = ""
        self._pulse = asyncio.Event()
        self._lost = False
        self._trouble = Trouble(f"{channel} is not heard, so news is looked for", f"{channel} is heard again")
        self.is_receiving = False
        self.connections = 0

    async def run(self) -> None:
        """Listen until cancelled, again after each loss."""
        delays = pauses(random.random, first=0.1, limit=5.0)
        while True:
            began = time.monotonic()
            try:
                await self.listen()
            except Exception as error:
                self._trouble.met(describe(error))
            if self.is_receiving or time.monotonic() - began > 4 * self._heartbeat:
                delays = pauses(random.random, first=0.1, limit=5.0)
            self.is_receiving = False  # keeps I2
            await asyncio.sleep(next(delays))

    async def listen(self) -> None:
        """Listen over one connection until it is lost.

        Raises:
            NotReceivingError: canaries do not come back.
            ConnectionError: it was lost.
        """
        self.is_receiving = self._lost = False
        async with self._db.listening_connection() as connection:
            connection.add_termination_listener(self._end)
            await connection.add_listener(self._channel, self._hear)
            self.connections += 1
            self._on_connected()  # keeps I1
            while True:
                await self._prove()
                await self._wait(self._heartbeat)

    async def _prove(self) -> None:
        """Send a canary and wait until it is back."""
        self._canary = f"{PROBE}{self._tag} {secrets.token_hex(8)}"
        self._doorbell.say(self._canary)
        until = time.monotonic() + self._heartbeat
        while self._canary and time.monotonic() < until:
            await self._wait(until - time.monotonic())
        if self._canary:
            raise NotReceivingError(
                self._diagnosis()
            )  # pragma: no cover - CPython 3.11 does not trace what follows a throw
        self.is_receiving = True
        self._trouble.ended()

    async def _wait(self, seconds: float) -> None:
        """Wait until a canary is heard or the time is over; raise if the connection is lost."""
        self._pulse.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._pulse.wait()
        except TimeoutError:
            pass
        if self._lost:
            raise ConnectionResetError("the connection was lost")

    def _diagnosis(self) -> str:
        if self.is_receiving or self._doorbell.is_broken:
            return f"no echo within {self._heartbeat} s"
        return (
            "LISTEN was accepted, but nothing is heard: a pooler in transaction mode stands in between. Give "
            "`listen_dsn`, which leads to the server itself; until then each event arrives up to a second late"
        )

    def _hear(self, _connection: Connection, _pid: int, _channel: str, payload: str) -> None:
        if payload == self._canary:
            self._canary = ""
            self._pulse.set()
        elif not payload.startswith(PROBE):
            self._on_payload(payload)

    def _end(self, _connection: Connection) -> None:
        self._lost = True
        self._pulse.set()
