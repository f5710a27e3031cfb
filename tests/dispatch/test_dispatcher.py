"""Planning, submitting, sending and explaining, with a clock that is set by hand."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import PushRejectedError, UsageError
from notify.dispatch import (
    Accepted,
    Ambiguous,
    Channel,
    Digest,
    Dispatcher,
    Endpoint,
    EndpointGone,
    Fallback,
    FrequencyCap,
    Hold,
    Job,
    Join,
    Misconfigured,
    NotificationType,
    Outcome,
    Reason,
    Recipient,
    Rejected,
    RetrySchedule,
    Send,
    Skip,
    State,
    Throttled,
    Ticket,
    Transient,
)
from notify.dispatch._retry import PATIENT, PROMPT
from notify.dispatch.abc import Move, Submission, Submitted
from notify.dispatch.channels import Breaker, EmailChannel, Rate, RateLimited
from notify.inbox import Inbox
from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore
from notify_sqlite import SQLiteDispatchStore
from tests.dispatch.world import START, Recorder, World, note
from tests.parts import until

pytestmark = pytest.mark.anyio

NIGHT = {"quiet_hours": [{"start": "22:00", "end": "07:00"}]}


@pytest.fixture(params=["asyncio-memory", "trio-memory", "asyncio-sqlite"])
def setting(request: pytest.FixtureRequest) -> str:
    """Return an event loop and a store; SQLite's driver needs asyncio."""
    return str(request.param)


@pytest.fixture
def anyio_backend(setting: str) -> str:
    """Return the event loop."""
    return setting.partition("-")[0]


@pytest.fixture
async def make(setting: str, tmp_path: Path) -> AsyncIterator[Callable[..., World]]:
    """Return a function that makes a world; each is closed afterwards."""
    made: list[World] = []

    def make(*types: NotificationType, store: Any = None) -> World:
        clock = VirtualClock(START)
        if store is None and setting.endswith("sqlite"):
            store = SQLiteDispatchStore(tmp_path / "deliveries.db", clock=clock)
        made.append(World(types, clock, store))
        return made[-1]

    yield make
    for each in made:
        await each.notifier.aclose()
        await each.store.aclose()


# -- sending -----------------------------------------------------------------------------------------------------


async def test_each_channel_sends_once(make: Callable[..., World]) -> None:
    """The job says who, what, over what; one delivery for each channel is accepted."""
    world = make(note("in_app", "email"))
    ticket = await world.submit(title="Bob answered", body="Yes", url="/7")
    await world.settle()
    assert await world.states(ticket) == {"in_app": [State.ACCEPTED], "email": [State.ACCEPTED]}
    (job,) = world.email.jobs
    assert (job.user, job.type, job.channel, job.attempt, job.locale) == ("alice", "note", "email", 1, "de")
    assert (job.content.title, job.content.body, job.content.url) == ("Bob answered", "Yes", "/7")
    assert job.endpoint is None
    page = await world.inbox.list("alice")
    assert [item.event.payload["title"] for item in page.items] == ["Bob answered"]


async def test_each_device_has_its_own_state(make: Callable[..., World]) -> None:
    """One device is gone and retired; the other one gets the message; the next notification goes to that alone."""
    world = make(note("web_push"))
    await world.device("a")
    await world.device("b")
    world.push.answers = [EndpointGone("410"), Accepted("x")]
    ticket = await world.submit()
    await world.settle()
    assert sorted((await world.states(ticket))["web_push"]) == [State.ACCEPTED, State.GONE]
    gone = next(job.endpoint for job in world.push.jobs[:1])
    await world.submit()
    await world.settle()
    assert gone is not None
    assert len(world.push.jobs) == 3
    assert world.push.jobs[2].endpoint is not None
    assert world.push.jobs[2].endpoint.id != gone.id


async def test_device_that_came_back_is_not_retired_by_an_old_answer(make: Callable[..., World]) -> None:
    """An endpoint that registers again while a message to it is on its way stays in use."""
    world = make(note("web_push"))
    device = await world.device("a")

    async def send(job: Job) -> Outcome:
        await world.device("a")
        return EndpointGone("410")

    world.push.send = send  # type: ignore[method-assign]
    await world.submit()
    await world.settle()
    found = await world.store.endpoint(device.id)
    assert found is not None
    assert found.retired_at is None


async def test_device_of_a_user_who_is_erased_meanwhile(make: Callable[..., World]) -> None:
    """The answer to a message that was on its way does not store the address again."""
    world = make(note("web_push"))
    device = await world.device("a")

    async def send(job: Job) -> Outcome:
        await world.dispatcher.forget("alice")
        return EndpointGone("410")

    world.push.send = send  # type: ignore[method-assign]
    await world.submit()
    await world.settle()
    assert await world.store.endpoint(device.id) is None


