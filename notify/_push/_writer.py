"""Saving, in tasks that the library owns; concurrent pushes share batches.

A caller waits for an outcome, never for the driver: cancelling the caller, or its timeout, abandons only the wait.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeAlias, TypeVar

import anyio

from .. import ids
from .._runtime._background import Background
from .._runtime._loop_guard import LoopGuard
from .._runtime._stats import Counters
from .._runtime._waking import Waiter, wake
from ..abc import RoutingInfo, SaveMany, SaveSoon, Store, ability
from ..errors import (
    BackendError,
    NotifyError,
    OverloadedError,
    PushRejectedError,
    PushUncertainError,
    UsageError,
)
from ..event import Draft, Event

logger = logging.getLogger("notify")

BATCH_SIZE: Final = 500
"""Events in one `save_many` at most."""

CONCURRENT_SAVES: Final = 32
"""Concurrent saves of one `push_many` on a store that cannot `save_many`."""


T = TypeVar("T")

Locations: TypeAlias = Sequence[RoutingInfo] | None
"""Where to route an event once it is stored; None for every instance."""


class Save:
    """One event that is being saved."""

    __slots__ = ("deadline", "event", "locations", "outcome", "sent", "waiter")

    def __init__(self, event: Event, locations: Locations, waiter: Waiter) -> None:
        self.deadline = 0.0
        self.event = event
        self.locations = locations
        self.waiter = waiter
        self.sent = False
        self.outcome: Event | NotifyError | None = None

    def finish(self, outcome: Event | NotifyError) -> None:
        """Set the outcome and wake the caller, if it still waits."""
        self.outcome = outcome
        wake(self.waiter)


class Writer:
    """Saves pushes: those that arrive while one batch is being saved form the next batch.

    Args:
        store: saved to: by `save_soon` if it batches by itself, else in batches if it can `save_many`, else with one
            task per save.
        timeout: seconds after which a push without an answer has failed.
        max_pending: saves that may be in flight or waiting.

    Attributes:
        on_saved: called with each stored event and its locations, in the task that saved it, before its caller knows.
        observe: if set, called with the duration of each call of the store in seconds and its number of events.
    """

    def __init__(
        self,
        store: Store,
        *,
        timeout: float,
        max_pending: int,
        background: Background,
        guard: LoopGuard,
        counters: Counters,
    ) -> None:
        self._store = store
        self._many: SaveMany | None = store if ability(store, SaveMany, save_many="save") else None
        self._soon: SaveSoon | None = store if ability(store, SaveSoon, save_soon="save") else None
        self._handed: dict[Save, None] = {}  # the oldest first
        self._late: dict[Save, None] = {}
        self._all_reported: anyio.Event | None = None
        self._name = type(store).__name__
        self.on_saved: Callable[[Event, Locations], None] = _ignore
        self._timeout = timeout
        self._max_pending = max_pending
        self._background = background
        self._guard = guard
        self._counters = counters
        self.observe: Callable[[float, int], None] | None = None
        self._queue: deque[Save] = deque()
        self._draining = False

    async def save(self, event: Event, locations: Locations) -> Event:
        """Save the event and return it as stored.

        Raises:
            OverloadedError: too many are pending.
            PushRejectedError: certainly not stored.
            PushUncertainError: outcome unknown.
        """
        if self._counters.pending_pushes >= self._max_pending:
            message = f"{self._counters.pending_pushes} pushes are pending, which is the limit (max_pending)"
            raise OverloadedError(message, backend=self._name)
        save = Save(event, locations, self._guard.new_waiter())
        self._counters.pending_pushes += 1
        if self._soon is not None:
            self._hand_over(self._soon, save)
            await save.waiter
        elif self._many is None:
            save.sent = True
            self._background.start(self._save_one, save)
        else:
            self._queue.append(save)
            if not self._draining:
                self._draining = True
                self._background.start(self._drain)
        if self._soon is None:
            with anyio.move_on_after(self._timeout):
                await save.waiter
        if save.outcome is None:
            save.outcome = self._give_up(save)
        if isinstance(save.outcome, NotifyError):
            raise save.outcome
        return save.outcome

    async def save_all(self, events: Sequence[Event], locations: Sequence[Locations]) -> list[Event | NotifyError]:
        """Save one batch of a `push_many` and return an outcome for each event; called in a task of the notifier."""
        if self._many is not None:
            return await self._save_batch(self._many, events, locations)
        outcomes: list[Event | NotifyError] = [self._unanswered()] * len(events)
        slots = anyio.CapacityLimiter(CONCURRENT_SAVES)

        async def save(index: int) -> None:
            async with slots:
                outcomes[index] = await self._save(events[index], locations[index])

        async with anyio.create_task_group() as group:
            for index in range(len(events)):
                group.start_soon(save, index)
        return outcomes

    def _hand_over(self, store: SaveSoon, save: Save) -> None:
        save.sent = True
        save.deadline = time.monotonic() + self._timeout  # anyio's clock is the same, and costs as much as the rest
        if not self._handed and not self._late:
            self._all_reported = anyio.Event()
            self._background.start(self._watch_deadlines, self._all_reported)
        self._handed[save] = None
        try:
            store.save_soon(save.event, partial(self._report, save))
        except Exception as error:
            self._report(save, as_push_error(error, self._name))

    def _report(self, save: Save, outcome: Event | NotifyError) -> None:
        """Accept an outcome from a store that batches by itself; ignored once the notifier has closed."""
        if save in self._handed:
            del self._handed[save]
            save.finish(outcome)
        elif save in self._late:
            del self._late[save]
        else:
            return
        self._counters.pending_pushes -= 1
        if isinstance(outcome, Event):
            self.on_saved(outcome, save.locations)
        if not self._handed and not self._late and self._all_reported is not None:
            self._all_reported.set()

    async def _watch_deadlines(self, all_reported: anyio.Event) -> None:
        """Fail the pushes that exceed their deadline, with one timer for all; closing the notifier awaits this task."""
        try:
            while not all_reported.is_set():
                oldest = next(iter(self._handed), None)
                now = time.monotonic()
                if oldest is not None and oldest.deadline <= now:
                    del self._handed[oldest]
                    self._late[oldest] = None
                    oldest.finish(self._unanswered())
                    continue
                with anyio.move_on_after(self._timeout if oldest is None else oldest.deadline - now):
                    await all_reported.wait()
        finally:
            while self._background.closed and (waiting := {**self._late, **self._handed}):
                self._report(next(iter(waiting)), self._unanswered())

    async def _save_one(self, save: Save) -> None:
        outcome: Event | NotifyError = self._unanswered()
        try:
            outcome = await self._save(save.event, save.locations)
        finally:
            self._counters.pending_pushes -= 1
            save.finish(outcome)

    async def _save(self, event: Event, locations: Locations) -> Event | NotifyError:
        try:
            with self._bounded(1):
                stored = _checked(await self._store.save(event))
        except Exception as error:
            return as_push_error(error, self._name)
        self.on_saved(stored, locations)
        return stored

    async def _drain(self) -> None:
        """Save what is queued, batch after batch, until the queue is empty."""
        assert self._many is not None
        saves: list[Save] = []
        try:
            while self._queue:
                saves = [self._queue.popleft() for _ in range(min(BATCH_SIZE, len(self._queue)))]
                for save in saves:
                    save.sent = True
                events, locations = [save.event for save in saves], [save.locations for save in saves]
                outcomes = await self._save_batch(self._many, events, locations)
                for save, outcome in zip(saves, outcomes, strict=True):
                    save.finish(outcome)
                self._counters.pending_pushes -= len(saves)
                saves = []
        finally:
            self._draining = False
            self._abandon(saves)  # only if this task was cancelled: the notifier is being closed

    async def _save_batch(
        self, many: SaveMany, events: Sequence[Event], locations: Sequence[Locations]
    ) -> list[Event | NotifyError]:
        self._counters.batches += 1
        try:
            with self._bounded(len(events)):
                outcomes = [_checked(outcome) for outcome in await many.save_many(events)]
            if len(outcomes) != len(events):
                raise ValueError(f"save_many() returned {len(outcomes)} outcomes for {len(events)} events")  # noqa: TRY301 - as if it raised
        except Exception as error:
            return [as_push_error(error, self._name)] * len(events)
        for outcome, where in zip(outcomes, locations, strict=True):
            if isinstance(outcome, Event):
                self.on_saved(outcome, where)
        return outcomes

    @contextmanager
    def _bounded(self, events: int) -> Iterator[None]:
        began = time.perf_counter()
        with anyio.fail_after(self._timeout):
            yield
        if self.observe is not None:
            self.observe(time.perf_counter() - began, events)

    def _abandon(self, sent: Sequence[Save]) -> None:
        for save in sent:
            save.finish(self._unanswered())
        for save in self._queue:
            save.finish(PushRejectedError("the notifier was closed; nothing was sent", backend=self._name))
        self._counters.pending_pushes -= len(sent) + len(self._queue)
        self._queue.clear()

    def _give_up(self, save: Save) -> NotifyError:
        if save.sent:
            return self._unanswered()
        self._queue.remove(save)
        self._counters.pending_pushes -= 1
        message = f"timed out after {self._timeout} s waiting for earlier saves of {self._name}; nothing was sent"
        return PushRejectedError(message, backend=self._name)

    def _unanswered(self) -> PushUncertainError:
        return PushUncertainError(f"{self._name} did not answer; the event may be stored", backend=self._name)


def _ignore(_event: Event, _locations: Locations) -> None:
    """Do nothing."""


def _checked(outcome: T) -> T:
    return outcome if isinstance(outcome, NotifyError) else checked_event(outcome)


def checked_event(outcome: T) -> T:
    """Return a stored event, or raise TypeError: a store that breaks the contract must not corrupt a stream."""
    if isinstance(outcome, Event) and not isinstance(outcome, Draft) and ids.is_id(outcome.id):
        return outcome
    raise TypeError(f"the store returned {outcome!r:.80} instead of a stored event")


def as_push_error(error: Exception, backend: str) -> NotifyError:
    """Return the library's error for a save that raised; after an exception of a driver the outcome is unknown."""
    if isinstance(error, BackendError | UsageError):
        return error
    wrapped = PushUncertainError(f"{backend} failed while saving: {error!r}", backend=backend)
    wrapped.__cause__ = error
    return wrapped
