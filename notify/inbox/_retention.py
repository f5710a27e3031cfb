"""Removing due items in the background: in one process at a time, whichever processes there are.

Time is divided into slots. A slot belongs to the process that is first to save an event with the slot's number as its
idempotency key, in a log that is reserved for this; the others get that event back and see that it is not theirs. So
the store that keeps the inboxes decides, by what every store can do, and a process that dies loses its slot by the
clock. A round ends with its slot, so two processes are never at work, as far as their clocks agree; where they do not,
they remove different items or find none.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable
from typing import Final

import anyio

from notify import Event
from notify.adapters import OutageLog

from .abc import InboxStore

logger = logging.getLogger("notify")

LOG: Final = "notify.inbox"
"""The user whose log the slots are taken in."""

INTERVAL: Final = 60.0
"""Seconds of one slot."""

BATCH: Final = 500
"""Items that one call of the store removes."""

_FIRST: Final = 1.0
"""Seconds after which a process looks for the first time: one that ends at once writes nothing."""


class Sweeper:
    """Removes due items from the inboxes of one store, slot by slot.

    Args:
        store: keeps the inboxes.
        interval: seconds of one slot; the same in every process.
        clock: returns seconds since 1970.
    """

    def __init__(self, store: InboxStore, interval: float = INTERVAL, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._interval = interval
        self._clock = clock
        self._outage = OutageLog(
            logger,
            "due items of inboxes are not being removed, which is retried",
            "due items of inboxes are being removed again",
        )

    async def run(self) -> None:
        """Take part until cancelled."""
        await anyio.sleep(min(_FIRST, self._interval))
        while True:
            slot = int(self._clock() // self._interval)
            try:
                with anyio.move_on_after(self._remaining(slot)):
                    await self.round(slot)
            except Exception as error:
                self._outage.failed(error)
            else:
                self._outage.recovered()
            delay = self._remaining(slot) + random.uniform(0, self._interval / 10)  # all at once would be a burst
            await anyio.sleep(delay)

    async def round(self, slot: int) -> int:
        """Remove what is due, if this process gets the slot; return how many items were removed."""
        if not await self._gets(slot):
            return 0
        removed = 0
        while True:
            found = await self._store.sweep(BATCH)
            removed += found
            if found < BATCH:
                return removed

    async def _gets(self, slot: int) -> bool:
        name = secrets.token_hex(8)
        taken = await self._store.save(Event(LOG, "notify.sweep", {"by": name}, key=f"{self._interval:g}.{slot}"))
        return bool(taken.payload == {"by": name})

    def _remaining(self, slot: int) -> float:
        """Return for how many seconds a slot lasts from now."""
        return max(0.0, min((slot + 1) * self._interval - self._clock(), self._interval))