async def test_submitting_to_many_again_after_they_were_removed(make: Callable[..., World]) -> None:
    """As long as the key is kept, no recipient gets it twice, although nothing else of the first submission is left."""
    world = make(note("email"))
    first = await world.dispatcher.submit_many("note", ["alice", "bob"], idempotency_key="1")
    await world.settle()
    world.clock.advance("1h")
    assert await world.store.purge(world.clock.now()) == 1
    again = await world.dispatcher.submit_many("note", ["alice", "bob"], idempotency_key="1")
    assert (again.id, again.replayed, again.count) == (first.id, True, 0)
    await world.settle()
    assert sorted(job.user for job in world.email.jobs) == ["alice", "bob"]


async def test_recipient_without_account_needs_no_lookup(make: Callable[..., World]) -> None:
    """A recipient who was given whole is sent to at the given endpoints, and to no other one's."""
    world = make(note("web_push"))
    guests = [
        Recipient("guest", endpoints=[Endpoint("guest", "web_push", f"https://push.example/{name}")])
        for name in ("one", "two")
    ]
    tickets = [await world.submit("note", guest, title=guest.endpoints[0].address) for guest in guests]
    await world.settle()
    sent = {(job.content.title, job.endpoint.address) for job in world.push.jobs if job.endpoint is not None}
    assert sent == {(each.endpoints[0].address, each.endpoints[0].address) for each in guests}
    assert [await world.states(each, "guest") for each in tickets] == [{"web_push": [State.ACCEPTED]}] * 2


async def test_unknown_recipient_is_a_skip(make: Callable[..., World]) -> None:
    """Nothing is raised for a user who does not exist; the reason is kept."""
    world = make(note("in_app", "email"))
    ticket = await world.submit(to="carol")
    await world.settle()
    found = await world.dispatcher.explain(ticket, "carol")
    assert found is not None
    assert {each.reason for each in found.planned.decisions} == {Reason.UNKNOWN_RECIPIENT}
    assert found.deliveries == []


async def test_users_who_cannot_be_looked_up_are_not_skipped(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """ "Not there" and "could not look" differ: the delivery waits until the application answers."""
    world = make(note("email"))
    ticket = await world.submit()
    world.is_away = True
    await world.settle()
    assert await world.states(ticket) == {"email": [State.WAITING]}
    world.is_away = False
    await world.pass_time("1m")
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}
    lines = [each.message for each in caplog.records if "known of recipients" in each.message]
    assert [("again" in each) for each in lines] == [False, True]


# -- outcomes ----------------------------------------------------------------------------------------------------


async def test_transient_failure_is_tried_again(make: Callable[..., World]) -> None:
    """The second attempt is a later one of the same delivery, with the same id."""
    world = make(note("email"))
    world.email.answers = [Transient("451")]
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"email": [State.WAITING]}
    await world.pass_time("1h")
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}
    assert [job.attempt for job in world.email.jobs] == [1, 2]
    assert len({job.id for job in world.email.jobs}) == 1


async def test_attempts_come_to_an_end(make: Callable[..., World]) -> None:
    """A provider that never takes it ends as failed, after as many attempts as the schedule has."""
    world = make(note("web_push"))
    await world.device("a")
    world.push.answers = [Transient("500")] * 100
    ticket = await world.submit()
    for _ in range(20):
        await world.pass_time("1h")
    assert await world.states(ticket) == {"web_push": [State.FAILED]}
    assert len(world.push.jobs) == 8


async def test_expiry_ends_attempts(make: Callable[..., World]) -> None:
    """What has become worthless is not sent any more, and is no failure."""
    world = make(note("email", ttl=600.0))
    world.email.answers = [Transient("451", retry_after=3600.0)]
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"email": [State.EXPIRED]}


async def test_throttled_provider_is_left_alone_by_all(make: Callable[..., World]) -> None:
    """One answer closes the gate for every delivery of the channel, and counts no attempt."""
    world = make(note("email"))
    world.email.answers = [Throttled(120.0)]
    first = await world.submit()
    await world.settle()
    second = await world.submit(to="bob")
    await world.settle()
    assert len(world.email.jobs) == 1
    await world.pass_time("3m")
    assert await world.states(first) == {"email": [State.ACCEPTED]}
    assert await world.states(second, "bob") == {"email": [State.ACCEPTED]}
    assert [job.attempt for job in world.email.jobs] == [1, 1, 1]


async def test_ambiguous_is_repeated_only_where_that_is_recognised(make: Callable[..., World]) -> None:
    """E-mail ends as unknown after one attempt; a push message is sent again under the same id."""
    world = make(note("email", "web_push"))
    await world.device("a")
    world.email.answers = [Ambiguous()]
    world.push.answers = [Ambiguous()]
    ticket = await world.submit()
    await world.settle()
    await world.pass_time("1h")
    assert await world.states(ticket) == {"email": [State.UNKNOWN], "web_push": [State.ACCEPTED]}
    assert len(world.email.jobs) == 1
    assert len(world.push.jobs) == 2
    assert len({job.id for job in world.push.jobs}) == 1


