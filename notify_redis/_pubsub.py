"""One pub/sub connection, used once: it subscribes, reads, checks by probes that it receives, and ends with an error.

Nothing is reset here and nothing reconnects: `_listen` makes a new `PubSubConnection` after each failure.

The driver's own pub/sub is not used. It reconnects by itself without saying so, which loses what was published in
between, and it never notices a server or a network that silently stopped sending. A probe does: it is published through
the command connection and has to arrive here. That proves the whole path; a TCP keepalive or a PING would prove only
that the server answers.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

import anyio
import anyio.lowlevel
from redis.exceptions import RedisError, ResponseError

from notify.errors import ClosedError

from ._client import RedisClient
from ._connection import Connection, Replies, pack
from ._errors import FAILURES, NoAnswerError

NAMES_PER_COMMAND: Final = 512
MESSAGES_PER_YIELD: Final = 64

SILENT_PROBES: Final = 2
"""Probe intervals without a probe after which the connection counts as broken."""


class PubSubEvents(Protocol):
    """What a connection reports to: `Subscriptions`. None of these functions waits or raises."""

    @abstractmethod
    def on_proven(self) -> None:
        """The first probe has arrived."""

    @abstractmethod
    def on_confirmed(self, channel: bytes) -> None:
        """A channel that was added later is confirmed."""

    @abstractmethod
    def on_unsubscribed(self, channel: bytes) -> None:
        """The server has ended a subscription by itself: the channel's slot has moved to another master."""


