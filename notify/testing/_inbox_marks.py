"""Tests of what changes do to items, and of which items they affect."""

from __future__ import annotations

from datetime import timedelta

from notify import Event, ids
from notify.inbox import InboxRetention, InboxStore, Item
from notify.inbox.abc import MAX_IDS, ItemQuery

from ._inbox_base import InboxTests, item, listed, payloads, state_of
from ._types import InboxStoreT
from ._waits import assert_chain

_RESULTS = {
    "seen": {"unseen": "seen"},
    "read": {"unseen": "read", "seen": "read"},
    "unread": {"read": "seen", "dismissed": "seen"},
    "dismissed": {"unseen": "dismissed", "seen": "dismissed", "read": "dismissed"},
    "restored": {"dismissed": "read"},
}
"""What becomes of an item, by the change and its state; what is not named here is not changed."""

_MALFORMED = ("", "x", "1", "1-", "@", "1-1@", "@t", "1-1@@", "1-1 ", "٣-1", f"{1 << 64}-0", "9" * 100, "m1.a.1-1", "%")

_MALFORMED_PAYLOADS: dict[str, tuple[object, ...]] = {
    "notify.dismissed": (None, 1, [], {}, {"ids": "x"}, {"ids": [None, 1, {}]}, {"up_to": 1}, {"up_to": "x"}, "g"),
    "notify.read": ({"group": 1}, {"group": None}, {"ids": {}}, {"up_to": None}, {"up_to": "m1.alice.x"}),
    "notify.followed": (None, {"topic": 1, "since": "0"}, {"topic": "t"}, {"topic": "t", "since": "x"}, ["t"]),
    "notify.unfollowed": (None, {"topic": 1}, ["t"]),
    "notify.merged": (None, {"session": "s"}, {"session": 1, "until": "1-1"}, {"session": "s", "until": "x"}),
}


