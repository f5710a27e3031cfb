"""Saving: first attempts. Pushes that arrive while others are in flight go out together.

A first attempt needs no task. `save` or `save_soon` puts the push into the queue of its master, the queue hands a write
to the transport, and the write is settled where its reply is read:

    save_soon -> PushAttempts.new_push -> NodeQueue -> PushAttempts.prepare -> PipelinedConnection.post
                                                                                     |  reply
    done(outcome) <- PushAttempts.settle <- NodeQueue._on_replies <------------------+

Pushes to one user are stored in the order of the calls (see `_attempt`): one whose user has others in flight, or being
tried again, stays in its queue.

With a task, a scope and a timer for each write, single pushes took half as long again. An attempt that fails is left to
`_retry`, which does use a task.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final

import anyio

from notify import Event
from notify.adapters import backoff
from notify.errors import ClosedError

from ._attempt import ATTEMPT_TIMEOUT, Done, Outcome, PendingPush, PushAttempt, PushAttempts
from ._client import RedisClient, RedisNode
from ._errors import FAILURES
from ._pipeline import PipelinedRequest
from ._reach import FAIL_FAST_AFTER
from ._retry import RedisRetries

EVENTS_PER_WRITE: Final = 128
"""Small enough that the server works on one write while the next is encoded and the previous replies are settled."""

MAX_WRITES: Final = 2
"""Writes in flight to one master; pushes that arrive while this many are in flight form the next one."""


HELD_LIMIT: Final = 4 * EVENTS_PER_WRITE
"""Pushes to held users that are passed over in one search for a write, so that a search stays short."""


class NodeQueue:
    """Pushes that wait for one master, and the writes in flight to it.

    Invariants:
        I1. While pushes wait, `pump` will be called: MAX_WRITES are in flight, or `_pump_scheduled` is set, or the
            first HELD_LIMIT of them are for held users (see `_attempt`), and `resume` follows each release.

    Args:
        node: the master.
        client: starts the task that waits for a connection.
        attempts: builds and settles the writes.
        retries: takes over pushes that a write left undecided.
        resume: pumps all queues.
    """

    def __init__(
        self,
        node: RedisNode,
        client: RedisClient,
        attempts: PushAttempts,
        retries: RedisRetries,
        resume: Callable[[], None],
    ) -> None:
        self._client = client
        self._attempts = attempts
        self._retries = retries
        self._resume = resume
        self._connection = node.writes
        self._waiting: deque[PendingPush] = deque()
        self._in_flight = 0
        self._pump_scheduled = False

    def extend(self, pushes: Iterable[PendingPush]) -> None:
        """Add pushes; `pump` or `pump_soon` must follow."""
        self._waiting.extend(pushes)

    def pump_soon(self) -> None:
        """Pump at the end of this step of the event loop, so that pushes of one step share a write."""
        if not self._pump_scheduled and self._in_flight < MAX_WRITES:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._scheduled_pump)

    def _scheduled_pump(self) -> None:
        self._pump_scheduled = False
        self.pump()

    def pump(self) -> None:
        """Send what waits, as far as MAX_WRITES allows: keeps I1."""
        connection = self._connection
        while self._waiting and self._in_flight < MAX_WRITES and not self._pump_scheduled:
            if self._client.closed:
                self._attempts.abandon(self.take_all())
            elif connection.is_connected:
                write = self._take_write(EVENTS_PER_WRITE)
                if not write:
                    return
                self._attempts.hold(write)
                try:
                    attempt = self._attempts.prepare(connection, write)
                except Exception as error:
                    self._attempts.fail(write, error, sent=False)
                    continue
                self._in_flight += 1
                commands = attempt.commands
                on_replies = partial(self._on_replies, attempt)
                connection.post(PipelinedRequest(b"".join(commands), len(commands), on_replies, attempt.timeout))
            else:
                write = self._take_write(EVENTS_PER_WRITE)
                self._waiting.extendleft(reversed(write))
                if not write:
                    return
                self._pump_scheduled = True
                self._client.start(self._connect, min(ATTEMPT_TIMEOUT, self._waiting[0].deadline - monotonic()))

    def _on_replies(self, attempt: PushAttempt, replies: list[Any] | Exception) -> None:
        """Settle a write. The next one is sent first: the server works while this process settles."""
        self._in_flight -= 1
        self.pump()
        try:
            self._retries.start(self._attempts.settle(attempt, replies))
        except Exception as error:
            self._attempts.fail(attempt.pushes, error, sent=True)
        self._resume()

    async def _connect(self, timeout: float) -> None:
        """Wait for the connection, then pump; if it fails, leave the waiting pushes to `_retry`."""
        connection = self._connection
        try:
            await connection.check_reach()
            await connection.connected(timeout)
        except (*FAILURES, ClosedError) as error:
            if connection.down_for() > FAIL_FAST_AFTER:
                self._client.look_around()
                self._attempts.reject(self.take_all(), connection)
            pushes = self._take_write(len(self._waiting))
            self._attempts.hold(pushes)
            for push in pushes:
                push.failure = error
            self._retries.start(pushes)
        finally:
            self._pump_scheduled = False
            self.pump()

    def _take_write(self, limit: int) -> list[PendingPush]:
        """Take the first pushes that may be sent; those that are passed over keep their place."""
        waiting, held = self._waiting, self._attempts.held
        if not held:
            if len(waiting) <= limit:
                return self.take_all()
            return [waiting.popleft() for _ in range(limit)]
        taken: list[PendingPush] = []
        passed: list[PendingPush] = []
        while waiting and len(taken) < limit and len(passed) < HELD_LIMIT:
            push = waiting.popleft()
            (passed if push.event.user in held else taken).append(push)
        waiting.extendleft(reversed(passed))
        return taken

    def take_all(self) -> list[PendingPush]:
        """Take every waiting push out of the queue."""
        pushes = [*self._waiting]
        self._waiting.clear()
        return pushes


class RedisSaver:
    """Appends events.

    Args:
        client: knows the masters.
        attempts: builds and settles the attempts.

    Attributes:
        on_stored: if set, called with each event of `save` as soon as it is known to be stored.
    """

    def __init__(self, client: RedisClient, attempts: PushAttempts) -> None:
        self._client = client
        self._attempts = attempts
        self._retries = RedisRetries(client, attempts, self._resume)
        self._queues: dict[RedisNode, NodeQueue] = {}
        self._unrouted: list[PendingPush] = []
        self._routing = False
        self.on_stored: Callable[[Event], Any] | None = None
        client.moved.append(self._requeue)

    async def save(self, events: Sequence[Event]) -> list[Outcome]:
        """Append the events and return an outcome for each; cancelling abandons only the wait."""
        self._client.check_open()
        if not events:
            return []
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        outcomes: list[Outcome | None] = [None] * len(events)
        left = len(events)

        def done(number: int, outcome: Outcome) -> None:
            nonlocal left
            outcomes[number] = outcome
            left -= 1
            if self.on_stored is not None and isinstance(outcome, Event):
                self.on_stored(outcome)
            if not left and not finished.done():
                finished.set_result(None)

        new_push = self._attempts.new_push
        for start in range(0, len(events), EVENTS_PER_WRITE):  # the server begins while the others are encoded
            numbers = range(start, min(start + EVENTS_PER_WRITE, len(events)))
            for queue in self._enqueue([new_push(events[number], partial(done, number)) for number in numbers]):
                queue.pump()
        await finished
        return outcomes  # type: ignore[return-value]  # every one was set

    async def change(self, event: Event, effect: bytes) -> tuple[Outcome, list[Any]]:
        """Apply a change to an inbox; return the outcome, and what the script answered (see `_lua/effect.lua`).

        The outcome is the event without an id if nothing was stored. Cancelling abandons only the wait.
        """
        self._client.check_open()
        finished: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if self.on_stored is not None and isinstance(outcome, Event) and outcome.id:
                self.on_stored(outcome)
            if not finished.done():
                finished.set_result(outcome)

        push = self._attempts.new_push(event, done, effect)
        for queue in self._enqueue([push]):
            queue.pump()
        return await finished, push.answer or []

    def save_soon(self, event: Event, done: Done) -> None:
        """Append an event together with the others of this step of the event loop; `done` gets the outcome."""
        self._client.check_open()
        for queue in self._enqueue([self._attempts.new_push(event, done)]):
            queue.pump_soon()

    def own_event(self, nonce: bytes, id_: str, prev: str) -> Event | None:
        """Return the event of an announcement whose push is pending in this process: it need not be decoded."""
        push = self._attempts.pending.get(nonce)
        if push is None:
            return None
        push.announced = push.event.stored(id_, prev)
        return push.announced

    # -- which master --------------------------------------------------------------------------------------------

    def _enqueue(self, pushes: Sequence[PendingPush]) -> Iterable[NodeQueue]:
        """Put each push into the queue of its master; return the queues, which are to be pumped."""
        if not self._client.is_located or self._unrouted:
            self._unrouted += pushes
            if not self._routing:
                self._routing = True
                self._client.start(self._route)
            return ()
        if not self._client.is_cluster:
            queue = self._queue_of(self._client.node_of(0))
            queue.extend(pushes)
            return (queue,)
        queues: dict[NodeQueue, None] = {}
        for push in pushes:
            queue = self._queue_of(self._client.node_of(push.partition))
            queue.extend((push,))
            queues[queue] = None
        return queues

    def _queue_of(self, node: RedisNode) -> NodeQueue:
        queue = self._queues.get(node)
        if queue is None:
            queue = self._queues[node] = NodeQueue(node, self._client, self._attempts, self._retries, self._resume)
        return queue

    def _resume(self) -> None:
        """Pump every queue: a user may be held by a write to a former master of the partition."""
        for queue in tuple(self._queues.values()):
            queue.pump()

    def _requeue(self) -> None:
        """Put waiting pushes into the queues of the new masters, ahead of later ones to the same users.

        Queues of nodes that are no longer masters are forgotten; their writes in flight end by themselves.
        """
        waiting = [push for queue in self._queues.values() for push in queue.take_all()]
        nodes = self._client.nodes
        self._queues = {node: queue for node, queue in self._queues.items() if node in nodes}
        for queue in self._enqueue(waiting):
            queue.pump_soon()

    async def _route(self) -> None:
        """Find the masters, at first use. Pushes wait in `_unrouted` until then, in their order."""
        delays = backoff(random.random, first=0.005, limit=0.25)
        pushes = self._unrouted
        try:
            while self._unrouted and not self._client.is_located:
                try:
                    await self._client.locate()
                except FAILURES as error:
                    delay = next(delays)
                    for push in self._unrouted:
                        push.failure = error
                    if self._client.is_lost:
                        self._attempts.give_up(self._unrouted)
                        self._unrouted = []
                        continue
                    self._unrouted = [push for push in self._unrouted if not self._attempts.is_over(push, delay)]
                    await anyio.sleep(delay)
            self._routing = False
            pushes, self._unrouted = self._unrouted, []
            for queue in self._enqueue(pushes) if pushes else ():
                queue.pump()
        except ClosedError:
            raise
        except Exception as error:
            self._attempts.fail([*pushes, *self._unrouted], error, sent=False)
        finally:
            self._routing = False
            pushes, self._unrouted = self._unrouted, []
            self._attempts.abandon(pushes)
