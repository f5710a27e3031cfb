"""A memory store that streams: several notifiers of one process share it and need no router."""

from __future__ import annotations

import time
from collections.abc import Callable

from notify import Background, Event, LiveLog, Stream
from notify.abc import Position

from ._store import MemoryStore


class MemoryStreamStore(MemoryStore):
    """As `MemoryStore`; every save reaches the open streams of every notifier that shares the store."""

    def __init__(
        self,
        *,
        max_len: int = 1000,
        max_age: float | None = 7 * 86_400.0,
        key_window: float = 86_400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(max_len=max_len, max_age=max_age, key_window=key_window, clock=clock)
        self._background = Background("memory stream store")
        self._live = LiveLog(self, background=self._background)

    @property
    def live(self) -> LiveLog:
        """The live side, shared by whoever uses this store."""
        return self._live

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """See `notify.abc.StreamStore.subscribe`."""
        return self._live.subscribe(user, last_id)

    def save_nowait(self, event: Event) -> Event:
        """Save, then offer the event to the open streams."""
        stored = super().save_nowait(event)
        self._live.offer(stored)
        return stored

    async def aclose(self) -> None:
        """End every stream and forget every event. Idempotent."""
        self._live.close()
        await self._background.aclose(1.0)
        await super().aclose()
