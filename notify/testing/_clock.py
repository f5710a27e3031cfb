"""A clock for tests that is set by hand. Needs no pytest."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from notify import UsageError

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


class VirtualClock:
    """Shows a time that passes only when a test says so.

    It is the `clock=` of a store, which wants seconds since 1970; its method `now` is that of a dispatcher, which wants
    datetimes.

    Args:
        start: the first instant; None: the present. A naive one is in UTC.
    """

    def __init__(self, start: datetime | None = None) -> None:
        start = datetime.now(UTC) if start is None else start
        self._now = (start.replace(tzinfo=UTC) if start.tzinfo is None else start).astimezone(UTC)

    def __call__(self) -> float:
        """Return the seconds since 1970."""
        return self._now.timestamp()

    def now(self) -> datetime:
        """Return the present instant, in UTC."""
        return self._now

    def advance(self, by: str | float | timedelta) -> datetime:
        """Let time pass, and return the instant after.

        Args:
            by: seconds, a timedelta, or a text such as `"9h"`, `"1d 30m"` or `"250ms"`.

        Raises:
            UsageError: not a duration, or one that goes back.
        """
        passed = by if isinstance(by, timedelta) else timedelta(seconds=_seconds(by))
        if passed < timedelta(0):
            raise UsageError(f"a clock does not go back: {by!r}")
        self._now += passed
        return self._now

    def set(self, moment: datetime) -> datetime:
        """Go on to an instant that is not before the present one, and return it.

        Raises:
            UsageError: the instant is before the present one, or naive.
        """
        if moment.tzinfo is None:
            raise UsageError(f"{moment!r} is naive: add tzinfo=")
        self.advance(moment - self._now)
        return self._now


def _seconds(by: str | float) -> float:
    if not isinstance(by, str):
        return by
    text = by.replace(" ", "")
    found = _SPAN.findall(text)
    if not found or "".join(number + unit for number, unit in found) != text:
        raise UsageError(f'a duration is written like "9h", "1d 30m" or "250ms", not {by!r}')
    return sum(float(number) * _UNITS[unit] for number, unit in found)
