"""`Failover` and `RoundRobin`: several providers for one channel."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import anyio

from notify.adapters import OutageLog

from .._channel import Channel, Job
from .._outcomes import Misconfigured, Outcome, Throttled, Transient
from ._wrapper import ChannelWrapper

_logger = logging.getLogger("notify")

UNNAMED_WAIT = 1.0
"""Seconds for which a provider that throttles is passed over if it does not say for how long."""


class Failover(ChannelWrapper):
    """Sends through the first provider that accepts the message, starting with the first one each time.

    The next one is tried only if certainly nothing was sent: after `Transient`, `Throttled` and `Misconfigured`. It is
    never tried after `Ambiguous`, since the message may have arrived, nor after a refusal of the message or of the
    endpoint. A provider that throttles is skipped until the time that it named. A misconfigured one is logged as an
    outage, since the others would hide it.

    If no provider accepts the message, the outcome is the one that is tried again earliest: `Transient`, or else
    `Throttled`, or else `Misconfigured`.

    Args:
        channels: the providers, in this order. The whole counts as deduplicating if each of them does.

    Raises:
        UsageError: there is no channel, or some have endpoints and others have none.
    """

    def __init__(self, *channels: Channel) -> None:
        super().__init__(channels)
        self._open_at = [float("-inf")] * len(channels)
        self._misconfigured = [
            OutageLog(
                _logger,
                f"provider {number} of a channel, {type(channel).__name__}, is misconfigured and is passed over",
                f"provider {number} of a channel, {type(channel).__name__}, works again",
            )
            for number, channel in enumerate(channels, 1)
        ]

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`."""
        outcomes: list[Outcome] = []
        for number in self._order():
            wait = self._open_at[number] - anyio.current_time()
            if wait > 0:
                outcomes.append(Throttled(wait))
                continue
            outcome = await self._channels[number].send(job)
            self._note(number, outcome)
            if not isinstance(outcome, Transient | Throttled | Misconfigured):
                return outcome
            outcomes.append(outcome)
        return _earliest(outcomes)

    def _order(self) -> Iterator[int]:
        return iter(range(len(self._channels)))

    def _note(self, number: int, outcome: Outcome) -> None:
        if isinstance(outcome, Misconfigured):
            self._misconfigured[number].failed(outcome.error)
        elif not isinstance(outcome, Transient | Throttled):
            self._misconfigured[number].recovered()
        if isinstance(outcome, Throttled) and not outcome.gate:
            wait = UNNAMED_WAIT if outcome.retry_after is None else outcome.retry_after
            self._open_at[number] = max(self._open_at[number], anyio.current_time() + wait)


class RoundRobin(Failover):
    """Alternates: each message is tried first with the next provider, and then with the others as `Failover` does.

    Args:
        channels: the providers.

    Raises:
        UsageError: as for `Failover`.
    """

    def __init__(self, *channels: Channel) -> None:
        super().__init__(*channels)
        self._next = 0

    def _order(self) -> Iterator[int]:
        first, count = self._next, len(self._channels)
        self._next = (first + 1) % count
        return ((first + step) % count for step in range(count))


def _earliest(outcomes: list[Outcome]) -> Outcome:
    """Return the outcome of all attempts together."""
    for outcome in reversed(outcomes):
        if isinstance(outcome, Transient):
            return outcome
    throttled = [outcome for outcome in outcomes if isinstance(outcome, Throttled)]
    if throttled:
        return min(throttled, key=lambda outcome: outcome.retry_after or 0.0)
    return outcomes[-1]
