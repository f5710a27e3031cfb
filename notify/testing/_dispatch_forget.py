"""Suites for stores that can erase a user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from notify import ClosedError
from notify.abc import Forget
from notify.dispatch.abc import (
    CapStore,
    CapWindow,
    Endpoint,
    EndpointStore,
    PreferenceStore,
    RecipientRecord,
    State,
    Submitted,
    cap_prefix,
)

from ._dispatch_base import START, DeliveryStore, DeliveryStoreT, DispatchTests, at, joining, move, submission, to
from ._suite import Suite


def forgetting(store: Any) -> Forget:
    """Return the store as one that can erase a user."""
    assert isinstance(store, Forget), f"{type(store).__name__} lacks forget(): this suite is for a store that has it"
    return store


class DispatchForgetSuite(DispatchTests[DeliveryStoreT]):
    """For a store of deliveries with `forget`: nothing of the user is left, and nothing else is touched."""

    async def test_deliveries_to_a_forgotten_user(self, store: DeliveryStore) -> None:
        """Deliveries in any state, their attempts and records are gone, and counted; those to others stay."""
        await self.bring(store, State.ACCEPTED, "sent")
        await self.bring_all(store, State.FAILED, "both", ["alice", "bob"])
        later = to("alice", notification="later", seconds=9)
        await store.submit(submission(later, to("bob", notification="later", seconds=9)))
        assert await forgetting(store).forget("alice") == 3
        for name in ("sent", "both", "later"):
            assert await store.record(name, "alice") is None
        assert await store.delivery(later.id) is None
        assert [each.user for each in await store.stuck([*State])] == ["bob", "bob"]
        assert (await self.record_of(store, "bob", "both"))[1] != []
        assert await store.resolve(later.id, State.DELIVERED, at(1)) is None
        assert await store.track(later.id, "opened", at(1)) is None
        assert [claim.delivery.user for claim in await self.take(store, 9)] == ["bob"]
        assert [await forgetting(store).forget(user) for user in ("alice", "unknown")] == [0, 0]

    async def test_notifications_to_a_forgotten_user(self, store: DeliveryStore) -> None:
        """A notification to this user alone is gone with its data and key; one to others as well stays as it was."""
        alone = submission(to("alice", notification="alone"), key="k", fingerprint="f")
        await store.submit(alone)
        shared = submission(to("alice", notification="shared"), to("bob", notification="shared"), key="s")
        await store.submit(shared)
        await forgetting(store).forget("alice")
        assert await store.submit(shared) == Submitted("shared", True)
        assert await store.record("shared", "alice") is None
        assert await store.submit(alone) == Submitted("alone", False)
        part = submission(to("carol", notification="part"), key="p", cursor="c")
        await store.submit(part)
        await forgetting(store).forget("carol")
        rest = submission(to("dave", notification="part"), key="p", cursor="d")
        assert await store.submit(rest) == Submitted("part", False, "d")

    async def test_claims_of_a_forgotten_user(self, store: DeliveryStore) -> None:
        """What a worker has claimed is not sent any more, and what it is sending has no outcome; both are refused."""
        await store.submit(submission(to("alice"), to("alice", "sms")))
        email, sms = await self.take(store)
        assert await store.advance([move(sms, State.SENDING)], at(0)) == [True]
        await forgetting(store).forget("alice")
        moves = [move(email, State.SENDING), move(sms, State.ACCEPTED)]
        assert await store.advance(moves, at(1)) == [False, False]
        assert await self.take(store, 10**6) == []

    async def test_digests_of_a_forgotten_user(self, store: DeliveryStore) -> None:
        """Digests, open or closed, are gone with what they have collected; those of others are sent."""
        for name, seconds in (("a", 10), ("b", 3600)):
            both = [joining(user, notification=name, key=f"{name} {user}", closes=seconds) for user in ("alice", "bob")]
            await store.submit(submission(*both))
        assert await store.close_digests(at(10)) == 2
        await forgetting(store).forget("alice")
        assert await store.close_digests(at(3600)) == 1
        claims = await self.take(store, 3600)
        assert {claim.delivery.user for claim in claims} == {"bob"}
        assert len(claims) == 2
        for claim in claims:
            assert len(await store.digest_items(claim.notification.id)) == 1

    async def test_a_user_of_whom_there_is_a_record_only(self, store: DeliveryStore) -> None:
        """Records without deliveries, such as of what was skipped, are erased as well."""
        await store.submit(submission(recipients=[RecipientRecord("n", "alice", b"[1]", b'{"tz":"UTC"}')]))
        assert await forgetting(store).forget("alice") == 0
        assert await store.record("n", "alice") is None

    async def test_forgetting_after_closing_a_store_of_deliveries(self, store: DeliveryStore) -> None:
        """After `aclose`, forgetting raises ClosedError."""
        await self.close(store)  # type: ignore[arg-type]
        with pytest.raises(ClosedError):
            await forgetting(store).forget("alice")


class UserForgetSuite(Suite[Any]):
    """For a store with `forget` that keeps preferences, endpoints or counts: all of them that it keeps are erased."""

    @pytest.fixture
    async def store(self, anyio_backend: object) -> AsyncIterator[Any]:
        """Make a store for one test, and close it."""
        async with self.fresh() as store:
            yield store

    async def fill(self, store: Any, user: str) -> None:
        """Store something of a user wherever that is possible."""
        if isinstance(store, PreferenceStore):
            await store.patch(user, b'{"a":1}', by=user, source="s", now=START)
        if isinstance(store, EndpointStore):
            await store.register(Endpoint(user, "push", f"{user} a", session="s"), START)
            retired = await store.register(Endpoint(user, "push", f"{user} b"), START)
            await store.retire(retired.id, 0, "gone", START)
        if isinstance(store, CapStore):
            assert await self.ask(store, user, "abc") == [-1, -1, 0]

    async def ask(self, store: CapStore, user: str, names: str) -> list[int]:
        """Ask a cap of two for notifications."""
        windows = [CapWindow(f"{cap_prefix(user)}promo/day", 2, at(86_400))]
        return [await store.admit(name, user, windows, START) for name in names]

    async def test_what_is_kept_of_a_forgotten_user(self, store: Any) -> None:
        """Preferences with their history, endpoints, counts and verdicts are gone; those of others stay."""
        users = ("alice", "alice/promo", "alice%2Fpromo", "ali")
        for user in users:
            await self.fill(store, user)
        await forgetting(store).forget("alice")
        await forgetting(store).forget("unknown")
        left = users[1:]
        if isinstance(store, PreferenceStore):
            assert {*await store.preferences(users)} == {*left}
            assert [len(await store.consents(user)) for user in users] == [0, 1, 1, 1]
        if isinstance(store, EndpointStore):
            assert {*await store.endpoints(users, retired=True)} == {*left}
        if isinstance(store, CapStore):
            for user in left:
                assert await self.ask(store, user, "abcd") == [-1, -1, 0, 0]
            assert await self.ask(store, "alice", "cab") == [-1, -1, 0]

    async def test_forgetting_after_closing(self, store: Any) -> None:
        """After `aclose`, forgetting raises ClosedError."""
        await self.close(store)
        with pytest.raises(ClosedError):
            await forgetting(store).forget("alice")
