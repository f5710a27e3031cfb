"""Inboxes beside open transactions, the outbox, roles without rights, row level security, tables without inboxes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import asyncpg
import pytest

from notify import BackendUnavailableError, Event, Notifier, PushRejectedError, PushUncertainError, UsageError
from notify.inbox import Inbox
from notify.inbox.abc import MAX_TOPICS, InboxRetention, ItemQuery
from notify.testing import FaultProxy
from notify_pg import PostgresStore, PostgresStreamStore
from tests.notify_pg.conftest import Make
from tests.notify_pg.roles import role
from tests.notify_pg.test_inbox import assert_counted, change, item
from tests.parts import until
from tests.servers.postgres import Server

pytestmark = pytest.mark.anyio

LONG = 20.0
"""Seconds for a call, so that a busy machine fails no test."""

FIRST_RELEASE = Path(__file__).parent / "first_release.sql"


async def listed(store: PostgresStore, user: str) -> list[object]:
    page = await store.items(user, ItemQuery(state="all"))
    assert page.counts.total == sum(each.dismissed_at is None for each in page.items)
    return [each.event.payload for each in page.items]


async def test_two_transactions_that_send_in_opposite_order(
    make: Make, postgres: Server, sql: asyncpg.Connection
) -> None:
    """Neither waits for the other, nor does another save or change of these users; all is listed after the commits."""
    store = await make(PostgresStreamStore, timeout=LONG)
    other = await asyncpg.connect(postgres.dsn)
    async with Notifier(store) as notifier, Inbox(notifier) as inbox:
        first = await inbox.send("a", "n", 0)
        assert first is not None
        async with sql.transaction():
            await inbox.send("a", "n", 1, connection=sql)
            async with other.transaction():
                await inbox.send("b", "n", 2, group="g", connection=other)
                await inbox.send("a", "n", 3, connection=other)
                async with asyncio.timeout(LONG / 2):
                    await inbox.send("b", "n", 4, connection=sql)
                    await inbox.send("a", "n", 5, group="g")
                    assert (await inbox.mark_read("a", [first.id])).counts.unread == 1
                assert await listed(store, "a") == [5, 0]
        await until(lambda: _has(store, "a", 4), LONG)
        await until(lambda: _has(store, "b", 2), LONG)
        assert {*await listed(store, "a")} == {0, 1, 3, 5}
        assert {*await listed(store, "b")} == {2, 4}
        transaction = sql.transaction()
        await transaction.start()
        await inbox.send("a", "n", 6, connection=sql)
        await transaction.rollback()
        await inbox.send("a", "n", 7)
        assert 6 not in await listed(store, "a")
    await other.close()


async def _has(store: PostgresStore, user: str, count: int) -> bool:
    return len(await listed(store, user)) == count


async def test_changes_and_reads_beside_an_open_transaction(
    make: Make, postgres: Server, sql: asyncpg.Connection
) -> None:
    """While `save_in` holds a log, pages are read, without news of topics, and a change is rejected with the reason."""
    await make(timeout=LONG)
    store = await make(timeout=3.0)
    await store.change(change("a", "followed", topic="news", since="0"))
    await store.save(item("a", 1))
    await store.save(item("news", 2))
    async with sql.transaction():
        await store.save_in(item("a", 3, "g"), sql)
        await store.save_in(item("a", 4, "g"), sql)
        page = await store.items("a", ItemQuery())
        assert [each.event.payload for each in page.items] == [1]
        assert page.position.endswith(".news.0")
        with pytest.raises(PushRejectedError, match="another transaction holds the log"):
            await store.change(change("a", "read", up_to=page.position))
        with pytest.raises(BackendUnavailableError):
            await store.pull("a")
    assert sorted(map(str, await listed(store, "a"))) == ["1", "2", "4"]
    assert await store.pull("a") == 0


async def test_changes_of_a_locked_log_leave_connections_for_others(make: Make, sql: asyncpg.Connection) -> None:
    """However many wait for one log, saves and reads of other users go on."""
    store = await make(timeout=LONG, pool_size=6)
    sent = [await store.save(item("a", n)) for n in range(12)]
    async with asyncio.TaskGroup() as tasks:
        async with sql.transaction():
            await store.save_in(item("a", 12), sql)
            changes = [tasks.create_task(store.change(change("a", "read", ids=[each.id]))) for each in sent]
            async with asyncio.timeout(LONG / 2):
                for n in range(3):
                    await store.save(item("b", n))
                    assert len(await listed(store, "b")) == n + 1
            assert not any(each.done() for each in changes)
    assert [(await each).ids for each in changes] == [(each.id,) for each in sent]


async def test_changes_that_wait_for_a_log_end_in_time(make: Make, sql: asyncpg.Connection) -> None:
    """However many wait for one log that stays locked, each ends by its deadline, and none is made later.

    Only two wait in the server at a time. The others wait for these, not longer than they would in their place.
    """
    prepared = await make(timeout=LONG)
    sent = await prepared.save_many([item("a", n) for n in range(31)])
    store = await make(timeout=2.0)
    async with sql.transaction():
        await store.save_in(item("a", 31), sql)
        async with asyncio.timeout(LONG):  # two after two would take longer
            changes = [store.change(change("a", "read", ids=[each.id])) for each in sent if isinstance(each, Event)]
            outcomes = await asyncio.gather(*changes, return_exceptions=True)
    # On a busy machine the client may give up before the server does, and then cannot know the outcome.
    assert {type(outcome) for outcome in outcomes} <= {PushRejectedError, PushUncertainError}
    assert any("another transaction holds the log" in str(outcome) for outcome in outcomes), outcomes
    assert (await prepared.items("a", ItemQuery())).counts.unread == 32


async def test_a_change_that_cannot_begin(postgres: Server, schema: str) -> None:
    """A mark up to a position asks first which logs are followed; if that fails, the change is certainly not made."""
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        async with PostgresStore(dsn, schema=schema, timeout=LONG) as store:
            await store.change(change("a", "followed", topic="news", since="0"))
            await store.save(item("a", 1))
            position = (await store.items("a", ItemQuery())).position
            assert "." in position
            await proxy.refuse()
            await proxy.reset()
            with pytest.raises(PushRejectedError):
                await store.change(change("a", "read", up_to=position))
            proxy.heal()
            assert (await store.items("a", ItemQuery())).counts.unread == 1
            assert (await store.change(change("a", "read", up_to=position))).counts.unread == 0


async def test_batches_changes_pulls_and_merges_never_deadlock(
    make: Make, sql: asyncpg.Connection, schema: str
) -> None:
    """Writers of the same users in any order, with pulls, merges, sweeps and forgetting: nothing fails."""
    stores = [await make(timeout=LONG), await make(timeout=LONG)]
    users = ["a", "b", "c"]
    for user in users:
        for topic in users:
            if user != topic:
                await stores[0].change(change(user, "followed", topic=topic, since="0"))

    async def write(store: PostgresStore, seed: int) -> None:
        for n in range(6):
            order = users if (seed + n) % 2 else users[::-1]
            outcomes = await store.save_many([item(user, n, f"g{n % 2}", "1" if n % 3 else "") for user in order])
            assert all(isinstance(outcome, Event) for outcome in outcomes), outcomes
            await store.change(change(order[0], "dismissed", group="g0"))
            await store.pull(order[1])
            await store.change(change(order[2], "merged", session=f"guest{seed}", until=None))
            await store.save(item(f"guest{seed}", n))
            await store.sweep()
            if n == 3:
                await store.forget(f"guest{seed}")

    async with asyncio.TaskGroup() as tasks:
        for seed in range(4):
            tasks.create_task(write(stores[seed % 2], seed))
    await assert_counted(sql, schema)


async def test_an_item_from_any_program_by_the_outbox(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """A row with `notify.item` becomes an item, with its group and expiry; a broken expiry means none."""
    store = await make(relay=0.05, timeout=LONG)
    await sql.executemany(
        f"INSERT INTO {schema}.notify_outbox (user_id, type, data, topic, meta) VALUES ('a', 'n', $1, $2, $3)",
        [
            (b"1", "g", '{"notify.item": ""}'),
            (b"2", "g", '{"notify.item": "never"}'),
            (b"3", None, '{"notify.item": "99999999999999", "x": "y"}'),
            (b"4", None, None),
        ],
    )
    await until(lambda: _has(store, "a", 2), LONG)
    page = await store.items("a", ItemQuery())
    assert [(each.event.payload, each.event.group, each.expires_at is None) for each in page.items] == [
        (3, None, False), (2, "g", True),
    ]  # fmt: skip


async def test_a_role_that_may_not_create_the_tables(
    postgres: Server, sql: asyncpg.Connection, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain pushes work, inboxes are empty, and what would be lost is refused with the remedy, until that is run."""
    await sql.execute(f"CREATE SCHEMA {schema}")
    await sql.execute(FIRST_RELEASE.read_text().replace("{schema}", schema))
    async with role(postgres, schema) as app, PostgresStore(app.dsn, schema=schema, timeout=LONG) as store:
        event = await store.save(Event("a", "n", 0))
        page = await store.items("a", ItemQuery())
        assert ([*page.items], page.position) == ([], event.id)
        assert [*await store.edges(user="a")] == []
        assert (await store.pull("a"), await store.sweep()) == (0, 0)
        for call in (store.save(item("a", 1)), store.change(change("a", "read", up_to="1-1"))):
            with pytest.raises(PushRejectedError, match="run `notify init` as a role that may"):
                await call
        assert (await store.save(Event("a", "n", 2))).prev == event.id
        async with PostgresStore(postgres.dsn, schema=schema, timeout=LONG) as owner:
            await owner.prepare()
        with pytest.raises(PushRejectedError, match="permission denied for table notify_i"):
            await store.save(item("a", 3))
        await sql.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {app.name}")
        await store.save(item("a", 4))
        assert await listed(store, "a") == [4]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any("notify_items" in text and "notify init" in text for text in said)


