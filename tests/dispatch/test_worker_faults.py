"""Workers among parts that misbehave: channels, hooks and templates of the application, cancellation, broken values."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from notify import BackendUnavailableError, Notifier
from notify.dispatch import (
    Accepted,
    Ambiguous,
    Channel,
    Content,
    Dispatcher,
    Endpoint,
    EndpointGone,
    Fallback,
    FrequencyCap,
    Job,
    NotificationType,
    Outcome,
    Recipient,
    Rejected,
    Rendering,
    Report,
    RetrySchedule,
    State,
    TemplateMissingError,
    Throttled,
    Transient,
)
from notify.dispatch import _sending as sending
from notify.dispatch.abc import Claim, Move
from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore, MemoryStreamStore
from notify_sqlite import SQLiteDispatchStore
from tests.dispatch.world import START, Recorder, World, note
from tests.parts import until
from tests.servers.postgres import Server, fresh_schema
from tests.servers.postgres import postgres as postgres

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])

Send = Callable[[Job], Any]


class Odd(Recorder):
    """A channel that does what a function says."""

    def __init__(self, act: Send, **more: bool) -> None:
        super().__init__(**more)
        self.act = act

    async def send(self, job: Job) -> Outcome:
        """Keep the job and do it."""
        self.jobs.append(job)
        result: Outcome = await self.act(job)
        return result


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., World]]:
    """Return a function that makes a world with an e-mail channel that acts so; each is closed afterwards."""
    made: list[World] = []

    def make(type: NotificationType, act: Send | None = None, store: Any = None, **more: Any) -> World:
        world = World([type], VirtualClock(START), store)
        channels: dict[str, Channel] = {"in_app": world.in_app, "email": world.email, "web_push": world.push}
        if act is not None:
            channels["email"] = world.email = Odd(act)
        world.dispatcher = Dispatcher(
            world.inbox,
            world.store,
            [type],
            channels,
            **{"recipients": world.recipients, "presence": world.presence, "clock": world.clock.now} | more,
        )
        made.append(world)
        return world

    yield make
    for each in made:
        await each.notifier.aclose()
        await each.store.aclose()


# -- channels -------------------------------------------------------------------------------------------------------


class BrokenPartError(Exception):
    """Something that a channel raises."""


async def raise_group(job: Job) -> Outcome:
    """Raise a group that is not an Exception."""
    raise BaseExceptionGroup("several", [BrokenPartError("x"), GeneratorExit()])


async def raise_cancelled(job: Job) -> Outcome:
    """Raise what asyncio raises where an inner task was cancelled."""
    raise asyncio.CancelledError


async def return_none(job: Job) -> Any:
    """Return nothing."""


async def return_text(job: Job) -> Any:
    """Return a value that is not an outcome."""
    return "ok"


async def return_wrong_wait(job: Job) -> Any:
    """Return an outcome with a wrong value."""
    return Throttled("soon")  # type: ignore[arg-type]


@pytest.mark.parametrize("act", [raise_group, raise_cancelled, return_none, return_text, return_wrong_wait])
@on_asyncio
async def test_fault_of_a_channel_is_its_own(
    make: Callable[..., World], act: Send, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a channel raises or returns, its delivery is unknown, and all others of the batch are sent."""
    world = make(note("email", "in_app", "web_push"), act)
    await world.device("a")
    tickets = [await world.submit() for _ in range(3)]
    await world.settle()
    expected = {"email": [State.UNKNOWN], "in_app": [State.ACCEPTED], "web_push": [State.ACCEPTED]}
    assert [await world.states(each) for each in tickets] == [expected] * 3
    assert sum("raised instead of returning" in each.getMessage() for each in caplog.records) == 1


