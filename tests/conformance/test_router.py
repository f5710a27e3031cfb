"""The suite for routers x the memory backend."""

from __future__ import annotations

from notify.testing.router import RouterSuite
from notify_memory import MemoryRouter


class TestMemoryRouter(RouterSuite):
    async def make(self) -> MemoryRouter:
        return MemoryRouter()

    async def garbage(self, router: MemoryRouter) -> None:
        """It carries objects: there is nothing that garbage could be put on."""
