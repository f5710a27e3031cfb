"""Which topics a client may follow.

Names of topics and of users are names of logs, so a client that could follow any name could read what was sent to
another user. Therefore it may follow only what the application lets it: by default the logs among
`Identity.addresses`, which it may read anyway.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import anyio

from notify._asgi import WITHIN, Identity, WebError
from notify.adapters import without_stray_cancellation

logger = logging.getLogger("notify.web")

QUIET: Final = 60.0
"""Seconds in which failures are logged once."""


class FollowRule:
    """Asks the application's function.

    Args:
        authorize: called with the identity and the topic, plain or async; None for the default.
    """

    def __init__(self, authorize: Callable[[Identity, str], Any] | None) -> None:
        self._authorize = authorize
        self._quiet_until = 0.0

    async def check(self, identity: Identity, topic: str) -> None:
        """Return if a client may follow a topic.

        Raises:
            WebError: 403, it may not, whether or not there is such a topic; 503, the function has failed.

        Cancellation: cancels the function.
        Concurrency: any number of tasks.
        """
        if self._authorize is None:
            is_allowed = topic in identity.addresses
        else:
            try:
                is_allowed = await without_stray_cancellation(self._call, self._authorize, identity, topic)
            except Exception:
                self._failed()
                message = "authorize_follow() of the application failed: the server's log says more"
                raise WebError(503, "unavailable", message) from None
        if not is_allowed:
            raise WebError(403, "forbidden", "this user may not follow this topic")

    async def _call(self, authorize: Callable[[Identity, str], Any], identity: Identity, topic: str) -> bool:
        allowed = authorize(identity, topic)
        if inspect.isawaitable(allowed):
            with anyio.fail_after(WITHIN):
                allowed = await allowed
        return allowed is True

    def _failed(self) -> None:
        now = monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            logger.exception("authorize_follow() failed, so clients cannot follow topics until it works")
