"""Schedules under a dispatcher: once a date, in each recipient's zone, after crashes; and what they say."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import UsageError
from notify.dispatch import NotificationType, Reason, Recipient, Schedule, State
from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore
from tests.parts import until

from .world import World

pytestmark = pytest.mark.anyio

NEWS = NotificationType("news", channels=["email"])


def world(*types: NotificationType, start: datetime, store: Any = None) -> World:
    return World(types or (NEWS,), clock=VirtualClock(start), store=store)


def sent(world: World) -> list[tuple[str, str]]:
    """Return who got a mail, and when."""
    return [(job.user, f"{job.now:%d %H:%M}") for job in world.email.jobs]


async def test_once_a_day_in_one_zone() -> None:
    """Every user gets it at that hour, each day, and nothing in between."""
    each = world(start=datetime(2027, 1, 5, 3, 20, tzinfo=UTC))
    data = {"title": "Good morning"}
    each.dispatcher.schedule(Schedule("morning", "news", ["bob", "alice"], data, tz="Asia/Kolkata"))
    for _ in range(12 * 25):
        await each.pass_time("5m")
    assert sorted(sent(each)) == [(user, f"{day} 03:30") for user in ("alice", "bob") for day in ("05", "06")]
    assert each.email.jobs[0].content.title == "Good morning"


async def test_once_a_day_in_the_zone_of_each() -> None:
    """Each recipient gets it when its own clock shows the time; the message is of that time."""
    each = world(replace(NEWS, ttl=600), start=datetime(2027, 1, 4, 12, tzinfo=UTC))
    for user, tz in (("kiri", "Pacific/Kiritimati"), ("kath", "Asia/Kathmandu"), ("adak", "America/Adak")):
        each.users[user] = Recipient(user, tz=tz)
    each.dispatcher.schedule(Schedule("morning", "news", [*each.users]))
    for _ in range(4 * 36):
        await each.pass_time("15m")
    assert sorted(sent(each)) == [
        ("adak", "04 19:00"),
        ("adak", "05 19:00"),
        ("alice", "05 08:00"),
        ("bob", "05 09:00"),
        ("kath", "05 03:15"),
        ("kiri", "04 19:00"),
        ("kiri", "05 19:00"),
    ]
    assert all(job.created_at == job.now for job in each.email.jobs)
    assert all(
        job.expires_at is not None and (job.expires_at - job.now).total_seconds() == 600 for job in each.email.jobs
    )


async def test_user_who_travels_before_a_message_that_expires() -> None:
    """It is worth as much at the time of the new zone as it would have been at that of the old one."""
    each = world(replace(NEWS, ttl=600), start=datetime(2027, 1, 4, 18, 30, tzinfo=UTC))
    each.dispatcher.schedule(Schedule("morning", "news", ["alice"]))
    await each.pass_time("1h")
    each.users["alice"] = Recipient("alice", tz="America/New_York")
    for _ in range(4 * 20):
        await each.pass_time("15m")
    assert sent(each) == [("alice", "05 14:00")]


async def test_users_who_travel() -> None:
    """A zone that changes before the time counts; a user who has had a date does not get it again in another zone."""
    each = world(start=datetime(2027, 1, 4, 18, 30, tzinfo=UTC))
    each.dispatcher.schedule(Schedule("morning", "news", ["alice", "bob"]))
    await each.pass_time("1h")  # the fifth has begun in Kiritimati: both are planned
    each.users["alice"] = Recipient("alice", tz="America/New_York")  # is found out at 09:00 in Berlin
    await each.dispatcher.set_preferences("bob", {"tz": "Asia/Tokyo"})  # which looks again at once
    for _ in range(6):
        await each.pass_time("1h")
    assert sent(each) == [("bob", "05 00:30")]
    await each.dispatcher.set_preferences("bob", {"tz": "Pacific/Honolulu"})
    for _ in range(20):
        await each.pass_time("1h")
    assert sent(each) == [("bob", "05 00:30"), ("alice", "05 14:30")]


async def test_a_run_that_is_late(caplog: pytest.LogCaptureFixture) -> None:
    """After an interruption the newest run is made up for within the time of grace, and the log has the others."""
    each = world(start=datetime(2027, 1, 4, 9, 30, tzinfo=UTC))
    each.dispatcher.schedule(Schedule("morning", "news", ["bob"], tz="UTC"))
    await each.settle()
    assert sent(each) == []  # it was not there at nine
    await each.pass_time("71h 50m")
    assert sent(each) == [("bob", "07 09:20")]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "the schedule 'morning' was not run in time, so this is left out: 2027-01-05, 2027-01-06"
    ]
    await each.pass_time("24h 50m")
    assert len(sent(each)) == 1
    assert caplog.messages[-1].endswith("this is left out: 2027-01-08")


async def test_recipients_whose_time_is_over_are_named() -> None:
    """A local run that begins late leaves out those whose hour has gone by, and `explain` says so."""
    each = world(start=datetime(2027, 1, 5, 8, 30, tzinfo=UTC))
    each.dispatcher.schedule(Schedule("morning", "news", ["alice", "bob"]))
    await each.settle()
    await each.pass_time("45m")
    assert sent(each) == [("bob", "05 09:15")]
    (status,) = await each.dispatcher.schedules()
    explained = await each.dispatcher.explain(status.ticket, "alice")
    assert explained is not None
    assert explained.planned["email"].reason is Reason.MISSED
    assert not explained.changed
    planned = await each.dispatcher.explain(status.ticket, "bob")
    assert planned is not None
    assert planned.planned["email"].reason is Reason.SCHEDULED
    assert not planned.changed


async def test_what_else_decides() -> None:
    """Preferences and quiet hours count at the recipient's hour, as they do for any notification."""
    each = world(start=datetime(2027, 1, 5, 6, tzinfo=UTC))
    quiet = {"quiet_hours": [{"start": "22:00", "end": "10:00"}]}
    await each.dispatcher.set_preferences("alice", quiet)
    await each.dispatcher.set_preferences("bob", {"channels": {"email": False}})
    each.dispatcher.schedule(Schedule("morning", "news", ["alice", "bob"]))
    for _ in range(20):
        await each.pass_time("15m")
    ((user, at),) = sent(each)
    assert (user, at[:5]) == ("alice", "05 09")  # ten o'clock in Berlin, and up to two minutes


