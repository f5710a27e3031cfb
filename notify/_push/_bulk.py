"""Pushing to many users: in bounded batches, and in the order of calls with the other pushes of each user.

An event that waits for its batch goes ahead by itself when a later push to the same user comes: `advance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import anyio
import anyio.lowlevel

from .._runtime._loop_guard import LoopGuard
from .._runtime._results import PushReport
from ..errors import NotifyError
from ..event import Event
from ._gate import Gate
from ._save import Save
from ._writer import Writer

IN_FLIGHT: Final = 3
"""Batches in flight of one `push_many`: the store works on two while the outcomes of the third are passed on."""

BATCH: Final = 500 // IN_FLIGHT
"""Events in one `save_many`. With more than 500 in flight, single pushes wait for several statements of PostgreSQL:
with batches of 250, only two thirds as many single pushes were stored during a `push_many`."""

CONCURRENT_SAVES: Final = 32
"""Concurrent saves of one `push_many` on a store that cannot `save_many`."""


class Bulk:
    """The events of every `push_many` that is running.

    Args:
        writer: saves; None for a notifier without a store.
        gate: applies the policy for absent users.
        store: hands an accepted event to the store.
        show: shows an event that is not stored.
        failed: counts a failure and returns its error.
        guard: the event loop.

    Attributes:
        unsent: the events that are not accepted yet, by user.
    """

    def __init__(
        self,
        *,
        writer: Writer | None,
        gate: Gate,
        store: Callable[[Save], None],
        show: Callable[[Save], None],
        failed: Callable[[NotifyError, Event], NotifyError],
        guard: LoopGuard,
    ) -> None:
        self.unsent: dict[str, Save] = {}
        self._writer = writer
        self._gate = gate
        self._store = store
        self._show = show
        self._failed = failed
        self._guard = guard

    def begin(self, drafts: Sequence[Event], ephemeral: bool) -> list[Save]:
        """Fix the places of the events of a `push_many` among the pushes of their users. Never waits."""
        saves = [Save(event) for event in drafts]
        if self._writer is not None and not ephemeral:
            if self.unsent:  # all from other calls, since the users of one call are distinct
                for save in saves:
                    self.advance(save.event.user)
            self.unsent.update({save.event.user: save for save in saves})
        return saves

    def advance(self, user: str) -> None:
        """Accept the event of a `push_many` by itself, because a later push to the same user follows."""
        save = self.unsent.pop(user, None)
        if save is not None:
            self._gate.pass_through(save, self._store)

    async def push_all(self, saves: Sequence[Save], failed: dict[str, NotifyError], ephemeral: bool) -> PushReport:
        """Push what `begin` has prepared, in bounded batches; `failed` already holds the refused users."""
        events: dict[str, Event] = {}
        offline: list[str] = []
        try:
            await self._push_batches(saves, ephemeral)
        finally:
            if self.unsent:
                for save in saves:  # some are left only if the notifier is closed
                    self._take(save)
        for save in saves:
            user, outcome = save.event.user, save.outcome
            if save.absent:
                offline.append(user)
            elif isinstance(outcome, Event):
                events[user] = outcome
            else:
                assert outcome is not None  # an event that is shown has its outcome at once
                failed[user] = self._failed(outcome, save.event)
        return PushReport(events, failed, offline)

    async def _push_batches(self, saves: Sequence[Save], ephemeral: bool) -> None:
        """Push all batches, each until its events have their outcomes; other tasks get a turn after each.

        Several are in flight only if the store can `save_many`. No two of them have a user in common, so order is kept.
        """
        batches = iter([saves[start : start + BATCH] for start in range(0, len(saves), BATCH)])
        failures: list[Exception] = []

        async def push_some() -> None:
            try:
                for batch in batches:
                    await self._push_batch(batch, ephemeral)
                    await anyio.lowlevel.checkpoint()
            except Exception as error:
                failures.append(error)

        if len(saves) > BATCH and self._writer is not None and self._writer.can_save_many and not ephemeral:
            async with anyio.create_task_group() as group:
                for _ in range(IN_FLIGHT):
                    group.start_soon(push_some)
        else:
            await push_some()
        if failures:
            raise failures[0]

    async def _push_batch(self, saves: Sequence[Save], ephemeral: bool) -> None:
        """Push one batch, until each event has its outcome."""
        await self._gate.locate(saves)
        if self._writer is None or ephemeral:
            for save in saves:
                if self._gate.admits(save, self._show):
                    self._show(save)
        elif self._writer.can_save_many:
            await self._writer.save_all(
                [save for save in saves if self._take(save) and self._gate.admits(save, self._store)]
            )
        else:
            await self._save_each(self._writer, saves)
        for save in saves:
            if save.outcome is None:  # rare: another push has accepted it, or it was not stored
                await self._finish(save)

    async def _finish(self, save: Save) -> None:
        if not save.accepted:  # another push has accepted it, and its presence check is in progress
            await self._accepted(save)
        if not save.absent and save.outcome is None and self._writer is not None:
            await self._writer.outcome(save)

    async def _accepted(self, save: Save) -> None:
        waiter = save.waiter = save.waiter or self._guard.new_waiter()
        while not save.accepted:
            await waiter

    async def _save_each(self, writer: Writer, saves: Sequence[Save]) -> None:
        """Save with `save` in a store that cannot `save_many`, several at a time."""
        slots = anyio.Semaphore(CONCURRENT_SAVES)

        async def finish(save: Save) -> None:
            await writer.outcome(save)
            slots.release()

        async with anyio.create_task_group() as group:
            for save in saves:
                await slots.acquire()
                if self._take(save) and self._gate.admits(save, self._store):
                    self._store(save)
                    group.start_soon(finish, save)
                else:
                    slots.release()

    def _take(self, save: Save) -> bool:
        """Return whether an event still has to be accepted, and note that it no longer has to be."""
        found = self.unsent.pop(save.event.user, None)
        if found is not None and found is not save:
            self.unsent[found.event.user] = found
        return found is save
