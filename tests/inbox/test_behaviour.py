"""How an inbox must behave while things go wrong or happen at once; two instances where instances are meant.

`README.md` says which test shows what. The tests with two instances run on servers in `test_servers.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from notify import Event, Notifier, RoutingInfo, ids
from notify.inbox import Inbox, InboxRetention, InboxStream
from notify.inbox.abc import ITEM
from notify_memory import MemoryRouter, MemoryStore, MemoryStreamStore
from notify_sqlite import SQLiteStreamStore
from tests.inbox.parts import PlainInboxStore, read, read_until, unread

pytestmark = pytest.mark.anyio


def shared_memory(path: Path, **options: Any) -> tuple[Any, Any]:
    store = MemoryStreamStore(**options)
    return store, store


def two_files(path: Path, **options: Any) -> tuple[Any, Any]:
    return SQLiteStreamStore(path / "log.db", **options), SQLiteStreamStore(path / "log.db", **options)


def plain(path: Path, **options: Any) -> tuple[Any, Any]:
    inner = MemoryStore(**options)
    return PlainInboxStore(inner), PlainInboxStore(inner)


PAIRS = {"memory": shared_memory, "sqlite": two_files, "plain": plain}

Stores = Callable[..., tuple[Any, Any]]
"""Makes the stores of two processes that share their data, with the options given."""


@pytest.fixture(params=PAIRS)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    return partial(PAIRS[request.param], tmp_path)


@asynccontextmanager
async def two_instances(
    stores: tuple[Any, Any], retention: InboxRetention | None = None
) -> AsyncIterator[tuple[Inbox, Inbox]]:
    """Inboxes of two processes on one store; over a plain one with a router, and with polls that come late."""
    router = MemoryRouter() if isinstance(stores[0], PlainInboxStore) else None
    async with AsyncExitStack() as stack:
        inboxes = []
        for store in stores:
            stack.push_async_callback(store.aclose)
            notifier = await stack.enter_async_context(Notifier(store, router=router, poll_interval=0.5))
            inbox = Inbox(notifier, retention=retention or InboxRetention())
            inboxes.append(await stack.enter_async_context(inbox))
        yield inboxes[0], inboxes[1]


@pytest.fixture
async def pair(stores: Stores) -> AsyncIterator[tuple[Inbox, Inbox]]:
    async with two_instances(stores()) as pair:
        yield pair


async def send(inbox: Inbox, user: str = "alice", payload: Any = None, **options: Any) -> Event:
    event = await inbox.send(user, "app.item", payload, **options)
    assert event is not None
    return event


class Cut(MemoryRouter):
    """A router whose wire can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.is_cut = False

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        if not self.is_cut:
            await super().route(event, to)


async def test_the_wake_path_is_dead_for_a_while() -> None:
    """Items and changes of that time all arrive without a reconnect, once and in order, and the counts are right."""
    inner, router = MemoryStore(), Cut()
    async with (
        Notifier(PlainInboxStore(inner), router=router, poll_interval=0.5) as here,
        Notifier(PlainInboxStore(inner), router=router, poll_interval=0.5) as there,
    ):
        sender, reader = Inbox(here), Inbox(there)
        await sender.follow("alice", "topic")
        async with reader.subscribe("alice", signals=True) as stream:
            await read_until(stream, lambda event: event.type == "notify.sync")
            expected = [await send(sender)]
            assert await read(stream, 1) == expected
            router.is_cut = True
            deadline = anyio.current_time() + 5
            number = 0
            expected, seen = [], list[Event]()

            async def collect() -> None:
                while True:
                    event = await stream.next()
                    if event.id:
                        seen.append(event)

            async with anyio.create_task_group() as group:
                group.start_soon(collect)
                while anyio.current_time() < deadline:
                    event = await send(sender, payload=number, group=f"g{number % 3}")
                    change = await sender.mark_read("alice", event.id)
                    assert change.event is not None
                    expected += [event, change.event]
                    number += 1
                    await anyio.sleep(0.1)
                router.is_cut = False
                news = await sender.publish("topic", "t")
                assert news is not None
                with anyio.fail_after(10):
                    while len(seen) < len(expected) + 1:  # noqa: ASYNC110 - what is read is a list
                        await anyio.sleep(0.01)
                group.cancel_scope.cancel()
            assert [event for event in seen if event.user == "alice"] == expected
            assert [event for event in seen if event.user == "topic"] == [news]
            assert stream.gaps == ()
            await send(sender)
            found = await read_until(stream, lambda event: unread(event) is not None and not event.id)
            counts = await reader.counts("alice")
            while found[-1].payload["position"] != counts.position:
                found = await read_until(stream, lambda event: event.type == "notify.counts")
            assert found[-1].payload["unread"] == counts.unread


