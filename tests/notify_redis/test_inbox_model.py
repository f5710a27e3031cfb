"""Inboxes in Redis against the pure fold: random calls, each compared in what it returns and what it leaves."""

from __future__ import annotations

import random
from contextlib import aclosing
from typing import Any

import pytest

from notify import Event, ids
from notify.inbox import InboxFolds, InboxRetention
from notify.inbox.abc import ITEM, ItemPage, ItemQuery
from notify_redis import RedisStore
from tests.servers.redis import Server

pytestmark = pytest.mark.anyio

USERS = ("alice", "bob/ä:1", "news", "a topic with a name that is longer than a digest")
GROUPS = (None, "g", "h", "\U0001f514")
MARKS = ("seen", "read", "unread", "dismissed", "restored")
STATES = ("active", "unread", "read", "dismissed", "all")
RETENTIONS = (
    InboxRetention(max_age=None),
    InboxRetention(max_items=4, max_age=None),
    InboxRetention(max_items=3, keep_unread=True),
    InboxRetention(max_items=1, max_age=3600.0),
)


def shape(page: ItemPage) -> Any:
    """A page without its times, which the model cannot know."""
    items = [
        (each.id, each.event, each.seen_at is None, each.read_at is None, each.dismissed_at is None, each.expires_at)
        for each in page.items
    ]
    return items, page.next, page.counts, page.position


class Pair:
    """A store and its model, to which every call is made alike."""

    def __init__(self, store: RedisStore, seed: int) -> None:
        self.random = random.Random(seed)
        self.store = store
        self.heads: dict[str, str] = {}
        self.model = InboxFolds(lambda user: self.heads.get(user, "0"))
        self.sent: list[tuple[str, str]] = []
        self.positions = ["0", "1-1", "nonsense"]
        self.now = 0
        store.inbox_retention = self.model.retention = self.random.choice(RETENTIONS)

    def stored(self, event: Event) -> None:
        self.heads[event.user] = event.id
        self.now = ids.parse(event.id)[0]
        self.model.apply(event, self.now)

    def named(self, user: str) -> dict[str, Any]:
        kind = self.random.choice(("ids", "up_to", "token", "group"))
        if kind == "group":
            return {"group": self.random.choice(GROUPS[1:])}
        if kind == "token":
            return {"up_to": self.random.choice(self.positions)}
        names = [id if log == user else f"{id}@{log}" for log, id in self.sent] or ["1-1"]
        if kind == "up_to":
            return {"up_to": self.random.choice(names)}
        return {"ids": self.random.choices([*names, "1-1@nowhere", "", "x", "1-99999999"], k=3)}

    def draft(self) -> Event:
        """An event of any kind."""
        user = self.random.choice(USERS)
        kind = self.random.choice(("item", "item", "item", "plain", "mark", "mark", "logs"))
        if kind == "plain":
            return Event(user, "progress", self.random.random())
        if kind == "mark":
            return Event(user, f"notify.{self.random.choice(MARKS)}", self.named(user))
        if kind == "logs":
            other = self.random.choice(USERS)
            payload = self.random.choice(({"topic": other, "since": "0"}, {"topic": other}, {"session": other}))
            name = "merged" if "session" in payload else "followed" if "since" in payload else "unfollowed"
            if name == "merged":
                other = USERS[USERS.index(user) - 1] if other == user else other
                payload = {"session": other, "until": self.heads.get(other, "1-1")}
            return Event(user, f"notify.{name}", payload)
        expires = self.random.choice(("", "", "", "1", "9999999999999", "x"))
        return Event(user, "t", len(self.sent), group=self.random.choice(GROUPS), meta={ITEM: expires})

    async def save(self) -> None:
        drafts = [self.draft() for _ in range(self.random.randint(1, 4))]
        linked = [draft for draft in drafts if draft.type in ("notify.merged", "notify.followed")]
        drafts = linked[:1] or drafts  # what such an event says of other logs takes effect there with the next call
        for outcome in await self.store.save_many(drafts):
            assert isinstance(outcome, Event)
            self.stored(outcome)
            if ITEM in outcome.meta:
                self.sent.append((outcome.user, outcome.id))
            if linked:
                await self.look(outcome.user)

    async def change(self) -> None:
        draft = self.draft()
        if not draft.type.startswith("notify."):
            return
        if draft.type == "notify.followed" and self.random.random() < 0.5:
            draft = Event(draft.user, draft.type, {"topic": draft.payload["topic"], "since": None})
        expected, changed = self.model.prepare(draft, self.now)
        change = await self.store.change(draft)
        assert (change.event and change.event.payload) == (expected and expected.payload)
        assert [*change.ids] == [*changed]
        if change.event is not None:
            self.stored(change.event)
        assert change.counts == self.model.counts(draft.user, self.now)

    async def look(self, user: str = "") -> None:
        user = user or self.random.choice(USERS)
        names = [id if log == user else f"{id}@{log}" for log, id in self.sent] or ["1-1"]
        query = ItemQuery(
            before=self.random.choice((None, None, self.random.choice(names))),
            limit=self.random.choice((0, 1, 2, 100)),
            state=self.random.choice(STATES),  # type: ignore[arg-type]
            types=self.random.choice((None, None, (), ("t",), ("x",))),
            group=self.random.choice(GROUPS),
            ids=self.random.choice((None, None, None, tuple(self.random.choices([*names, "x@"], k=3)), ("x@",), ())),
        )
        self.model.pull(user, self.now)
        page = await self.store.items(user, query)
        assert shape(page) == shape(self.model.page(user, query, self.now))
        self.positions.append(page.position)

    async def forget(self) -> None:
        if self.random.random() < 0.1:
            user = self.random.choice(USERS)
            await self.store.forget(user)
            self.model.forget(user)
            self.heads.pop(user, None)

    async def compare(self) -> None:
        for user in USERS:
            self.model.pull(user, self.now)
            query = ItemQuery(state="all", limit=1000)
            assert shape(await self.store.items(user, query)) == shape(self.model.page(user, query, self.now))
        for user in USERS:
            assert [*await self.store.edges(user=user)] == [*self.model.edges(user, "", "", 100)]
            assert [*await self.store.edges(topic=user)] == [*self.model.edges("", user, "", 100)]


@pytest.mark.parametrize("part", range(4))
async def test_random_calls(server: Server, prefix: str, part: int) -> None:
    """Pages, counts, positions, followers and what changes return are those of the fold of the log, at every step."""
    for seed in range(part * 5, part * 5 + 5):
        async with aclosing(RedisStore(server.url, prefix=f"{prefix}s{seed}")) as store:
            pair = Pair(store, seed)
            calls = (pair.save, pair.save, pair.change, pair.change, pair.look, pair.forget)
            for _ in range(60):
                await pair.random.choice(calls)()
            await pair.compare()
