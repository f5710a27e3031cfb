"""Values of one recipient that are refused: the others are not concerned."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

import pytest

from notify import UsageError
from notify.dispatch import Recipient
from notify.dispatch.abc import State
from tests.dispatch.world import World, note

pytestmark = pytest.mark.anyio

USERS = ["alice", "bob", "carol", "dora"]


class Users(World):
    """A world in which bob moved to a zone that does not exist, and dora away from it."""

    zone = "Mars/Phobos"

    async def recipients(self, ids: Sequence[str]) -> list[Recipient]:
        """Return the users, with the zones of an application's table."""
        zones = {"alice": "Europe/Berlin", "bob": self.zone, "carol": "", "dora": "UTC"}
        return [Recipient(user, tz=zones[user]) for user in ids]


@pytest.fixture
async def world() -> AsyncIterator[Users]:
    made = Users([note("email")])
    yield made
    await made.notifier.aclose()
    await made.store.aclose()


async def submitted(world: Users) -> str:
    """Submit to all four while every value is sound, in one notification."""
    world.zone = "UTC"
    ticket = await world.dispatcher.submit_many("note", USERS, {"title": "hello"}, idempotency_key="1")
    world.zone = "Mars/Phobos"
    return ticket.id


async def test_a_zone_that_does_not_exist(world: Users, caplog: pytest.LogCaptureFixture) -> None:
    """The others get theirs; the one waits, the log says why, and it is sent when the zone is right."""
    ticket = await submitted(world)
    with caplog.at_level(logging.WARNING, logger="notify"):
        await world.settle()
    assert sorted(job.user for job in world.email.jobs) == ["alice", "carol", "dora"]
    assert await world.states(ticket, "bob") == {"email": [State.WAITING]}
    (line,) = [record.getMessage() for record in caplog.records if "Phobos" in record.getMessage()]
    assert line.startswith("a recipient's values are refused, so its deliveries wait: ")
    world.zone = "UTC"
    await world.pass_time("1h")
    assert await world.states(ticket, "bob") == {"email": [State.ACCEPTED]}


async def test_preferences_that_cannot_be_read(world: Users) -> None:
    """Preferences that another version has stored concern their user alone."""
    ticket = await submitted(world)
    world.zone = "UTC"
    await world.store.patch("bob", b'{"all": 1}', by="bob", source="test", now=world.clock.now())
    await world.settle()
    assert sorted(job.user for job in world.email.jobs) == ["alice", "carol", "dora"]
    await world.store.patch("bob", b'{"all": null}', by="bob", source="test", now=world.clock.now())
    await world.pass_time("1h")
    assert await world.states(ticket, "bob") == {"email": [State.ACCEPTED]}


async def test_submitting_to_one_says_what_is_wrong(world: Users) -> None:
    """A submission to that user alone raises the error."""
    with pytest.raises(UsageError, match="'bob': the time zone 'Mars/Phobos' is unknown"):
        await world.submit(to="bob")


async def test_submitting_to_many_goes_on(world: Users) -> None:
    """A submission to many is stored for all; the one is looked at again when its zone may be right."""
    ticket = await world.dispatcher.submit_many("note", USERS, {"title": "hello"}, idempotency_key="2")
    assert ticket.count == 4
    await world.settle()
    assert sorted(job.user for job in world.email.jobs) == ["alice", "carol", "dora"]
    record = await world.store.record(ticket.id, "bob")
    assert b"recipient_refused" in record[1].decisions
    assert await world.states(ticket.id, "bob") == {"email": [State.WAITING]}
    await world.pass_time("16m")
    assert await world.states(ticket.id, "bob") == {"email": [State.WAITING]}
    world.zone = "UTC"
    await world.pass_time("16m")
    assert await world.states(ticket.id, "bob") == {"email": [State.ACCEPTED]}
