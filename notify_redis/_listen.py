"""Receiving: keeps this process subscribed to its channels, over one pub/sub connection to each master.

`Subscriptions._stay_connected` runs once for each master. It goes through these steps, and starts again with the first
one whenever the connection fails:

1. *Connect* to the master.
2. *Subscribe* to every channel that is open here and belongs to that master, and to the probe's channel.
3. *Confirm*: once the server has confirmed all of them, every message published from then on arrives (`is_receiving`).
4. *Catch up*: messages published between the failure and the confirmation are lost, so `on_gap(None)` makes a store
   read the logs of all its users (a router has none to read). The first connection needs no catch-up, because streams
   read the log only after it is confirmed. A channel that was read earlier is in `_late`, and gets its own catch-up.
5. *Probe*: every `probe_interval`, publish a nonce through the command connection. It has to arrive here.
6. *Detect silence*: if no probe arrives for two intervals, the connection is dead, even though no error was raised.
7. *Disconnect*, on silence or on any error. Calls of `ready` stop waiting for confirmations. While `is_receiving` is
   false, the store's streams look for new events in the log every second.
8. *Back off*: in a cluster and with Sentinel, ask which nodes are masters now. Then wait: 0.05 seconds at first, twice
   as long after each failure, at most 2 seconds. Half of each delay is random.
9. *Reconnect*: continue with step 1. If the connection had lasted longer than 10 seconds, the delays start again at the
   shortest one.

| State      | Event                                  | Next                                             |
|------------|----------------------------------------|--------------------------------------------------|
| connecting | connected: the channels are sent       | confirming                                       |
| confirming | all channels confirmed                 | receiving; `on_gap(None)` unless it is the first |
| receiving  | a message                              | receiving; `on_message`                          |
| receiving  | `open`: SUBSCRIBE is sent              | receiving; that channel is confirmed later       |
| receiving  | the server ends a subscription (moved) | receiving; look up its master, subscribe there   |
| any        | an error, or two intervals of silence  | backing off                                      |
| backing off| the delay has passed                   | connecting                                       |
| any        | the node is no longer a master         | stopped                                          |
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final

import anyio
from redis.exceptions import RedisError

from notify.adapters import OutageLog, backoff
from notify.errors import ClosedError

from ._client import RedisClient, RedisNode
from ._connection import Connection, format_address, hang_up
from ._errors import FAILURES, NoAnswerError, bug, phrase
from ._names import PARTITIONS
from ._pubsub import PubSubConnection

logger = logging.getLogger("notify.redis")

MAX_DELAY: Final = 2.0

STEADY_AFTER: Final = 10.0
"""Seconds that a connection must have lasted for the delays to start again at the shortest."""


def _delays() -> Iterator[float]:
    return backoff(random.random, first=0.05, limit=MAX_DELAY)


class _Master:
    """What is known about one master.

    Attributes:
        probe: the channel of the probe, and its partition.
        connection: the current one; None while disconnected.
        connections: how many connections have been opened so far.
        scope: cancels the task that keeps this master connected.
    """

    def __init__(self, node: RedisNode, probe: tuple[bytes, int], outage: OutageLog) -> None:
        self.node = node
        self.probe = probe
        self.outage = outage
        self.connection: PubSubConnection | None = None
        self.connections = 0
        self.scope = anyio.CancelScope()


class Subscriptions:
    """The channels that this process is subscribed to, kept alive by the steps above.

    Args:
        client: knows the masters, and connects to them.
        probe: returns the channel of the probe in a partition.
        probe_interval: seconds between two probes.
        on_message: called with each channel and message.
        on_gap: called when messages may have been missed: with the channel, or with None if it may be any channel.

    Attributes:
        connections: how many connections have been opened so far, to all masters together.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        probe: Callable[[int], bytes],
        probe_interval: float,
        on_message: Callable[[bytes, bytes], None],
        on_gap: Callable[[bytes | None], None],
    ) -> None:
        self.connections = 0
        self._client = client
        self._probe = probe
        self._probe_interval = probe_interval
        self._on_message = on_message
        self._on_gap = on_gap
        self._channels: dict[bytes, int] = {}
        self._masters: dict[RedisNode, _Master] = {}
        self._unconfirmed: dict[bytes, list[asyncio.Future[None]]] = {}  # what `ready` waits for, by channel
        self._unproven: list[asyncio.Future[None]] = []  # what `ready` waits for at first: a probe of every master
        self._proven = False
        self._late: set[bytes] = set()  # messages may be missing: `on_gap` once confirmed
        self._started = self._stopped = False
        self._failed = False  # a master does not receive, so `ready` does not wait
        client.moved.append(self._rebalance)

    @property
    def is_receiving(self) -> bool:
        """Whether every master's connection is confirmed."""
        return bool(self._masters) and all(
            each.connection is not None and each.connection.is_receiving for each in self._masters.values()
        )

    @property
    def is_reliable(self) -> bool:
        """Whether no log has to be polled; messages that are published while a connection is lost do not arrive."""
        return self.is_receiving

    def __contains__(self, channel: object) -> bool:
        """Return whether a channel is open here."""
        return channel in self._channels

    def open(self, channel: bytes, partition: int) -> None:
        """Subscribe to a channel. Never waits."""
        self._channels[channel] = partition
        self.start()
        if self._masters:
            self._subscribe(channel, partition)

    def close(self, channel: bytes) -> None:
        """Unsubscribe from a channel. Never waits: called in finalisers too."""
        self._channels.pop(channel, None)
        self._late.discard(channel)
        for connection in self._open_connections():
            connection.unsubscribe(channel)

    def receives(self, channel: bytes) -> bool:
        """Return whether every message published on this channel from now on arrives."""
        return any(connection.receives(channel) for connection in self._open_connections())

    async def ready(self, channel: bytes, timeout: float) -> None:
        """Wait until a channel is confirmed; if that takes too long or fails, `on_gap` is called once it is confirmed.

        The first calls also wait for a probe from every master, so that all connections of this process are then open.
        """
        if not self._proven and not self._failed:
            proven: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._unproven.append(proven)
            with anyio.move_on_after(timeout):
                await proven
        if channel not in self._channels or self.receives(channel):
            return
        if not self._failed:
            confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._unconfirmed.setdefault(channel, []).append(confirmed)
            with anyio.move_on_after(timeout):
                await confirmed
        if channel in self._channels and not self.receives(channel):
            self._late.add(channel)

    def start(self) -> None:
        """Start connecting, unless that was done before."""
        if not self._started:
            self._started = True
            self._client.start(self._find_masters)

    def stop(self) -> None:
        """Disconnect for good; the client stays open. Never waits."""
        self._stopped = True
        self._client.moved.remove(self._rebalance)
        for master in self._masters.values():
            master.scope.cancel()

    # -- staying connected ---------------------------------------------------------------------------------------

    async def _stay_connected(self, master: _Master) -> None:
        """Connect to one master, and reconnect after every failure, until the scope is cancelled: steps 1 to 9."""
        with master.scope:
            delays = _delays()
            while True:
                began = time.monotonic()
                failure = await self._receive(master)
                if self._client.closed:  # pragma: no cover - CPython 3.11 does not trace what follows a throw
                    return
                delays = _delays() if time.monotonic() - began > STEADY_AFTER else delays
                await self._back_off(master, failure, next(delays))

    async def _receive(self, master: _Master) -> Exception:
        """Open a connection, receive over it, and return the error that ended it: steps 1 to 7."""
        connection: Connection | None = None
        try:
            connection = await master.node.connect()
            self.connections += 1
            master.connections += 1
            master.connection = PubSubConnection(
                connection,
                self._client,
                self,
                channels=[name for name, part in self._channels.items() if self._client.node_of(part) is master.node],
                probe=master.probe,
                probe_interval=self._probe_interval,
                on_receiving=partial(self._on_receiving, master),
                on_message=self._on_message,
            )
            await master.connection.run()
        except (RedisError, OSError, ClosedError, *FAILURES) as error:
            return error
        except Exception as error:
            return bug(error, self._client.name)
        finally:
            master.connection = None
            if connection is not None:
                await hang_up(connection)
        return NoAnswerError("the connection ended")  # pragma: no cover - `run` raises

    async def _back_off(self, master: _Master, failure: Exception, delay: float) -> None:
        """Release the waiting calls, log the outage, look up the masters again, and wait: step 8."""
        self._failed = True
        self._stop_waiting()
        master.outage.failed(phrase(failure))
        if self._client.endpoint.seeds:
            with suppress(*FAILURES):
                await self._client.refresh()
        await anyio.sleep(delay)

    def _on_receiving(self, master: _Master) -> None:
        """All channels of a new connection are confirmed, but earlier messages may be missing: steps 3 and 4."""
        connection = master.connection
        assert connection is not None
        master.outage.recovered()
        self._failed = not self.is_receiving
        confirmed = [channel for channel in self._unconfirmed if connection.receives(channel)]
        for channel in confirmed:
            _resolve(self._unconfirmed.pop(channel))  # pragma: no cover - of a master that has just become one
        late = {channel for channel in self._late if connection.receives(channel)}
        self._late -= late
        if late or master.connections > 1:
            self._on_gap(None)

    # -- PubSubEvents --------------------------------------------------------------------------------------------

    def on_proven(self) -> None:
        """Resolve the waits for first probes, once one has arrived from every master."""
        if all(each.connection is not None and each.connection.is_proven for each in self._masters.values()):
            self._proven = True
            unproven, self._unproven = self._unproven, []
            _resolve(unproven)

    def on_confirmed(self, channel: bytes) -> None:
        """Resolve the waits for a channel; catch up if streams have read the log before it was confirmed."""
        _resolve(self._unconfirmed.pop(channel, ()))
        if channel in self._late:
            self._late.discard(channel)
            self._on_gap(channel)

    def on_unsubscribed(self, channel: bytes) -> None:
        """A slot has moved: find its new master, and subscribe there."""
        self._late.add(channel)
        if channel in self._channels:  # pragma: no branch - else its last stream was closed just now
            self._client.start(self._follow, channel)

    async def _follow(self, channel: bytes) -> None:
        with suppress(*FAILURES):
            await self._client.refresh()
        partition = self._channels.get(channel)
        if partition is not None and not self.receives(channel):  # pragma: no branch - else `_rebalance` was faster
            self._subscribe(channel, partition)

    # -- which master --------------------------------------------------------------------------------------------

    async def _find_masters(self) -> None:
        delays = _delays()
        while not self._stopped:
            try:
                await self._client.locate()
                break
            except FAILURES:  # logged by the client
                self._stop_waiting()
                await anyio.sleep(next(delays))
        self._rebalance()

    def _rebalance(self) -> None:
        """Keep one connection to each current master, and every channel subscribed at its own master."""
        if not self._started or self._stopped or not self._client.is_located:
            return
        owners = {self._client.node_of(partition): partition for partition in reversed(range(PARTITIONS))}
        for node in set(self._masters).difference(owners):
            self._masters.pop(node).scope.cancel()
        moving = bool(self._masters)
        fresh = [node for node in owners if node not in self._masters]
        for node in fresh:
            self._masters[node] = self._new_master(node, owners[node])
        for channel, partition in self._channels.items():
            owner = self._masters[self._client.node_of(partition)].connection
            for connection in self._open_connections():
                if connection is not owner:
                    connection.unsubscribe(channel)
            if not self.receives(channel):
                self._subscribe(channel, partition)
                if moving:
                    self._late.add(channel)
        for node in fresh:
            try:
                self._client.start(self._stay_connected, self._masters[node])
            except ClosedError:  # pragma: no cover - closed just now
                return

    def _new_master(self, node: RedisNode, partition: int) -> _Master:
        name = self._client.name
        where = format_address(node.address) if node.address else self._client.endpoint
        outage = OutageLog(logger, f"{name} does not receive from {where}", f"{name} receives from {where} again")
        return _Master(node, (self._probe(partition), partition), outage)

    def _subscribe(self, channel: bytes, partition: int) -> None:
        """Subscribe at the channel's master; while it is not connected, `_receive` will do so when it connects."""
        connection = self._masters[self._client.node_of(partition)].connection
        if connection is not None:
            connection.subscribe(channel)

    def _open_connections(self) -> list[PubSubConnection]:
        return [each.connection for each in self._masters.values() if each.connection is not None]

    def _stop_waiting(self) -> None:
        unproven, self._unproven = self._unproven, []
        _resolve(unproven)
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for waiting in unconfirmed.values():
            _resolve(waiting)


def _resolve(waiting: Iterable[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():  # pragma: no branch - else its caller has just gone
            future.set_result(None)
