"""Inboxes while servers die, hang, lose replies and are replaced: each is the fold of what its log accepted, once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from itertools import count
from random import Random
from typing import Any

import anyio
import pytest

from notify import BackendError, Event, ids
from notify.inbox import InboxFold, InboxRetention
from notify.inbox.abc import CHANGES, ITEM, ItemQuery
from notify_redis import RedisStore
from tests.notify_redis.test_faults import in_thread, proxied, url
from tests.parts import until
from tests.servers.redis import Server, cluster, sentinels

pytestmark = pytest.mark.anyio

USERS = ("alice", "bob")
MARKS = ("seen", "read", "unread", "dismissed", "restored")
RETENTION = InboxRetention(max_items=200, max_age=None)


def item(user: str, payload: Any, group: str | None = None) -> Event:
    return Event(user, "t", payload, group=group, meta={ITEM: ""})


def store_at(address: str, prefix: str, **options: Any) -> RedisStore:
    store = RedisStore(address, prefix=prefix, max_len=100_000, **options)
    store.inbox_retention = RETENTION
    return store


async def assert_folded(store: RedisStore, user: str) -> list[Event]:
    """Assert that the inbox is what its log says, applied from the beginning; return the log."""
    log = [*(await store.read(user, "0", 100_000)).events]
    fold = InboxFold(user)
    for event in log:
        if ITEM in event.meta or event.type in CHANGES:
            fold.apply(event, ids.parse(event.id)[0], RETENTION)
    query = ItemQuery(state="all", limit=1000)
    expected = fold.page(query, log[-1].id, 0, RETENTION)
    page = await store.items(user, query)
    assert page == expected  # with the times: those of the events
    return log


class Work:
    """Sends and changes by several tasks through several clients."""

    def __init__(self, stores: list[RedisStore]) -> None:
        self.stores = stores
        self.numbers = count()
        self.acked: list[Event] = []
        self.refused: list[str] = []
        self.is_on = True

    async def task(self, number: int) -> None:
        random = Random(number)
        store = self.stores[number % len(self.stores)]
        while self.is_on:
            user = random.choice(USERS)
            try:
                draft = item(user, next(self.numbers), random.choice((None, "g", "h")))
                event = await store.save(draft)
                self.acked.append(event)
                named = random.choice(({"ids": [event.id]}, {"up_to": event.id}, {"group": "g"}))
                change = await store.change(Event(user, f"notify.{random.choice(MARKS)}", named))
                if change.event is not None:
                    self.acked.append(change.event)
            except BackendError as error:
                self.refused.append(type(error).__name__)
            await anyio.sleep(0.001)

    async def more(self, events: int = 40) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.acked) + events
        await until(lambda: len(self.acked) >= wanted, 30)


@asynccontextmanager
async def working(address: str, prefix: str) -> AsyncIterator[Work]:
    """Let three clients of two tasks each work during the block, which is to check the result at its end."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(aclosing(store_at(address, prefix))) for _ in range(3)]
        work = Work(stores)
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(work.task, number)
            try:
                await work.more()
                yield work
                await work.more()
            finally:
                work.is_on = False
        logs = {user: await assert_folded(stores[0], user) for user in USERS}
        found = {event for log in logs.values() for event in log}
        payloads = [event.payload for log in logs.values() for event in log if event.type == "t"]
        assert len(payloads) == len(set(payloads)), "an item was appended twice"
        work.acked = [event for event in work.acked if event not in found]


async def test_a_server_that_is_killed_and_restarted(victim: Server, prefix: str) -> None:
    """After SIGKILL and a restart every inbox is the fold of its log, which has all that was acknowledged."""
    async with working(victim.url, prefix) as work:
        await in_thread(victim.kill)
        await in_thread(victim.start)
    assert work.acked == []


async def test_a_server_that_hangs(victim: Server, prefix: str) -> None:
    """While the server is stopped, attempts are given up and repeated; then none was applied twice."""
    async with working(victim.url, prefix) as work:
        await in_thread(victim.freeze)
        await anyio.sleep(2.5)  # longer than one attempt
        await in_thread(victim.thaw)
    assert work.acked == []


async def test_a_network_in_trouble(server: Server, prefix: str) -> None:
    """Connections that are cut and replies that are lost: nothing is appended or applied twice."""
    async with proxied(server) as proxy, working(url(proxy), prefix) as work:
        for number in range(10):
            if number % 2:
                proxy.drop_reply(request=b"notify.")
            else:
                await proxy.reset()
            await work.more(20)
    assert work.acked == []
    assert work.refused == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sentinels", "cluster"])