async def test_wrong_key_never_retires_a_device(make: Callable[..., World], caplog: pytest.LogCaptureFixture) -> None:
    """A channel that is misconfigured parks its deliveries, says so once, and loses no endpoint."""
    world = make(note("web_push"))
    devices = [await world.device(name) for name in ("a", "b")]
    world.push.answers = [Misconfigured("the VAPID key is refused")] * 2
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"web_push": [State.PARKED, State.PARKED]}
    assert [(await world.store.endpoint(each.id)) is not None for each in devices] == [True, True]
    assert sum("misconfigured" in each.message for each in caplog.records) == 1
    await world.store.hurry(world.clock.now(), channel="web_push")
    await world.settle()
    assert await world.states(ticket) == {"web_push": [State.ACCEPTED, State.ACCEPTED]}


async def test_channel_that_raises_may_have_sent(make: Callable[..., World], caplog: pytest.LogCaptureFixture) -> None:
    """An exception of a channel is logged with its traceback, and the delivery is unknown; others go on."""
    world = make(note("email", "in_app"))
    world.email.answers = [RuntimeError("a fault")]
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"email": [State.UNKNOWN], "in_app": [State.ACCEPTED]}
    (logged,) = [each for each in caplog.records if "raised instead" in each.message]
    assert "in send" in logged.getMessage()


async def test_channel_that_hangs_is_left(make: Callable[..., World]) -> None:
    """Sending has a bound; what was not answered in time is unknown."""
    world = make(note("email"))
    world.dispatcher._worker.sender._timeout = 0.05

    async def send(job: Job) -> Outcome:
        await anyio.sleep_forever()
        raise AssertionError

    world.email.send = send  # type: ignore[method-assign]
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"email": [State.UNKNOWN]}


async def test_refusals_without_reason_retire_after_a_day(make: Callable[..., World]) -> None:
    """Five unclear refusals over a day retire an endpoint that never worked; one that worked stays. If nothing is
    accepted on the channel, none is retired: its key may be wrong."""
    world = make(note("web_push"))
    new, proven = await world.device("new"), await world.device("proven")
    await world.store.observe(proven.id, proven.generation, world.clock.now(), ok=True)
    refused = {"new", "proven", "other"}

    async def send(job: Job) -> Outcome:
        assert job.endpoint is not None
        is_refused = job.endpoint.address.rpartition("/")[2] in refused
        return Rejected("400", is_unclear=True) if is_refused else Accepted()

    world.push.send = send  # type: ignore[method-assign]
    other = await world.device("other")
    for reason in ("", "refused"):
        for _ in range(6):
            await world.submit()
            await world.pass_time("6h")
        found = [await world.store.endpoint(each.id) for each in (new, proven, other)]
        assert [each is not None and each.reason for each in found] == [reason, "", ""]
        refused.discard("other")


# -- rules at the hour of sending --------------------------------------------------------------------------------


async def in_two_zones(world: World) -> dict[str, str]:
    """Give alice a device in each of two zones, in one of which it is night; return their ids by zone."""
    devices = {}
    for zone in ("Europe/Berlin", "America/New_York"):
        device = Endpoint("alice", "web_push", f"https://push.example/{zone}", meta={"tz": zone})
        devices[zone] = (await world.store.register(device, world.clock.now())).id
    world.clock.set(datetime(2027, 1, 5, 21, 30, tzinfo=UTC))  # 22:30 in Berlin, 16:30 in New York
    return devices


@pytest.mark.parametrize("action", ["hold", "digest", "drop"])
async def test_devices_in_two_zones(make: Callable[..., World], action: str) -> None:
    """Each is reached once, as soon as it is not quiet there, or never with `drop`: one does not wake the other."""
    world = make(note("web_push"))
    rule = {"start": "22:00", "end": "07:00", "action": action}
    await world.dispatcher.set_preferences("alice", {"quiet_hours": [rule]})
    await in_two_zones(world)
    ticket = await world.submit()
    await world.settle()
    assert [job.endpoint.meta["tz"] for job in world.push.jobs if job.endpoint] == ["America/New_York"]
    late = State.SKIPPED if action == "drop" else State.WAITING
    assert sorted((await world.states(ticket))["web_push"]) == sorted([State.ACCEPTED, late])
    await world.pass_time("8h 29m")
    assert len(world.push.jobs) == 1
    await world.pass_time("1h")
    arrived = [job.endpoint.meta["tz"] for job in world.push.jobs if job.endpoint]
    assert arrived == ["America/New_York", "Europe/Berlin"][: 1 + (action != "drop")]


async def test_a_device_in_quiet_hours_is_not_in_the_plan(make: Callable[..., World]) -> None:
    """The plan names the devices that are reached now."""
    world = make(note("web_push"))
    await world.dispatcher.set_preferences("alice", {"quiet_hours": [{"start": "22:00", "end": "07:00"}]})
    devices = await in_two_zones(world)
    decision = (await world.dispatcher.plan("note", "alice"))["web_push"]
    assert isinstance(decision, Send)
    assert decision.endpoints == (devices["America/New_York"],)


