"""The saves that wait, each user's in the order of the calls.

A save leaves the queue only when no earlier save of its user is in flight, so what delays one of them (a retry, another
connection, a log that another transaction holds) delays those behind it and cannot be overtaken. Other users do not
wait for it: only users with saves in flight or waiting are held here, and nothing is searched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from notify import Event, NotifyError

Outcome: TypeAlias = Event | NotifyError
Done: TypeAlias = Callable[[Outcome], None]

BATCH: Final = 250
"""Events per statement. Larger batches are slower: with 500, each event took twice as long as with 100."""

BATCH_BYTES: Final = 1 << 20
"""Bytes of payload per statement; the last event may exceed it."""


class PendingSave:
    """One event that is being saved."""

    __slots__ = ("done", "event", "until")

    def __init__(self, event: Event, until: float, done: Done) -> None:
        self.event = event
        self.until = until
        self.done = done


class SaveQueue:
    """Waiting saves.

    Invariants:
        I1. A user is in `_ready`, once, if and only if saves of that user wait and none is in flight.
        I2. No two batches in flight have a user in common, and one user's saves leave in the order in which they came.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[PendingSave]] = {}
        self._ready: deque[str] = deque()
        self._in_flight: set[str] = set()
        self._count = 0

    def __len__(self) -> int:
        """How many saves wait."""
        return self._count

    def __bool__(self) -> bool:
        """Whether a batch can be taken."""
        return bool(self._ready)

    def add(self, save: PendingSave) -> None:
        """Append a save."""
        user = save.event.user
        self._count += 1
        waiting = self._waiting.get(user)
        if waiting is not None:
            waiting.append(save)
            return
        self._waiting[user] = deque((save,))
        if user not in self._in_flight:
            self._ready.append(user)  # keeps I1

    def take(self) -> list[PendingSave]:
        """Take the next batch; its users are in flight until `release`. Keeps I2."""
        saves: list[PendingSave] = []
        size = 0
        while self._ready and len(saves) < BATCH and size < BATCH_BYTES:
            user = self._ready.popleft()
            waiting = self._waiting[user]
            self._in_flight.add(user)
            while waiting and len(saves) < BATCH and size < BATCH_BYTES:
                saves.append(waiting.popleft())
                size += len(saves[-1].event.data)
            if not waiting:
                del self._waiting[user]
        self._count -= len(saves)
        return saves

    def release(self, users: Iterable[str]) -> None:
        """Let the next saves of these users go; all earlier ones are resolved."""
        for user in users:
            self._in_flight.discard(user)
            if user in self._waiting:
                self._ready.append(user)  # keeps I1

    def clear(self) -> list[PendingSave]:
        """Take what is left, when the store closes."""
        left = [save for waiting in self._waiting.values() for save in waiting]
        self._waiting.clear()
        self._ready.clear()
        self._count = 0
        return left
