"""Values of one recipient that are refused: the others are not concerned. Texts and data that no store could keep."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from notify import ClosedError, UsageError
from notify.dispatch import Dispatcher, Endpoint, Hold, Recipient, Report, _zones
from notify.dispatch.abc import Move, State
from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore
from notify_sqlite import SQLiteDispatchStore
from tests.dispatch.world import START, World, note

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


async def test_a_zone_that_this_host_does_not_know(world: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipient who was given whole, on a host with newer zones, waits, and stops no worker with older ones."""
    zone_of = _zones.zone_of

    def older(name: str) -> ZoneInfo:
        if name == "Asia/Tokyo":
            raise UsageError(f"the time zone {name!r} is unknown")
        return zone_of(name)

    ticket = await world.submit(to=Recipient("guest", tz="Asia/Tokyo"))
    await world.submit(to="alice")
    with monkeypatch.context() as patch:
        patch.setattr(_zones, "zone_of", older)
        await world.settle()
    assert [job.user for job in world.email.jobs] == ["alice"]
    assert await world.states(ticket, "guest") == {"email": [State.WAITING]}
    await world.pass_time("1h")
    assert await world.states(ticket, "guest") == {"email": [State.ACCEPTED]}


async def test_a_report_about_a_recipient_whose_values_are_refused(world: Users) -> None:
    """The report counts for the delivery; the address came with the recipient, who cannot be read now, so it stays."""

    def recipients(ids: Sequence[str]) -> list[Recipient]:
        device = Endpoint(channel="web_push", address="https://push.example/1")
        return [Recipient(user, tz=world.zone, endpoints=[device]) for user in ids]

    world.zone = "UTC"
    channels = {"web_push": world.push}
    dispatcher = Dispatcher(
        None, world.store, [note("web_push")], channels, recipients=recipients, clock=world.clock.now
    )
    ticket = await dispatcher.submit("note", "bob")
    while (await dispatcher.tick()).claimed:
        pass
    (job,) = world.push.jobs
    world.zone = "Mars/Phobos"
    assert await dispatcher.report(Report(job.id, State.BOUNCED, retire="suppressed")) == 1
    assert await world.states(ticket.id, "bob") == {"web_push": [State.BOUNCED]}
    assert await world.store.endpoints(["bob"], retired=True) == {}


def test_an_endpoint_without_an_address() -> None:
    """A recipient who is given whole needs both in each endpoint, or nothing could be sent to it."""
    for endpoint in (Endpoint(channel="sms"), Endpoint(address="+4912345")):
        with pytest.raises(UsageError, match="'guest': each needs channel= and address="):
            Recipient("guest", endpoints=[endpoint])


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


@pytest.mark.parametrize("what", ["zone", "preferences", "both"])
async def test_explaining_what_is_refused_now(world: Users, what: str) -> None:
    """What was decided and done is still there; the problem is named, and gone when the value is right."""
    ticket = await submitted(world)
    world.zone = "Mars/Phobos" if what != "preferences" else "UTC"
    if what != "zone":
        await world.store.patch("bob", b'{"all": 1}', by="bob", source="test", now=world.clock.now())
    await world.settle()
    found = await world.dispatcher.explain(ticket, "bob")
    assert found is not None
    assert found.planned["email"].reason == "allowed"
    assert [each.state for each in found.deliveries] == [State.WAITING]
    assert "Phobos" in found.problem if what != "preferences" else "preferences" in found.problem
    assert f"refused: {found.problem}" in str(found)
    assert found.present is not None
    assert [(type(each), each.reason) for each in found.present.decisions] == [(Hold, "recipient_refused")]
    world.zone = "UTC"
    await world.store.patch("bob", b'{"all": null}', by="bob", source="test", now=world.clock.now())
    again = await world.dispatcher.explain(ticket, "bob")
    assert again is not None
    assert (again.problem, again.changed) == ("", [])
    assert "refused" not in str(again).replace("(recipient_refused)", "")


