"""What becomes of endpoints after their messages: when they are no longer used, and when that is not believed.

A provider that answers "gone" for most of its endpoints has a fault, or something else answers in its place. Then no
endpoint is retired: the next message to it asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from notify import BackendError
from notify.adapters import OutageLog

from ._looking import Ready
from ._settle import Settlement
from .abc import Endpoint, EndpointStore

logger = logging.getLogger("notify")

_REFUSALS: Final = 5
_REFUSING: Final = timedelta(days=1)

MANY: Final = 10
"""As many endpoints of one channel in one batch, or more, are compared with each other."""

TOO_MANY: Final = 0.5
"""If a larger part of them would be retired, none is."""


class EndpointHealth:
    """Notes successes and refusals of endpoints, and retires those that are over.

    Args:
        endpoints: keeps them.
    """

    def __init__(self, endpoints: EndpointStore) -> None:
        self._endpoints = endpoints
        self._guards: dict[str, OutageLog] = {}

    async def follow(self, settled: Sequence[tuple[Ready, Settlement]], now: datetime) -> None:
        """Do what follows from a batch. What the store does not take is left to the next message."""
        known = [(each, result) for each, result in settled if each.job.endpoint and each.job.endpoint.generation]
        try:
            for channel in dict.fromkeys(ready.job.channel for ready, _ in known):
                await self._follow(channel, [each for each in known if each[0].job.channel == channel], now)
        except BackendError as error:
            logger.warning("successes and refusals of endpoints could not be stored: %s", error)

    async def _follow(self, channel: str, settled: Sequence[tuple[Ready, Settlement]], now: datetime) -> None:
        leaving: list[tuple[Endpoint, str]] = []
        for ready, result in settled:
            endpoint = ready.job.endpoint
            assert endpoint is not None
            reason: str = result.effect
            if result.effect in ("success", "refusal"):
                is_ok = result.effect == "success"
                seen = await self._endpoints.observe(endpoint.id, endpoint.generation, now, ok=is_ok)
                reason = "refused" if not is_ok and seen is not None and is_hopeless(seen, now) else ""
            if reason:
                leaving.append((endpoint, reason))
        if self._is_believed(channel, len(leaving), len(settled)):
            for endpoint, reason in leaving:
                await self._endpoints.retire(endpoint.id, endpoint.generation, reason, now)

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
    since = endpoint.failing_since
    never = endpoint.last_success_at is None
    return never and endpoint.failures >= _REFUSALS and since is not None and now - since >= _REFUSING
