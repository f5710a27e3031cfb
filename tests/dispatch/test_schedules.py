"""The times of schedules: every zone's transitions, months and weeks, late runs, clocks that are set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest

from notify import UsageError
from notify.dispatch import Recipient, Schedule
from notify.dispatch._schedules import LocalRun, LocalTime, agenda
from notify.dispatch._zones import zone_of

DAY = timedelta(days=1)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def daily(at: time = time(9), **more: object) -> Schedule:
    return Schedule("s", "t", ["alice"], at=at, **more)  # type: ignore[arg-type]


def utc(*when: int) -> datetime:
    return datetime(*when, tzinfo=UTC)  # type: ignore[misc,arg-type]


Change = tuple[datetime, timedelta | None, timedelta | None]


def transitions(zone: ZoneInfo, first: datetime, last: datetime) -> Iterator[Change]:
    """Yield the instants at which the offset of a zone changes, to the minute, and the offsets before and after."""
    offset = first.astimezone(zone).utcoffset()
    while first < last:
        following = first + DAY
        changed = following.astimezone(zone).utcoffset()
        if offset != changed:
            low, high = first, following
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) / 2
                same = middle.astimezone(zone).utcoffset() == offset
                low, high = (middle, high) if same else (low, middle)
            yield high.replace(second=0, microsecond=0), offset, changed
        first, offset = following, changed


def test_fractions_of_seconds() -> None:
    """No time is next to itself, although most of these cannot be written as numbers exactly."""
    schedule, moment, found = Schedule("s", "t", ["alice"], every=1.1), utc(2027, 1, 5), list[datetime]()
    for _ in range(300):
        moment = schedule.next(moment)
        found.append(moment)
    assert all(1.0 < (late - early).total_seconds() < 1.2 for early, late in pairwise(found))


def test_each_date_has_one_run_in_every_zone() -> None:
    """Around each transition of every zone in three years, each local date has one run, when the wall first shows it.

    The oracle reads the wall clock every 15 minutes, and knows nothing of how runs are computed. Zones whose clocks do
    the same in these years are asked once.
    """
    step, checked = timedelta(minutes=15), 0
    names = sorted(available_timezones() - {"localtime", "Factory", "posixrules"})
    zones = {name: zone_of(name) for name in names if not name.startswith(("posix/", "right/"))}
    different = {(*transitions(zone, utc(2026, 1, 1), utc(2029, 1, 1)),): name for name, zone in zones.items()}
    assert len(zones) > 400
    for changes, name in different.items():
        for moment, _, _ in changes:
            first, last = moment - 2 * DAY, moment + 2 * DAY
            walls = [(first + n * step, (first + n * step).astimezone(zones[name])) for n in range(4 * 24 * 4)]
            for at in (time(0), time(1, 30), time(2, 15), time(2, 30), time(3), time(9)):
                schedule = daily(at, tz=name)
                found = {run.name: run.start for run in schedule.runs(first - DAY, last)}
                for day in {wall.date() for _, wall in walls[100:-100]}:
                    shown = [instant for instant, wall in walls if wall.date() == day and wall.time() >= at]
                    if shown and walls[0][1].date() < day:  # else the whole date, or its rest, is left out
                        assert timedelta(0) <= shown[0] - found[day.isoformat()] < step, (name, day, at)
                        checked += 1
                runs = [run.name for run in schedule.runs(first, last)]
                assert runs == sorted({*runs})
    assert checked > 15 * sum(map(len, different)) > 15 * 100


@pytest.mark.parametrize(
    ("zone", "day", "at", "start"),
    [
        ("Europe/Berlin", date(2027, 3, 28), time(2, 30), utc(2027, 3, 28, 1)),  # left out: the first instant after
        ("Europe/Berlin", date(2027, 10, 31), time(2, 30), utc(2027, 10, 31, 0, 30)),  # twice: the first
        ("America/Santiago", date(2026, 9, 6), time(0), utc(2026, 9, 6, 4)),  # midnight is left out
        ("Australia/Lord_Howe", date(2026, 10, 4), time(2, 15), utc(2026, 10, 3, 15, 30)),
        ("Asia/Kathmandu", date(2027, 1, 5), time(9), utc(2027, 1, 5, 3, 15)),
        ("Asia/Kolkata", date(2027, 1, 5), time(9), utc(2027, 1, 5, 3, 30)),
    ],
)
def test_nights_on_which_clocks_change(zone: str, day: date, at: time, start: datetime) -> None:
    """A time that is left out is the first instant after; one that exists twice is the first."""
    assert daily(at, tz=zone).run_of(day).start == start
    assert LocalTime(day, at).instant(zone) == start


def test_weeks_months_and_seconds() -> None:
    """Weeks have days, months a day or their last one, and seconds are counted from 1970."""
    weekly = daily(tz="UTC", every="week", days=("fri", "mon"))
    assert [run.name for run in weekly.runs(utc(2027, 1, 1), utc(2027, 1, 12))] == [
        "2027-01-01",
        "2027-01-04",
        "2027-01-08",
        "2027-01-11",
    ]
    monthly = daily(tz="UTC", every="month", day=31)
    assert [run.name for run in monthly.runs(utc(2028, 1, 1), utc(2028, 5, 1))] == [
        "2028-01-31",
        "2028-02-29",
        "2028-03-31",
        "2028-04-30",
    ]
    assert monthly.next(utc(2028, 1, 31, 9)) == utc(2028, 2, 29, 9)
    often = daily(every=90)
    assert [run.start for run in often.runs(utc(2027, 1, 1), utc(2027, 1, 1, 0, 3))] == [
        utc(2027, 1, 1, 0, 1, 30),
        utc(2027, 1, 1, 0, 3),
    ]
    assert [each.is_local for each in (daily(), daily(tz="UTC"), often)] == [True, False, False]
    assert [str(each) for each in (daily(), weekly, monthly, often)] == [
        "s: t every day at 09:00 local time",
        "s: t every week on mon, fri at 09:00 UTC",
        "s: t every month on day 31 at 09:00 UTC",
        "s: t every 90 s",
    ]


def test_a_local_date_lasts_as_long_as_it_does_on_earth() -> None:
    """A run in the recipients' zones begins in the first zone that has its time, and ends in the last one."""
    run = daily().run_of(date(2027, 1, 5))
    starts = {name: LocalTime(run.day, time(9)).instant(name) for name in available_timezones() if "/" in name}
    assert min(starts.values()) == run.start == utc(2027, 1, 4, 19)
    assert max(starts.values()) == run.last == utc(2027, 1, 5, 21)


