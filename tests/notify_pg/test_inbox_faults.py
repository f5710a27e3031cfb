"""Inboxes when processes compete, and when the server or a client is killed: tables equal the pure fold of the log."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import asyncpg
import pytest

from notify import Event, NotifyError, ids
from notify.inbox import InboxFold, InboxRetention
from notify.inbox.abc import ItemQuery
from notify.testing import FaultProxy
from notify_pg import PostgresStore, PostgresStreamStore
from tests.notify_pg.conftest import Make
from tests.notify_pg.test_inbox import assert_counted, change, item
from tests.parts import until, untraced_environment
from tests.servers.postgres import Server, running

pytestmark = pytest.mark.anyio

FOREVER = InboxRetention(max_items=100_000, max_age=None)

CHILD = """
import asyncio, random, sys
from notify import Event
from notify_pg import PostgresStore

async def main(dsn, schema, seed, count, mixed):
    rng = random.Random(seed)
    async with PostgresStore(dsn, schema=schema, timeout=30.0) as store:
        print("ready", flush=True)
        for n in range(count) if count else iter(int, 1):
            await store.save(Event("alice", "n", [seed, n], group="g", meta={"notify.item": ""}))
            if mixed:
                await store.save(Event("alice", "n", [seed, n], group=rng.choice("abc"), meta={"notify.item": ""}))
                kind = rng.choice(("seen", "read", "unread", "dismissed", "restored"))
                await store.change(Event("alice", "notify." + kind, {"group": rng.choice("abcg")}))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "mixed"))