async def test_row_level_security_on_an_inbox(
    make: Make, postgres: Server, sql: asyncpg.Connection, schema: str
) -> None:
    """It is an error at the first use, as for the other tables, since inboxes would look empty."""
    await make(timeout=LONG)
    await sql.execute(f"ALTER TABLE {schema}.notify_items ENABLE ROW LEVEL SECURITY")
    async with role(postgres, schema) as app:
        store = PostgresStore(app.dsn, schema=schema, timeout=LONG)
        with pytest.raises(UsageError, match=r"row level security hides rows of .*notify_items"):
            await store.items("a", ItemQuery())
        await store.aclose()


async def test_a_change_whose_reply_is_lost(postgres: Server, schema: str, sql: asyncpg.Connection) -> None:
    """A further attempt finds what the first one has stored, and applies nothing twice: changes, items, batches."""
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        async with PostgresStore(dsn, schema=schema, timeout=LONG) as store:
            sent = [await store.save(item("a", n)) for n in range(2)]
            proxy.drop_reply(request=b"notify.read")
            made = await store.change(change("a", "read", ids=[sent[0].id]))
            assert proxy.lost_replies == 1
            assert made.event is not None
            assert (made.event.payload, made.ids, made.counts.unread) == ({"ids": [sent[0].id]}, (sent[0].id,), 1)
            count = f"SELECT count(*) FROM {schema}.notify_events WHERE type = 'notify.read'"
            assert await sql.fetchval(count) == 1
            for drafts in ([item("a", 2, "marked")], [item("a", n, f"marked{n}") for n in range(3)]):
                proxy.drop_reply(request=b"marked")
                assert all(isinstance(outcome, Event) for outcome in await store.save_many(drafts))
            assert proxy.lost_replies == 3
            assert await listed(store, "a") == [2, 1, 0, 2, 1, 0]
        await assert_counted(sql, schema)