class PubSubConnection:
    """One connection from its subscriptions to its failure.

    Invariants:
        I1. `_subscribed` holds the channels with a SUBSCRIBE sent and no UNSUBSCRIBE since; `_unconfirmed` counts how
            many confirmations of each are still to come.
        I2. A channel is received once it is subscribed and nothing of it is unconfirmed: every message published from
            then on arrives.

    Args:
        connection: to one master, open, used by nothing else.
        client: publishes the probes.
        events: what it reports to.
        channels: subscribed to from the beginning.
        probe: the channel of the probe, and its partition.
        probe_interval: seconds between two probes.
        on_receiving: called once, when all `channels` are confirmed.
        on_message: called with each channel and message.

    Attributes:
        is_receiving: whether all `channels` are confirmed.
        is_proven: whether a probe has arrived.
    """

    def __init__(
        self,
        connection: Connection,
        client: RedisClient,
        events: PubSubEvents,
        *,
        channels: Iterable[bytes],
        probe: tuple[bytes, int],
        probe_interval: float,
        on_receiving: Callable[[], None],
        on_message: Callable[[bytes, bytes], None],
    ) -> None:
        self.is_receiving = self.is_proven = False
        self._connection = connection
        self._client = client
        self._events = events
        self._probe, self._probe_partition = probe
        self._probe_interval = probe_interval
        self._on_receiving = on_receiving
        self._on_message = on_message
        self._wanted = {self._probe, *channels}
        self._changed: dict[bytes, None] = dict.fromkeys(self._wanted)
        self._subscribed: set[bytes] = set()
        self._unconfirmed: Counter[bytes] = Counter()
        self._unsubscribing: Counter[bytes] = Counter()
        self._initial: set[bytes] | None = None  # still to be confirmed before `is_receiving`; None: nothing was sent
        self._wake = asyncio.Event()
        self._receiving = asyncio.Event()
        self._last_probe = time.monotonic()
        self._nonce = b""
        verb = b"S" if client.is_cluster else b""
        self._subscribe, self._unsubscribe = verb + b"SUBSCRIBE", verb + b"UNSUBSCRIBE"

    def subscribe(self, channel: bytes) -> None:
        """Subscribe to one more channel. Never waits."""
        self._wanted.add(channel)
        self._change(channel)

    def unsubscribe(self, channel: bytes) -> None:
        """Unsubscribe from a channel. Never waits: called in finalisers too."""
        if channel in self._wanted:
            self._wanted.discard(channel)
            self._change(channel)

    def receives(self, channel: bytes) -> bool:
        """Return whether every message published on this channel from now on arrives."""
        return channel in self._subscribed and not self._unconfirmed[channel] and channel in self._wanted

    async def run(self) -> None:
        """Receive until the connection fails.

        Raises:
            RedisError, OSError: it broke.
            NoAnswerError: nothing was received for too long.
        """
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send_subscriptions)
                tasks.start_soon(self._send_probes)
                await self._read()
        except* (RedisError, OSError, ClosedError, *FAILURES) as group:
            failure = first_of(group)
        assert failure is not None
        raise failure

    # -- subscribing ---------------------------------------------------------------------------------------------

    def _change(self, channel: bytes) -> None:
        self._changed[channel] = None
        with suppress(RuntimeError):  # a finaliser after the event loop has ended
            self._wake.set()

    async def _send_subscriptions(self) -> None:
        """Send what has changed since the last time, in few commands, whenever something has."""
        while True:
            changed, self._changed = self._changed, {}
            wanted, subscribed = self._wanted, self._subscribed
            new = [channel for channel in changed if channel in wanted and channel not in subscribed]
            old = [channel for channel in changed if channel not in wanted and channel in subscribed]
            subscribed.update(new)
            subscribed.difference_update(old)
            self._unconfirmed.update(new)  # keeps I1
            self._unsubscribing.update(old)
            if self._initial is None:
                self._initial = set(new)
            commands = [pack(self._unsubscribe, *names) for names in self._batches(old)]
            commands += [pack(self._subscribe, *names) for names in self._batches(new)]
            if commands:
                await self._connection.send_packed_command(b"".join(commands), check_health=False)
            self._wake.clear()
            if not self._changed:  # pragma: no branch - else something has changed while it was sent
                await self._wake.wait()

    def _batches(self, channels: list[bytes]) -> list[list[bytes]]:
        """Return the channels in groups that one command may name: of one hash slot in a cluster."""
        groups = [channels]
        if self._client.is_cluster:
            by_tag: dict[bytes, list[bytes]] = {}
            for channel in channels:
                by_tag.setdefault(channel[: channel.index(b"}")], []).append(channel)
            groups = list(by_tag.values())
        step = NAMES_PER_COMMAND
        return [group[start : start + step] for group in groups for start in range(0, len(group), step)]

    # -- receiving -----------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        since_yield = 0
        on_message, probe, replies = self._on_message, self._probe, Replies(self._connection)
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
                    self._receive_confirmation(kind, channel)
                since_yield += 1
                if since_yield >= MESSAGES_PER_YIELD:
                    since_yield = 0
                    await anyio.lowlevel.checkpoint()

    def _receive_probe(self, nonce: bytes) -> None:
        if nonce == self._nonce:  # pragma: no branch - else it is a late probe
            self._last_probe = time.monotonic()
            if not self.is_proven:
                self.is_proven = True
                self._events.on_proven()

    def _receive_confirmation(self, kind: bytes, channel: bytes) -> None:
        if kind.endswith(b"unsubscribe"):
            self._receive_unsubscription(channel)
            return
        self._unconfirmed[channel] -= 1
        if self._unconfirmed[channel] <= 0:  # pragma: no branch - else it was left and wanted again in between
            del self._unconfirmed[channel]
        if self._initial:
            self._initial.discard(channel)
            if not self._initial:
                self.is_receiving = True
                self._receiving.set()
                self._on_receiving()
        elif self.receives(channel):
            self._events.on_confirmed(channel)

    def _receive_unsubscription(self, channel: bytes) -> None:
        if self._unsubscribing[channel] > 0:
            self._unsubscribing[channel] -= 1
            if not self._unsubscribing[channel]:  # pragma: no branch - else it was wanted and left again in between
                del self._unsubscribing[channel]
        elif channel in self._subscribed:  # pragma: no branch - not asked for: the slot has moved
            self._subscribed.discard(channel)
            self._events.on_unsubscribed(channel)

    # -- probes --------------------------------------------------------------------------------------------------

    async def _send_probes(self) -> None:
        """Publish a probe every interval; raise once none has arrived for SILENT_PROBES intervals."""
        patience = SILENT_PROBES * self._probe_interval
        with anyio.move_on_after(patience):
            await self._receiving.wait()  # a probe would not arrive before
        self._last_probe = time.monotonic()
        if not self.is_receiving:  # pragma: no cover - a server that never confirms
            raise NoAnswerError(f"no subscription was confirmed for {patience:.0f} s")
        while True:
            self._nonce = secrets.token_hex(8).encode()
            command = pack(self._client.publish, self._probe, self._nonce)
            began = time.monotonic()
            with suppress(*FAILURES):
                await self._client.ask([(self._probe_partition, command)], self._probe_interval / 2)
            while time.monotonic() - began < self._probe_interval:
                await anyio.sleep(self._probe_interval / 4)
                if time.monotonic() - self._last_probe > patience:
                    raise NoAnswerError(f"no probe arrived for {patience:.0f} s")


def first_of(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first exception in a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
