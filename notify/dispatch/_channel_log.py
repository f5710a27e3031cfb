"""What workers log about channels: each failure when it begins and when it ends, not for every delivery."""

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
        if self._is_new("raised", channel, error):
            logger.error("the channel %r raised instead of returning an outcome: %s", channel, trace_of(error))

    def faulty(self, channel: str, error: BaseException) -> None:
        """Note that a delivery cannot be processed; once for each kind of error."""
        if self._is_new("faulty", channel, error):
            logger.error("a delivery over channel %r cannot be processed, so it waits: %s", channel, trace_of(error))

    def _is_new(self, what: str, channel: str, error: BaseException) -> bool:
        if (what, channel, type(error)) in self._seen:
            return False
        self._seen.add((what, channel, type(error)))
        return True


def trace_of(error: BaseException) -> str:
    """Return the kind of an error and where it was raised, without its text, as `place_of` does."""
    frames = traceback.extract_tb(error.__traceback__)
    trace = "".join(f"\n  {each.filename}:{each.lineno} in {each.name}" for each in frames)
    return f"{type(error).__name__}{trace}"


def place_of(error: BaseException) -> str:
    """Return what went wrong where, without the message, which may quote an address, a secret or a request."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__}{place}"
