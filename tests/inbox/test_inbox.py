"""`Inbox` itself: sending, listing, marking, following and merging, and what is refused, over each kind of store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import (
    BackendUnavailableError,
    ClosedError,
    Event,
    InvalidEventError,
    InvalidEventIdError,
    Notifier,
    PayloadTooLargeError,
    PushUncertainError,
    UsageError,
)
from notify.inbox import Change, Inbox, InboxRetention
from notify.inbox.abc import ITEM, MAX_IDS
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore, MemoryStreamStore
from tests.inbox.parts import KINDS, PlainInboxStore, inbox_on
from tests.parts import NotingRouter, PlainStore, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=KINDS)
async def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Inbox]:
    async with inbox_on(request.param, tmp_path) as inbox:
        yield inbox


async def ids(inbox: Inbox, user: str = "alice", **options: Any) -> list[str]:
    return [item.id for item in (await inbox.list(user, **options)).items]


async def sent(inbox: Inbox, count: int, user: str = "alice", **options: Any) -> list[str]:
    events = [await inbox.send(user, "app.item", number, **options) for number in range(count)]
    return [event.id for event in events if event is not None]


# -- sending --------------------------------------------------------------------------------------------------------


async def test_an_item_is_a_push_that_is_listed(inbox: Inbox) -> None:
    """It is stored, streamed live, and listed until it is dismissed; a plain push is not listed."""
    async with inbox.notifier.subscribe("alice") as stream:
        event = await inbox.send("alice", "app.item", {"n": 1}, group="g", key="k", meta={"a": "b"})
        assert event is not None
        assert event == await stream.next(5)
        assert event.meta == {"a": "b", ITEM: ""}
        await inbox.notifier.push("alice", "app.other")
        item = (await inbox.list("alice")).items[0]
        assert await ids(inbox) == [event.id]
        assert (item.event.payload, item.event.group, item.is_unread) == ({"n": 1}, "g", True)
        assert await inbox.get("alice", event.id) == item
        again = await inbox.send("alice", "app.item", {"n": 2}, key="k")
        assert again is not None
        assert again.id == event.id
        assert (await inbox.counts("alice")).total == 1


async def test_a_group_replaces(inbox: Inbox) -> None:
    """The item of a group takes the place of the one before, whatever state that had."""
    first = (await sent(inbox, 1, group="g"))[0]
    await inbox.dismiss("alice", first)
    second = (await sent(inbox, 1, group="g"))[0]
    assert await ids(inbox, state="all") == [second]
    assert list((await inbox.dismiss_group("alice", "g")).ids) == [second]
    assert (await inbox.counts("alice")).total == 0


async def test_an_item_expires(inbox: Inbox) -> None:
    """With `ttl`, an item vanishes from lists and counts by itself, and `sweep` removes it."""
    began = time.time()
    event = await inbox.send("alice", "app.item", ttl=600, group="g")
    stays = (await sent(inbox, 1))[0]
    assert event is not None
    item = await inbox.get("alice", event.id)
    assert item is not None
    assert item.expires_at is not None
    assert began + 600 <= item.expires_at.timestamp() <= time.time() + 600.001
    event = await inbox.send("alice", "app.item", ttl=0.2, group="g")
    assert event is not None

    async def is_alone() -> bool:
        return await ids(inbox) == [stays]

    await until(is_alone)
    assert (await inbox.counts("alice")).total == 1
    assert await inbox.get("alice", event.id) is None
    assert await inbox.sweep() <= 1
    assert await inbox.sweep() == 0


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "1", True, 1e12, 10**400])
async def test_ttl_is_checked(ttl: Any) -> None:
    """Seconds greater than 0, within the years that a time can name."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises(UsageError, match="ttl"):
            await Inbox(notifier).send("alice", "t", ttl=ttl)


async def test_arguments_of_send_are_those_of_push(inbox: Inbox) -> None:
    """What `push` refuses is refused, and nothing is stored."""
    for bad in (
        inbox.send("", "t"),
        inbox.send("alice", "notify.read"),
        inbox.send("alice", "t", {1, 2}),
        inbox.send("alice", "t", "x" * 70_000),
        inbox.send("alice", "t", meta={"notify.item": "5"}),
        inbox.send("alice", "t", group=""),
        inbox.publish("", "t"),
        inbox.send_many("alice", "t"),
        inbox.send_many(5, "t"),  # type: ignore[arg-type]
        inbox.send_many([["alice"]], "t"),  # type: ignore[list-item]
        inbox.send_many(["alice"], "notify.x"),
    ):
        with pytest.raises(InvalidEventError):
            await bad
    with pytest.raises(UsageError, match="no outbox"):
        await inbox.send("alice", "t", connection=object())
    assert await ids(inbox) == []


