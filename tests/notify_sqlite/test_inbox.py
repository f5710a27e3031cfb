"""Inboxes in a file: what a save executes, batches, files of earlier releases, due items, erasing."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import BackendUnavailableError, Event, InvalidEventError, InvalidEventIdError, UsageError, ids
from notify.event import build_event
from notify.inbox import InboxRetention, InboxStore
from notify.inbox.abc import MAX_IDS, ItemQuery
from notify_sqlite import SQLiteStore, SQLiteStreamStore
from notify_sqlite._box import find_due
from notify_sqlite._items import InboxLimits, counts
from notify_sqlite._schema import create, statements
from tests.servers.sqlite import content, exists, locked, opened

from .children import child, ended, line
from .inboxes import assert_counted, assert_folded, follow, item, mark, payloads

pytestmark = pytest.mark.anyio

TABLES = ("notify_inbox", "notify_items", "notify_follows")
FOREVER = InboxRetention(max_items=100_000, max_age=None)


def rows(path: Path, table: str) -> list[tuple[Any, ...]]:
    with opened(path) as file:
        return file.execute(f"SELECT * FROM {table}").fetchall()


async def executed(store: SQLiteStore, drafts: Sequence[Event]) -> list[str]:
    """Save drafts in one transaction, and return the statements that this has executed."""
    seen: list[str] = []
    await store._database.maintain(lambda db: db.set_trace_callback(seen.append))
    await store.save_many(drafts)
    await store._database.maintain(lambda db: db.set_trace_callback(None))
    return seen


# -- saving ------------------------------------------------------------------------------------------------------


async def test_a_push_pays_nothing(path: Path) -> None:
    """An event that is not an item executes no further statement, also for a user who has an inbox."""
    async with SQLiteStore(path) as store:
        plain = [re.sub(r"[0-9]+", "#", text) for text in await executed(store, [Event("bob", "t")])]
        assert not [text for text in plain if any(table in text for table in TABLES)]
        assert [rows(path, table) for table in TABLES] == [[], [], []]
        await store.save(item("alice"))
        again = [re.sub(r"[0-9]+", "#", text) for text in await executed(store, [Event("alice", "t")])]
        assert len(again) == len(plain)
        listed = await executed(store, [item("alice")])
        assert len([text for text in listed if "notify_items" in text or "notify_inbox" in text]) == 3
        assert len(rows(path, "notify_inbox")) == 1


@pytest.mark.parametrize("count", [3, 80])
async def test_one_batch_has_everything(path: Path, count: int) -> None:
    """Several items of a user, groups replaced twice, changes of earlier items, and repeated keys in one batch."""
    async with SQLiteStore(path) as store:
        store.inbox_retention = FOREVER
        first = await store.save(item("alice", "first", group="g"))
        drafts = []
        for number in range(count):
            drafts += [
                item("alice", number),
                item("alice", f"g{number}", group="g"),
                item(f"user {number}", number, group="g", key="k"),
                item(f"user {number}", "repeated", key="k"),
            ]
        drafts += [
            Event("alice", "notify.read", {"group": "g"}),
            item("alice", "later", group="h"),
            Event("alice", "notify.dismissed", {"up_to": "999999999999999-0"}),
            item("alice", "last"),
        ]
        outcomes = await store.save_many(drafts)
        assert outcomes[2] == outcomes[3]
        assert await payloads(store, "alice") == ["last"]
        dismissed = ["later", f"g{count - 1}", *reversed(range(count))]
        assert await payloads(store, "alice", state="dismissed", limit=200) == dismissed
        assert (await store.items("alice", ItemQuery(ids=(first.id,)))).items == []
        assert await payloads(store, "user 0", state="all") == [0]
        await assert_folded(store, ["alice", *(f"user {number}" for number in range(count))], FOREVER)
    assert assert_counted(path) == count + 1


async def test_changes_keep_their_place_among_saves(path: Path) -> None:
    """Changes and saves of many tasks take effect in the order of the calls, at most ten changes to a transaction."""
    async with SQLiteStore(path) as store:
        outcomes: list[Any] = []
        sent = await store.save(item("alice", 0))
        seen: list[str] = []
        await store._database.maintain(lambda db: db.set_trace_callback(seen.append))

        async def change(number: int) -> None:
            effect = "dismissed" if number % 2 else "restored"
            outcomes.append((number, await mark(store, "alice", effect, ids=[sent.id])))

        async with anyio.create_task_group() as tasks:
            for number in range(1, 40):
                tasks.start_soon(change, number)
                tasks.start_soon(store.save, Event("alice", "t", number))
        assert seen.count("BEGIN IMMEDIATE") >= 4
        log = (await store.read("alice", "0", 200)).events
        assert [event.payload for event in log if event.type == "t"] == list(range(40))
        assert sorted(number for number, _ in outcomes) == list(range(1, 40))
        stored = sorted((c.event for _, c in outcomes if c.event is not None), key=lambda event: ids.parse(event.id))
        assert [event.type for event in stored] == ["notify.dismissed", "notify.restored"] * 19 + ["notify.dismissed"]


async def test_too_many_topics_fail_alone(path: Path) -> None:
    """A change that is refused does not fail those that share its transaction."""
    async with SQLiteStore(path) as store:
        for number in range(99):
            await follow(store, "alice", f"topic {number}")
        errors: list[str] = []

        async def one_more() -> None:
            try:
                await follow(store, "alice", "topic 99")
            except UsageError as error:
                errors.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one_more)
            tasks.start_soon(store.save, item("alice"))
            tasks.start_soon(follow, store, "bob", "topic 99")
        assert len(errors) == 1
        assert "unfollow some first" in errors[0]
        assert (await store.items("alice", ItemQuery())).counts.total == 1
        assert [edge.user for edge in await store.edges(topic="topic 99")] == ["bob"]


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b'{"ids": 1}', b'{"up_to": 5}', b'{"group": "\\ud800"}', b'{"topic": "\\ud800", "since": "0"}', b"3",
     b'{"ids": [1, {}, null, "1-1@\\ud800"]}', b'{"topic": "x", "since": "y"}', b'{"session": "x", "until": null}',
     b'{"session": "alice", "until": "99-0", "topic": "alice", "since": "0"}'],
)  # fmt: skip
async def test_a_malformed_change_has_no_effect(path: Path, data: bytes) -> None:
    """A log that is copied from elsewhere may hold anything: it is stored, and neither fails nor changes an inbox."""
    kinds = ("read", "followed", "unfollowed", "merged")
    async with SQLiteStore(path) as store:
        first = await store.save(item("alice", 1))
        drafts = [build_event("", "", "alice", f"notify.{kind}", data, 1, None, None, {}) for kind in kinds]
        outcomes = await store.save_many(drafts)
        assert all(isinstance(outcome, Event) for outcome in outcomes)
        page = await store.items("alice", ItemQuery(state="unread"))
        assert [each.id for each in page.items] == [first.id]
        assert await store.edges(user="alice") == []


async def test_a_repeated_change_is_known_by_its_key(path: Path) -> None:
    """With a key that was used before, a change applies nothing and stores nothing."""
    async with SQLiteStore(path) as store:
        sent = await store.save(item("alice"))
        draft = Event("alice", "notify.read", {"ids": [sent.id]}, key="k")
        assert (await store.change(draft)).event is not None
        await mark(store, "alice", "unread", ids=[sent.id])
        change = await store.change(draft)
        assert (change.ids, change.event, change.counts.unread) == ((), None, 1)


# -- marks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 1200])
async def test_marks_of_many_items_and_logs(path: Path, count: int) -> None:
    """Each effect on all items up to a position, in two logs, one by one or many by one statement."""
    async with SQLiteStore(path) as store:
        store.inbox_retention = FOREVER
        await follow(store, "alice", "news")
        for start in range(0, count, 400):
            await store.save_many([item(("alice", "news")[n % 2], n) for n in range(start, min(start + 400, count))])
        position = (await store.items("alice", ItemQuery(limit=0))).position
        later = [await store.save(item(user, "later")) for user in ("alice", "news")]
        for effect, left in (
            ("seen", (count + 2, 2, count + 2)),
            ("read", (count + 2, 2, 2)),
            ("dismissed", (2, 2, 2)),
            ("restored", (count + 2, 2, 2)),
            ("unread", (count + 2, 2, count + 2)),
        ):
            change = await mark(store, "alice", effect, up_to=position)
            assert len(change.ids) == min(count, MAX_IDS)
            assert (change.counts.total, change.counts.unseen, change.counts.unread) == left
            assert (await mark(store, "alice", effect, up_to=position)).event is None
            assert_counted(path)
        page = await store.items("alice", ItemQuery(limit=2))
        assert [each.event.id for each in page.items] == [later[1].id, later[0].id]
        assert all(each.seen_at is None for each in page.items)
        change = await mark(store, "alice", "read", up_to=page.items[0].event.id)
        assert len(change.ids) == min(count // 2 + 1, MAX_IDS)
        assert not [name for name in change.ids if "@" in name]
        assert change.counts.unread == count // 2 + 1
    assert_counted(path)


async def test_marks_leave_due_items_alone(path: Path) -> None:
    """Items that are due, more than one write removes, are not affected by a mark of everything."""
    now = 1_000_000_000.0
    async with SQLiteStore(path, clock=lambda: now, max_age=None) as store:
        store.inbox_retention = InboxRetention(max_items=10_000, max_age=100.0)
        for _ in range(3):
            await store.save_many([item("alice", expires=str(1_000_000_050_000)) for _ in range(400)])
        now += 20
        kept = await store.save(item("alice", "kept"))
        now += 40
        page = await store.items("alice", ItemQuery())
        assert [each.id for each in page.items] == [kept.id]
        assert page.counts.total == 1
        change = await mark(store, "alice", "read", up_to=kept.id)
        assert (change.ids, change.counts.total, change.counts.unread) == ((kept.id,), 1, 0)
        assert len(rows(path, "notify_items")) == 701
        await store.save(item("alice"))
        await store.save(item("alice"))
        assert len(rows(path, "notify_items")) == 3
    assert_counted(path)


# -- reading -----------------------------------------------------------------------------------------------------


async def test_a_file_of_an_earlier_release_has_no_inbox(path: Path) -> None:
    """Its log is read, its inboxes are empty, and the first write adds the tables."""
    async with SQLiteStore(path) as store:
        event = await store.save(Event("alice", "t"))
    with opened(path) as file:
        for table in TABLES:
            file.execute(f"DROP TABLE {table}")
    reader = SQLiteStreamStore(path)
    page = await reader.items("alice", ItemQuery())
    assert (page.items, page.next, page.position, page.counts.total) == ((), None, event.id, 0)
    assert (await reader.edges(user="alice"), await reader.pull("alice"), await reader.sweep()) == ((), 0, 0)
    with opened(path) as file:
        assert file.execute("SELECT count(*) FROM sqlite_master WHERE name LIKE '%items%'").fetchone() == (0,)
    sent = await reader.save(item("alice"))
    assert [each.id for each in (await reader.items("alice", ItemQuery())).items] == [sent.id]
    await reader.aclose()
    assert assert_counted(path) == 1


async def test_no_file_has_empty_inboxes(path: Path) -> None:
    """Reading inboxes creates nothing."""
    async with SQLiteStore(path.with_name("other.db")):
        store = SQLiteStore(path)
        assert (await store.items("alice", ItemQuery())).position == "0"
        assert (await store.edges(topic="news"), await store.pull("alice"), await store.sweep()) == ((), 0, 0)
        await store.aclose()
    assert not exists(path)


async def test_reads_need_no_lock_unless_there_is_something_to_pull(path: Path) -> None:
    """While another connection holds the write lock, inboxes are read; items of topics cannot be taken over."""
    async with SQLiteStore(path, timeout=0.05) as store:
        await follow(store, "alice", "news")
        sent = await store.save(item("alice"))
        await store.save(Event("news", "t"))
        with locked(path):
            page = await store.items("alice", ItemQuery())
            assert [each.id for each in page.items] == [sent.id]
            assert await store.sweep() == 0
        await store.save(item("news"))
        with locked(path):
            with pytest.raises(BackendUnavailableError, match="of topics cannot be taken over: another connection"):
                await store.items("alice", ItemQuery())
            with pytest.raises(BackendUnavailableError):
                await store.pull("alice")
        assert (await store.items("alice", ItemQuery())).counts.total == 2


async def test_every_page_is_found_by_an_index(path: Path) -> None:
    """No statement about inboxes scans a table, and pages need no sorting."""
    sql = statements("store", "notify_")
    with closing(sqlite3.connect(path)) as db:
        create(db, sql)
        used = {name: text for name, text in sql.items() if re.search("notify_(items|inbox|follows)", text)}
        plans = {
            name: " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}", [1] * text.count("?")))
            for name, text in used.items()
            if not name.startswith(("create_", "start_")) and name != "has_inbox"
        }
    assert len(plans) > 35
    assert not [name for name, plan in plans.items() if re.search(r"SCAN (notify_|[fh]\b)|TEMP B-TREE", plan)]


async def test_old_items_that_are_kept_because_they_are_unread(path: Path) -> None:
    """No send, read or sweep looks at them, as the steps of the database's machine show; what is read is removed."""
    async with SQLiteStore(path) as store:
        store.inbox_retention = InboxRetention(max_items=250, max_age=0.0, keep_unread=True)
        await store.save_many([item("alice", number) for number in range(2000)])
        sql, limits = store._database.sql, InboxLimits.at(time.time_ns() // 1_000_000 + 60_000, store.inbox_retention)
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        await store._database.maintain(lambda db: db.set_progress_handler(step, 1))
        newest = await store.save(item("alice"))
        assert (await store._database.maintain(lambda db: counts(db, sql, "alice", limits)))[0].total == 2001
        assert await store._database.maintain(lambda db: find_due(db, sql, limits, 10)) == []
        await mark(store, "alice", "read", ids=[newest.id])
        await store.save(item("alice"))
        assert steps < 4000  # two for each item
        await store._database.maintain(lambda db: db.set_progress_handler(None, 1))
        assert (await store.items("alice", ItemQuery(ids=(newest.id,)))).items == []
        assert (await store.items("alice", ItemQuery(limit=0))).counts.total == 2001
    assert_counted(path)


async def test_a_topic_costs_one_write(path: Path) -> None:
    """An item of a topic executes the same statements with 300 followers as with one."""
    async with SQLiteStore(path) as store:
        for topic, followers in (("small", 1), ("large", 300)):
            for number in range(followers):
                await follow(store, f"user{number}", topic, "0")
            await store.save(item(topic, 0))
        few, many = [await executed(store, [item(topic, 1)]) for topic in ("small", "large")]
        assert [text.split()[:3] for text in few] == [text.split()[:3] for text in many]
        assert await payloads(store, "user299") == [1, 0]


async def test_what_cannot_be_asked_is_refused(path: Path) -> None:
    """Names and positions that do not exist raise usage errors, or find nothing if they could be an item's."""
    async with SQLiteStore(path) as store:
        sent = await store.save(item("alice", group="g"))
        with pytest.raises(InvalidEventIdError, match="before="):
            await store.items("alice", ItemQuery(before="x"))
        with pytest.raises(InvalidEventIdError):
            await store.items("alice", ItemQuery(before=f"{sent.id}@\ud800"))
        for name in ("x", f"{sent.id}@\ud800", f"{sent.id}@", "1-99999999999", f"{sent.id}@news"):
            assert (await store.items("alice", ItemQuery(ids=(name,)))).items == []
            if name.isascii():
                assert (await mark(store, "alice", "read", ids=[name])).event is None
        assert (await store.items("alice", ItemQuery(group="\ud800"))).items == []
        assert (await store.items("alice", ItemQuery(group="g", types=("x",)))).items == []
        with pytest.raises(InvalidEventError):
            await store.items("", ItemQuery())
        with pytest.raises(UsageError, match="exactly one"):
            await store.edges(user="alice", topic="news")
        with pytest.raises(InvalidEventError):
            await store.edges(user="alice", after="\ud800")


# -- topics ------------------------------------------------------------------------------------------------------


async def test_a_long_pull_is_many_small_transactions(path: Path) -> None:
    """Of 1,200 new items of two topics each arrives once; the positions lie between the transactions' last items."""
    async with SQLiteStore(path) as store:
        store.inbox_retention = FOREVER
        for topic in ("news", "olds"):
            await follow(store, "alice", topic)
        for topic in ("news", "olds"):
            for start in range(0, 600, 300):
                await store.save_many([item(topic, start + number) for number in range(300)])
        seen: list[str] = []
        await store._database.maintain(lambda db: db.set_trace_callback(seen.append))
        assert await store.pull("alice") == 1200
        assert seen.count("BEGIN IMMEDIATE") == 3
        assert await store.pull("alice") == 0
        assert await payloads(store, "alice", limit=2000) == [*reversed(range(600))] * 2
    assert assert_counted(path) == 3


async def test_what_is_due_is_not_pulled(path: Path) -> None:
    """An item of a topic that has expired since, or is too old, does not become one of its followers."""
    now = 1_000_000_000.0
    async with SQLiteStore(path, clock=lambda: now, max_age=None) as store:
        store.inbox_retention = InboxRetention(max_items=10, max_age=100.0)
        await store.save_many([item("news", "old"), item("news", "expired", expires="1000000095000")])
        now += 90
        await store.save(item("news", "new"))
        await follow(store, "bob", "news", "0")
        now += 15
        assert await store.pull("bob") == 1
        assert await payloads(store, "bob", state="all") == ["new"]
        await follow(store, "carol", "news", "0")
        now += 200
        assert await store.pull("carol") == 0
        assert await payloads(store, "carol", state="all") == []
    assert_counted(path)


async def test_a_position_that_was_set_back_repeats_nothing(path: Path) -> None:
    """What an inbox has already is not taken over again, and keeps its state."""
    async with SQLiteStore(path) as store:
        await follow(store, "alice", "news")
        sent = [await store.save(item("news", number, group=group)) for number, group in enumerate((None, "g"))]
        await mark(store, "alice", "read", ids=[f"{event.id}@news" for event in sent])
        with opened(path) as file:
            file.execute("UPDATE notify_follows SET position = 0")
        assert await payloads(store, "alice", state="read") == [1, 0]
        assert (await store.items("alice", ItemQuery())).counts.unread == 0
    assert assert_counted(path) == 2


# -- due items ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_unread", [False, True])
async def test_sweeping_finds_due_items_of_any_inbox(path: Path, keep_unread: bool) -> None:
    """Expired and old items go, at most 500 to a transaction; inboxes without any are not written again and again."""
    now = 1_000_000_000.0
    async with SQLiteStore(path, clock=lambda: now, max_age=None) as store:
        store.inbox_retention = InboxRetention(max_items=1000, max_age=1000.0, keep_unread=keep_unread)
        for start in range(0, 120, 40):
            await store.save_many([item(f"user {start + n}", m) for n in range(40) for m in range(5)])
        await store.save_many([item(f"user {n}", expires="1000000500000") for n in range(120)])
        assert await store.sweep() == 0
        now += 600
        assert await store.sweep(100) == 100
        assert await store.sweep() == 20
        await mark(store, "user 0", "read", up_to="2000000000000-0")
        now += 600
        assert await store.sweep(10_000) == (5 if keep_unread else 600)
        assert await store.sweep() == 0
        seen: list[str] = []
        await store._database.maintain(lambda db: db.set_trace_callback(seen.append))
        assert await store.sweep() == 0
        assert seen == []
    assert assert_counted(path) == 120


async def test_bounds_that_are_too_low_are_read_again(path: Path) -> None:
    """Where what the bounds stand for was replaced, sweeping corrects them once."""
    now = 1_000_000_000.0
    async with SQLiteStore(path, clock=lambda: now) as store:
        store.inbox_retention = InboxRetention(max_age=None)
        await store.save(item("alice", group="g", expires="1000000010000"))
        await store.save(item("alice", group="g"))
        now += 20
        assert await store.sweep() == 0
        assert rows(path, "notify_inbox")[0][-1] is None
        assert_counted(path)


async def test_unread_items_are_kept_up_to_ten_times_the_limit(path: Path) -> None:
    """With `keep_unread` the read ones go first, the unread ones beyond ten times the limit."""
    async with SQLiteStore(path) as store:
        store.inbox_retention = InboxRetention(max_items=5, keep_unread=True)
        sent = [await store.save(item("alice", number)) for number in range(5)]
        await mark(store, "alice", "read", ids=[sent[2].id])
        await store.save(item("alice", 5))
        assert await payloads(store, "alice") == [5, 4, 3, 1, 0]
        await store.save_many([item("alice", number) for number in range(6, 60)])
        assert await payloads(store, "alice", limit=100) == [*range(59, 9, -1)]
    assert assert_counted(path) == 1


# -- erasing -----------------------------------------------------------------------------------------------------


async def test_nothing_of_a_forgotten_inbox_is_left(path: Path) -> None:
    """Items, counters and follows go, and what followers took over, in small transactions; no page holds a trace."""
    async with SQLiteStore(path) as store:
        store.inbox_retention = FOREVER
        await follow(store, "carol", "alice-x")
        await follow(store, "dave", "alice-x")
        await follow(store, "alice-x", "news")
        await store.save_many([item("alice-x", f"secret-{number}" * 20) for number in range(450)])
        await store.save(item("news", 1))
        await store.save_many([item("alice-x", f"secret-{number}" * 20) for number in range(450)])
        assert len(await payloads(store, "carol", limit=2000)) == 900
        assert len(await payloads(store, "dave", limit=2000)) == 900
        assert len(await payloads(store, "alice-x", limit=2000)) == 901
        assert await store.forget("alice-x") == 901
        await store.save(item("carol", "kept"))
        assert await payloads(store, "carol") == ["kept"]
        assert [edge.topic for edge in await store.edges(user="dave")] == []
        assert (await store.items("alice-x", ItemQuery())).position == "0"
        for table in TABLES:
            assert not [row for row in rows(path, table) if "alice-x" in row]
        assert_counted(path)
    assert b"secret-1" not in content(path)


async def test_what_was_merged_stays_with_its_user(path: Path) -> None:
    """A session that is forgotten after the merge leaves its items to the user, and can still be marked."""
    async with SQLiteStore(path) as store:
        await store.save(item("session", 1))
        await store.change(Event("alice", "notify.merged", {"session": "session", "until": None}))
        await store.forget("session")
        page = await store.items("alice", ItemQuery())
        assert page.counts.total == 1
        assert len((await mark(store, "alice", "read", up_to=page.position)).ids) == 1
    assert_counted(path)


# -- several processes -------------------------------------------------------------------------------------------


async def test_a_change_wakes_other_processes(path: Path) -> None:
    """A change in another process reaches an open stream as a save does."""
    async with SQLiteStreamStore(path, poll_interval=0.02) as store:
        sent = await store.save(item("alice"))
        async with store.subscribe("alice") as stream:
            with child("dismiss", path, "alice", sent.id) as process:
                event = await stream.next(20)
                assert (event.type, event.payload) == ("notify.dismissed", {"ids": [sent.id]})
                assert (await ended(process))[0] == 0
        assert (await store.items("alice", ItemQuery())).counts.total == 0


async def test_one_group_from_four_processes(path: Path) -> None:
    """Of a hundred sends of one group from four processes the last one is left, and can be dismissed."""
    async with SQLiteStore(path) as store:
        assert isinstance(store, InboxStore)
        with child("send", path, 25) as a, child("send", path, 25) as b, child("send", path, 25) as c:
            with child("send", path, 25) as d:
                for process in (a, b, c, d):
                    assert await ended(process, 60) == (0, "")
        log = (await store.read("alice", "0", 200)).events
        assert len(log) == 100
        page = await store.items("alice", ItemQuery(state="all"))
        assert [each.id for each in page.items] == [log[-1].id]
        change = await mark(store, "alice", "dismissed", group="g")
        assert (change.ids, change.counts.total) == ((log[-1].id,), 0)
    assert assert_counted(path) == 1


async def test_rows_are_the_fold_of_the_log_after_kills(path: Path) -> None:
    """Processes that are killed in the middle of sends and changes leave rows and counters that agree with the log."""
    users = ("alice", "bob", "news", "session")
    async with SQLiteStore(path) as store:
        for run in range(2):
            with child("work", path, 2 * run) as a, child("work", path, 2 * run + 1) as b:
                for _ in range(15):
                    await line(a)
                    await line(b)
                a.kill()
                b.kill()
            assert assert_counted(path) >= 3
            assert await assert_folded(store, users, FOREVER) > 15