@pytest.mark.parametrize("is_removed", [False, True])
@pytest.mark.parametrize("leading", [False, True])
async def test_a_device_that_waited_does_not_count_again(
    make: Callable[..., World], leading: bool, is_removed: bool
) -> None:
    """The notification was counted, and took the lead, for the device that was awake, even if that one is now gone."""
    digest = Digest(window=600.0, leading="first") if leading else None
    world = make(note("web_push", caps=[FrequencyCap(1, per=3600.0)], digest=digest))
    await world.dispatcher.set_preferences("alice", {"quiet_hours": [{"start": "22:00", "end": "07:00"}]})
    devices = await in_two_zones(world)
    ticket = await world.submit()
    await world.settle()
    assert sorted((await world.states(ticket))["web_push"]) == [State.WAITING, State.ACCEPTED]
    if is_removed:
        assert await world.store.retire(devices["America/New_York"], 0, "removed", world.clock.now())

    async def admit(*args: Any, **options: Any) -> int:
        raise AssertionError("it was counted when it was sent to the other device")

    world.store.admit = admit  # type: ignore[method-assign]
    await world.pass_time("10h")
    assert (await world.states(ticket))["web_push"] == [State.ACCEPTED, State.ACCEPTED]
    assert len(world.push.jobs) == 2


async def test_a_device_that_is_tried_again_at_night(make: Callable[..., World]) -> None:
    """It is held, even if quiet hours collect: the digest would also reach the device that has it already."""
    world = make(note("web_push"))
    night = {"quiet_hours": [{"start": "22:00", "end": "07:00", "action": "digest"}]}
    await world.dispatcher.set_preferences("alice", night)
    devices = {(await world.device(name)).id for name in "ab"}
    world.clock.set(datetime(2027, 1, 5, 20, 59, 59, tzinfo=UTC))  # a second before 22:00 in Berlin
    world.push.answers = [Accepted("p"), Transient("503")]
    ticket = await world.submit()
    await world.settle()
    await world.pass_time("1h")
    assert sorted((await world.states(ticket))["web_push"]) == [State.WAITING, State.ACCEPTED]
    await world.pass_time("10h")
    assert (await world.states(ticket))["web_push"] == [State.ACCEPTED, State.ACCEPTED]
    assert len(world.push.jobs) == 3
    assert {job.endpoint.id for job in world.push.jobs if job.endpoint} == devices


async def test_devices_that_come_and_go(make: Callable[..., World]) -> None:
    """A notification for several devices is held, one for a single device collected, whichever devices exist now."""
    world = make(note("web_push"))
    night = {"quiet_hours": [{"start": "22:00", "end": "07:00", "action": "digest"}]}
    await world.dispatcher.set_preferences("alice", night)
    devices = await in_two_zones(world)
    first = await world.submit()
    await world.settle()
    assert await world.store.retire(devices["America/New_York"], 0, "removed", world.clock.now())
    await world.dispatcher.set_preferences("alice", night)  # looks at what waits again
    await world.settle()
    assert sorted((await world.states(first))["web_push"]) == [State.WAITING, State.ACCEPTED]
    world.clock.set(datetime(2027, 1, 6, 20, 59, 59, tzinfo=UTC))  # a second before 22:00 in Berlin
    await world.settle()
    world.push.answers = [Transient("503")]
    second = await world.submit()
    await world.settle()
    await world.device("new")
    await world.pass_time("1h")
    assert (await world.states(second))["web_push"] == [State.JOINED]


async def test_quiet_hours_hold_until_their_end(make: Callable[..., World]) -> None:
    """At 23:00 in Berlin an e-mail waits until 07:00 there, plus what spreads the releases; an item does not."""
    world = make(note("email", "in_app"))
    await world.dispatcher.set_preferences("alice", NIGHT)
    world.clock.set(START + timedelta(hours=10))
    plan = await world.dispatcher.plan("note", "alice")
    assert isinstance(plan["email"], Hold)
    assert plan["email"].until == datetime(2027, 1, 6, 6, tzinfo=UTC)
    ticket = await world.submit()
    await world.settle()
    await world.pass_time("7h 59m")
    assert await world.states(ticket) == {"email": [State.WAITING], "in_app": [State.ACCEPTED]}
    await world.pass_time("4m")
    assert await world.states(ticket) == {"email": [State.ACCEPTED], "in_app": [State.ACCEPTED]}


async def test_changed_preferences_release_what_is_held(make: Callable[..., World]) -> None:
    """The end of quiet hours releases what they held at once; what is switched off by then is not sent."""
    world = make(note("email", "web_push"))
    await world.device("a")
    await world.dispatcher.set_preferences("alice", NIGHT)
    world.clock.set(START + timedelta(hours=10))
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"email": [State.WAITING], "web_push": [State.WAITING]}
    await world.dispatcher.set_preferences("alice", {"quiet_hours": [], "channels": {"email": False}})
    await world.settle()
    assert await world.states(ticket) == {"email": [State.SKIPPED], "web_push": [State.ACCEPTED]}
    found = await world.dispatcher.explain(ticket, "alice")
    assert found is not None
    assert [(each.channel, each.reason) for each in found.changed] == [("email", Reason.OPTED_OUT)]
    assert "now it would be: email: skip, opted_out by user channels/email" in str(found)