async def test_a_follow_while_the_reply_of_an_unfollow_is_lost(
    make: Make, postgres: Server, schema: str, sql: asyncpg.Connection
) -> None:
    """A further attempt does not undo what came after the first one, which left the user no inbox row."""
    await (await make(timeout=LONG)).save(item("creates the tables", 0))
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        async with PostgresStore(dsn, schema=schema, timeout=LONG) as store:
            proxy.drop_reply(request=b"notify.unfollowed", times=1000)
            saving = asyncio.create_task(store.save(change("a", "unfollowed", topic="t")))
            await until(lambda: proxy.lost_replies > 0, LONG)
            async with sql.transaction():
                await sql.execute(f"LOCK TABLE {schema}.notify_follows IN ACCESS EXCLUSIVE MODE")
                lost = proxy.lost_replies

                async def has_attempted() -> bool:
                    is_waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::regclass"
                    return proxy.lost_replies > lost or await sql.fetchval(is_waiting, f"{schema}.notify_follows") > 0

                await until(has_attempted, LONG)
                await store.save_in(change("a", "followed", topic="t", since="0"), sql)
                proxy.drop_reply(times=0)
            await saving
            assert [each.topic for each in await store.edges(user="a")] == ["t"]
        await assert_counted(sql, schema)


async def test_too_many_topics(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """What would exceed the limit is refused, and changes nothing."""
    store = await make(timeout=LONG)
    await store.change(change("a", "followed", topic="t0", since="0"))
    await sql.execute(
        f"INSERT INTO {schema}.notify_follows SELECT 'a', 't' || n, 0, 0, false FROM generate_series(1, $1) n",
        MAX_TOPICS - 1,
    )
    head = await store.head("a")
    with pytest.raises(UsageError, match="can follow 99 topics"):
        await store.change(change("a", "followed", topic="one more", since=None))
    assert await store.head("a") == head
    assert len(await store.edges(user="a", limit=1000)) == MAX_TOPICS
    with pytest.raises(UsageError, match="exactly one"):
        await store.edges()


async def test_a_sweep_of_many_inboxes(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """More inboxes than one statement looks at are swept, up to the limit; so are those whose heads retention took."""
    store = await make(timeout=LONG)
    store.inbox_retention = InboxRetention(max_age=None)
    await store.save_many([item(f"u{n}", n, None, "99999999999999") for n in range(230)] + [item("u0", 1)])
    await sql.execute(f"UPDATE {schema}.notify_items SET expires_at = 1 WHERE expires_at IS NOT NULL")
    await sql.execute(f"UPDATE {schema}.notify_inboxes SET expiry = 1")
    await sql.execute(f"DELETE FROM {schema}.notify_heads WHERE user_id < 'u5'")
    assert await store.sweep(20) == 20
    assert await store.sweep() == 210
    assert await store.sweep() == 0
    assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_items") == 1
    store.inbox_retention = InboxRetention(max_age=0.0)
    await until(lambda: _sweeps(store), LONG)
    await assert_counted(sql, schema)


async def _sweeps(store: PostgresStore) -> bool:
    return await store.sweep() == 1
