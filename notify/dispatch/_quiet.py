"""Pure: quiet hours.

A rule is an interval of the clock on the wall, `[start, end)`, on some days of the week. One with `start > end` crosses
midnight and belongs to the day on which it begins. Rules that touch or overlap are one quiet time: what is held is
released at the end of the whole chain, so that it does not wake the recipient between two rules.

`_zones.instant` says what a start or an end is on the nights on which the clocks change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, Final, Literal

from notify.errors import UsageError

from ._channel import Priority
from ._checks import WEEKDAYS, check_choice, check_days, check_names, check_wall, keep
from ._types import IN_APP, PRIORITIES
from ._zones import DAY, check_zone, day_of, instant, utc, zone_of

Action = Literal["hold", "drop", "digest"]

_LONGEST: Final = timedelta(days=15)
"""Rules that are quiet for longer than this are taken to be quiet without end."""

_WEEK: Final = 7 * 24
"""Hours."""

_SAMPLES: Final = (datetime(2027, 1, 6, 12, tzinfo=UTC), datetime(2027, 7, 7, 12, tzinfo=UTC))
"""In winter and in summer: rules of several zones may cover the week in one of them only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietRule:
    """One interval in which a recipient wants to be left alone.

    Attributes:
        start: when it begins, by the clock on the wall; included.
        end: when it ends; excluded. Before `start`: on the next day.
        tz: the IANA name of the zone of that clock; empty: the recipient's.
        days: the days of the week on which it begins.
        all_day: from midnight to midnight, without `start` and `end`.
        channels: the channels that are quiet; None: all but the inbox, which makes no noise by itself.
        bypass: notifications of this priority and above are sent anyway; None: none is.
        action: `"hold"`: they are sent at the end; `"digest"`: they are collected until the end and sent together;
            `"drop"`: they are never sent.
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


class QuietHours:
    """Rules that apply together.

    Args:
        rules: at least one instant of each week must be outside of them, for each channel and priority.

    Raises:
        UsageError: they would never release what they hold.
    """

    __slots__ = ("rules",)

    def __init__(self, *rules: QuietRule) -> None:
        self.rules: tuple[QuietRule, ...] = rules
        for rule in rules:
            if not isinstance(rule, QuietRule):
                raise UsageError(f"QuietHours takes QuietRule(...), not {rule!r:.80}")
        if sum(map(_hours_a_week, rules)) >= _WEEK:  # else some time is left out, however they lie
            named = {channel for rule in rules for channel in rule.channels or ()}
            for channel in sorted({*named, IN_APP, "any other"}):
                for priority in PRIORITIES:
                    self._check_release(channel, priority)

    def _check_release(self, channel: str, priority: Priority) -> None:
        rules = self.of(channel, priority)
        for sample in _SAMPLES if rules else ():
            if release(rules, sample, "UTC") == NEVER:
                where = "every channel" if channel == "any other" else f"the channel {channel!r}"
                raise UsageError(
                    f"these quiet hours cover the whole week on {where}, so nothing of priority {priority!r} would be "
                    "sent; leave some time out, or switch the channel off in the preferences"
                )

    def of(self, channel: str, priority: Priority) -> tuple[QuietRule, ...]:
        """Return the rules that notifications of this priority over this channel obey."""
        return tuple(rule for rule in self.rules if rule.applies_to(channel, priority))

    def __eq__(self, other: object) -> bool:
        """Whether the rules are the same, in the same order."""
        return isinstance(other, QuietHours) and self.rules == other.rules

    def __hash__(self) -> int:
        """Return the hash of the rules."""
        return hash(self.rules)

    def __repr__(self) -> str:
        """Return it as it would be written."""
        return f"QuietHours({', '.join(map(repr, self.rules))})"

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rules as JSON values."""
        return [_rule_to_json(rule) for rule in self.rules]

    @classmethod
    def from_json(cls, value: object) -> QuietHours:
        """Make quiet hours from JSON values; raise UsageError if they are not quiet hours."""
        if not isinstance(value, list | tuple):
            raise UsageError(f"quiet_hours must be a list of rules, not {value!r:.80}")
        return cls(*map(_rule_from_json, value))


