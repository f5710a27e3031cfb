"""A push from its first step to its routes: fix its place, save, offer to the local streams, route.

A save that fails raises, and no stream sees the event. The order of calls: a push to a user is accepted in its first
step, before anything is awaited, or in the task that answers its presence check, in which the checks of one user stay
in order. What follows (`_writer`) keeps the order in which it accepts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import anyio.lowlevel

from .._runtime._loop_guard import LoopGuard
from .._runtime._results import PushReport
from .._runtime._stats import Counters
from .._runtime._telemetry import Telemetry
from ..abc import Immediate, SaveInTransaction
from ..errors import NotifyError, PushUncertainError, UsageError
from ..event import Event
from ._bulk import Bulk
from ._fan_out import FanOut
from ._gate import Gate
from ._save import Save
from ._writer import Writer, as_push_error, checked_event

PUSHES_PER_YIELD: Final = 64
"""Pushes to a store that answers at once after which other tasks get a turn."""


class Pipeline:
    """What every push of one notifier goes through.

    Args:
        name: the store's, for errors.
        gate: applies the policy for absent users.
        fan_out: shows and routes.

    Attributes:
        immediate: the store, if it answers at once.
        transactional: the store, if it saves in the caller's transactions.
        unsent: the events of each running `push_many` that are not accepted yet, by user.
    """

    def __init__(
        self,
        *,
        name: str,
        gate: Gate,
        fan_out: FanOut,
        immediate: Immediate | None,
        transactional: SaveInTransaction | None,
        writer: Writer | None,
        telemetry: Telemetry,
        counters: Counters,
        guard: LoopGuard,
    ) -> None:
        self._name = name
        self._gate = gate
        self._fan_out = fan_out
        self.immediate = immediate
        self.transactional = transactional
        self._writer = writer
        self._telemetry = telemetry
        self._counters = counters
        self._guard = guard
        self._bulk = Bulk(writer=writer, gate=gate, store=self._store, show=self._show, failed=self.failed, guard=guard)
        self.unsent = self._bulk.unsent
        self._waits_here = writer is not None and writer.reports_all  # one frame fewer for each push that waits
        if writer is not None:
            writer.on_saved = fan_out.saved
            writer.observe = telemetry.saved if telemetry.measuring else None

    async def push(self, event: Event, ephemeral: bool, connection: Any = None) -> Event | None:
        """Push one checked draft; return it as stored, or None where the policy for absent users dropped it."""
        waiter = self._guard.new_waiter()
        save = Save(event, waiter)
        if self.unsent:
            self._bulk.advance(event.user)
        stores = self._writer is not None and not ephemeral
        accept = _nothing if connection is not None else self._store if stores else self._show
        if self._gate.locator is None:  # as `pass_through` does
            save.accepted = True
            accept(save)
        else:
            self._gate.pass_through(save, accept)
        while not save.accepted:
            await waiter
        if save.absent:
            return None
        if connection is not None:
            return await self._push_in(event, ephemeral, connection)
        outcome = save.outcome
        while outcome is None:
            if self._waits_here:
                await waiter
                outcome = save.outcome
            else:
                assert self._writer is not None
                outcome = await self._writer.outcome(save)
        if isinstance(outcome, NotifyError):
            raise self.failed(outcome, event)
        if self._fan_out.is_routing:
            await let_routes_start()
        return outcome

    def _show(self, save: Save) -> None:
        save.outcome = self._fan_out.show(save.event, save.locations)

    def _store(self, save: Save) -> None:
        """Hand the event to the store."""
        assert self._writer is not None
        if self.immediate is None:
            try:
                self._writer.submit(save)
            except NotifyError as error:
                save.finish(error)
            return
        began = time.perf_counter() if self._telemetry.measuring else 0.0
        try:
            stored = checked_event(self.immediate.save_nowait(save.event))
        except Exception as error:
            save.finish(as_push_error(error, self._name))
            return
        if self._telemetry.measuring:
            self._telemetry.saved(time.perf_counter() - began, 1)
        self._fan_out.saved(save, stored)
        save.finish(stored)

    async def _push_in(self, event: Event, ephemeral: bool, connection: Any) -> Event:
        """Save in the caller's transaction; the store announces what is committed."""
        if ephemeral:
            raise UsageError("push() takes either ephemeral=True or connection=: an ephemeral event is not stored")
        if self.transactional is None:
            raise UsageError(f"{self._name} cannot save in a transaction: push without connection=")
        try:
            stored = await self.transactional.save_in(event, connection)
        except Exception as error:
            raise self.save_failed(error)  # noqa: B904 - it carries its cause
        self._counters.pushed_stored += 1
        return stored

    def begin(self, drafts: Sequence[Event], ephemeral: bool) -> list[Save]:
        """Fix the places of the events of a `push_many` among the pushes of their users. Never waits."""
        return self._bulk.begin(drafts, ephemeral)

    async def push_all(self, saves: Sequence[Save], failed: dict[str, NotifyError], ephemeral: bool) -> PushReport:
        """Push what `begin` has prepared, in bounded batches; `failed` already holds the refused users."""
        return await self._bulk.push_all(saves, failed, ephemeral)

    def failed(self, error: NotifyError, event: Event | None = None) -> NotifyError:
        """Count a push that failed and return its error."""
        if isinstance(error, PushUncertainError):
            self._counters.pushed_uncertain += 1
            if event is not None:
                self._fan_out.uncertain(event)
        else:
            self._counters.pushed_rejected += 1
        return error

    def save_failed(self, error: Exception) -> NotifyError:
        """Count a save that raised, and return the library's error for it."""
        return self.failed(as_push_error(error, self._name))


def _nothing(_save: Save) -> None:
    """Do nothing."""


async def let_routes_start() -> None:
    """Let tasks that were just started take their first step: a quick route is done when push returns."""
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()  # trio shuffles the tasks of one round, so only a second one is sure to be later
