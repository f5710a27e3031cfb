"""Tests of what is listed: the items that a store applies when it saves them."""

from __future__ import annotations

from datetime import timedelta

from notify import Event, ids
from notify.event import build_event
from notify.inbox import InboxStore
from notify.inbox.abc import ITEM

from ._inbox_base import InboxTests, item, listed, payloads, state_of
from ._samples import HOSTILE_DATA, HOSTILE_META, HOSTILE_NAMES
from ._types import InboxStoreT
from ._waits import now


class InboxItemTests(InboxTests[InboxStoreT]):
    """Saving items."""

    async def test_an_item_is_listed_as_it_was_sent(self, store: InboxStore) -> None:
        """Every field of the event comes back, without `prev` and `key`; nothing has been done to the item yet."""
        await store.save(Event("alice", "plain"))
        expiry = now().replace(microsecond=123_000) + timedelta(days=1)
        meta = HOSTILE_META | {ITEM: str(round(expiry.timestamp() * 1000))}
        draft = Event("alice", "a.b", {"n": [1, None]}, group="g", key="k", timestamp=now(), meta=meta)
        event = await store.save(draft)
        page = await self.page(store, "alice")
        (each,) = page.items
        assert each.id == event.id
        assert each.event == build_event(event.id, "", "alice", "a.b", event.data, event.micros, "g", None, draft.meta)
        assert (each.seen_at, each.read_at, each.dismissed_at, each.expires_at) == (None, None, None, expiry)
        assert each.is_unread
        assert page.next is None
        assert (page.counts.total, page.counts.unseen, page.counts.unread) == (1, 1, 1)

    async def test_hostile_items_are_unchanged(self, store: InboxStore) -> None:
        """Data and groups of any legal kind come back byte for byte, and each group is another one."""
        expected = []
        for data in HOSTILE_DATA:
            draft = Event("alice", "t", data=data, meta={ITEM: ""})
            expected.append((await store.save(draft)).data)
        drafts = [item("alice", name, group=name) for name in HOSTILE_NAMES]
        await self.send_all(store, drafts)
        items = await self.list_all(store, "alice")
        assert [each.event.data for each in reversed(items)][: len(expected)] == expected
        assert [each.event.group for each in reversed(items)][len(expected) :] == [*HOSTILE_NAMES]

    async def test_what_is_no_item_is_not_listed(self, store: InboxStore) -> None:
        """Plain events are in the log alone, whatever their group; the position goes on with them."""
        sent = await self.send(store, "alice", "item", group="g")
        plain = await store.save(Event("alice", "t", "plain", group="g", meta={"a": "b"}))
        page = await self.page(store, "alice", state="all")
        assert listed(page.items) == [sent.id]
        assert page.position == page.counts.position == plain.id == await store.head("alice")
        await store.save(Event("bob", "t"))
        page = await self.page(store, "bob", state="all")
        assert ([*page.items], page.counts.total, page.position) == ([], 0, await store.head("bob"))

    async def test_an_unknown_user_has_an_empty_inbox(self, store: InboxStore) -> None:
        """Reading and changing what does not exist is not an error, and stores nothing."""
        for _ in range(2):
            page = await self.page(store, "alice", state="all")
            assert ([*page.items], page.next, page.position) == ([], None, "0")
            assert (page.counts.total, page.counts.unseen, page.counts.unread, page.counts.position) == (0, 0, 0, "0")
            for named in ({"ids": ["1-1"]}, {"up_to": "1-1"}, {"up_to": "0"}, {"group": "g"}):
                change = await self.mark(store, "alice", "read", **named)
                assert ([*change.ids], change.event, change.counts) == ([], None, page.counts)
            assert await store.pull("alice") == 0
            assert [*await store.edges(user="alice"), *await store.edges(topic="alice")] == []
            assert await store.sweep() == 0
            assert await store.head("alice") == "0"

    async def test_every_way_of_saving_applies(self, store: InboxStore) -> None:
        """One by one, in a batch, or soon: items of several users and groups, and changes between them."""
        for number, save in enumerate(self.ways(store)):
            alice, bob = f"alice{number}", f"bob{number}"
            await save([item(alice, 0), item(alice, 1, group="g"), item(bob, 2), Event(alice, "t", 3)])
            await save([item(alice, 4, group="g"), item(bob, 5, group="g"), item(alice, 6, group="h")])
            assert payloads(await self.list_all(store, alice)) == [6, 4, 0]
            assert payloads(await self.list_all(store, bob)) == [5, 2]
            read = Event(alice, "notify.read", {"group": "g"})
            dismissed = Event(alice, "notify.dismissed", {"group": "h"})
            await save([read, item(alice, 7, group="g"), item(alice, 8), dismissed])
            items = await self.list_all(store, alice)
            assert payloads(items) == [8, 7, 6, 0]
            assert [*map(state_of, items)] == ["unseen", "unseen", "dismissed", "unseen"]
            await self.assert_folded(store, alice)
            await self.assert_folded(store, bob)

    async def test_a_repeated_key_applies_nothing(self, store: InboxStore) -> None:
        """What is sent again with its key is the first item, in the state that it has by now."""
        for number, save in enumerate(self.ways(store)):
            user = f"alice{number}"
            first = await self.send(store, user, "first", key="k", group="g")
            await self.mark(store, user, "dismissed", ids=[first.id])
            await save([item(user, "again", key="k", group="g"), item(user, "new", key="n")])
            await save([item(user, "new again", key="n", group="g"), item(user, "again", key="k")])
            items = await self.list_all(store, user)
            assert payloads(items) == ["new", "first"]
            assert [*map(state_of, items)] == ["unseen", "dismissed"]
            await self.assert_folded(store, user)

    async def test_a_group_has_one_item(self, store: InboxStore) -> None:
        """The next item of a group takes the place of the one before, in whatever state that was, and is fresh."""
        other = await self.send(store, "alice", "other", group="h")
        for effect in ("seen", "read", "dismissed", "unread", "restored"):
            before = await self.send(store, "alice", effect, group="g")
            await self.mark(store, "alice", "dismissed", ids=[before.id])
            await self.mark(store, "alice", "restored", ids=[before.id])
            await self.mark(store, "alice", effect, ids=[before.id])
            event = await self.send(store, "alice", "new", group="g")
            assert await self.states(store, "alice") == {event.id: "unseen", other.id: "unseen"}
            assert [*(await self.page(store, "alice", ids=(before.id,))).items] == []
            assert (await self.mark(store, "alice", "restored", ids=[before.id])).event is None
        await self.assert_folded(store, "alice")

    async def test_inboxes_share_nothing(self, store: InboxStore) -> None:
        """Users with similar names have inboxes, groups and counters of their own."""
        sent = {name: await self.send(store, name, name, group="g") for name in HOSTILE_NAMES}
        for name in HOSTILE_NAMES[::2]:
            change = await self.mark(store, name, "dismissed", group="g")
            assert [*change.ids] == [sent[name].id]
        for number, name in enumerate(HOSTILE_NAMES):
            page = await self.page(store, name, state="all")
            assert payloads(page.items) == [name]
            assert state_of(page.items[0]) == ("unseen" if number % 2 else "dismissed")
            assert page.counts.total == number % 2

    async def test_an_inbox_outlives_its_log(self, store: InboxStore) -> None:
        """What retention removes from the log stays in the inbox, and can still be changed."""
        sent = [await self.send(store, "alice", number) for number in range(5)]
        await self.mark(store, "alice", "read", ids=[sent[0].id])
        for number in range(60):
            await store.save(Event("alice", "progress", number))
        await store.trim(now().replace(year=2200))
        assert [*(await store.read("alice", "0", 10)).events] == []
        page = await self.page(store, "alice")
        assert payloads(page.items) == [4, 3, 2, 1, 0]
        assert page.position == await store.head("alice")
        change = await self.mark(store, "alice", "dismissed", up_to=page.position)
        assert listed(page.items) == [*change.ids]
        assert change.event is not None
        assert ids.compare(page.position, change.event.id) < 0
        event = await self.send(store, "alice", 5)
        states = await self.states(store, "alice")
        assert states == {event.id: "unseen"} | {each.id: "dismissed" for each in reversed(sent)}
