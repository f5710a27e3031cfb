"""Tests of streams that read several logs of a store, through a notifier."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from notify import Event, Gap, LiveLog, MergedStream, Notifier, Store, StreamStore, UsageError, ids

from ._store_base import StoreTests
from ._types import StoreT
from ._waits import assert_chain, take, together

LOGS = ("alice", "room:7", "ü" * 30)


class MergedLogTests(StoreTests[StoreT]):
    """Several logs in one stream. A store without a `LiveLog` cannot merge them, and its notifier raises UsageError."""

    def merging(self, store: Store) -> AbstractAsyncContextManager[Notifier]:
        """Return a notifier that soon finds events that others save, on a store of either kind."""
        return Notifier(store, poll_interval=0.05)

    def can_merge(self, notifier: Notifier, store: Store) -> bool:
        """Return whether the notifier merges the logs of this store, and assert that it refuses it otherwise."""
        if not isinstance(store, StreamStore) or isinstance(getattr(store, "live", None), LiveLog):
            return True
        with pytest.raises(UsageError):
            notifier.subscribe(LOGS)
        return False

    async def mix(self, store: Store, rounds: int) -> dict[str, list[Event]]:
        """Save events in all logs by turns, and return them."""
        saved: dict[str, list[Event]] = {user: [] for user in LOGS}
        for number in range(rounds):
            for user in LOGS:
                saved[user].append(await store.save(Event(user, "n", number)))
        return saved

    async def assert_merged(self, stream: MergedStream, expected: dict[str, list[Event]]) -> None:
        """Assert that exactly these events are yielded, in the order of each log, and then nothing."""
        events = await take(stream, sum(map(len, expected.values())), self.patience)
        assert {user: [event for event in events if event.user == user] for user in expected} == expected
        with pytest.raises(TimeoutError):
            await stream.next(0.02)

    async def test_a_merged_replay_is_ordered_by_id(self, store: Store) -> None:
        """A stream of several logs replays them merged by id, each log whole, and then goes on live."""
        saved = await self.mix(store, 20)
        async with self.merging(store) as notifier:
            if not self.can_merge(notifier, store):
                return
            async with notifier.subscribe(LOGS, "0") as stream:
                events = await take(stream, 60, self.patience)
                numbers = [ids.parse(event.id) for event in events]
                assert numbers == sorted(numbers)
                for user in LOGS:
                    assert [event for event in events if event.user == user] == saved[user]
                    assert_chain(saved[user])
                live = {user: [await notifier.push(user, "live")] for user in LOGS}
                await self.assert_merged(stream, live)
                assert stream.gaps == ()

    async def test_a_merged_stream_resumes_anywhere(self, store: Store) -> None:
        """Killed after each event and resumed by its token, it yields every event of every log once."""
        saved = await self.mix(store, 4)
        seen: list[Event] = []
        async with self.merging(store) as notifier:
            if not self.can_merge(notifier, store):
                return
            token = "0"
            for _ in range(12):
                async with notifier.subscribe(LOGS, token) as stream:
                    seen.append(await stream.next(self.patience))
                    token = stream.last_id
            for user in LOGS:
                assert [event for event in seen if event.user == user] == saved[user]
            missed = await self.mix(store, 2)
            async with notifier.subscribe(LOGS, token) as stream:
                await self.assert_merged(stream, missed)

    async def test_a_merged_token_holds_an_empty_log(self, store: Store) -> None:
        """The token of a stream that has yielded nothing resumes with all that came since, in every log."""
        async with self.merging(store) as notifier:
            if not self.can_merge(notifier, store):
                return
            async with notifier.subscribe(LOGS) as stream:
                token = stream.last_id
            saved = await self.mix(store, 2)
            async with notifier.subscribe(LOGS, token) as stream:
                await self.assert_merged(stream, saved)
            async with notifier.subscribe([*LOGS, "bob"][1:], token) as stream:
                await self.assert_merged(stream, {user: saved[user] for user in LOGS[1:]})

    async def test_a_gap_in_one_log_names_it(self, store: Store) -> None:
        """Where one log was trimmed beyond its position, the stream reports that log, and the others have no gap."""
        old = [await store.save(Event("alice", "n", number)) for number in range(3)]
        async with self.merging(store) as notifier:
            if not self.can_merge(notifier, store):
                return
            async with notifier.subscribe(LOGS, "0") as stream:
                await take(stream, 1, self.patience)
                token = stream.last_id
            await store.trim(old[2].id)
            fresh = await store.save(Event("room:7", "n"))
            async with notifier.subscribe(LOGS, token, signals=True) as stream:
                *events, sync = await take(stream, 4, self.patience)
                of_alice = [event for event in events if event.user == "alice"]
                assert [event for event in events if event.user != "alice"] == [fresh]
                assert (of_alice[0].type, of_alice[1:]) == ("notify.gap", old[2:])
                assert (sync.type, sync.user, sync.id) == ("notify.sync", "", stream.last_id)
                assert stream.gaps == (Gap("trimmed", old[0].id, old[1].id, "alice"),)

    async def test_logs_are_added_and_removed(self, store: Store) -> None:
        """An open stream reads the logs that are added to it, each from its given position."""
        saved = await self.mix(store, 2)
        async with self.merging(store) as notifier:
            if not self.can_merge(notifier, store):
                return
            async with notifier.subscribe(LOGS[:1]) as stream:
                await stream.add(LOGS[1], "0")
                await stream.add(LOGS[2])
                await self.assert_merged(stream, {LOGS[1]: saved[LOGS[1]]})
                await stream.remove(LOGS[0])
                later = await self.mix(store, 2)
                await self.assert_merged(stream, {user: later[user] for user in LOGS[1:]})
                assert stream.users == LOGS[1:]

    async def test_a_broadcast_reaches_a_merged_stream_once(self, store: Store) -> None:
        """However many logs it reads; an ephemeral event reaches it through its log."""
        async with self.merging(store) as notifier:
            if not self.can_merge(notifier, store):
                return
            async with notifier.subscribe(LOGS) as stream:
                await notifier.broadcast("everyone")
                await notifier.push(LOGS[1], "one", ephemeral=True)
                events = await take(stream, 2, self.patience)
                assert sorted((event.type, event.user) for event in events) == [("everyone", ""), ("one", LOGS[1])]
                await self.assert_merged(stream, {})

    async def test_a_merged_stream_while_others_save(self, store: Store) -> None:
        """Streams that begin at any moment yield every log as a chain, while all of them are written to."""
        async with self.merging(store) as notifier:
            if not self.can_merge(notifier, store):
                return

            async def read() -> None:
                async with notifier.subscribe(LOGS, "0") as stream:
                    events = await take(stream, 90, self.patience)
                    for user in LOGS:
                        assert_chain([event for event in events if event.user == user])
                    assert stream.gaps == ()

            await together(read, partial(self.mix, store, 30), read)
