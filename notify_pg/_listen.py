"""Receives the notifications of one channel, over its own connection.

Its steps, which are repeated after each failure:


1. Connect: one connection for each process, which is never used for anything else. A transaction left open in it would
   keep the server from emptying its notification queue, and every listening session makes every NOTIFY slower.
2. LISTEN, and wait until the server has confirmed it. What is sent from now on is received.
3. Probe: a payload of our own takes the path of every wake message, through the publisher and the server, and has to
   come back. Once it has, `task_status.started()` is called. Another probe follows every `probe_interval` seconds.
4. Catch up: `started()` makes the caller read every log with an open stream (`LiveLog.catch_up`), hundreds of users per
   query. It must not read earlier: a read before LISTEN is confirmed misses what is sent in between.
5. Detect silence: the driver reports a lost connection within milliseconds. It cannot report a half-open one, nor a
   pooler in transaction mode, which accepts LISTEN and delivers nothing. There a probe does not come back within
   `probe_interval`.
6. Reconnect: `listen` terminates the connection (an orderly close may hang) and raises. The caller (`LiveLog`, or the
   notifier for a router) backs off, with a delay that grows, and calls it again: step 1. Until step 3 is reached it
   does not count as receiving, and streams find new events by polling.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Final

from anyio.abc import TaskStatus

from ._connection import PostgresDatabase
from ._pool import Connection
from ._wake import PostgresWakePublisher

PROBE: Final = "!"
"""The first character of every probe's payload, and of no other payload."""


class NotReceivingError(Exception):
    """The connection is open, but notifications do not arrive."""


class PostgresListener:
    """Listens to one channel.

    Invariants:
        I1. `started()` is called after LISTEN was confirmed and a probe has come back: whatever was committed before is
            found by a read from then on, and later notifications are received.
        I2. `listen` runs on only while the latest probe came back in time.

    Args:
        db: the database.
        publisher: sends the probes, over the same path as wake messages.
        channel: the channel's name.
        probe_interval: seconds between probes, and for each to come back.
        on_payload: called with each payload that is not a probe; never waits.

    Attributes:
        connections: how many connections have listened so far.
    """

    def __init__(
        self,
        db: PostgresDatabase,
        publisher: PostgresWakePublisher,
        channel: str,
        *,
        probe_interval: float,
        on_payload: Callable[[str], None],
    ) -> None:
        self._db = db
        self._publisher = publisher
        self._channel = channel
        self._probe_interval = probe_interval
        self._on_payload = on_payload
        self._tag = secrets.token_hex(4)
        self._probe = ""  # the one that has not come back yet
        self._changed = asyncio.Event()  # the probe has come back, or the connection is lost
        self._lost = self._has_received = False
        self.connections = 0

    async def listen(self, *, task_status: TaskStatus[None]) -> None:
        """Listen over one connection until it is lost.

        Args:
            task_status: `started()` is called once notifications are known to arrive.

        Raises:
            NotReceivingError: a probe did not come back.
            ConnectionError: the connection was lost.
        """
        self._lost = self._has_received = False
        async with self._db.listening_connection() as connection:
            connection.add_termination_listener(self._on_termination)
            await connection.add_listener(self._channel, self._on_notification)
            self.connections += 1
            await self._send_probe()
            self._has_received = True
            task_status.started()  # keeps I1
            while True:
                await self._wait(self._probe_interval)
                await self._send_probe()  # keeps I2

    async def _send_probe(self) -> None:
        """Send a probe and wait until it has come back."""
        self._probe = f"{PROBE}{self._tag} {secrets.token_hex(8)}"
        self._publisher.send_soon(self._probe)
        until = time.monotonic() + self._probe_interval
        while self._probe and time.monotonic() < until:
            await self._wait(until - time.monotonic())
        if self._probe:
            raise NotReceivingError(self._explain_silence())  # pragma: no cover - CPython 3.11 does not trace it

    async def _wait(self, seconds: float) -> None:
        """Wait until a probe comes back or the time is up; raise if the connection is lost."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
        if self._lost:
            raise ConnectionResetError("the listening connection was lost")

    def _explain_silence(self) -> str:
        if self._has_received or self._publisher.is_failing:
            return f"a probe did not come back within {self._probe_interval} s"
        return (
            "LISTEN was accepted, but nothing is delivered, as behind a pooler in transaction mode. Set listen_dsn= to "
            "an address of the server itself; until then each event arrives up to a second late"
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
