"""`RateLimited`: no more messages in a time than a provider accepts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import anyio

from notify import UsageError

from .._channel import Channel, Job
from .._checks import check_count, check_seconds
from .._outcomes import Outcome, Throttled
from ._wrapper import ChannelWrapper

MAX_KEYS = 10_000
"""How many keys a `Rate` remembers; with more, those whose time is over are forgotten."""


@runtime_checkable
class Limiter(Protocol):
    """Decides when the next message may be sent. `Rate` limits one process; one of your own can limit all together."""

    @abstractmethod
    async def acquire(self, key: str) -> float:
        """Take a turn and return 0, or take none and return the seconds until there may be one.

        Cancellation: a turn may be lost.    Concurrency: any number of tasks.
        """


class Rate:
    """A limiter for one process: `limit` messages in `per` seconds, spread evenly, after a burst.

    It is the generic cell rate algorithm, which keeps one number for each key: the time at which the next message would
    be due at the steady rate.

    Args:
        limit: the number of messages.
        per: the number of seconds.
        burst: how many may be sent at once after a pause; None: `limit`.
        clock: returns seconds, from any origin.

    Raises:
        UsageError: a number is not greater than 0.
    """

    def __init__(
        self,
        limit: float,
        per: float = 1.0,
        *,
        burst: int | None = None,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        check_seconds("limit", limit)
        check_seconds("per", per)
        if burst is not None:
            check_count("burst", burst)
        self._interval = per / limit
        self._slack = self._interval * (max(1.0, limit if burst is None else burst) - 1)
        self._clock = clock
        self._due: dict[str, float] = {}

    async def acquire(self, key: str) -> float:
        """See `Limiter.acquire`."""
        now = self._clock()
        due = max(self._due.get(key, now), now)
        wait = due - self._slack - now
        if wait > 1e-9:
            return wait
        if key not in self._due and len(self._due) >= MAX_KEYS:
            self._due = {name: until for name, until in self._due.items() if until > now}
        self._due[key] = due + self._interval
        return 0.0


class RateLimited(ChannelWrapper):
    """Asks a limiter before each message. A message over the limit waits up to `max_wait`, and is then `Throttled`.

    Args:
        channel: sends the messages.
        limiter: a `Rate`, or one of your own.
        max_wait: seconds for which a message may wait here. They are part of the dispatcher's `timeout` for a message.
        key: a function from a job to what is limited separately, such as the push service; by default everything
            together.

    Raises:
        UsageError: `limiter` has no method `acquire`.
    """

    def __init__(
        self, channel: Channel, limiter: Limiter, *, max_wait: float = 0.0, key: Callable[[Job], str] = lambda _: ""
    ) -> None:
        super().__init__([channel])
        if not isinstance(limiter, Limiter):
            raise UsageError(f"limiter must be a Limiter, such as Rate(10), not {type(limiter).__name__}")
        self._limiter = limiter
        self._max_wait = max_wait
        self._key = key

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`."""
        key = self._key(job)
        deadline = anyio.current_time() + self._max_wait
        while wait := await self._limiter.acquire(key):
            if anyio.current_time() + wait > deadline:
                return Throttled(wait, key)
            await anyio.sleep(wait)
        return await self._channels[0].send(job)
