"""Stores that erase users, prepare themselves or carry ephemeral events, with one bug each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import anyio

from notify import ClosedError, Event, ids
from notify.testing import EphemeralsSuite, ForgetSuite, PrepareSuite
from tests.conformance.broken import caught_by
from tests.conformance.broken_streams import LiveJournal
from tests.conformance.outsiders import PlainStore

# -- erasing ---------------------------------------------------------------------------------------------------------


class Erasing(PlainStore):
    """A store that can erase a user, and can be looked into."""

    async def forget(self, user: str) -> int:
        last = ids.parse(self.heads.get(user, "0"))[0] / 1000
        await anyio.sleep(max(0.0, last - self.now()) + 0.001)
        return self.erase(user)

    def erase(self, user: str) -> int:
        if self.closed:
            raise ClosedError("the store is closed")
        self.keys = {name: first for name, first in self.keys.items() if name[0] != user}
        self.heads.pop(user, None)
        return len(self.logs.pop(user, ()))

    def traces(self, user: str) -> Collection[str]:
        keyed = [key for name, key in self.keys if name == user]
        return [*keyed, *(name for name in (*self.heads, *self.logs) if name == user)]


@caught_by("test_nothing_is_left", ForgetSuite)
@caught_by("test_the_log_begins_again", ForgetSuite)
class KeepsKeys(Erasing):
    def erase(self, user: str) -> int:
        keys = dict(self.keys)
        try:
            return super().erase(user)
        finally:
            self.keys = keys


@caught_by("test_the_log_begins_again", ForgetSuite)
class BeginsWithOldIds(Erasing):
    async def forget(self, user: str) -> int:
        return self.erase(user)

    def now(self) -> float:
        return 1_700_000_000.0


@caught_by("test_nothing_is_left", ForgetSuite)
@caught_by("test_the_log_begins_again", ForgetSuite)
@caught_by("test_a_position_in_the_old_log_has_a_gap", ForgetSuite)
class KeepsTheHead(Erasing):
    async def forget(self, user: str) -> int:
        head = self.heads.get(user)
        count = await super().forget(user)
        if head is not None:
            self.heads[user] = head
        return count


@caught_by("test_forgetting_twice_and_the_unknown", ForgetSuite)
class RefusesTheUnknown(Erasing):
    async def forget(self, user: str) -> int:
        assert user in self.heads
        return await super().forget(user)


@caught_by("test_forgetting_twice_and_the_unknown", ForgetSuite)
class CountsOne(Erasing):
    async def forget(self, user: str) -> int:
        await super().forget(user)
        return 1


@caught_by("test_hostile_names", ForgetSuite)
class ErasesByPrefix(Erasing):
    async def forget(self, user: str) -> int:
        for name in [name for name in self.logs if name.startswith(user) and name != user]:
            await super().forget(name)
        return await super().forget(user)


@caught_by("test_saves_at_the_same_time", ForgetSuite)
class ErasesInTwoSteps(Erasing):
    async def forget(self, user: str) -> int:
        count = len(self.logs.pop(user, ()))
        await self.enter()
        self.heads.pop(user, None)
        return count


@caught_by("test_an_open_stream_gets_a_gap", ForgetSuite)
class OnlyHides(Erasing):
    async def forget(self, user: str) -> int:
        await self.enter()
        count = len(self.logs.get(user, ()))
        self.logs.pop(user, None)
        if user in self.heads:
            self.heads[user] = "0"
            self.logs[user] = []
            self.heads[user] = ids.following("0", 1.0)
        return count


@caught_by("test_a_closed_store_forgets_nothing", ForgetSuite)
class ForgetsWhenClosed(Erasing):
    async def forget(self, user: str) -> int:
        closed, self.closed = self.closed, False
        try:
            return await super().forget(user)
        finally:
            self.closed = closed


# -- preparing -------------------------------------------------------------------------------------------------------


class Preparing(PlainStore):
    """A store that needs a table."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[str] = []

    async def save(self, event: Event) -> Event:
        await self.prepare()
        return await super().save(event)

    async def prepare(self) -> None:
        await self.enter()
        self.tables = self.tables or ["events"]

    def script(self) -> str:
        return "CREATE TABLE events"

    def created(self) -> Collection[str]:
        return self.tables