async def test_nothing_that_a_channel_raises_is_logged_word_for_word(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what was raised where; the message may quote an address."""

    async def refuse(job: Job) -> Outcome:
        raise BrokenPartError("alice@example.com was refused, with the password hunter2")

    world = make(note("email"), refuse)
    await world.submit()
    await world.settle()
    assert "BrokenPartError" in caplog.text
    assert Path(__file__).name in caplog.text
    assert "alice@example.com" not in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -5.0, 0.0, 1e300])
@pytest.mark.parametrize("kind", [Transient, Throttled])
async def test_absurd_waits(make: Callable[..., World], kind: Any, seconds: float) -> None:
    """Whatever a provider asks for, the delivery waits for between a second and a day, and is sent then."""
    answers: list[Outcome] = [kind(retry_after=seconds)]

    async def answer(job: Job) -> Outcome:
        return answers.pop() if answers else Accepted()

    world = make(note("email"), answer)
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"email": [State.WAITING]}
    await world.pass_time("24h 1s")
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


@on_asyncio
@pytest.mark.parametrize("place", ["memory", "sqlite", "postgres"])
async def test_what_providers_say_is_stored(
    place: str, make: Callable[..., World], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Codes, ids and texts of providers may have any characters, any length and any type."""
    clock = VirtualClock(START)
    store: Any = MemoryDispatchStore(clock=clock)
    if place == "sqlite":
        store = SQLiteDispatchStore(tmp_path / "deliveries.db", clock=clock)
    if place == "postgres":
        from notify_pg import PostgresDispatchStore

        server: Server = request.getfixturevalue("postgres")
        store = PostgresDispatchStore(server.dsn, schema=fresh_schema())
    strange = "nul \x00, half \ud800, \u202eright to left, \U0001f600 " + "long " * 100_000
    answers: list[Any] = [Accepted(strange), Accepted(17), Rejected(strange, error=strange), Transient(None)]  # type: ignore[arg-type]

    async def answer(job: Job) -> Outcome:
        outcome: Outcome = answers.pop(0)
        return outcome

    world = make(note("email"), answer, store)
    for state in (State.ACCEPTED, State.ACCEPTED, State.FAILED, State.WAITING):
        ticket = await world.submit()
        await world.settle()
        assert await world.states(ticket) == {"email": [state]}


async def test_slow_channel_holds_up_no_other(make: Callable[..., World]) -> None:
    """While messages over one channel hang, those over others are sent, however many there are of the first."""
    released = anyio.Event()

    async def hang(job: Job) -> Outcome:
        await released.wait()
        return Accepted()

    world = make(note("email", "in_app"), hang)
    async with world.dispatcher.running(poll_interval=60.0):
        with anyio.fail_after(30):
            for number in range(60):
                await world.submit()
                while len(world.in_app.jobs) <= number:  # noqa: ASYNC110  the channel has no event
                    await anyio.sleep(0.001)
        assert len(world.email.jobs) < 60
        released.set()
        with anyio.fail_after(30):
            while len(world.email.jobs) < 60:  # noqa: ASYNC110  the channel has no event
                await anyio.sleep(0.001)


async def test_a_channel_with_many_messages_is_not_looked_after_for_each(make: Callable[..., World]) -> None:
    """While a channel has as many messages on their way as it may, the end of one is no reason to look for others."""
    released: list[anyio.Event] = []

    async def hang(job: Job) -> Outcome:
        released.append(anyio.Event())
        await released[-1].wait()
        return Accepted()

    class Counting(MemoryDispatchStore):
        claims = 0

        async def claim(self, now: datetime, **more: Any) -> Any:
            self.claims += 1
            return await super().claim(now, **more)

    store = Counting()
    world = make(note("email"), hang, store)
    for _ in range(150):
        await world.submit()
    busy = world.dispatcher._worker.sender.busy
    async with world.dispatcher.running(poll_interval=60.0):
        await until(lambda: len(released) == 50, 30)
        released[0].set()
        await until(lambda: busy["email"] == 99, 30)
        before = store.claims
        for number in range(1, 41):
            released[number].set()
            await until(lambda: busy["email"] == 99 - number, 30)  # noqa: B023 - called at once
        assert store.claims - before < 5
        for each in released:
            each.set()
        await until(lambda: len(released) == 150, 30)
        for each in released:
            each.set()


async def test_channel_that_ignores_cancellation_is_left_behind(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds up nothing but its own message, which is unknown when its lease has ended."""
    monkeypatch.setattr(sending, "_FINISH", 0.0)
    monkeypatch.setattr(sending, "_GRACE", 0.2)
    released = anyio.Event()

    async def swallow(job: Job) -> Outcome:
        while not released.is_set():
            with anyio.CancelScope(shield=True):
                await released.wait()
        return Accepted()

    world = make(note("email", "in_app"), swallow, timeout=0.05, lease=60.0)
    ticket = await world.submit()
    with anyio.fail_after(20):
        await world.settle()
    assert await world.states(ticket) == {"email": [State.SENDING], "in_app": [State.ACCEPTED]}
    assert "left behind, since their channels ignore cancellation: 1" in caplog.text
    await world.pass_time("61s")
    assert await world.states(ticket) == {"email": [State.UNKNOWN], "in_app": [State.ACCEPTED]}
    released.set()
    await world.dispatcher._worker.sender.settle()
    assert await world.states(ticket) == {"email": [State.UNKNOWN], "in_app": [State.ACCEPTED]}


async def test_last_attempt_without_an_answer_is_unknown(make: Callable[..., World]) -> None:
    """Where the receiver recognises repetitions it is sent again; without any answer, the outcome stays unknown."""
    world = make(note("web_push"), retries={"web_push": RetrySchedule(attempts=2, base=1.0)})
    await world.device("a")
    world.push.answers = [Ambiguous(), Ambiguous()]
    ticket = await world.submit()
    for _ in range(3):
        await world.pass_time("1m")
    assert len(world.push.jobs) == 2
    assert await world.states(ticket) == {"web_push": [State.UNKNOWN]}


async def test_what_kills_its_workers_is_not_sent_for_ever(make: Callable[..., World]) -> None:
    """A message whose worker dies each time is sent again as often as the schedule says, and is unknown then."""
    world = make(note("in_app"), retries={"in_app": RetrySchedule(attempts=3)})
    ticket = await world.submit()
    for _ in range(3):
        (claim,) = await world.store.claim(world.clock.now(), lease=60.0)
        move = Move(claim.delivery.id, claim.delivery.fence, State.SENDING)
        assert await world.store.advance([move], world.clock.now()) == [True]
        world.clock.advance("61s")
    await world.settle()
    assert not world.in_app.jobs
    assert await world.states(ticket) == {"in_app": [State.UNKNOWN]}


async def test_ambiguous_delivery_waits_for_its_provider(make: Callable[..., World]) -> None:
    """What may have been sent, and can be repeated, is not given up because the provider wants to be left alone."""
    world = make(note("in_app"))
    ticket = await world.submit()
    (claim,) = await world.store.claim(world.clock.now(), lease=60.0)
    await world.store.advance([Move(claim.delivery.id, claim.delivery.fence, State.SENDING)], world.clock.now())
    await world.store.close_gate("in_app", world.clock.now() + timedelta(minutes=10))
    await world.pass_time("61s")
    assert await world.states(ticket) == {"in_app": [State.WAITING]}
    await world.pass_time("10m")
    assert await world.states(ticket) == {"in_app": [State.ACCEPTED]}


async def test_lease_begins_again_when_sending_begins(make: Callable[..., World]) -> None:
    """A message that is still being sent when the lease of its claim would end is not taken by another worker."""
    others: list[Any] = []

    class Slow:
        def render(self, rendering: Rendering) -> Content:
            world.clock.advance("30s")
            return Content("x")

    async def slow(job: Job) -> Outcome:
        world.clock.advance("35s")
        others.extend(await world.store.claim(world.clock.now(), lease=60.0))
        return Accepted()

    world = make(note("email"), slow, templates=Slow(), timeout=40.0, lease=60.0)
    ticket = await world.submit()
    await world.settle()
    assert others == []
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


# -- endpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gone", "devices", "retired"), [(12, 12, 0), (7, 12, 0), (6, 12, 6), (9, 9, 9), (1, 12, 1)])
async def test_most_endpoints_are_not_gone_at_once(
    make: Callable[..., World], gone: int, devices: int, retired: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A push service that says of most of many devices that they are gone is not believed."""
    world = make(note("web_push"))
    names = [(await world.device(f"d{number}")).id for number in range(devices)]
    world.push.answers = [EndpointGone("410") if number < gone else Accepted() for number in range(devices)]
    await world.submit()
    await world.settle()
    found = [await world.store.endpoint(name) for name in names]
    assert sum(each.retired_at is not None for each in found) == retired
    assert ("said to be gone, so none is retired" in caplog.text) == (gone != retired)


# -- what is the application's --------------------------------------------------------------------------------------


async def test_one_delivery_that_cannot_be_looked_at(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """An inbox that raises, or a channel that cannot name its provider, makes its own deliveries wait only."""
    world = make(note("in_app", "email", "web_push", fallback={"email": Fallback("unread")}))
    await world.device("a")

    async def get_many(user: str, ids: Iterable[str]) -> Any:
        raise BrokenPartError("alice@example.com")

    def gate(endpoint: Any) -> str:
        raise BrokenPartError("alice@example.com")

    world.inbox.get_many = get_many  # type: ignore[method-assign]
    world.push.gate = gate  # type: ignore[attr-defined]
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {
        "in_app": [State.ACCEPTED],
        "email": [State.WAITING],
        "web_push": [State.WAITING],
    }
    assert sum("cannot be processed" in each.getMessage() for each in caplog.records) == 2
    assert "alice@example.com" not in caplog.text
    del world.push.gate  # type: ignore[attr-defined]
    await world.pass_time("31s")
    assert (await world.states(ticket))["web_push"] == [State.ACCEPTED]


async def test_recipients_may_be_plain(make: Callable[..., World]) -> None:
    """A function that does not wait for anything needs no async."""
    world = make(note("email"), recipients=lambda ids: [Recipient(each) for each in ids])
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


@pytest.mark.parametrize("answer", [None, 7, [None], [{"id": "alice"}], ["alice"]])
async def test_recipients_that_are_none(
    make: Callable[..., World], answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not a list of recipients is an error at submit; deliveries wait for a better answer."""
    world = make(note("email"))
    ticket = await world.submit()

    async def recipients(ids: Sequence[str]) -> Any:
        return answer

    parts = world.dispatcher._parts
    object.__setattr__(parts, "recipients", recipients)
    with pytest.raises(TypeError):
        await world.submit()
    assert await world.dispatcher.submit("note", "alice", {"secret": "hunter2"}, on_error="log") is None
    await world.settle()
    assert await world.states(ticket) == {"email": [State.WAITING]}
    assert "hunter2" not in caplog.text
    object.__setattr__(parts, "recipients", world.recipients)
    await world.pass_time("31s")
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


async def test_recipients_that_hang(make: Callable[..., World], caplog: pytest.LogCaptureFixture) -> None:
    """An application that does not return its users in time holds up no delivery for good."""
    world = make(note("email"), timeout=0.05, lease=60.0)
    ticket = await world.submit()

    async def recipients(ids: Sequence[str]) -> Any:
        await anyio.sleep_forever()

    parts = world.dispatcher._parts
    object.__setattr__(parts, "recipients", recipients)
    with anyio.fail_after(20):
        await world.settle()
    assert await world.states(ticket) == {"email": [State.WAITING]}
    assert "cannot be read, so their deliveries wait: TimeoutError" in caplog.text
    object.__setattr__(parts, "recipients", world.recipients)
    await world.pass_time("31s")
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


async def test_nothing_ever_breaks_a_caller_that_only_wants_a_log(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """With on_error="log" neither an unknown type nor a database that is away raises; the log quotes neither."""
    world = make(note("email"))
    assert await world.dispatcher.submit("unknown", "alice", on_error="log") is None
    assert await world.dispatcher.submit("note", "", {"code": object()}, on_error="log") is None
    world.is_away = True
    assert await world.dispatcher.submit("note", "alice", on_error="log") is None
    assert sum("was not stored" in each.getMessage() for each in caplog.records) == 3


async def test_gates_that_cannot_be_read_hold_up_nothing(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """The store of gates may be a Redis that is away: providers say themselves what they want."""

    class Away:
        async def close_gate(self, gate: str, until: Any) -> None:
            raise BackendUnavailableError("away", backend="gates")

        async def gates(self, now: Any) -> Any:
            raise BackendUnavailableError("away", backend="gates")

    world = make(note("email"), gates=Away())
    world.email.answers = [Throttled(60.0), Accepted()]
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"email": [State.WAITING]}
    await world.pass_time("61s")
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}
    assert "so messages are sent to all of them" in caplog.text


async def test_what_cannot_be_written_takes_no_place_in_a_cap(make: Callable[..., World]) -> None:
    """A text that is missing parks its delivery, and counts for nothing."""

    class Missing:
        missing = True

        def render(self, rendering: Rendering) -> Content:
            if self.missing:
                raise TemplateMissingError("there is none")
            return Content("x")

    templates = Missing()
    world = make(note("email", caps=[FrequencyCap(1)]), templates=templates)
    first = await world.submit()
    await world.settle()
    templates.missing = False
    second = await world.submit()
    await world.settle()
    assert [await world.states(each) for each in (first, second)] == [
        {"email": [State.PARKED]},
        {"email": [State.ACCEPTED]},
    ]


async def test_errors_in_templates_are_not_logged_word_for_word(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """A text that cannot be made is reported with the place of the error, without what it quotes."""

    class Wrong:
        def render(self, rendering: Rendering) -> Content:
            raise ValueError(f"cannot show {rendering.data}")

    world = make(note("email"), templates=Wrong())
    ticket = await world.submit(code="hunter2")
    await world.settle()
    assert await world.states(ticket) == {"email": [State.PARKED]}
    assert "no text can be made for note: ValueError" in caplog.text
    assert "hunter2" not in caplog.text


# -- cancellation ---------------------------------------------------------------------------------------------------


class Gate:
    """A channel that says when it has begun, and waits until it may answer."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.released = anyio.Event()

    async def __call__(self, job: Job) -> Outcome:
        """Send."""
        self.begun.set()
        await self.released.wait()
        return Accepted()


@on_asyncio
@pytest.mark.parametrize("method", ["tick", "run"])
async def test_what_has_begun_is_finished_when_the_task_is_cancelled(make: Callable[..., World], method: str) -> None:
    """`task.cancel()` of asyncio, which no scope of anyio holds off, waits for the messages on their way."""
    gate = Gate()
    world = make(note("email"), gate)
    ticket = await world.submit()
    task = asyncio.ensure_future(getattr(world.dispatcher, method)())
    with anyio.fail_after(20):
        await gate.begun.wait()
        task.cancel()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert not task.done()
        gate.released.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


@pytest.mark.parametrize("method", ["tick", "run"])
async def test_what_has_begun_is_finished_when_the_scope_is_cancelled(make: Callable[..., World], method: str) -> None:
    """A scope that is cancelled waits for the messages on their way, too."""
    gate = Gate()
    world = make(note("email"), gate)
    ticket = await world.submit()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(getattr(world.dispatcher, method))
            await gate.begun.wait()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
                assert await world.states(ticket) == {"email": [State.SENDING]}
                gate.released.set()
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


async def test_worker_that_is_stopped_gives_back_what_it_has_claimed(make: Callable[..., World]) -> None:
    """What was claimed and not begun is taken by the next worker at once, not after the lease."""
    looking = anyio.Event()
    world = make(note("email"))
    ticket = await world.submit()

    async def recipients(ids: Sequence[str]) -> Any:
        looking.set()
        await anyio.sleep_forever()

    parts = world.dispatcher._parts
    object.__setattr__(parts, "recipients", recipients)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.dispatcher.tick)
            await looking.wait()
            tasks.cancel_scope.cancel()
    assert await world.states(ticket) == {"email": [State.WAITING]}
    object.__setattr__(parts, "recipients", world.recipients)
    await world.settle()
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


# -- states as events ----------------------------------------------------------------------------------------------


async def test_states_are_events_if_asked(make: Callable[..., World], caplog: pytest.LogCaptureFixture) -> None:
    """Each state in which a delivery ends is one event in the recipient's log; a log that is away stops nothing."""
    world, store = make(note("email", "web_push")), MemoryStreamStore()
    notifier = Notifier(store)
    dispatcher = Dispatcher(
        None,
        world.store,
        [note("email", "web_push")],
        {"email": world.email, "web_push": world.push},
        recipients=world.recipients,
        clock=world.clock.now,
        events=notifier,
    )
    await world.device("a")
    world.email.answers = [Transient("450"), Accepted()]
    world.push.answers = [EndpointGone("410")] * 2
    ticket = await dispatcher.submit("note", "alice", {"title": "x"})
    guest = Recipient("guest", endpoints=[Endpoint(channel="web_push", address="https://push.example/guest")])
    await dispatcher.submit("note", guest)
    for _ in range(3):
        await dispatcher.tick()
        world.clock.advance("15m")
    events = (await store.read("alice", "0", 10)).events
    assert [(each.type, each.payload["notification"]) for each in events] == [("delivery", ticket.id)] * 2
    found = [(each.payload["channel"], each.payload["state"], each.payload["reason"]) for each in events]
    assert sorted(found) == [("email", "accepted", ""), ("web_push", "gone", "410")]
    (sent,) = [each.payload["id"] for each in events if each.payload["channel"] == "email"]
    assert await dispatcher.report(*[Report(sent, State.BOUNCED, reason="5.1.1")] * 2) == 2
    (bounced,) = (await store.read("alice", events[-1].id, 10)).events
    assert (bounced.payload["state"], bounced.payload["reason"]) == ("bounced", "5.1.1")
    assert not (await store.read("guest", "0", 10)).events
    await notifier.aclose()
    last = await dispatcher.submit("note", "alice")
    await dispatcher.tick()
    assert (await last.report())[0].state is State.ACCEPTED
    assert "states of deliveries are not pushed" in caplog.text


async def test_cancelling_is_an_event(make: Callable[..., World]) -> None:
    """What was stopped is one event for each delivery, also of what may have arrived; where the recipient is known."""
    store = MemoryStreamStore()
    async with Notifier(store) as notifier:
        world = make(note("email", "web_push"), events=notifier)
        await world.device("a")
        world.push.answers = [Ambiguous()]
        ticket = await world.dispatcher.submit("note", "alice", {"title": "x"})
        await world.dispatcher.tick()  # the e-mail is sent, and the device's delivery begins to be
        await world.dispatcher.tick()
        second, third, fourth = [await world.dispatcher.submit("note", "alice") for _ in range(3)]
        before = (await store.read("alice", "0", 10)).position
        assert [await world.dispatcher.cancel(each) for each in (ticket, ticket, second)] == [1, 0, 2]
        assert await world.dispatcher.cancel(third.id, user="alice", channel="email") == 1
        assert await world.dispatcher.cancel(fourth.id) == 2
        events = (await store.read("alice", before, 10)).events
        found = [(each.payload["notification"], each.payload["channel"], each.payload["state"]) for each in events]
        assert found == [
            (ticket.id, "web_push", "unknown"),
            (second.id, "email", "cancelled"),
            (second.id, "web_push", "cancelled"),
            (third.id, "email", "cancelled"),
        ]
        assert {each.payload["reason"] for each in events} == {"cancelled"}


async def test_a_log_that_hangs_does_not_hold_up_what_is_sent(make: Callable[..., World]) -> None:
    """While the event of what is skipped cannot be pushed, others are sent."""
    go_on = anyio.Event()

    class Hanging(MemoryStreamStore):
        async def save(self, event: Any) -> Any:
            await go_on.wait()
            return await super().save(event)

    async with Notifier(Hanging(), timeout=60.0) as notifier:
        world = make(note("email"), events=notifier)
        skipped = await world.submit(to="bob")
        await world.store.patch("bob", b'{"all": false}', by="bob", source="test", now=world.clock.now())
        await world.submit(to="alice")
        async with world.dispatcher.running():
            await until(lambda: world.email.jobs, 30)
            go_on.set()
        assert await world.states(skipped, "bob") == {"email": [State.SKIPPED]}
        assert [job.user for job in world.email.jobs] == ["alice"]


async def test_what_follows_for_endpoints_if_the_last_message_is_not_begun(make: Callable[..., World]) -> None:
    """A device that is gone is retired, although another message of its batch was cancelled after that."""

    class Late(MemoryDispatchStore):
        has_expanded = False

        def __init__(self) -> None:
            super().__init__()
            self.is_gone = anyio.Event()

        async def claim(self, now: datetime, **more: Any) -> Sequence[Claim]:
            found = more.pop("channels")
            channels = found if self.has_expanded else ["web_push"]  # then both are in one batch
            self.has_expanded = True
            return await super().claim(now, channels=channels, **more)

        async def advance(self, moves: Sequence[Move], now: datetime) -> Sequence[bool]:
            (first, *_) = moves
            found = await self.delivery(first.id)
            if found is not None and (found.delivery.channel, first.to) == ("email", State.SENDING):
                await self.is_gone.wait()
                await self.cancel(ticket, now, channel="email")
            made = await super().advance(moves, now)
            if first.to is State.GONE:
                self.is_gone.set()
            return made

    world = make(note("email", "web_push"), store=Late())
    device = await world.device("a")
    world.push.answers = [EndpointGone("410")]
    ticket = await world.submit()
    await world.settle()
    assert await world.states(ticket) == {"email": [State.CANCELLED], "web_push": [State.GONE]}
    assert (await world.store.endpoint(device.id)).retired_at is not None
