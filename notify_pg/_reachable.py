"""Whether the server can be reached, known once for all parts of a process that use the same address.

| State | Begins when | What a call does |
|---|---|---|
| reachable | a connection was opened | connects |
| in doubt | a connection was refused or timed out | waits for the end of the doubt: a restart takes a second |
| unreachable | the doubt has lasted for `GRACE` seconds | knocks once more, and fails within `KNOCK` seconds |

From the first failure on, one task probes the server by connecting. Its first success ends doubt and outage, so the
next call works at once. If the part that owns the task closes, the next call begins again. An attempt
that was made while the server was silent may hang on, so a call knocks: it starts a fresh attempt, with others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from notify import Background
from notify.adapters import backoff

from ._errors import UnreachableError, is_unreachable

GRACE: Final = 1.0
"""Seconds for which calls wait for a server that has just gone away."""

KNOCK: Final = 0.025
"""Seconds for which a call waits to see whether a server that was unreachable answers again."""

KNOCK_PAUSE: Final = 0.1
"""Seconds between two fresh attempts to connect that calls start."""

SUSPECT: Final = 0.5
"""Seconds, at least, without an answer to a statement, after which the server is checked for being reachable at all."""


class Reachability:
    """What is known of one server.

    Attributes:
        listeners: called with the error when the server is found to be unreachable.
        is_unreachable: whether it is known to be.
    """

    def __init__(self) -> None:
        self.listeners: set[Callable[[UnreachableError], None]] = set()
        self._cause: Exception | None = None
        self.is_unreachable = False
        self._settled = asyncio.Event()
        self._settled.set()
        self._back = asyncio.Event()
        self._knocked = 0.0

    @property
    def error(self) -> UnreachableError | None:
        """The error for a call, if the server is known to be unreachable."""
        if not self.is_unreachable:
            return None
        error = UnreachableError()
        error.__cause__ = self._cause
        return error

    def doubt(
        self, cause: Exception, since: float, background: Background, connect: Callable[[], Awaitable[object]]
    ) -> None:
        """Note that a connection could not be opened, and start to probe.

        Args:
            cause: why.
            since: when the attempt began, by the monotonic clock.
            background: whose task probes.
            connect: opens a connection and closes it.
        """
        if self._cause is None:
            self._cause = cause
            self._settled = asyncio.Event()
            background.start(self._probe, connect)
        left = since + GRACE - time.monotonic()
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._give_up, self._settled)
        else:
            self._give_up(self._settled)

    async def settle(self) -> None:
        """Wait until the server is known to be reachable or unreachable."""
        await self._settled.wait()

    async def knock(self, background: Background, connect: Callable[[], Awaitable[object]]) -> None:
        """Start a fresh attempt to connect, unless a call has just done so, and wait a moment for its success."""
        now = time.monotonic()
        if now >= self._knocked + KNOCK_PAUSE:
            self._knocked = now
            background.start(self._connect, connect)
        try:
            async with asyncio.timeout(KNOCK):
                await self._back.wait()
        except TimeoutError:
            pass

    async def _connect(self, connect: Callable[[], Awaitable[object]]) -> None:
        try:
            await connect()
        except Exception as error:
            if is_unreachable(error):
                return
        self.recovered()

    def recovered(self) -> None:
        """Note that the server answers."""
        self._back.set()
        self._cause = None
        self.is_unreachable = False
        self._settled.set()

    def _give_up(self, doubt: asyncio.Event) -> None:
        """End a doubt that has lasted too long, unless it has ended in between."""
        if doubt.is_set() or doubt is not self._settled:
            return
        self.is_unreachable = True
        self._back = asyncio.Event()
        doubt.set()
        error = self.error
        assert error is not None
        for listener in tuple(self.listeners):
            listener(error)

    async def _probe(self, connect: Callable[[], Awaitable[object]]) -> None:
        delays = backoff(random.random, first=0.05, limit=1.0)
        try:
            while self._cause is not None:
                try:
                    await connect()
                except Exception as error:
                    if not is_unreachable(error):
                        return  # it answers, if only to refuse
                    await asyncio.sleep(next(delays))
                else:
                    return
        finally:
            self.recovered()


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[str, Reachability]] = WeakKeyDictionary()


def reachability_of(dsn: str) -> Reachability:
    """Return what is known of the server at this address: one object for all parts on the running event loop."""
    known = _shared.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    found = known.get(dsn)
    if found is None:
        found = known[dsn] = Reachability()
    return found


class ServerWatch:
    """One part's view of its server: what is known of it, and whether it answers what the part has sent.

    Args:
        address: what parts that use the same server share.
        backend: the part's name.
        probe: opens a connection within a number of seconds, and closes it.
        timeout: returns the seconds of one call.
        asks: whether to try a connection when a statement is not answered. False for a pool of the caller's, which
            may have none available.

    Attributes:
        listeners: called when the server is found to be unreachable.
    """

    def __init__(
        self,
        address: str,
        backend: str,
        probe: Callable[[float], Awaitable[object]],
        timeout: Callable[[], float],
        *,
        asks: bool,
    ) -> None:
        self.listeners: list[Callable[[UnreachableError], None]] = []
        self._address = address
        self._probe = probe
        self._timeout = timeout
        self._asks = asks
        self._server: Reachability | None = None
        self._tasks = Background(backend)
        self._in_use: dict[object, float] = {}  # since when, the oldest first
        self._last_answer = 0.0
        self._is_looking = False
        self._suspected: object = None

    @property
    def error(self) -> UnreachableError | None:
        """The error of every call, while the server is known to be unreachable."""
        server = self._server
        if server is not None and not server.is_unreachable:  # each push asks
            return None
        return self._shared().error

    async def admit(self) -> None:
        """Raise UnreachableError, within a moment, while the server is known to be unreachable."""
        server = self._shared()
        if server.error is not None:
            await server.knock(self._tasks, lambda: self._probe(self._timeout()))
        if (error := server.error) is not None:
            raise error  # pragma: no cover - CPython 3.11 does not trace what follows a throw

    async def wait(self, cause: Exception, began: float, until: float) -> None:
        """Note that a connection could not be opened, and wait until more is known.

        Raises:
            Exception: the time is over; `cause`.
        """
        server = self._shared()
        server.doubt(cause, began, self._tasks, lambda: self._probe(self._timeout()))
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await server.settle()
        except TimeoutError:
            raise cause from None

    def begin(self) -> object:
        """Note that a statement is sent; return what `end` takes."""
        use = object()
        self._in_use[use] = time.monotonic()
        self._look_later()
        return use

    def answered(self) -> None:
        """Note that the server has answered."""
        self._last_answer = time.monotonic()

    def end(self, use: object) -> None:
        """Note that a statement has ended, with or without an answer."""
        del self._in_use[use]

    def start(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run a function in a task of the watch, unless it is closed."""
        if not self._tasks.closed:
            self._tasks.start(function)

    async def aclose(self) -> None:
        """End the tasks. If one of them was probing the server, the next call of another part takes over."""
        if self._server is not None:
            self._server.listeners.discard(self._tell)
        await self._tasks.aclose(1.0)

    def _shared(self) -> Reachability:
        if self._server is None:
            self._server = reachability_of(self._address)
            self._server.listeners.add(self._tell)
        return self._server

    def _tell(self, error: UnreachableError) -> None:
        for listener in self.listeners:
            listener(error)

    # -- a server that is frozen, or cut off, refuses nothing ----------------------------------------------------

    @property
    def _patience(self) -> float:
        return max(SUSPECT, self._timeout() / 4)

    def _look_later(self) -> None:
        if not self._is_looking and self._asks:
            self._is_looking = True
            asyncio.get_running_loop().call_later(self._patience, self._look)

    def _look(self) -> None:
        """Try a connection if neither the oldest statement nor any sent since has been answered."""
        self._is_looking = False
        use, since = next(iter(self._in_use.items()), (None, 0.0))
        if use is None:
            return
        self._look_later()
        if self._suspected is not use and time.monotonic() >= max(since, self._last_answer) + self._patience:
            self._suspected = use  # one look for each statement: it may simply take long
            self.start(self._suspect)

    async def _suspect(self) -> None:
        began = time.monotonic()
        try:
            await self._probe(max(SUSPECT, self._timeout() / 2))
        except Exception as error:
            if is_unreachable(error):
                self._shared().doubt(error, began - GRACE, self._tasks, lambda: self._probe(self._timeout()))