async def test_a_replica_that_is_promoted(prefix: str, kind: str) -> None:
    """On the new master log and inbox still agree, whatever the failover has lost of both."""
    if kind == "cluster":
        with cluster(replicas=True) as all_:
            await promote(all_.url, prefix, partial(in_thread, all_.masters[1].kill))
    else:
        with sentinels() as watched:
            await promote(watched.url, prefix, partial(in_thread, watched.master.kill))


async def promote(address: str, prefix: str, kill: Callable[[], Awaitable[None]]) -> None:
    async with working(address, prefix) as work:
        await kill()
        await until(lambda: bool(work.refused) or len(work.acked) > 400, 60)
    assert len(work.stores) == 3


@pytest.mark.parametrize("lost", [1, 3])
async def test_replies_that_are_lost(server: Server, prefix: str, lost: int) -> None:
    """An item or a change whose reply is lost is stored once, and the change still tells what it did."""
    async with proxied(server) as proxy, aclosing(store_at(url(proxy), prefix)) as store:
        sent = [await store.save(item("alice", number, group=f"g{number}")) for number in range(3)]
        proxy.drop_reply(request=b"replacement", times=lost)
        sent.append(await store.save(item("alice", "replacement", group="g1")))
        for effect, named, expected in (
            ("read", {"up_to": sent[2].id}, [sent[2].id, sent[0].id]),
            ("seen", {"group": "g1"}, [sent[3].id]),
            ("dismissed", {"ids": [sent[0].id, sent[3].id]}, [sent[3].id, sent[0].id]),
            ("restored", {"ids": [sent[0].id]}, [sent[0].id]),
            ("unread", {"ids": [sent[3].id]}, [sent[3].id]),
        ):
            before = proxy.lost_replies
            proxy.drop_reply(request=f"notify.{effect}".encode(), times=lost)
            change = await store.change(Event("alice", f"notify.{effect}", named))
            assert proxy.lost_replies == before + lost
            assert [*change.ids] == expected
            assert change.counts == (await store.items("alice", ItemQuery(limit=0))).counts
        proxy.drop_reply(request=b"notify.read", times=lost)
        assert (await store.change(Event("alice", "notify.read", {"ids": [sent[0].id]}))).event is None
        assert len(await assert_folded(store, "alice")) == 9


async def test_a_follow_while_the_reply_of_an_unfollow_is_lost(server: Server, prefix: str) -> None:
    """Further attempts do not undo what came after the first one, though the first one left the user no inbox."""
    follow = Event("alice", "notify.followed", {"topic": "news", "since": "0"})
    async with (
        proxied(server) as proxy,
        aclosing(store_at(url(proxy), prefix)) as store,
        aclosing(store_at(server.url, prefix)) as other,
        anyio.create_task_group() as tasks,
    ):
        await store.head("alice")  # connects
        proxy.drop_reply(request=b"notify.unfollowed", times=1000)
        tasks.start_soon(store.save, Event("alice", "notify.unfollowed", {"topic": "news"}))
        await until(lambda: proxy.lost_replies > 0, 20)
        await other.save(follow)
        lost = proxy.lost_replies
        await until(lambda: proxy.lost_replies > lost, 20)
        proxy.drop_reply(times=0)
    async with aclosing(store_at(server.url, prefix)) as store:
        assert [each.topic for each in await store.edges(user="alice")] == ["news"]


async def test_a_late_first_attempt_applies_nothing(victim: Server, prefix: str) -> None:
    """Attempts that wait in the socket of a stopped server while others are made are executed, and do nothing more."""
    async with aclosing(store_at(victim.url, prefix, timeout=8.0)) as store:
        first = await store.save(item("alice", 1))
        await in_thread(victim.freeze)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.save, item("alice", 2, group="g"))
            tasks.start_soon(store.change, Event("alice", "notify.read", {"ids": [first.id]}))
            tasks.start_soon(store.change, Event("bob", "notify.read", {"ids": ["1-1"]}))
            await anyio.sleep(2.6)
            await in_thread(victim.thaw)
        assert [event.type for event in await assert_folded(store, "alice")] == ["t", "t", "notify.read"]
        assert await store.head("bob") == "0"


async def test_a_hundred_sends_in_one_group(server: Server, prefix: str) -> None:
    """From several clients: one item is left, the last of the log, and it can be dismissed."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(aclosing(store_at(server.url, prefix))) for _ in range(4)]
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(stores[number % 4].save, item("alice", number, group="g"))
        log = await assert_folded(stores[0], "alice")
        assert len(log) == 100
        page = await stores[1].items("alice", ItemQuery())
        assert [each.id for each in page.items] == [log[-1].id]
        change = await stores[2].change(Event("alice", "notify.dismissed", {"group": "g"}))
        assert ([*change.ids], change.counts.total) == ([log[-1].id], 0)
