"""Tests of topics: logs with items that other users follow."""

from __future__ import annotations

from functools import partial

import pytest

from notify import Event, UsageError, ids
from notify.adapters import join_positions
from notify.inbox import Follow, InboxRetention, InboxStore
from notify.inbox.abc import MAX_TOPICS

from ._inbox_base import InboxTests, item, listed, payloads, state_of
from ._samples import HOSTILE_NAMES
from ._types import InboxStoreT
from ._waits import together


class InboxTopicTests(InboxTests[InboxStoreT]):
    """Following topics."""

    async def test_following_lists_what_comes(self, store: InboxStore) -> None:
        """A follow is an event, names the end of the topic's log, and lists the topic's later items, named by log."""
        await self.send(store, "news", "before")
        head = await store.head("news")
        change = await self.follow(store, "alice", "news")
        assert change.event is not None
        assert change.event.type == "notify.followed"
        assert change.event.payload == {"topic": "news", "since": head}
        assert await self.read_all(store, "alice") == [change.event]
        own = await self.send(store, "alice", "own")
        await self.tick(store)
        event = await self.send(store, "news", "after", group="g")
        await store.save(Event("news", "t", "plain"))
        page = await self.page(store, "alice")
        assert listed(page.items) == [f"{event.id}@news", own.id]
        assert page.items[0].event == (await self.page(store, "news")).items[0].event
        assert page.items[0].event.user == "news"
        assert page.position == join_positions({"alice": own.id, "news": await store.head("news")})
        assert await self.states(store, "alice") == {f"{event.id}@news": "unseen", own.id: "unseen"}

    async def test_following_from_a_position(self, store: InboxStore) -> None:
        """With a position, what the topic has after it is listed; from the beginning, everything that it lists."""
        sent = [await self.send(store, "news", number) for number in range(4)]
        await self.follow(store, "alice", "news", sent[1].id)
        await self.follow(store, "bob", "news", "0")
        await self.follow(store, "carol", "unknown")
        assert payloads((await self.page(store, "alice")).items) == [3, 2]
        assert payloads((await self.page(store, "bob")).items) == [3, 2, 1, 0]
        assert [*(await self.page(store, "carol")).items] == []
        await self.send(store, "unknown", "known now")
        assert payloads((await self.page(store, "carol")).items) == ["known now"]
        assert [*await store.edges(user="alice")] == [Follow("alice", "news", sent[1].id)]
        assert [*await store.edges(user="carol")] == [Follow("carol", "unknown", "0")]

    async def test_the_position_of_a_follow(self, store: InboxStore) -> None:
        """A stream that continues from it yields the events of the topic after `since`, even if none is listed."""
        plain = await store.save(Event("news", "t", "plain"))
        change = await self.follow(store, "alice", "news", "0")
        assert change.event is not None
        assert change.counts.position == join_positions({"alice": change.event.id, "news": "0"})
        page = await self.page(store, "alice")
        assert page.position == join_positions({"alice": change.event.id, "news": plain.id})

    async def test_following_twice_and_unfollowing(self, store: InboxStore) -> None:
        """The second follow changes nothing; an unfollow removes the topic's items; nothing comes any more."""
        await self.follow(store, "alice", "news")
        own = await self.send(store, "alice", "own")
        await self.send(store, "news", 0)
        again = await self.follow(store, "alice", "news", "0")
        assert again.event is None
        assert again.counts.total == 2
        await self.send(store, "news", 1)
        change = await self.unfollow(store, "alice", "news")
        assert change.event is not None
        assert change.event.payload == {"topic": "news"}
        await self.send(store, "news", 2)
        assert await self.states(store, "alice") == {own.id: "unseen"}
        assert (await self.page(store, "alice")).position == change.event.id == await store.head("alice")
        assert [*await store.edges(user="alice"), *await store.edges(topic="news")] == []
        for topic in ("news", "unknown", "alice"):
            assert (await self.unfollow(store, "alice", topic)).event is None
        await self.follow(store, "alice", "news")
        await self.send(store, "news", 3)
        assert {*payloads((await self.page(store, "alice")).items)} == {3, "own"}

    async def test_each_follower_has_its_own_states(self, store: InboxStore) -> None:
        """What one follower dismisses stays for the others and for the topic; they begin with unseen items."""
        for user in ("alice", "bob"):
            await self.follow(store, user, "news")
        event = await self.send(store, "news", 0)
        name = f"{event.id}@news"
        assert [*(await self.mark(store, "alice", "dismissed", ids=[name])).ids] == [name]
        assert await self.states(store, "alice") == {name: "dismissed"}
        assert await self.states(store, "bob") == {name: "unseen"}
        assert await self.states(store, "news") == {event.id: "unseen"}
        await self.mark(store, "news", "dismissed", ids=[event.id])
        await self.follow(store, "carol", "news", "0")
        assert await self.states(store, "carol") == {name: "unseen"}
        assert (await self.mark(store, "bob", "dismissed", ids=[event.id, f"{event.id}@old", "1-1@news"])).event is None
        assert [*(await self.mark(store, "bob", "read", up_to=name)).ids] == [name]
        assert [*(await self.page(store, "bob", ids=(event.id,))).items] == []
        assert listed((await self.page(store, "bob", ids=(name,))).items) == [name]

    async def test_pulling_takes_over_once(self, store: InboxStore) -> None:
        """`pull` returns how many items are new; it appends nothing, and at the same time as others repeats nothing."""
        for topic in ("a", "b", "c"):
            await self.follow(store, "alice", topic)
        head = await store.head("alice")
        assert await store.pull("alice") == 0
        sent = {topic: [await self.send(store, topic, n) for n in range(3)] for topic in ("a", "b")}
        assert await store.pull("alice") == 6
        assert await store.pull("alice") == 0
        await store.save(Event("c", "t"))
        assert await store.pull("alice") == 0
        assert await store.head("alice") == head
        assert await store.pull("a") == await store.pull("unknown") == 0
        states = await self.states(store, "alice")
        assert {*states} == {f"{event.id}@{topic}" for topic, events in sent.items() for event in events}

        async def publish(topic: str) -> None:
            for number in range(10):
                sent.setdefault(topic, []).append(await self.send(store, topic, number))

        async def look() -> None:
            for _ in range(5):
                await store.pull("alice")
                await self.page(store, "alice")

        await together(partial(publish, "a"), partial(publish, "b"), partial(publish, "c"), look, look, look)
        states = await self.states(store, "alice")
        assert {*states} == {f"{event.id}@{topic}" for topic, events in sent.items() for event in events}

    async def test_replaced_items_are_replaced_in_copies(self, store: InboxStore) -> None:
        """The next item of a topic's group takes the place of the copy of the one before, and of no other log's."""
        await self.follow(store, "alice", "news")
        await self.follow(store, "alice", "olds")
        own = await self.send(store, "alice", "own", group="g")
        other = await self.send(store, "olds", "other", group="g")
        first = await self.send(store, "news", 1, group="g")
        change = await self.mark(store, "alice", "dismissed", group="g")
        assert {*change.ids} == {own.id, f"{other.id}@olds", f"{first.id}@news"}
        second = await self.send(store, "news", 2, group="g")
        expected = {f"{second.id}@news": "unseen", f"{other.id}@olds": "dismissed", own.id: "dismissed"}
        assert await self.states(store, "alice") == expected
        third = [await self.send(store, "news", number, group="g") for number in range(3, 6)][-1]
        page = await self.page(store, "alice", group="g", state="all")
        assert {*listed(page.items)} == {f"{third.id}@news", f"{other.id}@olds", own.id}
        restored = (await self.mark(store, "alice", "restored", group="g")).ids
        assert [*restored] == [each.id for each in page.items if each.dismissed_at is not None]

    async def test_up_to_a_page_of_many_logs(self, store: InboxStore) -> None:
        """The position of a page affects, in each log, what the page could show, and nothing that arrived since."""
        topics = [f"topic {number}" for number in range(10)]
        for topic in topics:
            await self.follow(store, "alice", topic)
        logs = ["alice", *topics]
        before = [await self.send(store, log, "before") for log in logs for _ in range(2)]
        page = await self.page(store, "alice", limit=5)
        assert page.counts.unread == len(before)
        after = [await self.send(store, log, "after") for log in reversed(logs)]
        change = await self.mark(store, "alice", "read", up_to=page.position)
        assert len(change.ids) == len(before)
        items = await self.list_all(store, "alice")
        assert {each.event.payload for each in items if state_of(each) == "read"} == {"before"}
        assert {each.event.payload for each in items if state_of(each) == "unseen"} == {"after"}
        assert change.counts.unread == len(after)
        own = await self.mark(store, "alice", "dismissed", up_to=next(e.id for e in after if e.user == "alice"))
        assert all("@" not in id for id in own.ids)
        assert len(own.ids) == 3
        one = await self.mark(store, "alice", "dismissed", up_to=f"{before[3].id}@{topics[0]}")
        assert [*one.ids] == [f"{before[3].id}@{topics[0]}", f"{before[2].id}@{topics[0]}"]

    async def test_a_change_sees_what_was_just_published(self, store: InboxStore) -> None:
        """A change pulls first: what is in the topic is affected at once, even in the same millisecond."""
        await self.follow(store, "alice", "news")
        name = ""
        for number in range(20):
            event = await self.send(store, "news", number, group="g")
            name = f"{event.id}@news"
            named = ({"ids": [name]}, {"group": "g"}, {"up_to": name})[number % 3]
            change = await self.mark(store, "alice", "dismissed", **named)
            assert [*change.ids] == [name]
            assert change.counts.total == 0
        assert [*(await self.mark(store, "alice", "restored", group="g")).ids] == [name]

    async def test_topics_count_for_retention(self, store: InboxStore) -> None:
        """Copies are items like any other: they expire, and the oldest of all logs give way."""
        store.inbox_retention = InboxRetention(max_items=4)
        await self.follow(store, "alice", "news")
        own = [await self.send(store, "alice", number) for number in range(3)]
        await self.tick(store)
        gone = await self.send(store, "news", "expired", expires=1)
        sent = [await self.send(store, "news", number) for number in range(3)]
        states = await self.states(store, "alice")
        assert [*states] == [*(f"{event.id}@news" for event in reversed(sent)), own[2].id]
        assert [*(await self.page(store, "alice", ids=(f"{gone.id}@news",))).items] == []
        assert (await self.page(store, "news")).counts.total == 3

    async def test_edges_in_pages(self, store: InboxStore) -> None:
        """Topics of a user and followers of a topic come by name, in pages, whatever characters the names have."""
        names = sorted(name for name in HOSTILE_NAMES)[:40]
        for name in names:
            await self.follow(store, "alice", name, "1-1")
            await self.follow(store, name, "to all", "2-2")
        for limit in (7, 40, 100):
            topics: list[Follow] = []
            followers: list[Follow] = []
            for _ in range(-(-40 // limit)):
                after = (topics[-1].topic, followers[-1].user) if topics else ("", "")
                topics += await store.edges(user="alice", after=after[0], limit=limit)
                followers += await store.edges(topic="to all", after=after[1], limit=limit)
            assert topics == [Follow("alice", name, "1-1") for name in names]
            assert followers == [Follow(name, "to all", "2-2") for name in names]
            assert [*await store.edges(user="alice", after=names[-1], limit=limit)] == []

    async def test_there_is_a_limit_to_topics(self, store: InboxStore) -> None:
        """One topic or session too many is refused with UsageError, and nothing is stored."""
        for number in range(MAX_TOPICS - 1):
            await self.follow(store, "alice", f"topic {number}", "0")
        await self.send(store, "session")
        await self.merge(store, "session", "alice")
        head = await store.head("alice")
        await self.send(store, "another")
        with pytest.raises(UsageError):
            await self.follow(store, "alice", "one more")
        with pytest.raises(UsageError):
            await self.merge(store, "another", "alice")
        assert await store.head("alice") == head
        assert len(await store.edges(user="alice")) == MAX_TOPICS - 1
        await self.unfollow(store, "alice", "topic 0")
        assert (await self.follow(store, "alice", "one more")).event is not None

    async def test_saved_follows_are_applied(self, store: InboxStore) -> None:
        """A log that is copied from elsewhere, event by event, brings its follows and marks with it."""
        for number, save in enumerate(self.ways(store)):
            user, topic = f"alice {number}", f"news {number}"
            sent = [await self.send(store, topic, number) for number in range(3)]
            await save([Event(user, "notify.followed", {"topic": topic, "since": sent[0].id}), item(user, "own")])
            page = await self.page(store, user)
            assert {*payloads(page.items)} == {"own", 2, 1}  # of several logs, perhaps of one millisecond
            await save([Event(user, "notify.read", {"up_to": page.position}), item(user, "new")])
            states = await self.states(store, user)
            assert sorted(states.values()) == ["read", "read", "read", "unseen"]
            assert [*await store.edges(topic=topic)] == [Follow(user, topic, sent[0].id)]
            await save([Event(user, "notify.unfollowed", {"topic": topic}), Event(user, "t")])
            assert payloads((await self.page(store, user)).items) == ["new", "own"]
            assert [*await store.edges(topic=topic)] == []
            assert ids.compare(page.position.split(".")[-1], await store.head(topic)) == 0
