"""Pure: quiet hours.

A rule is an interval of local time, `[start, end)`, on some days of the week. One with `start > end` crosses midnight
and belongs to the day on which it begins. Rules that touch or overlap are one quiet period: what is held is released at
the end of the whole chain, so that it does not wake the recipient between two rules.

`_zones.instant` says what a start or an end is on the nights on which the clocks change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from notify.errors import UsageError

from ._channel import Priority
from ._checks import WEEKDAYS, check_choice, check_days, check_names, check_wall, keep
from ._types import IN_APP, PRIORITIES
from ._zones import DAY, check_zone, instant, utc, zone_of

Action = Literal["hold", "drop", "digest"]

_LONGEST: Final = timedelta(days=15)
"""Rules that are quiet for longer than this are taken to be quiet without end."""

_SET_BACK: Final = timedelta(hours=3)
"""More than clocks are set back by. An interval that the clock on the wall shows to be farther away is not in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietRule:
    """One interval in which a recipient does not want to be disturbed.

    Attributes:
        start: the local time at which it begins; included.
        end: the local time at which it ends; excluded. If it is before `start`, it is on the next day.
        tz: the IANA name of the zone; empty: the recipient's.
        days: the days of the week on which it begins.
        all_day: from midnight to midnight, without `start` and `end`.
        channels: the channels that are quiet; None: all but the inbox, which makes no noise by itself.
        bypass: notifications of this priority and above are sent anyway; None: none are.
        action: `"hold"`: they are sent at the end. `"digest"`: they are collected, and sent together at the end.
            `"drop"`: they are never sent.

    Raises:
        UsageError: an argument is not valid.
    """

    start: time = time(0)
    end: time = time(0)
    tz: str = ""
    days: Collection[str] = WEEKDAYS
    all_day: bool = False
    channels: Collection[str] | None = None
    bypass: Priority | None = "critical"
    action: Action = "hold"

    def __post_init__(self) -> None:
        check_wall("QuietRule.start", self.start)
        check_wall("QuietRule.end", self.end)
        check_zone(self.tz, "QuietRule.tz")
        keep(self, days=check_days("QuietRule.days", self.days))
        if self.channels is not None:
            keep(self, channels=check_names("QuietRule.channels", self.channels))
        if self.bypass is not None:
            check_choice("QuietRule.bypass", self.bypass, PRIORITIES, "or None")
        check_choice("QuietRule.action", self.action, ("hold", "drop", "digest"))
        if self.all_day and (self.start, self.end) != (time(0), time(0)):
            raise UsageError("QuietRule.all_day is from midnight to midnight; leave out start and end, or all_day")
        if not self.all_day and self.start == self.end:
            raise UsageError(
                f"QuietRule.start and end are both {self.start:%H:%M}; for a whole day write all_day=True, "
                "for no quiet hours leave the rule out"
            )

    def applies_to(self, channel: str, priority: Priority) -> bool:
        """Whether notifications of this priority over this channel obey it."""
        if self.bypass is not None and PRIORITIES.index(priority) >= PRIORITIES.index(self.bypass):
            return False
        return channel != IN_APP if self.channels is None else channel in self.channels


NEVER: Final = datetime.max.replace(tzinfo=UTC)
"""The answer of `release` for rules without an end."""


class QuietTime(NamedTuple):
    """A time in which it is quiet.

    Attributes:
        until: when it ends; `NEVER` if it lasts for more than two weeks.
        rules: those in force at the instant that was asked for.
    """

    until: datetime
    rules: tuple[QuietRule, ...]


def release(rules: Iterable[QuietRule], now: datetime, tz: str = "UTC") -> datetime | None:
    """Return the end of the quiet time around `now`.

    Args:
        rules: those that apply, see `QuietHours.of`.
        now: an instant.
        tz: the zone of rules without one.

    Returns:
        None: it is not quiet. `NEVER`: the rules let nothing through for more than two weeks.
    """
    quiet = quiet_time(tuple(rules), utc(now), tz)
    return None if quiet is None else quiet.until


@lru_cache(maxsize=4096)
def quiet_time(rules: tuple[QuietRule, ...], now: datetime, tz: str) -> QuietTime | None:
    """Return the quiet time around `now`, which is in UTC; None: it is not quiet. See `release`."""
    active = latest = covering(rules, now, tz)
    until = now
    while latest and until != NEVER:
        until = max(end for _, end in latest)
        if until - now > _LONGEST:
            until = NEVER
        else:
            latest = covering(rules, until, tz)
    return QuietTime(until, tuple(rule for rule, _ in active)) if active else None


def covering(rules: Iterable[QuietRule], now: datetime, tz: str = "UTC") -> list[tuple[QuietRule, datetime]]:
    """Return the rules in whose interval `now` is, each with the end of that interval."""
    found = []
    for rule in rules:
        name = rule.tz or tz
        shown = now.astimezone(zone_of(name)).replace(tzinfo=None)
        for day in _days(shown):
            if datetime.combine(day, rule.start) - _SET_BACK <= shown < _end_shown(rule, day) + _SET_BACK:
                interval = _interval(rule, name, day)
                if interval is not None and interval[0] <= now < interval[1]:
                    found.append((rule, interval[1]))
    return found


def _days(shown: datetime) -> Iterator[date]:
    """Yield the days on which an interval may begin that is in force: today, yesterday, and near midnight two more.

    Where clocks are set back over midnight, an interval of tomorrow has begun, and one of two days ago has not ended.
    """
    today = shown.date()
    if shown - _SET_BACK < datetime.combine(today, time(0)):
        yield today - 2 * DAY
    yield today - DAY
    yield today
    if (shown + _SET_BACK).date() != today:
        yield today + DAY


def _end_shown(rule: QuietRule, day: date) -> datetime:
    """Return what the clock on the wall shows at the end of the interval that begins on a day."""
    return datetime.combine(day + DAY if rule.all_day or rule.start > rule.end else day, rule.end)


@lru_cache(maxsize=4096)
def _interval(rule: QuietRule, tz: str, day: date) -> tuple[datetime, datetime] | None:
    """Return the interval that begins on a day; None: the rule has none on it, or the clocks jump over all of it."""
    if WEEKDAYS[day.weekday()] not in rule.days:
        return None
    zone, last = zone_of(tz), _end_shown(rule, day)
    start, end = instant(zone, day, rule.start), instant(zone, last.date(), last.time(), is_end=True)
    return (start, end) if start < end else None


def clock_of(what: str, value: object) -> time:
    """Return a time written as `HH:MM`; raise UsageError if it is not one."""
    try:
        wall = time.fromisoformat(str(value))
    except ValueError:
        wall = None
    if wall is None or wall.tzinfo is not None or not isinstance(value, str) or ":" not in value:
        raise UsageError(f"{what} must be a time such as '22:00', not {value!r:.80}")
    return wall
