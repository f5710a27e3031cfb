"""A dispatcher whose log, presence and counts are on Redis, and whose deliveries are in SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from notify import Notifier
from notify.dispatch import Dispatcher, Endpoint, Fallback, FrequencyCap, NotificationType, Recipient, State
from notify.dispatch.abc import Move
from notify.dispatch.channels import InAppChannel
from notify.inbox import Inbox
from notify.testing.dispatch import RecordingChannel, VirtualClock
from notify_redis import RedisCaps, RedisPresence, RedisStreamStore
from notify_sqlite import SQLiteDispatchStore
from tests.servers.redis import Server, single

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOTE = NotificationType(
    "note",
    channels=["in_app", "web_push", "email"],
    fallback={"web_push": Fallback("away"), "email": Fallback("unread", after=900)},
)
OFFER = NotificationType(
    "offer", channels=["email"], category="marketing", opt_in="offers", caps=[FrequencyCap(2, "day")]
)
LEASE = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as server:
        yield server


class Instance:
    """One process of an application: its own connections to Redis, and its own dispatcher on the shared file."""

    def __init__(self, server: Server, prefix: str, file: Path, clock: VirtualClock) -> None:
        self.clock = clock
        self.log = RedisStreamStore(server.url, prefix=prefix)
        self.presence = RedisPresence(server.url, prefix=prefix)
        self.notifier = Notifier(self.log, presence=self.presence, linger=0)
        self.inbox = Inbox(self.notifier)
        self.store = SQLiteDispatchStore(file, clock=clock)
        self.caps = RedisCaps(server.url, prefix=prefix)
        self.in_app = InAppChannel(self.inbox)
        self.push = RecordingChannel()
        self.email = RecordingChannel(has_endpoints=False)
        self.dispatcher = Dispatcher(
            self.inbox,
            self.store,
            [NOTE, OFFER],
            {"in_app": self.in_app, "web_push": self.push, "email": self.email},
            recipients=_recipients,
            presence=self.presence,
            caps=self.caps,
            gates=self.caps,
            lease=LEASE,
            clock=clock.now,
        )

    async def settle(self) -> None:
        while (await self.dispatcher.tick()).claimed:
            pass

    async def states(self, ticket: str) -> dict[str, State]:
        found = await self.dispatcher.explain(ticket, "alice")
        assert found is not None
        return {each.channel: each.state for each in found.report()}


async def _recipients(ids: Sequence[str]) -> list[Recipient]:
    return [Recipient(each) for each in ids]


@pytest.fixture
async def two(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[list[Instance]]:
    clock = VirtualClock()
    prefix, file = request.node.name.partition("[")[0], tmp_path / "deliveries.db"
    async with AsyncExitStack() as stack:
        made = [Instance(server, prefix, file, clock) for _ in range(2)]
        for each in made:
            for part in (each.log, each.presence, each.store, each.caps, each.notifier):
                await stack.enter_async_context(part)
        await made[0].store.register(Endpoint("alice", "web_push", "https://push.example/a"), clock.now())
        yield made


async def test_who_is_connected_and_what_is_read_is_known_to_all(two: list[Instance]) -> None:
    """The item reaches a page at the other instance; push is for those who are away; e-mail for what stays unread."""
    ours, other = two
    async with other.notifier.subscribe("alice") as stream:
        first = (await ours.dispatcher.submit("note", "alice", {"title": "one"})).id
        await ours.settle()
        assert (await stream.next(60)).payload["title"] == "one"
        assert (await ours.states(first))["web_push"] is State.SKIPPED
    with anyio.fail_after(60):
        while await ours.presence.locate(["alice"]):  # noqa: ASYNC110  leaving is announced by no event
            await anyio.sleep(0.01)
    second = (await ours.dispatcher.submit("note", "alice", {"title": "two"})).id
    await other.settle()
    assert [job.content.title for job in other.push.jobs] == ["two"]
    items = {each.event.payload["title"]: each.id for each in (await other.inbox.list("alice")).items}
    await other.inbox.mark_read("alice", [items["one"]])
    assert (await ours.states(first))["email"] is State.CANCELLED
    ours.clock.advance("16m")
    await ours.settle()
    assert [job.content.title for job in ours.email.jobs] == ["two"]
    assert (await ours.states(first))["email"] is State.CANCELLED
    assert (await ours.states(second))["email"] is State.ACCEPTED


async def test_an_item_is_listed_once_if_its_worker_dies(two: list[Instance]) -> None:
    """It had sent, and not stored the outcome; the next worker sends again, and the log recognises the key."""
    ours, other = two
    ticket = (await ours.dispatcher.submit("note", "alice", {"title": "one"})).id
    (claim,) = await ours.store.claim(ours.clock.now(), lease=LEASE, channels=["in_app"])
    await ours.store.advance([Move(claim.delivery.id, claim.delivery.fence, State.SENDING)], ours.clock.now())
    event = await ours.inbox.send("alice", "note", {"title": "one"}, key=claim.delivery.id)
    assert event is not None
    ours.clock.advance(LEASE + 1)
    await other.settle()
    assert [each.id for each in (await ours.inbox.list("alice")).items] == [event.id]
    found = await ours.dispatcher.explain(ticket, "alice")
    assert found is not None
    assert [each.provider_id for each in found.deliveries if each.channel == "in_app"] == [event.id]


async def test_caps_are_counted_on_redis(two: list[Instance]) -> None:
    """Both instances count in the same place."""
    ours, other = two
    await ours.dispatcher.set_preferences("alice", {"opt_in": {"offers": True}})
    for number in range(4):
        await ours.dispatcher.submit("offer", "alice", {"title": str(number)})
        await (ours, other)[number % 2].settle()
    assert len(ours.email.jobs) == len(other.email.jobs) == 1
