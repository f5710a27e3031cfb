"""Stores that fail, are closed, or lack a row or an ability, wherever a dispatcher calls them; in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import anyio
import pytest

from notify import BackendUnavailableError, ClosedError, Notifier, UsageError
from notify.dispatch import (
    Accepted,
    Dispatcher,
    Endpoint,
    EndpointGone,
    Fallback,
    Job,
    NotificationType,
    Outcome,
    Recipient,
    Report,
    Schedule,
    State,
)
from notify.dispatch._purging import Purger
from notify_memory import MemoryDispatchStore, MemoryStreamStore
from tests.dispatch.world import START, Recorder, World, note
from tests.parts import until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., World]]:
    """Return a function that makes a world, which is closed afterwards."""
    made: list[World] = []

    def make(*types: NotificationType, store: Any = None) -> World:
        made.append(World(types, store=store))
        return made[-1]

    yield make
    for each in made:
        await each.notifier.aclose()
        await each.store.aclose()


async def away(*_: object, **__: object) -> Any:
    """Fail as a store that cannot be reached."""
    raise BackendUnavailableError("down", backend="store")


async def closed(*_: object, **__: object) -> Any:
    """Fail as a store that has been closed."""
    raise ClosedError("the store is closed")


async def test_run_outlives_an_outage(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While nothing can be claimed, that is logged once for deliveries and once for schedules; then all is sent."""
    world = make(note("email"))
    world.clock.advance("1s")
    world.dispatcher.schedule(Schedule("often", "note", ["bob"], {"title": "again"}, every=60.0))
    await world.submit()
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "claim", away)
        async with world.dispatcher.running(poll_interval=0.001):
            await until(
                lambda: "schedules cannot be read" in caplog.text and "deliveries cannot be read" in caplog.text
            )
            assert not world.email.jobs
            patch.undo()
            await until(lambda: "schedules are read again" in caplog.text and len(world.email.jobs) == 1)
            world.clock.advance("1m")
            await until(lambda: len(world.email.jobs) == 2)
    assert [job.user for job in world.email.jobs] == ["alice", "bob"]
    assert caplog.text.count("cannot be read") == 2


async def test_schedule_whose_run_cannot_be_stored(make: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """The step fails, and the run is made after the lease."""
    world = make(note("email"))
    world.dispatcher.schedule(Schedule("often", "note", ["bob"], every=60.0))
    await world.settle()
    world.clock.advance("1m")
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "submit", away)
        with pytest.raises(BackendUnavailableError):
            await world.dispatcher.tick()
    await world.pass_time("61s")
    assert {job.user for job in world.email.jobs} == {"bob"}


async def test_schedule_whose_run_was_sent_and_removed(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies before it has noted a run is followed by another, which does not submit it again, even if
    the notification has been removed since."""
    world = make(note("email"))
    world.clock.advance("1m")
    world.dispatcher.schedule(Schedule("hourly", "note", ["bob"], every=3600.0))
    await world.settle()
    world.clock.advance("60m")
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "advance", away)
        with pytest.raises(BackendUnavailableError):
            await world.dispatcher.tick()
    (claim,) = await world.store.claim(world.clock.now(), lease=30.0, channels=["email"])
    await world.store.cancel(claim.notification.id, world.clock.now())
    assert await world.store.purge(world.clock.now() + timedelta(seconds=1)) == 1
    await world.pass_time("61s")
    assert not world.email.jobs
    (status,) = await world.dispatcher.schedules()
    assert (status.last_run, status.next_at) == ("2027-01-05T13:00:00Z", START + timedelta(hours=2))


async def test_old_notifications_that_cannot_be_removed(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That is logged, and the next look removes them; without keep=, there is no look at all."""
    world = make(note("email"))
    ticket = await world.submit()
    await world.settle()
    world.clock.advance("61s")
    purger = Purger(world.store, 60.0, lambda: 0.0)
    assert purger.is_due()
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "purge", away)
        await purger.purge(world.clock.now())
    assert "old notifications cannot be removed" in caplog.text
    assert await world.store.record(ticket, "alice") is not None
    await purger.purge(world.clock.now())
    assert await world.store.record(ticket, "alice") is None
    channels = {"email": world.email}
    kept = Dispatcher(None, world.store, [note("email")], channels, recipients=world.recipients, keep=None)
    assert not kept._worker._purger.is_due()


