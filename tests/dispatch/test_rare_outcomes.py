"""What seldom becomes of a delivery, and arguments that are refused; on the memory store, with a virtual clock."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import pytest

from notify import BackendUnavailableError, UsageError
from notify.dispatch import (
    Accepted,
    Ambiguous,
    Delivered,
    Digest,
    Dispatcher,
    Fallback,
    FrequencyCap,
    NotificationType,
    Reason,
    Recipient,
    Rejected,
    State,
    Transient,
)
from notify.dispatch._links import is_web_url
from notify.dispatch.abc import CapWindow, Move
from notify.inbox import Inbox
from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore
from tests.dispatch.world import START, Recorder, World, note

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


class Unwell(MemoryDispatchStore):
    """A store that fails where the test says."""

    fails: frozenset[str] = frozenset()

    def _may(self, what: str) -> None:
        if what in self.fails:
            raise BackendUnavailableError("down", backend="store")

    async def record(self, notification: str, user: str) -> Any:
        """Fail, or return the record."""
        self._may("record")
        return await super().record(notification, user)

    async def admit(
        self, notification: str, user: str, windows: Sequence[CapWindow], now: datetime, **more: Any
    ) -> int:
        """Fail, or count."""
        self._may("admit")
        return await super().admit(notification, user, windows, now, **more)

    async def advance(self, moves: Sequence[Move], now: datetime) -> Sequence[bool]:
        """Fail before sending or after it, or make the moves."""
        self._may("begin" if moves and moves[0].to is State.SENDING else "finish")
        return await super().advance(moves, now)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., World]]:
    """Return a function that makes a world over a store that can fail."""
    made: list[World] = []

    def make(*types: NotificationType) -> World:
        clock = VirtualClock(START)
        made.append(World(types, clock, Unwell(clock=clock)))
        return made[-1]

    yield make
    for each in made:
        await each.notifier.aclose()
        await each.store.aclose()


async def test_second_channel_steps_in_for_the_first(make: Callable[..., World]) -> None:
    """With "failed", the second channel sends only what the first one could not."""
    world = make(note("email", "web_push", fallback={"web_push": Fallback("failed", of="email")}))
    await world.device("a")
    world.email.answers = [Rejected("no"), Delivered("p")]
    first = await world.submit()
    await world.settle()
    second = await world.submit()
    await world.settle()
    assert await world.states(first) == {"email": [State.FAILED], "web_push": [State.ACCEPTED]}
    assert await world.states(second) == {"email": [State.DELIVERED], "web_push": [State.SKIPPED]}
    found = await world.dispatcher.explain(second, "alice")
    assert found is not None
    assert Reason.REACHED_ALREADY in {each.reason for each in found.deliveries}


@pytest.mark.parametrize(("id", "sent"), [("", 1), ("1-0", 0)])
async def test_unread_without_an_item(make: Callable[..., World], id: str, sent: int) -> None:
    """What was never listed cannot have been read, so the e-mail is sent; an item that has gone needs none."""
    world = make(note("in_app", "email", fallback={"email": Fallback("unread", 900.0)}))
    listing = Recorder()
    listing.answers = [Accepted(id)]
    world.in_app.send = listing.send  # type: ignore[method-assign]
    await world.submit()
    await world.settle()
    await world.pass_time("16m")
    assert len(world.email.jobs) == sent


async def test_presence_that_fails_does_not_hold_up(make: Callable[..., World]) -> None:
    """A recipient whose presence is unknown gets the message: better twice than not at all."""
    world = make(note("in_app", "web_push", fallback={"web_push": Fallback("away")}))
    await world.device("a")

    async def locate(users: Sequence[str]) -> Mapping[str, Any]:
        raise BackendUnavailableError("down", backend="presence")

    world.presence.locate = locate  # type: ignore[method-assign,assignment]
    ticket = await world.submit()
    await world.settle()
    assert (await world.states(ticket))["web_push"] == [State.ACCEPTED]


async def test_record_that_cannot_be_read_is_looked_at_again(make: Callable[..., World]) -> None:
    """While the store cannot say what was read, the e-mail waits a little, and nothing is decided."""
    world = make(note("in_app", "email", fallback={"email": Fallback("unread", 900.0)}))
    ticket = await world.submit()
    await world.settle()
    world.store.fails = {"record"}
    world.clock.advance("16m")
    assert (await world.dispatcher.tick()).claimed == 1
    world.store.fails = frozenset()
    assert (await world.states(ticket))["email"] == [State.WAITING]
    await world.pass_time("10m")
    assert (await world.states(ticket))["email"] == [State.ACCEPTED]


async def test_counts_that_cannot_be_reached(make: Callable[..., World]) -> None:
    """Marketing waits for them; everything else is sent."""
    news = NotificationType(
        "news", channels=["email"], category="marketing", opt_in="news", caps=[FrequencyCap(1, "day")]
    )
    world = make(note("email", caps=[FrequencyCap(1, "day")]), news)
    await world.dispatcher.set_preferences("alice", {"opt_in": {"news": True}})
    world.store.fails = {"admit"}
    order, advert = await world.submit(), await world.submit("news")
    await world.settle()
    assert await world.states(order) == {"email": [State.ACCEPTED]}
    found = await world.dispatcher.explain(advert, "alice")
    assert found is not None
    assert [(each.state, each.reason) for each in found.deliveries] == [(State.WAITING, Reason.CAPS_UNAVAILABLE)]
    world.store.fails = frozenset()
    await world.pass_time("5m")
    assert await world.states(advert) == {"email": [State.ACCEPTED]}


async def test_held_by_a_cap_past_its_time_to_live(make: Callable[..., World]) -> None:
    """What would have to wait for longer than it is worth sending ends at once."""
    world = make(note("email", caps=[FrequencyCap(1, "day")], over_cap="hold", ttl=3600.0))
    await world.submit()
    await world.settle()
    second = await world.submit()
    await world.settle()
    assert await world.states(second) == {"email": [State.EXPIRED]}


async def test_late_worker_does_not_send_what_is_over(make: Callable[..., World]) -> None:
    """What has lost its worth before a worker came is not sent."""
    world = make(note("email", ttl=60.0))
    ticket = await world.submit()
    await world.pass_time("2m")
    assert await world.states(ticket) == {"email": [State.EXPIRED]}
    assert not world.email.jobs


async def test_quiet_hours_that_begin_before_a_worker_comes(make: Callable[..., World]) -> None:
    """They hold what was to be sent at once."""
    world = make(note("email"))
    ticket = await world.submit()
    await world.dispatcher.set_preferences("alice", {"quiet_hours": [{"start": "12:00", "end": "14:00"}]})
    await world.settle()
    found = await world.dispatcher.explain(ticket, "alice")
    assert found is not None
    assert [(each.state, each.reason) for each in found.deliveries] == [(State.WAITING, Reason.QUIET_HOURS)]
    await world.pass_time("3h")
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


async def test_ambiguous_delivery_that_cannot_be_looked_at(make: Callable[..., World]) -> None:
    """It stays as it is, so that it is claimed as ambiguous again, and is repeated where that is recognised."""
    world = make(note("in_app", "web_push", fallback={"web_push": Fallback("unread", 900.0)}))
    await world.device("a")
    ticket = await world.submit()
    await world.settle()
    world.clock.advance("16m")
    await world.dispatcher.tick()  # one delivery becomes one for each device
    (claim,) = await world.store.claim(world.clock.now(), lease=30.0)
    await world.store.advance([Move(claim.delivery.id, claim.delivery.fence, State.SENDING)], world.clock.now())
    world.clock.advance("31s")
    world.store.fails = {"record"}
    assert (await world.dispatcher.tick()).claimed == 1
    world.store.fails = frozenset()
    assert (await world.states(ticket))["web_push"] == [State.SENDING]
    await world.pass_time("10m")
    assert (await world.states(ticket))["web_push"] == [State.ACCEPTED]


async def test_digest_leaves_out_what_is_read_or_over(make: Callable[..., World]) -> None:
    """With drop_read, items that were read are not in the e-mail; what has expired is not either."""
    kept = note("in_app", "email", digest=Digest(window=600.0, drop_read=True))
    world = make(kept)
    tickets = [await world.submit(title=f"t{number}") for number in range(3)]
    await world.settle()
    items = (await world.inbox.list("alice")).items
    await world.inbox.mark_read("alice", [next(each.id for each in items if each.event.payload["title"] == "t1")])
    await world.pass_time("11m")
    assert [job.content.title for job in world.email.jobs] == ["t2 (+ 1)"]
    assert len(tickets) == 3


@pytest.mark.parametrize("act", ["mark_read", "dismiss"])
@pytest.mark.parametrize("use", ["unread", "away"])
async def test_explain_says_that_a_fallback_is_not_needed_any_more(
    make: Callable[..., World], use: Any, act: str
) -> None:
    """From the moment at which the item is read, in whatever process, until the fallback is due and skipped; if it is
    marked as unread again before, the fallback is needed again."""
    world = make(note("in_app", "email", fallback={"email": Fallback(use, after=900.0)}))
    ticket = await world.submit()

    async def changed() -> list[tuple[str, str]]:
        found = await world.dispatcher.explain(ticket, "alice")
        assert found is not None
        assert ("now it would be: email: skip, read_already" in str(found)) is bool(found.changed)
        return [(each.channel, each.reason) for each in found.changed]

    assert await changed() == []
    await world.settle()
    (item,) = (await world.inbox.list("alice")).items
    assert await changed() == []
    elsewhere = Inbox(world.notifier)
    await getattr(elsewhere, act)("alice", [item.id])
    assert await changed() == [("email", Reason.READ_ALREADY)]
    await elsewhere.mark_unread("alice", [item.id])
    assert await changed() == []
    await getattr(elsewhere, act)("alice", [item.id])
    assert (await world.states(ticket))["email"] == [State.WAITING]
    await world.pass_time("16m")
    assert (await world.states(ticket))["email"] == [State.SKIPPED]
    assert await changed() == []
    assert not world.email.jobs


async def test_digest_asks_once_what_is_read(make: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """The inbox is read once, and no record of a notification, however much a digest with drop_read has collected."""
    world = make(note("in_app", "email", digest=Digest(window=600.0, drop_read=True)))
    for number in range(40):
        await world.submit(title=f"t{number}")
    await world.settle()
    items = (await world.inbox.list("alice", limit=100)).items
    ids = {int(each.event.payload["title"][1:]): each.id for each in items}
    await world.inbox.mark_read("alice", [ids[number] for number in range(1, 40, 4)])
    await world.inbox.dismiss("alice", [ids[number] for number in range(2, 40, 4)])
    calls: list[str] = []

    def counting(part: Any, name: str) -> None:
        method = getattr(part, name)

        async def counted(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return await method(*args, **options)

        monkeypatch.setattr(part, name, counted)

    for name in ("record", "digest_items"):
        counting(world.store, name)
    for name in ("items", "pull", "edges", "read"):
        counting(world.notifier.store, name)
    await world.pass_time("11m")
    assert calls == ["digest_items", "items"]
    (job,) = world.email.jobs
    assert job.content.title == "t39 (+ 19)"


async def test_digest_leaves_out_what_is_over(make: Callable[..., World]) -> None:
    """What has expired when a worker comes, late, is neither counted nor shown."""
    world = make(note("email", ttl=900.0, digest=Digest(window=600.0)))
    for number in range(3):
        await world.submit(title=f"t{number}")
        world.clock.advance("4m")
    await world.pass_time("4m")
    assert [job.content.title for job in world.email.jobs] == ["t2 (+ 1)"]


async def test_ambiguous_attempt_that_would_not_be_repeated_stays_unknown(make: Callable[..., World]) -> None:
    """The device may show it, although the user has switched such messages off before it could be repeated."""
    world = make(note("web_push"))
    await world.device("a")
    ticket = await world.submit()
    await world.dispatcher.tick()  # one delivery becomes one for each device
    (claim,) = await world.store.claim(world.clock.now(), lease=30.0)
    await world.store.advance([Move(claim.delivery.id, claim.delivery.fence, State.SENDING)], world.clock.now())
    await world.dispatcher.set_preferences("alice", {"all": False})
    await world.pass_time("31s")
    assert await world.states(ticket) == {"web_push": [State.UNKNOWN]}
    assert not world.push.jobs


async def test_type_that_is_added_later_without_a_presence(make: Callable[..., World]) -> None:
    """Where nothing knows who is away, the message is sent: better twice than not at all."""
    world = make()
    channels = {"in_app": world.in_app, "web_push": world.push}
    dispatcher = Dispatcher(world.inbox, world.store, [], channels, recipients=world.recipients, clock=world.clock.now)
    later = note("in_app", "web_push", fallback={"web_push": Fallback("away")})
    dispatcher.types.add(later)
    await world.device("a")
    await dispatcher.submit("note", "alice", {"title": "x"})
    while (await dispatcher.tick()).claimed:
        pass
    assert (len(world.in_app.jobs), len(world.push.jobs)) == (1, 1)
    with pytest.raises(UsageError, match="presence="):
        Dispatcher(world.inbox, world.store, [later], channels, recipients=world.recipients)


async def test_ambiguous_attempt_of_a_type_that_is_gone_stays_unknown(make: Callable[..., World]) -> None:
    """It may have been sent, so it must not be called skipped."""
    world = make(note("email"))
    ticket = await world.submit()
    (claim,) = await world.store.claim(world.clock.now(), lease=30.0)
    await world.store.advance([Move(claim.delivery.id, claim.delivery.fence, State.SENDING)], world.clock.now())
    del world.users["alice"]
    world.clock.advance("31s")
    await world.settle()
    assert await world.states(ticket) == {"email": [State.UNKNOWN]}


async def test_device_that_has_gone_while_a_message_waited(make: Callable[..., World]) -> None:
    """The message to it is skipped; the other device gets its own."""
    world = make(note("web_push"))
    first, second = await world.device("a"), await world.device("b")
    world.push.answers = [Transient("busy"), Transient("busy")]
    ticket = await world.submit()
    await world.settle()
    await world.store.retire(first.id, 0, "gone", world.clock.now())
    await world.pass_time("1h")
    states = await world.states(ticket)
    assert sorted(states["web_push"]) == [State.ACCEPTED, State.SKIPPED]
    assert [job.endpoint.id for job in world.push.jobs if job.endpoint is not None][2:] == [second.id]


async def test_store_that_fails_before_sending_sends_nothing(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """Begin was not written, so not a byte is sent; the lease ends, and the delivery is claimed again."""
    world = make(note("email"))
    ticket = await world.submit()
    world.store.fails = {"begin"}
    await world.settle()
    assert not world.email.jobs
    assert "so deliveries are claimed again" in caplog.text
    world.store.fails = frozenset()
    await world.pass_time("10m")
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


async def test_ambiguous_answer_where_repetition_is_recognised(make: Callable[..., World]) -> None:
    """It is sent again with the same id until attempts are spent."""
    world = make(note("web_push"))
    await world.device("a")
    world.push.answers = [Ambiguous("cut"), Ambiguous("cut")]
    ticket = await world.submit()
    await world.settle()
    await world.pass_time("1h")
    await world.pass_time("1h")
    assert (await world.states(ticket))["web_push"] == [State.ACCEPTED]
    assert len({job.id for job in world.push.jobs}) == 1
    assert len(world.push.jobs) == 3


async def test_explanation_of_a_type_that_is_gone(make: Callable[..., World]) -> None:
    """There is nothing to compare with, and the text says what was planned."""
    world = make(note("email", digest=Digest(window=600.0)), note_of("other"))
    ticket = await world.submit()
    await world.settle()
    others = Dispatcher(
        None, world.store, [note_of("other")], {"email": Recorder()}, recipients=world.recipients, clock=world.clock.now
    )
    found = await others.explain(ticket, "alice")
    assert found is not None
    assert (found.present, found.changed) == (None, ())
    assert "email: collect until 2027-01-05 12:10:00 UTC, digest" in str(found)
    assert await others.explain("unknown", "alice") is None


async def test_explanation_says_how_a_fallback_waits(make: Callable[..., World]) -> None:
    """The time is not known before the other channel has ended."""
    world = make(note("in_app", "email", fallback={"email": Fallback("unread", 900.0)}))
    ticket = await world.submit()
    found = await world.dispatcher.explain(ticket, "alice")
    assert "email: hold until 900 s after in_app, fallback" in str(found)


async def test_arguments_of_submit_many_are_checked(make: Callable[..., World]) -> None:
    """A single user is not an audience, its members are ids or recipients, and a key is text of some length."""
    world = make(note("email"))
    send = world.dispatcher.submit_many
    for audience in ("alice", b"alice", Recipient("alice"), 7, [7], [""], [None]):
        with pytest.raises(UsageError, match=r"audience|user id"):
            await send("note", audience, {})  # type: ignore[arg-type]
    for key in ("", "x" * 256, 7):
        with pytest.raises(UsageError, match="idempotency_key"):
            await send("note", ["alice"], {}, idempotency_key=key)  # type: ignore[arg-type]
    assert (await world.dispatcher.tick()).claimed == 0


async def test_schema_refuses_data(make: Callable[..., World]) -> None:
    """What a schema raises is reported with the type's name."""

    def schema(data: Mapping[str, Any]) -> None:
        if "post" not in data:
            raise LookupError("no post")

    world = make(note("email", schema=schema))
    with pytest.raises(UsageError, match="the schema of the type 'note' refuses the data: no post"):
        await world.submit()
    await world.submit(post=7)


