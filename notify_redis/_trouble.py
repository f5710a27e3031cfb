"""A trouble that lasts is told when it begins and when it is over, not each time that it is met."""

from __future__ import annotations

import logging

logger = logging.getLogger("notify")


class Trouble:
    """One thing that may fail again and again.

    Args:
        begun: what to log when it fails; the error follows.
        over: what to log when it succeeds again.
    """

    def __init__(self, begun: str, over: str) -> None:
        self._begun = begun
        self._over = over
        self._told = ""

    def met(self, error: Exception) -> None:
        """Note that it failed, and tell it unless that was told in these words."""
        text = str(error) or repr(error)
        if text != self._told:
            self._told = text
            logger.warning("%s: %s", self._begun, text)

    def ended(self) -> None:
        """Note that it succeeded, and tell it if it did not before."""
        if self._told:
            self._told = ""
            logger.warning("%s", self._over)
