"""Removing due items in the background: in one process at a time, whichever processes there are.

Time is divided into slots. A slot belongs to the process that is the first to save an event with the slot's number as
its idempotency key, in a log that is reserved for this; the others get that event back and see that it is not theirs.
So the store decides, with nothing but what every store can do, and if a process dies, another one gets the next slot.
A round ends with its slot, so while clocks agree, only one process removes items. If they do not, two may, which is
only a waste: they remove different items, or find none.

The event that claims a slot says which retention its process has. A process that does not get the slot compares that
with its own, and warns if they differ, because then each removes with every write what the other one would keep.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

import anyio

from notify import Event
from notify.adapters import OutageLog

from .abc import InboxRetention, InboxStore

logger = logging.getLogger("notify")

LOG: Final = "notify.inbox"
"""The log in which processes claim slots."""

INTERVAL: Final = 60.0
"""Seconds of one slot."""

BATCH: Final = 500
"""How many items one call of the store removes at most."""

_FIRST: Final = 1.0
"""Seconds before a process claims its first slot, so that one that ends at once writes nothing."""


class Sweeper:
    """Removes due items from the inboxes of one store, slot by slot.

    Args:
        store: keeps the inboxes.
        interval: the length of a slot in seconds; the same in every process.
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
        self._warned_of: list[object] = []

    async def run(self) -> None:
        """Claim slots and remove due items until cancelled. Failures are logged, and retried in the next slot."""
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
        """Claim a slot, and if this process gets it, remove all due items; return how many."""
        if not await self._gets(slot):
            return 0
        removed = 0
        while True:
            found = await self._store.sweep(BATCH)
            removed += found
            if found < BATCH:
                return removed

    async def _gets(self, slot: int) -> bool:
        claim = {"by": secrets.token_hex(8), "retention": asdict(self._store.inbox_retention)}
        taken = await self._store.save(Event(LOG, "notify.sweep", claim, key=f"{self._interval:g}.{slot}"))
        if taken.payload["by"] == claim["by"]:
            return True
        self._compare(taken.payload.get("retention"))
        return False

    def _compare(self, other: object) -> None:
        """Warn, once for each, of a retention that differs from our own; None is that of an older release."""
        own = self._store.inbox_retention
        if other is not None and other != asdict(own) and other not in self._warned_of:
            self._warned_of.append(other)
            logger.warning(
                "another process has %s for the inboxes of this store, this one %s: "
                "pass the same to every Inbox on the store, or each removes what the other keeps",
                _shown(other),
                own,
            )

    def _remaining(self, slot: int) -> float:
        """Return how many seconds are left of a slot."""
        return max(0.0, min((slot + 1) * self._interval - self._clock(), self._interval))


def _shown(retention: object) -> str:
    """Return what a claim says, as the repr of a retention if it is one of this release."""
    try:
        return repr(InboxRetention(**retention))  # type: ignore[arg-type]
    except TypeError:
        return repr(retention)[:150]