async def test_explaining_to_a_guest_on_a_host_with_older_zones(world: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipient was stored whole, with a zone that this host does not know: what was done is still reported."""
    ticket = await world.submit(to=Recipient("guest", tz="Asia/Tokyo"))
    await world.settle()
    zone_of = _zones.zone_of

    def older(name: str) -> ZoneInfo:
        if name == "Asia/Tokyo":
            raise UsageError(f"the time zone {name!r} is unknown")
        return zone_of(name)

    monkeypatch.setattr(_zones, "zone_of", older)
    found = await world.dispatcher.explain(ticket, "guest")
    assert found is not None
    assert [each.state for each in found.deliveries] == [State.ACCEPTED]
    assert "Asia/Tokyo" in found.problem


async def test_a_closed_store_explains_nothing(world: Users) -> None:
    """That is an error of its own, not one of the recipient's values."""
    ticket = await submitted(world)
    await world.store.aclose()
    with pytest.raises(ClosedError):
        await world.dispatcher.explain(ticket, "bob")


async def test_closed_endpoints_explain_nothing(world: Users) -> None:
    """Nor is it one of the recipient's values if only the store of the endpoints is closed."""
    ticket = await submitted(world)
    world.zone = "UTC"
    closed = MemoryDispatchStore(clock=world.clock)
    await closed.aclose()
    object.__setattr__(world.dispatcher._parts, "endpoints", closed)
    with pytest.raises(ClosedError):
        await world.dispatcher.explain(ticket, "bob")


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


@pytest.mark.parametrize(("kind", "anyio_backend"), [("memory", "asyncio"), ("memory", "trio"), ("sqlite", "asyncio")])
async def test_a_connection_that_the_store_does_not_take(kind: str, tmp_path: Path) -> None:
    """Only PostgreSQL stores in the caller's transaction: elsewhere that is refused, and nothing is stored."""
    clock = VirtualClock(START)
    store = SQLiteDispatchStore(tmp_path / "x.db", clock=clock) if kind == "sqlite" else None
    each = World([note("email")], clock, store)
    with closing(sqlite3.connect(tmp_path / "own.db")) as connection:
        connection.execute("BEGIN")
        with pytest.raises(UsageError, match="only PostgresDispatchStore supports connection=, not "):
            await each.dispatcher.submit("note", "alice", {"title": "x"}, connection=connection)
    assert await each.store.stuck([*State]) == []
    await each.store.aclose()


@pytest.mark.parametrize(
    ("to", "data", "options", "match"),
    [
        ("a\0", None, {}, "user must be"),
        ("\ud800", None, {}, "user must be"),
        ("u" * 256, None, {}, "user must be"),
        (Recipient("a\nb"), None, {}, "user must be"),
        ("alice", {"x": "\ud800"}, {}, "data must be a JSON object"),
        ("alice", {"x": float("nan")}, {}, "data must be a JSON object"),
        ("alice", {"x": {1, 2}}, {}, "data must be a JSON object"),
        ("alice", {"x": "y" * 65_536}, {}, "data must have at most 65536 bytes as JSON, not 65544"),
        ("alice", [1], {}, "data must be a mapping"),
        ("alice", None, {"idempotency_key": "k\0"}, "idempotency_key must not hold NUL"),
        ("alice", None, {"idempotency_key": "\udfff"}, "idempotency_key must not hold NUL"),
        ("alice", None, {"tenant": "\0"}, "NUL"),
    ],
)
async def test_texts_and_data_that_are_refused(to: Any, data: Any, options: dict[str, Any], match: str) -> None:
    """What cannot be stored everywhere is refused by `plan` and `submit` alike, before anything is stored."""
    each = World([note("email")])
    if not options:
        with pytest.raises(UsageError, match=match):
            await each.dispatcher.plan("note", to, data)
    with pytest.raises(UsageError, match=match):
        await each.dispatcher.submit("note", to, data, **options)
    if options.get("idempotency_key") or not options:
        many = {"idempotency_key": "k", **options}
        with pytest.raises(UsageError, match=match):
            await each.dispatcher.submit_many("note", [to], data, **many)
    assert await each.store.stuck([*State]) == []


async def test_data_that_is_nested_too_deeply_is_refused() -> None:
    """A hundred thousand lists in each other are not JSON that anybody reads."""
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    each = World([note("email")])
    with pytest.raises(UsageError, match="data must be a JSON object"):
        await each.dispatcher.submit("note", "alice", {"x": nested})


async def test_the_least_unusual_data_is_kept() -> None:
    """A NUL inside the data is JSON, and 64 KiB are allowed."""
    each = World([note("email")])
    data = {"title": "a\0b ü 𝄞", "x": "y" * (65_536 - 100)}
    await each.dispatcher.submit("note", "alice", data)
    await each.settle()
    assert each.email.jobs[0].data == data


def test_texts_of_providers_are_made_storable() -> None:
    """What a provider says is kept without what not every database can hold."""
    move = Move("id", 1, State.FAILED, reason="a\0", provider_id="\ud800x", error="ü 𝄞\udfff")
    assert (move.reason, move.provider_id, move.error) == ("a\ufffd", "\ufffdx", "ü 𝄞\ufffd")


async def test_another_audience_under_the_same_key() -> None:
    """The ids of a collection are part of the request, in any order; what a function yields is not."""
    each = World([note("email")])
    for user in ("carol", "dave"):
        each.users[user] = Recipient(user)
    submit = partial(each.dispatcher.submit_many, "note", data={"title": "t"}, idempotency_key="k")
    first = await submit(audience=["alice", "bob"])
    again = await submit(audience={"bob", "alice"})
    assert (again.id, again.replayed) == (first.id, True)
    for other in (["alice"], ["alice", "carol"], ["alice", "bob", "bob"], [], lambda after: aiter_of("carol")):
        with pytest.raises(UsageError, match="used for another request"):
            await submit(audience=other)
    assert await each.store.record(first.id, "carol") is None
    by_function = partial(each.dispatcher.submit_many, "note", data={"title": "t"}, idempotency_key="f")
    one = await by_function(audience=lambda after: aiter_of("alice"))
    two = await by_function(audience=lambda after: aiter_of("dave"))
    assert one.id == two.id


async def aiter_of(*users: str) -> AsyncIterator[str]:
    for user in users:
        yield user