async def test_two_tabs(pair: tuple[Inbox, Inbox]) -> None:
    """A dismissal in one instance is one event on each connection, and the same one."""
    here, there = pair
    one, two = await send(here), await send(there)
    async with here.subscribe("alice", two.id) as first, there.subscribe("alice", two.id) as second:
        change = await here.dismiss("alice", one.id)
        again = await there.dismiss("alice", one.id)
        assert (again.event, again.counts.total) == (None, 1)
        last = await send(here)
        for stream in (first, second):
            assert await read(stream, 2) == [change.event, last]


async def test_a_reconnect_removes_only_what_was_dismissed(pair: tuple[Inbox, Inbox]) -> None:
    """With an ephemeral event, an unlisted one and items on screen, the replay names exactly the dismissed item."""
    here, there = pair
    async with here.subscribe("alice") as stream:
        await here.notifier.push("alice", "t", "ephemeral", ephemeral=True)
        unlisted = await here.notifier.push("alice", "t", "unlisted")
        one, two = await send(here), await send(here)
        assert [event.id for event in await read(stream, 4)] == ["", unlisted.id, one.id, two.id]
    await there.dismiss("alice", one.id)
    async with there.subscribe("alice", stream.last_id) as resumed:
        (change,) = await read(resumed, 1)
        assert (change.type, change.payload) == ("notify.dismissed", {"ids": [one.id]})


async def test_following_on_another_instance(pair: tuple[Inbox, Inbox]) -> None:
    """It is live where the user is connected, in stream order; the token survives both; nothing between is lost."""
    here, there = pair
    before = await here.publish("topic", "t")
    async with there.subscribe("alice") as stream:
        follow = await here.follow("alice", "topic")
        live = await here.publish("topic", "t")
        assert await read(stream, 2) == [follow.event, live]
        token = stream.last_id
    away = await here.publish("topic", "t")
    second = await here.follow("alice", "other")
    other = await there.publish("other", "t")
    async with here.subscribe("alice", token) as stream:
        seen = await read(stream, 3)
        assert away in seen
        assert other in seen
        assert second.event in seen
        assert before not in seen
        unfollow = await there.unfollow("alice", "topic")
        assert await read(stream, 1) == [unfollow.event]
        await there.publish("topic", "t")
        last = await send(there)
        assert await read(stream, 1) == [last]
        token = stream.last_id
    async with there.subscribe("alice", token) as stream:
        news = await here.publish("other", "t")
        assert await read(stream, 1) == [news]


@pytest.mark.parametrize("topics", [0, 9])
async def test_marking_all_while_items_arrive(pair: tuple[Inbox, Inbox], topics: int) -> None:
    """Marking all as read marks what the page's position held, and nothing that comes later, in one log and in ten."""
    here, there = pair
    names = [f"topic{number}" for number in range(topics)]
    for name in names:
        await here.follow("alice", name)
    sent: list[str] = []

    async def arrive(rounds: int) -> None:
        for number in range(rounds):
            for log in ("alice", *names):
                event = await send(there, log, number)
                sent.append(event.id if log == "alice" else f"{event.id}@{log}")

    await arrive(2)
    shown: set[str] = set()
    async with anyio.create_task_group() as group:
        group.start_soon(arrive, 4)
        for _ in range(4):
            page = await here.list("alice", limit=1000)
            shown |= {item.id for item in page.items}
            await anyio.sleep(0.005)
            change = await here.mark_read_up_to("alice", page.position)
            assert change.counts.unread == change.counts.total - len(shown)
    everything = await here.list("alice", limit=1000, state="all")
    assert {item.id for item in everything.items} == set(sent)
    assert {item.id for item in everything.items if not item.is_unread} == shown
    assert everything.counts.unread == len(sent) - len(shown)


