"""Whether the server can be reached, known once for all parts of a process that use the same address.

| State | Begins when | What a call does |
|---|---|---|
| reachable | a connection was opened | connects |
| in doubt | a connection was refused or timed out | waits for the end of the doubt: a restart takes a second |
| unreachable | the doubt has lasted for `GRACE` seconds | fails at once |

From the first failure on, one task probes the server by connecting. Its first success ends doubt and outage, so the
next call works without having to find out. If the part whose task it is closes, the next call begins again.
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


class Reachability:
    """What is known of one server.

    Attributes:
        listeners: called with the error when the server is found to be unreachable.
    """

    def __init__(self) -> None:
        self.listeners: set[Callable[[UnreachableError], None]] = set()
        self._cause: Exception | None = None
        self._is_unreachable = False
        self._settled = asyncio.Event()

    @property
    def error(self) -> UnreachableError | None:
        """The error for a call, if the server is known to be unreachable."""
        if not self._is_unreachable:
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
        if self._cause is not None:
            await self._settled.wait()

    def recovered(self) -> None:
        """Note that the server answers."""
        self._cause = None
        self._is_unreachable = False
        self._settled.set()

    def _give_up(self, doubt: asyncio.Event) -> None:
        """End a doubt that has lasted too long, unless it has ended in between."""
        if doubt.is_set() or doubt is not self._settled:
            return
        self._is_unreachable = True
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
