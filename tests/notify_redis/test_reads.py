"""Logs are read by XREAD: replay from a cursor, and healing for many users in one command."""

from __future__ import annotations

import re
from contextlib import aclosing

import pytest

from notify import Event, Page
from notify_redis import RedisStore, RedisStreamStore
from tests.servers.redis import Server, plain_info

pytestmark = pytest.mark.anyio

LAST = f"{(1 << 64) - 1}-{(1 << 64) - 1}"


def calls(server: Server, command: str) -> int:
    """How often the server has executed a command."""
    found = re.search(r"\d+", plain_info(server, "commandstats").get(f"cmdstat_{command}", "0"))
    assert found is not None
    return int(found[0])


async def test_replay_reads_by_xread(victim: Server) -> None:
    """A replay reads each page with one XREAD, and no entry with XRANGE."""
    async with aclosing(RedisStreamStore(victim.url)) as store:
        events = await store.save_many([Event("alice", "t", number) for number in range(700)])
        ranges, reads = calls(victim, "xrange"), calls(victim, "xread")
        async with store.subscribe("alice", "0") as stream:
            assert [await stream.next(5) for _ in events] == list(events)
        assert calls(victim, "xrange") == ranges
        assert 2 <= calls(victim, "xread") - reads <= 6


async def test_many_logs_are_read_by_one_command(victim: Server) -> None:
    """What is new for 64 users is found by one XREAD."""
    async with aclosing(RedisStore(victim.url)) as store:
        users = [f"user{number}" for number in range(64)]
        await store.save_many([Event(user, "t") for user in users for _ in range(2)])
        ranges, reads = calls(victim, "xrange"), calls(victim, "xread")
        pages = await store.read_many(dict.fromkeys(users, "0"), 10)
        assert {user: len(page.events) for user, page in pages.items()} == dict.fromkeys(users, 2)
        assert calls(victim, "xread") - reads == 1
        assert calls(victim, "xrange") == ranges


@pytest.mark.parametrize("max_age", [None, 3600.0])
async def test_positions_at_the_edges(server: Server, prefix: str, max_age: float | None) -> None:
    """The first and the last position that exist are read like any other, with an age and without."""
    async with aclosing(RedisStore(server.url, prefix=prefix, max_age=max_age)) as store:
        event = await store.save(Event("alice", "t"))
        whole = Page((event,), None, event.id)
        assert page(await store.read("alice", "0", 10)) == whole
        assert page(await store.read("alice", LAST, 10)) == Page((), "rewound", event.id)
        assert await store.read("bob", "0", 10) == Page((), None, "0")
        found = await store.read_many({"alice": LAST, "bob": LAST, "carol": "0"}, 10)
        assert {user: (each.gap, each.position) for user, each in found.items()} == {
            "alice": ("rewound", event.id),
            "bob": ("expired", "0"),
        }


def page(given: Page) -> Page:
    """A page that can be compared."""
    return Page(tuple(given.events), given.gap, given.position)
