"""Tests of what reads return: pages, filters, counts, and the position for which they hold."""

from __future__ import annotations

from functools import partial

import anyio.lowlevel

from notify import Event, ids
from notify.inbox import InboxStore
from notify.inbox.abc import State

from ._inbox_base import InboxTests, item, listed, payloads, state_of
from ._types import InboxStoreT
from ._waits import together


class InboxPageTests(InboxTests[InboxStoreT]):
    """Reading items."""

    async def test_an_inbox_in_pages(self, store: InboxStore) -> None:
        """Pages of any size add up to the inbox, newest first; `next` is the last item's id, None on the last page."""
        sent = await self.send_all(store, [item("alice", number) for number in range(25)])
        newest = [event.id for event in reversed(sent)]
        for limit in (1, 5, 7, 24, 25, 26):
            before = None
            for start in range(0, 25, limit):
                page = await self.page(store, "alice", limit=limit, before=before)
                assert listed(page.items) == newest[start : start + limit]
                before = page.items[-1].id if start + limit < 25 else None
                assert page.next == before
                assert page.counts.total == 25
        page = await self.page(store, "alice", limit=0)
        assert ([*page.items], page.next, page.counts.total) == ([], None, 25)
        for absent, those in (("1-1", []), (f"{ids.parse(newest[0])[0] + 60_000}-0", newest[:5])):
            assert listed((await self.page(store, "alice", limit=5, before=absent)).items) == those

    async def test_states_and_filters(self, store: InboxStore) -> None:
        """State, types and group select items, alone and together, also across pages."""
        drafts = [item("alice", n, type=f"t{n % 3}", group=None if n % 4 else f"g{n}") for n in range(36)]
        sent = [*await self.send_all(store, drafts)]
        named = {effect: [event.id for event in sent[start::4]] for start, effect in enumerate(("read", "dismissed"))}
        for effect, those in named.items():
            await self.mark(store, "alice", effect, ids=those)
        newest = [event.id for event in reversed(sent)]
        done = [*named["read"], *named["dismissed"]]
        selected: dict[State, list[str]] = {
            "all": newest,
            "active": [id for id in newest if id not in named["dismissed"]],
            "unread": [id for id in newest if id not in done],
            "read": [id for id in newest if id in named["read"]],
            "dismissed": [id for id in newest if id in named["dismissed"]],
        }
        types = {event.id: event.type for event in sent}
        for state, those in selected.items():
            assert listed(await self.list_all(store, "alice", state, limit=4)) == those
            for wanted in (("t0",), ("t1", "t2"), ("unknown",), ("t0", "t1", "t2")):
                expected = [id for id in those if types[id] in wanted]
                page = await self.page(store, "alice", state=state, types=wanted, limit=3)
                assert listed(page.items) == expected[:3]
                assert page.next == (expected[2] if len(expected) > 3 else None)
                if page.next:
                    rest = await self.page(store, "alice", state=state, types=wanted, before=page.next, limit=36)
                    assert listed(rest.items) == expected[3:]
                    assert rest.next is None
        grouped = await self.page(store, "alice", group="g8", state="all")
        assert (payloads(grouped.items), grouped.next) == ([8], None)
        assert payloads((await self.page(store, "alice", group="g8", types=("t2",))).items) == [8]
        assert payloads((await self.page(store, "alice", group="g8", types=("t0",))).items) == []
        assert payloads((await self.page(store, "alice", group="g8", state="unread")).items) == []
        assert payloads((await self.page(store, "alice", group="unknown", state="all")).items) == []

    async def test_items_by_their_ids(self, store: InboxStore) -> None:
        """Items are found by their ids in any state, each once, newest first, on one page, however many they are."""
        sent = [event.id for event in await self.send_all(store, [item("alice", number) for number in range(30)])]
        await self.mark(store, "alice", "read", ids=sent[:3])
        await self.mark(store, "alice", "dismissed", ids=sent[3:6])
        others = await self.send_all(store, [item("bob", number) for number in range(31)])
        foreign = next(event.id for event in others if event.id not in sent)  # an id is unique in its own log only
        asked = (*sent[20:], "x", "1-1", f"{sent[0]}@topic", sent[1], *sent[:10], "", sent[0], foreign)
        page = await self.page(store, "alice", ids=asked, before=sent[5], state="unread", types=("x",), limit=2)
        assert listed(page.items) == [*reversed(sent[20:]), *reversed(sent[:10])]
        assert [state_of(each) for each in page.items[-6:]] == ["dismissed"] * 3 + ["read"] * 3
        assert (page.next, page.counts.total) == (None, 27)
        for nothing in ((), ("x",), (foreign,)):
            page = await self.page(store, "alice", ids=nothing)
            assert ([*page.items], page.next, page.counts.total) == ([], None, 27)

    async def test_one_item_by_its_id(self, store: InboxStore) -> None:
        """An item is found by its id in any state; the other filters do not apply."""
        sent = [await self.send(store, "alice", number) for number in range(3)]
        await self.mark(store, "alice", "dismissed", ids=[sent[1].id])
        for event in sent:
            page = await self.page(store, "alice", ids=(event.id,), state="read", types=("x",), group="x", limit=1)
            assert (listed(page.items), page.next, page.counts.total) == ([event.id], None, 2)
        assert [*(await self.page(store, "bob", ids=(sent[0].id,))).items] == []

    async def test_pages_while_items_come_and_go(self, store: InboxStore) -> None:
        """Between two pages items arrive, change and vanish, even the last one of a page: none is skipped or twice."""
        sent = [*await self.send_all(store, [item("alice", number, group=f"g{number}") for number in range(60)])]
        gone: set[str] = set()
        page = await self.page(store, "alice", limit=7)
        items, number = [*page.items], 0
        while page.next is not None:
            before = page.next
            await self.mark(store, "alice", "dismissed", ids=[before, sent[number * 3].id])
            gone |= {before, sent[number * 3].id}
            await self.send(store, "alice", "replaces", group=f"g{number * 3 + 1}")
            gone.add(sent[number * 3 + 1].id)
            await self.send_all(store, [item("alice", "new") for _ in range(3)])
            page = await self.page(store, "alice", limit=7, before=before)
            items += page.items
            number += 1
        found = listed(items)
        assert len(found) == len({*found})
        assert {event.id for event in sent} - gone <= {*found} <= {event.id for event in sent}

    async def test_pages_while_others_write(self, store: InboxStore) -> None:
        """Reading pages at the same time as items arrive and are dismissed skips nothing that stays, and orders all."""
        sent = [*await self.send_all(store, [item("alice", number) for number in range(200)])]
        stays = {event.id for event in sent[::2]}

        async def arrive() -> None:
            for number in range(40):
                await self.send(store, "alice", f"new {number}")
                await anyio.lowlevel.checkpoint()

        async def vanish() -> None:
            for start in range(1, 200, 10):
                await self.mark(store, "alice", "dismissed", ids=[event.id for event in sent[start : start + 10 : 2]])
                await anyio.lowlevel.checkpoint()

        async def read() -> None:
            for _ in range(3):
                found = listed(await self.list_all(store, "alice", "active", limit=9))
                assert stays <= {*found}

        await together(arrive, vanish, read, read)
        assert len(await self.list_all(store, "alice", "active")) == 140
        await self.assert_folded(store, "alice")

    async def test_counts_name_their_position(self, store: InboxStore) -> None:
        """Numbers, items and position are one moment's: replaying the log to that position gives exactly them."""
        pages = []

        async def write(writer: int) -> None:
            for number in range(20):
                event = await self.send(store, "alice", [writer, number], group=f"g{number % 3}")
                if number % 4 == writer:
                    await self.mark(store, "alice", "dismissed", ids=[event.id])
                if number % 5 == writer:
                    await store.save(Event("alice", "t"))
                await anyio.lowlevel.checkpoint()

        async def read() -> None:
            for _ in range(25):
                pages.append(await self.page(store, "alice", limit=100))
                await anyio.lowlevel.checkpoint()

        await together(*(partial(write, writer) for writer in range(3)), read, read)
        log = await self.read_all(store, "alice")
        for page in pages:
            numbers = self.replayed([event for event in log if ids.compare(event.id, page.position) <= 0])
            assert listed(page.items) == numbers
            assert page.counts.total == len(numbers)
            assert page.position == page.counts.position

    def replayed(self, log: list[Event]) -> list[str]:
        """Return the active items that are left of a log of items with groups and dismissals by ids."""
        groups: dict[str, str] = {}
        dismissed: set[str] = set()
        for event in log:
            if event.type == "notify.dismissed":
                dismissed |= {*event.payload["ids"]}
            elif event.group is not None:
                groups[event.group] = event.id
        return sorted({*groups.values()} - dismissed, key=ids.parse, reverse=True)
