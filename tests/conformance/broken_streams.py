"""Stream stores with one bug each: most of them a bug that a published library has, or had."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from notify import Background, ClosedError, Event, Gap, Page, Stream, ids
from notify.abc import Position
from notify.testing import SharedStreamStoreSuite, StreamStoreSuite
from tests.conformance.broken import caught_by
from tests.conformance.broken_stores import Journal, new_path
from tests.conformance.outsiders import HandmadeStore, HandmadeStream, LiveFileStore, LiveStore, PlainStore


class Streaming(HandmadeStore):
    """A store whose stream class can be replaced."""

    stream: type[HandmadeStream] = HandmadeStream

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        if self.closed:
            raise ClosedError("the store is closed")
        return self.stream(self, user, last_id)


def caught(*tests: str) -> Any:
    """Enter a stream class into the table, by a store that hands it out, under each of these tests."""

    def enter(stream: type[HandmadeStream]) -> type[HandmadeStream]:
        for test in tests:
            caught_by(test, StreamStoreSuite)(type(stream.__name__, (Streaming,), {"stream": stream}))
        return stream

    return enter


# -- positions ------------------------------------------------------------------------------------------------------


@caught("test_no_position_means_from_now_on", "test_now_is_the_first_next")
class ReplaysUnasked(HandmadeStream):
    def __init__(self, store: HandmadeStore, user: str, last_id: Position) -> None:
        super().__init__(store, user, last_id or "0")


@caught("test_now_is_when_the_stream_is_entered", "test_now_can_be_resumed")
class StartsAtTheFirstNext(HandmadeStream):
    async def __aenter__(self) -> HandmadeStream:
        self.check()
        return self


@caught("test_zero_means_everything")
class TakesZeroForNow(HandmadeStream):
    def __init__(self, store: HandmadeStore, user: str, last_id: Position) -> None:
        super().__init__(store, user, None if last_id == "0" else last_id)


@caught("test_zero_of_a_trimmed_log")
class TellsAGapFromZero(HandmadeStream):
    def __init__(self, store: HandmadeStore, user: str, last_id: Position) -> None:
        super().__init__(store, user, last_id)
        self.strict = True


@caught("test_an_id_means_everything_after_it", "test_every_last_id_resumes")
@caught("test_resuming_at_another_notifier")
class IncludesThePosition(HandmadeStream):
    def __init__(self, store: HandmadeStore, user: str, last_id: Position) -> None:
        super().__init__(store, user, last_id)
        self.strict = False
        if self.at:
            self.at = ids.unpack(max(0, ids.pack(self.at) - 1))


@caught("test_an_empty_log_has_a_position_of_its_own")
class TakesNoEventForZero(HandmadeStream):
    def arrive(self, end: str) -> None:
        self.at = end


@caught("test_a_time_means_everything_since")
class SkipsTheMillisecond(HandmadeStream):
    def __init__(self, store: HandmadeStore, user: str, last_id: Position) -> None:
        super().__init__(store, user, last_id)
        if isinstance(last_id, datetime):
            self.at = ids.format(ids.parse(self.at)[0] + 1, 1 << 20)


@caught("test_what_is_no_position_is_refused", "test_garbage_positions_and_users_are_refused")
class TakesGarbageForNow(HandmadeStream):
    def __init__(self, store: HandmadeStore, user: str, last_id: Position) -> None:
        super().__init__(store, user, None if last_id == "garbage" else last_id)


@caught("test_a_trimmed_position_tells_a_gap", "test_a_position_trimmed_empty_tells_a_gap")
@caught("test_nothing_is_skipped_in_silence", "test_a_position_in_a_forgotten_log_tells_a_gap")
class SkipsInSilence(HandmadeStream):
    def cross(self, page: Page) -> None:
        super().cross(page)
        self.gaps = ()


@caught("test_a_position_ahead_of_the_log_tells_a_gap", "test_a_huge_position_is_not_special")
class IsDeadAheadOfTheLog(HandmadeStream):
    def cross(self, page: Page) -> None:
        if page.gap == "rewound" and not page.events:
            self.at = page.position
        else:
            super().cross(page)


@caught("test_a_position_may_be_spelled_with_zeros")
class ComparesSpellings(HandmadeStream):
    def __init__(self, store: HandmadeStore, user: str, last_id: Position) -> None:
        super().__init__(store, user, last_id)
        if isinstance(last_id, str) and last_id.startswith("0") and last_id != "0":
            self.at = "1-1"


@caught("test_a_long_backlog_arrives_whole")
class ReplaysFiveHundred(HandmadeStream):
    count = 0

    async def following(self) -> Event:
        self.count += 1
        if self.count == 500:
            self.at = await self.store.head(self.user)
        return await super().following()


@caught("test_live_streams_yield_a_chain", "test_a_push_is_yielded_once", "test_zero_means_everything")
@caught("test_concurrent_pushes_reach_every_stream", "test_a_delivery_that_comes_too_is_ignored")
class YieldsTwice(HandmadeStream):
    again: Event | None = None

    async def following(self) -> Event:
        again, self.again = self.again, None
        if again is not None:
            return again
        self.again = await super().following()
        return self.again


@caught("test_streams_yield_their_user_only")
class LosesColons(HandmadeStream):
    async def following(self) -> Event:
        self.user = self.user.replace(":", "")
        return await super().following()


@caught("test_streams_yield_what_was_stored")
class LosesMeta(HandmadeStream):
    async def following(self) -> Event:
        return (await super().following()).with_meta({})


@caught("test_zero_of_an_unknown_user")
class EndsWithoutALog(HandmadeStream):
    async def following(self) -> Event:
        if self.user not in self.store.logs:
            raise ClosedError("there is no such log")
        return await super().following()


@caught("test_a_log_trimmed_after_reading_is_not_a_gap")
class TellsWhateverWasTrimmed(HandmadeStream):
    async def following(self) -> Event:
        event = await super().following()
        if event is self.store.logs[self.user][0] and event.prev != ids.ZERO:
            self.gaps = (Gap("trimmed", "0", event.prev),)
        return event


@caught_by("test_a_repeated_key_is_yielded_once", StreamStoreSuite)
class IgnoresKeys(HandmadeStore):
    def keep(self, stored: Event) -> None:
        super().keep(stored)
        self.keys.clear()


@caught_by("test_pushing_to_many_reaches_their_streams", StreamStoreSuite)
class LosesTheTenthUser(HandmadeStore):
    def keep(self, stored: Event) -> None:
        super().keep(stored)
        if len(self.logs) == 10:
            self.logs[stored.user].clear()


# -- queues: what most libraries do ---------------------------------------------------------------------------------


class QueueStream(HandmadeStream):
    """Lives on a queue that is fed from before it reads the log."""

    size: int | None = None
    attached = False

    def __init__(self, store: HandmadeStore, user: str, last_id: Position) -> None:
        super().__init__(store, user, last_id)
        self.queue: deque[Event] = deque(maxlen=self.size)

    async def open(self) -> None:
        await super().open()
        if not self.attached:
            self.attached = True
            await self.replay()

    async def replay(self) -> None:
        self.store.streams.append(self)
        events = [*(await self.store.read(self.user, self.at, 1000)).events]
        events += [event for event in self.queue if event not in events]
        self.queue.clear()
        self.queue.extend(events)

    async def following(self) -> Event:
        while not self.queue:
            changed = self.store.changed
            await changed.wait()
            self.check()
        event = self.queue.popleft()
        self.at = event.id
        return event


class QueueStore(Streaming):
    """Feeds the queues of its streams."""

    stream = QueueStream

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[QueueStream] = []

    def keep(self, stored: Event) -> None:
        for stream in self.streams:
            if stream.user == stored.user:
                stream.queue.append(stored)
        super().keep(stored)


class SeamStream(QueueStream):
    async def replay(self) -> None:
        self.queue.extend((await self.store.read(self.user, self.at, 1000)).events)
        await anyio.lowlevel.checkpoint()
        self.store.streams.append(self)


class GreedyStream(QueueStream):
    async def aclose(self) -> None:
        self.store.streams = [stream for stream in self.store.streams if stream.user != self.user]
        await super().aclose()


class SmallStream(QueueStream):
    size = 64


@caught_by("test_replay_and_live_have_no_seam", StreamStoreSuite)
class HasASeam(QueueStore):
    stream = SeamStream


@caught_by("test_a_stream_that_opens_while_another_closes", StreamStoreSuite)
class ForgetsTheWholeUser(QueueStore):
    stream = GreedyStream


@caught_by("test_a_paused_reader_delays_no_other", StreamStoreSuite)
class DropsTheOldest(QueueStore):
    stream = SmallStream


# -- waiting and ending ---------------------------------------------------------------------------------------------


@caught_by("test_a_saved_event_arrives_promptly", StreamStoreSuite)
@caught_by("test_a_save_beside_the_notifier_is_yielded", StreamStoreSuite)
class NeverWakes(HandmadeStore):
    def keep(self, stored: Event) -> None:
        PlainStore.keep(self, stored)


@caught("test_a_cancelled_next_loses_nothing")
class MovesBeforeItWaits(HandmadeStream):
    async def following(self) -> Event:
        event = await super().following()
        await anyio.lowlevel.checkpoint()
        return event


@caught("test_next_gives_up_in_time")
class WaitsTooLong(HandmadeStream):
    async def next(self, timeout: float | None = None) -> Event:
        return await super().next(timeout and timeout + 1)


@caught("test_a_second_reader_is_refused")
class LetsAnybodyRead(HandmadeStream):
    async def next(self, timeout: float | None = None) -> Event:
        self.busy = False
        return await super().next(timeout)


@caught("test_a_new_stream_is_modest")
class ForgetsItsUser(HandmadeStream):
    async def open(self) -> None:
        await super().open()
        self.user = ""


@caught("test_a_closed_stream_yields_nothing", "test_leaving_the_context_closes")
class YieldsWhenClosed(HandmadeStream):
    async def aclose(self) -> None:
        self.store.wake()


@caught("test_a_stream_that_was_never_opened_closes")
class OpensWhenClosed(HandmadeStream):
    async def aclose(self) -> None:
        self.closed = self.opened and self.at != "0"
        self.store.wake()


@caught("test_close_wakes_the_reader")
class LeavesTheReaderWaiting(HandmadeStream):
    async def aclose(self) -> None:
        self.closed = True


@caught("test_close_beats_an_event")
class YieldsOneMoreWhenClosed(HandmadeStream):
    late = 0

    async def following(self) -> Event:
        try:
            return await super().following()
        except ClosedError:
            self.late += 1
            if self.late > 1:
                raise
            return Event(self.user, "late")


@caught("test_break_releases", "test_a_cancelled_entry_leaves_nothing")
class HasATask(HandmadeStream):
    """One for each stream, which only `aclose` ends."""

    background: Background | None = None

    async def open(self) -> None:
        await super().open()
        if self.background is None:
            self.background = Background("stream")
            self.background.start(anyio.sleep, 3)
            await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await super().aclose()
        if self.background is not None:
            await self.background.aclose(1.0)


@caught("test_a_stream_outlives_the_task_that_opened_it")
class BelongsToATask(HandmadeStream):
    async def open(self) -> None:
        if not self.opened:
            self.task = anyio.get_current_task().id
        await super().open()
        if self.task != anyio.get_current_task().id:
            await anyio.sleep_forever()


@caught_by("test_open_streams_are_counted", StreamStoreSuite)
class KeepsItsStreams(LiveStore):
    """Alive, though their readers have gone."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[Stream] = []
        subscribe = self.live._subscribe

        def keep(*args: Any, **options: Any) -> Stream:
            self.streams.append(subscribe(*args, **options))
            return self.streams[-1]

        self.live._subscribe = keep


