"""Pure: schedules: at which times a notification is submitted, and which missed times are made up for.

Each time is a *run* with a name, by which it is known in the store and made once: the local date, or for schedules by
seconds the instant. `_zones.instant` converts wall times, also on the nights on which clocks change: a time that the
clock skips is the first instant after the jump, one that exists twice is its first occurrence.

A run in the recipients' own zones lasts as long as the date does on earth: it begins when the time comes in UTC+14, and
each recipient has an instant of its own, until it has come in UTC-12.
"""

from __future__ import annotations

import calendar
import json
from bisect import bisect_right
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias, get_args

from notify.errors import UsageError

from ._checks import WEEKDAYS, check_choice, check_count, check_days, check_name, check_seconds, check_wall, keep
from ._type_parts import Per
from ._types import NotificationType, Recipient
from ._zones import DAY, check_zone, instant, utc, zone_of
from .abc import Claim

Members: TypeAlias = Collection[str | Recipient] | Callable[[str], AsyncIterable[str | Recipient]]
"""The audience of a schedule: a collection, or a function that yields the recipients after a given id, sorted."""

Contents: TypeAlias = Mapping[str, Any] | Callable[[date], Awaitable[Mapping[str, Any]]]
"""The data of a schedule: the same for each run, or a function of its date."""

_EAST: Final = timedelta(hours=14)
_WEST: Final = timedelta(hours=12)