async def test_send_many(inbox: Inbox) -> None:
    """Each user gets one item; an unacceptable user is reported, and only if all are it is raised."""
    users = [f"user{number}" for number in range(20)]
    report = await inbox.send_many([*users, "user1", ""], "app.item", {"n": 1}, group="g", ttl=60)
    assert (len(report.events), list(report.failed), report.offline) == (20, [""], [])
    for user in users[:3]:
        assert await ids(inbox, user) == [report.events[user].id]
    assert (await inbox.send_many([], "t")).events == {}
    with pytest.raises(InvalidEventError):
        await inbox.send_many([""], "t")


async def test_dumps_and_the_payload_limit() -> None:
    """Items are encoded by the notifier's `dumps`, and held to its limit."""
    async with Notifier(MemoryStore(), dumps=lambda value: f'"{value!r}"', max_payload=20) as notifier:
        inbox = Inbox(notifier)
        event = await inbox.send("alice", "t", {1})
        assert event is not None
        assert event.payload == "{1}"
        with pytest.raises(PayloadTooLargeError):
            await inbox.send("alice", "t", "x" * 30)


async def test_the_policy_for_absent_users() -> None:
    """With `offline="drop"`, an absent user gets no item; presence and routing are those of a push."""
    router = NotingRouter()
    notifier = Notifier(MemoryStore(), presence=MemoryPresence(), offline="drop", router=router)
    async with notifier:
        inbox = Inbox(notifier)
        assert await inbox.send("alice", "t") is None
        assert (await inbox.send_many(["alice"], "t")).offline == ["alice"]
        async with notifier.subscribe("alice"):
            assert await inbox.send("alice", "t") is not None


# -- reading --------------------------------------------------------------------------------------------------------


