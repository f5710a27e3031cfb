"""Tests of a stream store inside a notifier, which learns of new events from it alone."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from notify import ClosedError, DisconnectedError, Event, InvalidEventError, InvalidEventIdError, Notifier, StreamStore

from ._samples import BAD_IDS
from ._stream_base import StreamTests
from ._types import StreamStoreT
from ._waits import eventually, now, numbers, take, together


class NotifierStreamTests(StreamTests[StreamStoreT]):
    """Streams that a notifier hands out."""

    async def test_a_push_is_yielded_once(self, store: StreamStore) -> None:
        """Each stream of the user yields a pushed event once, as the store has it."""
        async with self.notifier(store) as notifier:
            streams = [notifier.subscribe("alice", position) for position in (None, "0", None)]
            for stream in streams:
                await stream.__aenter__()
            for number in range(20):
                event = await notifier.push("alice", "t", number)
                for stream in streams:
                    assert await stream.next(self.patience) == event
            assert numbers(await self.read_all(store, "alice")) == [*range(20)]
            for stream in streams:
                await stream.aclose()

    async def test_concurrent_pushes_reach_every_stream(self, store: StreamStore) -> None:
        """Ten streams yield fifty concurrent pushes, each once and in log order."""
        async with self.notifier(store) as notifier:
            streams = [notifier.subscribe("alice", "0") for _ in range(10)]
            await together(*(partial(notifier.push, "alice", "t", number) for number in range(50)))
            log = await self.read_all(store, "alice")
            assert sorted(numbers(log)) == [*range(50)]
            for stream in streams:
                assert await take(stream, 50, self.patience) == log
                await stream.aclose()

    async def test_pushing_to_many_reaches_their_streams(self, store: StreamStore) -> None:
        """A push to many users is yielded by the streams of each, as the report has it."""
        users = [f"user{number}" for number in range(40)]
        async with self.notifier(store) as notifier:
            streams = {user: notifier.subscribe(user, "0") for user in users}
            report = await notifier.push_many(users, "t", {"n": 1})
            assert set(report.events) == set(users)
            for user, stream in streams.items():
                assert await stream.next(self.patience) == report.events[user]
                await stream.aclose()

    async def test_a_save_beside_the_notifier_is_yielded(self, store: StreamStore) -> None:
        """What is saved in the store itself reaches the notifier's streams promptly, and so does another's push."""
        async with self.notifier(store) as notifier, self.notifier(store) as other:
            async with notifier.subscribe("alice") as stream:
                await self.assert_arrives(partial(store.save, Event("alice", "t")), stream)
                await self.assert_arrives(partial(other.push, "alice", "t"), stream)

    async def test_a_delivery_that_comes_too_is_ignored(self, store: StreamStore) -> None:
        """An event that a router delivers as well, early, late or twice, is yielded once."""
        async with self.notifier(store) as notifier, notifier.subscribe("alice") as stream:
            for _ in range(3):
                event = await store.save(Event("alice", "t"))
                notifier.deliver(event)
                assert await stream.next(self.patience) == event
                notifier.deliver(event)
                notifier.deliver(event)
            await self.assert_live(stream, store)

    async def test_open_streams_are_counted(self, store: StreamStore) -> None:
        """The gauge counts streams while they are open, and reads 0 after they ended, whichever way."""
        await self.fill(store, "alice", 3)
        async with self.notifier(store) as notifier:

            async def open_streams(count: int) -> None:
                assert notifier.statistics().open_streams == count

            async with notifier.subscribe("alice") as one:
                two = notifier.subscribe("alice", "0")
                await two.next(self.patience)
                await open_streams(2)
                await two.aclose()
                await two.aclose()
                await open_streams(1)
                await one.aclose()
                await open_streams(0)
            async for event in notifier.subscribe("alice", "0"):  # pragma: no branch - it is left by break
                assert event.payload == 0
                await open_streams(1)
                break
            await eventually(partial(open_streams, 0), self.prompt)
            with anyio.move_on_after(0.01):
                async with notifier.subscribe("alice") as cancelled:
                    await cancelled.next()
            await open_streams(0)
            last = notifier.subscribe("alice", "0")
            await last.next(self.patience)
        await open_streams(0)

    async def test_closing_the_notifier_ends_its_streams(self, store: StreamStore) -> None:
        """Closing a notifier ends its streams at once, and neither those of the store nor those of another notifier."""
        async with self.notifier(store) as other, other.subscribe("alice") as kept, store.subscribe("alice") as bare:
            async with self.notifier(store) as notifier, anyio.create_task_group() as tasks:
                idle = notifier.subscribe("alice", "0")
                await tasks.start(self.wait_for_the_end, notifier)
                await tasks.start(self.wait_for_the_end, notifier)
                await wait_all_tasks_blocked()
                start = anyio.current_time()
                await notifier.aclose()
                await notifier.aclose()
            assert anyio.current_time() - start < 2 * self.prompt
            with pytest.raises(ClosedError):
                await idle.next(self.patience)
            with pytest.raises(ClosedError):
                notifier.subscribe("alice")
            event = await store.save(Event("alice", "t"))
            assert await kept.next(self.patience) == await bare.next(self.patience) == event

    async def test_disconnecting_ends_the_streams_of_a_user(self, store: StreamStore) -> None:
        """It ends waiting and busy readers of the user at once, and neither other streams nor later ones."""
        first, *_ = await self.fill(store, "unknown", 3)
        async with self.notifier(store) as notifier, notifier.subscribe("alice") as other:
            busy = await notifier.subscribe("unknown", "0").__aenter__()
            assert await busy.next(self.patience) == first
            async with anyio.create_task_group() as tasks:
                await tasks.start(self.wait_for_the_end, notifier)
                await wait_all_tasks_blocked()
                start = anyio.current_time()
                await notifier.disconnect("unknown", "logged out")
            assert anyio.current_time() - start < self.prompt
            with pytest.raises(DisconnectedError) as caught:
                await busy.next(self.patience)
            assert (caught.value.reason, caught.value.last_id) == ("logged out", first.id)
            async with notifier.subscribe("unknown") as later:
                await self.assert_live(later, store)
            await self.assert_live(other, store)

    async def test_a_stream_ends_at_its_time(self, store: StreamStore) -> None:
        """`expires_at` ends a waiting reader at that time, and one that comes later at once."""
        async with self.notifier(store) as notifier:
            moment = now() + timedelta(seconds=0.3)
            for _ in range(2):
                async with notifier.subscribe("alice", expires_at=moment) as stream:
                    with pytest.raises(DisconnectedError) as caught, anyio.fail_after(self.patience):
                        await stream.next()
                    assert caught.value.reason == "expired"

    async def test_draining_ends_the_streams_first(self, store: StreamStore) -> None:
        """Draining ends the streams, refuses new ones, and still lets events be pushed."""
        async with self.notifier(store) as notifier, anyio.create_task_group() as tasks:
            for _ in range(5):
                await tasks.start(self.wait_for_the_end, notifier)
            with anyio.fail_after(self.patience):
                await notifier.drain(window=0.05)
            assert notifier.statistics().open_streams == 0
            with pytest.raises(ClosedError):
                notifier.subscribe("alice")
            event = await notifier.push("alice", "t")
            assert [event] == await self.read_all(store, "alice")

    async def test_closing_the_store_ends_the_notifiers_streams(self, store: StreamStore) -> None:
        """Closing the store under a notifier ends the notifier's streams too."""
        async with self.notifier(store) as notifier, anyio.create_task_group() as tasks:
            await tasks.start(self.wait_for_the_end, notifier)
            await wait_all_tasks_blocked()
            await store.aclose()

    async def test_resuming_at_another_notifier(self, store: StreamStore) -> None:
        """A reader that loses its notifier resumes at another one and misses nothing."""
        async with self.notifier(store) as notifier, notifier.subscribe("alice", "0") as stream:
            events = await self.fill(store, "alice", 3)
            await self.assert_next(stream, *events[:2])
        missed = await self.fill(store, "alice", 2)
        async with self.notifier(store) as notifier, notifier.subscribe("alice", stream.last_id) as stream:
            await self.assert_next(stream, events[2], *missed)
            await self.assert_live(stream, store)

    async def test_garbage_positions_and_users_are_refused(self, store: StreamStore) -> None:
        """Through a notifier, too, garbage raises InvalidEventIdError, and what is not a user id InvalidEventError."""
        users: list[Any] = ["", "a\nb", "\x00", "\ud800", "x" * 256, None, 7, b"alice"]
        async with self.notifier(store) as notifier:
            for garbage in BAD_IDS:
                with pytest.raises(InvalidEventIdError):
                    notifier.subscribe("alice", garbage)
            for user in users:
                with pytest.raises(InvalidEventError):
                    notifier.subscribe(user)

    async def wait_for_the_end(self, notifier: Notifier, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Loop over a stream of the notifier that ends before there is an event."""
        async with notifier.subscribe("unknown") as stream:
            task_status.started()
            with anyio.fail_after(self.patience):
                assert [event async for event in stream] == []