async def test_many_recipients_are_read_in_parts() -> None:
    """An audience is asked for those after the last one, so memory is bounded, and each part is closed."""
    asked: list[str] = []
    open_parts = 0

    async def everyone(after: str) -> AsyncIterator[str]:
        nonlocal open_parts
        asked.append(after)
        open_parts += 1
        try:
            for number in range(1001):
                if (user := f"u{number:04}") > after:
                    yield user
        finally:
            open_parts -= 1

    each = world(start=datetime(2027, 1, 5, 8, 59, tzinfo=UTC))
    each.users = {f"u{number:04}": Recipient(f"u{number:04}") for number in range(1001)}
    each.dispatcher.schedule(Schedule("morning", "news", everyone, tz="UTC"))
    await each.dispatcher.tick()
    each.clock.advance("1m")
    counts = [(await each.dispatcher.tick()).scheduled for _ in range(4)]
    assert counts == [500, 500, 1, 0]
    assert (asked, open_parts) == (["", "u0499", "u0999"], 0)
    await each.settle()
    assert len({job.user for job in each.email.jobs}) == len(each.email.jobs) == 1001


async def test_a_process_that_dies_is_followed_by_another() -> None:
    """A part that was stored and not noted is submitted again by the next process, and no user gets it twice."""

    class Dies(MemoryDispatchStore):
        is_dying = False

        async def advance(self, moves: Any, now: datetime) -> Any:
            if self.is_dying and any(each.to is State.WAITING for each in moves):
                raise KeyboardInterrupt  # as if the process were killed here
            return await super().advance(moves, now)

    clock = VirtualClock(datetime(2027, 1, 5, 8, 59, tzinfo=UTC))
    store = Dies(clock=clock)
    users = [f"u{number:04}" for number in range(700)]
    worlds = [World([NEWS], clock=clock, store=store) for _ in range(2)]
    for each in worlds:
        each.users = {user: Recipient(user) for user in users}
        each.dispatcher.schedule(Schedule("morning", "news", users, tz="UTC"))
        await each.settle()
    clock.advance("1m")
    store.is_dying = True
    with pytest.raises(KeyboardInterrupt):
        await worlds[0].dispatcher.tick()
    store.is_dying = False
    await worlds[1].settle()
    got = [job.user for each in worlds for job in each.email.jobs]
    assert len(got) < 700  # the lease of the one that died is not over
    clock.advance("61s")
    await worlds[1].settle()
    got = [job.user for each in worlds for job in each.email.jobs]
    assert sorted(got) == users


