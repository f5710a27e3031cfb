"""Stores with one bug each that a stream of several logs shows."""

from __future__ import annotations

from notify import Event, Page, ids
from notify.testing import StoreSuite, StreamStoreSuite
from tests.conformance.broken import caught_by
from tests.conformance.broken_streams import LiveJournal
from tests.conformance.outsiders import PlainStore


@caught_by("test_a_merged_replay_is_ordered_by_id", StoreSuite)
class ReadsNewestFirst(PlainStore):
    async def read(self, user: str, after: str, limit: int) -> Page:
        page = await super().read(user, after, limit)
        return Page(page.events[::-1], page.gap, page.position)


@caught_by("test_a_merged_stream_resumes_anywhere", StoreSuite)
class SkipsWhatComesNext(PlainStore):
    """A read from a position in the log begins one event too late."""

    async def read(self, user: str, after: str, limit: int) -> Page:
        page = await super().read(user, after, limit)
        return page if after == ids.ZERO else Page(page.events[1:], page.gap, page.position)


@caught_by("test_a_merged_token_holds_an_empty_log", StoreSuite)
class LosesTheFirstEvent(PlainStore):
    def append(self, event: Event) -> Event:
        stored = super().append(event)
        if stored.prev == ids.ZERO:
            self.logs[event.user].clear()
        return stored


@caught_by("test_a_gap_in_one_log_names_it", StoreSuite)
class TellsTheGapOfAnother(PlainStore):
    """Where one log was trimmed, every log has a gap."""

    trimmed = False

    async def read(self, user: str, after: str, limit: int) -> Page:
        page = await super().read(user, after, limit)
        return Page(page.events, "trimmed" if self.trimmed and page.events else page.gap, page.position)

    def cut(self, first: tuple[int, int]) -> int:
        self.trimmed = True
        return super().cut(first)


@caught_by("test_logs_are_added_and_removed", StoreSuite)
class HasNoHead(PlainStore):
    """A stream from now on begins with the first event."""

    async def head(self, user: str) -> str:
        await self.enter()
        return ids.ZERO


@caught_by("test_a_merged_stream_while_others_save", StoreSuite)
class LooksForTheEndLater(PlainStore):
    """What is saved while a log is read lies before the position of the page, but is not in it."""

    async def read(self, user: str, after: str, limit: int) -> Page:
        page = await super().read(user, after, limit)
        for _ in range(5):
            await self.enter()
        return Page(page.events, page.gap, await self.head(user))


@caught_by("test_a_broadcast_reaches_a_merged_stream_once", StreamStoreSuite)
class StoresWhatIsEphemeral(LiveJournal):
    def send_ephemeral(self, event: Event) -> None:
        super().send_ephemeral(event)
        if event.user:
            self.append(event)
