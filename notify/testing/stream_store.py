"""The conformance suite for stream stores: every test of a store, and those of its streams.

```python
class TestMyStreamStore(StreamStoreSuite):
    async def make(self) -> StreamStore:
        return MyStreamStore()
```

`notify.testing.store` tells of further suites for what a store can or promises beyond the interface.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import aclosing
from functools import partial

from notify import Event, StreamStore

from ._stream_base import StreamTests
from ._stream_lifetime import LifetimeTests
from ._stream_notifier import NotifierStreamTests
from ._stream_positions import PositionTests
from ._suite import together
from .store import SharedStoreSuite, StoreSuite

__all__ = ["SharedStreamStoreSuite", "StreamStoreSuite"]


class StreamStoreSuite(PositionTests, LifetimeTests, NotifierStreamTests, StoreSuite):
    """Every stream store passes these tests."""


class SharedStreamStoreSuite(StreamTests, SharedStoreSuite):
    """For a stream store whose logs several processes see: add it to the bases of the test class."""

    @abstractmethod
    async def another(self, store: StreamStore) -> StreamStore:  # type: ignore[override]  # another of its own kind
        """Return a second stream store on the same data, as another process would have it."""

    async def test_a_save_elsewhere_arrives_promptly(self, store: StreamStore) -> None:
        """A waiting reader has an event as soon as another process has saved it."""
        async with aclosing(await self.another(store)) as other, store.subscribe("alice") as stream:
            for number in range(3):
                await self.assert_arrives(partial(other.save, Event("alice", "t", number)), stream)

    async def test_streams_everywhere_yield_one_chain(self, store: StreamStore) -> None:
        """While several processes save, streams in all of them yield the same chain."""
        async with aclosing(await self.another(store)) as other:

            async def read(one: StreamStore) -> None:
                async with one.subscribe("alice", "0") as stream:
                    await self.assert_whole(stream, 100)

            both = (store, other)
            writers = [partial(self.fill, one, "alice", 50) for one in both]
            await together(*writers, *(partial(read, one) for one in both * 2))

    async def test_a_push_elsewhere_is_yielded(self, store: StreamStore) -> None:
        """Notifiers in several processes need no router: a push at one is yielded at the other, and the other way."""
        async with aclosing(await self.another(store)) as other:
            async with self.notifier(store) as here, self.notifier(other) as there:
                async with here.subscribe("alice") as stream, there.subscribe("alice") as far:
                    for notifier in (here, there, here):
                        await self.assert_arrives(partial(notifier.push, "alice", "t"), stream, far)

    async def test_closing_elsewhere_ends_nothing_here(self, store: StreamStore) -> None:
        """A store that closes ends its own streams, not those of another process."""
        other = await self.another(store)
        async with store.subscribe("alice") as stream, other.subscribe("alice") as far:
            await other.aclose()
            await self.assert_live(stream, store)
            assert [event async for event in far] == []
