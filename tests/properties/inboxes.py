"""What an inbox store is put through: random operations of two writers, each compared with the pure fold.

The model is `InboxFolds`, which is shown every event that the store has accepted, in the order of its log. Operations
one after the other have to return what the model says; operations at the same time have to leave what it says.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any, Final

import anyio
from hypothesis import strategies as st

from notify import Event, UsageError, ids
from notify.adapters import split_positions
from notify.inbox import Counts, InboxFolds, InboxRetention, InboxStore, Item, ItemPage
from notify.inbox.abc import CHANGES, ITEM, ItemQuery, State
from notify.testing._inbox_base import state_of

USERS: Final = ("alice", "bob", "session")
TOPICS: Final = ("news", "olds")
STATES: Final[tuple[State, ...]] = ("active", "unread", "read", "dismissed", "all")
FOREVER: Final = 2**62
EFFECTS: Final = ("seen", "read", "unread", "dismissed", "restored")


@dataclass(frozen=True)
class Send:
    """Save an item, or a plain event."""

    user: str
    group: str | None = None
    expires: str = ""
    key: str | None = None
    listed: bool = True


@dataclass(frozen=True)
class Mark:
    """Change items that are named in one of the ways; the numbers choose among those that were ever seen."""

    user: str
    effect: str
    way: str
    numbers: tuple[int, ...] = ()
    group: str = "g"


@dataclass(frozen=True)
class Follow:
    """Follow or unfollow a topic, or merge a session."""

    user: str
    kind: str
    log: str
    history: bool = False


@dataclass(frozen=True)
class Tend:
    """Pull, sweep, or trim the logs."""

    kind: str
    user: str = "alice"


@dataclass(frozen=True)
class Race:
    """Operations on one user's log at the same time."""

    user: str
    steps: tuple[Send | Mark, ...]


Step = Send | Mark | Follow | Tend | Race

_groups = st.sampled_from([None, "g", "h"])


def _sends(user: st.SearchStrategy[str]) -> st.SearchStrategy[Send]:
    expires = st.sampled_from(["", "", "", "1", "33000000000000"])
    keys = st.sampled_from([None, None, None, "k"])
    return st.builds(Send, user, _groups, expires, keys, st.sampled_from([True, True, True, False]))


def _marks(user: st.SearchStrategy[str]) -> st.SearchStrategy[Mark]:
    ways = st.sampled_from(["ids", "item", "page", "group"])
    numbers = st.lists(st.integers(0, 30), min_size=1, max_size=3).map(tuple)
    return st.builds(Mark, user, st.sampled_from(EFFECTS), ways, numbers, st.sampled_from(["g", "h"]))


_anybody = st.sampled_from([*USERS, *USERS, *TOPICS])
_follows = st.one_of(
    st.builds(Follow, st.sampled_from(USERS), st.just("followed"), st.sampled_from(TOPICS), st.booleans()),
    st.builds(Follow, st.sampled_from(USERS), st.just("unfollowed"), st.sampled_from(TOPICS)),
    st.builds(Follow, st.sampled_from(USERS[:2]), st.just("merged"), st.just("session")),
    st.builds(
        Follow, _anybody, st.sampled_from(["followed", "merged"]), _anybody, st.booleans()
    ),  # circles, and itself
)
_races = st.sampled_from([*USERS, *TOPICS]).flatmap(
    lambda user: st.builds(
        Race,
        st.just(user),
        st.lists(st.one_of(_sends(st.just(user)), _marks(st.just(user))), min_size=2, max_size=6).map(tuple),
    )
)
_tending = st.builds(Tend, st.sampled_from(["pull", "sweep", "trim"]), st.sampled_from(USERS))
steps: st.SearchStrategy[list[tuple[int, Step]]] = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(_sends(_anybody), _sends(_anybody), _marks(_anybody), _marks(_anybody), _follows, _races, _tending),
    ),
    min_size=20,
    max_size=25,
)
retentions = st.builds(
    InboxRetention,
    st.sampled_from([2, 4, 50]),
    st.sampled_from([None, 86_400.0]),
    st.sampled_from([False, False, True]),
)