def _hours_a_week(rule: QuietRule) -> float:
    minutes = [wall.hour * 60 + wall.minute for wall in (rule.start, rule.end)]
    length = 24 * 60 if rule.all_day else (minutes[1] - minutes[0]) % (24 * 60) + 1  # rounded up
    return len(rule.days) * length / 60


NEVER: Final = datetime.max.replace(tzinfo=UTC)
"""The answer of `release` for rules without an end."""


def release(rules: Iterable[QuietRule], now: datetime, tz: str = "UTC") -> datetime | None:
    """Return the end of the quiet time around `now`.

    Args:
        rules: those that apply, see `QuietHours.of`.
        now: an instant.
        tz: the zone of rules without one.

    Returns:
        None: it is not quiet. `NEVER`: the rules let nothing through for more than two weeks.
    """
    begun = reached = utc(now)
    rules = tuple(rules)
    while ends := [end for _, end in covering(rules, reached, tz)]:
        reached = max(ends)
        if reached - begun > _LONGEST:
            return NEVER
    return None if reached == begun else reached


def covering(rules: Sequence[QuietRule], now: datetime, tz: str = "UTC") -> list[tuple[QuietRule, datetime]]:
    """Return the rules in whose interval `now` is, each with the end of that interval."""
    found = []
    for rule in rules:
        name = rule.tz or tz
        today = day_of(zone_of(name), now)
        for days in (-2, -1, 0, 1):  # an interval lasts two days at most: 24 hours, from the evening of a day
            interval = _interval(rule, name, today + days * DAY)
            if interval is not None and interval[0] <= now < interval[1]:
                found.append((rule, interval[1]))
    return found


@lru_cache(maxsize=4096)
def _interval(rule: QuietRule, tz: str, day: date) -> tuple[datetime, datetime] | None:
    """Return the interval that begins on a day; None: the rule has none on it, or the clocks jump over all of it."""
    if WEEKDAYS[day.weekday()] not in rule.days:
        return None
    last = day + DAY if rule.all_day or rule.start > rule.end else day
    zone = zone_of(tz)
    start, end = instant(zone, day, rule.start), instant(zone, last, rule.end, is_end=True)
    return (start, end) if start < end else None


_RULE_KEYS: Final = {"start", "end", "tz", "days", "all_day", "channels", "bypass", "action"}


def _rule_to_json(rule: QuietRule) -> dict[str, Any]:
    """Return a rule as JSON, without what is the default."""
    times = {} if rule.all_day else {"start": _clock(rule.start), "end": _clock(rule.end)}
    other = {
        "tz": rule.tz or None,
        "days": None if rule.days == WEEKDAYS else [*rule.days],
        "all_day": rule.all_day or None,
        "channels": None if rule.channels is None else [*rule.channels],
        "action": None if rule.action == "hold" else rule.action,
    }
    kept = {name: value for name, value in other.items() if value is not None}
    return {**times, **kept, **({} if rule.bypass == "critical" else {"bypass": rule.bypass})}


def _rule_from_json(value: object) -> QuietRule:
    if not isinstance(value, Mapping) or not value.keys() <= _RULE_KEYS:
        raise UsageError(f"a rule of quiet_hours must have only {', '.join(sorted(_RULE_KEYS))}, not {value!r:.120}")
    fields = dict(value)
    for name in ("start", "end"):
        if name in fields:
            fields[name] = clock_of(f"quiet_hours.{name}", fields[name])
        elif not fields.get("all_day"):
            raise UsageError(f"a rule of quiet_hours needs {name}, such as '22:00', or all_day; it is {value!r:.120}")
    if not isinstance(fields.get("all_day", False), bool):
        raise UsageError(f"quiet_hours.all_day must be true or false, not {fields['all_day']!r:.80}")
    return QuietRule(**fields)


def clock_of(what: str, value: object) -> time:
    """Return a time written as `HH:MM`; raise UsageError if it is not one."""
    try:
        wall = time.fromisoformat(str(value))
    except ValueError:
        wall = None
    if wall is None or wall.tzinfo is not None or not isinstance(value, str) or ":" not in value:
        raise UsageError(f"{what} must be a time such as '22:00', not {value!r:.80}")
    return wall


def _clock(wall: time) -> str:
    return wall.isoformat("minutes" if wall.second == wall.microsecond == 0 else "auto")
