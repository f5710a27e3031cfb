"""The health of endpoints: what their messages say about them, and when they are retired.

If a provider answers "gone" for most endpoints of a batch, it is faulty, or something else answers in its place. Then
no endpoint is retired; the next message asks again. Unclear refusals retire none unless the same channel has had
something accepted within a day: with a wrong key, or that of another project, every endpoint is refused.

An endpoint that has accepted nothing during all attempts of a message is retired if the channel's `RetrySchedule` has
`retires`, as that of webhooks does, which lasts for days. This too requires that others on the channel work.

A relay that accepts an e-mail proves nothing about the address. So after a bounce, acceptance does not count as a
success; a report of delivery does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from notify import BackendError
from notify.adapters import OutageLog

from ._looking import Ready
from ._plan import STOPPED
from ._retry import RetrySchedule
from ._settle import Settlement
from .abc import Endpoint, EndpointStore, State

logger = logging.getLogger("notify")

_REFUSALS: Final = 5
_REFUSING: Final = timedelta(days=1)

_BOUNCING: Final = timedelta(days=30)
"""Bounces that began longer ago are forgotten at the next one."""

_PROVEN: Final = timedelta(days=1)
"""How long the settings of a channel count as right after one of its messages was accepted."""

MANY: Final = 10
"""The fewest endpoints of one channel in one batch for which `TOO_MANY` applies."""

TOO_MANY: Final = 0.5
"""If a larger share of a batch would be retired, none is."""


class EndpointHealth:
    """Records successes and refusals of endpoints, and retires those that no longer work.

    Args:
        endpoints: keeps them.
        schedule: a function from the name of a channel to its retry schedule.
    """

    def __init__(self, endpoints: EndpointStore, schedule: Callable[[str], RetrySchedule]) -> None:
        self._endpoints = endpoints
        self._schedule = schedule
        self._guards: dict[str, OutageLog] = {}
        self._worked: dict[str, datetime] = {}

    async def follow(self, settled: Sequence[tuple[Ready, Settlement]], now: datetime) -> None:
        """Record what a batch says about its endpoints. If the store fails, the next message does so."""
        known = [(each, result) for each, result in settled if each.job.endpoint]
        try:
            for channel in dict.fromkeys(ready.job.channel for ready, _ in known):
                await self._follow(channel, [each for each in known if each[0].job.channel == channel], now)
        except BackendError as error:
            logger.warning("successes and refusals of endpoints could not be stored: %s", error)

    async def _follow(self, channel: str, settled: Sequence[tuple[Ready, Settlement]], now: datetime) -> None:
        leaving: list[tuple[Endpoint, str]] = []
        if any(result.effect == "success" for _, result in settled):
            self._worked[channel] = now
        for ready, result in settled:
            endpoint = ready.job.endpoint
            assert endpoint is not None
            reason: str = result.effect
            if result.effect == "success":
                reason = ""
                if result.move.to is State.DELIVERED or not _has_bounced(endpoint):
                    await self._observe(endpoint, now, ok=True)
            elif result.effect == "refusal":
                seen = await self._observe(endpoint, now, ok=False)
                is_over = seen is not None and is_hopeless(seen, now) and self._is_proven(channel, now)
                reason = "refused" if is_over else ""
            elif result.effect == "exhausted":
                is_over = self._has_failed_throughout(ready, endpoint) and self._is_proven(channel, now)
                reason = "failing" if is_over else ""
            if reason:
                leaving.append((endpoint, reason))
        if self._is_believed(channel, len(leaving), len(settled)):
            for endpoint, reason in leaving:
                await retire_endpoint(self._endpoints, endpoint, reason, now)

    async def _observe(self, endpoint: Endpoint, now: datetime, *, ok: bool) -> Endpoint | None:
        if not endpoint.generation:  # it came with the recipient, and is not stored
            return None
        return await self._endpoints.observe(endpoint.id, endpoint.generation, now, ok=ok)

    def _has_failed_throughout(self, ready: Ready, endpoint: Endpoint) -> bool:
        """Return whether a stored endpoint has accepted nothing since this message was submitted."""
        if not endpoint.generation or not self._schedule(ready.job.channel).retires:
            return False
        accepted = endpoint.last_success_at
        return accepted is None or accepted < ready.claim.notification.created_at

    def _is_proven(self, channel: str, now: datetime) -> bool:
        worked = self._worked.get(channel)
        return worked is not None and now - worked < _PROVEN

    def _is_believed(self, channel: str, leaving: int, all: int) -> bool:
        log = self._guards.get(channel)
        if log is None:
            log = self._guards[channel] = OutageLog(
                logger,
                f"most endpoints of the channel {channel!r} are said to be gone, so none is retired",
                f"endpoints of the channel {channel!r} are retired again",
            )
        if all >= MANY and leaving > all * TOO_MANY:
            log.failed(f"more than {TOO_MANY:.0%} of a batch")
            return False
        if all > leaving:
            log.recovered()
        return True


def is_hopeless(endpoint: Endpoint, now: datetime) -> bool:
    """Return whether an endpoint is given up: it never worked, and has refused five times over at least a day."""
    return endpoint.last_success_at is None and _has_failed_often(endpoint, now)


async def count_bounce(endpoints: EndpointStore, endpoint: Endpoint, now: datetime) -> bool:
    """Count an unclear report about a message that was accepted; return whether it retired the endpoint."""
    since = endpoint.failing_since
    if since is not None and now - since > _BOUNCING:
        await endpoints.observe(endpoint.id, endpoint.generation, now, ok=True)
    seen = await endpoints.observe(endpoint.id, endpoint.generation, now, ok=False)
    if seen is None or not _has_failed_often(seen, now):
        return False
    return await endpoints.retire(endpoint.id, endpoint.generation, "refused", now)


async def retire_endpoint(endpoints: EndpointStore, endpoint: Endpoint, reason: str, now: datetime) -> bool:
    """Stop using an endpoint; return whether that was done.

    One that came with the recipient is stored for it, so that it is remembered. STOP also counts for one that only
    mandatory messages were sent to.
    """
    generation = endpoint.generation
    if generation and await endpoints.retire(endpoint.id, generation, reason, now):
        return True
    stored = await endpoints.endpoint(endpoint.id)
    if stored is None and generation:  # erased since the message was sent, with its user
        return False
    if stored is None or (stored.retired_at is not None and reason == STOPPED != stored.reason):
        stored = await endpoints.register(endpoint, now)
    elif generation:  # retired already, or registered again since the message was sent
        return False
    return await endpoints.retire(stored.id, stored.generation, reason, now)


def _has_failed_often(endpoint: Endpoint, now: datetime) -> bool:
    since = endpoint.failing_since
    return endpoint.failures >= _REFUSALS and since is not None and now - since >= _REFUSING


def _has_bounced(endpoint: Endpoint) -> bool:
    """Return whether something was reported as failed since the last time that something was accepted."""
    since, accepted = endpoint.failing_since, endpoint.last_success_at
    return since is not None and accepted is not None and since >= accepted
