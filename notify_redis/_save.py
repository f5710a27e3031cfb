"""Saving: what comes while others are under way goes out together.

A first attempt needs no task: it is written when it is handed over and concluded where its reply is read. Whatever goes
wrong with it is left to a task, which tries again until the deadline.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

import anyio

from notify import Event
from notify.adapters import backoff
from notify.errors import ClosedError

from ._client import RedisClient, RedisNode
from ._errors import FAILURES
from ._names import RedisNames
from ._pipeline import Request
from ._pushes import Done, Outcome, PendingPush, PushCommands
from ._retry import ATTEMPT, FAIL_FAST, PushAttempt, RedisRetries

PIPELINE: Final = 128
"""Events to one write: small enough that the server works on one while the next is made and the last is shown."""

LANES: Final = 2
"""Writes under way to one master; what comes meanwhile makes up the next one."""


class NodeQueue:
    """What waits for one master.

    Attributes:
        under_way: writes without an answer yet.
        pump_scheduled: whether something will look at the queue by itself.
    """

    __slots__ = ("node", "pump_scheduled", "queue", "under_way")

    def __init__(self, node: RedisNode) -> None:
        self.node = node
        self.queue: deque[PendingPush] = deque()
        self.under_way = 0
        self.pump_scheduled = False


class RedisSaver:
    """Appends events.

    Args:
        client: what they are sent through.
        keys: the names.
        commands: packs what is sent.
        min_replicas: how many replicas must confirm.
        timeout: seconds until a push without an outcome has failed.

    Attributes:
        show: if set, called with each event of `save` as soon as it is known to be stored.
    """

    def __init__(
        self, client: RedisClient, keys: RedisNames, commands: PushCommands, *, min_replicas: int, timeout: float
    ) -> None:
        self._client = client
        self._packer = commands
        self._attempts = RedisRetries(client, keys, self._packer, min_replicas)
        self._timeout = timeout
        self._origin = secrets.token_hex(6).encode()
        self._numbers = count()
        self.show: Callable[[Event], Any] | None = None
        self._lanes: dict[RedisNode, NodeQueue] = {}
        self._unrouted: list[PendingPush] = []
        self._routing = False
        client.moved.append(self._forget_lanes)

    async def save(self, events: Sequence[Event]) -> list[Outcome]:
        """Append the events and return an outcome for each; cancelling abandons the wait alone."""
        self._client.check_open()
        if not events:
            return []
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        outcomes: list[Outcome | None] = [None] * len(events)
        left = len(events)

        def note(number: int, outcome: Outcome) -> None:
            nonlocal left
            outcomes[number] = outcome
            left -= 1
            if self.show is not None and isinstance(outcome, Event):
                self.show(outcome)
            if not left and not finished.done():
                finished.set_result(None)

        for start in range(0, len(events), PIPELINE):  # the server begins with the first while the others are packed
            numbers = range(start, min(start + PIPELINE, len(events)))
            self._hand_over([self._push(events[number], partial(note, number)) for number in numbers], self._pump)
        await finished
        return outcomes  # type: ignore[return-value]  # all are noted

    def save_soon(self, event: Event, done: Done) -> None:
        """Append an event together with what else comes in this step of the event loop."""
        self._client.check_open()
        self._hand_over([self._push(event, done)], self._pump_soon)

    def _push(self, event: Event, done: Done) -> PendingPush:
        nonce = b"%b%x" % (self._origin, next(self._numbers))
        push = PendingPush(event, nonce, self._packer.names(event), time.monotonic() + self._timeout, done)
        self._attempts.under_way[nonce] = push
        return push

    def announced(self, nonce: bytes, id_: str, prev: str) -> Event | None:
        """Return the event of an announcement if its push is still under way: there is nothing to decode."""
        push = self._attempts.under_way.get(nonce)
        if push is None:
            return None
        push.stored = push.event.stored(id_, prev)
        return push.stored

    # -- first attempts ------------------------------------------------------------------------------------------

    def _hand_over(self, pushes: Sequence[PendingPush], pump: Callable[[NodeQueue], None]) -> None:
        """Put each push into the lane of its master, and have the lanes pumped."""
        if not self._client.is_located or self._unrouted:
            self._unrouted += pushes
            if not self._routing:
                self._routing = True
                self._client.start(self._route)
            return
        if not self._client.is_cluster:
            lanes = [self._lane_of(self._client.node_of(0))]
            lanes[0].queue.extend(pushes)
        else:
            for push in pushes:
                self._lane_of(self._client.node_of(self._attempts.partition(push))).queue.append(push)
            lanes = list(self._lanes.values())
        for lane in lanes:
            pump(lane)

    def _lane_of(self, node: RedisNode) -> NodeQueue:
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = NodeQueue(node)
        return lane

    def _forget_lanes(self) -> None:
        """Forget the masters that are none any more; what is under way to them ends by itself."""
        nodes = self._client.nodes
        self._lanes = {node: lane for node, lane in self._lanes.items() if node in nodes}

    def _pump_soon(self, lane: NodeQueue) -> None:
        if not lane.pump_scheduled and lane.under_way < LANES:
            lane.pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._stir, lane)

    def _stir(self, lane: NodeQueue) -> None:
        lane.pump_scheduled = False
        self._pump(lane)

    def _pump(self, lane: NodeQueue) -> None:
        """Send what waits in a lane, as far as there is room."""
        queue, link = lane.queue, lane.node.writes
        while queue and lane.under_way < LANES and not lane.pump_scheduled:
            if self._client.closed:
                self._attempts.abandon(_emptied(queue))
            elif link.is_up:
                pushes = _emptied(queue) if len(queue) <= PIPELINE else [queue.popleft() for _ in range(PIPELINE)]
                attempt, commands = self._attempts.prepare(link, pushes)
                lane.under_way += 1
                tell = partial(self._landed, lane, attempt)
                link.post(Request(b"".join(commands), len(commands), tell, attempt.timeout))
            elif link.down_for() > FAIL_FAST:
                self._attempts.reject(_emptied(queue), link)
            else:
                lane.pump_scheduled = True
                self._client.start(self._connect, lane)

    def _landed(self, lane: NodeQueue, attempt: PushAttempt, answer: list[Any] | Exception) -> None:
        """Conclude a first attempt, after the next one was sent."""
        lane.under_way -= 1
        self._pump(lane)
        self._attempts.try_again(self._attempts.take(attempt, answer))

    async def _connect(self, lane: NodeQueue) -> None:
        """Wait for the connection; without one, what waits for it is left to another task."""
        queue = lane.queue
        try:
            timeout = min(ATTEMPT, queue[0].deadline - time.monotonic())
            await lane.node.writes.connected(timeout)
        except (*FAILURES, ClosedError) as error:
            pushes = _emptied(queue)
            for push in pushes:
                push.trouble = error
            self._attempts.try_again(pushes)
        finally:
            lane.pump_scheduled = False
            self._pump(lane)

    async def _route(self) -> None:
        """Find the masters, at first use; what comes meanwhile waits here, in its order."""
        delays = backoff(random.random, first=0.005, limit=0.25)
        try:
            while self._unrouted and not self._client.is_located:
                try:
                    await self._client.locate()
                except FAILURES as error:
                    delay = next(delays)
                    for push in self._unrouted:
                        push.trouble = error
                    self._unrouted = [push for push in self._unrouted if not self._attempts.is_over(push, delay)]
                    await anyio.sleep(delay)
            self._routing = False
            pushes, self._unrouted = self._unrouted, []
            if pushes:
                self._hand_over(pushes, self._pump)
        finally:
            self._routing = False
            pushes, self._unrouted = self._unrouted, []
            self._attempts.abandon(pushes)


def _emptied(queue: deque[PendingPush]) -> list[PendingPush]:
    pushes = [*queue]
    queue.clear()
    return pushes