async def test_pages(inbox: Inbox) -> None:
    """Newest first, each item once, with the counts; filters apply before the limit."""
    expected = [*reversed(await sent(inbox, 7))]
    found, before = [], None
    while True:
        page = await inbox.list("alice", limit=3, before=before)
        found += [item.id for item in page.items]
        assert (page.counts.total, page.counts.unread, page.position) == (7, 7, page.counts.position)
        before = page.next
        if before is None:
            break
    assert found == expected
    other = await inbox.send("alice", "app.other", group="g")
    assert other is not None
    assert await ids(inbox, types=["app.other"]) == await ids(inbox, group="g") == [other.id]
    assert await ids(inbox, types=[]) == []
    assert await ids(inbox, before=expected[1], limit=1) == [expected[2]]


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 0},
        {"limit": True},
        {"limit": "3"},
        {"state": "new"},
        {"types": "app.item"},
        {"types": [1]},
        {"types": 1},
        {"types": ["t\0"]},
        {"types": ["\ud800"]},
        {"before": "x"},
        {"before": ""},
        {"before": 5},
        {"group": ""},
    ],
)
async def test_arguments_of_list_are_checked(options: dict[str, Any]) -> None:
    """A page that cannot be meant is refused."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises(UsageError):
            await Inbox(notifier).list("alice", **options)


async def test_a_limit_of_any_size(inbox: Inbox) -> None:
    """It may be more than any inbox has, or than a backend can hold; `sweep` refuses what `list` refuses."""
    sent = await inbox.send("alice", "t")
    assert sent is not None
    assert [each.id for each in (await inbox.list("alice", limit=10**400)).items] == [sent.id]
    assert await inbox.sweep(10**400) == 0
    for limit in (0, -1, True, 1.5, "1"):
        with pytest.raises(UsageError, match="limit"):
            await inbox.sweep(limit)  # type: ignore[arg-type]


# -- marking --------------------------------------------------------------------------------------------------------


async def test_states(inbox: Inbox) -> None:
    """Each mark does what it says, once: a repetition changes and stores nothing."""
    one, two, three = await sent(inbox, 3)
    page = await inbox.list("alice")

    async def check(change: Change, names: list[str], counts: tuple[int, int, int]) -> None:
        assert list(change.ids) == names
        assert (change.counts.total, change.counts.unseen, change.counts.unread) == counts
        assert (change.event is None) == (not names)
        now = await inbox.counts("alice")
        assert now == change.counts

    await check(await inbox.mark_seen("alice", up_to=two), [two, one], (3, 1, 3))
    await check(await inbox.mark_seen("alice", up_to=two), [], (3, 1, 3))
    await check(await inbox.mark_read("alice", three), [three], (3, 0, 2))
    await check(await inbox.mark_read("alice", [three, three]), [], (3, 0, 2))
    await check(await inbox.mark_read_up_to("alice", page.position), [two, one], (3, 0, 0))
    await check(await inbox.mark_unread("alice", [one]), [one], (3, 0, 1))
    await check(await inbox.dismiss("alice", [one, two]), [two, one], (1, 0, 0))
    await check(await inbox.restore("alice", [two]), [two], (2, 0, 0))
    await check(await inbox.mark_unread("alice", [one]), [one], (3, 0, 1))
    await check(await inbox.dismiss_up_to("alice", two), [two, one], (1, 0, 0))
    await check(await inbox.mark("alice", "restored", ids=[one]), [one], (2, 0, 0))
    assert await ids(inbox, state="dismissed") == [two]
    assert await ids(inbox, state="all") == [three, two, one]


async def test_a_change_is_an_event(inbox: Inbox) -> None:
    """It arrives in streams like any event, live and in a replay; its payload names what was asked for."""
    (one,) = await sent(inbox, 1, group="g")
    async with inbox.notifier.subscribe("alice") as stream:
        changes = [
            await inbox.mark_read("alice", [one]),
            await inbox.mark_unread("alice", one),
            await inbox.mark_read_up_to("alice", one),
            await inbox.dismiss_group("alice", "g"),
        ]
        live = [await stream.next(5) for _ in changes]
    assert live == [change.event for change in changes]
    assert [(event.type, event.payload) for event in live] == [
        ("notify.read", {"ids": [one]}),
        ("notify.unread", {"ids": [one]}),
        ("notify.read", {"up_to": one}),
        ("notify.dismissed", {"group": "g"}),
    ]
    async with inbox.notifier.subscribe("alice", one) as stream:
        assert [await stream.next(5) for _ in changes] == live


async def test_a_change_reaches_other_instances() -> None:
    """Over a plain store, the change is offered here and routed to the others: nothing waits for a poll."""
    store, router = MemoryStore(), MemoryRouter()
    async with (
        Notifier(store, router=router, poll_interval=60) as here,
        Notifier(store, router=router, poll_interval=60) as there,
        here.subscribe("alice") as near,
        there.subscribe("alice") as far,
    ):
        inbox = Inbox(here)
        event = await inbox.send("alice", "t")
        assert event is not None
        change = await inbox.dismiss("alice", event.id)
        for stream in (near, far):
            assert [await stream.next(5), await stream.next(5)] == [event, change.event]


STRANGE = [
    "",
    "x",
    "0",
    "0-0",
    "1-",
    "1-1@",
    "1-1@\n",
    "-1-1",
    "1" * 30 + "-1",
    "5-5",
    "5-5@topic",
    "None",
    "1-1@" + "x" * 300,
]


@pytest.mark.parametrize("call", ["mark_read", "mark_unread", "dismiss", "restore"])
async def test_ids_tell_nothing(inbox: Inbox, call: str) -> None:
    """An id that is malformed, unknown, foreign, expired or that of a push is answered alike: nothing changes."""
    (theirs,) = await sent(inbox, 1, "bob")
    (own,) = await sent(inbox, 1)
    (gone,) = await sent(inbox, 1, ttl=0.001)
    pushed = await inbox.notifier.push("alice", "app.other")
    assert pushed is not None
    await anyio.sleep(0.01)
    before = await inbox.counts("alice")
    texts = [*STRANGE, theirs, f"{theirs}@bob", gone, pushed.id]
    answers = [await getattr(inbox, call)("alice", named) for named in [*texts, texts]]
    assert {(*answer.ids, answer.counts, answer.event) for answer in answers} == {(before, None)}
    assert {await inbox.get("alice", id) for id in texts} == {None}
    assert (await inbox.get("bob", theirs)) is not None
    assert await ids(inbox) == [own]


async def test_spellings_of_an_id(inbox: Inbox) -> None:
    """Leading zeros and the own log's name name the same item; the event has the one spelling, once."""
    (own,) = await sent(inbox, 1)
    change = await inbox.mark_read("alice", [f"00{own}", own, f"{own}@alice", "nonsense"])
    assert change.event is not None
    assert change.event.payload == {"ids": [own]}
    assert await inbox.get("alice", f"{own}@alice") is not None
    assert (await inbox.dismiss_up_to("alice", f"0{own}@alice")).event is not None