async def test_a_clock_that_goes_back_sends_nothing_twice() -> None:
    """The same dates, seen again by a clock that was set back by hours or by weeks, are not run again."""
    each = world(start=datetime(2027, 1, 5, 8, 59, tzinfo=UTC))
    moment = each.clock.now()
    each.dispatcher.schedule(Schedule("morning", "news", ["bob"], tz="UTC"))
    await each.settle()
    for when in ("01-05 09:00", "01-05 08:30", "01-05 09:01", "01-19 09:01", "01-05 09:02", "01-06 09:00"):
        moment = datetime.fromisoformat(f"2027-{when}:00+00:00")
        each.clock._now = moment
        other = World([NEWS], clock=each.clock, store=each.store)  # a process that starts
        other.email = other.dispatcher._parts.channels["email"] = each.email  # type: ignore[index,assignment]
        other.dispatcher.schedule(Schedule("morning", "news", ["bob"], tz="UTC"))
        await other.settle()
    assert sent(each) == [("bob", "05 09:00"), ("bob", "19 09:01"), ("bob", "06 09:00")]


async def test_a_schedule_that_is_changed() -> None:
    """A process with another definition goes by its own one at once; a date that was run is not run again."""
    each = world(start=datetime(2027, 1, 5, 8, tzinfo=UTC))
    each.dispatcher.schedule(Schedule("morning", "news", ["bob"], every="month", tz="UTC"))
    await each.settle()
    (status,) = await each.dispatcher.schedules()
    assert status.next_at == datetime(2027, 2, 1, 9, tzinfo=UTC)
    other = World([NEWS], clock=each.clock, store=each.store)
    other.dispatcher.schedule(Schedule("morning", "news", ["bob"], at=time(8, 30), tz="UTC"))
    await other.settle()
    (status,) = await other.dispatcher.schedules()
    assert status.next_at == datetime(2027, 1, 5, 8, 30, tzinfo=UTC)
    await other.pass_time("30m")
    last = World([NEWS], clock=each.clock, store=each.store)
    last.dispatcher.schedule(Schedule("morning", "news", ["bob"], at=time(8, 45), tz="UTC"))
    await last.settle()
    await last.pass_time("30m")
    assert (len(other.email.jobs), len(last.email.jobs)) == (1, 0)


async def test_data_of_the_day() -> None:
    """A function is asked for the data once for each run."""
    asked: list[date] = []

    async def data(day: date) -> dict[str, Any]:
        asked.append(day)
        return {"title": f"News of {day:%d %B}"}

    each = world(start=datetime(2027, 1, 5, 8, 59, tzinfo=UTC))
    users = [f"u{number:04}" for number in range(600)]
    each.users = {user: Recipient(user) for user in users}
    each.dispatcher.schedule(Schedule("morning", "news", users, data, tz="UTC"))
    await each.settle()
    await each.pass_time("1m")
    assert {job.content.title for job in each.email.jobs} == {"News of 05 January"}
    assert asked == [date(2027, 1, 5)]


async def test_an_audience_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """What the application's functions raise is logged once, stops nothing else, and the run is tried again."""
    is_broken = True

    async def everyone(after: str) -> AsyncIterator[str]:
        if is_broken:
            raise ConnectionError("the database of users is away")
        if not after:
            yield "bob"

    each = world(start=datetime(2027, 1, 5, 8, 59, tzinfo=UTC))
    each.dispatcher.schedule(Schedule("broken", "news", everyone, tz="UTC"))
    each.dispatcher.schedule(Schedule("whole", "news", ["alice"], tz="UTC"))
    await each.settle()
    for _ in range(5):
        await each.pass_time("1m")
    assert sent(each) == [("alice", "05 09:00")]
    assert sum("'broken' cannot be run" in message for message in caplog.messages) == 1
    is_broken = False
    await each.pass_time("1m")
    assert sent(each)[1:] == [("bob", "05 09:05")]


async def test_run_makes_runs_and_sends_beside_them() -> None:
    """`run` makes runs, too, and an audience that hangs does not hold up what is sent."""
    go_on = anyio.Event()

    async def everyone(after: str) -> AsyncIterator[str]:
        await go_on.wait()
        if not after:
            yield "bob"

    each = world(start=datetime(2027, 1, 5, 8, 59, tzinfo=UTC))
    each.dispatcher.schedule(Schedule("slow", "news", everyone, tz="UTC"))
    await each.settle()
    each.clock.advance("1m")
    async with each.dispatcher.running(poll_interval=0.01):
        await each.dispatcher.submit("news", "alice", {"title": "hello"})
        await until(lambda: len(each.email.jobs) == 1, 20)
        go_on.set()
        await until(lambda: len(each.email.jobs) == 2, 20)
    assert [job.user for job in each.email.jobs] == ["alice", "bob"]
    (status,) = await each.dispatcher.schedules()
    assert status.last_run == "2027-01-05"


