"""The machine's backends that are real: a file and two private servers, on a loop in real time.

Nothing can be stepped there. Instead of running until nothing is left to run, a world waits for a condition: no call
is under way, and whoever waits has been given what it was told of. Each notifier has a store object of its own, as two
processes would, and a third one looks at the log from outside.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

from notify import Event, Store
from notify.abc import Ephemerals
from notify_pg import PostgresStore, PostgresStreamStore
from notify_redis import RedisStore, RedisStreamStore
from notify_sqlite import SQLiteStore, SQLiteStreamStore
from tests.servers.postgres import fresh_schema

from .backends import Backend, Clock
from .loop import Loop, Stuck

T = TypeVar("T")

_prefixes = (f"world{number}" for number in count())


class RealLoop(Loop):
    """An event loop as applications have it; whatever takes too long is `Stuck`.

    Args:
        patience: seconds that one `drive` may take.
        aclose: releases what a world has opened, also after it has failed.
    """

    def __init__(self, patience: float, aclose: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._patience = patience
        self._aclose = aclose

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self.run_until_complete(self._bounded(work))

    def finish(self) -> None:
        """Close what a failed world has left open, cancel what is left, and close."""
        self.set_exception_handler(lambda _loop, _context: None)  # whoever failed has said so
        try:
            self.run_until_complete(self._aclose())
            left = asyncio.all_tasks(self)
            for task in left:
                task.cancel()
            if left:
                self.run_until_complete(asyncio.wait(left))
        finally:
            self.close()

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        bound = asyncio.timeout(self._patience)
        try:
            async with bound:
                return await work
        except TimeoutError as error:
            if bound.expired():
                raise Stuck(f"not at rest after {self._patience} s") from error
            raise


class RealBackend(Backend):
    """A store object for each notifier, and one that looks on.

    Attributes:
        where: the server, set before the machine runs.
        patience: seconds until a world that does not come to rest has failed.
    """

    steps = False
    where: ClassVar[str] = ""
    patience: ClassVar[float] = 20.0

    def __init__(self, random: Random, max_len: int) -> None:
        self._place(random, max_len)
        self._stores = {name: self.make() for name in "AB"}
        for store in self._stores.values():
            if isinstance(store, Ephemerals):  # the world's wire carries these, when and as often as it chooses
                store.send_ephemeral = lambda event: None  # type: ignore[method-assign]
        self._log = self.look_on()
        self.store = self._stores["A"]

    @abstractmethod
    def _place(self, random: Random, max_len: int) -> None:
        """Choose a place that was not used before."""

    @abstractmethod
    def make(self) -> Store:
        """Return the store of one more process."""

    @abstractmethod
    def look_on(self) -> Store:
        """Return a plain store on the same logs."""

    def new_loop(self, random: Random) -> Loop:
        """See `Backend.new_loop`."""
        return RealLoop(self.patience, self.aclose)

    def store_of(self, name: str) -> Store:
        """See `Backend.store_of`."""
        return self._stores[name]

    async def quiesce(self, done: Callable[[], bool]) -> None:
        """See `Backend.quiesce`; the loop's patience bounds it."""
        while not done():  # noqa: ASYNC110 - one event for all that can happen there is not
            await asyncio.sleep(0.0005)

    async def peek(self, user: str, after: str) -> Sequence[Event]:
        """See `Backend.peek`."""
        return (await self._log.read(user, after, 1_000_000)).events

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        for store in (*self._stores.values(), self._log):
            await store.aclose()


class SQLite(RealBackend):
    """A file. Its clock is the world's."""

    kind: ClassVar[type[SQLiteStore]] = SQLiteStore

    def _place(self, random: Random, max_len: int) -> None:
        self._directory = TemporaryDirectory()
        self.clock = Clock(random)
        self._options: dict[str, Any] = {"max_len": max_len, "max_age": None, "clock": self.clock}

    @property
    def _path(self) -> Path:
        return Path(self._directory.name) / "notify.db"

    def make(self) -> Store:
        """See `RealBackend.make`."""
        return self.kind(self._path, **self._options)

    def look_on(self) -> Store:
        """See `RealBackend.look_on`."""
        return SQLiteStore(self._path, **self._options)

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        await super().aclose()
        self._directory.cleanup()


class SQLiteStreaming(SQLite):
    """A file whose commits are noticed."""

    kind = SQLiteStreamStore
    native = True


class Redis(RealBackend):
    """A server, and a prefix for each world."""

    kind: ClassVar[type[RedisStore]] = RedisStore

    def _place(self, random: Random, max_len: int) -> None:
        self._options: dict[str, Any] = {"prefix": next(_prefixes), "max_len": max_len, "exact": True, "max_age": None}

    def make(self) -> Store:
        """See `RealBackend.make`."""
        return self.kind(self.where, **self._options)

    def look_on(self) -> Store:
        """See `RealBackend.look_on`."""
        return RedisStore(self.where, **self._options)


class RedisStreaming(Redis):
    """A server that announces what is stored."""

    kind = RedisStreamStore
    native = True


class RedisByXread(RedisStreaming):
    """A server whose wake stream is read."""

    def make(self) -> Store:
        """See `RealBackend.make`."""
        return RedisStreamStore(self.where, wake="xread", **self._options)


class Postgres(RealBackend):
    """A server, and a schema for each world."""

    kind: ClassVar[type[PostgresStore]] = PostgresStore

    def _place(self, random: Random, max_len: int) -> None:
        self._options: dict[str, Any] = {"schema": fresh_schema(), "max_len": max_len, "max_age": None}

    def make(self) -> Store:
        """See `RealBackend.make`."""
        return self.kind(self.where, **self._options)

    def look_on(self) -> Store:
        """See `RealBackend.look_on`."""
        return PostgresStore(self.where, **self._options)


class PostgresStreaming(Postgres):
    """A server whose doorbell is heard."""

    kind = PostgresStreamStore
    native = True
