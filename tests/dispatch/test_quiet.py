"""Quiet hours: nothing is sent inside a quiet interval, and nothing is held past its end, in every zone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify import UsageError
from notify.dispatch._checks import WEEKDAYS
from notify.dispatch._quiet import NEVER, QuietRule, covering, release
from notify.dispatch._quiet_hours import QuietHours
from notify.dispatch._types import PRIORITIES
from tests.parts import untraced

DAY, STEP = timedelta(days=1), timedelta(minutes=15)
RULES, INSTANTS = 3, 8  # for each day that is looked at
FIRST, LAST = date(2026, 1, 1), date(2029, 1, 1)
ZONES = sorted(available_timezones() - {"localtime", "Factory"})  # that of the server, and that of no place
BERLIN, SANTIAGO, LORD_HOWE = "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe"


def rule(times: str, tz: str, **fields: object) -> QuietRule:
    """A rule from `22:00-07:00`."""
    start, end = (time.fromisoformat(each) for each in times.split("-"))
    return QuietRule(start=start, end=end, tz=tz, **fields)  # type: ignore[arg-type]


def all_day(tz: str, *days: str) -> QuietRule:
    return QuietRule(all_day=True, tz=tz, days=days or WEEKDAYS)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NIGHT = rule("22:00-07:00", BERLIN)
FRIDAY = rule("22:00-07:00", BERLIN, days=("fri",))

CASES = {
    "just before the start": ([NIGHT], "2027-03-27 20:59:59", None),
    "the start is included; the night is an hour shorter": ([NIGHT], "2027-03-27 21:00:00", "2027-03-28 05:00"),
    "the end is not included": ([NIGHT], "2027-03-28 05:00", None),
    "the end is jumped over": ([rule("22:00-02:30", BERLIN)], "2027-03-28 00:15", "2027-03-28 01:00"),
    "the end comes twice": ([rule("22:00-02:30", BERLIN)], "2027-10-31 00:45", "2027-10-31 01:30"),
    "the end comes twice, second pass": ([rule("22:00-02:30", BERLIN)], "2027-10-31 01:15", "2027-10-31 01:30"),
    "the start comes twice, before it": ([rule("02:30-07:00", BERLIN)], "2027-10-31 00:29", None),
    "the start comes twice": ([rule("02:30-07:00", BERLIN)], "2027-10-31 00:30", "2027-10-31 06:00"),
    "all of it is jumped over": ([rule("02:15-02:45", BERLIN)], "2027-03-28 00:15", None),
    "all of it is jumped over, after it": ([rule("02:15-02:45", BERLIN)], "2027-03-28 01:00", None),
    "there is no midnight": ([rule("22:00-00:00", SANTIAGO)], "2026-09-06 03:30", "2026-09-06 04:00"),
    "5:45 from UTC": ([rule("22:00-07:00", "Asia/Kathmandu")], "2027-01-05 18:00", "2027-01-06 01:15"),
    "clocks jump by half an hour": ([rule("22:00-02:15", LORD_HOWE)], "2026-10-03 15:40", None),
    "and the last second before it": ([rule("22:00-02:15", LORD_HOWE)], "2026-10-03 15:29:59", "2026-10-03 15:30"),
    "the end is where clocks are set back to": (
        [rule("22:00-02:00", BERLIN)],
        "2027-10-30 23:30",
        "2027-10-31 00:00",
    ),
    "and it is not quiet in the second pass": ([rule("22:00-02:00", BERLIN)], "2027-10-31 00:30", None),
    "a rule in the hour that comes twice": ([rule("02:15-02:45", BERLIN)], "2027-10-31 01:00", "2027-10-31 01:45"),
    "rules that touch": ([NIGHT, rule("07:00-08:00", BERLIN)], "2027-01-05 23:00", "2027-01-06 07:00"),
    "rules of two zones": (
        [NIGHT, rule("01:00-03:00", "America/New_York")],
        "2027-01-05 23:00",
        "2027-01-06 08:00",
    ),
    "Friday night is on Saturday": ([FRIDAY], "2027-01-09 00:00", "2027-01-09 06:00"),
    "Saturday night is not Friday's": ([FRIDAY], "2027-01-10 00:00", None),
    "a weekend": ([all_day(BERLIN, "sat", "sun")], "2027-01-09 12:00", "2027-01-10 23:00"),
    "a day of 25 hours": ([all_day(BERLIN, "sun")], "2027-10-31 12:00", "2027-10-31 23:00"),
    "a day that begins at 01:00": ([all_day(SANTIAGO, "sun")], "2026-09-06 04:00", "2026-09-07 03:00"),
    "and the second before it": ([all_day(SANTIAGO, "sun")], "2026-09-06 03:59:59", None),
    "set back over midnight, tomorrow has begun": (
        [rule("00:00-06:00", "America/St_Johns")],
        "2010-11-07 02:45",
        "2010-11-07 09:30",
    ),
    "set back over midnight, the day before yesterday has not ended": (
        [rule("23:45-23:30", "America/St_Johns", days=("fri",))],
        "2010-11-07 02:30:30",
        "2010-11-07 03:00",
    ),
    "without an end": ([all_day(BERLIN)], "2027-01-09 12:00", "never"),
}


@pytest.mark.parametrize("case", CASES)
def test_release(case: str) -> None:
    """What is held is released at the end of the quiet time, by the clock on the wall."""
    rules, now, end = CASES[case]
    assert release(rules, utc(now)) == (NEVER if end == "never" else end and utc(end))


def changes(tz: str) -> tuple[tuple[datetime, timedelta | None], ...]:
    """What the clocks of a zone do in three years: the instant of each change, and the offset after it."""
    zone = ZoneInfo(tz)
    start = datetime.combine(FIRST, time(0), UTC)
    found = [(start, start.astimezone(zone).utcoffset())]
    for days in range(1, (LAST - FIRST).days):
        low, high = start + (days - 1) * DAY, start + days * DAY
        offset = high.astimezone(zone).utcoffset()
        if offset != found[-1][1]:
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) // 2
                low, high = (low, middle) if middle.astimezone(zone).utcoffset() == offset else (middle, high)
            found.append((high.replace(microsecond=0), offset))
    return tuple(found)


class Walls:
    """What the clock on the wall shows around a day, in steps of a quarter of an hour: it knows nothing of rules."""

    def __init__(self, tz: str, day: date) -> None:
        start = datetime.combine(day - 4 * DAY, time(0), UTC)
        self.day = day
        self.instants = [start + count * STEP for count in range(9 * 96)]
        self.intervals: dict[QuietRule, list[tuple[datetime, datetime]]] = {}
        self.shown = [each.astimezone(ZoneInfo(tz)).replace(tzinfo=None) for each in self.instants]

    def interval(self, one: QuietRule, day: date) -> tuple[datetime, datetime] | None:
        """From the first instant at which the start has come to the last at which the end has not."""
        start = datetime.combine(day, one.start)
        end = datetime.combine(day + DAY if one.start > one.end else day, one.end)
        near = range((day - self.day).days * 96 + 3 * 96, (day - self.day).days * 96 + 7 * 96)
        begun = next(self.instants[each] for each in near if self.shown[each] >= start)
        ended = self.instants[max(each for each in near if self.shown[each] < end) + 1]
        return (begun, ended) if begun < ended else None

    def release(self, one: QuietRule, now: datetime) -> datetime | None:
        """The end of the chain of intervals around `now`."""
        if one not in self.intervals:
            found = [self.interval(one, self.day + count * DAY) for count in (-3, -2, -1, 0, 1)]
            self.intervals[one] = [each for each in found if each is not None]
        reached = now
        while ends := [end for start, end in self.intervals[one] if start <= reached < end]:
            reached = max(ends)
        return None if reached == now else reached


def samples(chance: random.Random, tz: str, days: list[date]) -> Iterator[tuple[Walls, QuietRule, datetime]]:
    """Rules, and instants near them, at every change of the clocks of a zone and on three other days."""

    def quarter(*hours: int) -> time:
        return time(chance.choice(hours or range(24)), chance.choice((0, 15, 30, 45)))

    others = [FIRST + chance.randrange((LAST - FIRST).days) * DAY for _ in range(3)]
    for day in days + others:
        walls = Walls(tz, day)
        for _ in range(RULES):
            is_any = chance.random() < 0.4
            start, end = (quarter(), quarter()) if is_any else (quarter(22, 23, 0, 1, 2), quarter(0, 1, 2, 3, 7))
            if start == end:
                continue
            one = QuietRule(start=start, end=end, tz=tz)
            for _ in range(INSTANTS):
                now = datetime.combine(day - DAY, time(0), UTC) + chance.randrange(192) * STEP
                yield walls, one, now + timedelta(seconds=chance.choice((0, 0, 1, -1)))


def test_every_zone() -> None:
    """In every zone, at every change of its clocks in three years, nothing is inside and nothing is held on.

    Zones whose clocks do the same in these years are asked once.
    """
    different = {changes(tz): tz for tz in ZONES}
    chance, count = random.Random(7), 0
    with untraced():
        for moments, tz in different.items():
            days = [moment.astimezone(ZoneInfo(tz)).date() for moment, _ in moments[1:]]
            for walls, one, now in samples(chance, tz, days):
                end = release([one], now)
                assert end == walls.release(one, now), (tz, one.start, one.end, now)
                assert end is None or not covering([one], end), (tz, one.start, one.end, now)
                count += 1
    assert len(ZONES) > 400
    assert count > 25 * len(different)


@st.composite
def rules(draw: st.DrawFn) -> QuietRule:
    """Any rule whose start is not its end."""
    minutes = draw(st.lists(st.integers(0, 1439), min_size=2, max_size=2, unique=True))
    start, end = (time(each // 60, each % 60) for each in minutes)
    return QuietRule(
        start=start,
        end=end,
        tz=draw(st.sampled_from([BERLIN, SANTIAGO, LORD_HOWE, "UTC", "Asia/Kathmandu", "Africa/Casablanca"])),
        days=draw(st.sets(st.sampled_from(WEEKDAYS), min_size=1)),
        channels=draw(st.none() | st.lists(st.sampled_from(["push", "email"]), unique=True)),
        bypass=draw(st.sampled_from([None, "high", "critical"])),
        action=draw(st.sampled_from(["hold", "drop", "digest"])),
    )


@given(
    chosen=st.lists(rules(), min_size=1, max_size=4),
    now=st.datetimes(datetime(2026, 1, 1), datetime(2028, 12, 31), timezones=st.just(UTC)),
)
def test_chains_of_rules(chosen: list[QuietRule], now: datetime) -> None:
    """A release is outside of every rule, and until then one rule or another is in force all the time."""
    end = release(chosen, now)
    assert (end is None) == (not covering(chosen, now))
    if end is None or end == NEVER:
        return
    assert not covering(chosen, end)
    reached = now
    while reached < end:
        reached = max(stop for _, stop in covering(chosen, reached))
    assert reached == end


@given(st.lists(rules(), max_size=3))
def test_json(chosen: list[QuietRule]) -> None:
    """Rules are the same after they were stored."""
    try:
        hours = QuietHours(*chosen)
    except UsageError:
        return  # they cover the week
    stored = QuietHours.from_json(json.loads(json.dumps(hours.to_json())))
    assert stored == hours
    assert (hash(stored), repr(stored)) == (hash(hours), repr(hours))


WEEK = [
    [all_day(BERLIN)],
    [rule("08:00-20:00", BERLIN), rule("20:00-08:00", BERLIN)],
    [rule("00:00-23:59", BERLIN), rule("23:59-00:00", BERLIN)],
    [all_day(BERLIN, "mon", "tue", "wed", "thu", "fri"), all_day("UTC", "fri", "sat", "sun", "mon")],
    [rule("22:00-12:00", "Asia/Tokyo"), rule("03:00-13:00", "UTC")],
    [QuietRule(all_day=True)],
    [rule("08:00-20:00", BERLIN, bypass="high"), rule("20:00-08:00", BERLIN, bypass="critical")],
    [rule("08:00-20:00", BERLIN, channels=["push"]), rule("20:00-08:00", BERLIN)],
    [rule("08:00-20:00", BERLIN, action="drop"), rule("20:00-08:00", BERLIN)],
]


@pytest.mark.parametrize("chosen", WEEK)
def test_rules_without_an_end_are_refused(chosen: list[QuietRule]) -> None:
    """Rules that let nothing of some priority through some channel are refused when they are made, and when loaded."""
    with pytest.raises(UsageError, match=r"cover the whole week on .* leave some time out"):
        QuietHours(*chosen)
    with pytest.raises(UsageError, match="cover the whole week"):
        QuietHours.from_json([{"all_day": True}])


@pytest.mark.parametrize(
    "chosen",
    [
        [],
        [all_day(BERLIN, "mon", "tue", "wed", "thu", "fri", "sat")],
        [rule("08:00-20:00", BERLIN), rule("20:00-07:59", BERLIN)],
        [rule("08:00-20:00", BERLIN, channels=["push"]), rule("20:00-08:00", BERLIN, channels=["email"])],
    ],
)
def test_rules_with_an_end_are_taken(chosen: list[QuietRule]) -> None:
    """A minute a day is enough, and each channel is looked at by itself."""
    assert QuietHours(*chosen).rules == tuple(chosen)


def test_who_obeys() -> None:
    """A rule concerns all channels but the inbox, or those it names; critical ones pass, or those it says."""
    hours = QuietHours(NIGHT, rule("12:00-13:00", BERLIN, channels=["sms", "in_app"], bypass=None))
    lunch = hours.rules[1]
    assert hours.of("push", "high") == (NIGHT,)
    assert hours.of("push", "critical") == ()
    assert hours.of("in_app", "critical") == hours.of("in_app", "low") == (lunch,)
    assert hours.of("sms", "low") == (NIGHT, lunch)
    assert [rule("22:00-07:00", BERLIN, bypass="high").applies_to("sms", each) for each in PRIORITIES] == [
        True,
        True,
        False,
        False,
    ]


def test_the_zone_of_the_recipient() -> None:
    """A rule without a zone is by the clock of the recipient's."""
    assert release([rule("22:00-07:00", "")], utc("2027-01-05 18:00"), "Asia/Kathmandu") == utc("2027-01-06 01:15")
    assert release([rule("22:00-07:00", "")], utc("2027-01-05 18:00"), BERLIN) is None


