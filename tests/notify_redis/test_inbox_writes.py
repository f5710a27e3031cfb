"""What an item costs the server: counted commands, whatever the machine; and that what waits is never missed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from notify import Event, InvalidEventIdError, ids
from notify.inbox import InboxRetention
from notify.inbox.abc import ITEM, ItemQuery
from notify_redis import RedisStore
from tests.servers.redis import Server

pytestmark = pytest.mark.anyio

MANY = 230
"""More than twice as many as wait for the sorted sets at most."""

WRITES = ("append", "hset", "zadd", "del")


@pytest.fixture
async def store(server: Server, prefix: str) -> AsyncIterator[RedisStore]:
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        await store.save(item("nobody", 0))  # connects
        yield store


def item(user: str, payload: Any, group: str | None = None, expires: str = "") -> Event:
    return Event(user, "t", payload, group=group, meta={ITEM: expires})


async def commands(server: Server, call: Callable[[], Awaitable[Any]]) -> dict[str, int]:
    """Return how often each command was called."""
    server.ask("CONFIG", "RESETSTAT")
    await call()
    stats = server.ask("INFO", "commandstats")
    return {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}


async def listed(store: RedisStore, user: str = "alice", **query: Any) -> list[Any]:
    page = await store.items(user, ItemQuery(limit=1000, **query))
    return [each.event.payload for each in page.items]


async def test_an_item_is_two_writes(server: Server, store: RedisStore) -> None:
    """Beside the log: its record with the end of the log, and its place among those that wait for the sorted sets."""
    await store.save(item("alice", 0))  # the first one notes in the index when it may be due
    counted = await commands(server, lambda: store.save(item("alice", 1)))
    assert {name: counted.get(name, 0) for name in WRITES} == {"append": 1, "hset": 1, "zadd": 0, "del": 0}


async def test_a_plain_event_touches_no_inbox(server: Server, store: RedisStore) -> None:
    """Whether or not its user has one."""
    for user in ("alice", "bob"):
        await store.save(item(user, 0) if user == "alice" else Event(user, "t"))
        counted = await commands(server, lambda user=user: store.save(Event(user, "t")))
        assert not {*WRITES, "hlen", "zscore"} & counted.keys()


async def test_items_that_wait_are_in_every_answer(store: RedisStore) -> None:
    """After any number of items: counts, pages of each kind, changes, and what followers get."""
    await store.change(Event("bob", "notify.followed", {"topic": "alice", "since": "0"}))
    for number in range(MANY):
        await store.save(item("alice", number))
    newest = list(range(MANY - 1, -1, -1))
    assert await listed(store, "bob") == newest
    counts = (await store.items("alice", ItemQuery(limit=0))).counts
    assert (counts.total, counts.unseen, counts.unread) == (MANY, MANY, MANY)
    for state in ("active", "unread", "all"):
        await store.save(item("alice", state))
        newest.insert(0, state)
        assert await listed(store, state=state) == newest
    last = await store.save(item("alice", "last"))
    change = await store.change(Event("alice", "notify.read", {"up_to": last.id}))
    assert len(change.ids) == MANY + 4
    assert change.counts.unread == 0


async def test_reading_writes_nothing(server: Server, store: RedisStore) -> None:
    """So it works where the server refuses writes: page by page, of some types, counts, and one item."""
    sent = [await store.save(item("alice", number)) for number in range(5)]

    async def read() -> None:
        for state in ("active", "unread", "all"):
            assert await listed(store, state=state) == [4, 3, 2, 1, 0]
            assert await listed(store, state=state, types=("t",), before=sent[2].id) == [1, 0]
        page = await store.items("alice", ItemQuery(limit=2, before=sent[4].id))
        assert [each.id for each in page.items] == [sent[3].id, sent[2].id]
        assert (await store.items("alice", ItemQuery(limit=2, before=page.next))).next is None
        assert await listed(store, ids=(sent[1].id,)) == [1]
        assert await listed(store, state="read") == await listed(store, state="dismissed") == []

    counted = await commands(server, read)
    assert not {*WRITES, "zrem"} & counted.keys()


async def test_items_that_wait_are_replaced_and_removed(store: RedisStore) -> None:
    """An item of a group, one that is over the bound, and a forgotten user leave none behind."""
    store.inbox_retention = InboxRetention(max_items=3)
    for number in range(3):
        await store.save(item("alice", number))
    await store.save(item("alice", "first", "g"))
    assert await listed(store) == ["first", 2, 1]
    await store.save(item("alice", 3))
    await store.save(item("alice", "second", "g"))
    assert await listed(store) == ["second", 3, 2]
    await store.save(item("alice", 4))
    assert await listed(store) == [4, "second", 3]
    for number in range(3):
        await store.save(item("bob", number))
    await store.forget("bob")
    await store.save(item("bob", "after"))
    assert await listed(store, "bob") == ["after"]
    assert (await store.items("bob", ItemQuery(limit=0))).counts.total == 1


async def test_an_item_after_due_ones_is_in_the_index(server: Server, store: RedisStore) -> None:
    """Where an insert removes all others because they are due, `sweep` still finds the new item in its time."""
    await store.save(item("alice", "due", expires="1"))
    await store.save(item("alice", "stays"))
    stream, *_, index = store._names.inbox("alice")
    assert (server.ask("ZSCORE", index, stream) or 0) > 1
    assert await listed(store) == ["stays"]


async def test_the_round_trips_of_a_change(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the docstring of `change` says, for each kind of change, with topics and without, with news and without."""
    trips = 0
    inbox = store._inbox
    ask, save = inbox._ask, inbox._saver.change

    async def counted_ask(commands: Any) -> Any:
        nonlocal trips
        trips += 1
        return await ask(commands)

    async def counted_save(draft: Event, effect: bytes) -> Any:
        nonlocal trips
        trips += 1
        return await save(draft, effect)

    monkeypatch.setattr(inbox, "_ask", counted_ask)
    monkeypatch.setattr(inbox._saver, "change", counted_save)

    async def of(user: str, type_: str, payload: Any) -> int:
        nonlocal trips
        trips = 0
        await store.change(Event(user, f"notify.{type_}", payload))
        return trips

    sent = [await store.save(item("alice", number)) for number in range(4)]
    assert await of("alice", "read", {"ids": [sent[0].id]}) == 1
    assert await of("alice", "read", {"ids": [sent[0].id]}) == 1  # changes nothing
    assert await of("alice", "merged", {"session": "bob", "until": None}) == 3
    assert await of("alice", "followed", {"topic": "news", "since": None}) == 2
    assert await of("alice", "read", {"ids": [sent[1].id]}) == 3
    await store.save(item("news", 0))
    assert await of("alice", "read", {"ids": [sent[2].id]}) == 4
    assert await of("alice", "read", {"ids": [sent[3].id]}) == 3
    await of("carol", "followed", {"topic": "sport", "since": None})
    assert await of("dave", "merged", {"session": "carol", "until": None}) == 4
    assert await of("alice", "unfollowed", {"topic": "news"}) == 4