async def test_cap_lets_so_many_through(make: Callable[..., World]) -> None:
    """The third of a day is skipped on every channel, with its reason; the next day has room again."""
    world = make(note("email", "web_push", caps=[FrequencyCap(2, "day")]))
    await world.device("a")
    tickets = [await world.submit() for _ in range(3)]
    await world.settle()
    states = [await world.states(each) for each in tickets]
    assert sorted(map(str, states)) == sorted(
        map(
            str,
            [{"email": [State.ACCEPTED], "web_push": [State.ACCEPTED]}] * 2
            + [{"email": [State.SKIPPED], "web_push": [State.SKIPPED]}],
        )
    )
    refused = next(ticket for ticket, each in zip(tickets, states, strict=True) if each["email"] == [State.SKIPPED])
    found = await world.dispatcher.explain(refused, "alice")
    assert found is not None
    assert found.reset_at == datetime(2027, 1, 5, 23, tzinfo=UTC)  # midnight in Berlin
    assert "skipped (cap_day), room again by 2027-01-05 23:00:00 UTC" in str(found)
    await world.pass_time("24h")
    later = await world.submit()
    await world.settle()
    assert (await world.states(later))["email"] == [State.ACCEPTED]
    found = await world.dispatcher.explain(later, "alice")
    assert found is not None
    assert found.reset_at is None


DAY = {"quiet_hours": [{"start": "09:00", "end": "17:00", "channels": ["email"], "action": "digest"}]}


@pytest.mark.parametrize("over_cap", ["skip", "hold"])
async def test_a_digest_of_what_has_been_counted(make: Callable[..., World], over_cap: Any) -> None:
    """If the item of a notification took the last place in the cap, the digest with its e-mail is sent anyway."""
    world = make(note("in_app", "email", caps=[FrequencyCap(1)], over_cap=over_cap))
    await world.dispatcher.set_preferences("alice", DAY)
    tickets = [await world.submit(title="one")]
    await world.settle()
    tickets += [await world.submit(title="two")]
    await world.settle()
    states = [await world.states(each) for each in tickets]
    assert [each["in_app"] for each in states] == [
        [State.ACCEPTED],
        [State.WAITING if over_cap == "hold" else State.SKIPPED],
    ]
    await world.pass_time("4h 10m")  # 17:10 in Berlin
    assert [job.content.title for job in world.email.jobs] == ["two (+ 1)"]


@pytest.mark.parametrize(
    ("over_cap", "channels"), [("skip", ["email"]), ("skip", ["in_app", "email"]), ("in_app", ["in_app", "email"])]
)
async def test_a_digest_of_what_was_not_counted(
    make: Callable[..., World], over_cap: Any, channels: Sequence[str]
) -> None:
    """A full cap stops it, as it stops a notification; items that it stopped too, or never counts, change nothing."""
    world = make(note(*channels, caps=[FrequencyCap(1)], over_cap=over_cap))
    await world.dispatcher.set_preferences("alice", DAY)
    world.clock.set(datetime(2027, 1, 6, 7, tzinfo=UTC))  # 08:00 in Berlin
    await world.submit()
    await world.settle()
    await world.pass_time("2h")
    await world.submit()
    await world.settle()
    await world.pass_time("7h 10m")
    assert len(world.email.jobs) == 1
    stopped = [each.channel for each in await world.store.stuck([State.SKIPPED]) if each.reason == "cap_day"]
    assert sorted(stopped) == (["email", "in_app"] if over_cap == "skip" and "in_app" in channels else ["email"])


async def test_cap_can_hold_until_there_is_room(make: Callable[..., World]) -> None:
    """With over_cap="hold", the second one is sent when the recipient's next day begins."""
    world = make(note("email", caps=[FrequencyCap(1, "day")], over_cap="hold"))
    await world.submit()
    await world.settle()
    second = await world.submit()
    await world.settle()
    assert len(world.email.jobs) == 1
    await world.pass_time("10h 59m")
    assert await world.states(second) == {"email": [State.WAITING]}
    await world.pass_time("2m")
    assert await world.states(second) == {"email": [State.ACCEPTED]}


# -- fallbacks ---------------------------------------------------------------------------------------------------

FALLBACKS = {"web_push": Fallback("away"), "email": Fallback("unread", 900.0)}


async def test_email_if_unread_in_fifteen_minutes(make: Callable[..., World]) -> None:
    """E-mail is sent a quarter of an hour after the item, to those who have not read it."""
    world = make(note("in_app", "email", fallback={"email": Fallback("unread", 900.0)}))
    read, unread = await world.submit(title="read"), await world.submit(title="unread")
    await world.settle()
    item = next(each for each in (await world.inbox.list("alice")).items if each.event.payload["title"] == "read")
    await world.inbox.mark_read("alice", [item.id])
    await world.pass_time("14m")
    assert not world.email.jobs
    await world.pass_time("2m")
    assert [job.content.title for job in world.email.jobs] == ["unread"]
    assert (await world.states(read))["email"] == [State.CANCELLED]
    assert (await world.states(unread))["email"] == [State.ACCEPTED]


