"""Stores with one bug each."""

from __future__ import annotations

import json
import tempfile
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio.lowlevel

from notify import Background, ClosedError, Event, Guarantees, Page, UsageError, ids
from notify.testing import (
    AgingStoreSuite,
    BoundedStoreSuite,
    ClockedStoreSuite,
    DurableStoreSuite,
    ImmediateStoreSuite,
    ReadManySuite,
    SaveInTransactionSuite,
    SaveManySuite,
    SaveSoonSuite,
    SharedStoreSuite,
    StoreSuite,
)
from notify_memory import MemoryStore
from tests.conformance.broken import caught_by
from tests.conformance.outsiders import FileStore, LiveStore, PlainStore


def changed(event: Event, **fields: Any) -> Event:
    names = ("user", "type", "data", "id", "prev", "timestamp", "group", "key", "meta")
    return Event(**{name: getattr(event, name) for name in names} | fields)


# -- what is saved --------------------------------------------------------------------------------------------------


@caught_by("test_a_page_holds_no_more_than_the_limit", StoreSuite)
class DropsAnEvent(PlainStore):
    def keep(self, stored: Event) -> None:
        super().keep(stored)
        if stored.payload == 4:
            self.logs[stored.user].pop()


@caught_by("test_save_returns_the_event_with_id_and_prev", StoreSuite)
class ReusesIds(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        return changed(super().save_nowait(event), id="1700000000000-0")


@caught_by("test_save_returns_the_event_with_id_and_prev", StoreSuite)
class ForgetsPrev(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        return changed(super().save_nowait(event), prev="0")


@caught_by("test_save_returns_the_event_with_id_and_prev", StoreSuite)
class SpellsIdsWithZeros(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        stored = super().save_nowait(event)
        return changed(stored, id=f"0{stored.id}")


@caught_by("test_users_with_similar_names_share_nothing", StoreSuite)
@caught_by("test_users_do_not_wait_for_each_other", StoreSuite)
class LinksAcrossUsers(PlainStore):
    def append(self, event: Event) -> Event:
        before = max(self.heads.values(), key=ids.parse, default=ids.ZERO)
        stored = changed(super().append(event), prev=before)
        self.logs[event.user][-1] = stored
        return stored


@caught_by("test_every_field_is_read_back", StoreSuite)
class CutsTimestamps(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        return super().save_nowait(changed(event, timestamp=event.timestamp.replace(microsecond=0)))


@caught_by("test_data_is_unchanged", StoreSuite)
class EncodesAgain(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        try:
            data = json.dumps(event.payload).encode()
        except ValueError:
            data = event.data
        return super().save_nowait(changed(event, data=data))


@caught_by("test_data_is_unchanged", StoreSuite)
class CutsData(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        return super().save_nowait(changed(event, data=event.data[:65_535]))


@caught_by("test_hostile_fields_are_unchanged", StoreSuite)
class StripsZeroBytes(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        meta = {key.replace("\x00", ""): value.replace("\x00", "") for key, value in event.meta.items()}
        return super().save_nowait(changed(event, meta=meta))


@caught_by("test_what_was_left_out_stays_left_out", StoreSuite)
class InventsAGroup(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        return super().save_nowait(changed(event, group=event.group or "None"))


@caught_by("test_the_id_is_the_time_of_saving", StoreSuite)
class TakesIdsFromTimestamps(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        ms = int(event.timestamp.timestamp() * 1000)
        return changed(super().save_nowait(event), id=f"{ms}-1")


@caught_by("test_users_with_similar_names_share_nothing", StoreSuite)
class FoldsCase(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        return super().save_nowait(event.addressed_to(event.user.lower()))

    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        return super().read_nowait(user.lower(), after, limit)


@caught_by("test_users_with_similar_names_share_nothing", StoreSuite)
class CutsLongNames(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        return super().save_nowait(event.addressed_to(event.user[:128]))

    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        return super().read_nowait(user[:128], after, limit)


# -- what is read ---------------------------------------------------------------------------------------------------


@caught_by("test_a_page_holds_no_more_than_the_limit", StoreSuite)
class IgnoresTheLimit(MemoryStore):
    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        return super().read_nowait(user, after, 1000)


@caught_by("test_reading_goes_on_after_a_position", StoreSuite)
class ReadsFromThePositionOn(MemoryStore):
    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        return super().read_nowait(user, ids.unpack(max(0, ids.pack(after) - 1)), limit)


@caught_by("test_every_id_is_a_position", StoreSuite)
class ComparesIdsAsStrings(MemoryStore):
    def __init__(self) -> None:
        super().__init__(clock=lambda: 1.7e9)

    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        page = super().read_nowait(user, after, limit)
        return Page([event for event in page.events if event.id > after], page.gap, page.position)


@caught_by("test_a_long_log_is_read_page_by_page", StoreSuite)
class ReadsNoFurtherThanTwoHundred(MemoryStore):
    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        page = super().read_nowait(user, after, limit)
        events = [event for event in page.events if event.payload < 200]
        return Page(events, page.gap, events[-1].id if events else page.position)


@caught_by("test_the_end_of_the_log_is_an_empty_page", StoreSuite)
class LosesThePosition(MemoryStore):
    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        page = super().read_nowait(user, after, limit)
        return page if page.events else Page((), page.gap, ids.ZERO)


@caught_by("test_an_unknown_user_has_an_empty_log", StoreSuite)
class TellsAGapOfNobody(MemoryStore):
    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        page = super().read_nowait(user, after, limit)
        return Page((), "expired", ids.ZERO) if page.position == ids.ZERO else page


@caught_by("test_the_head_is_the_last_id", StoreSuite)
class HasAStaleHead(MemoryStore):
    async def head(self, user: str) -> str:
        return self.read_nowait(user, ids.ZERO, 1).position


@caught_by("test_reading_while_others_write_shows_no_gap", StoreSuite)
class ReadsInTwoSteps(PlainStore):
    async def read(self, user: str, after: str, limit: int) -> Page:
        page = await super().read(user, after, limit)
        head = await self.head(user)
        return page if page.events or head == after else Page((), "trimmed", head)


# -- gaps and retention ---------------------------------------------------------------------------------------------


@caught_by("test_a_trimmed_position_has_a_gap", StoreSuite)
@caught_by("test_a_position_that_no_event_has_gives_later_events_only", StoreSuite)
@caught_by("test_a_position_before_the_first_event_gives_everything", StoreSuite)
@caught_by("test_a_log_that_was_trimmed_empty_has_a_gap", StoreSuite)
@caught_by("test_a_position_in_an_unknown_log_has_expired", StoreSuite)
class TellsNoGaps(MemoryStore):
    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        page = super().read_nowait(user, after, limit)
        return Page(page.events, None, page.position)


@caught_by("test_a_position_ahead_of_the_log_was_rewound", StoreSuite)
class TakesEveryGapForTrimmed(MemoryStore):
    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        page = super().read_nowait(user, after, limit)
        return Page(page.events, page.gap and "trimmed", page.position)


@caught_by("test_a_trimmed_position_whose_successor_is_left_has_none", StoreSuite)
class TellsAGapAtTheBoundary(MemoryStore):
    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        page = super().read_nowait(user, after, limit)
        retained = super().read_nowait(user, ids.ZERO, 1).events
        return Page(page.events, "trimmed" if retained and after == retained[0].prev else page.gap, page.position)


@caught_by("test_a_gap_is_told_on_the_first_page_only", StoreSuite)
class TellsAGapOnEveryPage(MemoryStore):
    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        page = super().read_nowait(user, after, limit)
        retained = super().read_nowait(user, ids.ZERO, 1).events
        lost = bool(retained) and retained[0].prev != ids.ZERO
        return Page(page.events, "trimmed" if lost else page.gap, page.position)


@caught_by("test_trim_keeps_the_event_exactly_there", StoreSuite)
class TrimsTheBoundary(MemoryStore):
    async def trim(self, before: datetime | str) -> int:
        return await super().trim(ids.unpack(ids.pack(before) + 1) if isinstance(before, str) else before)


@caught_by("test_trim_keeps_what_is_exactly_as_old", StoreSuite)
class TrimsTheMillisecond(MemoryStore):
    async def trim(self, before: datetime | str) -> int:
        return await super().trim(before if isinstance(before, str) else before + timedelta(milliseconds=1))


@caught_by("test_trim_goes_by_id_and_not_by_timestamp", StoreSuite)
class TrimsByTimestamp(PlainStore):
    async def trim(self, before: datetime | str) -> int:
        assert isinstance(before, datetime)
        for log in self.logs.values():
            log[:] = [event for event in log if event.timestamp >= before]
        return 0


@caught_by("test_trim_spares_the_young", StoreSuite)
class TrimsEverything(MemoryStore):
    async def trim(self, before: datetime | str) -> int:
        return await super().trim(f"{1 << 60}-0")


@caught_by("test_trim_reaches_every_user", StoreSuite)
class TrimsTenUsers(PlainStore):
    def cut(self, first: tuple[int, int]) -> int:
        rest = {user: self.logs.pop(user) for user in [*self.logs][10:]}
        removed = super().cut(first)
        self.logs.update(rest)
        return removed


@caught_by("test_trim_reaches_every_user", StoreSuite)
@caught_by("test_a_trimmed_log_goes_on", StoreSuite)
class ForgetsTrimmedUsers(PlainStore):
    def cut(self, first: tuple[int, int]) -> int:
        removed = super().cut(first)
        for user, log in self.logs.items():
            if not log:
                del self.heads[user]
        return removed


@caught_by("test_trim_keeps_the_event_exactly_there", StoreSuite)
class CountsWrong(MemoryStore):
    async def trim(self, before: datetime | str) -> int:
        return await super().trim(before) + 1


@caught_by("test_trim_refuses_what_is_no_position", StoreSuite)
class TrimsBeforeAnything(MemoryStore):
    async def trim(self, before: datetime | str) -> int:
        return await super().trim("0" if before == "garbage" else before)


@caught_by("test_a_save_during_trim_is_not_lost", StoreSuite)
class LosesSavesDuringTrim(PlainStore):
    async def trim(self, before: datetime | str) -> int:
        kept = {user: [*log] for user, log in self.logs.items()}
        removed = await super().trim(before)
        self.logs = {user: [event for event in log if event in self.logs[user]] for user, log in kept.items()}
        return removed


# -- saves ----------------------------------------------------------------------------------------------------------


@caught_by("test_a_repeated_key_returns_the_first_event", StoreSuite)
class IgnoresKeys(MemoryStore):
    def save_nowait(self, event: Event) -> Event:
        return super().save_nowait(changed(event, key=None))


@caught_by("test_a_repeated_key_returns_the_first_event", StoreSuite)
class StoresRepeatedKeys(PlainStore):
    async def save(self, event: Event) -> Event:
        first = self.keys.get((event.user, event.key or ""))
        stored = await super().save(event.addressed_to(event.user))
        if first is not None:
            self.append(event)
        return stored


@caught_by("test_a_key_is_remembered", StoreSuite)
class RemembersTenKeys(PlainStore):
    def keep(self, stored: Event) -> None:
        super().keep(stored)
        self.keys = dict([*self.keys.items()][-10:])


@caught_by("test_a_key_counts_for_its_user_only", StoreSuite)
class SharesKeys(PlainStore):
    async def save(self, event: Event) -> Event:
        for (_, key), first in self.keys.items():
            if key == event.key:
                return first
        return await super().save(event)


@caught_by("test_a_key_counts_for_its_user_only", StoreSuite)
class JoinsUserAndKey(PlainStore):
    async def save(self, event: Event) -> Event:
        for pair, first in self.keys.items():
            if event.key is not None and ":".join(pair) == f"{event.user}:{event.key}":
                return first
        return await super().save(event)


@caught_by("test_a_key_is_compared_byte_by_byte", StoreSuite)
class NormalisesKeys(PlainStore):
    async def save(self, event: Event) -> Event:
        return await super().save(changed(event, key=unicodedata.normalize("NFC", event.key or "")))


@caught_by("test_events_without_a_key_are_never_the_same", StoreSuite)
class TakesEqualEventsForOne(PlainStore):
    def append(self, event: Event) -> Event:
        for stored in self.logs.get(event.user, []):
            if event.stored(stored.id, stored.prev) == stored:
                return stored
        return super().append(event)


@caught_by("test_ids_grow_under_concurrent_writers", StoreSuite)
class WritesInTwoSteps(PlainStore):
    async def save(self, event: Event) -> Event:
        prev = await self.head(event.user)
        await anyio.lowlevel.checkpoint()
        stored = changed(await super().save(event), prev=prev)
        self.logs[event.user][-1] = stored
        return stored


@caught_by("test_concurrent_saves_with_one_key_store_once", StoreSuite)
class ChecksKeysInTwoSteps(PlainStore):
    async def save(self, event: Event) -> Event:
        first = self.keys.get((event.user, event.key or ""))
        await self.enter()
        return first or self.append(event)


@caught_by("test_a_cancelled_save_leaves_the_log_whole", StoreSuite)
class LeavesAHoleWhenCancelled(PlainStore):
    async def save(self, event: Event) -> Event:
        stored = self.append(event)
        self.logs[event.user].pop()
        await anyio.sleep(0.001)
        self.logs[event.user].append(stored)
        return stored


@caught_by("test_a_cancelled_read_does_no_harm", StoreSuite)
class LosesWhatItReads(PlainStore):
    async def read(self, user: str, after: str, limit: int) -> Page:
        log = self.logs.pop(user, [])
        await anyio.lowlevel.checkpoint()
        self.logs[user] = log
        return await super().read(user, after, limit)


@caught_by("test_a_closed_store_raises", StoreSuite)
@caught_by("test_a_store_that_was_never_used_closes", StoreSuite)
class GoesOnWhenClosed(MemoryStore):
    async def aclose(self) -> None:
        """Stay open."""


@caught_by("test_a_closed_store_raises", StoreSuite)
class AnswersForNobodyWhenClosed(MemoryStore):
    async def read(self, user: str, after: str, limit: int) -> Page:
        return Page((), None, ids.ZERO) if user == "unknown" else await super().read(user, after, limit)


@caught_by("test_saves_end_when_the_store_closes", StoreSuite)
class HangsWhenClosed(PlainStore):
    async def save(self, event: Event) -> Event:
        await anyio.lowlevel.checkpoint()
        if self.closed:
            await anyio.sleep_forever()
        return await super().save(event)


@caught_by("test_the_head_is_the_last_id", StoreSuite)
class LeavesATaskRunning(MemoryStore):
    async def head(self, user: str) -> str:
        Background("left").start(anyio.sleep, 1)
        return await super().head(user)


@caught_by("test_nothing_goes_untested", StoreSuite)
class HasUntestedAbilities(PlainStore):
    async def save_many(self, events: Sequence[Event]) -> Sequence[Event]:
        return [await self.save(event) for event in events]


# -- abilities and features -----------------------------------------------------------------------------------------


@caught_by("test_many_events_of_one_user", SaveManySuite)
@caught_by("test_saving_many_is_saving_each", SaveManySuite)
class SavesManyBackwards(MemoryStore):
    async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
        return [*await super().save_many(events[::-1])][::-1]


@caught_by("test_keys_count_in_a_batch", SaveManySuite)
class IgnoresKeysInBatches(MemoryStore):
    async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
        return await super().save_many([changed(event, key=None) for event in events])


@caught_by("test_many_users", SaveManySuite)
class CutsLongNamesInBatches(MemoryStore):
    async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
        return await super().save_many([event.addressed_to(event.user[:254]) for event in events])


@caught_by("test_saving_nothing_is_nothing", SaveManySuite)
class SavesSomethingForNothing(MemoryStore):
    async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
        return await super().save_many(events or [Event("-", "empty")])


class BatchStore(PlainStore):
    async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
        return [await self.save(event) for event in events]


@caught_by("test_batches_that_cross", SaveManySuite)
class WritesBatchesInTwoSteps(BatchStore):
    async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
        heads = {event.user: await self.head(event.user) for event in events}
        stored = [changed(self.append(event), prev=heads[event.user]) for event in events]
        for event in stored:
            self.logs[event.user][-1] = event
        return stored


@caught_by("test_a_closed_store_saves_nothing", SaveManySuite)
class SavesManyWhenClosed(MemoryStore):
    async def save_many(self, events: Sequence[Event]) -> Sequence[Any]:
        try:
            return await super().save_many(events)
        except ClosedError as error:
            return [error] * len(events)


@caught_by("test_gaps_are_found_without_events", ReadManySuite)
@caught_by("test_reading_many_is_reading_each", ReadManySuite)
class LeavesGapsOut(MemoryStore):
    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        pages = await super().read_many(after, limit)
        return {user: page for user, page in pages.items() if page.gap is None}


@caught_by("test_reading_many_is_reading_each", ReadManySuite)
class TellsOfNoNews(MemoryStore):
    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        return {user: self.read_nowait(user, position, limit) for user, position in after.items()}


@caught_by("test_reading_many_is_reading_each", ReadManySuite)
class LimitsTheWholeQuery(MemoryStore):
    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        return dict([*(await super().read_many(after, limit)).items()][:limit])


@caught_by("test_reading_no_users_is_nothing", ReadManySuite)
class ReadsEverybodyForNobody(MemoryStore):
    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        return await super().read_many(after or {"unknown": "1-1"}, limit)


@caught_by("test_a_closed_store_reads_nothing", ReadManySuite)
class ReadsManyWhenClosed(MemoryStore):
    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        with suppress(ClosedError):
            return await super().read_many(after, limit)
        return {}


@caught_by("test_an_answer_at_once_is_the_same_answer", ImmediateStoreSuite)
class AnswersAtOnceWithoutKeys(MemoryStore):
    async def save(self, event: Event) -> Event:
        return super().save_nowait(event)

    def save_nowait(self, event: Event) -> Event:
        return super().save_nowait(changed(event, key=None))


@caught_by("test_a_closed_store_answers_at_once", ImmediateStoreSuite)
class AnswersAtOnceWhenClosed(MemoryStore):
    def head_nowait(self, user: str) -> str:
        with suppress(ClosedError):
            return super().head_nowait(user)
        return ids.ZERO


class Bounded(PlainStore):
    def __init__(self, *, max_len: int = 1000) -> None:
        super().__init__()
        self.max_len = max_len

    def keep(self, stored: Event) -> None:
        super().keep(stored)
        log = self.logs[stored.user]
        del log[: max(0, len(log) - self.max_len)]


@caught_by("test_the_oldest_go_first", BoundedStoreSuite)
class DropsTheNewest(Bounded):
    def keep(self, stored: Event) -> None:
        PlainStore.keep(self, stored)
        del self.logs[stored.user][self.max_len :]


@caught_by("test_the_oldest_go_first", BoundedStoreSuite)
@caught_by("test_a_single_event_is_kept", BoundedStoreSuite)
class KeepsOneTooFew(Bounded):
    def __init__(self, *, max_len: int = 1000) -> None:
        super().__init__(max_len=max_len - 1)


@caught_by("test_the_old_expire", AgingStoreSuite)
@caught_by("test_an_id_that_expired_is_never_given_again", AgingStoreSuite)
class NeverForgets(MemoryStore):
    def __init__(self, *, max_age: float = 1.0, clock: Any = None) -> None:
        super().__init__(max_age=None, clock=clock)


class Clocked(PlainStore):
    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.clock = clock

    def now(self) -> float:
        return self.clock()


@caught_by("test_ids_grow_though_the_clock_does_not", ClockedStoreSuite)
@caught_by("test_ids_grow_though_clock_and_log_are_lost", ClockedStoreSuite)
class FollowsTheClock(Clocked):
    def append(self, event: Event) -> Event:
        head = self.heads.get(event.user, ids.ZERO)
        stored = event.stored(ids.following(ids.ZERO, self.now()), head)
        self.keep(stored)
        return stored


def new_path() -> Path:
    return Path(tempfile.mkdtemp()) / "journal"


class Journal(FileStore):
    """A file store that makes its own file, and further stores on it."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path or new_path())
        self.path.touch()

    def sibling(self) -> Journal:
        return type(self)(self.path)


@caught_by("test_events_survive", DurableStoreSuite)
@caught_by("test_logs_go_on", DurableStoreSuite)
class KeepsNothing(Journal):
    def write(self, line: str) -> None:
        """Forget it."""


@caught_by("test_events_survive", DurableStoreSuite)
class ForgetsTrims(Journal):
    def write(self, line: str) -> None:
        if not line.startswith("trim"):
            super().write(line)


@caught_by("test_logs_go_on", DurableStoreSuite)
class ForgetsKeysAtRestart(Journal):
    async def enter(self) -> None:
        keys = dict(self.keys)
        await super().enter()
        self.keys = keys


@caught_by("test_the_closed_one_stays_closed", DurableStoreSuite)
class ReopensItself(Journal):
    def sibling(self) -> Journal:
        self.closed = False
        return self


@caught_by("test_both_see_the_same", SharedStoreSuite)
@caught_by("test_two_writers_make_one_chain", SharedStoreSuite)
@caught_by("test_a_key_counts_everywhere", SharedStoreSuite)
class SharesNothing(Journal):
    def sibling(self) -> Journal:
        return type(self)()


@caught_by("test_each_closes_for_itself", SharedStoreSuite)
class ClosesAll(Journal):
    def sibling(self) -> Journal:
        return self


@caught_by("test_nothing_goes_untested", StoreSuite)
class DeclaresNoGuarantees(PlainStore):
    guarantees = None  # type: ignore[assignment]


@caught_by("test_nothing_goes_untested", StoreSuite)
class SaysItIsLeased(PlainStore):
    guarantees = Guarantees(leased=True)


# -- further ways of saving -----------------------------------------------------------------------------------------


class SoonStore(PlainStore):
    """Saves what it is handed one after the other, in a task of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.background = Background("soon store")
        self.pending: deque[tuple[Event, Callable[[Any], None]]] = deque()
        self.saving = False

    def save_soon(self, event: Event, done: Callable[[Any], None]) -> None:
        if self.closed:
            raise ClosedError("the store is closed")
        self.pending.append((event, done))
        if not self.saving:
            self.saving = True
            self.background.start(self.save_pending)

    async def save_pending(self) -> None:
        while self.pending:
            event, done = self.pending.popleft()
            done(await self.outcome(event))
        self.saving = False

    async def outcome(self, event: Event) -> Event | ClosedError:
        try:
            return await self.save(event)
        except ClosedError as error:
            return error

    async def aclose(self) -> None:
        await super().aclose()
        await self.background.settle(1.0)
        await self.background.aclose(1.0)


@caught_by("test_saving_soon_is_saving", SaveSoonSuite)
class SavesTheLastFirst(SoonStore):
    async def save_pending(self) -> None:
        self.pending.reverse()
        await super().save_pending()


@caught_by("test_what_is_saved_soon_keeps_the_order_of_calls", SaveSoonSuite)
class SavesSmallEventsFirst(SoonStore):
    """As a client that sends large events by themselves."""

    async def save_pending(self) -> None:
        small = sorted(self.pending, key=lambda pending: len(pending[0].data) > 1000)
        self.pending.clear()
        self.pending.extend(small)
        await super().save_pending()


@caught_by("test_pushes_are_stored_in_the_order_of_calls", StoreSuite)
@caught_by("test_the_pushes_of_one_burst_are_in_order", StoreSuite)
class SavesInTwoTasks(SoonStore):
    """As a client with two connections."""

    def save_soon(self, event: Event, done: Callable[[Any], None]) -> None:
        self.saving = len(self.pending) % 20 != 3  # now and then one more task
        super().save_soon(event, done)
        self.saving = True

    async def save_pending(self) -> None:
        while self.pending:
            event, done = self.pending.popleft()
            if event.payload % 5 == 0:
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
            done(await self.outcome(event))
        self.saving = False


@caught_by("test_a_push_that_is_abandoned_leaves_the_others_in_order", StoreSuite)
class SavesEveryThirdLater(SoonStore):
    """As a client that tries again after others."""

    async def save_pending(self) -> None:
        first = [pending for pending in self.pending if pending[0].payload % 7]
        later = [pending for pending in self.pending if not pending[0].payload % 7]
        self.pending.clear()
        self.pending.extend([*first, *later])
        await super().save_pending()


@caught_by("test_saving_soon_is_saving", SaveSoonSuite)
class CallsBackTwice(SoonStore):
    def save_soon(self, event: Event, done: Callable[[Any], None]) -> None:
        super().save_soon(event, lambda outcome: (done(outcome), done(outcome)))


@caught_by("test_a_key_counts_for_what_is_saved_soon", SaveSoonSuite)
class IgnoresKeysSoon(SoonStore):
    def save_soon(self, event: Event, done: Callable[[Any], None]) -> None:
        super().save_soon(changed(event, key=None), done)


@caught_by("test_every_outcome_is_known_when_the_store_closes", SaveSoonSuite)
class ForgetsWhatIsPending(SoonStore):
    async def aclose(self) -> None:
        self.pending.clear()
        await super().aclose()


@caught_by("test_a_closed_store_takes_nothing", SaveSoonSuite)
class TakesWhenClosed(SoonStore):
    def save_soon(self, event: Event, done: Callable[[Any], None]) -> None:
        if self.closed:
            done(ClosedError("the store is closed"))
        else:
            super().save_soon(event, done)


class Transaction:
    """A connection to a ledger, and the transaction on it: a block."""

    def __init__(self, store: PlainLedger) -> None:
        self.store = store
        self.staged: list[Event] = []
        self.is_open = False

    def __enter__(self) -> None:
        self.is_open = True

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.is_open = False
        self.store.finish(self.staged, commit=kind is None)
        self.staged = []


class PlainLedger(PlainStore):
    """Saves in transactions, too."""

    def connect(self) -> Transaction:
        return Transaction(self)

    async def save_in(self, event: Event, connection: Any) -> Event:
        await self.enter()
        self.check(connection)
        for first in (self.keys.get((event.user, event.key or "")), *connection.staged):
            if first is not None and event.key is not None and (first.user, first.key) == (event.user, event.key):
                return first
        head = self.heads.get(event.user, ids.ZERO)
        for staged in connection.staged:
            head = staged.id if staged.user == event.user else head
        stored = event.stored(ids.following(head, self.now()), head)
        connection.staged.append(stored)
        return stored

    def check(self, connection: Any) -> None:
        if not isinstance(connection, Transaction) or not connection.is_open:
            raise UsageError("no transaction is open")

    def finish(self, staged: list[Event], *, commit: bool) -> None:
        for stored in staged if commit else ():
            self.keep(stored)


class Ledger(PlainLedger, LiveStore):
    """Its streams wake up after the commit."""


@caught_by("test_a_commit_makes_the_event", SaveInTransactionSuite)
class ShowsItBeforeTheCommit(Ledger):
    async def save_in(self, event: Event, connection: Any) -> Event:
        return await self.save(event)


@caught_by("test_a_rollback_leaves_nothing", SaveInTransactionSuite)
class CommitsARollback(Ledger):
    def finish(self, staged: list[Event], *, commit: bool) -> None:
        super().finish(staged, commit=True)


@caught_by("test_a_key_counts_in_a_transaction", SaveInTransactionSuite)
class IgnoresKeysInTransactions(Ledger):
    async def save_in(self, event: Event, connection: Any) -> Event:
        return await super().save_in(changed(event, key=None), connection)


@caught_by("test_without_a_transaction_nothing_is_saved", SaveInTransactionSuite)
class NeedsNoTransaction(Ledger):
    def check(self, connection: Any) -> None:
        if not isinstance(connection, Transaction):
            raise UsageError("not a connection")


@caught_by("test_a_closed_store_joins_no_transaction", SaveInTransactionSuite)
class JoinsWhenClosed(Ledger):
    async def save_in(self, event: Event, connection: Any) -> Event:
        self.closed = False
        return await super().save_in(event, connection)


@caught_by("test_streams_wake_up_after_the_commit", SaveInTransactionSuite)
class CommitsInSilence(Ledger):
    def finish(self, staged: list[Event], *, commit: bool) -> None:
        for stored in staged if commit else ():
            PlainStore.keep(self, stored)


@caught_by("test_streams_wake_up_after_the_commit", SaveInTransactionSuite)
class WakesBeforeTheCommit(Ledger):
    async def save_in(self, event: Event, connection: Any) -> Event:
        stored = await super().save_in(event, connection)
        self.live.offer(stored)
        return stored
