"""Saving: what comes while others are under way goes out together, is tried again until its deadline, and stored once.

Each push has a nonce and a deadline. Every attempt carries both, and the script that appends refuses what comes too
late and finds what another attempt has appended. So an attempt whose answer was lost may be repeated, whatever becomes
of it in a server that hangs, and after the deadline nothing of it will be executed any more.

A first attempt needs no task: it is written when it is handed over and concluded where its reply is read. Whatever goes
wrong with it is left to a task.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

import anyio
from redis.exceptions import ResponseError

from notify import Event
from notify.errors import ClosedError, PushRejectedError, PushUncertainError

from ._client import Client, Node
from ._connection import pack
from ._entry import decode
from ._errors import FAILURES, Advice, NoAnswerError, NotSentError, advise, rejected, uncertain
from ._keys import Keys
from ._link import Call, Link
from ._pushes import Done, Outcome, Packer, Push, Retention

logger = logging.getLogger("notify")

CHUNK: Final = 32
"""Events to one call of the script: half a millisecond in which the server does nothing else."""

PIPELINE: Final = 128
"""Events to one write: small enough that the server works on one while the next is made and the last is shown."""

LANES: Final = 2
"""Writes under way to one master; what comes meanwhile makes up the next one."""

ATTEMPT: Final = 2.0
"""Seconds after which an answer is given up and the push tried again."""

FAIL_FAST: Final = 1.0
"""Seconds without a connection after which pushes to that master are rejected at once: others do not wait for them."""

REPLICA_WAIT: Final = 1.0
"""Seconds for `min_replicas` to confirm."""


class Lane:
    """What waits for one master.

    Attributes:
        under_way: writes without an answer yet.
        stirring: whether something will look at the queue by itself.
    """

    __slots__ = ("node", "queue", "stirring", "under_way")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.queue: deque[Push] = deque()
        self.under_way = 0
        self.stirring = False


class Attempt:
    """One attempt for some pushes, as it was sent.

    Attributes:
        chunks: the pushes of each call of the script.
        now: the server's time, at most, when it was sent.
    """

    __slots__ = ("chunks", "link", "now", "pushes", "timeout")

    def __init__(self, link: Link, pushes: Sequence[Push], chunks: Sequence[Sequence[Push]], timeout: float) -> None:
        self.link = link
        self.pushes = pushes
        self.chunks = chunks
        self.timeout = timeout
        self.now = time.monotonic() * 1000 + link.ahead


class Writer:
    """Appends events.

    Args:
        client: what they are sent through.
        keys: the names.
        retention: how long to keep what.
        min_replicas: how many replicas must confirm.
        timeout: seconds until a push without an outcome has failed.

    Attributes:
        show: if set, called with each event of `save` as soon as it is known to be stored.
    """

    def __init__(self, client: Client, keys: Keys, retention: Retention, *, min_replicas: int, timeout: float) -> None:
        self._client = client
        self._keys = keys
        self._packer = Packer(keys, retention, client.publish)
        self._min_replicas = min_replicas
        self._timeout = timeout
        self._origin = secrets.token_hex(6).encode()
        self._numbers = count()
        self._under_way: dict[bytes, Push] = {}
        self.show: Callable[[Event], Any] | None = None
        self._lanes: dict[Node, Lane] = {}
        self._unrouted: list[Push] = []
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

    def _push(self, event: Event, done: Done) -> Push:
        nonce = b"%b%x" % (self._origin, next(self._numbers))
        push = Push(event, nonce, self._packer.names(event), time.monotonic() + self._timeout, done)
        self._under_way[nonce] = push
        return push

    def announced(self, nonce: bytes, id_: str, prev: str) -> Event | None:
        """Return the event of an announcement if its push is still under way: there is nothing to decode."""
        push = self._under_way.get(nonce)
        if push is None:
            return None
        push.stored = push.event.stored(id_, prev)
        return push.stored

    # -- first attempts ------------------------------------------------------------------------------------------

    def _hand_over(self, pushes: Sequence[Push], pump: Callable[[Lane], None]) -> None:
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
                self._lane_of(self._client.node_of(self._partition(push))).queue.append(push)
            lanes = list(self._lanes.values())
        for lane in lanes:
            pump(lane)

    def _lane_of(self, node: Node) -> Lane:
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = Lane(node)
        return lane

    def _forget_lanes(self) -> None:
        """Forget the masters that are none any more; what is under way to them ends by itself."""
        nodes = self._client.nodes
        self._lanes = {node: lane for node, lane in self._lanes.items() if node in nodes}

    def _partition(self, push: Push) -> int:
        return self._keys.of_user(push.event.user)[3]

    def _pump_soon(self, lane: Lane) -> None:
        if not lane.stirring and lane.under_way < LANES:
            lane.stirring = True
            asyncio.get_running_loop().call_soon(self._stir, lane)

    def _stir(self, lane: Lane) -> None:
        lane.stirring = False
        self._pump(lane)

    def _pump(self, lane: Lane) -> None:
        """Send what waits in a lane, as far as there is room."""
        queue, link = lane.queue, lane.node.writes
        while queue and lane.under_way < LANES and not lane.stirring:
            if self._client.closed:
                self._abandon(_emptied(queue))
            elif link.is_up:
                pushes = _emptied(queue) if len(queue) <= PIPELINE else [queue.popleft() for _ in range(PIPELINE)]
                attempt, commands = self._prepare(link, pushes)
                lane.under_way += 1
                tell = partial(self._landed, lane, attempt)
                link.post(Call(b"".join(commands), len(commands), tell, attempt.timeout))
            elif link.down_for() > FAIL_FAST:
                self._reject(_emptied(queue), link)
            else:
                lane.stirring = True
                self._client.start(self._connect, lane)

    def _landed(self, lane: Lane, attempt: Attempt, answer: list[Any] | Exception) -> None:
        """Conclude a first attempt, after the next one was sent."""
        lane.under_way -= 1
        self._pump(lane)
        self._try_again(self._take(attempt, answer))

    async def _connect(self, lane: Lane) -> None:
        """Wait for the connection; without one, what waits for it is left to another task."""
        queue = lane.queue
        try:
            timeout = min(ATTEMPT, queue[0].deadline - time.monotonic())
            await lane.node.writes.connected(timeout)
        except (*FAILURES, ClosedError) as error:
            pushes = _emptied(queue)
            for push in pushes:
                push.trouble = error
            self._try_again(pushes)
        finally:
            lane.stirring = False
            self._pump(lane)

    async def _route(self) -> None:
        """Find the masters, at first use; what comes meanwhile waits here, in its order."""
        delay = 0.005
        try:
            while self._unrouted and not self._client.is_located:
                try:
                    await self._client.locate()
                except FAILURES as error:
                    for push in self._unrouted:
                        push.trouble = error
                    self._unrouted = [push for push in self._unrouted if not self._is_over(push, delay)]
                    await anyio.sleep(delay)
                    delay = min(delay * 2, 0.25)
            self._routing = False
            pushes, self._unrouted = self._unrouted, []
            if pushes:
                self._hand_over(pushes, self._pump)
        finally:
            self._routing = False
            pushes, self._unrouted = self._unrouted, []
            self._abandon(pushes)

    # -- further attempts ----------------------------------------------------------------------------------------

    def _try_again(self, pushes: Sequence[Push]) -> None:
        if pushes:
            try:
                self._client.start(self._persist, pushes)
            except ClosedError:
                self._abandon(pushes)

    async def _persist(self, pushes: Sequence[Push]) -> None:
        """Try pushes again until each has an outcome or is over its deadline."""
        delay = 0.005
        failed = False
        try:
            while pushes:
                advice = {_advice(push.trouble) for push in pushes}
                if Advice.MOVE in advice or (failed and advice - {Advice.LOAD, Advice.WAIT}):
                    await self._client.relocate(advice)
                try:
                    await self._client.locate()
                except FAILURES as error:
                    for push in pushes:
                        push.trouble = error
                else:
                    pushes = await self._attempt_all(pushes)
                failed = True
                pushes = [push for push in pushes if not self._is_over(push, delay)]
                if pushes:
                    await anyio.sleep(delay)
                    delay = min(delay * 2, 0.25)
        finally:
            self._abandon(pushes, sent=True)

    async def _attempt_all(self, pushes: Sequence[Push]) -> list[Push]:
        """Make one attempt for each and return those that need another one."""
        by_node: dict[Node, list[Push]] = {}
        for push in pushes:
            by_node.setdefault(self._client.node_of(self._partition(push)), []).append(push)
        again: list[Push] = []

        async def attempt(node: Node, some: list[Push]) -> None:
            again.extend(await self._attempt(node.writes, some))

        async with anyio.create_task_group() as tasks:
            for node, some in by_node.items():
                tasks.start_soon(attempt, node, some)
        return again

    async def _attempt(self, link: Link, pushes: Sequence[Push]) -> list[Push]:
        """Send the pushes to their master once more and return those that need yet another attempt."""
        if link.down_for() > FAIL_FAST:
            self._reject([push for push in pushes if push.since is None], link)
            pushes = [push for push in pushes if push.outcome is None]
            if not pushes:
                return []
        try:
            epoch = await link.connected(min(ATTEMPT, pushes[0].deadline - time.monotonic()))
            if any(_advice(push.trouble) is Advice.LOAD for push in pushes):
                await link.reload(ATTEMPT)
            attempt, commands = self._prepare(link, pushes)
        except (*FAILURES, ClosedError) as error:
            for push in pushes:
                push.trouble = error
            return list(pushes)
        try:
            return self._take(attempt, await link.call(commands, attempt.timeout, epoch=epoch))
        except (*FAILURES, ClosedError) as error:
            return self._take(attempt, error)

    # -- attempts ------------------------------------------------------------------------------------------------

    def _prepare(self, link: Link, pushes: Sequence[Push]) -> tuple[Attempt, list[bytes]]:
        """Return an attempt and what is sent for it."""
        chunks = [chunk for _, chunk in self._client.chunks(pushes, self._partition, CHUNK)]
        commands = [self._packer.pack(chunk, link.ahead) for chunk in chunks]
        left = min([push.deadline for push in pushes]) - time.monotonic()
        if self._min_replicas:
            bound = max(1, int(min(REPLICA_WAIT, left / 2) * 1000))
            commands.append(pack(b"WAIT", b"%d" % self._min_replicas, b"%d" % bound))
        return Attempt(link, pushes, chunks, min(left, ATTEMPT)), commands

    def _take(self, attempt: Attempt, answer: list[Any] | Exception) -> list[Push]:
        """Conclude what an attempt has decided and return the pushes that need another one."""
        if isinstance(answer, Exception):
            for push in attempt.pushes:
                push.trouble = answer
                if isinstance(answer, NoAnswerError):
                    push.since = push.since or attempt.now
            return list(attempt.pushes)
        confirmed = not self._min_replicas or (isinstance(answer[-1], int) and answer[-1] >= self._min_replicas)
        again: list[Push] = []
        for chunk, reply in zip(attempt.chunks, answer, strict=False):
            again += self._settle(attempt, chunk, reply, confirmed)
        return again

    def _settle(self, attempt: Attempt, chunk: Sequence[Push], reply: Any, confirmed: bool) -> list[Push]:
        """Conclude what one call of the script has decided and return the pushes that need another attempt."""
        if isinstance(reply, ResponseError):
            advice = advise(reply)
            for push in chunk:
                push.trouble = reply
                if advice is Advice.UNKNOWN:
                    push.since = push.since or attempt.now
                elif advice is Advice.GIVE_UP:
                    self._give_up(push)
            return [push for push in chunk if push.outcome is None]
        server_ms, *results = reply
        attempt.link.calibrate(server_ms)
        if not results:
            for push in chunk:
                push.trouble = NoAnswerError("the deadline was over when the server came to it")
            return list(chunk)
        return [
            push for push, result in zip(chunk, results, strict=True) if not self._conclude(push, result, confirmed)
        ]

    def _conclude(self, push: Push, result: bytes, confirmed: bool) -> bool:
        """Set the outcome of one push; return False where it needs another attempt."""
        if result[:1] in b"!?":
            push.trouble = ResponseError(result[1:].decode(errors="replace"))
            if result[:1] == b"?":
                self._finish(push, uncertain(push.trouble, self._client.name))
            elif advise(push.trouble) in (Advice.GIVE_UP, Advice.UNKNOWN):
                self._give_up(push)
            return push.outcome is not None
        if not confirmed:
            text = f"stored, but fewer than {self._min_replicas} replicas confirmed it in time"
            self._finish(push, PushUncertainError(text, backend=self._client.name))
            return True
        place = result.split(b" ", 2)
        if len(place) > 2:
            self._finish(push, decode(place[2], place[0].decode(), place[1].decode()))
        else:
            self._finish(push, push.stored or push.event.stored(place[0].decode(), place[1].decode()))
        return True

    # -- outcomes ------------------------------------------------------------------------------------------------

    def _finish(self, push: Push, outcome: Outcome) -> None:
        """Tell the outcome, once."""
        if push.outcome is None:
            push.outcome = outcome
            del self._under_way[push.nonce]
            push.done(outcome)

    def _is_over(self, push: Push, delay: float) -> bool:
        """Return whether a push has its outcome: at the latest when there is no time for another attempt."""
        if push.outcome is None and time.monotonic() + delay >= push.deadline:
            self._give_up(push)
        return push.outcome is not None

    def _give_up(self, push: Push) -> None:
        trouble = push.trouble or NoAnswerError("the store was closed")
        make = rejected if push.since is None else uncertain
        self._finish(push, make(trouble, self._client.name))

    def _reject(self, pushes: Iterable[Push], link: Link) -> None:
        """Give up pushes of which nothing was ever sent: the server has been away for long."""
        for push in pushes:
            push.trouble = push.trouble or NotSentError(f"the server cannot be reached since {link.down_for():.1f} s")
            self._give_up(push)

    def _abandon(self, pushes: Iterable[Push], *, sent: bool = False) -> None:
        """Give outcomes to pushes that nobody will attempt any more: the store closes."""
        for push in pushes:
            if sent or push.since is not None:
                text = "the store was closed before the answer"
                self._finish(push, PushUncertainError(text, backend=self._client.name))
            else:
                text = "the store was closed; nothing was sent"
                self._finish(push, PushRejectedError(text, backend=self._client.name))


def _emptied(queue: deque[Push]) -> list[Push]:
    pushes = [*queue]
    queue.clear()
    return pushes


def _advice(trouble: Exception | None) -> Advice:
    return advise(trouble) if isinstance(trouble, ResponseError) else Advice.UNKNOWN