async def test_dismissed_is_read(make: Callable[..., World]) -> None:
    """An item that was dismissed needs no e-mail, even if no dispatcher saw it dismissed."""
    world = make(note("in_app", "email", fallback={"email": Fallback("unread", 900.0)}))
    ticket = await world.submit()
    await world.settle()
    await Inbox(world.notifier).dismiss("alice", [(await world.inbox.list("alice")).items[0].id])
    await world.pass_time("16m")
    assert (await world.states(ticket))["email"] == [State.SKIPPED]


async def test_push_only_for_those_who_are_away(make: Callable[..., World]) -> None:
    """A user with an open stream gets no push message; after that has ended, the next one is sent."""
    world = make(note("in_app", "web_push", fallback={"web_push": Fallback("away")}))
    await world.device("a")
    async with world.notifier.subscribe("alice"):
        first = await world.submit()
        await world.settle()
        assert (await world.states(first))["web_push"] == [State.SKIPPED]
    second = await world.submit()
    with anyio.fail_after(10):
        while await world.presence.locate(["alice"]):  # noqa: ASYNC110  leaving is announced by no event
            await anyio.sleep(0.01)
    await world.settle()
    assert (await world.states(second))["web_push"] == [State.ACCEPTED]


async def test_fallback_is_due_at_once_if_the_inbox_failed(make: Callable[..., World]) -> None:
    """An item that could not be listed cannot be read, so the e-mail does not wait."""
    world = make(note("in_app", "email", fallback={"email": Fallback("unread", 900.0)}))

    async def send(job: Job) -> Outcome:
        return Rejected("no")

    world.in_app.send = send  # type: ignore[method-assign]
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"in_app": [State.FAILED], "email": [State.ACCEPTED]}


# -- digests -----------------------------------------------------------------------------------------------------


async def test_digest_sends_once_what_was_collected(make: Callable[..., World]) -> None:
    """Three notifications are one e-mail after the window; one alone has its own text."""
    world = make(note("in_app", "email", digest=Digest(window=600.0)))
    for number in range(3):
        await world.submit(title=f"t{number}")
    await world.settle()
    assert not world.email.jobs
    assert len((await world.inbox.list("alice")).items) == 3
    await world.pass_time("11m")
    assert [job.content.title for job in world.email.jobs] == ["t2 (+ 2)"]
    await world.submit(title="alone")
    await world.settle()
    await world.pass_time("11m")
    assert [job.content.title for job in world.email.jobs] == ["t2 (+ 2)", "alone"]


async def test_digest_of_what_was_cancelled_sends_nothing(make: Callable[..., World]) -> None:
    """If the only notification of a digest is cancelled, there is no empty message."""
    world = make(note("email", digest=Digest(window=600.0)))
    ticket = await world.submit()
    assert await world.dispatcher.cancel(ticket) == 1
    await world.pass_time("11m")
    assert not world.email.jobs


# -- plan, submit, explain ---------------------------------------------------------------------------------------


async def test_plan_stores_nothing(make: Callable[..., World]) -> None:
    """A plan says what would be done, with the reason and who decided."""
    world = make(note("in_app", "email", "web_push", digest=Digest(window=60.0, channels=["email"])))
    await world.dispatcher.set_preferences("alice", {"all": True})
    plan = await world.dispatcher.plan("note", "alice", {"title": "x"})
    assert [type(each) for each in plan.decisions] == [Send, Join, Skip]
    assert [(each.reason, each.layer) for each in plan.decisions] == [
        (Reason.ALLOWED, "user"),
        (Reason.DIGEST, "type"),
        (Reason.NO_ENDPOINT, "endpoints"),
    ]
    assert (await world.dispatcher.tick()).claimed == 0


async def test_same_key_stores_nothing_again(make: Callable[..., World]) -> None:
    """The same request has the same ticket; another one under that key is refused."""
    world = make(note("email"))
    first = await world.dispatcher.submit("note", "alice", {"title": "x"}, idempotency_key="k")
    again = await world.dispatcher.submit("note", "alice", {"title": "x"}, idempotency_key="k")
    assert first is not None
    assert again == Ticket(first.id, replayed=True)
    with pytest.raises(UsageError, match="another request"):
        await world.dispatcher.submit("note", "bob", {"title": "x"}, idempotency_key="k")
    await world.settle()
    assert len(world.email.jobs) == 1


async def test_audience_goes_on_where_it_stopped(make: Callable[..., World]) -> None:
    """A submission that is interrupted and repeated reaches each recipient once."""
    world = make(note("email"))
    world.users |= {f"u{number:02}": Recipient(f"u{number:02}") for number in range(25)}
    asked: list[str] = []
    stop = True

    async def audience(after: str) -> AsyncIterator[str]:
        asked.append(after)
        for user in sorted(world.users):
            if user > after:
                if stop and user == "u12":
                    raise ConnectionError
                yield user

    with pytest.raises(ConnectionError):
        await world.dispatcher.submit_many("note", audience, {}, idempotency_key="k", batch=5)
    stop = False
    ticket = await world.dispatcher.submit_many("note", audience, {}, idempotency_key="k", batch=5)
    assert (asked, ticket.replayed, ticket.count) == (["", "u07"], True, 17)
    await world.settle()
    assert sorted(job.user for job in world.email.jobs) == sorted(world.users)
    assert len({job.notification for job in world.email.jobs}) == 1