@pytest.mark.parametrize(
    "named", [5, b"1-1", [5], [None], [f"{number}-0" for number in range(MAX_IDS + 1)], {"x": 1}.items()]
)
async def test_what_cannot_be_ids(named: Any) -> None:
    """No texts, or more than 1,000: refused, nothing is stored."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises(UsageError):
            await Inbox(notifier).dismiss("alice", named)


async def test_what_is_passed_in_place_of_an_id_or_a_position(inbox: Inbox) -> None:
    """An item, its event or a page: the message says which attribute is meant."""
    await sent(inbox, 1)
    page: Any = await inbox.list("alice")
    for named in (page.items[0], page.items, page.items[0].event):
        with pytest.raises(UsageError, match=r"such as item\.id"):
            await inbox.mark_read("alice", named)
    with pytest.raises(InvalidEventIdError, match=r"such as page\.position"):
        await inbox.mark_read_up_to("alice", page)


async def test_a_thousand_ids(inbox: Inbox) -> None:
    """1,000 different ids are accepted, however often each is named."""
    own = await sent(inbox, 3)
    named = [*own, *(f"{number}-0" for number in range(1, MAX_IDS - 2))]
    change = await inbox.mark_read("alice", iter(named * 2))
    assert sorted(change.ids) == sorted(own)


async def test_a_change_fits_into_a_message() -> None:
    """A change that routers may not carry is refused; so many long ids are named in several calls."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises(PayloadTooLargeError):
            await Inbox(notifier).dismiss("alice", [f"{number}-1@{'x' * 250}" for number in range(1, 500)])


@pytest.mark.parametrize("up_to", ["", "x", "1-1@", None, 5, "m1.alice", "m9.alice.1-1", "1-1@\x00"])
@pytest.mark.parametrize("call", ["mark_read_up_to", "dismiss_up_to"])
async def test_positions_are_checked(call: str, up_to: Any) -> None:
    """What is neither a position nor an id is refused."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises((InvalidEventIdError, UsageError), match="up_to"):
            await getattr(Inbox(notifier), call)("alice", up_to)


@pytest.mark.parametrize(
    ("state", "options"),
    [
        ("new", {"ids": ["1-1"]}),
        ("followed", {"ids": ["1-1"]}),
        ("read", {}),
        ("read", {"ids": ["1-1"], "group": "g"}),
        ("read", {"group": ""}),
        ("read", {"group": 5}),
    ],
)
async def test_marks_are_checked(state: str, options: dict[str, Any]) -> None:
    """A state that items have, and exactly one way to name them."""
    async with Notifier(MemoryStore()) as notifier:
        with pytest.raises(UsageError):
            await Inbox(notifier).mark("alice", state, **options)


# -- topics and sessions --------------------------------------------------------------------------------------------


async def test_topics(inbox: Inbox) -> None:
    """A follower sees a topic's items from the follow on, with states of its own, until it unfollows."""
    await inbox.publish("topic", "app.old")
    await inbox.follow("alice", "topic")
    await inbox.follow("bob", "topic", history=True)
    new = await inbox.publish("topic", "app.new", group="g")
    assert new is not None
    assert await ids(inbox, "alice") == [f"{new.id}@topic"]
    assert len(await ids(inbox, "bob")) == 2
    await inbox.dismiss("alice", f"{new.id}@topic")
    assert (await inbox.counts("alice")).total == 0
    assert (await inbox.counts("bob")).total == 2
    assert [user async for user in inbox.followers("topic")] == ["alice", "bob"]
    assert [topic async for topic in inbox.following("alice")] == ["topic"]
    assert (await inbox.follow("alice", "topic")).event is None
    assert (await inbox.unfollow("alice", "topic")).event is not None
    assert (await inbox.unfollow("alice", "topic")).event is None
    assert [user async for user in inbox.followers("topic")] == ["bob"]
    assert await ids(inbox, "alice", state="all") == []