@caught_by("test_reading_creates_nothing", PrepareSuite)
class CreatesWhenRead(Preparing):
    async def head(self, user: str) -> str:
        await self.prepare()
        return await super().head(user)


@caught_by("test_preparing_twice", PrepareSuite)
class PreparesAHalf(Preparing):
    async def save(self, event: Event) -> Event:
        stored = await super().save(event)
        self.tables = ["events", "keys"]
        return stored


@caught_by("test_a_closed_store_prepares_nothing", PrepareSuite)
class PreparesWhenClosed(Preparing):
    async def prepare(self) -> None:
        self.tables = ["events"]


@caught_by("test_the_first_save_prepares", PrepareSuite)
class RemembersThatItWasEmpty(Preparing):
    async def read(self, user: str, after: str, limit: int) -> Any:
        page = await super().read(user, after, limit)
        if not self.tables:
            self.logs[user] = []
            self.append = lambda event: event.stored("1-0", "0")  # type: ignore[method-assign]
        return page


# -- carrying --------------------------------------------------------------------------------------------------------


@caught_by("test_an_ephemeral_event_reaches_every_process", EphemeralsSuite)
@caught_by("test_a_broadcast_reaches_every_process", EphemeralsSuite)
@caught_by("test_hostile_names", EphemeralsSuite)
@caught_by("test_a_disconnection_reaches_a_process_without_streams", EphemeralsSuite)
class CarriesNothing(LiveJournal):
    def send_ephemeral(self, event: Event) -> None:
        if self.closed:
            raise ClosedError("the store is closed")


@caught_by("test_an_ephemeral_event_reaches_every_process", EphemeralsSuite)
@caught_by("test_a_broadcast_reaches_every_process", EphemeralsSuite)
class CarriesTwice(LiveJournal):
    def send_ephemeral(self, event: Event) -> None:
        super().send_ephemeral(event)
        super().send_ephemeral(event)


@caught_by("test_ephemeral_events_keep_their_order", EphemeralsSuite)
class CarriesTheLastFirst(LiveJournal):
    held: Event | None = None

    def send_ephemeral(self, event: Event) -> None:
        super().send_ephemeral(event)
        if event.type == "t" and self.held is None:
            self.held = event
        elif self.held is not None:
            super().send_ephemeral(self.held)
            self.held = None


@caught_by("test_large_events", EphemeralsSuite)
class CarriesSmallEventsOnly(LiveJournal):
    def send_ephemeral(self, event: Event) -> None:
        if len(event.data) < 8000:
            super().send_ephemeral(event)


@caught_by("test_what_was_before_is_not_shown", EphemeralsSuite)
class CarriesWhatWasBefore(LiveJournal):
    def __init__(self, path: Any = None) -> None:
        super().__init__(path)
        self.shown: list[str] = []

    def obey(self, kind: str, text: str) -> None:
        super().obey(kind, text)
        if kind == "show":
            self.shown.append(text)

    def subscribe(self, user: str, last_id: Any = None) -> Any:
        return super().subscribe(user, last_id)

    async def head(self, user: str) -> str:
        for text in self.shown:
            super().obey("show", text)
        return await super().head(user)


@caught_by("test_a_closed_store_sends_nothing", EphemeralsSuite)
class SendsWhenClosed(LiveJournal):
    def send_ephemeral(self, event: Event) -> None:
        if not self.closed:
            super().send_ephemeral(event)


@caught_by("test_without_streams_it_costs_nothing", EphemeralsSuite)
class NeedsAStream(LiveJournal):
    def send_ephemeral(self, event: Event) -> None:
        assert self.live.positions()
        super().send_ephemeral(event)


@caught_by("test_forgetting_reaches_every_process", EphemeralsSuite)
class ForgetsHere(LiveJournal):
    """Erases the user in every process, but tells their streams nothing."""

    async def forget(self, user: str) -> int:
        self.logs.pop(user, None)
        self.heads.pop(user, None)
        return 1

    def send_ephemeral(self, event: Event) -> None:
        if not event.type.startswith("notify."):
            super().send_ephemeral(event)
