"""RedisRetries to append events: what is sent for them, what an answer means, and how often to try.

Each push has a nonce and a deadline. Every attempt carries both, and the script that appends refuses what comes too
late and finds what another attempt has appended. So an attempt whose answer was lost may be repeated, whatever becomes
of it in a server that hangs, and after the deadline nothing of it will be executed any more.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import anyio
from redis.exceptions import ResponseError

from notify.adapters import backoff
from notify.errors import ClosedError, PushRejectedError, PushUncertainError

from ._client import RedisClient, RedisNode
from ._connection import pack
from ._errors import (
    FAILURES,
    Disposition,
    NoAnswerError,
    NotSentError,
    RefusedError,
    disposition_of,
    rejected,
    uncertain,
)
from ._names import RedisNames
from ._pipeline import PipelinedConnection
from ._pushes import Outcome, PendingPush, PushCommands
from ._record import decode

CHUNK: Final = 32
"""Events to one call of the script: half a millisecond in which the server does nothing else."""

ATTEMPT: Final = 2.0
"""Seconds after which an answer is given up and the push tried again."""

FAIL_FAST: Final = 1.0
"""Seconds without a connection after which pushes to that master are rejected at once: others do not wait for them."""

REPLICA_WAIT: Final = 1.0
"""Seconds for `min_replicas` to confirm."""


class PushAttempt:
    """One attempt for some pushes, as it was sent.

    Attributes:
        chunks: the pushes of each call of the script.
        now: the server's time, at most, when it was sent.
    """

    __slots__ = ("chunks", "link", "now", "pushes", "timeout")

    def __init__(
        self,
        link: PipelinedConnection,
        pushes: Sequence[PendingPush],
        chunks: Sequence[Sequence[PendingPush]],
        timeout: float,
    ) -> None:
        self.link = link
        self.pushes = pushes
        self.chunks = chunks
        self.timeout = timeout
        self.now = time.monotonic() * 1000 + link.ahead


class RedisRetries:
    """Makes attempts, and tells outcomes.

    Args:
        client: what they are sent through.
        keys: the names.
        packer: makes the commands.
        min_replicas: how many replicas must confirm.

    Attributes:
        under_way: the pushes without an outcome, by their nonces.
    """

    def __init__(self, client: RedisClient, keys: RedisNames, packer: PushCommands, min_replicas: int) -> None:
        self._client = client
        self._keys = keys
        self._packer = packer
        self._min_replicas = min_replicas
        self.under_way: dict[bytes, PendingPush] = {}

    def partition(self, push: PendingPush) -> int:
        """Return the partition of the push's user."""
        return self._keys.of_user(push.event.user)[3]

    def prepare(self, link: PipelinedConnection, pushes: Sequence[PendingPush]) -> tuple[PushAttempt, list[bytes]]:
        """Return an attempt and what is sent for it."""
        chunks = [chunk for _, chunk in self._client.chunks(pushes, self.partition, CHUNK)]
        commands = [self._packer.pack(chunk, link.ahead) for chunk in chunks]
        left = min([push.deadline for push in pushes]) - time.monotonic()
        if self._min_replicas:
            bound = max(1, int(min(REPLICA_WAIT, left / 2) * 1000))
            commands.append(pack(b"WAIT", b"%d" % self._min_replicas, b"%d" % bound))
        return PushAttempt(link, pushes, chunks, min(left, ATTEMPT)), commands

    def take(self, attempt: PushAttempt, answer: list[Any] | Exception) -> list[PendingPush]:
        """Conclude what an attempt has decided and return the pushes that need another one."""
        if isinstance(answer, Exception):
            for push in attempt.pushes:
                push.trouble = answer
                if isinstance(answer, NoAnswerError):  # pragma: no branch - else the connection has just changed
                    push.since = push.since or attempt.now
            return list(attempt.pushes)
        confirmed = not self._min_replicas or (isinstance(answer[-1], int) and answer[-1] >= self._min_replicas)
        again: list[PendingPush] = []
        for chunk, reply in zip(attempt.chunks, answer, strict=False):
            again += self._settle(attempt, chunk, reply, confirmed)
        return again

    def _settle(
        self, attempt: PushAttempt, chunk: Sequence[PendingPush], reply: Any, confirmed: bool
    ) -> list[PendingPush]:
        """Conclude what one call of the script has decided and return the pushes that need another attempt."""
        if isinstance(reply, ResponseError):
            advice = disposition_of(reply)
            for push in chunk:
                push.trouble = reply
                if advice is Disposition.UNKNOWN:
                    push.since = push.since or attempt.now
                elif advice is Disposition.GIVE_UP:
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

    def _conclude(self, push: PendingPush, result: bytes, confirmed: bool) -> bool:
        """Set the outcome of one push; return False where it needs another attempt."""
        if result[:1] in b"!?":
            push.trouble = ResponseError(result[1:].decode(errors="replace"))
            if result[:1] == b"?":
                self.finish(push, uncertain(push.trouble, self._client.name))
            elif disposition_of(push.trouble) in (Disposition.GIVE_UP, Disposition.UNKNOWN):
                self._give_up(push)
            return push.outcome is not None
        if not confirmed:
            text = f"stored, but fewer than {self._min_replicas} replicas confirmed it in time"
            self.finish(push, PushUncertainError(text, backend=self._client.name))
            return True
        place = result.split(b" ", 2)
        if len(place) > 2:
            self.finish(push, decode(place[2], place[0].decode(), place[1].decode()))
        else:
            id_, prev = place[0].decode(), place[1].decode()
            heard = push.stored
            if heard is None or (heard.id, heard.prev) != (id_, prev):  # else it was stored again since, by a retry
                heard = push.event.stored(id_, prev)
            self.finish(push, heard)
        return True

    # -- further attempts ----------------------------------------------------------------------------------------

    def try_again(self, pushes: Sequence[PendingPush]) -> None:
        """Have pushes tried again, except those for which it is no use."""
        pushes = [push for push in pushes if not self.is_over(push, 0.0)]
        if pushes:
            try:
                self._client.start(self._persist, pushes)
            except ClosedError:
                self.abandon(pushes)

    async def _persist(self, pushes: Sequence[PendingPush]) -> None:
        """Try pushes again until each has an outcome or is over its deadline."""
        delays = backoff(random.random, first=0.005, limit=0.25)
        failed = False
        try:
            while pushes:
                advice = {_advice(push.trouble) for push in pushes}
                if Disposition.MOVE in advice or (failed and advice - {Disposition.LOAD, Disposition.WAIT}):
                    await self._client.relocate(advice)
                pushes = await self._attempt_all(pushes)
                failed = True
                delay = next(delays)
                pushes = [push for push in pushes if not self.is_over(push, delay)]
                if pushes:
                    await anyio.sleep(delay)
        finally:
            self.abandon(pushes, sent=True)

    async def _attempt_all(self, pushes: Sequence[PendingPush]) -> list[PendingPush]:
        """Make one attempt for each and return those that need another one."""
        by_node: dict[RedisNode, list[PendingPush]] = {}
        for push in pushes:
            by_node.setdefault(self._client.node_of(self.partition(push)), []).append(push)
        again: list[PendingPush] = []

        async def attempt(node: RedisNode, some: list[PendingPush]) -> None:
            again.extend(await self._attempt(node.writes, some))

        async with anyio.create_task_group() as tasks:
            for node, some in by_node.items():
                tasks.start_soon(attempt, node, some)
        return again

    async def _attempt(self, link: PipelinedConnection, pushes: Sequence[PendingPush]) -> list[PendingPush]:
        """Send the pushes to their master once more and return those that need yet another attempt."""
        if link.down_for() > FAIL_FAST:
            self.reject([push for push in pushes if push.since is None], link)
            pushes = [push for push in pushes if push.outcome is None]
            if not pushes:
                return []
        try:
            epoch = await link.connected(min(ATTEMPT, pushes[0].deadline - time.monotonic()))
            if any(_advice(push.trouble) is Disposition.LOAD for push in pushes):
                await link.reload(ATTEMPT)
            attempt, commands = self.prepare(link, pushes)
        except (*FAILURES, ClosedError) as error:
            for push in pushes:
                push.trouble = error
            return list(pushes)
        try:
            return self.take(attempt, await link.call(commands, attempt.timeout, epoch=epoch))
        except (*FAILURES, ClosedError) as error:  # pragma: no cover - CPython 3.11 does not trace what follows a throw
            return self.take(attempt, error)

    # -- outcomes ------------------------------------------------------------------------------------------------

    def finish(self, push: PendingPush, outcome: Outcome) -> None:
        """Tell the outcome, once."""
        if push.outcome is None:
            push.outcome = outcome
            del self.under_way[push.nonce]
            push.done(outcome)

    def is_over(self, push: PendingPush, delay: float) -> bool:
        """Return whether a push has its outcome: at the latest when there is no time for another attempt.

        Of a server that does not let us in it has one at once, unless an earlier attempt may have stored it.
        """
        is_refused = push.since is None and isinstance(push.trouble, RefusedError)
        if push.outcome is None and (is_refused or time.monotonic() + delay >= push.deadline):
            self._give_up(push)
        return push.outcome is not None

    def _give_up(self, push: PendingPush) -> None:
        trouble = push.trouble or NoAnswerError("the store was closed")
        make = rejected if push.since is None else uncertain
        self.finish(push, make(trouble, self._client.name))

    def reject(self, pushes: Iterable[PendingPush], link: PipelinedConnection) -> None:
        """Give up pushes of which nothing was ever sent: the server has been away for long."""
        for push in pushes:
            push.trouble = push.trouble or NotSentError(f"no connection for {link.down_for():.1f} s: {link.trouble}")
            self._give_up(push)

    def abandon(self, pushes: Iterable[PendingPush], *, sent: bool = False) -> None:
        """Give outcomes to pushes that nobody will attempt any more: the store closes."""
        for push in pushes:
            if sent or push.since is not None:
                text = "the store was closed before the answer"
                self.finish(push, PushUncertainError(text, backend=self._client.name))
            else:
                text = "the store was closed; nothing was sent"
                self.finish(push, PushRejectedError(text, backend=self._client.name))


def _advice(trouble: Exception | None) -> Disposition:
    return disposition_of(trouble) if isinstance(trouble, ResponseError) else Disposition.UNKNOWN