_LOOKED_BACK: Final = 62
"""Days, or periods, that are looked through at most for runs that were missed."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class ScheduledRun(NamedTuple):
    """One time of a schedule.

    Attributes:
        name: names it; later ones have greater names.
        day: its date.
        start: when it begins.
        last: when its time has come for all recipients.
    """

    name: str
    day: date
    start: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Schedule:
    """A notification that is submitted at fixed times.

    Attributes:
        name: names it. Each run is made once for a name and date, however many processes have the schedule.
        type: the key of the type.
        audience: a collection of user ids and recipients, or a function that takes the last id that was submitted
            (empty at first), and yields those after it, sorted.
        data: what is submitted, or a function of the run's date that returns it.
        every: `"day"`, `"week"` or `"month"`; a number: that many seconds, counted from 1970.
        at: the time of day.
        days: the days of the week, for `every="week"`, such as `("mon", "thu")`.
        day: the day of the month, for `every="month"`; the last one where the month is shorter.
        tz: the IANA name of the zone of `at`; empty: the recipient's own.
        grace: by how many seconds a run may be late. One that was missed by more, because no process ran, is left out.
    """

    name: str
    type: str
    audience: Members
    data: Contents = field(default_factory=lambda: _NOTHING)
    every: Per | float = field(default="day", kw_only=True)
    at: time = field(default=time(9), kw_only=True)
    days: Collection[str] = field(default=("mon",), kw_only=True)
    day: int = field(default=1, kw_only=True)
    tz: str = field(default="", kw_only=True)
    grace: float = field(default=3600.0, kw_only=True)

    def __post_init__(self) -> None:
        check_name("Schedule.name", self.name)
        what = f"the schedule {self.name!r}"
        check_name(f"{what}: type", self.type)
        if isinstance(self.every, str):
            check_choice(f"{what}: every", self.every, get_args(Per), "or a number of seconds")
        else:
            check_seconds(f"{what}: every", self.every)
            if self.every < 1:
                raise UsageError(f"{what}: every must be at least 1 second, not {self.every:g}")
        check_wall(f"{what}: at", self.at)
        keep(self, days=check_days(f"{what}: days", self.days))
        check_count(f"{what}: day", self.day, most=31)
        check_zone(self.tz, f"{what}: tz")
        check_seconds(f"{what}: grace", self.grace)
        if self.is_local and self.grace > DAY.total_seconds():
            raise UsageError(f"{what}: grace must be at most a day in the recipients' own zones, not {self.grace:g} s")
        if not callable(self.data) and not isinstance(self.data, Mapping):
            raise UsageError(f"{what}: data must be a mapping or a function of a date, not {self.data!r:.80}")
        if not callable(self.audience):
            keep(self, audience=_sorted(what, self.audience))

    def __str__(self) -> str:
        """Return a text for people."""
        if not isinstance(self.every, str):
            return f"{self.name}: {self.type} every {self.every:g} s"
        which = {"week": f" on {', '.join(self.days)}", "month": f" on day {self.day}"}.get(self.every, "")
        return f"{self.name}: {self.type} every {self.every}{which} at {self.at:%H:%M} {self.tz or 'local time'}"

    @property
    def is_local(self) -> bool:
        """Whether its times are those of each recipient's own zone."""
        return isinstance(self.every, str) and not self.tz

    def after(self, cursor: str) -> Any:
        """Return the recipients after a given id, as the function `audience` does."""
        if callable(self.audience):
            return self.audience(cursor)
        members: Any = self.audience
        return members[bisect_right(members, cursor, key=_id_of) :]

    def runs(self, after: datetime, until: datetime) -> Iterator[ScheduledRun]:
        """Yield the runs that begin after an instant, up to another one, oldest first."""
        low, high = utc(after, "after"), utc(until, "until")
        if not isinstance(self.every, str):
            number = int(low.timestamp() // self.every) + 1
            while (start := datetime.fromtimestamp(number * self.every, UTC)) <= high:
                if start > low:
                    yield ScheduledRun(f"{start:%FT%T}Z", start.date(), start, start)
                number += 1
            return
        day = low.date() - DAY
        while day <= high.date() + 2 * DAY:
            if self._has(day):
                run = self.run_of(day)
                if low < run.start <= high:
                    yield run
            day += DAY

    def run_of(self, day: date) -> ScheduledRun:
        """Return the run of a date, for schedules by the calendar."""
        if self.tz:
            start = instant(zone_of(self.tz), day, self.at)
            return ScheduledRun(day.isoformat(), day, start, start)
        wall = datetime.combine(day, self.at, UTC)
        return ScheduledRun(day.isoformat(), day, wall - _EAST, wall + _WEST)

    def next_day(self, day: date) -> date:
        """Return the first date after another one that has a run, for schedules by the calendar."""
        day += DAY
        while not self._has(day):
            day += DAY
        return day

    def next(self, now: datetime) -> datetime:
        """Return when the next run begins."""
        step = timedelta(days=62) if isinstance(self.every, str) else timedelta(seconds=2 * self.every)
        return next(self.runs(now, utc(now) + step)).start

    def _has(self, day: date) -> bool:
        if self.every == "week":
            return WEEKDAYS[day.weekday()] in self.days
        return self.every == "day" or day.day == min(self.day, calendar.monthrange(day.year, day.month)[1])


class Agenda(NamedTuple):
    """What is to be done about a schedule.

    Attributes:
        run: the run that is to be made now; None: none is.
        missed: the names of runs before it that are left out.
        last: the name of the last run that is over.
    """

    run: ScheduledRun | None
    missed: tuple[str, ...]
    last: str


def agenda(schedule: Schedule, since: datetime, last: str, now: datetime) -> Agenda:
    """Return what is to be done about a schedule.

    Of the runs that should have been made, the newest is made if it is not later than `grace`; in the recipients' own
    zones, each one whose time some recipients have still to come, or have not missed by more than that.

    Args:
        schedule: what.
        since: when it was first known: what was before is not made up for.
        last: the name of the last run that is over; empty: none is.
        now: the present time.
    """
    now, grace = utc(now), timedelta(seconds=schedule.grace)
    back = max(utc(since) - (_EAST + _WEST if schedule.is_local else timedelta(0)), now - _LOOKED_BACK * DAY)
    if not isinstance(schedule.every, str):
        back = max(back, now - timedelta(seconds=_LOOKED_BACK * schedule.every))
    found = [run for run in schedule.runs(back - timedelta(milliseconds=1), now) if run.last >= utc(since)]
    if found and last > found[-1].name:  # the clock was set back
        if any(run.name == last for run in schedule.runs(now, now + DAY)):
            return Agenda(None, (), last)
        found, last = found[-1:], ""  # by more than a day, so it was wrong before; what was made has its key
    open_ = [run for run in found if run.name > last]
    on_time = [run for run in open_ if now <= run.last + grace]
    if not schedule.is_local:
        on_time = [run for run in on_time if run is open_[-1]]
    if not on_time:
        return Agenda(None, tuple(run.name for run in open_), open_[-1].name if open_ else last)
    run = on_time[0]
    before = [each.name for each in open_ if each.name < run.name]
    return Agenda(run, tuple(before), before[-1] if before else last)


LOCAL_TIME: Final = "notify.at"
"""The name of a `LocalTime` in `Notification.meta`."""


class LocalTime(NamedTuple):
    """When a notification is to be sent, by the clock on each recipient's wall.

    Attributes:
        day: the date.
        at: the time of day.
    """

    day: date
    at: time

    def instant(self, tz: str) -> datetime:
        """Return the instant in a zone."""
        return instant(zone_of(tz), self.day, self.at)

    def to_text(self) -> str:
        """Return it as `Notification.meta` keeps it."""
        return datetime.combine(self.day, self.at).isoformat()

    @classmethod
    def of_meta(cls, meta: bytes) -> LocalTime | None:
        """Return that of a notification; None: it has none."""
        if LOCAL_TIME.encode() not in meta:
            return None
        moment = datetime.fromisoformat(json.loads(meta)[LOCAL_TIME])
        return cls(moment.date(), moment.time())


class LocalRun(NamedTuple):
    """A run in the recipients' own zones.

    Attributes:
        at: its time.
        following: the time of the next run.
        since: when the schedule was first known.
        grace: how late it may be.
        last: when its time has come for all recipients.
    """

    at: LocalTime
    following: LocalTime
    since: datetime
    grace: timedelta
    last: datetime

    @classmethod
    def of(cls, schedule: Schedule, run: ScheduledRun, since: datetime) -> LocalRun:
        """Return a run of a schedule."""
        at, following = (LocalTime(day, schedule.at) for day in (run.day, schedule.next_day(run.day)))
        return cls(at, following, since, timedelta(seconds=schedule.grace), run.last)

    def due(self, tz: str, now: datetime) -> datetime | None:
        """Return when its time comes, or came, in a zone; None: that was missed."""
        due = self.at.instant(tz)
        is_missed = due < self.since or now - due > self.grace or self.following.instant(tz) <= now
        return None if is_missed else due


def timed(claim: Claim, type: NotificationType, tz: str) -> tuple[Claim, datetime | None]:
    """Return a claim as if it had been submitted at its time in a recipient's zone, and that time, if it has one."""
    local = LocalTime.of_meta(claim.notification.meta)
    if local is None:
        return claim, None
    due_at = local.instant(tz)
    expires_at, delivery, notification = type.expires_at(due_at), claim.delivery, claim.notification
    if expires_at is not None and (delivery.expires_at is None or delivery.expires_at < expires_at):
        delivery = replace(delivery, expires_at=expires_at)
    notification = replace(notification, created_at=max(notification.created_at, due_at))
    return replace(claim, delivery=delivery, notification=notification), due_at


def _sorted(what: str, members: object) -> tuple[Any, ...]:
    if isinstance(members, str | bytes) or not isinstance(members, Collection):
        raise UsageError(
            f"{what}: audience must be a collection of recipients, or a function that yields those after a given id, "
            f"not {members!r:.80}"
        )
    for each in members:
        if not isinstance(each, Recipient) and not (isinstance(each, str) and each):
            raise UsageError(f"{what}: an audience has user ids and Recipients, not {each!r:.80}")
    return tuple(sorted({_id_of(each): each for each in members}.values(), key=_id_of))


def _id_of(member: str | Recipient) -> str:
    return member.id if isinstance(member, Recipient) else member
