"""What follows a failed attempt: pushes are tried again in a task of their own, with backoff, until their deadline.

The happy path never comes here (see `_save`). Between two attempts the masters are looked up again where the failure
suggests that they have moved. `_attempt` explains why repeating is safe.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import anyio
from redis.exceptions import ResponseError

from notify.adapters import backoff
from notify.errors import ClosedError

from ._attempt import ATTEMPT_TIMEOUT, PendingPush, PushAttempts
from ._client import RedisClient, RedisNode
from ._errors import FAILURES, Disposition, disposition_of
from ._pipeline import PipelinedConnection
from ._reach import FAIL_FAST_AFTER

FIRST_DELAY: Final = 0.005
MAX_DELAY: Final = 0.25


class RedisRetries:
    """Tries pushes again.

    Args:
        client: where the masters are.
        attempts: builds and settles each attempt.
        resume: called whenever pushes have their outcomes: later ones to the same users may wait for that.
    """

    def __init__(self, client: RedisClient, attempts: PushAttempts, resume: Callable[[], None]) -> None:
        self._resume = resume
        self._client = client
        self._attempts = attempts

    def start(self, pushes: Sequence[PendingPush]) -> None:
        """Try pushes again in the background, except those that trying again cannot help. Never waits."""
        pushes = [push for push in pushes if not self._attempts.is_over(push, 0.0)]
        if pushes:
            try:
                self._client.start(self._retry, pushes)
            except ClosedError:
                self._attempts.abandon(pushes)

    async def _retry(self, pushes: Sequence[PendingPush]) -> None:
        """Try pushes again until each has an outcome, at the latest at its deadline."""
        delays = backoff(random.random, first=FIRST_DELAY, limit=MAX_DELAY)
        failed_again = False
        try:
            while pushes:
                found = {_disposition(push.failure) for push in pushes}
                if Disposition.MOVE in found or (failed_again and found - {Disposition.LOAD, Disposition.WAIT}):
                    await self._client.relocate(found)
                pushes = await self._attempt_all(pushes)
                failed_again = True
                delay = next(delays)
                pushes = [push for push in pushes if not self._attempts.is_over(push, delay)]
                self._resume()
                if pushes:
                    await anyio.sleep(delay)
        except ClosedError:  # pragma: no cover - closed between two attempts; else this task is cancelled
            raise
        except Exception as error:
            self._attempts.fail(pushes, error, sent=True)
        finally:
            self._attempts.abandon(pushes, sent=True)
            self._resume()

    async def _attempt_all(self, pushes: Sequence[PendingPush]) -> list[PendingPush]:
        """Make one attempt for each push, at all masters at once; return the pushes that need another one."""
        by_node: dict[RedisNode, list[PendingPush]] = {}
        for push in pushes:
            by_node.setdefault(self._client.node_of(push.partition), []).append(push)
        undecided: list[PendingPush] = []

        async def attempt(node: RedisNode, some: list[PendingPush]) -> None:
            undecided.extend(await self._attempt(node.writes, some))

        async with anyio.create_task_group() as tasks:
            for node, some in by_node.items():
                tasks.start_soon(attempt, node, some)
        return undecided

    async def _attempt(self, connection: PipelinedConnection, pushes: Sequence[PendingPush]) -> list[PendingPush]:
        """Make one attempt at one master; return the pushes that need another one."""
        if connection.down_for() > FAIL_FAST_AFTER:
            self._client.look_around()
            self._attempts.reject([push for push in pushes if push.unknown_since is None], connection)
            pushes = [push for push in pushes if push.outcome is None]
            if not pushes:
                return []
        try:
            epoch = await connection.connected(min(ATTEMPT_TIMEOUT, pushes[0].deadline - time.monotonic()))
            if any(_disposition(push.failure) is Disposition.LOAD for push in pushes):
                await connection.reload(ATTEMPT_TIMEOUT)
            attempt = self._attempts.prepare(connection, pushes)
        except (*FAILURES, ClosedError) as error:
            for push in pushes:
                push.failure = error
            return list(pushes)
        try:
            # The deadline was converted for the clock of this connection's server, so no other connection will do.
            replies = await connection.call(attempt.commands, attempt.timeout, epoch=epoch)
            return self._attempts.settle(attempt, replies)
        except (*FAILURES, ClosedError) as error:  # pragma: no cover - CPython 3.11 does not trace what follows a throw
            return self._attempts.settle(attempt, error)


def _disposition(failure: Exception | None) -> Disposition:
    return disposition_of(failure) if isinstance(failure, ResponseError) else Disposition.UNKNOWN