async def test_followers_of_a_topic_are_an_audience(make: Callable[..., World]) -> None:
    """An interrupted submission that is repeated reaches each follower once, in batches of one transaction."""
    world = make(note("in_app"))
    names = [f"u{number}" for number in range(5)]
    world.users = {each: Recipient(each) for each in names}
    for each in names:
        await world.inbox.follow(each, "project:7")
    submit, calls = world.store.submit, 0

    async def failing(submission: Submission, **options: Any) -> Submitted:
        nonlocal calls
        calls += 1
        if calls == 3:  # the key, the first batch, then this
            raise PushRejectedError("the store is away", backend="test")
        result: Submitted = await submit(submission, **options)
        return result

    async def submit_to_followers() -> None:
        followers = world.inbox.followers("project:7")
        await world.dispatcher.submit_many("note", followers, {"title": "x"}, idempotency_key="k", batch=2)

    world.store.submit = failing
    with pytest.raises(PushRejectedError):
        await submit_to_followers()
    await submit_to_followers()
    await world.settle()
    assert sorted(job.user for job in world.in_app.jobs) == names


async def test_audience_is_closed_if_the_submission_fails(make: Callable[..., World]) -> None:
    """What an audience holds, such as a cursor of a database, is released at once, not by the garbage collector."""
    world = make(note("email"))
    is_open = False

    async def audience(after: str) -> AsyncIterator[str]:
        nonlocal is_open
        is_open = True
        try:
            yield "alice"
            world.is_away = True
            yield "bob"
        finally:
            is_open = False

    with pytest.raises(ConnectionError):
        await world.dispatcher.submit_many("note", audience, {}, idempotency_key="k", batch=1)
    assert not is_open


async def test_plain_iterable_is_an_audience_too(make: Callable[..., World]) -> None:
    """Repeating it submits each recipient once."""
    world = make(note("email"))
    for _ in range(2):
        await world.dispatcher.submit_many("note", ["alice", Recipient("guest")], {}, idempotency_key="k", batch=1)
    await world.settle()
    assert sorted(job.user for job in world.email.jobs) == ["alice", "guest"]


async def test_audience_that_cannot_be_closed(make: Callable[..., World]) -> None:
    """An asynchronous iterable, such as a cursor of a driver, needs no more than that."""

    class Rows:
        def __init__(self) -> None:
            self.left = ["alice", "bob"]

        def __aiter__(self) -> Rows:
            return self

        async def __anext__(self) -> str:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop(0)

    world = make(note("email"))
    await world.dispatcher.submit_many("note", Rows())
    await world.settle()
    assert sorted(job.user for job in world.email.jobs) == ["alice", "bob"]


async def test_cancel_says_how_many_it_stopped(make: Callable[..., World]) -> None:
    """What was sent is not stopped; what waits is."""
    world = make(note("in_app", "email", fallback={"email": Fallback("unread", 900.0)}))
    ticket = await world.submit()
    await world.settle()
    assert await world.dispatcher.cancel(ticket) == 1
    assert await world.dispatcher.cancel(ticket) == 0
    await world.pass_time("1h")
    assert await world.states(ticket) == {"in_app": [State.ACCEPTED], "email": [State.CANCELLED]}


@pytest.mark.parametrize(
    "type", [NotificationType("other", channels=["email"]), note("in_app")], ids=["type", "channel"]
)
async def test_workers_of_two_versions(make: Callable[..., World], type: NotificationType) -> None:
    """A worker with other types leaves what was submitted lately to the others, and skips it after an hour."""
    new = make(note("email"))
    old = make(type, store=new.store)
    ticket, second = await new.submit(), await new.submit()
    await old.settle()
    assert await new.states(ticket) == {"email": [State.WAITING]}
    await new.dispatcher.cancel(second)
    new.clock.advance("31s")
    await new.settle()
    assert await new.states(ticket) == {"email": [State.ACCEPTED]}
    third = await new.submit()
    old.clock.set(new.clock.now() + timedelta(hours=1))
    await old.settle()
    assert await new.states(third) == {"email": [State.SKIPPED]}
    assert not old.email.jobs
    reasons = [each.reason for each in await new.store.stuck([State.SKIPPED])]
    assert reasons in ([Reason.UNKNOWN_TYPE], [Reason.CHANNEL_NOT_ALLOWED])


async def test_dead_worker_leaves_nothing_behind(make: Callable[..., World]) -> None:
    """What was claimed is sent by another worker after the lease; what was begun is unknown, or sent again."""
    world = make(note("email", "in_app"))
    claimed = await world.submit()
    await world.store.claim(world.clock.now(), lease=60.0)
    begun = await world.submit()
    moves = await world.store.claim(world.clock.now(), lease=60.0)
    await world.store.advance(
        [Move(each.delivery.id, each.delivery.fence, State.SENDING) for each in moves], world.clock.now()
    )
    await world.settle()
    assert not world.email.jobs
    await world.pass_time("61s")
    assert await world.states(claimed) == {"email": [State.ACCEPTED], "in_app": [State.ACCEPTED]}
    assert await world.states(begun) == {"email": [State.UNKNOWN], "in_app": [State.ACCEPTED]}


