"""A trouble that lasts is told when it begins and when it is over, not each time that it is met."""

from __future__ import annotations

import logging

logger = logging.getLogger("notify.pg")


class Trouble:
    """One thing that may go wrong again and again.

    Args:
        begun: what to log when it goes wrong; the error follows.
        over: what to log when it goes well again.
    """

    def __init__(self, begun: str, over: str) -> None:
        self._begun = begun
        self._over = over
        self._told = ""

    @property
    def lasts(self) -> bool:
        """Whether it went wrong the last time."""
        return bool(self._told)

    def met(self, what: str) -> None:
        """Note that it went wrong, and tell it unless that was told in these words."""
        if what != self._told:
            self._told = what
            logger.warning("%s: %s", self._begun, what)

    def ended(self) -> None:
        """Note that it goes well, and tell it if it did not before."""
        if self._told:
            self._told = ""
            logger.warning("%s", self._over)