def note_of(key: str) -> NotificationType:
    """Return another type."""
    return NotificationType(key, channels=["email"])


def test_parts_of_a_dispatcher_are_checked(anyio_backend: str) -> None:
    """Each part that is not what it should be is named."""
    store = MemoryDispatchStore()

    async def recipients(ids: Sequence[str]) -> list[Recipient]:
        return [Recipient(each) for each in ids]

    def make(**more: Any) -> Dispatcher:
        given = {"store": store, "channels": {"email": Recorder()}, **more}
        return Dispatcher(None, types=[note("email")], recipients=recipients, **given)

    assert [each.key for each in make().types] == ["note"]
    for wrong, text in (
        ({"channels": [Recorder()]}, "channels="),
        ({"channels": {"email": object()}}, "must be a channel"),
        ({"links": "https://example.com"}, "Links"),
        ({"caps": object()}, "CapStore"),
    ):
        with pytest.raises(UsageError, match=text):
            make(**wrong)


@pytest.mark.parametrize("url", ["", "//example.com", "javascript:alert(1)", "https://[", "https://", "https://a b/"])
def test_addresses_that_are_not_of_the_web(anyio_backend: str, url: str) -> None:
    """Such an address is not linked to."""
    assert not is_web_url(url)


async def test_channel_that_fails_again_and_again_is_logged_once(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """The traceback comes once for each kind of error, not for each message."""
    world = make(note("email"))
    world.email.answers = [RuntimeError("no"), RuntimeError("no")]
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            await world.submit()
            await world.settle()
    assert sum("raised instead of returning an outcome" in record.message for record in caplog.records) == 1
