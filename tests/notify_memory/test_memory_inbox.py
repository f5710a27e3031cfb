"""What the inboxes of memory stores do beyond the suite: corners of the fold, and what does not cost anything."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest

from notify import Event, InvalidEventIdError, UsageError, ids
from notify.adapters import split_positions
from notify.inbox import InboxFold, InboxRetention, InboxStore, _fold
from notify.inbox._rows import Row, Rows
from notify.inbox.abc import ITEM, ItemQuery
from notify_memory import MemoryStore
from notify_memory._open import NamedMemoryStore

pytestmark = pytest.mark.anyio


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def item(user: str, payload: object = None, **options: str) -> Event:
    return Event(user, "t", payload, meta={ITEM: ""}, **options)


def change(user: str, effect: str, **payload: object) -> Event:
    return Event(user, f"notify.{effect}", payload)


async def test_plain_events_leave_no_inbox() -> None:
    """Neither pushes nor reads of a user without items make an inbox."""
    async with MemoryStore() as store:
        for number in range(10):
            await store.save(Event("alice", "t", number, meta={"a": "b"}))
        await store.items("alice", ItemQuery())
        await store.change(change("alice", "read", up_to="1-1"))
        assert store._inboxes.users() == set()


async def test_a_named_store_is_an_inbox_store_open_or_closed() -> None:
    """Stores of one name share the retention; a closed one has the default, so that it can be asked what it is."""
    first, second = NamedMemoryStore("inbox of two"), NamedMemoryStore("inbox of two")
    first.inbox_retention = InboxRetention(max_items=3)
    assert second.inbox_retention == InboxRetention(max_items=3)
    assert isinstance(second, InboxStore)
    await first.aclose()
    assert isinstance(first, InboxStore)
    assert first.inbox_retention == InboxRetention()
    await second.aclose()


async def test_arguments_that_cannot_be_meant() -> None:
    """Edges of both or neither, and a place in the list that is not an item's id, are mistakes of the caller."""
    async with MemoryStore() as store:
        with pytest.raises(UsageError):
            await store.edges(user="alice", topic="news")
        with pytest.raises(UsageError):
            await store.edges()
        with pytest.raises(InvalidEventIdError):
            await store.items("alice", ItemQuery(before="x"))


async def test_an_inbox_knows_the_end_of_a_log_that_aged_away() -> None:
    """The log is forgotten after twice its age; positions, marks and new follows go on from where it was."""
    clock = Clock()
    async with MemoryStore(max_age=60.0, clock=clock) as store:
        old = await store.save(item("news", "old"))
        clock.now += 1000
        await store.save(Event("bob", "t"))
        assert await store.head("news") == "0"
        page = await store.items("news", ItemQuery())
        assert page.position == old.id
        await store.change(change("alice", "followed", topic="news", since=None))
        await store.save(item("news", "new"))
        assert [each.event.payload for each in (await store.items("alice", ItemQuery())).items] == ["new"]
        assert [*(await store.change(change("news", "read", up_to=page.position))).ids] == [old.id]


async def test_a_user_is_not_its_own_topic_or_session() -> None:
    """Following or merging oneself changes nothing, by `change` or as a saved event."""
    async with MemoryStore() as store:
        event = await store.save(item("alice"))
        follow = change("alice", "followed", topic="alice", since="0")
        merge = change("alice", "merged", session="alice", until=event.id)
        for draft in (follow, merge):
            assert (await store.change(draft)).event is None
            await store.save(draft)
        assert [each.id for each in (await store.items("alice", ItemQuery(state="all"))).items] == [event.id]
        assert [*await store.edges(user="alice")] == []


async def test_a_merged_session_brings_the_sessions_merged_into_it() -> None:
    """What was merged into a session is listed too, and is a log of the positions."""
    async with MemoryStore() as store:
        first = await store.save(item("first"))
        await store.change(change("second", "merged", session="first", until=None))
        await store.change(change("alice", "merged", session="second", until=None))
        page = await store.items("alice", ItemQuery())
        assert [each.id for each in page.items] == [f"{first.id}@first"]
        logs = split_positions(page.position, ["alice", "first", "second"])
        assert logs["first"] == first.id
        assert (await store.change(change("alice", "merged", session="first", until=None))).event is None


async def test_an_expiry_that_is_not_a_time_means_none() -> None:
    """What another program writes into `meta` makes an item without an expiry, and no error."""
    async with MemoryStore() as store:
        for text in ("x", "-1", "1.5", "٣", "9" * 30, " 1"):
            await store.save(Event("alice", "t", meta={ITEM: text}))
        page = await store.items("alice", ItemQuery())
        assert [each.expires_at for each in page.items] == [None] * 6


