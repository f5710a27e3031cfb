"""Rows, counts and pages of every inbox store are those of the pure fold, whatever happens in which order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, given, settings

from notify import Event
from notify.inbox import InboxFolds, InboxRetention, InboxStore
from notify.inbox.abc import ITEM, ItemQuery
from notify_memory import MemoryStore, MemoryStreamStore

from .inboxes import Follow, Mark, Send, Step, Tend, Trial, retentions, steps

Writers: TypeAlias = Callable[[], AbstractAsyncContextManager[Sequence[InboxStore]]]
EXAMPLES = max(25, settings().max_examples // 25)


@asynccontextmanager
async def memory() -> AsyncIterator[Sequence[InboxStore]]:
    async with MemoryStore() as store:
        yield [store]


@asynccontextmanager
async def memory_streaming() -> AsyncIterator[Sequence[InboxStore]]:
    async with MemoryStreamStore(max_len=50) as store:
        yield [store]


WRITERS: dict[str, tuple[Writers, str]] = {
    "memory": (memory, "trio"),
    "memory streaming": (memory_streaming, "asyncio"),
}
"""How the writers of each backend are opened, two stores on the same data if it can be shared, and on which loop."""


KNOWN: list[tuple[InboxRetention, Sequence[tuple[int, Step]]]] = [
    (  # a topic has got something that is not an item: only an item takes the place of another one
        InboxRetention(2, None, keep_unread=True),
        [
            (0, Follow("alice", "followed", "news")),
            *[(0, Send("alice", None, "", None, True))] * 3,
            (0, Mark("alice", "dismissed", "ids", (0, 1, 2))),
            (0, Send("news", None, "", None, False)),
            (1, Tend("pull", "alice")),
        ],
    )
]
"""Examples that have failed."""


def hold(writers: Writers, loop: str, examples: int, phases: Sequence[Phase]) -> None:
    """Run known and random examples on the writers, which are opened once: each example has users of its own."""
    with start_blocking_portal(loop) as portal, portal.wrap_async_context_manager(writers()) as stores:
        for known, failed in KNOWN:
            portal.call(Trial(stores, known).run, failed)

        @settings(max_examples=examples, phases=phases, suppress_health_check=list(HealthCheck), database=None)
        @given(retentions, steps)
        def example(retention: InboxRetention, taken: Sequence[tuple[int, Step]]) -> None:
            portal.call(Trial(stores, retention).run, taken)

        example()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", WRITERS)
def test_an_inbox_store_does_what_the_fold_does(name: str) -> None:
    """Sends, replacements, changes, expiry, trims, follows and merges of two writers leave what their logs say."""
    hold(*WRITERS[name], EXAMPLES, [Phase.generate])


# -- not blind -------------------------------------------------------------------------------------------------------


class LosesGroups(InboxFolds):
    """A replaced item stays."""

    def apply(self, event: Event, now: int) -> None:
        super().apply(changed(event, group=None), now)


class NeverExpires(InboxFolds):
    """Items stay beyond their time."""

    def apply(self, event: Event, now: int) -> None:
        super().apply(event.with_meta({ITEM: ""}) if ITEM in event.meta else event, now)


class KeepsOneMore(InboxFolds):
    """An inbox is one item larger than it may be."""

    def apply(self, event: Event, now: int) -> None:
        retention, self.retention = self.retention, replace(self.retention, max_items=self.retention.max_items + 1)
        super().apply(event, now)
        self.retention = retention


class ReadsWhatCameLater(InboxFolds):
    """A position is taken for the end of the log."""

    def prepare(self, draft: Event, now: int) -> tuple[Event | None, Sequence[str]]:
        if isinstance(draft.payload, dict) and "up_to" in draft.payload:
            draft = changed(draft, payload=draft.payload | {"up_to": self.page(draft.user, ItemQuery(), now).position})
        return super().prepare(draft, now)


class AppliesNoRead(InboxFolds):
    """A change is stored, but has no effect."""

    def apply(self, event: Event, now: int) -> None:
        super().apply(changed(event, type="t") if event.type == "notify.read" else event, now)


class PullsHalf(InboxFolds):
    """Of several new items of a topic one is lost."""

    def pull(self, user: str, now: int) -> int:
        pulled = super().pull(user, now)
        rows = self._fold(user).rows
        topical = [key for key in rows.by_key if key[2]]
        if pulled > 1:
            rows.remove(topical[-1:])
        return pulled


class MergesWithoutStates(InboxFolds):
    """A merged item is unread again."""

    def apply(self, event: Event, now: int) -> None:
        super().apply(event, now)
        if event.type == "notify.merged":
            rows = self._fold(event.user).rows
            rows.change([row for key, row in rows.by_key.items() if key[2] and row.place != "unread"], "unread", now)


def changed(event: Event, **fields: Any) -> Event:
    """Return the event with other fields."""
    names = ("user", "type", "payload", "id", "prev", "timestamp", "group", "key", "meta")
    return Event(**{name: getattr(event, name) for name in names} | fields)


FAULTS = (
    LosesGroups,
    NeverExpires,
    KeepsOneMore,
    ReadsWhatCameLater,
    AppliesNoRead,
    PullsHalf,
    MergesWithoutStates,
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_broken_store_is_found(fault: type[InboxFolds]) -> None:
    """Each of these faults in a store makes some example fail."""

    @asynccontextmanager
    async def broken() -> AsyncIterator[Sequence[InboxStore]]:
        async with MemoryStore() as store:
            store._inboxes = fault(store.head_nowait)
            yield [store]

    with pytest.raises(AssertionError):
        hold(broken, "asyncio", 400, [Phase.generate])