@pytest.mark.parametrize(
    ("to", "data", "match"),
    [
        ("", None, "user id"),
        (7, None, "user id"),
        ("alice", [1], "mapping"),
        ("alice", {"x": float("nan")}, "JSON"),
        ("alice", {"x": object()}, "JSON"),
    ],
)
async def test_bad_arguments_are_refused(make: Callable[..., World], to: Any, data: Any, match: str) -> None:
    """The error says what was expected, and nothing is stored."""
    world = make(note("email"))
    with pytest.raises(UsageError, match=match):
        await world.dispatcher.submit("note", to, data)
    assert (await world.dispatcher.tick()).claimed == 0


async def test_store_that_fails_can_leave_the_caller_alone(make: Callable[..., World]) -> None:
    """With on_error="log" a store that fails does not break the request that notifies."""

    class Failing(MemoryDispatchStore):
        async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
            raise PushRejectedError("down", backend="store")

    world = make(note("email"), store=Failing())
    assert await world.dispatcher.submit("note", "alice", {}, on_error="log") is None
    with pytest.raises(PushRejectedError):
        await world.dispatcher.submit("note", "alice", {})


async def test_run_sends_what_is_submitted(make: Callable[..., World]) -> None:
    """A running dispatcher sends at once what its own process submits, and stops with its block."""
    world = make(note("email"))
    with anyio.fail_after(20):
        async with world.dispatcher.running(poll_interval=60.0):
            await world.submit()
            while not world.email.jobs:  # noqa: ASYNC110  the channel has no event
                await anyio.sleep(0.01)
    assert len(world.email.jobs) == 1


def test_retries_of_a_channel_follow_from_what_it_is() -> None:
    """An e-mail channel is patient under any name and inside wrappers; what the application says comes first."""

    async def recipients(ids: Sequence[str]) -> Iterable[Recipient]:
        return [Recipient(each) for each in ids]

    mail = EmailChannel("mail.example.com", sender="no-reply@example.com")
    wrapped = Breaker(RateLimited(EmailChannel("mail.example.com", sender="no-reply@example.com"), Rate(10)))
    channels: Mapping[str, Channel] = {
        "letter": mail,
        "news": wrapped,
        "own": mail,
        "email": Recorder(),
        "sms": Recorder(),
    }
    own = RetrySchedule(attempts=2)
    dispatcher = Dispatcher(
        None, MemoryDispatchStore(), [note(*channels)], channels, recipients=recipients, retries={"own": own}
    )
    schedules = [dispatcher._parts.schedule(name) for name in channels]
    assert schedules == [PATIENT, PATIENT, own, PATIENT, PROMPT]


def test_parts_are_checked() -> None:
    """A channel that is missing, and a rule that needs to know who is connected, are refused when it is made."""

    async def recipients(ids: Sequence[str]) -> Iterable[Recipient]:
        return [Recipient(each) for each in ids]

    channels: Mapping[str, Channel] = {"in_app": Recorder()}
    store = MemoryDispatchStore()
    with pytest.raises(UsageError, match="email"):
        Dispatcher(None, store, [note("in_app", "email")], channels, recipients=recipients)
    away = note("in_app", "web_push", fallback={"web_push": Fallback("away")})
    with pytest.raises(UsageError, match="presence="):
        Dispatcher(None, store, [away], {**channels, "web_push": Recorder()}, recipients=recipients)
    for timeout, lease in ((60.0, 30.0), (30.0, 30.0), (51.0, 60.0), (0.8, 1.0), (0.0, 1.0), (float("nan"), 60.0)):
        with pytest.raises(UsageError, match=rf"lease={lease:g}.*timeout={timeout:g}"):
            Dispatcher(None, store, [note("in_app")], channels, recipients=recipients, timeout=timeout, lease=lease)
    for timeout, lease in ((50.0, 60.0), (0.75, 1.0)):
        Dispatcher(None, store, [note("in_app")], channels, recipients=recipients, timeout=timeout, lease=lease)


async def test_running_that_is_never_entered(make: Callable[..., World]) -> None:
    """It warns, as a coroutine does that is never awaited; one that was entered does not, however its block ends."""
    world = make(note("email"))
    with pytest.warns(RuntimeWarning, match=r"dispatcher\.running\(\) was never entered"):
        world.dispatcher.running()  # nothing holds it, so it is collected at once
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with world.dispatcher.running() as dispatcher:
            assert dispatcher is world.dispatcher
            await world.submit()
            await until(lambda: bool(world.email.jobs))
        with pytest.raises(ExceptionGroup) as raised:
            async with world.dispatcher.running():
                raise ValueError
        assert raised.group_contains(ValueError)
        gc.collect()
    assert caught == []