async def test_what_schedules_say() -> None:
    """`schedules` has the next run, the last one and its ticket; before anything has run, the next one."""
    each = world(start=datetime(2027, 1, 5, 8, tzinfo=UTC))
    each.dispatcher.schedule(Schedule("morning", "news", ["bob"], tz="UTC"))
    (status,) = await each.dispatcher.schedules()
    assert str(status) == "morning: news every day at 09:00 UTC: next 2027-01-05 09:00:00 UTC"
    await each.settle()
    await each.pass_time("1h")
    (status,) = await each.dispatcher.schedules()
    assert (status.last_run, status.next_at) == ("2027-01-05", datetime(2027, 1, 6, 9, tzinfo=UTC))
    assert str(status).endswith(f"; last 2027-01-05, ticket {status.ticket}")
    assert (await each.states(status.ticket, "bob")) == {"email": [State.ACCEPTED]}
    assert await each.dispatcher.cancel(status.ticket) == 0


async def test_what_is_refused() -> None:
    """Two schedules have two names, a type is registered, and a schedule is a Schedule."""
    each = world(start=datetime(2027, 1, 5, 8, tzinfo=UTC))
    each.dispatcher.schedule(Schedule("morning", "news", ["bob"]))
    for schedule, match in (
        (Schedule("morning", "news", ["bob"]), "already"),
        (Schedule("evening", "offers", ["bob"]), "offers"),
        ("evening", "must be a Schedule"),
    ):
        with pytest.raises(UsageError, match=match):
            each.dispatcher.schedule(schedule)  # type: ignore[arg-type]


async def test_stopping_does_not_wait_for_an_audience() -> None:
    """An audience that hangs is left when the process stops; another one goes on after the lease."""
    is_asked = anyio.Event()

    async def everyone(after: str) -> AsyncIterator[str]:
        is_asked.set()
        await anyio.sleep_forever()
        yield "bob"

    each = world(start=datetime(2027, 1, 5, 8, 59, tzinfo=UTC))
    each.dispatcher.schedule(Schedule("slow", "news", everyone, tz="UTC"))
    await each.settle()
    each.clock.advance("1m")
    async with each.dispatcher.running(poll_interval=0.01):
        await is_asked.wait()
        before = anyio.current_time()
    assert anyio.current_time() - before < 20  # it would be given 32 seconds


async def test_two_steps_at_once() -> None:
    """Each schedule gets its row, also if two tasks are at it."""

    class Slow(MemoryDispatchStore):
        async def submit(self, *args: Any, **more: Any) -> Any:
            await anyio.lowlevel.checkpoint()
            return await super().submit(*args, **more)

    clock = VirtualClock(datetime(2027, 1, 5, 8, tzinfo=UTC))
    each = World([NEWS], clock=clock, store=Slow(clock=clock))
    for name in ("a", "b", "c"):
        each.dispatcher.schedule(Schedule(name, "news", ["bob"], tz="UTC"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(each.dispatcher.tick)
        tasks.start_soon(each.dispatcher.tick)
    assert len(await each.store.stuck([State.WAITING])) == 3


async def test_a_process_that_starts_leaves_schedules_alone() -> None:
    """Nothing is hurried for a schedule that is the same as before: that may read through everything that waits."""
    hurried: list[str | None] = []

    class Counts(MemoryDispatchStore):
        async def hurry(self, now: datetime, *, user: str | None = None, channel: str | None = None) -> int:
            hurried.append(channel)
            return await super().hurry(now, user=user, channel=channel)

    clock = VirtualClock(datetime(2027, 1, 5, 8, tzinfo=UTC))
    store = Counts(clock=clock)
    for at, expected in ((time(9), []), (time(9), []), (time(8, 45), ["schedule:morning"])):
        each = World([NEWS], clock=clock, store=store)
        each.dispatcher.schedule(Schedule("morning", "news", ["bob"], at=at, tz="UTC"))
        await each.pass_time("10m")
        assert hurried == expected


async def test_an_audience_that_does_not_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """One that yields the same recipients whatever the last id was is not asked for them without end."""

    async def everyone(after: str) -> AsyncIterator[str]:
        for number in range(500):
            yield f"u{number:04}"

    each = world(start=datetime(2027, 1, 5, 8, 59, tzinfo=UTC))
    each.users = {f"u{number:04}": Recipient(f"u{number:04}") for number in range(500)}
    each.dispatcher.schedule(Schedule("morning", "news", everyone, tz="UTC"))
    await each.dispatcher.tick()
    each.clock.advance("1m")
    assert [(await each.dispatcher.tick()).scheduled for _ in range(3)] == [500, 0, 0]
    assert "the audience must yield only those after the id it is given, 'u0499'" in caplog.text
