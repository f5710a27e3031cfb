"""What a ticket reports, what is remembered of requests, and what is removed in time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from notify import UsageError
from notify.dispatch import (
    Digest,
    EndpointGone,
    Misconfigured,
    NotificationType,
    Reason,
    Rejected,
    RetrySchedule,
    State,
    Ticket,
    Transient,
)
from notify.dispatch import _purging as purging
from notify.dispatch._retry import PATIENT, PROMPT, delay
from notify.testing.dispatch import VirtualClock
from tests.dispatch.world import START, World, note
from tests.parts import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., World]]:
    """Return a function that makes a world; each is closed afterwards."""
    made: list[World] = []

    def make(*types: NotificationType) -> World:
        made.append(World(types, VirtualClock(START)))
        return made[-1]

    yield make
    for each in made:
        await each.notifier.aclose()
        await each.store.aclose()


async def test_report_has_every_channel_and_endpoint(make: Callable[..., World]) -> None:
    """What was sent, skipped and collected: one entry each; a ticket of one recipient knows whose it is."""
    world = make(note("in_app", "email", "web_push", digest=Digest(window=60.0, channels=["email"])))
    devices = [await world.device(name) for name in ("a", "b")]
    await world.dispatcher.set_preferences("bob", {"channels": {"web_push": False}})
    ticket = await world.dispatcher.submit("note", "alice", {"title": "x"})
    assert [(each.channel, each.state) for each in await ticket.report()] == [
        ("in_app", State.WAITING),
        ("email", State.JOINED),
        ("web_push", State.WAITING),
    ]
    world.push.answers = [EndpointGone("410")]
    await world.settle()
    found = await ticket.report()
    assert [(each.channel, each.reason) for each in found[:2]] == [("in_app", ""), ("email", Reason.DIGEST)]
    assert [each.endpoint for each in found[2:]] == sorted(each.id for each in devices)
    assert sorted((each.state, each.reason) for each in found[2:]) == [(State.ACCEPTED, ""), (State.GONE, "410")]
    other = await world.dispatcher.submit("note", "bob")
    assert [(each.state, each.reason) for each in await other.report()][2] == (State.SKIPPED, Reason.OPTED_OUT)
    assert await other.report("carol") == ()


async def test_ticket_of_many_recipients_needs_a_name(make: Callable[..., World]) -> None:
    """A submission to many needs no key; an unknown recipient is a skip, not an error."""
    world = make(note("email"))
    ticket = await world.dispatcher.submit_many("note", ["alice", "nobody"])
    again = await world.dispatcher.submit_many("note", ["alice", "nobody"])
    assert ticket.id != again.id
    assert not again.replayed
    with pytest.raises(UsageError, match="name the user"):
        await ticket.report()
    assert [each.reason for each in await ticket.report("nobody")] == [Reason.UNKNOWN_RECIPIENT]
    assert await world.dispatcher.cancel(ticket, user="alice") == 1
    found = await world.dispatcher.explain(ticket, "alice")
    assert found is not None
    assert found.report() == await ticket.report("alice")
    with pytest.raises(UsageError, match="Ticket"):
        await Ticket("x").report("alice")
    with pytest.raises(UsageError, match="expected a Ticket"):
        await world.dispatcher.explain(None, "alice")  # type: ignore[arg-type]


async def test_explaining_a_digest(make: Callable[..., World]) -> None:
    """A digest was not planned, so nothing has changed since; what became of it is reported."""
    world = make(note("email", digest=Digest(window=60.0)))
    await world.submit()
    await world.pass_time("61s")
    (job,) = world.email.jobs
    found = await world.dispatcher.explain(job.notification, "alice")
    assert found is not None
    assert not found.changed
    assert [(each.channel, each.state) for each in found.report()] == [("email", State.ACCEPTED)]
    assert "\n  email: collected\n    accepted\n" in str(found)


@pytest.mark.parametrize(("ttl", "days", "replayed"), [(None, 2, True), (None, 4, False), (3600.0, 2, False)])
async def test_a_key_is_kept_while_the_delivery_may_be_tried(
    make: Callable[..., World], ttl: float | None, days: int, replayed: bool
) -> None:
    """E-mail is tried for more than three days, so a repeated request finds the first one for as long."""
    world = make(note("email", ttl=ttl))
    first = await world.dispatcher.submit("note", "alice", idempotency_key="k")
    world.clock.advance(timedelta(days=days).total_seconds())
    again = await world.dispatcher.submit("note", "alice", idempotency_key="k")
    assert (again.replayed, again.id == first.id) == (replayed, replayed)


@pytest.mark.parametrize("schedule", [PROMPT, PATIENT, RetrySchedule(attempts=1), RetrySchedule(attempts=100)])
def test_horizon_of_a_schedule(schedule: RetrySchedule) -> None:
    """No sequence of delays is longer."""
    longest = [delay(number, Transient(), schedule, 0.999_999) for number in range(1, schedule.attempts)]
    assert sum(each for each in longest if each is not None) <= schedule.horizon


async def test_what_is_old_is_removed_while_it_runs(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` removes what is older than `keep`, a batch at a time, and never what is still to be sent."""
    monkeypatch.setattr(purging, "FIRST", 0.0)
    monkeypatch.setattr(purging, "STEP", 2)
    world = make(note("email"))
    old = [await world.submit() for _ in range(5)]
    await world.settle()
    world.email.answers = [Misconfigured(), Rejected()]
    later = await world.submit()
    await world.store.close_gate("email", world.clock.now() + timedelta(days=60))
    world.clock.advance(timedelta(days=31).total_seconds())

    async def are_gone() -> bool:
        return [await world.store.record(each, "alice") for each in old] == [None] * 5

    with anyio.fail_after(30):
        async with world.dispatcher.running(poll_interval=0.01):
            await until(are_gone)
    assert await world.states(later) == {"email": [State.WAITING]}


async def test_nothing_is_removed_unless_it_is_wanted(make: Callable[..., World]) -> None:
    """keep=None keeps everything; a number has to be one."""
    parts: Any = make(note("email")).dispatcher._parts
    purger = purging.Purger(parts.records, None, lambda: 0.0)
    assert not purger.is_due()
    purger = purging.Purger(parts.records, 60.0, lambda: 0.0)
    assert (purger.is_due(), purger.is_due()) == (True, False)
