"""A delivery that may have arrived is never recorded as if nothing had been sent; on the memory store.

While it waits to be sent again, whatever would end another delivery ends it as UNKNOWN, unless a provider has reported
its outcome.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta

import pytest

from notify.dispatch import (
    Ambiguous,
    Digest,
    EndpointGone,
    Fallback,
    Misconfigured,
    NotificationType,
    Reason,
    Rejected,
    Report,
    State,
    Throttled,
    Transient,
)
from notify.dispatch.abc import Claim, Delivery, Move
from tests.dispatch.world import World, note

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

QUIET = {"quiet_hours": [{"all_day": True, "days": ["tue", "wed", "thu"]}]}

Happening = Callable[[World, str], Awaitable[object]]


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., World]]:
    """Return a function that makes a world."""
    made: list[World] = []

    def make(*types: NotificationType) -> World:
        made.append(World(types))
        return made[-1]

    yield make
    for each in made:
        await each.notifier.aclose()
        await each.store.aclose()


async def doubtful(world: World, *, crash: bool = False) -> str:
    """Submit, and let the first attempt over web push have no outcome: no answer came, or the worker died."""
    await world.device("a")
    if not crash:
        world.push.answers = [Ambiguous("cut")]
    ticket = await world.submit()
    if crash:
        await world.dispatcher.tick()  # one delivery becomes one for each device
        (claim,) = await world.store.claim(world.clock.now(), lease=30.0, channels=["web_push"])
        assert await begun(world, claim)
        world.clock.advance("31s")
    else:
        await world.settle()
        assert (await one(world, ticket)).state is State.WAITING
    return ticket


async def begun(world: World, claim: Claim) -> bool:
    """Begin to send what was claimed, and return whether that may be done."""
    now: datetime = world.clock.now()
    (made,) = await world.store.advance([Move(claim.delivery.id, claim.delivery.fence, State.SENDING)], now)
    return bool(made)


async def one(world: World, ticket: str) -> Delivery:
    """Return the delivery to the device."""
    record = await world.store.record(ticket, "alice")
    assert record is not None
    (found,) = [each for each in record[2] if each.channel == "web_push" and each.endpoint]
    return found


async def opted_out(world: World, ticket: str) -> None:
    """The recipient switches the channel off."""
    await world.dispatcher.set_preferences("alice", {"channels": {"web_push": False}, "quiet_hours": None})


async def device_gone(world: World, ticket: str) -> None:
    """The device is removed."""
    await world.store.retire((await one(world, ticket)).endpoint, 0, "removed", world.clock.now())


async def user_gone(world: World, ticket: str) -> None:
    """The application does not know the user any more."""
    del world.users["alice"]


async def type_removed(world: World, ticket: str) -> None:
    """The type is not registered any more, and not only in one process of two."""
    world.clock.advance("2h")
    world.dispatcher._parts.types._types.clear()  # type: ignore[attr-defined]


async def expired(world: World, ticket: str) -> None:
    """Its time to live ends."""
    world.clock.advance("6d")


async def unrecognised(world: World, ticket: str) -> None:
    """The channel is replaced by one whose receiver does not recognise repetitions."""
    world.push.deduplicates = False


async def no_text(world: World, ticket: str) -> None:
    """No text can be made of the data any more."""

    def render(rendering: object) -> None:
        raise ValueError("no text")

    world.dispatcher._parts.templates.render = render  # type: ignore[assignment,method-assign]


async def cancelled(world: World, ticket: str) -> None:
    """The application cancels it, which stops the repetition."""
    assert await world.dispatcher.cancel(ticket) == 1


HAPPENINGS = (opted_out, device_gone, user_gone, type_removed, expired, unrecognised, no_text, cancelled)


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("happens", HAPPENINGS)
async def test_what_may_have_arrived_ends_unknown(
    make: Callable[..., World], happens: Happening, is_held: bool, crash: bool
) -> None:
    """Whatever ends it, whether it was held by quiet hours before or not; and it is not sent again."""
    world = make(note("web_push", ttl=5 * 86_400.0))
    ticket = await doubtful(world, crash=crash)
    if is_held or (crash and happens is cancelled):
        await world.dispatcher.set_preferences("alice", QUIET)
        await world.pass_time("1m")
        held = await one(world, ticket)
        assert (held.state, held.reason) == (State.WAITING, Reason.AMBIGUOUS)
        assert held.due_at > world.clock.now() + timedelta(days=1)
    sent = len(world.push.jobs)
    await happens(world, ticket)
    await world.pass_time("8d" if is_held else "1h")
    assert (await one(world, ticket)).state is State.UNKNOWN
    assert len(world.push.jobs) == sent


@pytest.mark.parametrize("is_read", [False, True])
async def test_read_while_it_waits(make: Callable[..., World], is_read: bool) -> None:
    """What was read in between is not sent again, and what may have arrived before is unknown."""
    world = make(note("in_app", "web_push", fallback={"web_push": Fallback("unread", 900.0)}))
    await world.device("a")
    world.push.answers = [Ambiguous("cut")]
    ticket = await world.submit()
    await world.settle()
    await world.pass_time("16m")
    assert (await one(world, ticket)).reason == Reason.AMBIGUOUS
    if is_read:
        await world.inbox.mark_read("alice", [each.id for each in (await world.inbox.list("alice")).items])
    await world.pass_time("1h")
    assert (await one(world, ticket)).state is (State.UNKNOWN if is_read else State.ACCEPTED)


async def test_digest_does_not_take_it(make: Callable[..., World]) -> None:
    """What may have arrived is not collected for a digest, in which it would arrive a second time."""
    world = make(note("web_push"))
    ticket = await doubtful(world)
    type = note("web_push", digest=Digest(window=600.0))
    world.dispatcher._parts.types._types["note"] = type  # type: ignore[attr-defined]
    await world.pass_time("1h")
    assert (await one(world, ticket)).state is State.UNKNOWN


async def test_doubt_outlives_attempts_with_an_outcome(make: Callable[..., World]) -> None:
    """That a repetition was certainly not accepted says nothing of the first attempt."""
    world = make(note("web_push"))
    ticket = await doubtful(world)
    world.push.answers = [Transient("busy", error="try later"), Throttled(30.0), *[Transient("busy")] * 10]
    await world.pass_time("10s")
    await world.pass_time("1m")
    waiting = await one(world, ticket)
    assert (waiting.state, waiting.reason) == (State.WAITING, Reason.AMBIGUOUS)
    found = await world.dispatcher.explain(ticket, "alice")
    assert found is not None
    assert "busy" in found.attempts[1].error
    for _ in range(12):
        await world.pass_time("20m")
    assert (await one(world, ticket)).state is State.UNKNOWN
    assert len(world.push.jobs) == 9  # eight count, and the throttled one does not


async def test_doubt_outlives_a_wrong_key(make: Callable[..., World]) -> None:
    """It is parked until the key is right; if it is cancelled instead, it is unknown."""
    world = make(note("web_push"))
    ticket = await doubtful(world)
    world.push.answers = [Misconfigured("a wrong key")]
    await world.pass_time("1h")
    parked = await one(world, ticket)
    assert (parked.state, parked.reason) == (State.PARKED, Reason.AMBIGUOUS)
    assert await world.dispatcher.release("web_push") == 1
    assert await world.dispatcher.cancel(ticket) == 1
    cancelled = await one(world, ticket)
    assert (cancelled.state, cancelled.reason) == (State.UNKNOWN, Reason.CANCELLED)


@pytest.mark.parametrize(("outcome", "state"), [(Rejected("413"), State.FAILED), (EndpointGone("410"), State.GONE)])
async def test_provider_decides(make: Callable[..., World], outcome: Rejected | EndpointGone, state: State) -> None:
    """What the provider says of the message for good ends it, so that a fallback does not wait in vain."""
    world = make(note("web_push"))
    ticket = await doubtful(world)
    world.push.answers = [outcome]
    await world.pass_time("1h")
    assert (await one(world, ticket)).state is state


async def test_refused_values_keep_the_doubt(make: Callable[..., World]) -> None:
    """While the recipient's preferences are refused, the delivery waits, and is still one that may have arrived."""
    world = make(note("web_push"))
    ticket = await doubtful(world)
    await world.store.patch("alice", b'{"channels": 7}', by="", source="", now=world.clock.now())
    await world.pass_time("1m")
    waiting = await one(world, ticket)
    assert (waiting.state, waiting.reason) == (State.WAITING, Reason.AMBIGUOUS)


