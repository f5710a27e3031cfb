"""The stores that the machine runs on: one factory each. A further backend is one more subclass of `Backend`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from random import Random

from notify import Event, Store, ids
from notify_memory import MemoryStore, MemoryStreamStore

from .loop import Loop, StepLoop, settle
from .stores import BatchingStore, SlowStore


class Clock:
    """Seconds since 1970 that stand still or step on at each look."""

    def __init__(self, random: Random) -> None:
        self.ms = 1_700_000_000_000
        self._random = random

    def __call__(self) -> float:
        """Return the time."""
        self.ms += self._random.randrange(3)
        return self.ms / 1000


class Backend(ABC):
    """A store, and what the machine has to know about it.

    Args:
        random: every choice the backend has.
        max_len: events kept for each user.

    Attributes:
        store: given to both notifiers.
        clock: of the ids; None where it cannot be set.
        shared: both notifiers share one live side.
        native: each notifier hears by itself of what the other one stores.
        steps: the loop is a `StepLoop`, so silence is proven as soon as nothing is left to run.
        slow: the store whose calls can be held and can fail, if there is one.
    """

    store: Store
    clock: Clock | None = None
    shared = False
    native = False
    steps = True
    slow: SlowStore | None = None

    @abstractmethod
    def __init__(self, random: Random, max_len: int) -> None:
        """Make what the attributes name."""

    def new_loop(self, random: Random) -> Loop:
        """Return the event loop to run on."""
        return StepLoop(random)

    def store_of(self, name: str) -> Store:
        """Return the store that this notifier is given."""
        return self.store

    async def quiesce(self, done: Callable[[], bool]) -> None:
        """Wait until nothing moves any more; a backend that cannot tell waits for `done`, for a bounded time."""
        await settle()

    async def aclose(self) -> None:
        """Close what the notifiers were given."""
        await self.store.aclose()

    async def peek(self, user: str, after: str) -> Sequence[Event]:
        """Return the log after this position, past every ability, wrapper and fault."""
        return (await self.store.read(user, after, 1_000_000)).events

    async def appended(self, user: str, after: str) -> Sequence[Event]:
        """Return what was appended after this position, retained or not; as `peek` where a step appends little."""
        return await self.peek(user, after)


class Immediate(Backend):
    """A store that answers at once: no task is needed anywhere."""

    def __init__(self, random: Random, max_len: int) -> None:
        self.clock = Clock(random)
        self.store = MemoryStore(max_len=max_len, max_age=None, clock=self.clock)


class Streaming(Backend):
    """A stream store: both notifiers share its live side."""

    shared = True

    def __init__(self, random: Random, max_len: int) -> None:
        self.clock = Clock(random)
        self.store = MemoryStreamStore(max_len=max_len, max_age=None, clock=self.clock)


class Slow(Backend):
    """A store without abilities whose calls take a random number of steps."""

    kind: type[SlowStore] = SlowStore

    def __init__(self, random: Random, max_len: int) -> None:
        self.clock = Clock(random)
        self._inner = MemoryStore(max_len=max_len, max_age=None, clock=self.clock)
        self.store = self.slow = self.kind(self._inner, random)

    async def peek(self, user: str, after: str) -> Sequence[Event]:
        """See `Backend.peek`."""
        return self._inner.read_nowait(user, after, 1_000_000).events

    async def appended(self, user: str, after: str) -> Sequence[Event]:
        """See `Backend.appended`; many pushes may have been held."""
        assert self.slow is not None
        later = {e.id: e for e in self.slow.saved if e.user == user and ids.compare(e.id, after) > 0}
        return list(later.values())


class Batching(Slow):
    """As `Slow`, with `save_many` and `read_many`."""

    kind = BatchingStore
