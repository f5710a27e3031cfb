"""An outage is logged when it begins and when it ends, not at every failed attempt in between."""

from __future__ import annotations

import logging


class OutageLog:
    """The log of one thing that may fail again and again, such as a connection.

    Args:
        logger: where the two lines go, both as warnings.
        failing: logged when it fails for the first time; the error follows.
        recovered: logged when it works again.
    """

    def __init__(self, logger: logging.Logger, failing: str, recovered: str) -> None:
        self._logger = logger
        self._failing = failing
        self._recovered = recovered
        self._last = ""

    @property
    def is_failing(self) -> bool:
        """Whether the latest attempt failed."""
        return bool(self._last)

    def failed(self, error: BaseException | str) -> None:
        """Note a failed attempt. Logged if it begins an outage; a further cause of the same outage is an info line."""
        text = str(error) or repr(error)
        if text != self._last:
            level = logging.INFO if self._last else logging.WARNING
            self._last = text
            self._logger.log(level, "%s: %s", self._failing, text)

    def recovered(self) -> None:
        """Note an attempt that succeeded. Logged if it ends an outage."""
        if self._last:
            self._last = ""
            self._logger.warning("%s", self._recovered)
