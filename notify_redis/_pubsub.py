"""One pub/sub connection to one master: subscribed to what is wanted here, made again when it breaks or goes deaf.

The driver's own pub/sub reconnects in silence and loses what was published meanwhile; it never notices a server that
hangs. So the connection is plain, each new one is told to the owner, and a probe that is published through the command
path has to come back through this one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
import anyio.lowlevel
from redis.exceptions import RedisError, ResponseError

from notify.adapters import OutageLog, backoff
from notify.errors import ClosedError

from ._client import RedisClient, RedisNode
from ._connection import Connection, Replies, hang_up, pack
from ._errors import FAILURES, NoAnswerError

logger = logging.getLogger("notify.redis")

NAMES_PER_COMMAND: Final = 512
MESSAGES_PER_YIELD: Final = 64
STEADY: Final = 10.0
"""Seconds that a connection must have lasted for the next attempt to come at once."""


class PubSubConnection:
    """See above.

    Invariants:
        I1. `_told` holds the channels that the server was told to send and not told to stop since, over the connection
            of the moment; `_awaiting` how many of its confirmations are still to come.
        I2. A channel is confirmed when it is told and awaits nothing: whatever is published from then on is heard.

    Args:
        client: of the owner.
        node: the master.
        probe: the channel of the probe, and its partition.
        interval: seconds between two canaries; after two without one the connection counts as deaf.
        on_message: called with each channel and message.
        on_alive: called with this listener when everything wanted is confirmed over a new connection.
        on_dead: called when a connection has ended, or could not be made.
        on_proven: called when the first probe has come back over a new connection.
        on_confirmed: called with a channel that was confirmed later than that.
        on_lost: called with a channel that the server has unsubscribed by itself.

    Attributes:
        alive: whether it is known to hear.
        proven: whether a probe has come back.
        connections: how many there were.
    """

    def __init__(
        self,
        client: RedisClient,
        node: RedisNode,
        *,
        probe: tuple[bytes, int],
        interval: float,
        on_message: Callable[[bytes, bytes], None],
        on_alive: Callable[[PubSubConnection], None],
        on_dead: Callable[[], None],
        on_proven: Callable[[], None],
        on_confirmed: Callable[[bytes], None],
        on_lost: Callable[[bytes], None],
    ) -> None:
        self.node = node
        self.alive = self.proven = False
        self.connections = 0
        self._client = client
        self._probe, self._probe_partition = probe
        self._interval = interval
        self._on_message = on_message
        self._on_alive = on_alive
        self._on_dead = on_dead
        self._on_proven = on_proven
        self._on_confirmed = on_confirmed
        self._on_lost = on_lost
        self._wanted: dict[bytes, int] = {self._probe: self._probe_partition}
        self._changed: dict[bytes, None] = {}
        self._told: set[bytes] = set()
        self._awaiting: Counter[bytes] = Counter()
        self._leaving: Counter[bytes] = Counter()
        self._initial: set[bytes] | None = None  # what is to be confirmed before all is heard; None: not told yet
        self._wake: asyncio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._last_heard = 0.0
        self._nonce = b""
        self._outage = OutageLog(
            logger, f"{client.name} does not hear {client.endpoint}", f"{client.name} hears {client.endpoint} again"
        )
        verb = b"S" if client.is_cluster else b""
        self._subscribe, self._unsubscribe = verb + b"SUBSCRIBE", verb + b"UNSUBSCRIBE"

    def add(self, channel: bytes, partition: int) -> None:
        """Want a channel. Never waits."""
        self._wanted[channel] = partition
        self._change(channel)

    def remove(self, channel: bytes) -> None:
        """Want a channel no more. Never waits: called in finalisers too."""
        if self._wanted.pop(channel, None) is not None:
            self._change(channel)

    def hears(self, channel: bytes) -> bool:
        """Return whether the channel is confirmed."""
        return channel in self._told and not self._awaiting[channel] and channel in self._wanted

    def stop(self) -> None:
        """End for good."""
        if self._scope is not None:  # pragma: no branch - else it has not run yet
            self._scope.cancel()

    async def run(self) -> None:
        """Listen until stopped: connect again after every failure, at once after a connection that had lasted."""
        with anyio.CancelScope() as self._scope:
            delays = backoff(random.random, limit=2.0)
            while True:
                began = time.monotonic()
                failure = await self._listen()
                if self._client.closed:  # pragma: no cover - CPython 3.11 does not trace what follows a throw
                    return
                if time.monotonic() - began > STEADY:
                    delays = backoff(random.random, limit=2.0)
                await self._pause(failure, next(delays))

    async def _pause(self, failure: Exception, delay: float) -> None:
        """Tell that nothing is heard, and wait."""
        self._on_dead()
        self._outage.failed(failure)
        if self._client.endpoint.seeds:
            with suppress(*FAILURES):
                await self._client.refresh()
        await anyio.sleep(delay)

    # -- one connection ------------------------------------------------------------------------------------------

    async def _listen(self) -> Exception:
        """Listen over one connection and return why it ended."""
        connection: Connection | None = None
        failure: Exception = NoAnswerError("the connection ended")
        try:
            try:
                connection = await self.node.connect()
                self.connections += 1
                self._told.clear()
                self._awaiting.clear()
                self._leaving.clear()
                self._initial = None
                self._changed = dict.fromkeys(self._wanted)
                self._wake, confirmed = asyncio.Event(), asyncio.Event()
                self._last_heard = time.monotonic()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._tell, connection, self._wake)
                    tasks.start_soon(self._send_probes, confirmed)
                    await self._read(connection, confirmed)
            except* (RedisError, OSError, ClosedError, *FAILURES) as group:
                failure = first_of(group)
        finally:
            self._wake = None
            self.alive = self.proven = False
            self._told.clear()
            if connection is not None:
                await hang_up(connection)
        return failure

    async def _tell(self, connection: Connection, wake: asyncio.Event) -> None:
        """Tell the server what is wanted, and what no more."""
        while True:
            changed, self._changed = self._changed, {}
            wanted, told = self._wanted, self._told
            new = [channel for channel in changed if channel in wanted and channel not in told]
            old = [channel for channel in changed if channel not in wanted and channel in told]
            told.update(new)
            told.difference_update(old)
            self._awaiting.update(new)  # keeps I1
            self._leaving.update(old)
            if self._initial is None:
                self._initial = set(new)
            commands = [pack(self._unsubscribe, *names) for names in self._batches(old)]
            commands += [pack(self._subscribe, *names) for names in self._batches(new)]
            if commands:
                await connection.send_packed_command(b"".join(commands), check_health=False)
            wake.clear()
            if not self._changed:  # pragma: no branch - else something has changed while it was sent
                await wake.wait()

    def _batches(self, channels: list[bytes]) -> list[list[bytes]]:
        """Return the channels in portions that one command may name: of one slot in a cluster."""
        groups = [channels]
        if self._client.is_cluster:
            by_tag: dict[bytes, list[bytes]] = {}
            for channel in channels:
                by_tag.setdefault(channel[: channel.index(b"}")], []).append(channel)
            groups = list(by_tag.values())
        step = NAMES_PER_COMMAND
        return [group[start : start + step] for group in groups for start in range(0, len(group), step)]

    async def _read(self, connection: Connection, confirmed: asyncio.Event) -> None:
        since_yield = 0
        on_message, probe, replies = self._on_message, self._probe, Replies(connection)
        while True:
            for reply in await replies.take():
                if isinstance(reply, ResponseError):
                    raise reply
                kind, channel, data = reply
                if kind in (b"message", b"smessage"):
                    if channel == probe:
                        self._receive_probe(data)
                    else:
                        on_message(channel, data)
                else:
                    self._confirm(kind, channel, confirmed)
                since_yield += 1
                if since_yield >= MESSAGES_PER_YIELD:
                    since_yield = 0
                    await anyio.lowlevel.checkpoint()

    def _receive_probe(self, nonce: bytes) -> None:
        if nonce == self._nonce:  # pragma: no branch - else it is a late one
            self._last_heard = time.monotonic()
            if not self.proven:
                self.proven = True
                self._on_proven()

    def _confirm(self, kind: bytes, channel: bytes, confirmed: asyncio.Event) -> None:
        if kind.endswith(b"unsubscribe"):
            if self._leaving[channel] > 0:
                self._leaving[channel] -= 1
                if not self._leaving[channel]:  # pragma: no branch - else it was wanted and left again meanwhile
                    del self._leaving[channel]
            elif channel in self._told:  # pragma: no branch - nobody asked for it: the slot has gone to another master
                self._told.discard(channel)
                self._on_lost(channel)
            return
        self._awaiting[channel] -= 1
        if self._awaiting[channel] <= 0:  # pragma: no branch - else it was left and wanted again meanwhile
            del self._awaiting[channel]
        if self._initial:
            self._initial.discard(channel)
            if not self._initial:
                self.alive = True
                self._outage.recovered()
                confirmed.set()
                self._on_alive(self)
        elif self.hears(channel):
            self._on_confirmed(channel)

    async def _send_probes(self, confirmed: asyncio.Event) -> None:
        """Publish the probe again and again, and break the connection off once it is not heard any more."""
        with anyio.move_on_after(2 * self._interval):
            await confirmed.wait()  # it would not be heard before
        self._last_heard = time.monotonic()
        if not confirmed.is_set():  # pragma: no cover - a server that takes subscriptions and keeps silent
            raise NoAnswerError(f"no subscription was confirmed for {2 * self._interval:.0f} s")
        while True:
            self._nonce = secrets.token_hex(8).encode()
            command = pack(self._client.publish, self._probe, self._nonce)
            began = time.monotonic()
            with suppress(*FAILURES):
                await self._client.ask([(self._probe_partition, command)], self._interval / 2)
            while time.monotonic() - began < self._interval:
                await anyio.sleep(self._interval / 4)
                if time.monotonic() - self._last_heard > 2 * self._interval:
                    raise NoAnswerError(f"nothing was heard for {2 * self._interval:.0f} s")

    def _change(self, channel: bytes) -> None:
        self._changed[channel] = None
        if self._wake is not None:
            with suppress(RuntimeError):  # a finaliser after the event loop has ended
                self._wake.set()


def first_of(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first exception in a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
