"""Saving, in tasks that the library owns; concurrent pushes share batches.

A caller waits for an outcome, never for the driver: cancelling the caller, or its timeout, abandons only the wait. The
place of a save among those of its user is fixed in `submit`, which never waits: what follows keeps that order.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import anyio

from .. import ids
from .._runtime._background import Background
from .._runtime._loop_guard import LoopGuard
from .._runtime._stats import Counters
from ..abc import SaveMany, SaveSoon, Store, ability
from ..errors import (
    BackendError,
    ClosedError,
    NotifyError,
    OverloadedError,
    PushRejectedError,
    PushUncertainError,
    UsageError,
)
from ..event import Draft, Event
from ._save import Save

logger = logging.getLogger("notify")

BATCH_SIZE: Final = 500
"""Events in one `save_many` at most."""

T = TypeVar("T")


class Writer:
    """Saves pushes: those that arrive while one batch is being saved form the next batch.

    Invariants:
        I1. Saves of one user reach the store in the order of `submit`. A store that batches by itself, or one that is
            given one batch at a time, keeps it. With plain saves, a user has a lane: one save at a time.
        I2. A user in the batch of a `save_all` has an entry in `_held`, where that user's later saves wait; None while
            there are none.

    Args:
        store: where events are saved: by `save_soon` if it batches by itself, else in batches if it can `save_many`,
            else one save at a time for each user.
        timeout: seconds after which a push without an answer has failed.
        max_pending: saves that may be in flight or waiting.

    Attributes:
        can_save_many: whether `save_all` is of use.
        reports_all: whether every accepted save gets its outcome in time without `outcome` being called.
        on_saved: called with each save and the stored event, in the task that saved it, before its caller knows.
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
        self.can_save_many = self._many is not None
        self.reports_all = self._soon is not None
        self._handed: dict[Save, None] = {}  # the oldest first
        self._late: dict[Save, None] = {}
        self._all_reported: anyio.Event | None = None
        self._name = type(store).__name__
        self.on_saved: Callable[[Save, Event], None] = _ignore
        self._timeout = timeout
        self._max_pending = max_pending
        self._background = background
        self._guard = guard
        self._counters = counters
        self.observe: Callable[[float, int], None] | None = None
        self._on_report = self._report  # bound once: one object fewer for each push
        self._queue: deque[Save] = deque()
        self._batch: Sequence[Save] = ()
        self._draining = False
        self._lanes: dict[str, deque[Save]] = {}
        self._held: dict[str, deque[Save] | None] = {}

    def submit(self, save: Save) -> None:
        """Accept a save: its place among those of its user is fixed when this returns. Never waits.

        Raises:
            OverloadedError: too many are pending.
            ClosedError: the notifier is closed.
        """
        if self._counters.pending_pushes >= self._max_pending:
            message = f"{self._counters.pending_pushes} pushes are pending, which is the limit (max_pending)"
            raise OverloadedError(message, backend=self._name)
        if self._held and save.event.user in self._held:
            held = self._held[save.event.user]
            if held is None:
                held = self._held[save.event.user] = deque()
            held.append(save)
            save.waits_in = held
        elif self._soon is not None and not self._background.closed:
            self._hand_over(self._soon, save)  # as `_forward` does
        else:
            self._forward(save)
        self._counters.pending_pushes += 1

    async def outcome(self, save: Save) -> Event | NotifyError:
        """Wait for the outcome of an accepted save, `timeout` seconds at most."""
        if save.waiter is None:
            save.waiter = self._guard.new_waiter()
        if self._soon is not None:
            while save.outcome is None:
                await save.waiter
        elif save.outcome is None:
            with anyio.move_on_after(self._timeout):
                while save.outcome is None:
                    await save.waiter
            if save.outcome is None:
                self._give_up(save)
        assert save.outcome is not None
        return save.outcome

    async def save_all(self, saves: Sequence[Save]) -> None:
        """Save one batch of a `push_many`, until each has its outcome; called in a task of the notifier."""
        assert self._many is not None
        busy = {save.event.user for save in (*self._handed, *self._late, *self._queue, *self._batch)}
        held = self._held
        batch: list[Save] = []
        others: list[Save] = []
        for save in saves:
            user = save.event.user
            if user in busy or user in held:  # keeps I1: behind what is on its way
                others.append(save)
                try:
                    self.submit(save)
                except NotifyError as error:
                    save.finish(error)
            else:
                batch.append(save)
                held[user] = None  # keeps I2
        try:
            if batch:
                await self._save_batch(self._many, batch)
        finally:
            for save in batch:
                behind = held.pop(save.event.user)
                if behind is not None:
                    self._release(behind)
        for save in others:
            await self.outcome(save)

    def _release(self, held: deque[Save]) -> None:
        while held:
            save = held.popleft()
            try:
                self._forward(save)
            except ClosedError:
                self._reject_unsent(save)

    def _forward(self, save: Save) -> None:
        """Start a save, behind those of the same user."""
        if self._background.closed:
            raise ClosedError("the notifier is closed")
        if self._soon is not None:
            self._hand_over(self._soon, save)
        elif self._many is not None:
            self._queue.append(save)
            save.waits_in = self._queue
            if not self._draining:
                self._draining = True
                self._background.start(self._drain)
        else:
            user = save.event.user
            lane = self._lanes.get(user)
            if lane is not None:
                lane.append(save)
                save.waits_in = lane
                return
            save.waits_in = self._lanes[user] = deque((save,))
            self._background.start(self._save_one_by_one, user)

    # -- stores that batch by themselves -------------------------------------------------------------------------

    def _hand_over(self, store: SaveSoon, save: Save) -> None:
        save.waits_in = None
        save.report = self._on_report
        save.deadline = time.monotonic() + self._timeout  # anyio's clock is the same, and costs as much as the rest
        if not self._handed and not self._late:
            self._all_reported = anyio.Event()
            self._background.start(self._watch_deadlines, self._all_reported)
        self._handed[save] = None
        try:
            store.save_soon(save.event, save)
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
            self.on_saved(save, outcome)
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

    # -- stores that save one event ------------------------------------------------------------------------------

    async def _save_one_by_one(self, user: str) -> None:
        """Save what is in a user's lane, one after the other: a plain store does not order concurrent saves."""
        lane = self._lanes[user]
        try:
            while lane:
                save = lane.popleft()
                save.waits_in = None
                outcome: Event | NotifyError = self._unanswered()
                try:
                    outcome = await self._save(save)
                finally:
                    self._counters.pending_pushes -= 1
                    save.finish(outcome)
        finally:
            del self._lanes[user]
            for save in tuple(lane):  # some are left only if this task was cancelled: the notifier is being closed
                self._reject_unsent(save)

    async def _save(self, save: Save) -> Event | NotifyError:
        try:
            with self._bounded(1):
                stored = _checked(await self._store.save(save.event))
        except Exception as error:
            return as_push_error(error, self._name)
        self.on_saved(save, stored)
        return stored

    # -- stores that save many -----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Save what is queued, batch after batch, until the queue is empty."""
        assert self._many is not None
        try:
            while self._queue:
                self._batch = [self._queue.popleft() for _ in range(min(BATCH_SIZE, len(self._queue)))]
                for save in self._batch:
                    save.waits_in = None
                await self._save_batch(self._many, self._batch)
                self._counters.pending_pushes -= len(self._batch)
                self._batch = ()
        finally:
            self._draining = False
            for save in self._batch:  # only if this task was cancelled: the notifier is being closed
                save.finish(self._unanswered())
            self._counters.pending_pushes -= len(self._batch)
            self._batch = ()
            for save in tuple(self._queue):
                self._reject_unsent(save)
            self._queue.clear()

    async def _save_batch(self, many: SaveMany, saves: Sequence[Save]) -> None:
        self._counters.batches += 1
        events = [save.event for save in saves]
        try:
            with self._bounded(len(events)):
                outcomes = _all_checked(await many.save_many(events))
            if len(outcomes) != len(events):
                raise ValueError(f"save_many() returned {len(outcomes)} outcomes for {len(events)} events")  # noqa: TRY301 - as if it raised
        except Exception as error:
            outcomes = [as_push_error(error, self._name)] * len(events)
        for save, outcome in zip(saves, outcomes, strict=True):
            if isinstance(outcome, Event):
                self.on_saved(save, outcome)
            save.finish(outcome)

    # -- outcomes ------------------------------------------------------------------------------------------------

    @contextmanager
    def _bounded(self, events: int) -> Iterator[None]:
        began = time.perf_counter()
        with anyio.fail_after(self._timeout):
            yield
        if self.observe is not None:
            self.observe(time.perf_counter() - began, events)

    def _reject_unsent(self, save: Save) -> None:
        """Fail a save that a closing notifier leaves behind."""
        self._counters.pending_pushes -= 1
        save.finish(PushRejectedError("the notifier was closed; nothing was sent", backend=self._name))

    def _give_up(self, save: Save) -> None:
        """Fail a save whose caller has timed out; if it was not sent yet, it never will be."""
        if save.waits_in is None:
            save.outcome = self._unanswered()
            return
        save.waits_in.remove(save)
        self._counters.pending_pushes -= 1
        message = f"timed out after {self._timeout} s waiting for earlier saves of {self._name}; nothing was sent"
        save.outcome = PushRejectedError(message, backend=self._name)

    def _unanswered(self) -> PushUncertainError:
        return PushUncertainError(f"{self._name} did not answer; the event may be stored", backend=self._name)