async def test_success_of_a_device_that_cannot_be_noted(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is sent and its outcome kept; the log says that the device's is not."""
    world = make(note("web_push"))
    await world.device("a")
    ticket = await world.submit()
    monkeypatch.setattr(world.store, "observe", away)
    await world.settle()
    assert await world.states(ticket) == {"web_push": [State.ACCEPTED]}
    assert "successes and refusals of endpoints could not be stored" in caplog.text


async def test_device_that_came_with_two_messages(make: Callable[..., World]) -> None:
    """It is stored to be remembered as gone, by whichever answer comes first."""
    world = make(note("web_push"))
    device = Endpoint(channel="web_push", address="https://push.example/1")
    world.push.answers = [EndpointGone("410")] * 2
    for _ in range(2):
        await world.submit(to=Recipient("guest", endpoints=[device]))
    await world.settle()
    ((stored,),) = (await world.store.endpoints(["guest"], retired=True)).values()
    assert (stored.reason, len(world.push.jobs)) == ("gone", 2)
    await world.submit(to=Recipient("guest", endpoints=[device]))
    await world.settle()
    assert len(world.push.jobs) == 2


class Doing(Recorder):
    """A channel that does something before it accepts a message."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self._act = act

    async def send(self, job: Job) -> Outcome:
        """Do it."""
        await super().send(job)
        await self._act()
        return Accepted()


def plain(world: World, channel: Recorder, **more: Any) -> Dispatcher:
    """Return a dispatcher over the world's store with one channel, `email`."""
    channels = {"email": channel}
    more.setdefault("clock", world.clock.now)
    return Dispatcher(None, world.store, [note("email")], channels, recipients=world.recipients, **more)


async def test_store_that_is_closed_while_a_message_is_sent(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """The outcome is lost, and the log names the delivery; nothing waits for the store."""
    world = make(note("email"))
    ticket = await world.submit()
    with anyio.fail_after(9):
        assert (await plain(world, Doing(world.store.aclose)).tick()).sent == 1
    assert "could not be stored: it is unknown" in caplog.text
    assert ticket


async def test_channel_that_fails_while_it_is_given_up(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    """An exception after its timeout is not logged as an error of the channel."""

    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("cannot be closed now")

    world = make(note("email"))
    ticket = await world.submit()
    await plain(world, Doing(hang), timeout=0.01).tick()
    record = await world.store.record(ticket, "alice")
    assert [(each.state, each.error) for each in record[3]] == [(State.UNKNOWN, "no answer within 0.01 s")]
    assert "raised instead of returning" not in caplog.text


async def test_many_messages_over_the_only_channel(make: Callable[..., World]) -> None:
    """While as many are on their way as one worker sends at once, it looks for no others."""
    go_on, looks = anyio.Event(), 0
    world = make(note("email"))
    for _ in range(60):
        await world.submit()
    close_digests = world.store.close_digests

    async def counted(*args: Any, **more: Any) -> int:
        nonlocal looks
        looks += 1
        result: int = await close_digests(*args, **more)
        return result

    world.store.close_digests = counted
    channel = Doing(go_on.wait)
    async with plain(world, channel).running(poll_interval=0.001):
        await until(lambda: len(channel.jobs) == 50)
        before = looks
        await until(lambda: looks >= before + 3)
        assert len(channel.jobs) == 50
        go_on.set()
        await until(lambda: len(channel.jobs) == 60)


async def test_worker_that_cannot_give_back_what_it_claimed(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops anyway, and other workers take the deliveries after the lease."""
    world, looking = make(note("email")), anyio.Event()
    ticket = await world.submit()

    async def recipients(ids: Sequence[str]) -> Any:
        looking.set()
        await anyio.sleep_forever()

    dispatcher = Dispatcher(
        None, world.store, [note("email")], {"email": world.email}, recipients=recipients, clock=world.clock.now
    )
    with monkeypatch.context() as patch, anyio.fail_after(20):
        patch.setattr(world.store, "advance", away)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatcher.tick)
            await looking.wait()
            tasks.cancel_scope.cancel()
    assert await world.states(ticket) == {"email": [State.CLAIMED]}
    await world.pass_time("61s")
    assert await world.states(ticket) == {"email": [State.ACCEPTED]}


async def test_log_that_is_away_is_not_asked_for_each(make: Callable[..., World]) -> None:
    """Of many deliveries that end together, only the first tries to push its event: each might take a timeout."""
    tried: list[str] = []

    class Away(Notifier[Any]):
        async def push(self, user: Any, *_: Any, **__: Any) -> Any:
            tried.append(user)
            raise BackendUnavailableError("down", backend="log")

    world = make(note("email"))
    tickets = [await world.submit() for _ in range(3)]
    await world.dispatcher.set_preferences("alice", {"all": False})
    async with Away(MemoryStreamStore()) as notifier:
        await plain(world, world.email, events=notifier).tick()
    assert tried == ["alice"]
    assert [await world.states(ticket) for ticket in tickets] == [{"email": [State.SKIPPED]}] * 3
    with pytest.raises(UsageError, match="events must be a Notifier"):
        plain(world, world.email, events=object())


async def test_store_that_is_closed_while_it_is_asked(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step raises ClosedError; the delivery is not taken for one that cannot be processed."""
    world = make(note("in_app", "email", fallback={"email": Fallback("unread")}))
    ticket = await world.submit()
    monkeypatch.setattr(world.store, "record", closed)
    with pytest.raises(ClosedError):
        await world.settle()
    monkeypatch.undo()
    assert (await world.states(ticket))["email"] == [State.CLAIMED]


async def test_submitting_to_many_on_a_closed_store(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for a recipient whose values are wrong."""
    world = make(note("email"))
    monkeypatch.setattr(world.store, "preferences", closed)
    with pytest.raises(ClosedError):
        await world.dispatcher.submit_many("note", ["alice", "bob"])


async def test_delivery_that_is_removed_while_it_is_reported(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to note any more."""
    world = make(note("email"))
    ticket = await world.submit()
    await world.settle()
    (row,) = (await world.store.record(ticket, "alice"))[2]
    resolve = world.store.resolve

    async def too_late(*args: Any, **more: Any) -> Any:
        await world.store.purge(world.clock.now() + timedelta(seconds=1))
        return await resolve(*args, **more)

    monkeypatch.setattr(world.store, "resolve", too_late)
    assert await world.dispatcher.report(Report(row.id, State.DELIVERED)) == 0


async def test_store_that_cannot_forget(make: Callable[..., World]) -> None:
    """A store of one's own without the ability is named before anything is erased."""

    class Remembering(MemoryDispatchStore):
        forget = None  # type: ignore[assignment]

    world = make(note("email"), store=Remembering())
    await world.dispatcher.set_preferences("alice", {"all": False})
    with pytest.raises(UsageError, match="Remembering cannot forget a user"):
        await world.dispatcher.forget("alice")
    assert (await world.dispatcher.preferences("alice")).all is False


@pytest.mark.parametrize("lost", ["record", "log"])
async def test_cancelling_without_its_events(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    """What is stopped stays so if its recipient cannot be read again, or the log is away, which is tried once."""
    tried: list[str] = []

    class Away(Notifier[Any]):
        async def push(self, user: str, *_: Any, **__: Any) -> Any:
            tried.append(user)
            raise BackendUnavailableError("down", backend="log")

    world = make(note("email", "in_app"))
    async with Away(MemoryStreamStore()) as notifier:
        dispatcher = plain(world, world.email, events=notifier)
        ticket = await world.submit()
        with monkeypatch.context() as patch:
            if lost == "record":
                patch.setattr(world.store, "record", away)
            assert await dispatcher.cancel(ticket, user="alice") == 2
    assert tried == ([] if lost == "record" else ["alice"])
    assert caplog.text.count("states of deliveries are not pushed") == 1
    assert await world.states(ticket) == {"email": [State.CANCELLED], "in_app": [State.CANCELLED]}


async def test_report_on_a_closed_store(make: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a report of a delivery that does not exist: whoever sent it has to repeat it."""
    world = make(note("email"))
    ticket = await world.submit()
    await world.settle()
    (row,) = (await world.store.record(ticket, "alice"))[2]
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "delivery", closed)
        with pytest.raises(ClosedError):
            await world.dispatcher.report(Report(row.id, State.DELIVERED))
    assert await world.dispatcher.report(Report(row.id, State.DELIVERED)) == 1
    assert await world.states(ticket) == {"email": [State.DELIVERED]}
