"""What workers log about channels: each trouble when it begins and when it ends, not for every delivery."""

from __future__ import annotations

import logging

from notify.adapters import OutageLog

logger = logging.getLogger("notify")


class ChannelLog:
    """The log of a worker's channels."""

    def __init__(self) -> None:
        self._misconfigured: dict[str, OutageLog] = {}
        self._raised: set[tuple[str, type[Exception]]] = set()

    def misconfigured(self, channel: str, error: str) -> None:
        """Note that a channel cannot send because of its own settings or texts."""
        log = self._misconfigured.get(channel)
        if log is None:
            log = self._misconfigured[channel] = OutageLog(
                logger,
                f"the channel {channel!r} is misconfigured, so its deliveries are parked",
                f"the channel {channel!r} sends again",
            )
        log.failed(error)

    def works(self, channel: str) -> None:
        """Note that a channel has sent something."""
        if (log := self._misconfigured.get(channel)) is not None:
            log.recovered()

    def raised(self, channel: str, error: Exception) -> None:
        """Note that a channel raised, with the traceback; once for each kind of error."""
        if (channel, type(error)) not in self._raised:
            self._raised.add((channel, type(error)))
            logger.error("the channel %r raised instead of returning an outcome", channel, exc_info=error)
