"""Receives the notifications of one channel, over a connection of its own; how it reconnects is told here.

1. Connect: one connection for each process, that is never used for anything else. A transaction left open in it would
   keep the server's notification queue from being emptied, and every listening session costs every NOTIFY.
2. LISTEN, and wait until the server has confirmed it. What is sent from now on is received.
3. Catch up: `on_listening` is called, and reads the logs. It must not be earlier: a read before the LISTEN is confirmed
   misses what is sent in between.
4. Probe: a payload of our own goes the way of every wake message, through the publisher and the server, and has to
   come back. Once it has, `is_receiving` is true. A further probe follows every `probe_interval` seconds.
5. Detect silence: a lost connection is reported by the driver within milliseconds. A half-open one is not, nor does a
   pooler in transaction mode report that it accepts LISTEN and delivers nothing; there the probe does not come back
   within `probe_interval`.
6. Back off: the connection is terminated (an orderly close may hang), and after a delay that grows the next one is
   opened, at step 1. Meanwhile `is_receiving` is false, and streams find new events by polling.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable
from typing import Final

from notify.adapters import OutageLog, backoff

from ._connection import PostgresDatabase
from ._errors import describe
from ._pool import Connection
from ._wake import PostgresWakePublisher

logger = logging.getLogger("notify.pg")

PROBE: Final = "!"
"""What the payload of a probe begins with, and no other payload."""


class NotReceivingError(Exception):
    """The connection is open, but notifications do not arrive."""


class PostgresListener:
    """Listens to one channel.

    Invariants:
        I1. `on_listening` is called after LISTEN was confirmed: what it reads, and what is received from then on,
            leaves nothing out.
        I2. `is_receiving` is true only while the latest probe came back in time.

    Args:
        db: the database.
        publisher: sends the probes, the way that every wake message takes.
        channel: the channel's name.
        probe_interval: seconds between probes, and for each to come back.
        on_listening: called when a connection listens.
        on_payload: called with each payload. Neither waits.

    Attributes:
        is_receiving: whether notifications are known to arrive.
        connections: how many connections have listened so far.
    """

    def __init__(
        self,
        db: PostgresDatabase,
        publisher: PostgresWakePublisher,
        channel: str,
        *,
        probe_interval: float,
        on_listening: Callable[[], None],
        on_payload: Callable[[str], None],
    ) -> None:
        self._db = db
        self._publisher = publisher
        self._channel = channel
        self._probe_interval = probe_interval
        self._on_listening = on_listening
        self._on_payload = on_payload
        self._tag = secrets.token_hex(4)
        self._probe = ""
        self._changed = asyncio.Event()  # the probe has come back, or the connection is lost
        self._lost = False
        self._outage = OutageLog(
            logger,
            f"notifications on {channel} are not received, so new events are polled for",
            f"notifications on {channel} are received again",
        )
        self.is_receiving = False
        self.connections = 0

    async def run(self) -> None:
        """Listen until cancelled, over a new connection after each loss."""
        delays = backoff(random.random, first=0.1, limit=5.0)
        while True:
            began = time.monotonic()
            try:
                await self.listen()
            except Exception as error:
                self._outage.failed(describe(error))
            if self.is_receiving or time.monotonic() - began > 4 * self._probe_interval:
                delays = backoff(random.random, first=0.1, limit=5.0)
            self.is_receiving = False  # keeps I2
            await asyncio.sleep(next(delays))

    async def listen(self) -> None:
        """Listen over one connection until it is lost.

        Raises:
            NotReceivingError: a probe did not come back.
            ConnectionError: the connection was lost.
        """
        self.is_receiving = self._lost = False
        async with self._db.listening_connection() as connection:
            connection.add_termination_listener(self._on_termination)
            await connection.add_listener(self._channel, self._on_notification)
            self.connections += 1
            self._on_listening()  # keeps I1
            while True:
                await self._send_probe()
                await self._wait(self._probe_interval)

    async def _send_probe(self) -> None:
        """Send a probe and wait until it has come back."""
        self._probe = f"{PROBE}{self._tag} {secrets.token_hex(8)}"
        self._publisher.send_soon(self._probe)
        until = time.monotonic() + self._probe_interval
        while self._probe and time.monotonic() < until:
            await self._wait(until - time.monotonic())
        if self._probe:
            reason = self._explain_silence()
            raise NotReceivingError(reason)  # pragma: no cover - CPython 3.11 does not trace what follows a throw
        self.is_receiving = True
        self._outage.recovered()

    async def _wait(self, seconds: float) -> None:
        """Wait until a probe comes back or the time is over; raise if the connection is lost."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
        if self._lost:
            raise ConnectionResetError("the listening connection was lost")

    def _explain_silence(self) -> str:
        if self.is_receiving or self._publisher.is_failing:
            return f"a probe did not come back within {self._probe_interval} s"
        return (
            "LISTEN was accepted, but nothing is delivered, as by a pooler in transaction mode. Set listen_dsn= to an "
            "address of the server itself; until then each event arrives up to a second late"
        )

    def _on_notification(self, _connection: Connection, _pid: int, _channel: str, payload: str) -> None:
        if payload == self._probe:
            self._probe = ""
            self._changed.set()
        elif not payload.startswith(PROBE):
            self._on_payload(payload)

    def _on_termination(self, _connection: Connection) -> None:
        self._lost = True
        self._changed.set()