def _ignore(_save: Save, _stored: Event) -> None:
    """Do nothing."""


def _all_checked(outcomes: Iterable[T]) -> list[T]:
    return [
        outcome if outcome.__class__ is Event and ids.is_id(outcome.id) else _checked(outcome)  # type: ignore[attr-defined]
        for outcome in outcomes
    ]


def _checked(outcome: T) -> T:
    return outcome if isinstance(outcome, NotifyError) else checked_event(outcome)


def checked_event(outcome: T) -> T:
    """Return a stored event, or raise TypeError: a store that breaks the contract must not corrupt a stream."""
    if isinstance(outcome, Event) and not isinstance(outcome, Draft) and ids.is_id(outcome.id):
        return outcome
    raise TypeError(f"the store returned {_kind(outcome)} instead of a stored event")


def _kind(outcome: object) -> str:
    """Describe what a store returned, without its content."""
    return repr(outcome) if isinstance(outcome, Event) else f"an object of type {type(outcome).__name__}"


def as_push_error(error: Exception, backend: str) -> NotifyError:
    """Return the library's error for a save that raised; after an exception of a driver the outcome is unknown."""
    if isinstance(error, BackendError | UsageError):
        return error
    wrapped = PushUncertainError(f"{backend} failed while saving: {error!r}", backend=backend)
    wrapped.__cause__ = error
    return wrapped