"""


def start(dsn: str, schema: str, seed: int, count: int, kind: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, dsn, schema, str(seed), str(count), kind]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=untraced_environment())


async def log_of(store: PostgresStore, user: str) -> list[Event]:
    return [*(await store.read(user, "0", 100_000)).events]


async def assert_folded(store: PostgresStore, user: str) -> None:
    """What is listed is the fold of the whole log: contents, order, states and counts."""
    fold = InboxFold(user)
    for event in await log_of(store, user):
        fold.apply(event, ids.parse(event.id)[0], FOREVER)
    query = ItemQuery(limit=100_000, state="all")
    page, expected = await store.items(user, query), fold.page(query, await store.head(user), 0, FOREVER)
    states = [
        [(each.id, each.event, each.seen_at is None, each.read_at is None, each.dismissed_at is None) for each in items]
        for items in (page.items, expected.items)
    ]
    assert states[0] == states[1]
    assert page.counts == expected.counts


async def test_a_hundred_sends_in_one_group_by_several_processes(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str
) -> None:
    """One item is left, the last of the log; every device sees the same order; it can be dismissed."""
    store: PostgresStreamStore = await make(PostgresStreamStore, max_len=10_000, timeout=20.0)
    async with store.subscribe("alice", "0") as one, store.subscribe("alice", "0") as two:
        children = [start(postgres.dsn, schema, seed, 25) for seed in range(4)]
        try:
            events = [await one.next(30) for _ in range(100)]
            assert events == [await two.next(30) for _ in range(100)]
            for child in children:
                assert await asyncio.to_thread(child.wait, 30) == 0
        finally:
            for child in children:
                child.kill()
                child.communicate()
        page = await store.items("alice", ItemQuery())
        assert ([each.id for each in page.items], page.counts.total) == ([events[-1].id], 1)
        other: PostgresStore = await make(timeout=20.0)
        made = await other.change(change("alice", "dismissed", group="g"))
        assert (made.ids, made.counts.total) == ((events[-1].id,), 0)
        assert await one.next(30) == await two.next(30) == made.event
    await assert_folded(store, "alice")
    await assert_counted(sql, schema)


@pytest.fixture(scope="module")
def fragile() -> Iterator[Server]:
    """A server that the tests of this module kill and start again."""
    with running() as server:
        yield server


async def test_clients_that_are_killed(make: Make, postgres: Server, sql: asyncpg.Connection, schema: str) -> None:
    """Processes that send and change are killed in the middle: rows, counts and log agree, and work goes on."""
    store: PostgresStore = await make(max_len=100_000, timeout=20.0)
    for attempt in range(2):
        children = [start(postgres.dsn, schema, seed, 0, "mixed") for seed in range(2)]
        before = len(await log_of(store, "alice"))
        try:
            await until(partial(is_longer, store, before + 20), 30)
        finally:
            for child in children:
                child.send_signal(signal.SIGKILL)
                child.communicate()
        await store.save(item("alice", attempt, "a"))  # waits for what the children have left in the server
        await assert_folded(store, "alice")
        await assert_counted(sql, schema)


async def is_longer(store: PostgresStore, length: int) -> bool:
    return len(await log_of(store, "alice")) >= length


async def test_a_server_that_is_killed(fragile: Server, schema: str) -> None:
    """After a crash rows and log agree, and what was accepted is there: items, and the states that changes gave."""
    accepted: dict[str, list[str]] = {}
    async with PostgresStore(fragile.dsn, schema=schema, timeout=15.0, max_len=100_000) as store:
        stop = asyncio.Event()

        async def write(seed: int) -> None:
            n = 0
            while not stop.is_set():
                n += 1
                group = f"g{seed}{n % 3}"
                try:
                    sent = await store.save(item("alice", n, group))
                    accepted[sent.id] = []
                    made = await store.change(change("alice", "read", group=group))
                    assert made.event is not None
                    accepted[made.event.id] = [sent.id]
                except NotifyError:
                    await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as tasks:
            for seed in range(3):
                tasks.create_task(write(seed))
            await until(lambda: len(accepted) > 15, 30)
            await asyncio.to_thread(fragile.kill)
            await asyncio.to_thread(fragile.start)
            count = len(accepted)
            await until(lambda: len(accepted) > count + 5, 30)
            stop.set()
        assert accepted.keys() <= {event.id for event in await log_of(store, "alice")}
        await assert_folded(store, "alice")
        read = {each.id for each in (await store.items("alice", ItemQuery(state="read"))).items}
        left = {each.id for each in (await store.items("alice", ItemQuery())).items}
        assert left & {name for names in accepted.values() for name in names} <= read
        sql = await asyncpg.connect(fragile.dsn)
        await assert_counted(sql, schema)
        await sql.close()


async def test_a_change_whose_reply_is_lost_in_a_crash(fragile: Server, schema: str) -> None:
    """The next attempt finds the event that the first one stored, and stores nothing; only the ids are unknown."""
    async with FaultProxy("127.0.0.1", fragile.port) as proxy:
        dsn = fragile.dsn.replace(str(fragile.port), str(proxy.port))
        async with PostgresStore(dsn, schema=schema, timeout=60.0) as store:
            sent = [await store.save(item("alice", n)) for n in range(2)]
            proxy.drop_reply(request=b"notify.read", times=1000)
            read = asyncio.create_task(store.change(change("alice", "read", ids=[sent[0].id])))
            await until(lambda: proxy.lost_replies > 0, 30)
            await proxy.refuse()
            await asyncio.to_thread(fragile.kill)
            await asyncio.to_thread(fragile.start)
            proxy.heal()
            await proxy.reset()
            made = await asyncio.wait_for(read, 60)
            await assert_folded(store, "alice")
    assert await is_stored(fragile, schema)
    assert made.event is not None
    assert (made.event.payload, made.counts.unread, made.ids) == ({"ids": [sent[0].id]}, 1, ())


async def is_stored(server: Server, schema: str) -> bool:
    """Whether one change is stored, and rows and counts agree; by a connection that no crash of the server breaks."""
    sql = await asyncpg.connect(server.dsn)
    try:
        await assert_counted(sql, schema)
        count = await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events WHERE type = 'notify.read'")
    finally:
        await sql.close()
    return bool(count == 1)
