"""Pure: the quiet hours of one user: rules that apply together, checked when they are made, and their form in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Any, Final

from notify.errors import UsageError

from ._channel import Priority
from ._checks import WEEKDAYS
from ._quiet import NEVER, QuietRule, clock_of, release
from ._types import IN_APP, PRIORITIES

_WEEK: Final = 7 * 24
"""Hours."""

_SAMPLES: Final = (datetime(2027, 1, 6, 12, tzinfo=UTC), datetime(2027, 7, 7, 12, tzinfo=UTC))
"""In winter and in summer: rules of several zones may cover the week in one of them only."""


class QuietHours:
    """The quiet hours of one user or of the defaults: rules that apply together.

    Args:
        rules: for each channel and priority, they must leave out some time of each week.

    Raises:
        UsageError: they cover the whole week, so they would never release what they hold.
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
                self._check_release(channel, PRIORITIES[0])  # it obeys whatever a higher one obeys

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
        """Return the rules that apply to notifications of this priority over this channel."""
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
        """Make quiet hours from JSON values.

        Raises:
            UsageError: a rule is not valid. The message names the field.
        """
        if not isinstance(value, list | tuple):
            raise UsageError(f"quiet_hours must be a list of rules, not {value!r:.80}")
        return cls(*map(_rule_from_json, value))


def _hours_a_week(rule: QuietRule) -> float:
    minutes = [wall.hour * 60 + wall.minute for wall in (rule.start, rule.end)]
    length = 24 * 60 if rule.all_day else (minutes[1] - minutes[0]) % (24 * 60) + 1  # rounded up
    return len(rule.days) * length / 60


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


def _clock(wall: time) -> str:
    return wall.isoformat("minutes" if wall.second == wall.microsecond == 0 else "auto")
