"""`LogChannel`: a line in the log, for development and for notifications to operators."""

from __future__ import annotations

import logging
from typing import ClassVar

from .._channel import Job
from .._outcomes import Accepted, Outcome

_logger = logging.getLogger("notify")


class LogChannel:
    """Logs the id and type of each notification, never an address, the user, or the text.

    Args:
        logger: the logger; `notify` by default.
        level: the level of the line.
        show: log title and body, too. For development only, since texts may be personal.
    """

    has_endpoints: ClassVar = False
    deduplicates: ClassVar = True

    def __init__(self, logger: logging.Logger = _logger, *, level: int = logging.INFO, show: bool = False) -> None:
        self._logger = logger
        self._level = level
        self._show = show

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`."""
        text = f": {job.content.title!r} {job.content.body!r}" if self._show else ""
        self._logger.log(self._level, "notification %s of type %s%s", job.id, job.type, text)
        return Accepted()