async def test_followers_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come in order and once, whatever the size of a page; the iterator ends, and stays ended."""
    monkeypatch.setattr("notify.inbox._follow_names.PAGE", 3)
    store = PlainInboxStore()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        for count in (0, 1, 3, 7):
            topic = f"topic{count}"
            users = [f"user{number}" for number in range(count)]
            for user in users:
                await inbox.follow(user, topic)
            names = inbox.followers(topic)
            assert [user async for user in names] == users
            with pytest.raises(StopAsyncIteration):
                await names.__anext__()
        names = inbox.followers("topic7")
        store.failure = OSError("away")
        with pytest.raises(BackendUnavailableError):
            await names.__anext__()
        store.failure = None
        assert [user async for user in names] == users


async def test_merge(inbox: Inbox) -> None:
    """A session's items and follows become the user's, with their states; a second merge changes nothing."""
    one, two = await sent(inbox, 2, "session")
    await inbox.follow("session", "topic")
    await inbox.mark_read("session", one)
    assert (await inbox.merge("session", into="alice")).event is not None
    assert await ids(inbox) == [f"{two}@session", f"{one}@session"]
    assert (await inbox.counts("alice")).unread == 1
    assert [topic async for topic in inbox.following("alice")] == ["topic"]
    assert (await inbox.merge("session", into="alice")).event is None


async def test_other_logs_are_checked(inbox: Inbox) -> None:
    """A topic or session is a name, and not the user."""
    for call in (inbox.follow, inbox.unfollow):
        with pytest.raises(UsageError, match="both"):
            await call("alice", "alice")
        with pytest.raises(InvalidEventError, match="topic must be"):
            await call("alice", "")
        with pytest.raises(InvalidEventError, match="user must be"):
            await call("", "topic")
    with pytest.raises(InvalidEventError, match="session must be"):
        await inbox.merge("", into="alice")
    with pytest.raises(UsageError):
        await inbox.merge("alice", into="alice")
    with pytest.raises(InvalidEventError):
        inbox.following("")
    with pytest.raises(InvalidEventError, match="topic must be"):
        inbox.followers("")
    with pytest.raises(InvalidEventError, match="topic must be"):
        await inbox.publish("", "t")


# -- construction and failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inbox(Notifier()), "without a store"),
        (lambda: Inbox(Notifier(PlainStore())), "not PlainStore"),
        (lambda: Inbox(MemoryStore()), "expects a Notifier"),  # type: ignore[arg-type]
        (lambda: Inbox(Notifier(MemoryStore()), hooks=[object()]), "before_send"),  # type: ignore[list-item]
        (lambda: Inbox(Notifier(MemoryStore()), retention=5), "InboxRetention"),  # type: ignore[arg-type]
        *[
            (lambda bad=bad: Inbox(Notifier(MemoryStore()), retention=InboxRetention(**bad)), next(iter(bad)))
            for bad in (
                {"max_items": 0},
                {"max_items": 1.5},
                {"max_items": True},
                {"max_items": 2**63},
                {"max_age": 0},
                {"max_age": "1"},
                {"max_age": True},
                {"max_age": 2e10},
                {"max_age": float("nan")},
                {"keep_unread": 1},
            )
        ],
    ],
)
async def test_what_an_inbox_is_not_made_of(make: Any, message: str) -> None:
    """The error says what to use."""
    with pytest.raises(UsageError, match=message):
        make()


async def test_one_retention_for_each_store() -> None:
    """It is set on the store; another Inbox on the store has the same, or is refused, and nothing is changed."""
    store = MemoryStreamStore()
    retention = InboxRetention(max_items=3)
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier, retention=retention)
        assert store.inbox_retention == inbox.retention == retention
        assert Inbox(notifier, retention=InboxRetention(max_items=3)).notifier is notifier
        for other in (InboxRetention(), InboxRetention(max_items=4)):
            with pytest.raises(UsageError, match="max_items=3"):
                Inbox(notifier, retention=other)
        assert store.inbox_retention == retention
        await sent(inbox, 5)
        assert len(await ids(inbox)) == 3


async def test_failures_of_a_store() -> None:
    """A driver's exception becomes the library's: a read may be repeated, a change has an unknown outcome."""
    store = PlainInboxStore()
    async with Notifier(store) as notifier:
        inbox = Inbox(notifier)
        store.failure = OSError("away")
        for read in (inbox.list("alice"), inbox.get("alice", "1-1"), inbox.counts("alice"), inbox.sweep()):
            with pytest.raises(BackendUnavailableError, match="away"):
                await read
        with pytest.raises(BackendUnavailableError):
            await inbox.dismiss("alice", "nonsense")
        with pytest.raises(PushUncertainError, match="away"):
            await inbox.dismiss("alice", "1-1")
        store.failure = ClosedError("closed")
        for call in (inbox.list("alice"), inbox.dismiss("alice", "1-1")):
            with pytest.raises(ClosedError):
                await call


async def test_a_cancelled_change_is_announced() -> None:
    """A caller that gives up leaves no stored change that the streams of this process do not see."""
    store = PlainInboxStore()
    async with Notifier(store, poll_interval=60) as notifier, notifier.subscribe("alice") as stream:
        inbox = Inbox(notifier)
        event = await inbox.send("alice", "t")
        assert event is not None
        assert await stream.next(5) == event
        with anyio.CancelScope() as scope:
            scope.cancel()
            await inbox.dismiss("alice", event.id)
        assert (await stream.next(5)).type == "notify.dismissed"


async def test_a_closed_inbox() -> None:
    """It changes nothing any more; reading, and the notifier, go on."""
    async with Notifier(MemoryStore()) as notifier:
        async with Inbox(notifier) as inbox:
            event = await inbox.send("alice", "t")
        assert event is not None
        with pytest.raises(ClosedError):
            await inbox.dismiss("alice", event.id)
        await inbox.aclose()
        assert await ids(inbox) == [event.id]
    with pytest.raises(ClosedError):
        await inbox.send("alice", "t")


# -- hooks ----------------------------------------------------------------------------------------------------------


class Noting:
    """Hooks that note what they are called with."""

    def __init__(self, name: str, calls: list[tuple[Any, ...]]) -> None:
        self.name, self.calls = name, calls

    async def before_send(self, draft: Event) -> Event | None:
        self.calls.append((self.name, "before", draft.payload))
        return draft

    def after_send(self, event: Event) -> None:
        self.calls.append((self.name, "after", event.id))

    async def after_change(self, user: str, change: Change) -> None:
        self.calls.append((self.name, "change", user, list(change.ids)))


class Only:
    """One hook that is a function."""

    def __init__(self, **functions: Any) -> None:
        vars(self).update(functions)


async def test_hooks_run_in_order() -> None:
    """Plain and async ones, each with what it is about; changes that change nothing are not passed on."""
    calls: list[tuple[Any, ...]] = []
    async with Notifier(MemoryStore()) as notifier:
        inbox = Inbox(notifier, hooks=[Noting("a", calls), Noting("b", calls)])
        event = await inbox.send("alice", "t", 1)
        assert event is not None
        assert calls == [("a", "before", 1), ("b", "before", 1), ("a", "after", event.id), ("b", "after", event.id)]
        calls.clear()
        await inbox.dismiss("alice", event.id)
        await inbox.dismiss("alice", event.id)
        assert calls == [("a", "change", "alice", [event.id]), ("b", "change", "alice", [event.id])]
        calls.clear()
        report = await inbox.send_many(["x", "y"], "t", 2)
        assert len(calls) == 8
        assert {call[2] for call in calls[4:]} == {event.id for event in report.events.values()}


async def test_hooks_that_are_added() -> None:
    """They are called after those of the constructor, from then on, and are checked in the same way."""
    calls: list[tuple[Any, ...]] = []
    async with Notifier(MemoryStore()) as notifier:
        inbox = Inbox(notifier, hooks=[Noting("a", calls)])
        first = await inbox.send("alice", "t", 1)
        assert first is not None
        inbox.add_hook(Noting("b", calls))
        calls.clear()
        event = await inbox.send("alice", "t", 2)
        assert event is not None
        await inbox.mark_read("alice", [event.id, first.id])
        assert calls == [
            *(("a", "before", 2), ("b", "before", 2), ("a", "after", event.id), ("b", "after", event.id)),
            *((name, "change", "alice", [event.id, first.id]) for name in "ab"),
        ]
        wrong: list[Any] = [Noting, object(), None, lambda draft: draft]
        for each in wrong:
            with pytest.raises(UsageError, match="before_send, after_send, after_change"):
                inbox.add_hook(each)
        calls.clear()
        assert await inbox.send("alice", "t", 3) is not None
        assert len(calls) == 4


async def test_hooks_that_are_removed() -> None:
    """They are no longer called, even one that removes itself; others are. Removing an unknown hook does nothing."""
    calls: list[tuple[Any, ...]] = []
    async with Notifier(MemoryStore()) as notifier:
        first, last = Noting("a", calls), Noting("b", calls)
        once: Any = Only(after_send=lambda event: inbox.remove_hook(once))
        inbox = Inbox(notifier, hooks=[once, first, last])
        await inbox.send("alice", "t", 1)
        assert [call[0] for call in calls] == ["a", "b"] * 2
        assert inbox._hooks.after[0].hook is once
        calls.clear()
        inbox.remove_hook(first)
        inbox.remove_hook(Noting("c", calls))
        await inbox.send("alice", "t", 2)
        assert [call[0] for call in calls] == ["b", "b"]
        assert [call.hook for call in inbox._hooks.after] == [last]
        inbox.remove_hook(last)
        inbox.add_hook(last)
        calls.clear()
        event = await inbox.send("alice", "t", 3)
        assert event is not None
        await inbox.mark_read("alice", event.id)
        assert [call[1] for call in calls] == ["before", "after", "change"]
        inbox.remove_hook(last)
        assert await inbox.send("alice", "t", 4) is not None
        await inbox.mark_read("alice", event.id)
        assert len(calls) == 3
        assert inbox.hook_failures == 0


@pytest.mark.parametrize(("answer", "listed"), [("other", "app.other"), (5, "t")])
async def test_a_hook_that_is_removed_while_it_runs(answer: Any, listed: str) -> None:
    """What it returns then is still checked, and made an item."""
    asked, release = anyio.Event(), anyio.Event()

    async def slow(draft: Event) -> Any:
        asked.set()
        await release.wait()
        return Event(draft.user, "app.other") if answer == "other" else answer

    hook: Any = Only(before_send=slow)
    async with Notifier(MemoryStore()) as notifier:
        inbox = Inbox(notifier, hooks=[hook])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(inbox.send, "alice", "t")
            await asked.wait()
            inbox.remove_hook(hook)
            await inbox.send("bob", "t")
            release.set()
        assert [item.event.type for item in (await inbox.list("alice")).items] == [listed]
        assert inbox.hook_failures == (answer != "other")


async def test_before_send_changes_or_withholds() -> None:
    """A hook returns another event for the same user, which stays an item; or None: nothing is sent."""
    later: list[Event] = []
    change: Any = Only(before_send=lambda draft: Event(draft.user, "app.other", 5, group="g"))
    withhold: Any = Only(before_send=lambda draft: None if draft.user == "bob" else draft)
    note: Any = Only(before_send=lambda draft: later.append(draft) or draft, after_send=later.append)
    async with Notifier(MemoryStore()) as notifier:
        inbox = Inbox(notifier, hooks=[change, withhold, note])
        event = await inbox.send("alice", "t", 1, ttl=60)
        assert event is not None
        assert (event.type, event.payload, event.group) == ("app.other", 5, "g")
        item = await inbox.get("alice", event.id)
        assert item is not None
        assert item.expires_at is not None
        assert later[1] == event
        later.clear()
        assert await inbox.send("bob", "t") is None
        report = await inbox.send_many(["alice", "bob"], "t")
        assert (list(report.events), report.failed, report.offline) == (["alice"], {}, [])
        assert await inbox.publish("bob", "t") is None
        assert {event.user for event in later} == {"alice"}


async def test_hooks_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    """They are logged once for each outage and counted; the item is sent, the change is made, other hooks run."""
    calls: list[Any] = []
    broken = True

    def fail(*args: Any) -> Any:
        if broken:
            raise ValueError("no")
        return args[0]

    failing: Any = Only(before_send=fail, after_send=fail, after_change=fail)
    foreign: Any = Only(before_send=lambda draft: draft.addressed_to("bob") if broken else draft)
    nothing: Any = Only(before_send=lambda draft: "text" if broken else draft)
    async with Notifier(MemoryStore()) as notifier:
        inbox = Inbox(notifier, hooks=[failing, foreign, nothing, Noting("a", calls)])
        for number in range(2):
            event = await inbox.send("alice", "t", number)
            assert event is not None
            assert event.payload == number
            await inbox.dismiss("alice", event.id)
        assert (inbox.hook_failures, len(calls)) == (10, 6)
        broken = False
        event = await inbox.send("alice", "t")
        assert event is not None
        await inbox.dismiss("alice", event.id)
        assert inbox.hook_failures == 10
    lines = [record.message for record in caplog.records if "inbox hook" in record.message]
    assert len([line for line in lines if "failed" in line]) == 5
    assert len([line for line in lines if "works again" in line]) == 5


async def stray(draft: Event) -> Event:
    """Raise what awaiting a cancelled task raises."""
    raise asyncio.CancelledError


def plain_stray(draft: Event) -> Event:
    """As a hook that reads the result of a cancelled future."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("function", [stray, plain_stray])