def test_late_runs() -> None:
    """The newest run is made up for within the time of grace; the others are left out, once."""
    schedule, since = daily(tz="UTC"), utc(2027, 1, 1)
    first = schedule.run_of(date(2027, 1, 1))
    assert agenda(schedule, since, "", utc(2027, 1, 1, 8, 59)) == (None, (), "")
    assert agenda(schedule, since, "", utc(2027, 1, 1, 9)) == (first, (), "")
    assert agenda(schedule, since, "", utc(2027, 1, 1, 10)) == (first, (), "")
    assert agenda(schedule, since, "", utc(2027, 1, 1, 10, 0, 1)) == (None, ("2027-01-01",), "2027-01-01")
    assert agenda(schedule, since, "2027-01-01", utc(2027, 1, 1, 10)) == (None, (), "2027-01-01")
    fifth = schedule.run_of(date(2027, 1, 5))
    missed = tuple(f"2027-01-0{day}" for day in (2, 3, 4))
    assert agenda(schedule, since, "2027-01-01", utc(2027, 1, 5, 9, 30)) == (fifth, missed, "2027-01-04")
    assert agenda(schedule, since, "2027-01-01", utc(2027, 1, 5, 11)) == (None, (*missed, "2027-01-05"), "2027-01-05")
    patient = daily(tz="UTC", grace=3 * 86_400.0)
    assert agenda(patient, since, "2027-01-01", utc(2027, 1, 5, 11)) == (fifth, missed, "2027-01-04")


def test_what_was_before_a_schedule_is_not_made_up_for() -> None:
    """A schedule that is new at 9:30 begins on the next day."""
    assert agenda(daily(tz="UTC"), utc(2027, 1, 1, 9, 30), "", utc(2027, 1, 1, 9, 30)) == (None, (), "")
    assert agenda(daily(every=3600), utc(2027, 1, 1, 9, 30), "", utc(2027, 1, 1, 9, 30)).run is None


