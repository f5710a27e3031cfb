"""Inbox stores with one bug each: what is listed, what changes do, and what reads return."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import anyio
import anyio.lowlevel

from notify import Event, NotifyError, UsageError
from notify.inbox import Change, Counts, InboxFolds, InboxRetention, Item, ItemPage
from notify.inbox.abc import CHANGES, ITEM, ItemQuery
from notify.testing import ForgetInboxSuite, InboxStoreSuite
from notify_memory import MemoryStore, MemoryStreamStore
from tests.conformance.broken import caught_by
from tests.conformance.broken_stores import changed


def saying(event: Event, **payload: object) -> Event:
    """Return the event with other members in its payload."""
    return changed(event, data=json.dumps(event.payload | payload).encode())


class Listed(MemoryStore):
    """A memory store whose inboxes are of another kind, and which can be looked into."""

    folds: ClassVar[type[InboxFolds]] = InboxFolds

    def __init__(self) -> None:
        super().__init__()
        self._inboxes = self.folds(self.head_nowait)

    def traces(self, user: str) -> Collection[str]:
        return [name for name in (*self._logs, *self._inboxes.users()) if name == user]

    def with_items(self, page: ItemPage, items: Sequence[Item]) -> ItemPage:
        return ItemPage(items, page.next, page.counts, page.position)


# -- saving ----------------------------------------------------------------------------------------------------------


@caught_by("test_an_item_is_listed_as_it_was_sent", InboxStoreSuite)
class ShowsKeys(Listed):
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        page = await super().items(user, query)
        return self.with_items(page, [replace(each, event=changed(each.event, key="k")) for each in page.items])


@caught_by("test_hostile_items_are_unchanged", InboxStoreSuite)
class EncodesItemsAgain(Listed):
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        page = await super().items(user, query)
        events = [changed(each.event, data=json.dumps(json.loads(each.event.data)).encode()) for each in page.items]
        return self.with_items(
            page, [replace(each, event=event) for each, event in zip(page.items, events, strict=True)]
        )


@caught_by("test_what_is_no_item_is_not_listed", InboxStoreSuite)
class ListsEverything(Listed):
    def save_nowait(self, event: Event) -> Event:
        return super().save_nowait(event.with_meta({ITEM: ""} | event.meta))


@caught_by("test_an_unknown_user_has_an_empty_inbox", InboxStoreSuite)
@caught_by("test_each_change_in_each_state", InboxStoreSuite)
@caught_by("test_a_change_is_an_event", InboxStoreSuite)
@caught_by("test_one_change_by_many", InboxStoreSuite)
@caught_by("test_a_second_merge_changes_nothing", InboxStoreSuite)
@caught_by("test_following_twice_and_unfollowing", InboxStoreSuite)
class StoresEveryChange(Listed):
    async def change(self, draft: Event) -> Change:
        change = await super().change(draft)
        return replace(change, event=change.event or self.save_nowait(saying(draft, nothing=True)))


@caught_by("test_every_way_of_saving_applies", InboxStoreSuite)
@caught_by("test_a_change_of_very_many", InboxStoreSuite)
@caught_by("test_saved_follows_are_applied", InboxStoreSuite)
@caught_by("test_a_saved_merge_is_applied", InboxStoreSuite)
class BatchesApplyNothing(Listed):
    async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
        inboxes, self._inboxes = self._inboxes, InboxFolds(self.head_nowait)
        try:
            return await super().save_many(events)
        finally:
            self._inboxes = inboxes


@caught_by("test_a_repeated_key_applies_nothing", InboxStoreSuite)
class AppliesAgain(Listed):
    def save_nowait(self, event: Event) -> Event:
        stored = super().save_nowait(event)
        if stored.key is not None and ITEM in stored.meta:
            self._inboxes.apply(stored, self._now())
        return stored


class WithoutGroups(InboxFolds):
    def apply(self, event: Event, now: int) -> None:
        super().apply(changed(event, group=None), now)


@caught_by("test_a_group_has_one_item", InboxStoreSuite)
@caught_by("test_a_hundred_sends_in_one_group", InboxStoreSuite)
@caught_by("test_counts_name_their_position", InboxStoreSuite)
@caught_by("test_everything_at_once", InboxStoreSuite)
class KeepsWhatIsReplaced(Listed):
    folds = WithoutGroups


@caught_by("test_inboxes_share_nothing", InboxStoreSuite)
class FoldsCaseOfInboxes(Listed):
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        return await super().items(user.lower(), query)


@caught_by("test_an_inbox_outlives_its_log", InboxStoreSuite)
class TrimsInboxes(Listed):
    async def trim(self, before: Any) -> int:
        self._inboxes.clear()
        return await super().trim(before)


# -- changes ---------------------------------------------------------------------------------------------------------


class UnreadStaysDismissed(InboxFolds):
    def apply(self, event: Event, now: int) -> None:
        gone = {row for row in self._fold(event.user).rows.by_key.values() if row.place == "dismissed"}
        super().apply(event, now)
        rows = self._fold(event.user).rows
        if event.type == "notify.unread":
            rows.change([row for row in rows.by_key.values() if row in gone], "dismissed", now)


@caught_by("test_each_change_in_each_state", InboxStoreSuite)
@caught_by("test_changes_in_any_order", InboxStoreSuite)
class RestoresNothing(Listed):
    folds = UnreadStaysDismissed


class SeesAgain(InboxFolds):
    def apply(self, event: Event, now: int) -> None:
        super().apply(event, now)
        if event.type == "notify.read":
            for row in self._fold(event.user).rows.by_key.values():
                row.seen = now + 5


@caught_by("test_times_are_those_of_the_first_change", InboxStoreSuite)
class OverwritesTimes(Listed):
    folds = SeesAgain


@caught_by("test_a_change_is_an_event", InboxStoreSuite)
class StoresOtherMeta(Listed):
    async def change(self, draft: Event) -> Change:
        return await super().change(draft.with_meta({}))


@caught_by("test_ids_that_are_not_there_are_ignored", InboxStoreSuite)
class TellsWhatIsUnknown(Listed):
    async def change(self, draft: Event) -> Change:
        change = await super().change(draft)
        if change.event is None and "ids" in draft.payload:
            raise UsageError("unknown")
        return change


class IgnoresPositions(InboxFolds):
    def prepare(self, draft: Event, now: int) -> tuple[Event | None, Sequence[str]]:
        if "up_to" in draft.payload:
            draft = saying(draft, up_to=self.page(draft.user, ItemQuery(), now).position)
        return super().prepare(draft, now)


@caught_by("test_up_to_spares_what_came_later", InboxStoreSuite)
@caught_by("test_up_to_a_page_of_many_logs", InboxStoreSuite)
class ReadsWhatCameLater(Listed):
    folds = IgnoresPositions


@caught_by("test_a_group_is_changed_as_one", InboxStoreSuite)
class RestoresByGroup(Listed):
    async def change(self, draft: Event) -> Change:
        if draft.type == "notify.unread" and "group" in draft.payload:
            await super().change(changed(draft, type="notify.restored"))
        return await super().change(draft)


@caught_by("test_a_change_of_very_many", InboxStoreSuite)
class ListsAllIds(Listed):
    async def change(self, draft: Event) -> Change:
        change = await super().change(draft)
        return replace(change, ids=[*change.ids, *change.ids[:20]] if len(change.ids) == 1000 else change.ids)


@caught_by("test_nothing_malformed_is_applied", InboxStoreSuite)
class TrustsPayloads(Listed):
    def save_nowait(self, event: Event) -> Event:
        if event.type in CHANGES and not isinstance(event.payload, dict):
            raise UsageError("malformed")
        return super().save_nowait(event)


# -- reads -----------------------------------------------------------------------------------------------------------


@caught_by("test_an_inbox_in_pages", InboxStoreSuite)
class RepeatsTheLastItem(Listed):
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        page = await super().items(user, query)
        if query.before is None or query.limit < 2:
            return page
        first = (await super().items(user, ItemQuery(ids=(query.before,)))).items
        return self.with_items(page, [*first, *page.items])


@caught_by("test_items_by_their_ids", InboxStoreSuite)
class FindsOneOfSeveral(Listed):
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        return await super().items(user, query if query.ids is None else replace(query, ids=query.ids[:1]))


@caught_by("test_pages_while_items_come_and_go", InboxStoreSuite)
@caught_by("test_pages_while_others_write", InboxStoreSuite)
class CountsOffsets(Listed):
    offset = 0

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        if query.limit not in (7, 9):
            return await super().items(user, query)
        self.offset = 0 if query.before is None else self.offset + query.limit
        page = await super().items(user, replace(query, before=None, limit=1000))
        items = page.items[self.offset : self.offset + query.limit]
        more = len(page.items) > self.offset + query.limit
        return ItemPage(items, items[-1].id if more else None, page.counts, page.position)


@caught_by("test_states_and_filters", InboxStoreSuite)
class FiltersThePage(Listed):
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        page = await super().items(user, replace(query, types=None))
        return self.with_items(page, [e for e in page.items if query.types is None or e.event.type in query.types])


@caught_by("test_one_item_by_its_id", InboxStoreSuite)
class FindsActiveItemsOnly(Listed):
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        page = await super().items(user, query)
        found = [each for each in page.items if each.dismissed_at is None]
        return page if query.ids is None else self.with_items(page, found)


@caught_by("test_counts_name_their_position", InboxStoreSuite)
class CountsInASecondStep(Listed):
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        page = await super().items(user, query)
        await anyio.lowlevel.checkpoint()
        counts = (await super().items(user, query)).counts
        return ItemPage(page.items, page.next, counts, counts.position)


# -- retention -------------------------------------------------------------------------------------------------------


@caught_by("test_an_expired_item_is_gone_for_every_method", InboxStoreSuite)
class CountsWhatIsDue(Listed):
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        page = await super().items(user, query)
        rows = self._inboxes._fold(user).rows
        counts = Counts(len(rows.lists["unread"]) + len(rows.lists["read"]), page.counts.unseen, page.counts.unread)
        counts = replace(counts, position=page.position)
        return ItemPage(page.items, page.next, counts, counts.position)


class LeavesWhatIsDue(InboxFolds):
    def apply(self, event: Event, now: int) -> None:
        super().apply(event, 0)


@caught_by("test_writing_removes_what_is_due", InboxStoreSuite)
class RemovesNothing(Listed):
    folds = LeavesWhatIsDue


@caught_by("test_sweep_removes_due_items_of_all_inboxes", InboxStoreSuite)
class SweepsWithoutLimit(Listed):
    async def sweep(self, limit: int = 500) -> int:
        return await super().sweep(500)


class OneMore(InboxFolds):
    def apply(self, event: Event, now: int) -> None:
        retention, self.retention = self.retention, replace(self.retention, max_items=self.retention.max_items + 1)
        super().apply(event, now)
        self.retention = retention


@caught_by("test_the_oldest_give_way", InboxStoreSuite)
@caught_by("test_unread_items_are_kept", InboxStoreSuite)
class KeepsOneMore(Listed):
    folds = OneMore


class CountsLateItems(InboxFolds):
    def apply(self, event: Event, now: int) -> None:
        super().apply(event, 0 if ITEM in event.meta else now)  # at that time, none is due


@caught_by("test_what_is_due_on_arrival_displaces_nothing", InboxStoreSuite)
class DisplacesForLateItems(Listed):
    folds = CountsLateItems


@caught_by("test_the_old_become_due", InboxStoreSuite)
@caught_by("test_topics_count_for_retention", InboxStoreSuite)
class IgnoresRetention(Listed):
    @property
    def inbox_retention(self) -> InboxRetention:
        return InboxRetention()

    @inbox_retention.setter
    def inbox_retention(self, retention: InboxRetention) -> None:
        del retention


# -- at the same time, and in the end --------------------------------------------------------------------------------


@caught_by("test_interrupted_calls_leave_an_inbox_whole", InboxStoreSuite)
class AppliesLater(Listed):
    async def save(self, event: Event) -> Event:
        inboxes, self._inboxes = self._inboxes, InboxFolds(self.head_nowait)
        stored = self.save_nowait(event)
        self._inboxes = inboxes
        await anyio.lowlevel.checkpoint()
        if ITEM in stored.meta:
            self._inboxes.apply(stored, self._now())
        return stored


@caught_by("test_a_change_wakes_streams", InboxStoreSuite)
class ChangesInSilence(MemoryStreamStore):
    async def change(self, draft: Event) -> Change:
        offer, self._live.offer = self._live.offer, lambda event: 0  # type: ignore[method-assign]
        try:
            return await super().change(draft)
        finally:
            self._live.offer = offer  # type: ignore[method-assign]


@caught_by("test_a_closed_store_has_no_inboxes", InboxStoreSuite)
class SweepsWhenClosed(Listed):
    async def sweep(self, limit: int = 500) -> int:
        return self._inboxes.sweep(limit, 0)


@caught_by("test_changes_end_when_the_store_closes", InboxStoreSuite)
class HangsWhenClosed(Listed):
    async def change(self, draft: Event) -> Change:
        await anyio.lowlevel.checkpoint()
        if self._closed:
            await anyio.sleep_forever()
        return await super().change(draft)


@caught_by("test_nothing_of_an_inbox_goes_untested", InboxStoreSuite, ForgetInboxSuite)
class DeclaresNothing(Listed):
    guarantees = None  # type: ignore[assignment]


@caught_by("test_an_inbox_is_forgotten", ForgetInboxSuite)
class KeepsTheInbox(Listed):
    async def forget(self, user: str) -> int:
        return int(self._logs.pop(user, None) is not None)