class InboxMarkTests(InboxTests[InboxStoreT]):
    """Changing items."""

    async def four(self, store: InboxStore, user: str = "alice") -> dict[str, Item]:
        """Return an item in each state."""
        found = {}
        for state, effect in (("unseen", ""), ("seen", "seen"), ("read", "read"), ("dismissed", "dismissed")):
            event = await self.send(store, user, state, group=f"in {state}")
            if effect:
                await self.mark(store, user, effect, ids=[event.id])
            (found[state],) = (await self.page(store, user, ids=(event.id,))).items
            assert state_of(found[state]) == state
        return found

    async def test_each_change_in_each_state(self, store: InboxStore) -> None:
        """Every change has the effect that it says, absolutely, and affects nothing that is in that state already."""
        for effect, results in _RESULTS.items():
            user = f"user {effect}"
            before = await self.four(store, user)
            change = await self.mark(store, user, effect, ids=listed(before.values()))
            assert [*change.ids] == [before[state].id for state in reversed(before) if state in results]
            states = await self.states(store, user)
            assert states == {before[state].id: results.get(state, state) for state in reversed(before)}
            counts = (await self.page(store, user, limit=0)).counts
            assert change.counts == counts
            assert change.event is not None
            assert counts.position == change.event.id
            again = await self.mark(store, user, effect, ids=listed(before.values()))
            assert ([*again.ids], again.event, again.counts) == ([], None, counts)
            assert await store.head(user) == change.event.id
            await self.assert_folded(store, user)

    async def test_times_are_those_of_the_first_change(self, store: InboxStore) -> None:
        """A time stays until the item loses that state, and is the store's own; `unread` keeps when it was seen."""
        event = await self.send(store, "alice")

        async def after(effect: str) -> Item:
            await self.mark(store, "alice", effect, up_to=event.id)
            await store.save(Event("alice", "t"))
            (each,) = (await self.page(store, "alice", ids=(event.id,))).items
            return each

        seen = await after("seen")
        assert seen.seen_at is not None
        limit = timedelta(seconds=self.patience)
        assert abs(seen.seen_at - ids.time_of(event.id)) < limit
        assert seen.seen_at.utcoffset() == timedelta(0)
        read = await after("read")
        assert read.read_at is not None
        assert (read.seen_at, read.dismissed_at) == (seen.seen_at, None)
        assert seen.seen_at <= read.read_at < seen.seen_at + limit
        dismissed = await after("dismissed")
        assert dismissed.dismissed_at is not None
        assert (dismissed.seen_at, dismissed.read_at) == (seen.seen_at, read.read_at)
        assert read.read_at <= dismissed.dismissed_at < seen.seen_at + limit
        restored = await after("restored")
        assert (restored.seen_at, restored.read_at, restored.dismissed_at) == (seen.seen_at, read.read_at, None)
        unread = await after("unread")
        assert (unread.seen_at, unread.read_at, unread.dismissed_at) == (seen.seen_at, None, None)

    async def test_a_change_is_an_event(self, store: InboxStore) -> None:
        """It is appended to the log as given, linked to what is before it; without an effect nothing is appended."""
        sent = [await self.send(store, "alice", number) for number in range(3)]
        draft = Event("alice", "notify.read", {"ids": [sent[0].id, sent[2].id]}, meta={"trace": "1"})
        change = await store.change(draft)
        assert [*change.ids] == [sent[2].id, sent[0].id]
        assert change.event == draft.stored(change.event.id, sent[2].id) if change.event else False
        nothing = await store.change(Event("alice", "notify.read", {"ids": [sent[0].id]}))
        assert nothing.event is None
        following = await store.save(Event("alice", "t"))
        log = await self.read_all(store, "alice")
        assert log == [*sent, change.event, following]
        assert_chain(log)

    async def test_ids_that_are_not_there_are_ignored(self, store: InboxStore) -> None:
        """Foreign, unknown, replaced, expired and malformed ids are alike: no error, no effect, not told apart."""
        foreign = await self.send(store, "bob", "foreign")
        plain = await store.save(Event("alice", "t"))
        replaced = await self.send(store, "alice", "replaced", group="g")
        expired = await self.send(store, "alice", "expired", expires=1)
        mine = await self.send(store, "alice", "mine", group="g")
        absent = [foreign.id, plain.id, replaced.id, expired.id, f"{mine.id}@bob", f"{mine.id}@t", "1-1", *_MALFORMED]
        before = await self.page(store, "alice", state="all")
        for effect in _RESULTS:
            for each in absent:
                change = await self.mark(store, "alice", effect, ids=[each])
                assert ([*change.ids], change.event, change.counts) == ([], None, before.counts)
        for each in absent:
            page = await self.page(store, "alice", ids=(each,))
            assert ([*page.items], page.next, page.counts) == ([], None, before.counts)
        change = await self.mark(store, "alice", "dismissed", ids=[*absent, mine.id, mine.id])
        assert [*change.ids] == [mine.id]
        (untouched,) = (await self.page(store, "bob")).items
        assert state_of(untouched) == "unseen"

    async def test_up_to_spares_what_came_later(self, store: InboxStore) -> None:
        """An item's id, or the position of a page, affects what is at or before it, and nothing that came later."""
        for effect, named in (("seen", "page"), ("read", "item"), ("dismissed", "page"), ("read", "page")):
            user = f"{effect} by {named}"
            sent = [await self.send(store, user, number) for number in range(4)]
            page = await self.page(store, user, limit=2)
            up_to = page.position if named == "page" else sent[2].id
            later = [await self.send(store, user, number) for number in range(4, 7)]
            affected = sent if named == "page" else sent[:3]
            change = await self.mark(store, user, effect, up_to=up_to)
            assert [*change.ids] == [event.id for event in reversed(affected)]
            states = await self.states(store, user)
            assert states == {
                event.id: effect if event in affected else "unseen" for event in reversed([*sent, *later])
            }
            assert (await self.mark(store, user, effect, up_to=up_to)).event is None
            assert (await self.mark(store, user, effect, up_to="0")).event is None
            await self.assert_folded(store, user)

    async def test_a_group_is_changed_as_one(self, store: InboxStore) -> None:
        """A change of a group affects its active item, `restored` its dismissed one, and no other group."""
        await self.send(store, "alice", "none")
        await self.send(store, "alice", "other", group="h")
        event = await self.send(store, "alice", "mine", group="g")
        later = await self.send(store, "alice", "later")
        for effect, changed in (("read", 1), ("unread", 1), ("restored", 0), ("dismissed", 1), ("unread", 0)):
            change = await self.mark(store, "alice", effect, group="g")
            assert [*change.ids] == [event.id][:changed]
            assert (change.event is None) == (changed == 0)
        assert (await self.mark(store, "alice", "dismissed", group="unknown")).event is None
        assert (await self.mark(store, "alice", "restored", group="h")).event is None
        assert [*(await self.mark(store, "alice", "restored", group="g")).ids] == [event.id]
        states = await self.states(store, "alice")
        assert [states[later.id], states[event.id]] == ["unseen", "read"]
        assert [*states.values()].count("unseen") == 3
        await self.assert_folded(store, "alice")

    async def test_changes_in_any_order(self, store: InboxStore) -> None:
        """Changes that name items by ids, positions and groups, one after the other, are what their log says."""
        sent = [await self.send(store, "alice", number, group=f"g{number % 5}") for number in range(5)]
        for number, effect in enumerate(("seen", "dismissed", "unread", "read", "restored", "dismissed", "unread") * 3):
            named = ({"ids": [sent[number % 5].id]}, {"up_to": sent[number % 4].id}, {"group": f"g{number % 5}"})
            await self.mark(store, "alice", effect, **named[number % 3])
            if number % 4 == 3:
                sent[number % 5] = await self.send(store, "alice", number, group=f"g{number % 5}")
            await self.assert_folded(store, "alice")

    async def test_a_change_of_very_many(self, store: InboxStore) -> None:
        """Every item is changed by one event; `ids` lists the newest `MAX_IDS`; as many ids can be named at once."""
        count = MAX_IDS + 20
        store.inbox_retention = InboxRetention(max_items=2 * MAX_IDS)
        events = [*await self.send_all(store, [item("alice", number) for number in range(count)])]
        newest = [event.id for event in reversed(events)]
        page = await store.items("alice", ItemQuery(limit=3))
        assert page.counts.unread == count
        change = await self.mark(store, "alice", "read", up_to=page.position)
        assert [*change.ids] == newest[:MAX_IDS]
        assert (change.counts.total, change.counts.unseen, change.counts.unread) == (count, 0, 0)
        change = await self.mark(store, "alice", "dismissed", ids=newest[5 : MAX_IDS + 5])
        assert [*change.ids] == newest[5 : MAX_IDS + 5]
        assert change.counts.total == 20
        active = await self.list_all(store, "alice", "active", limit=7)
        assert listed(active) == newest[:5] + newest[MAX_IDS + 5 :]
        assert payloads(active)[:2] == [count - 1, count - 2]

    async def test_nothing_malformed_is_applied(self, store: InboxStore) -> None:
        """A saved event of a change type whose payload is not one of the library's has no effect, and no error."""
        event = await self.send(store, "alice", group="g")
        for type, malformed in _MALFORMED_PAYLOADS.items():
            for payload in malformed:
                await store.save(Event("alice", type, payload))
        assert await self.states(store, "alice") == {event.id: "unseen"}
        assert [*await store.edges(user="alice")] == []
        assert [*(await self.mark(store, "alice", "dismissed", ids=[event.id])).ids] == [event.id]
