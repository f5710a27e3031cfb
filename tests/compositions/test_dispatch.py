"""A dispatcher whose log is on Redis, and whose deliveries are in PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from notify import Notifier
from notify.dispatch import Dispatcher, Fallback, NotificationType, Recipient, State, Ticket
from notify.dispatch.channels import InAppChannel
from notify.inbox import Inbox
from notify.testing.dispatch import RecordingChannel
from notify_pg import PostgresDispatchStore
from notify_redis import RedisStreamStore
from tests.dispatch.fake_http import FakeServer
from tests.dispatch.test_worker_kills import arrived, outcome, settle
from tests.dispatch.working import ONCE, STEPS, Workers, dispatcher

from .places import Place

pytestmark = pytest.mark.anyio

NOTE = NotificationType("note", channels=["in_app", "email"], fallback={"email": Fallback("unread", after=900)})


class Instance:
    """One process of an application: its own connections to both servers."""

    def __init__(self, place: Place) -> None:
        self.later = timedelta(0)
        self.log = place.make(RedisStreamStore)
        self.notifier = Notifier(self.log)
        self.inbox = Inbox(self.notifier)
        self.store = place.make(PostgresDispatchStore)
        self.email = RecordingChannel(has_endpoints=False)
        self.dispatcher = Dispatcher(
            self.inbox,
            self.store,
            [NOTE],
            {"in_app": InAppChannel(self.inbox), "email": self.email},
            recipients=lambda ids: [Recipient(each) for each in ids],
            clock=lambda: datetime.now(UTC) + self.later,
        )

    async def settle(self) -> None:
        while (await self.dispatcher.tick()).claimed:
            pass

    async def states(self, ticket: Ticket) -> dict[str, tuple[State, str]]:
        found = await self.dispatcher.explain(ticket, "alice")
        assert found is not None
        return {each.channel: (each.state, each.reason) for each in found.report()}


@pytest.fixture
async def two(place: Place) -> AsyncIterator[list[Instance]]:
    async with AsyncExitStack() as stack:
        made = [Instance(place) for _ in range(2)]
        for each in made:
            for part in (each.log, each.store, each.notifier):
                await stack.enter_async_context(part)
        yield made


async def test_email_if_the_item_stays_unread(two: list[Instance]) -> None:
    """The item appears live at the other instance; what is read there gets no e-mail, what stays unread gets one."""
    ours, other = two
    async with other.notifier.subscribe("alice") as stream:
        first = await ours.dispatcher.submit("note", "alice", {"title": "one"}, idempotency_key="1")
        second = await ours.dispatcher.submit("note", "alice", {"title": "two"}, idempotency_key="2")
        again = await other.dispatcher.submit("note", "alice", {"title": "two"}, idempotency_key="2")
        assert (again.id, again.replayed) == (second.id, True)
        await ours.settle()
        assert sorted([(await stream.next(60)).payload["title"] for _ in range(2)]) == ["one", "two"]
    items = {each.event.payload["title"]: each.id for each in (await other.inbox.list("alice")).items}
    await other.inbox.mark_read("alice", [items["one"]])
    await other.settle()
    assert not ours.email.jobs + other.email.jobs
    other.later = timedelta(minutes=16)
    await other.settle()
    assert [job.content.title for job in other.email.jobs] == ["two"]
    assert (await ours.states(first))["email"] == (State.CANCELLED, "read_already")
    assert (await ours.states(second))["email"][0] is State.ACCEPTED


async def test_cancelling_and_forgetting(two: list[Instance]) -> None:
    """What was cancelled in PostgreSQL sends no e-mail; one call erases both halves of the composition."""
    ours, other = two
    ticket = await ours.dispatcher.submit("note", "alice", {"title": "one"})
    await other.settle()
    assert await other.dispatcher.cancel(ticket) == 1
    ours.later = timedelta(minutes=16)
    await ours.settle()
    assert not ours.email.jobs
    assert (await ours.states(ticket))["email"] == (State.CANCELLED, "cancelled")
    assert (await other.inbox.list("alice")).counts.total == 1
    assert await ours.dispatcher.forget("alice") == 2
    assert (await other.inbox.list("alice")).counts.total == 0
    assert await other.dispatcher.explain(ticket, "alice") is None


KILLED = ("claimed", "begun", "answered", "finishing", "looking at the inbox", "folding")


@pytest.fixture
def provider() -> Iterator[FakeServer]:
    server = FakeServer()
    with server.running():
        yield server


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.kill()


async def test_workers_that_are_killed(place: Place, provider: FakeServer, workers: Workers) -> None:
    """SIGKILL at a step loses nothing: an item is listed once, and only an SMS that may be sent is unknown."""
    async with AsyncExitStack() as stack:
        heirs: dict[str, Dispatcher] = {}
        for number, step in enumerate(KILLED):
            where = json.dumps(["postgres", place.dsn, f"{place.name}_{number}", place.redis])
            heirs[step] = await stack.enter_async_context(dispatcher(where, provider.url))
            await heirs[step].submit(STEPS[step], "alice", {"title": step}, idempotency_key=step)
            workers.start(where, provider.url, step)
        await asyncio.to_thread(workers.wait)
        await asyncio.gather(*map(settle, heirs.values()))
        sent = arrived(provider)
        for step, heir in heirs.items():
            found = await outcome(heir, step, sent)
            assert found["sms unknown" if step in ONCE else "sms accepted"] == 1, step
            if STEPS[step] in ("all", "fallback"):
                assert found["in_app accepted"] == 1, step
            if STEPS[step] == "all":
                assert found["webhook accepted"] == 2, step