def test_late_runs_in_local_time() -> None:
    """A run whose time is still to come somewhere is made, however late it begins; then the next one."""
    schedule, since = daily(), utc(2026, 12, 1)
    third, fourth = schedule.run_of(date(2027, 1, 3)), schedule.run_of(date(2027, 1, 4))
    both = utc(2027, 1, 3, 20)  # 09:00 of the fourth in UTC+14 was an hour ago, that of the third in UTC-12 is to come
    assert agenda(schedule, since, "2027-01-01", both) == (third, ("2027-01-02",), "2027-01-02")
    assert agenda(schedule, since, "2027-01-03", both) == (fourth, (), "2027-01-03")
    assert agenda(schedule, since, "2027-01-04", both).run is None


def test_a_clock_that_is_set() -> None:
    """Set back by minutes, nothing is made twice or reported; after days ahead, the present run is looked at again."""
    schedule, since = daily(tz="UTC"), utc(2027, 1, 1)
    assert agenda(schedule, since, "2027-01-05", utc(2027, 1, 5, 8, 59)) == (None, (), "2027-01-05")
    found = agenda(schedule, since, "2027-01-12", utc(2027, 1, 5, 9, 1))
    assert (found.run, found.missed) == (schedule.run_of(date(2027, 1, 5)), ())
    assert agenda(schedule, since, "2027-01-12", utc(2027, 1, 5, 12)).last == "2027-01-05"


def test_recipients_of_a_local_run() -> None:
    """Each recipient has an instant; it is missed if it was before the schedule, too long ago, or the next one came."""
    schedule, since = daily(grace=86_400.0), utc(2027, 1, 5, 6)
    local = LocalRun.of(schedule, schedule.run_of(date(2027, 1, 5)), since)
    now = utc(2027, 1, 5, 9)
    assert local.due("Europe/Berlin", now) == utc(2027, 1, 5, 8)
    assert local.due("America/New_York", now) == utc(2027, 1, 5, 14)
    assert local.due("Asia/Kolkata", now) is None
    assert local.due("Europe/Berlin", utc(2027, 1, 6, 8)) is None
    weekly = daily(every="week", days=("tue", "fri"), grace=86_400.0)
    following = LocalRun.of(weekly, weekly.run_of(date(2027, 1, 5)), since).following
    assert following == (date(2027, 1, 8), time(9))
    strict = LocalRun.of(daily(grace=60.0), schedule.run_of(date(2027, 1, 5)), since)
    assert strict.due("Europe/Berlin", utc(2027, 1, 5, 8, 1)) == utc(2027, 1, 5, 8)
    assert strict.due("Europe/Berlin", utc(2027, 1, 5, 8, 1, 1)) is None


def test_the_audience_after_a_user() -> None:
    """A collection is sorted, without repetitions, and read from any user on; a function is called."""
    schedule = Schedule("s", "t", ["bob", Recipient("carol"), "alice", "bob"])
    assert [*schedule.after("")] == ["alice", "bob", Recipient("carol")]
    assert [*schedule.after("alice")] == ["bob", Recipient("carol")]
    assert [*schedule.after("b")] == ["bob", Recipient("carol")]
    assert [*schedule.after("carol")] == []
    assert Schedule("s", "t", lambda after: [after, "x"]).after("a") == ["a", "x"]  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "a b"}, "Schedule.name must be a name"),
        ({"type": ""}, "'s': type must be a name"),
        ({"audience": "alice"}, "audience must be a collection"),
        ({"audience": iter(["alice"])}, "audience must be a collection"),
        ({"audience": [7]}, "user ids and Recipients, not 7"),
        ({"data": 7}, "data must be a mapping or a function"),
        ({"every": "hour"}, "every must be one of"),
        ({"every": 0}, "every must be a number of seconds"),
        ({"every": 0.5}, "at least 1 second"),
        ({"at": time(9, tzinfo=UTC)}, "at must be a time without a zone"),
        ({"days": ("monday",)}, "days must be some of"),
        ({"day": 32}, "day must be a whole number from 1 to 31"),
        ({"tz": "Mars/Base"}, "'Mars/Base' is unknown"),
        ({"grace": 0}, "grace must be a number of seconds"),
        ({"grace": 100_000}, "grace must be at most a day"),
    ],
)
def test_what_is_refused(changes: dict[str, object], match: str) -> None:
    """A schedule that makes no sense is refused when it is made."""
    with pytest.raises(UsageError, match=match):
        Schedule(**{"name": "s", "type": "t", "audience": ["alice"], **changes})  # type: ignore[arg-type]
