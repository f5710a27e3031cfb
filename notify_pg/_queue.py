"""The saves that wait, each user's in the order of the calls.

A save leaves the queue only when no earlier save of its user is in flight, so what delays one of them (a retry, another
connection, a log that another transaction holds) delays those behind it and cannot be overtaken. Other users do not
wait for it: only users with saves in flight or waiting are held here, and nothing is searched.

A batch takes single saves and those of a `save_many` alternately, user by user, so that a single save does not wait
until a large `save_many` is done. Once a user's earlier saves are resolved, the next one counts as single in any case.
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
    """One event that is being saved.

    Attributes:
        following: the next save of the same user, while both wait.
        last: on the first save of a user that waits: the last one; None if there is no other.
    """

    __slots__ = ("done", "event", "following", "last", "until")

    def __init__(self, event: Event, until: float, done: Done) -> None:
        self.event = event
        self.until = until
        self.done = done
        self.following: PendingSave | None = None
        self.last: PendingSave | None = None


class SaveQueue:
    """Waiting saves. Those of one user are linked to each other: a container for each user would be most of the cost.

    Invariants:
        I1. A user is in `_users` if and only if saves of that user wait or are in flight; the value is the first save
            that waits, or None.
        I2. That save is in `_single` or in `_many`, once, if and only if none of the same user is in flight.
        I3. No two batches in flight have a user in common, and one user's saves leave in the order in which they came.
    """

    def __init__(self) -> None:
        self._users: dict[str, PendingSave | None] = {}
        self._single: deque[PendingSave] = deque()
        self._many: deque[PendingSave] = deque()
        self._turns = (self._single, self._many)  # the next save is of the first, if it has any

    def __bool__(self) -> bool:
        """Whether a batch can be taken."""
        return bool(self._single or self._many)

    def add(self, save: PendingSave, *, is_single: bool = True) -> None:
        """Append a save; `is_single` is False for the saves of a `save_many`."""
        user = save.event.user
        users = self._users
        if user not in users:
            users[user] = save
            (self._single if is_single else self._many).append(save)  # keeps I2
            return
        first = users[user]
        if first is None:
            users[user] = save
        else:
            (first.last or first).following = save
            first.last = save

    def take(self) -> list[PendingSave]:
        """Take the next batch; its users are in flight until `release`. Keeps I3."""
        saves: list[PendingSave] = []
        size = 0
        first, second = self._turns
        while (first or second) and len(saves) < BATCH and size < BATCH_BYTES:
            save: PendingSave | None = (first or second).popleft()
            first, second = second, first
            assert save is not None
            user, last = save.event.user, save.last
            while save is not None and len(saves) < BATCH and size < BATCH_BYTES:
                saves.append(save)
                size += len(save.event.data)
                save.last = None
                following, save.following = save.following, None
                save = following
            if save is not None and save is not last:
                save.last = last
            self._users[user] = save
        self._turns = first, second
        return saves

    def take_few(self, limit: int) -> list[PendingSave]:
        """Take all single saves, as `take` does, if at most `limit` wait, each the only one of its user; else none."""
        if len(self._single) > limit or any(save.following for save in self._single):
            return []
        saves = [*self._single]
        self._single.clear()
        self._users.update((save.event.user, None) for save in saves)
        return saves

    def release(self, users: Iterable[str]) -> None:
        """Let the next saves of these users go; all earlier ones are resolved."""
        for user in users:
            first = self._users.pop(user, None)
            if first is not None:
                self._users[user] = first
                self._single.append(first)  # keeps I2

    def clear(self) -> list[PendingSave]:
        """Take what is left, when the store closes or the server is unreachable."""
        left: list[PendingSave] = []
        for save in self._users.values():
            while save is not None:
                left.append(save)
                save = save.following
        free = {save.event.user for save in (*self._single, *self._many)}
        self._users = {user: None for user in self._users if user not in free}  # keeps I1: those in flight
        self._single.clear()
        self._many.clear()
        return left