async def test_old_items_that_are_kept_because_they_are_unread(server: Server, store: RedisStore) -> None:
    """However many, no read, send, change or sweep looks at them; those that are read after all are removed."""
    store.inbox_retention = InboxRetention(max_items=5000, max_age=0.0, keep_unread=True)

    async def work(user: str) -> int:
        newest = (await store.items(user, ItemQuery(limit=1))).items[0].id
        reads = 0
        for call in (
            lambda: store.save(item(user, "more")),
            lambda: store.items(user, ItemQuery(limit=0)),
            lambda: store.change(Event(user, "notify.read", {"ids": [newest]})),
            lambda: store.save(item(user, "more")),
            store.sweep,
        ):
            done = await commands(server, call)
            reads += sum(done.get(name, 0) for name in ("zrange", "zrangebylex", "zlexcount", "zmscore"))
        assert (await store.items(user, ItemQuery(ids=(newest,)))).items == []
        return reads

    await store.save_many([item("bob", n) for n in range(MANY)])
    few = await work("bob")
    for _ in range(4):
        await store.save_many([item("alice", n) for n in range(1000)])
    assert await work("alice") < few + 60
    page = await store.items("alice", ItemQuery(limit=5000))
    assert len(page.items) == 4001
    for each in (page.items[-1], page.items[2000]):
        await store.change(Event("alice", "notify.read", {"ids": [each.id]}))
        assert (await store.items("alice", ItemQuery(ids=(each.id,)))).items == []
    assert (await store.items("alice", ItemQuery(limit=0))).counts.total == 3999


async def test_a_topic_costs_one_write(server: Server, store: RedisStore) -> None:
    """An item of a topic executes the same commands with 500 followers as with one."""
    for topic, followers in (("small", 1), ("large", 500)):
        for number in range(followers):
            await store.change(Event(f"user{number}", "notify.followed", {"topic": topic, "since": "0"}))
        await store.save(item(topic, 0))
    done = [await commands(server, lambda topic=topic: store.save(item(topic, 1))) for topic in ("small", "large")]
    few, many = ({name: calls.get(name, 0) for name in (*WRITES, "evalsha", "xadd")} for calls in done)
    assert few == many
    assert (many["xadd"], many["evalsha"]) == (1, 1)
    assert await listed(store, "user499") == [1, 0]


async def test_a_place_in_the_list_is_the_id_of_an_item(store: RedisStore) -> None:
    """One that is greater than any that Redis gives is before all items; what is not an id is a mistake."""
    sent = await store.save(item("alice", 1))
    for number in ((1 << 44) - 1, 1 << 44, (1 << 64) - 1):
        assert await listed(store, before=f"{number}-{(1 << 64) - 1}") == [1]
        assert await listed(store, ids=(f"{number}-1",)) == []
    assert await listed(store, before=sent.id) == []
    for before in ("x", "1-1@", "1-1-1"):
        with pytest.raises(InvalidEventIdError, match="before="):
            await listed(store, before=before)


async def test_the_id_of_an_item_where_the_clock_is_behind(server: Server, store: RedisStore) -> None:
    """It follows the last one, and stays within the bits that a member has for it."""
    first = await store.save(item("alice", 0))
    stream, ahead = store._names.stream("alice"), ids.parse(first.id)[0] + 3_600_000
    server.ask("XADD", stream, f"{ahead}-1048574", "p", first.id, "n", "a", "e", "1alice\nt\n0\n\n\n\n1")
    sent = [await store.save(item("alice", number)) for number in (1, 2)]
    assert [event.id for event in sent] == [f"{ahead}-1048575", f"{ahead + 1}-0"]
    assert [each.id for each in (await store.items("alice", ItemQuery())).items] == [sent[1].id, sent[0].id, first.id]


async def test_two_merges_of_one_session_at_the_same_time(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another login has merged since the session was read is not merged again, and what came then is."""
    for number in range(2):
        await store.save(item("session", number))
    draft = Event("alice", "notify.merged", {"session": "session", "until": None})
    read, reads = store._inbox._read_session, 0

    async def overtaken(*args: Any) -> Any:
        nonlocal reads
        found = await read(*args)
        reads += 1
        if reads == 1:
            await store.change(draft)
            await store.save(item("session", 2))
        return found

    monkeypatch.setattr(store._inbox, "_read_session", overtaken)
    change = await store.change(draft)
    assert reads == 3
    assert change.event is not None
    assert sorted(await listed(store)) == [0, 1, 2]
