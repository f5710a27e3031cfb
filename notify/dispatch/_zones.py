"""Pure: time zones by name, and the instants of wall times in them.

Everything is decided on UTC instants. Python ignores daylight saving where two times of the same zone are subtracted or
compared, so no function returns a time in a zone.

A wall time that does not exist, since the clock jumps over it, is the first instant after the jump. A wall time that
exists twice is its first instant where something starts; an end is the instant after which the clock never again shows
less than it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from notify.errors import UsageError

DAY: Final = timedelta(days=1)
_OF_THE_SERVER: Final = frozenset({"localtime", "posixrules", "Factory"})
_UNSUITABLE: Final = ("posix/", "right/")


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """Return the zone with an IANA name.

    Raises:
        UsageError: there is none with this name, or it is that of the server.
    """
    if not name or name in _OF_THE_SERVER or name.startswith(_UNSUITABLE):
        raise UsageError(f"{name!r} is not the time zone of a user; give an IANA name such as 'Europe/Berlin' or 'UTC'")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"the time zone {name!r} is unknown; give an IANA name such as 'Europe/Berlin'. Where the system has no "
            "time zones, or old ones, install notify-streams[tz]"
        ) from error


def check_zone(name: object, what: str) -> str:
    """Return the name of a zone that exists, or an empty one.

    Args:
        name: an IANA name, or empty for no zone.
        what: names the value in the error, such as `Recipient.tz`.

    Raises:
        UsageError: it is neither.
    """
    if not isinstance(name, str):
        raise UsageError(f"{what} must be the IANA name of a time zone, such as 'Europe/Berlin', not {name!r:.80}")
    if name:
        try:
            zone_of(name)
        except UsageError as error:
            raise UsageError(f"{what}: {error}") from error.__cause__
    return name


def utc(now: object, what: str = "now") -> datetime:
    """Return an instant in UTC.

    Raises:
        UsageError: it is not an aware datetime.
    """
    if not isinstance(now, datetime) or now.tzinfo is None:
        raise UsageError(f"{what} must be an aware datetime, such as datetime.now(UTC), not {now!r:.80}")
    return now.astimezone(UTC)


def instant(zone: ZoneInfo, day: date, wall: time, *, is_end: bool = False) -> datetime:
    """Return the instant of a wall time, as the module says for times that are missing or exist twice."""
    local = datetime.combine(day, wall)
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first == second:
        return first
    if first > second:  # missing: the second lies before the jump, the first after it
        return _after_jump(zone, second, first)
    if not is_end:
        return first
    just_before = (second - timedelta(microseconds=1)).astimezone(zone).replace(tzinfo=None)
    return second if just_before < local else first


def day_of(zone: ZoneInfo, now: datetime) -> date:
    """Return the date that the clock on the wall shows."""
    return now.astimezone(zone).date()


def start_of(zone: ZoneInfo, day: date) -> datetime:
    """Return the instant at which a day begins: midnight, or the first instant after a jump over midnight."""
    return instant(zone, day, time(0))


def _after_jump(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    before = low.astimezone(zone).utcoffset()
    earliest, latest = int(low.timestamp()), int(high.timestamp())
    while latest - earliest > 1:  # to the second, which is as exact as the database of zones
        middle = (earliest + latest) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == before:
            earliest = middle
        else:
            latest = middle
    return datetime.fromtimestamp(latest, UTC)
