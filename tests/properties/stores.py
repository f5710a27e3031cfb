"""Stores that answer late, fail and can be stopped in the middle, around a store that answers at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from random import Random
from typing import Literal, TypeVar

import anyio
import anyio.lowlevel

from notify import Event, Page
from notify.errors import NotifyError, PushRejectedError
from notify_memory import MemoryStore

T = TypeVar("T")

Phase = Literal["before", "after"]
"""Of a call: before it took effect, or after that and before its answer."""

Calls = Literal["reads", "saves"]

Fault = Literal["rejected", "uncertain"]
"""A save that fails without an effect, or after it."""


class SlowStore:
    """A store without abilities. Each call passes a random number of scheduling points before and after its effect.

    Args:
        inner: where events are kept.
        random: decides how long each call takes.
        most: scheduling points at most, on either side.

    Attributes:
        saved: what each save returned, in the order of their effects.
    """

    def __init__(self, inner: MemoryStore, random: Random, *, most: int = 3) -> None:
        self.inner = inner
        self.saved: list[Event] = []
        self._random = random
        self._most = most
        self._held: dict[tuple[str, Phase], anyio.Event] = {}
        self._faults: list[Fault] = []

    def hold(self, phase: Phase, *calls: Calls) -> None:
        """Let no call of these kinds (of any, if none is named) go past this phase until `release`."""
        for kind in calls or ("reads", "saves"):
            self._held.setdefault((kind, phase), anyio.Event())

    def release(self) -> None:
        """Let all calls go on."""
        held, self._held = self._held, {}
        for event in held.values():
            event.set()

    @property
    def held(self) -> bool:
        """Whether calls are held."""
        return bool(self._held)

    def fail_next_save(self, fault: Fault) -> None:
        """Make the save that comes next fail."""
        self._faults.append(fault)

    async def save(self, event: Event) -> Event:
        """See `notify.abc.Store.save`."""
        fault = self._faults.pop() if self._faults else None
        await self._pass("saves", "before")
        if fault == "rejected":
            raise PushRejectedError("as told")
        stored = self._append(event)
        await self._pass("saves", "after")
        if fault == "uncertain":
            raise ConnectionError("as told")
        return stored

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`."""
        return await self._slowly(lambda: self.inner.read_nowait(user, after, limit))

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        return await self._slowly(lambda: self.inner.head_nowait(user))

    async def trim(self, before: datetime | str) -> int:
        """See `notify.abc.Store.trim`."""
        return await self.inner.trim(before)

    async def aclose(self) -> None:
        """See `notify.abc.Store.aclose`."""
        await self.inner.aclose()

    def _append(self, event: Event) -> Event:
        stored = self.inner.save_nowait(event)
        self.saved.append(stored)
        return stored

    async def _slowly(self, work: Callable[[], T]) -> T:
        await self._pass("reads", "before")
        result = work()
        await self._pass("reads", "after")
        return result

    async def _pass(self, calls: Calls, phase: Phase) -> None:
        for _ in range(self._random.randrange(self._most + 1)):
            await anyio.lowlevel.checkpoint()
        while (calls, phase) in self._held:
            await self._held[calls, phase].wait()


class BatchingStore(SlowStore):
    """As `SlowStore`, with the abilities to save and to read many."""

    async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
        """See `notify.abc.SaveMany.save_many`."""
        faults = [self._faults.pop() if self._faults else None for _ in events]
        await self._pass("saves", "before")
        outcomes: list[Event | NotifyError] = []
        for event, fault in zip(events, faults, strict=True):
            outcomes.append(PushRejectedError("as told") if fault == "rejected" else self._append(event))
        await self._pass("saves", "after")
        if "uncertain" in faults:
            raise ConnectionError("as told")
        return outcomes

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """See `notify.abc.ReadMany.read_many`."""
        await self._pass("reads", "before")
        pages = {user: self.inner.read_nowait(user, position, limit) for user, position in after.items()}
        await self._pass("reads", "after")
        return {user: page for user, page in pages.items() if page.events or page.gap}