_examples = count()


@dataclass
class Trial:
    """One example: two writers on the same data, the model, and what was seen so far.

    Attributes:
        stores: the writers.
        retention: of all inboxes.
        heads: the end of each log.
        items: ids of all that were ever appended to each log, and not due by then.
        names: ids of items that were ever seen, by the inboxes in which they were.
        positions: of pages that were ever read, by their users.
    """

    stores: Sequence[InboxStore]
    retention: InboxRetention
    heads: dict[str, str] = field(default_factory=dict)
    items: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    positions: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the model, and names of users that no other example has."""
        self.number = next(_examples)
        self.model = InboxFolds(lambda user: self.heads.get(user, "0"))
        self.model.retention = self.retention
        for store in self.stores:
            store.inbox_retention = self.retention

    def log(self, name: str) -> str:
        """Return the name of a log in this example."""
        return f"{name} {self.number}"

    def now(self) -> int:
        """Return the time; no outcome depends on it."""
        return int(time.time() * 1000)

    async def run(self, steps: Sequence[tuple[int, Step]]) -> None:
        """Take the steps, compare each user that one is about, and everything in the end."""
        for number, (writer, step) in enumerate(steps):
            await self.take(self.stores[writer % len(self.stores)], step)
            await self.compare(self.log(step.user), self.stores[number % len(self.stores)], STATES[number % 5])
        for name in (*USERS, *TOPICS):
            for store in self.stores:
                await self.compare(self.log(name), store, *STATES)
                await self.compare_edges(self.log(name), store)

    async def take(self, store: InboxStore, step: Step) -> None:
        """Take one step."""
        match step:
            case Send():
                self.accept(await store.save(self.sent(step)))
            case Mark():
                await self.change(store, self.marked(step))
            case Follow():
                name = "session" if step.kind == "merged" else "topic"
                end = "until" if step.kind == "merged" else "since"
                payload = {name: self.log(step.log), end: "0" if step.history else None}
                await self.change(store, Event(self.log(step.user), f"notify.{step.kind}", payload))
            case Race():
                await self.race(step)
            case Tend("pull"):
                assert await store.pull(self.log(step.user)) == self.model.pull(self.log(step.user), self.now())
            case Tend("sweep"):
                await store.sweep()
                self.model.sweep(500, self.now())
            case _:
                await store.trim(ids.time_of(self.heads.get(self.log(step.user), "0")))

    def accept(self, event: Event) -> None:
        """Show the model an event that the store has appended; a repeated key appends nothing."""
        if ids.compare(event.id, self.heads.get(event.user, "0")) > 0:
            self.heads[event.user] = event.id
            if int(event.meta.get(ITEM, "0") or FOREVER) > self.now():
                self.items.setdefault(event.user, []).append(event.id)
            if ITEM in event.meta or event.type in CHANGES:
                self.model.apply(event, self.now())

    def sent(self, step: Send) -> Event:
        """Return the draft of an item or a plain event."""
        meta = {ITEM: step.expires} if step.listed else None
        return Event(self.log(step.user), "t", group=step.group, key=step.key, meta=meta)

    def marked(self, step: Mark) -> Event:
        """Return the draft of a change."""
        user = self.log(step.user)
        mine = self.names.get(user, [])[-7:] or ["1-1"]
        foreign = [name for user in sorted(self.names) for name in self.names[user]] or ["1-1"]
        chosen = [
            mine[-1 - number % len(mine)] if number < 28 else foreign[number * 7 % len(foreign)]
            for number in step.numbers
        ]
        seen = self.positions.get(user, ["0"])
        named: dict[str, Any] = {
            "ids": {"ids": chosen},
            "item": {"up_to": chosen[0]},
            "page": {"up_to": seen[step.numbers[0] % len(seen)]},
            "group": {"group": step.group},
        }[step.way]
        return Event(user, f"notify.{step.effect}", named)

    async def change(self, store: InboxStore, draft: Event) -> None:
        """Let the store and the model make a change, and compare what they say about it."""
        try:
            expected, affected = self.model.prepare(draft, self.now())
        except UsageError:
            expected, affected = None, ()
        change = await store.change(draft)
        assert [*change.ids] == [*affected]
        assert (change.event is None) == (expected is None)
        if change.event is not None and expected is not None:
            assert change.event == expected.stored(change.event.id, self.heads.get(draft.user, "0"))
            self.accept(change.event)
        self.compare_counts(draft.user, change.counts, self.model.counts(draft.user, self.now()))

    def compare_counts(self, user: str, counts: Counts, expected: Counts) -> None:
        """Compare counts. Positions in other logs may differ if no item is between them: both are exact."""
        assert replace(counts, position=expected.position) == expected
        logs = [user, *map(self.log, (*USERS, *TOPICS))]
        found, other = split_positions(counts.position, logs), split_positions(expected.position, logs)
        assert found.keys() == other.keys()
        assert found[user] == other[user]
        for log in found:
            first, last = sorted((found[log], other[log]), key=ids.parse)
            assert not [id for id in self.items.get(log, ()) if ids.compare(first, id) < 0 <= ids.compare(last, id)]

    async def race(self, step: Race) -> None:
        """Take steps on one log at the same time, and show the model the log that they have left."""
        user = self.log(step.user)
        await self.stores[0].pull(user)
        self.model.pull(user, self.now())
        async with anyio.create_task_group() as tasks:
            for number, each in enumerate(step.steps):
                store = self.stores[number % len(self.stores)]
                if isinstance(each, Send):
                    tasks.start_soon(partial(store.save, self.sent(each)))
                else:
                    tasks.start_soon(partial(store.change, self.marked(each)))
        for event in (await self.stores[0].read(user, self.heads.get(user, "0"), 100)).events:
            self.accept(event)

    async def compare(self, user: str, store: InboxStore, *states: State) -> None:
        """Compare all items of one inbox, pages in these states, one group and one item."""
        self.model.pull(user, self.now())
        await self.compare_pages(user, store, ItemQuery(limit=50, state="all"))
        for state in states:
            await self.compare_pages(user, store, ItemQuery(limit=3, state=state))
        await self.compare_pages(user, store, ItemQuery(limit=50, state=states[0], group="g"))
        for name in self.names.get(user, [])[-1:]:
            await self.compare_pages(user, store, ItemQuery(ids=(name,)))

    async def compare_pages(self, user: str, store: InboxStore, query: ItemQuery) -> None:
        """Compare the pages that follow from a query."""
        while True:
            page = await store.items(user, query)
            expected = self.model.page(user, query, self.now())
            assert seen(page) == seen(expected), f"{user} {query}: {seen(page)}, not {seen(expected)}"
            self.positions.setdefault(user, []).append(page.position)
            names = self.names.setdefault(user, [])
            names += [each.id for each in reversed(page.items) if each.id not in names]
            if page.next is None:
                return
            query = ItemQuery(page.next, query.limit, query.state, query.types, query.group)

    async def compare_edges(self, name: str, store: InboxStore) -> None:
        """Compare what a user follows, and who follows a topic."""
        assert [*await store.edges(user=name)] == [*self.model.edges(name, "", "", 100)]
        assert [*await store.edges(topic=name)] == [*self.model.edges("", name, "", 100)]


def seen(page: ItemPage) -> tuple[object, ...]:
    """Return what two pages are compared by: everything but the times of changes, which depend on a clock."""
    return [*map(_seen, page.items)], page.next, page.counts, page.position


def _seen(each: Item) -> tuple[object, ...]:
    return each.id, each.event, state_of(each), each.expires_at
