"""Inboxes in PostgreSQL beyond the suite: tables against the pure fold, locks, kills, roles, the outbox, forgetting."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from notify import Event, ids
from notify.inbox import InboxFolds
from notify.inbox.abc import InboxRetention, ItemQuery
from notify_pg import PostgresStore, PostgresStreamStore
from tests.notify_pg.conftest import Make

pytestmark = pytest.mark.anyio

ALL = ItemQuery(limit=100_000, state="all")

NOW = 1
"""The model's time in milliseconds. An item that expires then has expired on arrival, in the model as in the store."""


def item(user: str, n: int, group: str | None = None, expires: str = "") -> Event:
    return Event(user, "n", n, group=group, meta={"notify.item": expires})


def change(user: str, kind: str, **payload: object) -> Event:
    return Event(user, f"notify.{kind}", payload)


class Model:
    """The pure fold of what a store has accepted, and what the store says itself."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.heads: dict[str, str] = {}
        self.folds = InboxFolds(lambda user: self.heads.get(user, "0"))
        self.folds.retention = store.inbox_retention

    def accept(self, event: Event, now: int = NOW) -> None:
        """Apply an event that the store has accepted, unless it is known."""
        if event.id and ids.compare(event.id, self.heads.get(event.user, "0")) > 0:
            self.heads[event.user] = event.id
            self.folds.apply(event, now)

    async def check(self, user: str) -> None:
        """Compare what the store lists with the fold."""
        page = await self.store.items(user, ALL)
        self.folds.pull(user, NOW)
        expected = self.folds.page(user, ALL, NOW)
        assert [describe(each) for each in page.items] == [describe(each) for each in expected.items]
        assert page.counts == expected.counts


def describe(item: Any) -> tuple[object, ...]:
    flags = (item.seen_at is None, item.read_at is None, item.dismissed_at is None)
    return (item.id, item.event, *flags, item.expires_at)


async def assert_counted(sql: asyncpg.Connection, schema: str) -> None:
    """The counters of each inbox are those of its rows, and its bounds bound them."""
    wrong = await sql.fetch(
        f"""
        SELECT b.*, i.* FROM {schema}.notify_inboxes b FULL JOIN (
            SELECT user_id, count(*) AS kept, count(*) FILTER (WHERE dismissed_at IS NULL) AS total,
                count(*) FILTER (WHERE seen_at IS NULL) AS unseen, count(*) FILTER (WHERE read_at IS NULL) AS unread,
                min(id) AS oldest, min(expires_at) AS expiry, min(id) FILTER (WHERE read_at IS NOT NULL) AS first_read
            FROM {schema}.notify_items GROUP BY user_id
        ) i ON i.user_id = b.user_id
        WHERE (b.kept, b.total, b.unseen, b.unread) IS DISTINCT FROM
                (coalesce(i.kept, 0), coalesce(i.total, 0), coalesce(i.unseen, 0), coalesce(i.unread, 0))
            OR b.oldest > i.oldest OR b.expiry > i.expiry OR b.kept_before > i.first_read
            OR (b.oldest IS NULL AND i.oldest IS NOT NULL) OR (b.expiry IS NULL AND i.expiry IS NOT NULL)
        """
    )
    assert wrong == []


USERS = ("alice", "bob", "topic", "news", "guest")


def random_events(rng: random.Random, known: Sequence[str]) -> list[Event]:
    """A batch to save: items, some of them due on arrival, plain events, repeated keys, sometimes changes."""
    events = []
    for _ in range(rng.choice((1, 2, 7, 30))):
        user, n = rng.choice(USERS), rng.randrange(1000)
        kind = rng.random()
        if kind < 0.6:
            expires = str(NOW) if rng.random() < 0.2 else ""
            events.append(item(user, n, rng.choice((None, None, "a", "b", "c")), expires))
        elif kind < 0.75:
            events.append(Event(user, "plain", n, key=rng.choice((None, "k", "l"))))
        elif kind < 0.85:
            meta = {"notify.item": ""}
            events.append(Event(user, "n", n, group="a", key=rng.choice(("k", "l", "m")), meta=meta))
        else:
            events.append(random_change(rng, known))
    return events


def random_change(rng: random.Random, known: Sequence[str]) -> Event:
    user = rng.choice(USERS)
    kind = rng.choice(("seen", "read", "unread", "dismissed", "restored"))
    how = rng.random()
    if how < 0.3:
        return change(user, kind, ids=[*rng.sample(known, min(3, len(known))), "9-9", "x", 7, "5-2000000@topic"])
    if how < 0.5:
        return change(user, kind, group=rng.choice("abc"))
    if how < 0.75:
        return change(user, kind, up_to=rng.choice([*known, "0"]))
    if how < 0.85:
        return change(user, "followed", topic=rng.choice(("topic", "news")), since="0")
    if how < 0.9:
        return change(user, "unfollowed", topic=rng.choice(("topic", "news")))
    return change(user, rng.choice(("read", "nonsense")[:1]), other=1)


@pytest.mark.parametrize("seed", range(6))
async def test_random_work_leaves_what_the_fold_says(
    make: Make, sql: asyncpg.Connection, schema: str, seed: int
) -> None:
    """Batches, changes, follows, merges, pulls by two processes: rows, order, counts and positions are the fold's."""
    rng = random.Random(seed)
    stores = [await make(timeout=20.0), await make(timeout=20.0)]
    for store in stores:
        store.inbox_retention = InboxRetention(
            max_items=rng.choice((4, 12)), max_age=None, keep_unread=bool(seed % 3 == 0)
        )
    stores[1].inbox_retention = stores[0].inbox_retention
    model = Model(stores[0])
    known: list[str] = []
    for _ in range(60):
        store = rng.choice(stores)
        action = rng.random()
        if action < 0.55:
            events = random_events(rng, known)
            for outcome in await store.save_many(events):
                assert isinstance(outcome, Event), outcome
                model.accept(outcome)
                known.append(outcome.id)
        elif action < 0.85:
            draft = random_change(rng, known)
            if rng.random() < 0.3:
                draft = change("alice", "followed", topic="news", since=None)
            if rng.random() < 0.3:
                page = await store.items(draft.user, ItemQuery(limit=3))
                draft = change(draft.user, "read", up_to=page.position)
                known += [each.id for each in page.items]
                model.folds.pull(draft.user, NOW)
            if rng.random() < 0.2:
                draft = change("bob", "merged", session="guest", until=None)
            expected, names = model.folds.prepare(draft, NOW)
            made = await store.change(draft)
            assert (made.event is None) == (expected is None), draft
            assert made.ids == tuple(names)
            if made.event is not None and expected is not None:
                assert made.event.payload == expected.payload
                model.accept(made.event)
            counts = model.folds.counts(draft.user, NOW)
            if draft.type == "notify.merged":  # only the model read the session's topics; both are exact
                counts = replace(counts, position=made.counts.position)
            assert made.counts == counts
        else:
            await store.pull("alice")
            model.folds.pull("alice", NOW)
            await model.check(rng.choice(USERS))
        await assert_counted(sql, schema)
    for user in USERS:
        await model.check(user)


