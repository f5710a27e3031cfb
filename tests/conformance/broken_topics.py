"""Inbox stores with one bug each: topics, merged sessions, and several stores on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Self

import anyio.lowlevel

from notify import Event, ids
from notify.inbox import Change, Follow, InboxFold, InboxFolds, ItemPage
from notify.inbox.abc import ItemQuery
from notify.testing import (
    DurableInboxSuite,
    InboxStoreSuite,
    InboxTransactionSuite,
    LosingInboxSuite,
    SharedInboxSuite,
)
from notify_memory._open import NamedMemoryStore
from tests.conformance.broken import caught_by
from tests.conformance.broken_inboxes import Listed, saying

# -- topics ----------------------------------------------------------------------------------------------------------


@caught_by("test_following_lists_what_comes", InboxStoreSuite)
class FollowsFromTheBeginning(Listed):
    async def change(self, draft: Event) -> Change:
        if draft.type == "notify.followed" and draft.payload["since"] is None:
            draft = saying(draft, since="0")
        return await super().change(draft)


@caught_by("test_following_from_a_position", InboxStoreSuite)
class FollowsFromNow(Listed):
    async def change(self, draft: Event) -> Change:
        if draft.type == "notify.followed":
            draft = saying(draft, since=None)
        return await super().change(draft)


@caught_by("test_the_position_of_a_follow", InboxStoreSuite)
class ReadsATopicToItsEnd(Listed):
    async def change(self, draft: Event) -> Change:
        change = await super().change(draft)
        page = await self.items(draft.user, ItemQuery())
        return replace(change, counts=replace(change.counts, position=page.position))


class KeepsTopics(InboxFolds):
    def apply(self, event: Event, now: int) -> None:
        if event.type == "notify.unfollowed":
            del self._fold(event.user).logs[event.payload["topic"]]
            self._remove_follower(event.payload["topic"], event.user)
        super().apply(event, now)


@caught_by("test_following_twice_and_unfollowing", InboxStoreSuite)
class KeepsItemsOfTopics(Listed):
    folds = KeepsTopics


class CopiesStates(InboxFolds):
    def pull(self, user: str, now: int) -> int:
        count = super().pull(user, now)
        rows = self._fold(user).rows
        for row in [row for key, row in rows.by_key.items() if key[2]]:
            original = self._fold(row.key[2]).rows.by_key.get((*row.key[:2], ""))
            if original is not None and original.place == "dismissed":
                rows.change([row], "dismissed", now)
        return count


@caught_by("test_each_follower_has_its_own_states", InboxStoreSuite)
class SharesStates(Listed):
    folds = CopiesStates


@caught_by("test_pulling_takes_over_once", InboxStoreSuite)
class AlwaysPullsOne(Listed):
    async def pull(self, user: str) -> int:
        return max(1, await super().pull(user))


@caught_by("test_interrupted_pulls_lose_nothing", InboxStoreSuite)
class MovesThePositionFirst(Listed):
    async def pull(self, user: str) -> int:
        fold = self._inboxes._fold(user)
        before = {topic: followed.position for topic, followed in fold.logs.items()}
        for topic, followed in fold.logs.items():
            followed.position = self.head_nowait(topic)
        await anyio.lowlevel.checkpoint()
        for topic, position in before.items():
            fold.logs[topic].position = position
        return await super().pull(user)


class CopiesWithoutGroups(InboxFolds):
    def pull(self, user: str, now: int) -> int:
        count = super().pull(user, now)
        for row in self._fold(user).rows.by_key.values():
            if row.key[2] and row.event.group is not None:
                self._fold(user).rows._groups[row.event.group].pop(row.key[2], None)
        return count


@caught_by("test_replaced_items_are_replaced_in_copies", InboxStoreSuite)
class KeepsReplacedCopies(Listed):
    folds = CopiesWithoutGroups


@caught_by("test_a_change_sees_what_was_just_published", InboxStoreSuite)
class ChangesWithoutPulling(Listed):
    async def change(self, draft: Event) -> Change:
        pull, self._inboxes.pull = self._inboxes.pull, lambda user, now: 0  # type: ignore[method-assign]
        try:
            return await super().change(draft)
        finally:
            self._inboxes.pull = pull  # type: ignore[method-assign]


@caught_by("test_edges_in_pages", InboxStoreSuite)
class IgnoresTheName(Listed):
    async def edges(self, *, user: str = "", topic: str = "", after: str = "", limit: int = 100) -> Sequence[Follow]:
        return await super().edges(user=user, topic=topic, limit=limit)


class Unlimited(InboxFolds):
    def _check_room(self, fold: InboxFold, new: set[str]) -> None:
        """Let everything pass."""


@caught_by("test_there_is_a_limit_to_topics", InboxStoreSuite)
class FollowsEverything(Listed):
    folds = Unlimited


# -- merged sessions -------------------------------------------------------------------------------------------------


class ForgetsStates(InboxFolds):
    def apply(self, event: Event, now: int) -> None:
        super().apply(event, now)
        if event.type == "notify.merged":
            rows = self._fold(event.user).rows
            rows.change([row for key, row in rows.by_key.items() if key[2] and row.place != "unread"], "unread", now)


@caught_by("test_a_session_is_merged_with_its_states", InboxStoreSuite)
class MergesWithoutStates(Listed):
    folds = ForgetsStates


class MergesAgain(InboxFolds):
    def apply(self, event: Event, now: int) -> None:
        if event.type == "notify.merged":
            self._fold(event.user).logs.pop(event.payload["session"], None)
        super().apply(event, now)


@caught_by("test_a_second_merge_changes_nothing", InboxStoreSuite)
class MergesEverythingAgain(Listed):
    folds = MergesAgain


class WithoutTopics(InboxFolds):
    def apply(self, event: Event, now: int) -> None:
        topics = {*self._fold(event.user).logs}
        super().apply(event, now)
        if event.type == "notify.merged":
            for edge in self.edges(event.user, "", "", 100):
                if edge.topic not in topics and self._fold(event.user).unfollow(edge.topic):
                    self._remove_follower(edge.topic, event.user)


@caught_by("test_the_topics_of_a_session_are_merged", InboxStoreSuite)
class MergesItemsOnly(Listed):
    folds = WithoutTopics


# -- beyond the interface --------------------------------------------------------------------------------------------


class Shared(NamedMemoryStore):
    """One of several stores on the same data, which outlives them all."""

    numbers = count()

    def __init__(self, name: str = "") -> None:
        self.name = name or f"shared {next(self.numbers)}"
        super().__init__(self.name)
        self.data = self._store
        self._keeper = NamedMemoryStore(self.name)

    def sibling(self) -> Self:
        return type(self)(self.name)


@caught_by("test_inboxes_survive", DurableInboxSuite)
class ForgetsWhatWasRead(Shared):
    def sibling(self) -> Self:
        for fold in self.data._inboxes._folds.values():
            rows = fold.rows
            rows.change([row for row in rows.by_key.values() if row.place == "read"], "unread", 0)
        return super().sibling()


@caught_by("test_inboxes_are_shared", SharedInboxSuite)
class ChangesUnseenByOthers(Shared):
    async def change(self, draft: Event) -> Change:
        self.changed = True
        return await super().change(draft)

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        page = await super().items(user, query)
        return page if hasattr(self, "changed") else ItemPage(page.items[:1], None, page.counts, page.position)


@caught_by("test_pulls_of_several_processes_repeat_nothing", SharedInboxSuite)
class PullsWithoutComparing(Shared):
    async def pull(self, user: str) -> int:
        fold = self.data._inboxes._fold(user)
        rows = [
            row.copy(topic, with_state=False)
            for topic, followed in fold.logs.items()
            for row in self.data._inboxes._fold(topic).own_after(followed.position, 0, self.inbox_retention)
        ]
        await anyio.lowlevel.checkpoint()
        fold._add(rows, self.inbox_retention)
        return len(rows)


class Bookings:
    """What one transaction has saved."""

    def __init__(self, store: Booked) -> None:
        self.store = store
        self.events: list[Event] = []

    def __enter__(self) -> None:
        self.events = []

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for event in self.events:
            if kind is None:
                self.store.book(event)
            self.store.held.discard(event.user)


class Booked(Listed):
    """A memory store with transactions: ids are given at once, events appended by the commit; other saves wait."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[str] = set()

    async def save(self, event: Event) -> Event:
        while event.user in self.held:
            await anyio.lowlevel.checkpoint()
        return await super().save(event)

    def connect(self) -> Bookings:
        return Bookings(self)

    async def save_in(self, event: Event, connection: Bookings) -> Event:
        before = connection.events[-1].id if connection.events else self.head_nowait(event.user)
        stored = event.stored(ids.following(before, self._now() / 1000), before)
        connection.events.append(stored)
        self.held.add(event.user)
        return stored

    def book(self, event: Event) -> None:
        log = self._logs[event.user]
        log.append(event)
        log.last_id = event.id
        self._last_ms, self._sequence = max((self._last_ms, self._sequence), ids.parse(event.id))
        self._inboxes.apply(event, self._now())


@caught_by("test_a_transaction_takes_its_items_with_it", InboxTransactionSuite)
class AppliesBeforeTheCommit(Booked):
    async def save_in(self, event: Event, connection: Bookings) -> Event:
        stored = await super().save_in(event, connection)
        self._inboxes.apply(stored, self._now())
        return stored


@caught_by("test_an_earlier_writer_that_commits_last", InboxTransactionSuite)
class LetsOthersOvertake(Booked):
    async def save(self, event: Event) -> Event:
        return await Listed.save(self, event)


class Losing(Listed):
    """A memory store that can lose a log."""

    def lose_log(self, user: str) -> None:
        del self._logs[user]


@caught_by("test_ids_go_on_above_the_inbox", LosingInboxSuite)
class BeginsBelow(Losing):
    def lose_log(self, user: str) -> None:
        super().lose_log(user)
        self._clock = lambda: 1_700_000_000.0
        self._last_ms = 0
