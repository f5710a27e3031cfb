"""The suites for presence trackers x the memory backend."""

from __future__ import annotations

from notify.testing.presence import ImmediatePresenceSuite, PresenceSuite
from notify_memory import MemoryPresence


class TestMemoryPresence(PresenceSuite, ImmediatePresenceSuite):
    async def make(self) -> MemoryPresence:
        return MemoryPresence()
