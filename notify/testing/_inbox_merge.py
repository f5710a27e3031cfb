"""Tests of merging: a session's inbox becomes part of a user's, at login."""

from __future__ import annotations

from notify import Event
from notify.adapters import join_positions
from notify.inbox import Follow, InboxStore

from ._inbox_base import InboxTests, item
from ._types import InboxStoreT


class InboxMergeTests(InboxTests[InboxStoreT]):
    """Merging sessions."""

    async def test_a_session_is_merged_with_its_states(self, store: InboxStore) -> None:
        """Its items are listed in their order and states, named by its log; the session keeps its own."""
        own = await self.send(store, "alice", "own", group="g")
        sent = [await self.send(store, "s", number, group="g" if number == 3 else None) for number in range(4)]
        for effect, event in zip(("seen", "read", "dismissed"), sent, strict=False):
            await self.mark(store, "s", effect, ids=[event.id])
        newest = await self.send(store, "alice", "newest")
        before = await self.states(store, "s")
        head = await store.head("s")
        change = await self.merge(store, "s", "alice")
        assert change.event is not None
        assert change.event.type == "notify.merged"
        assert change.event.payload == {"session": "s", "until": head}
        merged = {f"{id}@s": state for id, state in before.items()}
        assert await self.states(store, "alice") == {newest.id: "unseen"} | merged | {own.id: "unseen"}
        assert await self.states(store, "s") == before
        page = await self.page(store, "alice", state="all")
        theirs = {each.id: each for each in (await self.page(store, "s", state="all")).items}
        for each in page.items:
            if "@" in each.id:
                original = theirs[each.id.removesuffix("@s")]
                times = (original.seen_at, original.read_at, original.dismissed_at, original.expires_at)
                assert (each.seen_at, each.read_at, each.dismissed_at, each.expires_at) == times
                assert each.event == original.event
        assert page.position == join_positions({"alice": change.event.id, "s": head})
        assert change.counts == page.counts
        assert [*await store.edges(user="alice"), *await store.edges(topic="s")] == []

    async def test_a_second_merge_changes_nothing(self, store: InboxStore) -> None:
        """What was merged is not merged again, whatever became of it; what the session got since then is."""
        first = await self.send(store, "s", "first")
        await self.merge(store, "s", "alice")
        await self.mark(store, "alice", "dismissed", ids=[f"{first.id}@s"])
        for _ in range(2):
            again = await self.merge(store, "s", "alice")
            assert (again.event, [*again.ids], again.counts.total) == (None, [], 0)
        await self.send(store, "unknown", "t", expires=1)
        assert (await self.merge(store, "without items", "alice")).event is None
        later = [await self.send(store, "s", number) for number in range(2)]
        assert await self.states(store, "alice") == {f"{first.id}@s": "dismissed"}
        assert await store.pull("alice") == 0
        assert (await self.merge(store, "s", "alice", first.id)).event is None
        assert (await self.merge(store, "s", "alice", later[0].id)).event is not None
        assert await self.states(store, "alice") == {f"{later[0].id}@s": "unseen", f"{first.id}@s": "dismissed"}
        assert (await self.merge(store, "s", "alice")).counts.total == 2
        assert (await self.merge(store, "s", "alice")).event is None

    async def test_the_topics_of_a_session_are_merged(self, store: InboxStore) -> None:
        """What it follows is followed from the same positions, with the states of its items; what is followed stays."""
        for user, topic in (("s", "news"), ("s", "both"), ("alice", "both")):
            await self.follow(store, user, topic)
        read = await self.send(store, "news", "read")
        both = await self.send(store, "both", "both")
        await self.mark(store, "s", "read", ids=[f"{read.id}@news", f"{both.id}@both"])
        later = await self.send(store, "news", "later")
        change = await self.merge(store, "s", "alice")
        assert change.event is not None
        states = await self.states(store, "alice")
        assert states == {f"{later.id}@news": "unseen", f"{both.id}@both": "unseen", f"{read.id}@news": "read"}
        assert [each.topic for each in await store.edges(user="alice")] == ["both", "news"]
        assert [*await store.edges(topic="news")] == [Follow("alice", "news", "0"), Follow("s", "news", "0")]
        await self.send(store, "news", "last")
        assert len(await self.states(store, "alice")) == len(await self.states(store, "s")) == 4

    async def test_a_saved_merge_is_applied(self, store: InboxStore) -> None:
        """A merge that is saved lists what the session has up to `until`."""
        for number, save in enumerate(self.ways(store)):
            session, user = f"s {number}", f"alice {number}"
            sent = [await self.send(store, session, number) for number in range(3)]
            merged = Event(user, "notify.merged", {"session": session, "until": sent[1].id})
            await save([merged, item(user, "own")])
            items = await self.list_all(store, user)
            merged_ids = [each.id for each in items if each.event.user == session]
            assert merged_ids == [f"{sent[1].id}@{session}", f"{sent[0].id}@{session}"]
            assert len(items) == 3
            assert (await self.merge(store, session, user, sent[1].id)).event is None