async def test_a_topic_costs_one_write(make: Make, sql: asyncpg.Connection, schema: str) -> None:
    """An item of a topic writes the rows of one item, whatever the number of followers, some of them connected."""
    store: PostgresStreamStore = await make(PostgresStreamStore, timeout=20.0)
    await store.change(change("user0", "followed", topic="topic", since="0"))
    await sql.execute(
        f"INSERT INTO {schema}.notify_follows SELECT 'user' || n, 'topic', 0, 0, false FROM generate_series(1, 99999) n"
    )
    await store.save(item("topic", 0))
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(store.subscribe("topic")) for _ in range(10)]
        before = await sql.fetchval("SELECT pg_current_xact_id()::text::bigint")
        event = await store.save(item("topic", 1))
        for stream in streams:
            assert await stream.next(20) == event
    written = {
        table: await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_{table} WHERE xmin::text::bigint > $1", before)
        for table in ("events", "heads", "items", "inboxes", "follows")
    }
    assert written == {"events": 1, "heads": 1, "items": 1, "inboxes": 1, "follows": 0}
    assert [each.event.payload for each in (await store.items("user99999", ItemQuery())).items] == [1, 0]


@pytest.mark.parametrize("is_again", [False, True])
async def test_changes_whose_reply_was_lost_are_applied_once(
    make: Make, sql: asyncpg.Connection, schema: str, is_again: bool
) -> None:
    """The retry overwrites neither what others have changed since then nor the position of the inbox."""
    store: PostgresStore = await make(timeout=20.0)
    sent = await store.save(item("alice", 0))
    nonce, deadline = secrets.randbits(62), time.time_ns() // 1000 + 100_000_000
    statement, arguments = await store._saver.statement([change("alice", "read", ids=[sent.id])], sql.fetch)
    first = await sql.fetchrow(statement, nonce, deadline, False, 5000, *arguments)
    await store.change(change("alice", "unread", ids=[sent.id]))
    again = await sql.fetchrow(statement, nonce, deadline, is_again, 5000, *arguments)
    assert again["ids"] == first["ids"]
    assert (await store.items("alice", ItemQuery())).counts.unread == 1
    heads = f"SELECT last_id FROM {schema}.notify_heads WHERE user_id = 'alice'"
    assert await sql.fetchval(f"SELECT position FROM {schema}.notify_inboxes") == await sql.fetchval(heads)
