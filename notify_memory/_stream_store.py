"""A memory store that streams: several notifiers of one process share it and need no router.

All it adds is a `LiveLog`, which turns any store into one that streams, and one call of `offer` for each saved event.
In other backends, where other processes save too, what remains is to learn what they have saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from notify import Event, Stream
from notify.abc import Position
from notify.adapters import Background, LiveLog

from ._store import MemoryStore


class MemoryStreamStore(MemoryStore):
    """As `MemoryStore`; every saved event reaches the open streams of every notifier that shares the store.

    Args:
        max_len: as for `MemoryStore`.
        max_age: as for `MemoryStore`.
        key_window: as for `MemoryStore`.
        clock: as for `MemoryStore`.

    Raises:
        UsageError: an argument is not greater than 0.
    """

    def __init__(
        self,
        *,
        max_len: int = 1000,
        max_age: float | None = 7 * 86_400.0,
        key_window: float = 86_400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(max_len=max_len, max_age=max_age, key_window=key_window, clock=clock)
        self._background = Background(type(self).__name__)
        self._live = LiveLog(self, background=self._background)

    @property
    def live(self) -> LiveLog:
        """The live side, which all notifiers on this store share."""
        return self._live

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """See `notify.abc.StreamStore.subscribe`."""
        return self._live.subscribe(user, last_id)

    def save_nowait(self, event: Event) -> Event:
        """Save the event, then offer it to the open streams of its user."""
        stored = super().save_nowait(event)
        self._live.offer(stored)  # for a repeated key this is the first event again, which streams ignore
        return stored

    async def aclose(self) -> None:
        """End every stream and forget every event. Idempotent."""
        self._guard.check_closing()
        self._live.close()
        await self._background.aclose(1.0)
        await super().aclose()
