"""The conformance suite for stream stores: every test of a store, and those of its streams.

```python
class TestMyStreamStore(StreamStoreSuite[MyStreamStore]):
    async def make(self) -> MyStreamStore:
        return MyStreamStore()
```

`notify.testing.store` names the further suites, for what a store can do or promises beyond the interface. Here are
those that need streams: `LivenessSuite`, and in place of `SharedStoreSuite` the `SharedStreamStoreSuite`, which holds
`EphemeralsSuite` too.
"""

from __future__ import annotations

from functools import partial

from notify import Event, StreamStore
from notify.abc import Liveness

from ._stream_base import StreamTests
from ._stream_ephemerals import EphemeralsSuite as EphemeralsSuite
from ._stream_lifetime import LifetimeTests
from ._stream_notifier import NotifierStreamTests
from ._stream_positions import PositionTests
from ._types import StreamStoreT
from ._waits import eventually, together
from .store import StoreSuite

__all__ = ["EphemeralsSuite", "LivenessSuite", "SharedStreamStoreSuite", "StreamStoreSuite"]


class StreamStoreSuite(
    PositionTests[StreamStoreT],
    LifetimeTests[StreamStoreT],
    NotifierStreamTests[StreamStoreT],
    StoreSuite[StreamStoreT],
):
    """Every stream store passes these tests."""

    async def test_saves_that_collide_show_only_what_is_stored(self, store: StreamStore) -> None:
        """Of saves with one key at once, a stream yields only the one that is stored, and never meets a gap."""
        async with store.subscribe("alice") as stream:
            for number in range(10):
                drafts = [Event("alice", "t", [number, copy], key=f"k{number}") for copy in range(4)]
                await together(*(partial(store.save, draft) for draft in drafts))
            await self.assert_log(store, 10, stream)


class SharedStreamStoreSuite(EphemeralsSuite[StreamStoreT]):
    """For a stream store whose logs several processes see: add it to the bases of the test class."""

    async def test_a_save_elsewhere_arrives_promptly(self, store: StreamStoreT) -> None:
        """A waiting reader has an event as soon as another process has saved it."""
        async with self.closing(await self.another(store)) as other, store.subscribe("alice") as stream:
            for number in range(3):
                await self.assert_arrives(partial(other.save, Event("alice", "t", number)), stream)

    async def test_streams_everywhere_yield_one_chain(self, store: StreamStoreT) -> None:
        """While several processes save, streams in all of them yield the same chain."""
        async with self.closing(await self.another(store)) as other:

            async def read(one: StreamStore) -> None:
                async with one.subscribe("alice", "0") as stream:
                    await self.assert_whole(stream, 100)

            both = (store, other)
            writers = [partial(self.fill, one, "alice", 50) for one in both]
            await together(*writers, *(partial(read, one) for one in both * 2))

    async def test_processes_that_collide_show_only_what_is_stored(self, store: StreamStoreT) -> None:
        """Of saves with one key in several processes at once, every stream yields only the one that is stored."""
        async with self.closing(await self.another(store)) as other:
            async with store.subscribe("alice") as stream, other.subscribe("alice") as far:
                for number in range(10):
                    drafts = [Event("alice", "t", [number, copy], key=f"k{number}") for copy in range(4)]
                    pairs = zip((store, other) * 2, drafts, strict=True)
                    await together(*(partial(one.save, draft) for one, draft in pairs))
                await self.assert_log(store, 10, stream, far)

    async def test_a_push_elsewhere_is_yielded(self, store: StreamStoreT) -> None:
        """Notifiers in several processes need no router: a push at one is yielded at the other, and the other way."""
        async with self.closing(await self.another(store)) as other:
            async with self.notifier(store) as here, self.notifier(other) as there:
                async with here.subscribe("alice") as stream, there.subscribe("alice") as far:
                    for notifier in (here, there, here):
                        await self.assert_arrives(partial(notifier.push, "alice", "t"), stream, far)

    async def test_closing_elsewhere_ends_nothing_here(self, store: StreamStoreT) -> None:
        """A store that closes ends its own streams, not those of another process."""
        async with (
            self.closing(await self.another(store)) as other,
            store.subscribe("alice") as stream,
            other.subscribe("alice") as far,
        ):
            await other.aclose()
            await self.assert_live(stream, store)
            assert [event async for event in far] == []


class LivenessSuite(StreamTests[StreamStoreT]):
    """For a stream store that knows whether it receives what other processes save (`notify.abc.Liveness`)."""

    async def test_it_receives_while_a_stream_is_open(self, store: StreamStore) -> None:
        """Once a stream has been open for a moment, `is_receiving` is True, and stays so."""
        async with store.subscribe("alice") as stream:
            await eventually(partial(self.assert_receiving, store), self.patience)
            await self.assert_live(stream, store)
            assert receiving(store) is True

    async def test_the_verdict_agrees(self, store: StreamStore) -> None:
        """`Notifier.check` finds that the store receives, with open streams and without."""
        async with self.notifier(store) as notifier:
            assert (await notifier.check()).parts == {"store": "ok", "live": "ok"}
            async with notifier.subscribe("alice"):
                assert (await notifier.check()).parts == {"store": "ok", "live": "ok"}

    async def assert_receiving(self, store: StreamStore) -> None:
        """Assert that the store says it is receiving."""
        assert receiving(store) is True


def receiving(store: StreamStore) -> bool:
    """Return whether the store says that it is receiving."""
    assert isinstance(store, Liveness)
    return store.is_receiving