async def test_a_hook_whose_own_task_was_cancelled(function: Callable[[Event], Any]) -> None:
    """Its CancelledError cancels nothing else: it counts as a failure, also that of a plain hook."""
    async with Notifier(MemoryStore()) as notifier:
        inbox = Inbox(notifier, hooks=[Only(before_send=function)])
        assert await inbox.send("alice", "t") is not None
        assert inbox.hook_failures == 1


async def test_hooks_that_hang(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A hook is given up when its time is over, once for all items of a call; other calls continue."""
    calls: list[Any] = []
    waiting = anyio.Event()

    async def hang(*args: Any) -> None:
        calls.append(args)
        waiting.set()
        await anyio.sleep_forever()

    hanging: Any = Only(before_send=hang, after_send=hang, after_change=hang)
    async with Notifier(MemoryStore()) as notifier, anyio.create_task_group() as group:
        inbox = Inbox(notifier, hooks=[hanging])
        group.start_soon(inbox.send, "alice", "t")
        await waiting.wait()
        other = Inbox(notifier)
        assert await other.send("alice", "t") is not None
        assert (await other.counts("alice")).total == 1
        group.cancel_scope.cancel()
    calls.clear()
    monkeypatch.setattr("notify.inbox._hooks.TIMEOUT", 0.01)
    async with Notifier(MemoryStore()) as notifier:
        inbox = Inbox(notifier, hooks=[hanging])
        event = await inbox.send("alice", "t")
        assert event is not None
        assert (await inbox.dismiss("alice", event.id)).counts.total == 0
        assert (len(calls), inbox.hook_failures) == (3, 3)
        report = await inbox.send_many([f"user{number}" for number in range(50)], "t")
        assert len(report.events) == 50
        assert (len(calls), inbox.hook_failures) == (5, 103)
    assert "before_send failed, and the inbox goes on without it: TimeoutError('it has not returned" in caplog.text


@pytest.mark.parametrize("raises", [True, False])
async def test_a_hook_that_catches_the_end_of_its_time(raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was late even so: the other items of a `send_many` do not wait for it again."""
    calls: list[Event] = []

    async def before_send(draft: Event) -> Event:
        calls.append(draft)
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if raises:
                raise ValueError("its own") from None
        return draft

    monkeypatch.setattr("notify.inbox._hooks.TIMEOUT", 0.01)
    async with Notifier(MemoryStore()) as notifier:
        inbox = Inbox(notifier, hooks=[Only(before_send=before_send)])
        report = await inbox.send_many(["alice", "bob", "carol"], "t")
        assert (len(report.events), len(calls), inbox.hook_failures) == (3, 1, 3)


@pytest.mark.parametrize("type", ["notify.read", "notify.followed", "notify.x"])
async def test_before_send_returns_a_reserved_type(type: str, caplog: pytest.LogCaptureFixture) -> None:
    """It would change inboxes instead of being listed: refused, and the item is sent as it was."""
    hook: Any = Only(before_send=lambda draft: Event(draft.user, type, {}, meta=draft.meta))
    async with Notifier(MemoryStore()) as notifier:
        inbox = Inbox(notifier, hooks=[hook])
        event = await inbox.send("alice", "t", 1)
        report = await inbox.send_many(["bob"], "t", 1)
        assert event is not None
        assert [each.type for each in (event, report.events["bob"])] == ["t", "t"]
        assert inbox.hook_failures == 2
    assert "InvalidEventError" in caplog.text
