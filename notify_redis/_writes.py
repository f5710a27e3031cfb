"""Saving: what comes while others are under way goes out together, is tried again until its deadline, and stored once.

Each push has a nonce and a deadline. Every attempt carries both, and the script that appends refuses what comes too
late and finds what another attempt has appended. So an attempt whose answer was lost may be repeated, whatever becomes
of it in a server that hangs, and after the deadline nothing of it will be executed any more.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, Final

import anyio
from redis.exceptions import ResponseError

from notify import Event
from notify.errors import ClosedError, NotifyError, PushUncertainError

from ._client import Client, Node
from ._connection import pack
from ._entry import decode
from ._errors import FAILURES, Advice, NoAnswerError, NotSentError, advise, rejected, uncertain
from ._keys import Keys
from ._pushes import Batch, Push, Retention
from ._scripts import PUSH

logger = logging.getLogger("notify")

CHUNK: Final = 32
"""Events to one call of the script: half a millisecond in which the server does nothing else."""

PIPELINE: Final = 128
"""Events to one write: small enough that the server works on one while the next is made and the last is shown."""

LANES: Final = 2
"""Writes under way to one master; what comes meanwhile makes up the next one."""

REMEMBERED: Final = 2048
"""Events kept for their announcements, so that what this process pushed need not be decoded when it comes back."""

ATTEMPT: Final = 2.0
"""Seconds after which an answer is given up and the push tried again."""

FAIL_FAST: Final = 1.0
"""Seconds without a connection after which pushes to that master are rejected at once: others do not wait for them."""

REPLICA_WAIT: Final = 1.0
"""Seconds for `min_replicas` to confirm."""


class Lane:
    """What waits for one master."""

    __slots__ = ("node", "queue", "running")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.queue: deque[Push] = deque()
        self.running = 0


class Writer:
    """Appends events.

    Args:
        client: what they are sent through.
        keys: the names.
        retention: how long to keep what.
        min_replicas: how many replicas must confirm.
        timeout: seconds until a push without an outcome has failed.

    Attributes:
        expects: returns whether an event's announcement will be heard here.
    """

    def __init__(self, client: Client, keys: Keys, retention: Retention, *, min_replicas: int, timeout: float) -> None:
        self._client = client
        self._keys = keys
        self._min_replicas = min_replicas
        self._timeout = timeout
        kept = retention
        trim = b"=" if kept.exact else b"~"
        numbers = (kept.ttl, kept.age, kept.key_window, kept.inline)
        self._fixed = (b"%d" % kept.max_len, trim, *(b"%d" % number for number in numbers), client.publish)
        self._origin = secrets.token_hex(6)
        self._numbers = count()
        self._under_way: dict[bytes, Push] = {}
        self._recent: dict[bytes, Event] = {}
        self.expects: Callable[[Event], bool] | None = None
        self._lanes: dict[Node, Lane] = {}
        self._unrouted: list[Push] = []
        self._routing = False

    async def save(self, events: Sequence[Event]) -> list[Event | NotifyError]:
        """Append the events and return an outcome for each; cancelling abandons the wait alone."""
        self._client.check_open()
        if not events:
            return []
        batch = Batch(len(events), self._under_way)
        deadline = time.monotonic() + self._timeout
        pushes = [self._push(event, batch, deadline) for event in events]
        if self._client.is_located and not self._unrouted:
            self._distribute(pushes)
        else:
            self._unrouted += pushes
            if not self._routing:
                self._routing = True
                self._client.start(self._route)
        await batch.done
        outcomes = [push.outcome for push in pushes]
        assert None not in outcomes
        return outcomes  # type: ignore[return-value]

    def _push(self, event: Event, batch: Batch, deadline: float) -> Push:
        stream, index, retries, _ = self._keys.of_user(event.user)
        idem = stream if event.key is None else self._keys.idempotency(event.user, event.key)
        nonce = f"{self._origin}{next(self._numbers):x}".encode()
        push = self._under_way[nonce] = Push(event, batch, nonce, (stream, index, retries, idem), deadline)
        return push

    def announced(self, nonce: bytes, id_: str, prev: str) -> Event | None:
        """Return the event of an announcement if it is one of ours: there is nothing to decode."""
        push = self._under_way.get(nonce)
        if push is None:
            return self._recent.pop(nonce, None)
        push.stored = push.event.stored(id_, prev)
        return push.stored

    def _remember(self, push: Push, event: Event) -> None:
        """Keep an event whose announcement is still to come, for a short while."""
        recent = self._recent
        recent[push.nonce] = event
        if len(recent) > REMEMBERED:
            del recent[next(iter(recent))]

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
            pushes, self._unrouted = self._unrouted, []
            self._distribute(pushes)
        finally:
            self._routing = False
            pushes, self._unrouted = self._unrouted, []
            self._abandon(pushes)

    def _distribute(self, pushes: Iterable[Push]) -> None:
        """Put each push into the lane of its master, and have the lanes run."""
        lanes = self._lanes
        for push in pushes:
            node = self._client.node_of(self._partition(push))
            lane = lanes.get(node)
            if lane is None:
                lane = lanes[node] = Lane(node)
            lane.queue.append(push)
        for lane in list(lanes.values()):
            if lane.queue and lane.running < LANES:
                lane.running += 1
                self._client.start(self._run, lane)
            elif not lane.queue and not lane.running:
                del lanes[lane.node]

    def _partition(self, push: Push) -> int:
        return self._keys.of_user(push.event.user)[3]

    async def _run(self, lane: Lane) -> None:
        """Send what waits in a lane, write after write; what needs another attempt is left to a task of its own."""
        pushes: list[Push] = []
        try:
            while lane.queue:
                pushes = [lane.queue.popleft() for _ in range(min(PIPELINE, len(lane.queue)))]
                again = await self._attempt(lane.node, pushes)
                pushes = []
                if again:
                    self._client.start(self._persist, again)
        finally:
            lane.running -= 1
            self._abandon([*pushes, *lane.queue] if self._client.closed else pushes)

    async def _persist(self, pushes: list[Push]) -> None:
        """Try pushes again until each has an outcome or is over its deadline."""
        delay = 0.005
        try:
            while pushes:
                try:
                    await self._client.locate()
                except FAILURES as error:
                    for push in pushes:
                        push.trouble = error
                else:
                    pushes = await self._attempt_all(pushes)
                pushes = [push for push in pushes if not self._is_over(push, delay)]
                if pushes:
                    await anyio.sleep(delay)
                    delay = min(delay * 2, 0.25)
                    advice = {_advice(push.trouble) for push in pushes}
                    if advice - {Advice.LOAD, Advice.WAIT}:
                        await self._client.relocate(advice)
        finally:
            self._abandon(pushes)

    async def _attempt_all(self, pushes: Sequence[Push]) -> list[Push]:
        """Make one attempt for each and return those that need another one."""
        by_node: dict[Node, list[Push]] = {}
        for push in pushes:
            by_node.setdefault(self._client.node_of(self._partition(push)), []).append(push)
        again: list[Push] = []

        async def attempt(node: Node, some: list[Push]) -> None:
            again.extend(await self._attempt(node, some))

        async with anyio.create_task_group() as tasks:
            for node, some in by_node.items():
                tasks.start_soon(attempt, node, some)
        return again

    async def _attempt(self, node: Node, pushes: Sequence[Push]) -> list[Push]:
        """Send the pushes to their master once and return those that need another attempt."""
        link = node.writes
        if link.down_for() > FAIL_FAST:
            pushes = self._without_unsent(pushes, link.down_for())
            if not pushes:
                return []
        wait = self._min_replicas > 0
        now = 0.0
        try:
            timeout = min(push.deadline for push in pushes) - time.monotonic()
            epoch = await link.connected(min(timeout, ATTEMPT))
            chunks = [chunk for _, chunk in self._client.chunks(pushes, self._partition, CHUNK)]
            now = time.monotonic() * 1000 + link.ahead
            commands = [self._command(chunk, link.ahead) for chunk in chunks]
            timeout = min(push.deadline for push in pushes) - time.monotonic()
            if wait:
                bound = max(1, int(min(REPLICA_WAIT, timeout / 2) * 1000))
                commands.append(pack(b"WAIT", b"%d" % self._min_replicas, b"%d" % bound))
            replies = await link.call(commands, min(timeout, ATTEMPT), epoch=epoch)
        except NoAnswerError as error:
            for push in pushes:
                push.trouble = error
                push.since = push.since or now
            return list(pushes)
        except (*FAILURES, ClosedError) as error:
            for push in pushes:
                push.trouble = error
            return list(pushes)
        confirmed = not wait or (isinstance(replies[-1], int) and replies[-1] >= self._min_replicas)
        again: list[Push] = []
        for chunk, reply in zip(chunks, replies, strict=False):
            again += self._settle(link, chunk, reply, confirmed, now)
        if any(_advice(push.trouble) is Advice.LOAD for push in again):
            try:
                await link.reload(ATTEMPT)
            except FAILURES as error:
                logger.debug("the scripts cannot be loaded: %s", error)
        return again

    def _without_unsent(self, pushes: Sequence[Push], seconds: float) -> list[Push]:
        """Give up those of which nothing was ever sent, and return the rest."""
        for push in pushes:
            if push.since is None:
                push.trouble = push.trouble or NotSentError(f"the server cannot be reached since {seconds:.1f} s")
                self._give_up(push)
        return [push for push in pushes if push.outcome is None]

    def _command(self, chunk: Sequence[Push], ahead: float) -> bytes:
        deadline = min(push.deadline for push in chunk) * 1000 + ahead
        unknown = [push.since for push in chunk if push.since is not None]
        since = b"%d" % min(unknown) if unknown else b""
        names: list[bytes] = []
        rest: list[bytes] = [b"%d" % deadline, *self._fixed, since]
        for push in chunk:
            names += push.names
            rest += (push.nonce, b"" if push.event.key is None else b"1", push.body)
        return pack(b"EVALSHA", PUSH.sha, b"%d" % len(names), *names, *rest)

    def _settle(self, link: Any, chunk: Sequence[Push], reply: Any, confirmed: bool, now: float) -> list[Push]:
        """Set the outcomes of one call of the script and return the pushes that need another attempt."""
        if isinstance(reply, ResponseError):
            advice = advise(reply)
            for push in chunk:
                push.trouble = reply
                if advice is Advice.UNKNOWN:
                    push.since = push.since or now
                elif advice is Advice.GIVE_UP:
                    self._give_up(push)
            return [push for push in chunk if push.outcome is None]
        server_ms, *results = reply
        link.calibrate(server_ms)
        if not results:
            for push in chunk:
                push.trouble = NoAnswerError("the deadline was over when the server came to it")
            return list(chunk)
        return [
            push for push, result in zip(chunk, results, strict=True) if not self._conclude(push, result, confirmed)
        ]

    def _conclude(self, push: Push, result: bytes, confirmed: bool) -> bool:
        """Set the outcome of one push; return False where it needs another attempt."""
        mark = result[:1]
        if mark in (b"!", b"?"):
            push.trouble = ResponseError(result[1:].decode(errors="replace"))
            if mark == b"?":
                push.finish(uncertain(push.trouble, self._client.name))
            elif advise(push.trouble) in (Advice.GIVE_UP, Advice.UNKNOWN):
                self._give_up(push)
            return push.outcome is not None
        if not confirmed:
            text = f"stored, but fewer than {self._min_replicas} replicas confirmed it in time"
            push.finish(PushUncertainError(text, backend=self._client.name))
            return True
        id_, prev, *body = result.split(b" ", 2)
        if push.stored is not None and not body:
            push.finish(push.stored)
            return True
        if body:
            push.finish(decode(body[0], id_.decode(), prev.decode()))
        else:
            event = push.event.stored(id_.decode(), prev.decode())
            push.finish(event)
            if self.expects is not None and self.expects(event):
                self._remember(push, event)
        return True

    def _is_over(self, push: Push, delay: float) -> bool:
        """Return whether a push has its outcome: at the latest when there is no time for another attempt."""
        if push.outcome is None and time.monotonic() + delay >= push.deadline:
            self._give_up(push)
        return push.outcome is not None

    def _give_up(self, push: Push) -> None:
        trouble = push.trouble or NoAnswerError("the store was closed")
        make = rejected if push.since is None else uncertain
        push.finish(make(trouble, self._client.name))

    def _abandon(self, pushes: Iterable[Push]) -> None:
        """Give outcomes to pushes whose task was cancelled: the store closes."""
        for push in pushes:
            if push.outcome is None:
                text = "the store was closed before the answer"
                push.finish(PushUncertainError(text, backend=self._client.name))


def _advice(trouble: Exception | None) -> Advice:
    return advise(trouble) if isinstance(trouble, ResponseError) else Advice.UNKNOWN
