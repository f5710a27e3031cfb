"""Tests of what happens at the same time, and of interruptions."""

from __future__ import annotations

from collections import Counter
from functools import partial
from random import Random

import anyio.lowlevel
import pytest

from notify import UsageError
from notify.dispatch.abc import Claim, State, Submitted

from ._dispatch_base import (
    START,
    DeliveryStore,
    DeliveryStoreT,
    DispatchTests,
    at,
    joining,
    move,
    note,
    submission,
    to,
)
from ._waits import eventually, interrupted, together


class DispatchRaceTests(DispatchTests[DeliveryStoreT]):
    """Several tasks on one store."""

    async def test_nothing_is_claimed_twice(self, store: DeliveryStore) -> None:
        """Of several workers at the same time, each delivery has one; nothing that is due is left."""
        rows = [to(f"user{number}", priority=number % 3) for number in range(150)]
        await store.submit(submission(*rows))
        taken: list[str] = []

        async def work() -> None:
            misses = 0
            while misses < 3:
                claims = await self.take(store, limit=7)
                taken.extend(claim.delivery.id for claim in claims)
                misses = 0 if claims else misses + 1
                await anyio.lowlevel.checkpoint()

        await together(*[work] * 6)
        assert sorted(taken) == sorted(row.id for row in rows)

    async def test_one_of_two_moves_is_made(self, store: DeliveryStore) -> None:
        """Of moves of one claim at the same time one is made; cancelling and beginning exclude each other."""
        for round in range(8):
            name = f"n{round}"
            await store.submit(submission(to("alice", notification=name)))
            claim = await self.take_one(store)
            made: list[object] = []

            async def act(to: State, claim: Claim = claim, made: list[object] = made) -> None:
                if await store.advance([move(claim, to)], at(0)) == [True]:
                    made.append(to)

            async def cancel(name: str = name, made: list[object] = made) -> None:
                made.extend([State.CANCELLED] * await store.cancel(name, at(0)))

            await together(
                partial(act, State.SENDING), cancel, partial(act, State.SKIPPED), partial(act, State.SENDING)
            )
            assert len(made) == 1
            assert (await self.look(store, claim.delivery.id)).state is made[0]
            await self.finish(store)

    async def test_one_of_equal_submissions_is_stored(self, store: DeliveryStore) -> None:
        """Of submissions with the same key at the same time one is stored, and all are answered with it."""
        answers: list[Submitted | UsageError] = []

        async def submit(number: int) -> None:
            name = f"n{number}"
            fingerprint = "f" if number % 4 else "g"
            rows = (to("alice", notification=name), joining(notification=name))
            try:
                answers.append(await store.submit(submission(*rows, key="k", fingerprint=fingerprint)))
            except UsageError as error:
                answers.append(error)

        await together(*(partial(submit, number) for number in range(16)))
        stored = [each for each in answers if isinstance(each, Submitted)]
        assert [each.is_replay for each in stored].count(False) == 1
        assert len({each.notification for each in stored}) == 1
        assert len(stored) in (4, 12)
        assert len(await self.take(store)) == 1

    async def test_one_recipient_of_several_parts(self, store: DeliveryStore) -> None:
        """Parts of an audience that overlap, at the same time, reach each recipient once."""

        async def submit(number: int) -> None:
            rows = [to(f"user{user % 20}") for user in range(number, number + 10)]
            await store.submit(submission(*rows, cursor=str(number)))

        await together(*(partial(submit, number) for number in range(0, 20, 2)))
        claims = await self.take(store, limit=500)
        assert Counter(claim.delivery.user for claim in claims) == {f"user{number}": 1 for number in range(20)}

    async def test_digests_at_the_same_time(self, store: DeliveryStore) -> None:
        """What joins while digests are closed is in exactly one of them, and each has one delivery."""
        random = Random(3)
        work = [(f"n{number}", f"k{random.randrange(3)}", number // 20) for number in range(120)]
        work += random.sample(work, 40)
        ticks = sorted([*work, *[("", "", time) for time in range(6)] * 3], key=lambda each: (each[2], random.random()))

        async def act(worker: int) -> None:
            for name, key, seconds in ticks[worker::6]:
                if name:
                    join = joining(notification=name, key=key, closes=seconds + 2.0, limit=9)
                    rows = submission(join, notification=note(name, created_at=at(seconds)))
                    await store.submit(rows)
                else:
                    await store.close_digests(at(seconds))
                await anyio.lowlevel.checkpoint()

        await together(*(partial(act, worker) for worker in range(6)))
        await store.close_digests(at(10**6), limit=500)
        assert await store.close_digests(at(10**6)) == 0
        found: list[str] = []
        claims = await self.take(store, 10**6, limit=500)
        for claim in claims:
            items = await store.digest_items(claim.notification.id)
            assert 1 <= len(items) <= 9
            found += [item.notification.id for item in items]
        assert sorted(found) == sorted(f"n{number}" for number in range(120))
        assert len({claim.notification.id for claim in claims}) == len(claims)

    async def test_what_waits_is_not_overlooked(self, store: DeliveryStore) -> None:
        """When the last devices end at the same time, what waits for their channel is due."""
        for round in range(5):
            name = f"n{round}"
            waiting = to("alice", "email", notification=name, seconds=None, after="push", delay=10**6)
            await store.submit(submission(to("alice", "push", notification=name), waiting))
            claim = await self.take_one(store)
            children = [to("alice", "push", notification=name, endpoint=end) for end in "abcd"]
            await store.advance([move(claim, State.EXPANDED, children=children)], at(0))

            async def fail(claim: Claim) -> None:
                assert await store.advance([move(claim, State.SENDING)], at(0)) == [True]
                assert await store.advance([move(claim, State.FAILED)], at(0)) == [True]

            await together(*(partial(fail, each) for each in await self.take(store)))
            assert (await self.take_one(store)).delivery.id == waiting.id

    async def claim_into(self, store: DeliveryStore, claims: list[Claim]) -> None:
        """Claim the one delivery that is due, and add it to the list."""
        claims.extend(await self.take(store))
        assert claims

    async def test_interrupted_calls(self, store: DeliveryStore) -> None:
        """Calls that are cancelled at any time happen or do not; nothing is stuck, and all can be repeated."""
        for attempt in range(16):
            name = f"n{attempt}"
            rows = submission(to("alice", notification=name), joining(notification=name, key=name), key=name)
            await interrupted(partial(store.submit, rows), attempt)
            assert (await store.submit(rows)).notification == name
            await interrupted(partial(store.claim, START, lease=0.0), attempt)
            await self.let_pass(store, 0.01)
            claims: list[Claim] = []
            await eventually(partial(self.claim_into, store, claims), self.patience)  # the other claim may go on
            (claim,) = claims
            await interrupted(partial(store.advance, [move(claim, State.SENDING)], at(0)), attempt)
            await store.advance([move(claim, State.SENDING)], at(0))
            assert (await self.look(store, claim.delivery.id)).attempts == 1
            await interrupted(partial(store.advance, [move(claim, State.ACCEPTED)], at(0)), attempt)
            await store.advance([move(claim, State.ACCEPTED)], at(0))
            assert [each.state for each in (await self.record_of(store, notification=name))[1]] == [State.ACCEPTED]
            await interrupted(partial(store.cancel, name, at(0)), attempt)
            await store.cancel(name, at(0))
            await interrupted(partial(store.record, name, "alice"), attempt)
            await interrupted(partial(store.close_digests, at(0)), attempt)
        await store.close_digests(at(10**6))
        digests = await self.take(store, 10**6)
        assert len(digests) == 16
        for claim in digests:
            assert await store.digest_items(claim.notification.id) == []

    async def test_one_key_for_many_users(self, store: DeliveryStore) -> None:
        """A key that another request has, in a race, is refused for the later one, which leaves nothing."""
        outcomes: list[str] = []

        async def submit(fingerprint: str) -> None:
            name = f"n {fingerprint}"
            rows = submission(to("alice", notification=name), key="k", fingerprint=fingerprint)
            try:
                await store.submit(rows)
                outcomes.append(name)
            except UsageError:
                assert await store.record(name, "alice") is None

        await together(*(partial(submit, str(number)) for number in range(8)))
        (name,) = outcomes
        with pytest.raises(UsageError):
            await store.submit(submission(to("alice"), key="k", fingerprint="another"))
        assert (await self.take_one(store)).notification.id == name