async def test_report_prevents_the_repetition(make: Callable[..., World]) -> None:
    """What a provider says has arrived is not sent again."""
    world = make(note("web_push"))
    ticket = await doubtful(world)
    report = Report((await one(world, ticket)).id, State.DELIVERED, provider_id="p")
    assert await world.dispatcher.report(report, report) == 2
    await world.pass_time("1h")
    found = await one(world, ticket)
    assert (found.state, found.provider_id) == (State.DELIVERED, "p")
    assert len(world.push.jobs) == 1


async def test_reports_in_any_words(make: Callable[..., World]) -> None:
    """A provider's words are stored as far as every store can; an id that cannot be one is not known."""
    world = make(note("web_push"))
    ticket = await doubtful(world)
    id = (await one(world, ticket)).id
    strange = [Report(each, State.DELIVERED) for each in ("a\0", "\ud800", "n" * 5000)]
    assert await world.dispatcher.report(*strange, Report(id, State.DELIVERED, "a\0\ud800", "p" * 5000)) == 1
    found = await one(world, ticket)
    assert (found.state, found.reason, found.provider_id) == (State.DELIVERED, "a\ufffd?", "p" * 500)


async def test_bounce_ends_it(make: Callable[..., World]) -> None:
    """The address is retired, what steps in for it is sent at once, and the message is not sent again."""
    world = make(note("web_push", "email", fallback={"email": Fallback("failed", 3600.0, of="web_push")}))
    ticket = await doubtful(world)
    waiting = await one(world, ticket)
    await world.dispatcher.report(Report(waiting.id, State.BOUNCED, reason="5.1.1", retire="suppressed"))
    await world.settle()
    assert (await one(world, ticket)).state is State.BOUNCED
    assert (await world.store.endpoint(waiting.endpoint)).reason == "suppressed"
    assert (await world.states(ticket))["email"] == [State.ACCEPTED]
    await world.pass_time("1h")
    assert len(world.push.jobs) == 1


async def test_forgotten_recipient_is_erased(make: Callable[..., World]) -> None:
    """Nothing of it is kept, and nothing is sent."""
    world = make(note("web_push"))
    ticket = await doubtful(world)
    assert await world.dispatcher.forget("alice") == 2
    await world.pass_time("1h")
    assert await world.store.record(ticket, "alice") is None
    assert len(world.push.jobs) == 1