async def test_publishing_touches_no_follower() -> None:
    """However many follow, an item of a topic is one event; each follower's rows are filled when it looks."""
    async with MemoryStore() as store:
        for number in range(500):
            await store.change(change(f"user {number}", "followed", topic="news", since=None))
        await store.save(item("news"))
        folds = store._inboxes._folds
        assert sum(len(folds[f"user {number}"].rows) for number in range(500)) == 0
        assert (await store.items("user 7", ItemQuery())).counts.unread == 1
        assert sum(len(folds[f"user {number}"].rows) for number in range(500)) == 1


async def test_ten_thousand_items_in_pages() -> None:
    """While 1,000 items arrive and 500 are dismissed, pages skip nothing that stays and repeat nothing."""
    random = Random(11)
    async with MemoryStore() as store:
        store.inbox_retention = InboxRetention(max_items=20_000)
        sent = [(await store.save(item("alice", number))).id for number in range(10_000)]
        dismissed: set[str] = set()
        found: list[str] = []
        page = await store.items("alice", ItemQuery(limit=100))
        while True:
            found += [each.id for each in page.items]
            for _ in range(10):
                await store.save(item("alice", "new"))
            those = random.sample(sent, 5)
            dismissed |= {*(await store.change(change("alice", "dismissed", ids=those))).ids}
            if page.next is None:
                break
            page = await store.items("alice", ItemQuery(page.next, 100))
        assert len(found) == len({*found})
        assert {*sent} - dismissed <= {*found} <= {*sent}
        assert page.counts.total <= 11_000


async def test_due_items_leave_when_the_clock_says_so() -> None:
    """Nothing is removed before its millisecond, everything at it; unread items stay if they are to be kept."""
    clock = Clock()
    async with MemoryStore(clock=clock) as store:
        store.inbox_retention = InboxRetention(max_age=10.0, keep_unread=True)
        sent = [await store.save(item("alice", number)) for number in range(2)]
        await store.change(change("alice", "read", ids=[sent[0].id]))
        clock.now += 10.0
        assert (await store.items("alice", ItemQuery())).counts.total == 2
        clock.now += 0.001
        page = await store.items("alice", ItemQuery())
        assert [each.id for each in page.items] == [sent[1].id]
        assert (await store.sweep(), await store.sweep()) == (1, 0)
        expiry = ids.time_of(sent[1].id) + timedelta(seconds=60)
        meta = {ITEM: str(int(expiry.timestamp() * 1000))}
        await store.save(Event("alice", "t", meta=meta))
        clock.now = expiry.timestamp() - 0.001
        assert (await store.items("alice", ItemQuery())).counts.total == 2
        clock.now = expiry.timestamp()
        assert (await store.items("alice", ItemQuery())).counts.total == 1


def test_folding_a_suffix_again_changes_nothing() -> None:
    """Effects are absolute: after any log, applying its last changes once more leaves every item as it is."""
    random, effects = Random(3), ("seen", "read", "unread", "dismissed", "restored")
    for _ in range(200):
        fold, log = InboxFold("alice"), []
        for number in range(12):
            if log and random.random() < 0.6:
                named = random.choice([{"ids": [random.choice(log).id]}, {"up_to": random.choice(log).id}])
                draft = change("alice", random.choice(effects), **named)
            else:
                draft = item("alice", group=random.choice(["g", "h", "i"]))
            log.append(draft.stored(f"5-{number}", "0"))
            fold.apply(log[-1], 5, InboxRetention(max_age=None))
        before = [(row.key, row.place, row.seen is None) for row in fold.rows.newest("all", None)]
        start = max(number for number, event in enumerate(log) if event.type == "t") + 1
        for event in log[start:]:
            fold.apply(event, 6, InboxRetention(max_age=None))
        assert [(row.key, row.place, row.seen is None) for row in fold.rows.newest("all", None)] == before


RETENTIONS = [
    InboxRetention(max_items=5, max_age=None),
    InboxRetention(max_items=5, max_age=0.05, keep_unread=True),
    InboxRetention(max_items=40, max_age=0.05),
]


