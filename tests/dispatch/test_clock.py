"""The clock for tests, which is set by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from notify import UsageError
from notify.testing.dispatch import VirtualClock

START = datetime(2027, 1, 5, 22, tzinfo=UTC)


def test_it_stands_until_it_is_turned() -> None:
    """It shows the same instant, as a datetime and in seconds since 1970, until a test says otherwise."""
    clock = VirtualClock(START)
    assert (clock.now(), clock()) == (START, START.timestamp())
    assert clock.advance("9h") == clock.now() == START + timedelta(hours=9)
    assert clock.advance("1d 1h 30m 2.5s 250ms") == START + timedelta(days=1, hours=10, minutes=30, seconds=2.75)
    assert clock.advance(60) - clock.advance(timedelta(0)) == timedelta(0)
    later = clock.now() + timedelta(weeks=1)
    assert clock.set(later.astimezone(timezone(timedelta(hours=5)))) == later
    assert VirtualClock(START.replace(tzinfo=None)).now() == START
    assert abs(VirtualClock().now() - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("by", ["", "9", "h", "9 hours", "9h!", "-1s", -1, timedelta(-1)])
def test_what_is_not_a_duration(by: str | float | timedelta) -> None:
    """What is not a duration is refused, and the clock stands; it does not go back."""
    clock = VirtualClock(START)
    with pytest.raises(UsageError):
        clock.advance(by)
    with pytest.raises(UsageError):
        clock.set(START - timedelta(seconds=1))
    with pytest.raises(UsageError):
        clock.set(datetime(2028, 1, 1))
    assert clock.now() == START
