"""Suites for what a store of deliveries may have beyond the interfaces: durability, sharing, transactions."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import anyio.lowlevel
import pytest

from notify import UsageError
from notify.dispatch.abc import State, Submitted

from ._dispatch_base import START, DeliveryStoreT, DispatchTests, at, joining, move, note, submission, to
from ._waits import together


class DurableDispatchSuite(DispatchTests[DeliveryStoreT]):
    """For a store of deliveries that survives the end of the process."""

    @abstractmethod
    async def reopen(self, store: DeliveryStoreT) -> DeliveryStoreT:
        """Return a new store on the data of this one, which was closed."""

    async def test_everything_survives(self, store: DeliveryStoreT) -> None:
        """Rows, claims, keys and digests are as they were, and everything goes on from there."""
        rows = submission(to("alice"), to("alice", "sms"), joining(), key="k", fingerprint="f")
        await store.submit(rows)
        email, sms = sorted(await self.take(store), key=lambda claim: claim.delivery.channel)
        assert await store.advance([move(email, State.SENDING)], at(0)) == [True]
        before = await store.record("n", "alice")
        await store.aclose()
        async with self.closing(await self.reopen(store)) as again:
            assert await again.record("n", "alice") == before
            assert await again.submit(rows) == Submitted("n", True)
            assert await self.take(again, 10**6) == []
            moves = [move(email, State.ACCEPTED), move(sms, State.SENDING)]
            assert await again.advance(moves, at(1)) == [True, True]
            assert await again.close_digests(at(3600)) == 1
            claim = await self.take_one(again, 3600)
            assert [item.notification for item in await again.digest_items(claim.notification.id)] == [note()]


class SharedDispatchSuite(DispatchTests[DeliveryStoreT]):
    """For a store of deliveries that several processes share."""

    @abstractmethod
    async def another(self, store: DeliveryStoreT) -> DeliveryStoreT:
        """Return a second store on the same data, as another process would have it."""

    async def test_workers_share(self, store: DeliveryStoreT) -> None:
        """What one submits the other claims; each delivery is claimed once; a move of an old claim is refused."""
        async with self.closing(await self.another(store)) as other:
            await store.submit(submission(to("alice")))
            old = await self.lapsed(other, begun=False)
            new = await self.take_one(store)
            assert await other.advance([move(old, State.SENDING)], at(0)) == [False]
            assert await store.advance([move(new, State.SENDING), move(new, State.ACCEPTED)], at(0)) == [True, True]
            assert await other.record("n", "alice") == await store.record("n", "alice")
            rows = [to(f"user{number}", notification="m") for number in range(100)]
            await store.submit(submission(*rows))
            taken: Counter[str] = Counter()

            async def work(one: DeliveryStoreT) -> None:
                while claims := await self.take(one, limit=9):
                    made = await one.advance([move(claim, State.SENDING) for claim in claims], at(0))
                    taken.update(claim.delivery.id for claim, is_made in zip(claims, made, strict=True) if is_made)
                    await one.advance([move(claim, State.ACCEPTED) for claim in claims], at(0))
                    await anyio.lowlevel.checkpoint()

            await together(*(partial(work, one) for one in (store, other) * 2))
            assert not await self.take(store)
            assert taken == {row.id: 1 for row in rows}

    async def test_keys_are_shared(self, store: DeliveryStoreT) -> None:
        """One of two processes that submit the same request stores it."""
        async with self.closing(await self.another(store)) as other:
            answers: list[Submitted] = []

            async def submit(one: DeliveryStoreT, name: str) -> None:
                rows = submission(to("alice", notification=name), joining(notification=name), key="k", fingerprint="f")
                answers.append(await one.submit(rows))

            stores = (store, other) * 4
            await together(*(partial(submit, one, f"n{number}") for number, one in enumerate(stores)))
            assert sorted(answer.is_replay for answer in answers) == [False, *[True] * 7]
            assert len({answer.notification for answer in answers}) == 1
            assert len(await self.take(other)) == 1
            assert await store.close_digests(at(3600)) + await other.close_digests(at(3600)) == 1


class DispatchTransactionSuite(DispatchTests[DeliveryStoreT]):
    """For a store of deliveries that submits in the caller's own transaction."""

    @abstractmethod
    def transaction(self, store: DeliveryStoreT) -> AbstractAsyncContextManager[Any]:
        """Open a connection of the driver and a transaction on it; commit at the end, roll back after an error."""

    async def test_it_exists_if_the_transaction_commits(self, store: DeliveryStoreT) -> None:
        """What is submitted in a transaction exists once it is committed, and not if it is rolled back."""
        rows = submission(to("alice"), joining(), key="k", fingerprint="f")
        async with self.transaction(store) as connection:
            assert await store.submit(rows, connection=connection) == Submitted("n", False)
            assert await self.take(store) == []
            assert await store.record("n", "alice") is None
        assert len(await self.take(store)) == 1
        assert await store.close_digests(at(3600)) == 1
        other = submission(to("bob", notification="m"), key="l", fingerprint="f")

        async def fail() -> None:
            async with self.transaction(store) as connection:
                assert await store.submit(other, connection=connection) == Submitted("m", False)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await store.record("m", "bob") is None
        assert await store.submit(other) == Submitted("m", False)
        async with self.transaction(store) as connection:
            assert await store.submit(rows, connection=connection) == Submitted("n", True)

    async def test_a_refusal_leaves_the_transaction_usable(self, store: DeliveryStoreT) -> None:
        """A submission that is refused is rolled back by itself: the transaction goes on, and may commit the rest."""
        await store.submit(submission(to("alice"), key="k", fingerprint="f"))
        refused = submission(to("alice", notification="m"), key="k", fingerprint="g")
        async with self.transaction(store) as connection:
            await store.submit(submission(to("alice", notification="a")), connection=connection)
            with pytest.raises(UsageError, match="another request"):
                await store.submit(refused, connection=connection)
            await store.submit(submission(to("alice", notification="b")), connection=connection)
        assert {claim.notification.id for claim in await self.take(store)} == {"n", "a", "b"}
        assert START <= at(0)

    async def test_what_is_no_transaction(self, store: DeliveryStoreT) -> None:
        """A connection of another kind, and one without a transaction, are refused."""
        async with self.transaction(store) as connection:
            pass
        for wrong in (object(), connection):
            with pytest.raises(UsageError):
                await store.submit(submission(to("alice")), connection=wrong)
        assert await store.record("n", "alice") is None
