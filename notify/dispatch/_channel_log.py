"""What workers log about channels: each trouble when it begins and when it ends, not for every delivery."""

from __future__ import annotations

import logging
import traceback

from notify.adapters import OutageLog

logger = logging.getLogger("notify")


class ChannelLog:
    """The log of a worker's channels."""

    def __init__(self) -> None:
        self._misconfigured: dict[str, OutageLog] = {}
        self._seen: set[tuple[str, str, type[BaseException]]] = set()

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

    def raised(self, channel: str, error: BaseException) -> None:
        """Note that a channel raised; once for each kind of error."""
        self._once(f"the channel {channel!r} raised instead of returning an outcome", channel, error)

    def faulty(self, channel: str, error: BaseException) -> None:
        """Note that a delivery cannot be looked at; once for each kind of error."""
        self._once(f"a delivery over the channel {channel!r} cannot be looked at, so it waits", channel, error)

    def _once(self, what: str, channel: str, error: BaseException) -> None:
        if (what, channel, type(error)) not in self._seen:
            self._seen.add((what, channel, type(error)))
            frames = traceback.extract_tb(error.__traceback__)
            trace = "".join(f"\n  {each.filename}:{each.lineno} in {each.name}" for each in frames)
            logger.error("%s: %s%s", what, type(error).__name__, trace)


def place_of(error: BaseException) -> str:
    """Return what went wrong where, without the message, which may quote an address, a secret or a request."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__}{place}"