async def test_counts_while_items_arrive(pair: tuple[Inbox, Inbox]) -> None:
    """However marks and items interleave, the last counts of a stream are those of the inbox, for its position."""
    here, there = pair
    async with there.subscribe("alice", signals=True) as stream:
        told: list[Event] = []

        async def watch(stream: InboxStream = stream) -> None:
            while True:
                event = await stream.next()
                if event.type == "notify.counts":
                    told.append(event)

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            for number in range(15):
                event = await send(here, payload=number)
                if number % 3 == 0:
                    await there.mark_read_up_to("alice", event.id)
                if number % 5 == 0:
                    await here.dismiss("alice", event.id)
            final = await here.counts("alice")
            with anyio.fail_after(10):
                while not told or told[-1].payload["position"] != final.position:  # noqa: ASYNC110 - a list
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()
    assert told[-1].payload["unread"] == final.unread
    assert told[-1].payload["total"] == final.total


async def test_a_hundred_sends_of_one_group(pair: tuple[Inbox, Inbox]) -> None:
    """One item is active, the last of one order that every stream has; dismissing it works."""
    here, there = pair
    async with here.subscribe("alice") as first, there.subscribe("alice") as second:
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(lambda number=number: send((here, there)[number % 2], payload=number, group="g"))
        events = await read(first, 100, 20)
        assert await read(second, 100, 20) == events
        page = await here.list("alice", state="all")
        assert [item.id for item in page.items] == [events[-1].id]
        assert (await there.dismiss_group("alice", "g")).counts.total == 0


async def test_pages_while_thousands_come_and_go(stores: Stores) -> None:
    """Of 10,000 items, 500 are dismissed and 1,000 arrive while another process pages: none is skipped or twice."""
    async with two_instances(stores(), InboxRetention(max_items=20_000)) as (here, there):
        store: Any = here.notifier.store
        kept, gone, seen = set[str](), set[str](), list[str]()
        for start in range(0, 10_000, 500):
            saved = await save(store, start, 500)
            gone |= {saved[number] for number in range(0, 500, 20)}
            kept |= {*saved} - gone
        paging = anyio.Event()

        async def arrive() -> None:
            await paging.wait()
            for start in range(10_000, 11_000, 50):
                await save(store, start, 50)

        async def vanish() -> None:
            await paging.wait()
            doomed = sorted(gone)
            for start in range(0, 500, 25):
                await here.dismiss("alice", doomed[start : start + 25])

        async def page() -> None:
            before = None
            while True:
                found = await there.list("alice", limit=200, before=before)
                seen.extend(item.id for item in found.items)
                paging.set()
                if found.next is None:
                    return
                before = found.next
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            for task in (arrive, vanish, page):
                group.start_soon(task)
        assert seen == sorted({*seen}, key=ids.parse, reverse=True)
        assert kept <= {*seen} <= kept | gone
        counts = await there.counts("alice")
        assert counts.total == 10_000 + 1000 - 500


async def save(store: Any, first: int, count: int) -> list[str]:
    """Save items of one user, in one batch if the store can; return their ids."""
    drafts = [Event("alice", "app.item", number, meta={ITEM: ""}) for number in range(first, first + count)]
    if hasattr(store, "save_many"):
        return [event.id for event in await store.save_many(drafts)]
    return [(await store.save(draft)).id for draft in drafts]


async def test_progress_that_crowds_the_log(stores: Stores) -> None:
    """Of a log of 50 events, progress leaves no room for items: they stay in the inbox, and are changed there."""
    async with two_instances(stores(max_len=50)) as (here, there):
        sent = []
        for number in range(8):
            sent.append((await send(here, payload=number)).id)
            for step in range(20):
                await (here if step % 2 else there).notifier.push("alice", "app.progress", step)
            await there.mark_read("alice", sent[number // 2])
        page = await there.list("alice")
        assert [item.id for item in page.items] == sent[::-1]
        assert [item.id for item in page.items if not item.is_unread] == sent[3::-1]
        change = await here.dismiss_up_to("alice", page.position)
        assert ([*change.ids], change.counts.total) == (sent[::-1], 0)


async def test_a_topic_with_many_followers(stores: Stores) -> None:
    """Some are connected and receive it, in either process; the others find it in their inboxes. One dismisses it."""
    async with two_instances(stores()) as (here, there):
        users = [f"user{number}" for number in range(60)]
        for user in users:
            await here.follow(user, "topic")
        async with AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context((here, there)[number % 2].subscribe(user))
                for number, user in enumerate(users[:10])
            ]
            event = await here.publish("topic", "app.item", 7)
            assert event is not None
            for stream in streams:
                assert await read(stream, 1) == [event]
        name = f"{event.id}@topic"
        assert (await there.dismiss("user7", name)).counts.total == 0
        for user in users:
            listed = [item.id for item in (await there.list(user)).items]
            assert listed == ([] if user == "user7" else [name])
