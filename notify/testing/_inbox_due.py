"""Tests of what removes items: their time to live, their age, and how many an inbox keeps."""

from __future__ import annotations

from typing import ClassVar

from notify import ids
from notify.inbox import InboxRetention, InboxStore

from ._inbox_base import InboxTests, item, listed, payloads
from ._types import InboxStoreT
from ._waits import eventually


class InboxDueTests(InboxTests[InboxStoreT]):
    """Items that become due.

    Attributes:
        lifetime: seconds after which the tests let items become due; none of them is longer than it takes to send and
            read a few items.
    """

    lifetime: ClassVar[float] = 0.8

    async def test_an_expired_item_is_gone_for_every_method(self, store: InboxStore) -> None:
        """From its time on, no list, count or change knows it, before anything is written."""
        stays = await self.send(store, "alice", "stays")
        expires = ids.parse(stays.id)[0] + round(self.lifetime * 1000)
        short = [await self.send(store, "alice", f"short {number}", expires=expires) for number in range(4)]
        await self.mark(store, "alice", "read", ids=[short[1].id])
        await self.mark(store, "alice", "dismissed", ids=[short[2].id])
        await self.mark(store, "alice", "seen", ids=[short[3].id])
        before = await self.page(store, "alice", state="all")
        assert len(before.items) == 5
        assert (before.counts.total, before.counts.unseen, before.counts.unread) == (4, 2, 3)
        assert {ids.before(each.expires_at) for each in before.items if each.expires_at} == {
            ids.before(ids.time_of(f"{expires}-0"))
        }

        async def expired() -> None:
            page = await self.page(store, "alice", state="all")
            assert listed(page.items) == [stays.id]

        await eventually(expired, self.patience)
        assert await self.states(store, "alice") == {stays.id: "unseen"}
        for event in short:
            assert [*(await self.page(store, "alice", ids=(event.id,))).items] == []
            for effect in ("seen", "read", "unread", "dismissed", "restored"):
                assert (await self.mark(store, "alice", effect, ids=[event.id])).event is None
        change = await self.mark(store, "alice", "read", up_to=before.position)
        assert [*change.ids] == [stays.id]
        assert (change.counts.total, change.counts.unread) == (1, 0)

    async def test_writing_removes_what_is_due(self, store: InboxStore) -> None:
        """After any write the counts are still right, and what was due is not there for `sweep` any more."""
        await self.send_all(store, [item("alice", number, expires=1) for number in range(3)])
        event = await self.send(store, "alice", "stays")
        assert await self.states(store, "alice") == {event.id: "unseen"}
        assert await store.sweep() == 0
        replaced = await self.send(store, "alice", "soon gone", group="g", expires=ids.parse(event.id)[0] + 60_000)
        new = await self.send(store, "alice", "not any more", group="g")
        (each,) = (await self.page(store, "alice", ids=(new.id,))).items
        assert each.expires_at is None
        assert await self.states(store, "alice") == {new.id: "unseen", event.id: "unseen"}
        assert [*(await self.page(store, "alice", ids=(replaced.id,))).items] == []

    async def test_sweep_removes_due_items_of_all_inboxes(self, store: InboxStore) -> None:
        """It removes what is due and nothing else, at most `limit` items in one call, until none are left."""
        users = [f"user{number}" for number in range(7)]
        stays = {user: await self.send(store, user, "stays") for user in users}
        expires = max(ids.parse(event.id)[0] for event in stays.values()) + round(self.lifetime * 2000)
        for user in users:
            await self.send(store, user, "due", expires=expires)

        async def due() -> None:
            assert (await self.page(store, users[-1], state="all")).counts.total == 1

        await eventually(due, self.patience)
        removed: list[int] = []
        while not removed or removed[-1] >= 3:
            removed.append(await store.sweep(limit=3))
            assert len(removed) < 10
        assert 0 < sum(removed) <= 7  # a store may have removed at once what was due when it was written
        assert max(removed) <= 3
        assert await store.sweep() == 0
        for user in users:
            assert await self.states(store, user) == {stays[user].id: "unseen"}
            assert (await self.mark(store, user, "dismissed", ids=[stays[user].id])).counts.total == 0

    async def test_the_oldest_give_way(self, store: InboxStore) -> None:
        """Of more than `max_items`, whatever their states, the oldest are removed by the insert that exceeds it."""
        store.inbox_retention = InboxRetention(max_items=5)
        sent = [await self.send(store, "alice", number) for number in range(5)]
        await self.mark(store, "alice", "read", ids=[sent[3].id])
        await self.mark(store, "alice", "dismissed", ids=[sent[0].id, sent[4].id])
        sent.append(await self.send(store, "alice", 5))
        states = {sent[5].id: "unseen", sent[4].id: "dismissed", sent[3].id: "read"}
        assert await self.states(store, "alice") == states | {sent[2].id: "unseen", sent[1].id: "unseen"}
        sent += await self.send_all(store, [item("alice", number) for number in (6, 7)])
        assert await self.states(store, "alice") == {sent[7].id: "unseen", sent[6].id: "unseen"} | states
        assert [*(await self.page(store, "alice", ids=(sent[0].id,))).items] == []
        assert (await self.mark(store, "alice", "restored", ids=[sent[0].id])).event is None
        group = [await self.send(store, "bob", number, group="g") for number in range(8)]
        assert await self.states(store, "bob") == {group[-1].id: "unseen"}

    async def test_what_is_due_on_arrival_displaces_nothing(self, store: InboxStore) -> None:
        """An item that comes too late, as from an outbox, replaces that of its group; no other has to go for it."""
        store.inbox_retention = InboxRetention(max_items=2)
        sent = [await self.send(store, "alice", "a"), await self.send(store, "alice", "b", group="g")]
        await self.send(store, "alice", "late", expires=1)
        assert await self.states(store, "alice") == {event.id: "unseen" for event in sent}
        await self.send_all(store, [item("alice", number, expires=1) for number in range(3)])
        assert await self.states(store, "alice") == {event.id: "unseen" for event in sent}
        await self.send(store, "alice", "late", group="g", expires=1)
        assert await self.states(store, "alice") == {sent[0].id: "unseen"}
        # one after the other, although they come together: the first of the group has displaced another by then
        batch = [item("alice", group="g"), item("alice"), item("alice", group="g", expires=1)]
        kept = (await self.send_all(store, batch))[1]
        assert await self.states(store, "alice") == {kept.id: "unseen"}

    async def test_unread_items_are_kept(self, store: InboxStore) -> None:
        """With `keep_unread` the oldest read one gives way, an unread one only beyond ten times `max_items`."""
        store.inbox_retention = InboxRetention(max_items=3, keep_unread=True)
        sent = [await self.send(store, "alice", number) for number in range(3)]
        await self.mark(store, "alice", "read", ids=[sent[1].id])
        await self.mark(store, "alice", "dismissed", ids=[sent[2].id])
        sent.append(await self.send(store, "alice", 3))
        assert payloads(await self.list_all(store, "alice")) == [3, 2, 0]
        sent.append(await self.send(store, "alice", 4))
        assert payloads(await self.list_all(store, "alice")) == [4, 3, 0]
        await self.send_all(store, [item("alice", number) for number in range(5, 32)])
        assert payloads(await self.list_all(store, "alice")) == [*range(31, 2, -1), 0]
        await self.send(store, "alice", 32)
        assert payloads(await self.list_all(store, "alice")) == [*range(32, 2, -1)]
        assert (await self.page(store, "alice", limit=0)).counts.unread == 30

    async def test_the_old_become_due(self, store: InboxStore) -> None:
        """Items over `max_age` are gone, read or not; with `keep_unread` only those that were read."""
        for keep_unread in (False, True):
            store.inbox_retention = InboxRetention(max_age=self.lifetime, keep_unread=keep_unread)
            user = f"alice {keep_unread}"
            sent = [await self.send(store, user, number) for number in range(3)]
            await self.mark(store, user, "read", ids=[sent[1].id])
            await self.mark(store, user, "dismissed", ids=[sent[2].id])
            assert len(await self.list_all(store, user)) == 3
            left = {sent[0].id: "unseen"} if keep_unread else {}

            async def only_those_are_left(user: str = user, left: dict[str, str] = left) -> None:
                assert await self.states(store, user) == left

            await eventually(only_those_are_left, self.patience)
            assert await store.sweep() == (2 if keep_unread else 3)
            event = await self.send(store, user, 3)
            assert await self.states(store, user) == {event.id: "unseen"} | left
