"""Inboxes on a server that is gone, or whose replies are lost until the time is up: what callers are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest

from notify import BackendUnavailableError, Event, InvalidEventIdError, PushRejectedError, PushUncertainError
from notify.inbox.abc import ItemQuery
from notify.testing import FaultProxy
from notify_pg import PostgresStore, _inbox
from tests.notify_pg.conftest import Make
from tests.notify_pg.test_inbox import change, item
from tests.servers.postgres import Server

pytestmark = pytest.mark.anyio


class Proxied(NamedTuple):
    """A store that reaches its server through a proxy and does not try for long, and one that is never disturbed."""

    store: PostgresStore
    proxy: FaultProxy
    other: PostgresStore


@pytest.fixture
async def proxied(postgres: Server, make: Make) -> AsyncIterator[Proxied]:
    """Alice follows news, and has one item from there."""
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        dsn = postgres.dsn.replace(str(postgres.port), str(proxy.port))
        store, other = await make(where=dsn, timeout=3.0), await make(timeout=30.0)
        await other.change(change("alice", "followed", topic="news", since="0"))
        await other.save(item("news", 1))
        yield Proxied(store, proxy, other)


async def test_a_server_that_is_gone(proxied: Proxied) -> None:
    """A change to what a position of several logs names is certainly not stored, alone and in a batch."""
    store, proxy, other = proxied
    draft = change("alice", "read", up_to=(await other.items("alice", ItemQuery())).position)
    head = await other.head("alice")
    await proxy.refuse()
    await proxy.reset()
    with pytest.raises(PushRejectedError):
        await store.change(draft)
    (outcome,) = await store.save_many([draft])
    assert isinstance(outcome, PushRejectedError)
    assert await other.head("alice") == head
    assert (await other.change(draft)).counts.unread == 0


async def test_a_change_whose_replies_are_all_lost(proxied: Proxied, sql: asyncpg.Connection, schema: str) -> None:
    """Whether it is stored is unknown; it is, and repeated with its key it is not stored again."""
    store, proxy, other = proxied
    (found,) = (await other.items("alice", ItemQuery())).items
    draft = Event("alice", "notify.read", {"ids": [found.id]}, key="once")
    proxy.drop_reply(request=b"notify.read", times=1000)
    with pytest.raises(PushUncertainError):
        await store.change(draft)
    again = await other.change(draft)
    assert (again.event, again.counts.unread) == (None, 0)
    assert await sql.fetchval(f"SELECT count(*) FROM {schema}.notify_events WHERE type = 'notify.read'") == 1


async def test_a_page_whose_topics_cannot_be_pulled(proxied: Proxied) -> None:
    """Unlike a log that another transaction has locked, a server that does not answer is an error."""
    store, proxy, other = proxied
    proxy.drop_reply(request=b"pull_inbox", times=1000)
    with pytest.raises(BackendUnavailableError):
        await store.items("alice", ItemQuery())
    assert proxy.lost_replies > 0
    assert [each.event.payload for each in (await other.items("alice", ItemQuery())).items] == [1]


async def test_a_topic_with_many_followers_is_forgotten(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the inboxes of some followers in each transaction, and in the end all."""
    monkeypatch.setattr(_inbox, "SWEPT", 2)
    users = [f"user{number}" for number in range(5)]
    await store.save(item("news", 1))
    for user in users:
        await store.change(change(user, "followed", topic="news", since="0"))
        assert (await store.items(user, ItemQuery())).counts.total == 1
    await store.forget("news")
    for user in users:
        assert (await store.items(user, ItemQuery())).counts.total == 0
        assert await store.edges(user=user) == []


async def test_a_place_in_the_list_is_the_id_of_an_item(store: PostgresStore) -> None:
    """Anything else is a mistake of the caller."""
    await store.save(item("alice", 1))
    for before in ("x", "1-1@", "1-1-1"):
        with pytest.raises(InvalidEventIdError, match="before="):
            await store.items("alice", ItemQuery(before=before))
