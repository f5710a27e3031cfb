"""What the suites for outages share: how the server goes away and comes back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, TypeVar

import anyio

from notify import BackendError

from ._suite import Part, Suite
from ._waits import within
from .faults import FaultProxy, Faults

T = TypeVar("T")


class OutageSuite(Suite[Part]):
    """The hooks of `StoreOutageSuite`, `StreamStoreOutageSuite`, `RouterOutageSuite` and `PresenceOutageSuite`.

    A test class takes one of these, or several, and says what an outage is. It defines `make`, `interrupt` and
    `restore`; or it puts `BehindFaultProxy` first among its bases and defines `make_at` and `server`.

    Attributes:
        detection: seconds within which a call during an outage has ended. More than the part's own timeouts.
        recovery: seconds within which everything works again after an outage.
    """

    detection: ClassVar[float] = 10.0
    recovery: ClassVar[float] = 10.0
    time_limit: ClassVar[float] = 120.0

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a test class that would test nothing."""
        super().__init_subclass__(**options)
        if cls.__name__.startswith("Test") and not any(name.startswith("test_") for name in dir(cls)):
            kinds = ", ".join(f"{kind}OutageSuite" for kind in ("Store", "StreamStore", "Router", "Presence"))
            raise TypeError(f"{cls.__name__} has no tests: add one of {kinds} to its bases")

    async def elsewhere(self, part: Part) -> Part:
        """Return a second part on the same data that the outage does not reach: by default the same part.

        Override it where that is possible, or return `self.another(part)`: only then is it tested that a part learns
        from its server, and not from itself, what it has missed.
        """
        return part

    @abstractmethod
    async def interrupt(self, part: Part) -> None:
        """Take the server away: connections end, and new ones are refused."""

    @abstractmethod
    async def restore(self, part: Part) -> None:
        """Bring the server back, with the data that it had."""

    async def silence(self, part: Part) -> None:
        """Let requests reach the server, and lose its answers, until `restore`: by default the same as `interrupt`.

        Override it where that is possible: it finds a store that takes a lost answer for a rejection.
        """
        await self.interrupt(part)

    @property
    def faults(self) -> Sequence[Callable[[Part], Awaitable[None]]]:
        """The ways in which an outage begins."""
        return (self.interrupt, self.silence)

    @asynccontextmanager
    async def outage(self, part: Part, begin: Callable[[Part], Awaitable[None]]) -> AsyncIterator[None]:
        """Run a block during an outage."""
        await begin(part)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True), within(self.recovery, "restore()"):
                await self.restore(part)

    @asynccontextmanager
    async def outside(self, part: Part) -> AsyncIterator[Part]:
        """Use the part that `elsewhere` returns, and close it unless it is the same."""
        other = await self.elsewhere(part)
        if other is part:
            yield part
            return
        async with self.closing(other):
            yield other

    async def works(self, function: Callable[[], Awaitable[T]], what: str) -> T:
        """Call a function until it no longer raises BackendError, for `recovery` seconds at most; return its result."""
        last: list[BackendError] = []
        deadline = anyio.current_time() + self.recovery
        with within(self.recovery + self.detection, f"{what} to work while the server is up"):
            while True:
                try:
                    return await function()
                except BackendError as error:
                    last = [error]
                assert anyio.current_time() < deadline, f"{what} does not work while the server is up: {last[0]!r}"
                await anyio.sleep(0.05)

    async def raises(self, function: Callable[[], Awaitable[object]], what: str, *errors: type[Exception]) -> None:
        """Assert that a call during an outage raises one of these errors, in time."""
        names = " or ".join(error.__name__ for error in errors)
        try:
            with within(self.detection, f"{what} to raise {names} during the outage"):
                outcome = f"returned {await function()!r}"
        except errors:
            return
        except AssertionError:
            raise
        except Exception as error:
            outcome = f"raised {error!r}"
        raise AssertionError(f"{what} {outcome} during the outage, and should have raised {names}")


class BehindFaultProxy(OutageSuite[Part]):
    """Makes outages with a `FaultProxy` between the part and its real server. Stands first among the bases.

    The part under test and what `another` returns are connected through the proxy. What `elsewhere` returns is
    connected to the server itself, so that it goes on during an outage.

    Attributes:
        proxy: the one of this test.
    """

    proxy: FaultProxy

    @abstractmethod
    async def make_at(self, host: str, port: int) -> Part:
        """Return a new part whose server is at this address. Those that one test makes share their data."""

    @abstractmethod
    def server(self) -> tuple[str, int]:
        """Return host and port of the real server."""

    async def make(self) -> Part:
        """Return a new part that is connected through the proxy."""
        return await self.make_at(self.proxy.host, self.proxy.port)

    async def another(self, part: Part) -> Part:
        """Return a second part on the same data, connected through the proxy."""
        return await self.make()

    async def elsewhere(self, part: Part) -> Part:
        """Return a second part on the same data, connected to the server itself."""
        return await self.make_at(*self.server())

    async def interrupt(self, part: Part) -> None:
        """Reset every connection through the proxy, and refuse new ones."""
        await self.proxy.refuse()
        await self.proxy.reset()

    async def silence(self, part: Part) -> None:
        """Let every reply vanish in the proxy."""
        self.proxy.down = Faults(blackhole=True)

    async def restore(self, part: Part) -> None:
        """Forward again, on new connections: what has vanished will not arrive, which never happens within one."""
        self.proxy.heal()
        await self.proxy.reset()

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Part]:
        """Make a part behind a proxy of its own, and close both in the end."""
        async with FaultProxy(*self.server()) as self.proxy, super().fresh() as part:
            yield part