@pytest.mark.parametrize("retention", RETENTIONS, ids=str)
def test_items_without_rows_are_as_those_with_rows(retention: InboxRetention, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inbox makes rows late, for many items at once or for none: pages and counts are as if each had one at once."""
    monkeypatch.setattr(_fold, "SPARE", 3)
    for seed in range(60):
        random, now, log = Random(seed), 1_000_000, []
        late, at_once, topic = InboxFold("alice"), InboxFold("alice"), InboxFold("news")
        for fold in (late, at_once):
            fold.follow("news", "0")
        for number in range(60):
            now += random.choice([0, 0, 1, 1, 20, 60])
            draft = item("alice")
            if random.random() < 0.15:
                draft = random.choice(
                    [
                        item("alice", group="g"),
                        Event("alice", "t", meta={ITEM: str(now + random.choice([0, 5, 30]))}),
                        change(
                            "alice", random.choice(["seen", "read", "unread", "dismissed"]), up_to=f"{now}-{number}"
                        ),
                        change("alice", "dismissed", ids=[random.choice(log or [f"{now}-0"])]),
                        change("alice", "restored", ids=[random.choice(log or [f"{now}-0"])]),
                    ]
                )
            log.append(f"{now}-{number}")
            event = draft.stored(log[-1], "0")
            for fold in (late, at_once):
                fold.apply(event, now, retention)
            if random.random() < 0.1:  # the topic's clock may be ahead
                end = f"{now + random.choice([0, 30])}-{number}"
                topic.apply(item("news").stored(end, "0"), now, retention)
                for fold in (late, at_once):
                    fold.pull("news", topic, end, now, retention)
            assert at_once.rows is at_once._rows
            if random.random() < 0.2:
                query = ItemQuery(
                    random.choice([None, random.choice(log)]),
                    random.choice([0, 2, 9]),
                    random.choice(["active", "unread", "read", "dismissed", "all"]),
                    ids=random.choice([None, None, None, tuple(random.choices(log, k=3))]),
                )
                looked = now + random.choice([0, 0, 25, 55])
                pages = [fold.page(query, log[-1], looked, retention) for fold in (late, at_once)]
                assert pages[0] == pages[1], (seed, number, query)
        assert [row.item() for row in late.rows.newest("all", None)] == [
            row.item() for row in at_once.rows.newest("all", None)
        ]


def test_what_expires_while_items_have_no_rows() -> None:
    """An item that expires before those that were sent after it leaves the counts and the page in its millisecond."""
    fold, retention = InboxFold("alice"), InboxRetention()
    fold.apply(Event("alice", "short", meta={ITEM: "1500"}).stored("1000-0", "0"), 1000, retention)
    for number in range(3):
        fold.apply(item("alice", number).stored(f"1001-{number}", "0"), 1001, retention)
    assert fold.counts("1001-2", 1499, retention).unread == 4
    assert fold.counts("1001-2", 1500, retention).unread == 3
    page = fold.page(ItemQuery(), "1001-2", 1500, retention)
    assert [each.event.payload for each in page.items] == [2, 1, 0]
    fold.apply(item("alice", 3).stored("1500-0", "0"), 1500, retention)
    assert len(fold.rows) == 4


def test_a_page_is_made_of_the_same_items_again() -> None:
    """Items are made once for all pages that list them, and made again when their state has changed."""
    fold, retention = InboxFold("alice"), InboxRetention(max_age=None)
    for number in range(3):
        fold.apply(item("alice", number).stored(f"5-{number}", "0"), 5, retention)
    first = fold.page(ItemQuery(), "5-2", 5, retention).items
    assert all(a is b for a, b in zip(first, fold.page(ItemQuery(), "5-2", 5, retention).items, strict=True))
    fold.apply(change("alice", "read", ids=["5-1"]).stored("6-0", "0"), 6, retention)
    again = fold.page(ItemQuery(), "6-0", 6, retention).items
    assert [a is b for a, b in zip(first, again, strict=True)] == [True, False, True]
    assert [each.is_unread for each in again] == [True, False, True]


def row(ms: int, log: str = "") -> Row:
    return Row(item("alice").stored(f"{ms}-0", "0"), log)


def content(rows: Rows) -> object:
    return [*rows.by_key], rows.lists, rows.unseen, rows.oldest_ms


@pytest.mark.parametrize("before", [[], [row(5, "news")], [row(4), row(6)], [row(9, "news"), row(12, "news")]])
def test_items_that_are_inserted_together(before: list[Row]) -> None:
    """They make the same rows as one at a time: also among later items of topics, and if one of them is known."""
    together, each = Rows(), Rows()
    for known in before:
        together.add(known)
        each.add(known)
    fresh = [row(ms) for ms in (4, 8, 11)]
    together.add_fresh(fresh)
    for new in fresh:
        each.add(new)
    assert content(together) == content(each)
    assert together.lists["unread"] == sorted(together.by_key)


def test_only_what_is_too_old_is_due() -> None:
    """Of one list the items up to the age limit, and unread ones are kept where that is wanted."""
    rows = Rows()
    for ms in (1000, 2000, 5000):
        rows.add(row(ms))
    rows.change([rows.by_key[2000, 0, ""]], "read", 6000)
    for keep_unread, due in ((False, [1000, 2000]), (True, [2000])):
        retention = InboxRetention(max_age=2.0, keep_unread=keep_unread)
        assert sorted(key[0] for key in rows.due(6500, retention)) == due
