"""The streams of an inbox, held to the conformance suite for streams: they stand in for those of a stream store."""

from __future__ import annotations

from typing import Any

from notify import Notifier, Position
from notify.inbox import Inbox, InboxStream
from notify.testing._stream_lifetime import LifetimeTests
from notify.testing._stream_positions import PositionTests
from notify_memory import MemoryStreamStore


class InboxAsStore:
    """A memory store whose streams are those of the inbox."""

    def __init__(self) -> None:
        self._store = MemoryStreamStore()
        self._notifier = Notifier(self._store, audit_interval=3600)
        self._inbox = Inbox(self._notifier)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def subscribe(self, user: str, last_id: Position = None) -> InboxStream:
        return self._inbox.subscribe(user, last_id)

    async def aclose(self) -> None:
        await self._inbox.aclose()
        await self._notifier.aclose()
        await self._store.aclose()


class TestInboxStreams(PositionTests[Any], LifetimeTests[Any]):
    # Here a gap names its log, as in every stream of several: test_inbox_stream.py looks at gaps.
    test_a_trimmed_position_tells_a_gap = None  # type: ignore[assignment]
    test_a_position_trimmed_empty_tells_a_gap = None  # type: ignore[assignment]

    async def make(self) -> Any:
        return InboxAsStore()
