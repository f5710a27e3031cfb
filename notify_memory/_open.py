"""The entry point of `notify.stores`: a memory store from a URL whose query may name its options.

Each `memory://` is a store of its own. All stores opened as `memory://NAME` in one process share their events, until
the last of them is closed: then the events are gone, and the name is free.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Final, Self
from weakref import WeakSet, WeakValueDictionary

from notify import Event, Guarantees, Page, Stream
from notify.abc import Position
from notify.adapters import LiveLog, StoreFactory, StoreUrl
from notify.errors import ClosedError, NotifyError, UsageError
from notify.inbox.abc import Change, Follow, InboxRetention, ItemPage, ItemQuery

from ._stream_store import MemoryStreamStore


@dataclass(eq=False)
class SharedMemory:
    """What the stores of one name share.

    Attributes:
        store: holds the events.
        options: with which it was opened first.
        holders: the stores of this name that are open.
    """

    store: MemoryStreamStore
    options: Mapping[str, Any]
    holders: WeakSet[NamedMemoryStore] = field(default_factory=WeakSet)


_shared: WeakValueDictionary[tuple[int, str], SharedMemory] = WeakValueDictionary()
"""By process and name: a forked child begins with nothing, as its parent's event loop is not there."""


class NamedMemoryStore:
    """One of several stores that share the events of `memory://NAME`. See `MemoryStreamStore`.

    Args:
        name: the name.
        options: as for `MemoryStreamStore`; the same for all that share a name.

    Raises:
        UsageError: an option is unacceptable, or not that of the stores which are open under this name.
    """

    guarantees: ClassVar = Guarantees()

    def __init__(self, name: str, **options: Any) -> None:
        self._key = (os.getpid(), name)
        shared = _shared.get(self._key)
        if shared is None:
            shared = _shared[self._key] = SharedMemory(MemoryStreamStore(**options), options)
        elif shared.options != options:
            raise UsageError(f"memory://{name} is open with other options: give the same ones, or use another name")
        self._shared: SharedMemory | None = shared
        shared.holders.add(self)

    @property
    def _store(self) -> MemoryStreamStore:
        if self._shared is None:
            raise ClosedError(f"the {type(self).__name__} is closed")
        return self._shared.store

    @property
    def live(self) -> LiveLog:
        """The live side, which all notifiers of this name share."""
        return self._store.live

    async def save(self, event: Event) -> Event:
        """See `notify.abc.Store.save`."""
        return self._store.save_nowait(event)

    def save_nowait(self, event: Event) -> Event:
        """See `notify.abc.Immediate.save_nowait`."""
        return self._store.save_nowait(event)

    async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
        """See `notify.abc.SaveMany.save_many`."""
        return await self._store.save_many(events)

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`."""
        return self._store.read_nowait(user, after, limit)

    def read_nowait(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Immediate.read_nowait`."""
        return self._store.read_nowait(user, after, limit)

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """See `notify.abc.ReadMany.read_many`."""
        return await self._store.read_many(after, limit)

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        return self._store.head_nowait(user)

    def head_nowait(self, user: str) -> str:
        """See `notify.abc.Immediate.head_nowait`."""
        return self._store.head_nowait(user)

    async def trim(self, before: datetime | str) -> int:
        """See `notify.abc.Store.trim`."""
        return await self._store.trim(before)

    async def forget(self, user: str) -> int:
        """See `notify.abc.Forget.forget`."""
        return await self._store.forget(user)

    async def prepare(self) -> None:
        """See `notify.abc.Prepare.prepare`: there is nothing to create."""
        await self._store.prepare()

    def script(self) -> str:
        """See `notify.abc.Prepare.script`: it is empty."""
        return ""

    @property
    def inbox_retention(self) -> InboxRetention:
        """How many items each inbox of this name keeps, and for how long: the same for all that share the name."""
        return InboxRetention() if self._shared is None else self._shared.store.inbox_retention

    @inbox_retention.setter
    def inbox_retention(self, retention: InboxRetention) -> None:
        self._store.inbox_retention = retention

    async def change(self, draft: Event) -> Change:
        """See `notify.inbox.abc.InboxStore.change`."""
        return await self._store.change(draft)

    async def pull(self, user: str) -> int:
        """See `notify.inbox.abc.InboxStore.pull`."""
        return await self._store.pull(user)

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        """See `notify.inbox.abc.InboxStore.items`."""
        return await self._store.items(user, query)

    async def edges(self, *, user: str = "", topic: str = "", after: str = "", limit: int = 100) -> Sequence[Follow]:
        """See `notify.inbox.abc.InboxStore.edges`."""
        return await self._store.edges(user=user, topic=topic, after=after, limit=limit)

    async def sweep(self, limit: int = 500) -> int:
        """See `notify.inbox.abc.InboxStore.sweep`."""
        return await self._store.sweep(limit)

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """See `notify.abc.StreamStore.subscribe`. The stream ends when the last store of this name is closed."""
        return self._store.subscribe(user, last_id)

    async def aclose(self) -> None:
        """Close this store; the last one of its name ends every stream and forgets every event. Idempotent."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.holders.discard(self)
            if not shared.holders:
                _shared.pop(self._key, None)
                await shared.store.aclose()

    async def __aenter__(self) -> Self:
        """Return the store; there is nothing to prepare."""
        await self._store.prepare()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()


def memory_store(
    name: str,
    *,
    max_len: int = 1000,
    max_age: float | None = 7 * 86_400.0,
    key_window: float = 86_400.0,
    clock: Callable[[], float] = time.time,
) -> MemoryStreamStore | NamedMemoryStore:
    """Return a store of its own, or, with a name, one that shares its events."""
    options: dict[str, Any] = {"max_len": max_len, "max_age": max_age, "key_window": key_window, "clock": clock}
    return NamedMemoryStore(name, **options) if name else MemoryStreamStore(**options)


def _name_of(url: str) -> tuple[str]:
    """Return the name in a URL; empty without one.

    Raises:
        UsageError: not such a URL.
    """
    parts = StoreUrl.parse(url)
    if parts.options:
        names = ", ".join(parts.options)
        raise UsageError(f"a memory store has no option {names}; its options are max_len, max_age and key_window")
    if parts.username or parts.path or len(parts.hosts) > 1 or any(port for _, port in parts.hosts):
        raise UsageError("the URL of a memory store is memory:// or memory://NAME, with nothing else but options")
    return (parts.hosts[0][0] if parts.hosts else "",)


open_store: Final = StoreFactory(memory_store, _name_of)
