"""What is heard from all masters together: one listener for each, and the channels spread over them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import suppress

import anyio

from notify.adapters import backoff
from notify.errors import ClosedError

from ._client import RedisClient, RedisNode
from ._errors import FAILURES
from ._names import PARTITIONS
from ._pubsub import PubSubConnection


class Subscriptions:
    """Subscribes to channels, wherever they are.

    Args:
        client: of the owner.
        probe: returns the channel of a probe in a partition.
        interval: seconds between two canaries.
        on_message: called with each channel and message.
        on_gap: called when messages may have been missed: with a channel, or with None for any.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        probe: Callable[[int], bytes],
        interval: float,
        on_message: Callable[[bytes, bytes], None],
        on_gap: Callable[[bytes | None], None],
    ) -> None:
        self._client = client
        self._probe = probe
        self._interval = interval
        self._on_message = on_message
        self._on_gap = on_gap
        self._channels: dict[bytes, int] = {}
        self._listeners: dict[RedisNode, PubSubConnection] = {}
        self._waiters: dict[bytes, list[asyncio.Future[None]]] = {}
        self._late: set[bytes] = set()
        self._settling: list[asyncio.Future[None]] = []
        self._settled = False
        self._started = self._failed = self._stopped = False
        client.moved.append(self._rebalance)

    @property
    def alive(self) -> bool:
        """Whether every listener is known to hear."""
        return bool(self._listeners) and all(each.alive for each in self._listeners.values())

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return sum(each.connections for each in self._listeners.values())

    def open(self, channel: bytes, partition: int) -> None:
        """Start to listen to a channel. Never waits."""
        self._channels[channel] = partition
        self.start()
        if self._listeners:
            self._listener_of(partition).add(channel, partition)

    def close(self, channel: bytes) -> None:
        """Stop listening to a channel. Never waits: called in finalisers too."""
        self._channels.pop(channel, None)
        self._late.discard(channel)
        for listener in self._listeners.values():
            listener.remove(channel)

    def hears(self, channel: bytes) -> bool:
        """Return whether whatever is published from now on will be heard."""
        return any(each.hears(channel) for each in self._listeners.values())

    async def ready(self, channel: bytes, timeout: float) -> None:
        """Wait until a channel is heard; what takes longer is told to `on_gap` once it is.

        At first that includes every other master: the connections of this process are there when it returns.
        """
        if not self._settled and not self._failed:
            settling: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._settling.append(settling)
            with anyio.move_on_after(timeout):
                await settling
        if channel not in self._channels or self.hears(channel):
            return
        if not self._failed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(channel, []).append(waiter)
            with anyio.move_on_after(timeout):
                await waiter
        if channel in self._channels and not self.hears(channel):
            self._late.add(channel)

    def start(self) -> None:
        """Connect, at first need."""
        if not self._started:
            self._started = True
            self._client.start(self._run)

    def stop(self) -> None:
        """Stop listening for good; for an owner that goes on. Never waits."""
        self._stopped = True
        self._client.moved.remove(self._rebalance)
        for listener in self._listeners.values():
            listener.stop()

    async def _run(self) -> None:
        delays = backoff(random.random, limit=2.0)
        while not self._stopped:
            try:
                await self._client.locate()
                break
            except FAILURES:  # which the client has logged
                self._give_up_waiting()
                await anyio.sleep(next(delays))
        self._rebalance()

    def _rebalance(self) -> None:
        """Have a listener for each master, and each channel at its master's."""
        if not self._started or self._stopped or not self._client.is_located:
            return
        owners = {self._client.node_of(partition): partition for partition in reversed(range(PARTITIONS))}
        for node in set(self._listeners).difference(owners):
            self._listeners.pop(node).stop()
        moving = bool(self._listeners)
        fresh: list[PubSubConnection] = []
        for node, partition in owners.items():
            if node not in self._listeners:
                listener = self._listeners[node] = self._new_listener(node, partition)
                fresh.append(listener)
        for channel, partition in self._channels.items():
            owner = self._listener_of(partition)
            for listener in self._listeners.values():
                if listener is not owner:
                    listener.remove(channel)
            if not owner.hears(channel):
                owner.add(channel, partition)
                if moving:
                    self._late.add(channel)
        for listener in fresh:
            try:
                self._client.start(listener.run)
            except ClosedError:  # pragma: no cover - closed just now
                return

    def _new_listener(self, node: RedisNode, partition: int) -> PubSubConnection:
        return PubSubConnection(
            self._client,
            node,
            probe=(self._probe(partition), partition),
            interval=self._interval,
            on_message=self._on_message,
            on_alive=self._alive,
            on_dead=self._dead,
            on_proven=self._proven,
            on_confirmed=self._confirmed,
            on_lost=self._lost,
        )

    def _listener_of(self, partition: int) -> PubSubConnection:
        return self._listeners[self._client.node_of(partition)]

    def _alive(self, listener: PubSubConnection) -> None:
        """A new connection hears all that is wanted there; what came before it is unknown."""
        self._failed = not self.alive
        heard = [channel for channel in self._waiters if listener.hears(channel)]
        for channel in heard:  # those of a master that has just become one
            self._wake(self._waiters.pop(channel))  # pragma: no cover - somebody has to come at that very moment
        late = {channel for channel in self._late if listener.hears(channel)}
        self._late -= late
        if late or listener.connections > 1:
            self._on_gap(None)

    def _proven(self) -> None:
        if all(each.proven for each in self._listeners.values()):
            self._settled = True
            settling, self._settling = self._settling, []
            self._wake(settling)

    def _dead(self) -> None:
        self._failed = True
        self._give_up_waiting()

    def _confirmed(self, channel: bytes) -> None:
        self._wake(self._waiters.pop(channel, ()))
        if channel in self._late:
            self._late.discard(channel)
            self._on_gap(channel)

    def _lost(self, channel: bytes) -> None:
        """A slot has moved: find out where to, and listen there."""
        self._late.add(channel)
        if channel in self._channels:  # pragma: no branch - else its last stream was closed just now
            self._client.start(self._look_again, channel)

    async def _look_again(self, channel: bytes) -> None:
        with suppress(*FAILURES):
            await self._client.refresh()
        partition = self._channels.get(channel)
        if partition is not None and not self.hears(channel):  # pragma: no branch - else somebody else was faster
            self._listener_of(partition).add(channel, partition)

    def _give_up_waiting(self) -> None:
        settling, self._settling = self._settling, []
        self._wake(settling)
        waiters, self._waiters = self._waiters, {}
        for some in waiters.values():
            self._wake(some)

    def _wake(self, waiters: Iterable[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():  # pragma: no branch - else who waited has just gone
                waiter.set_result(None)
