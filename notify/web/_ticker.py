"""One task for the times of all connections: heartbeats, the longest time that a send may take, the end of a lifetime.

Thousands of timers would cost more than the connections. Each connection is filed under the time at which something is
due, in slots of a tenth of the shortest interval; what is due when a slot comes decides, and is filed again. So nothing
has to be changed when a connection writes: its heartbeat is then due later, which is found when its slot comes.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Final, Protocol

import anyio
import anyio.lowlevel

from notify.adapters import Background

NEVER: Final = float("inf")

TURN: Final = 50
"""Connections handled before other tasks may run: otherwise thousands of heartbeats due at once would delay events."""


class Timed(Protocol):
    """A connection.

    Attributes:
        slot: where it is filed; -1 if it is not.
    """

    slot: int

    def tick(self, now: float) -> float:
        """Do what is due, and return when something will be due next: `NEVER` for not at all. Never waits."""


class Ticker:
    """Calls `tick` of each connection when it is due.

    Invariants:
        I1. A connection is filed only in the slot that its `slot` names. In any other one `discard` would not find it,
            and the task would process that slot without end.

    Args:
        background: runs the task, while there are connections.
        interval: the shortest interval in seconds; what is due is done up to a tenth of it later.

    Attributes:
        interval: see above.
    """

    def __init__(self, background: Background, interval: float) -> None:
        self._background = background
        self.interval = interval
        self._width = max(0.01, min(1.0, interval / 10))
        self._slots: dict[int, dict[Timed, None]] = {}
        self._next = 0
        self._running = False

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, timed: Timed, due: float) -> None:
        """File a connection under its due time, by the monotonic clock; move it if it is already filed."""
        if timed.slot >= 0:  # keeps I1: `Turns` files itself while its own `tick` runs
            self.discard(timed)
        if not self._running:
            self._running = True
            self._next = int(time.monotonic() / self._width)
            self._background.start(self._run)
        slot = int(due / self._width) + 1
        if slot < self._next:  # what is overdue is filed where the task will still look
            slot = self._next
        timed.slot = slot
        filed = self._slots.get(slot)
        if filed is None:
            filed = self._slots[slot] = {}
        filed[timed] = None

    def take_over(self, other: Ticker) -> None:
        """Move to this ticker all that is filed in another; each `tick` is called soon, and returns when it is due."""
        now = time.monotonic()
        for filed in tuple(other._slots.values()):
            for timed in tuple(filed):
                other.discard(timed)
                self.add(timed, now)

    def discard(self, timed: Timed) -> None:
        """Remove a connection. Idempotent."""
        filed = self._slots.get(timed.slot)
        if filed is not None:
            filed.pop(timed, None)
            if not filed:
                del self._slots[timed.slot]
        timed.slot = -1

    async def _run(self) -> None:
        try:
            while self._slots:
                await anyio.sleep(self._width)
                now = time.monotonic()
                first, self._next = self._next, int(now / self._width) + 1
                for slot in range(first, self._next):
                    while due_now := list(islice(self._slots.get(slot, ()), TURN)):
                        for timed in due_now:
                            self.discard(timed)
                            due = timed.tick(now)
                            if due != NEVER:
                                self.add(timed, due)
                        await anyio.lowlevel.checkpoint()
        finally:
            self._running = False