@caught("test_disconnecting_ends_the_streams_of_a_user", "test_a_stream_ends_at_its_time")
class CannotBeCancelled(HandmadeStream):
    """Waits for its event though its reader has been told to go."""

    async def following(self) -> Event:
        with anyio.move_on_after(2, shield=True):
            return await super().following()
        return await super().following()


@caught_by("test_closing_the_store_ends_its_streams", StreamStoreSuite)
@caught_by("test_closing_the_store_ends_the_notifiers_streams", StreamStoreSuite)
class LeavesStreamsOpen(HandmadeStore):
    async def aclose(self) -> None:
        self.closed = True


@caught_by("test_closing_the_store_ends_its_streams", StreamStoreSuite)
class SubscribesWhenClosed(HandmadeStore):
    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        return HandmadeStream(self, user, last_id)


@caught("test_closing_the_notifier_ends_its_streams", "test_draining_ends_the_streams_first")
class ClosesItsStore(HandmadeStream):
    async def aclose(self) -> None:
        await self.store.aclose()


class LiveJournal(LiveFileStore, Journal):
    """A journal that streams."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path or new_path())


@caught_by("test_a_save_elsewhere_arrives_promptly", SharedStreamStoreSuite)
@caught_by("test_a_push_elsewhere_is_yielded", SharedStreamStoreSuite)
class StreamsItsOwnSavesOnly(LiveJournal):
    async def listen(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        await anyio.sleep_forever()


@caught_by("test_streams_everywhere_yield_one_chain", SharedStreamStoreSuite)
class SharesNoLog(LiveJournal):
    def sibling(self) -> Journal:
        return type(self)()


@caught_by("test_closing_elsewhere_ends_nothing_here", SharedStreamStoreSuite)
class ClosesEverywhere(LiveJournal):
    def sibling(self) -> Journal:
        return self
