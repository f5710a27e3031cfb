"""Clocks of the host or of one worker that are set back or forward by an hour while deliveries are in progress.

Nothing is sent twice, and once the clock is right again, no delivery is left over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from notify.dispatch import (
    Accepted,
    Digest,
    Fallback,
    FrequencyCap,
    Job,
    NotificationType,
    Outcome,
    Schedule,
    State,
    Throttled,
    Transient,
)
from notify.dispatch.abc import Move
from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore
from notify_sqlite import SQLiteDispatchStore
from tests.dispatch.world import START, Recorder, World, note

from .dispatching import OPEN

HOUR = timedelta(hours=1)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize(
        ("anyio_backend", "kind"), [("asyncio", "memory"), ("trio", "memory"), ("asyncio", "sqlite")]
    ),
    pytest.mark.parametrize("whose", ["host", "worker"]),
    pytest.mark.parametrize("by", [-HOUR, HOUR], ids=["back", "forward"]),
]


class Wrong(VirtualClock):
    """A clock that can be wrong.

    Attributes:
        off: by how much.
    """

    off = timedelta(0)

    def __call__(self) -> float:
        """Return the seconds since 1970."""
        return self.now().timestamp()

    def now(self) -> datetime:
        """Return what it shows."""
        return super().now() + self.off


class Stepped(World):
    """A world whose clock, or that of its worker only, is set by an hour, and set right again."""

    def __init__(self, types: list[NotificationType], clock: Wrong, store: Any, by: timedelta) -> None:
        super().__init__(types, clock, store)
        self.wrong = clock
        self.by = by

    async def step(self) -> None:
        """Set the clock, and let a worker and all that is due run by it."""
        self.wrong.off = self.by
        await self.settle()

    async def right(self, after: str = "2h") -> None:
        """Set the clock right, and let time pass until everything is due."""
        self.wrong.off = timedelta(0)
        await self.settle()
        await self.pass_time(after)
        await self.pass_time("1h")

    async def check(self, ticket: str, user: str = "alice", *, sent: State = State.ACCEPTED) -> None:
        """Check that nothing of a notification is left over, and that all of it was sent."""
        found = await self.states(ticket, user)
        assert {each for states in found.values() for each in states} == {sent}


Make = Callable[..., Stepped]


@pytest.fixture
async def make(kind: str, whose: str, by: timedelta, tmp_path: Path) -> AsyncIterator[Make]:
    """Return a function that makes a world with these types."""
    made: list[Stepped] = []

    def make(*types: NotificationType, start: datetime = START) -> Stepped:
        clock = Wrong(start)
        own = clock if whose == "host" else lambda: (clock.now() - clock.off).timestamp()
        store: Any = MemoryDispatchStore(clock=own)
        if kind == "sqlite":
            store = SQLiteDispatchStore(tmp_path / "dispatch.db", clock=own, synchronous="NORMAL")
        made.append(Stepped([*types], clock, store, by))
        return made[-1]

    yield make
    for each in made:
        assert not await each.store.stuck(OPEN, limit=1), "something is left over"
        await each.notifier.aclose()
        await each.store.aclose()


async def test_what_is_due(make: Make) -> None:
    """What was submitted before, with and by the wrong clock is sent once."""
    world = make(note("email", "in_app"))
    first = await world.submit()
    await world.step()
    second = await world.submit()
    await world.settle()
    world.wrong.off = timedelta(0)
    third = await world.submit()
    await world.right()
    for each in (first, second, third):
        await world.check(each)
    assert (len(world.email.jobs), len(world.in_app.jobs)) == (3, 3)


async def test_leases(make: Make) -> None:
    """What a dead worker had claimed or begun is taken over; what was begun is repeated where that is recognised."""
    world = make(note("email", "in_app", "web_push"))
    await world.device("a")
    claimed, begun = await world.submit(), await world.submit()
    for each in await world.store.claim(world.clock.now(), lease=60.0):
        if each.delivery.notification == begun and each.delivery.channel != "web_push":
            move = Move(each.delivery.id, each.delivery.fence, State.SENDING)
            assert await world.store.advance([move], world.clock.now()) == [True]
    await world.step()
    await world.right()
    await world.check(claimed)
    assert await world.states(begun) == {
        "email": [State.UNKNOWN],
        "in_app": [State.ACCEPTED],
        "web_push": [State.ACCEPTED],
    }
    assert [len(each.jobs) for each in (world.email, world.in_app, world.push)] == [1, 2, 2]


class Turning(Recorder):
    """A channel during whose work the clock is set."""

    def __init__(self, world: Stepped) -> None:
        super().__init__()
        self.world = world

    async def send(self, job: Job) -> Outcome:
        """Keep the job, and set the clock."""
        self.jobs.append(job)
        self.world.wrong.off = self.world.by
        return Accepted()


async def test_while_it_is_sent(make: Make) -> None:
    """The outcome is stored, however the clock was set during the call."""
    world = make(note("email"))
    channel = Turning(world)
    world.dispatcher._parts.channels["email"] = channel  # type: ignore[index]
    ticket = await world.submit()
    await world.settle()
    await world.check(ticket)
    await world.right()
    assert len(channel.jobs) == 1


async def test_retries(make: Make) -> None:
    """What the provider could not take waits for no longer than until the clock is right, and is sent once."""
    world = make(note("email"))
    world.email.answers = [Transient("450"), Accepted()]
    ticket = await world.submit()
    await world.settle()
    await world.step()
    await world.right()
    await world.check(ticket)
    assert len(world.email.jobs) == 2


async def test_gates(make: Make) -> None:
    """A provider that throttles until an instant by one clock is asked again by the other."""
    world = make(note("email"))
    world.email.answers = [Throttled(60.0), Accepted()]
    first, second = await world.submit(), await world.submit()
    await world.settle()
    await world.step()
    await world.right()
    await world.check(first)
    await world.check(second)


async def test_fallbacks(make: Make) -> None:
    """An e-mail that waits for a quarter of an hour is sent once, unless its item is read."""
    world = make(note("in_app", "email", fallback={"email": Fallback("unread")}))
    ticket = await world.submit()
    await world.pass_time("10m")
    await world.step()
    await world.right()
    await world.check(ticket)
    assert len(world.email.jobs) == 1


async def test_digests(make: Make) -> None:
    """What is collected before and after the step is in a digest once."""
    world = make(NotificationType("sum", channels=["email"], digest=Digest(window=600.0)))
    for number in range(2):
        await world.submit("sum", n=number)
    await world.pass_time("5m")
    await world.step()
    for number in range(2, 4):
        await world.submit("sum", n=number)
    await world.settle()
    await world.right()
    found = [await world.store.digest_items(job.notification) for job in world.email.jobs]
    data = [item.notification.data for items in found for item in items]
    assert sorted(data) == [b'{"n":%d}' % number for number in range(4)]


async def test_caps_by_seconds(make: Make, by: timedelta) -> None:
    """Set back, a clock makes no room in a cap; set right again, there is room as soon as there should be."""
    world = make(note("email", caps=[FrequencyCap(2, 1800.0)]))
    for _ in range(2):
        await world.submit()
    await world.settle()
    world.wrong.off = by
    for _ in range(3):
        await world.submit()
    await world.settle()
    assert len(world.email.jobs) == (2 if by < timedelta(0) else 4)
    await world.right()
    before = len(world.email.jobs)
    await world.submit()
    await world.settle()
    assert len(world.email.jobs) == before + 1


async def test_caps_by_the_calendar(make: Make, by: timedelta) -> None:
    """Each day lets through its limit, also if the clock shows it twice."""
    world = make(note("email", caps=[FrequencyCap(2)]), start=datetime(2027, 1, 5, 23, 30, tzinfo=UTC) - min(by, -by))
    for off in (timedelta(0), by, timedelta(0), by, timedelta(0)):
        world.wrong.off = off
        for _ in range(3):
            await world.submit(to="bob")
        await world.settle()
    await world.right()
    days = [f"{job.now:%d}" for job in world.email.jobs]
    assert all(days.count(day) <= 2 for day in days)


async def test_quiet_hours(make: Make, by: timedelta) -> None:
    """What is held is sent once, outside of quiet hours as far as the clock of the worker tells."""
    world = make(note("web_push"), start=datetime(2027, 1, 5, 5, 30, tzinfo=UTC))  # 06:30 in Berlin
    await world.device("a")
    await world.dispatcher.set_preferences("alice", {"quiet_hours": [{"start": "22:00", "end": "07:00"}]})
    first = await world.submit()
    await world.settle()
    assert not world.push.jobs
    await world.step()
    second = await world.submit()
    await world.settle()
    await world.right()
    await world.check(first)
    await world.check(second)
    assert len(world.push.jobs) == 2
    for job in world.push.jobs:
        assert job.now.hour >= 6  # 07:00 in Berlin


async def test_schedules(make: Make) -> None:
    """A run is made once, whether the clock shows its hour twice or leaps over it."""
    world = make(NotificationType("news", channels=["email"]), start=datetime(2027, 1, 5, 8, 50, tzinfo=UTC))
    world.dispatcher.schedule(Schedule("morning", "news", ["bob"], tz="UTC", grace=7200.0))
    await world.settle()
    await world.pass_time("15m")
    await world.step()
    world.wrong.off = timedelta(0)
    await world.settle()
    assert [job.user for job in world.email.jobs] == ["bob"]
    await world.store.cancel("schedule:morning", world.clock.now())  # the row of the next run


async def test_tickets(make: Make) -> None:
    """A key is known, and a ticket stops what has not begun, by whichever clock."""
    world = make(NotificationType("held", channels=["email"], caps=[FrequencyCap(1)], over_cap="hold"))
    call = world.dispatcher.submit
    first = await call("held", "alice", {"n": 1}, idempotency_key="1")
    await world.settle()
    second = await call("held", "alice", {"n": 2}, idempotency_key="2")
    await world.settle()
    world.wrong.off = world.by
    again = [await call("held", "alice", {"n": n}, idempotency_key=f"{n}") for n in (1, 2)]
    assert [(each.id, each.replayed) for each in again] == [(first.id, True), (second.id, True)]
    assert await world.dispatcher.cancel(second) == 1
    await world.right("24h")
    await world.check(first.id)
    await world.check(second.id, sent=State.CANCELLED)
    assert len(world.email.jobs) == 1