REFUSED = {
    "QuietRule.start and end are both 22:00": {"start": "22:00", "end": "22:00"},
    "needs end, such as '22:00'": {"start": "22:00"},
    "start must be a time such as '22:00', not '25:00'": {"start": "25:00", "end": "07:00"},
    "start must be a time such as '22:00', not '22'": {"start": "22", "end": "07:00"},
    "end must be a time such as '22:00', not 7": {"start": "22:00", "end": 7},
    "start must be a time such as '22:00', not '22:00Z'": {"start": "22:00Z", "end": "07:00"},
    "QuietRule.tz: the time zone 'Europe/Berln' is unknown": {"start": "22:00", "end": "07:00", "tz": "Europe/Berln"},
    "QuietRule.tz: the time zone '../passwd' is unknown": {"start": "22:00", "end": "07:00", "tz": "../passwd"},
    "QuietRule.tz: the time zone 'Europe' is unknown": {"start": "22:00", "end": "07:00", "tz": "Europe"},
    "QuietRule.tz: 'localtime' is not the time zone of a user": {"start": "22:00", "end": "07:00", "tz": "localtime"},
    "QuietRule.tz must be the IANA name": {"start": "22:00", "end": "07:00", "tz": 1},
    "QuietRule.days must be some of mon, .* not Mon": {"start": "22:00", "end": "07:00", "days": ["Mon"]},
    "QuietRule.days must be some of mon, .* not none": {"start": "22:00", "end": "07:00", "days": []},
    "QuietRule.days names something twice": {"start": "22:00", "end": "07:00", "days": ["mon", "mon"]},
    "QuietRule.days must be a list of names": {"start": "22:00", "end": "07:00", "days": "mon"},
    "QuietRule.channels must be a name of": {"start": "22:00", "end": "07:00", "channels": ["e mail"]},
    "QuietRule.bypass must be one of .* or None, not 'urgent'": {"start": "22:00", "end": "07:00", "bypass": "urgent"},
    "QuietRule.action must be one of 'hold', 'drop', 'digest', not 'wait'": {
        "start": "22:00",
        "end": "07:00",
        "action": "wait",
    },
    "leave out start and end, or all_day": {"all_day": True, "start": "22:00", "end": "07:00"},
    "all_day must be true or false, not 1": {"all_day": 1},
    "must have only action, all_day": {"start": "22:00", "end": "07:00", "zone": "UTC"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_rules_are_refused(message: str) -> None:
    """The error names the value, what was given and what to do."""
    with pytest.raises(UsageError, match=message):
        QuietHours.from_json([REFUSED[message]])


def test_other_refusals() -> None:
    """What is not a list of rules, a rule, or an instant is refused."""
    with pytest.raises(UsageError, match="quiet_hours must be a list of rules"):
        QuietHours.from_json({"start": "22:00"})
    with pytest.raises(UsageError, match=r"QuietHours takes QuietRule\(\.\.\.\)"):
        QuietHours({"start": "22:00"})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must be a time without a zone"):
        QuietRule(start=time(22, tzinfo=UTC), end=time(7))
    with pytest.raises(UsageError, match="now must be an aware datetime"):
        release([NIGHT], datetime(2027, 1, 1))


def test_an_unknown_zone_names_its_cause() -> None:
    """Where the zones of the system are old or missing, the error says which package has them."""
    with pytest.raises(UsageError, match=r"install notify-streams\[tz\]"):
        QuietRule(start=time(22), end=time(7), tz="Europe/Nowhere")
