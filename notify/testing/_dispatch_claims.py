"""Tests of claiming, and of leases."""

from __future__ import annotations

from dataclasses import replace

from notify.dispatch.abc import State

from ._dispatch_base import DeliveryStore, DeliveryStoreT, DispatchTests, at, channels, move, note, submission, to


class DispatchClaimTests(DispatchTests[DeliveryStoreT]):
    """Claiming."""

    async def test_what_is_due_is_claimed(self, store: DeliveryStore) -> None:
        """What is due by the time given is taken, once, and comes with what is needed to send it."""
        rows = [to("alice", "now"), to("alice", "soon", seconds=5), to("alice", "later", seconds=5.001)]
        waiting = to("alice", "waits", seconds=None, after="now")
        await store.submit(submission(*rows, waiting))
        assert await self.take(store, -0.001) == []
        (claim,) = await self.take(store, 4.999)
        expected = replace(rows[0], state=State.CLAIMED, fence=1, updated_at=at(4.999), due_at=claim.delivery.due_at)
        assert (claim.delivery, claim.notification, claim.is_ambiguous) == (expected, note(), False)
        found = await store.record("n", "alice")
        assert found is not None
        assert claim.recipient == found[1]
        assert await self.look(store, rows[0].id) == claim.delivery
        assert channels(await self.take(store, 5)) == ["soon"]
        assert channels(await self.take(store, 6)) == ["later"]
        assert await self.take(store, 10**6) == []

    async def test_the_most_urgent_first(self, store: DeliveryStore) -> None:
        """Higher priorities are claimed first, then what has been due for longer; no more than the limit."""
        rows = [
            to("alice", f"{priority}/{seconds}", seconds=-seconds, priority=priority)
            for priority in (0, 3, -1, 1)
            for seconds in (1, 3, 2)
        ]
        future = [to("alice", f"future {number}", seconds=60, priority=9) for number in range(5)]
        await store.submit(submission(*rows, *future))
        order = [f"{priority}/{seconds}" for priority in (3, 1, 0, -1) for seconds in (3, 2, 1)]
        taken: list[str] = []
        for limit in (1, 4, 2, 50):
            claims = channels(await self.take(store, limit=limit))
            assert len(claims) <= limit
            taken += claims
        assert taken == order
        assert await self.take(store, limit=50) == []

    async def test_some_channels_only(self, store: DeliveryStore) -> None:
        """A worker may take deliveries of certain channels only."""
        await store.submit(submission(*(to("alice", channel) for channel in ("email", "push", "sms"))))
        assert await self.take(store, channels=["fcm"]) == []
        assert await self.take(store, channels=[]) == []
        assert sorted(channels(await self.take(store, channels=["push", "sms"]))) == ["push", "sms"]
        assert channels(await self.take(store)) == ["email"]

    async def test_a_lease_that_ended_is_claimed_again(self, store: DeliveryStore) -> None:
        """After its lease a delivery is claimed again with a higher fence; of what was not begun nothing was sent."""
        await store.submit(submission(to("alice")))
        first = await self.lapsed(store, begun=False)
        again = await self.take_one(store)
        assert (again.delivery.state, again.delivery.fence) == (State.CLAIMED, first.delivery.fence + 1)
        assert not again.is_ambiguous
        assert await self.take(store, 10**6) == []

    async def test_what_had_begun_is_ambiguous(self, store: DeliveryStore) -> None:
        """What is found begun after its lease is claimed in SENDING, and said to be ambiguous; so each time."""
        await store.submit(submission(to("alice")))
        first = await self.lapsed(store, begun=True)
        for fence in (first.delivery.fence + 1, first.delivery.fence + 2):
            found = await self.lapsed(store, begun=False, now=7)
            assert (found.delivery.state, found.delivery.fence, found.is_ambiguous) == (State.SENDING, fence, True)
            assert (found.delivery.attempts, found.delivery.updated_at) == (1, at(0))

    async def test_leases_do_not_follow_policy(self, store: DeliveryStore) -> None:
        """Leases are measured by the store's clock: a later `now` ends none, an earlier one keeps none."""
        await store.submit(submission(to("alice"), to("alice", "sms")))
        early, late = await self.take(store)
        assert await store.advance([move(early, State.SENDING)], at(0)) == [True]
        assert await self.take(store, 10**7) == []
        assert await store.advance([move(late, State.SENDING)], at(10**7)) == [True]
        await store.submit(submission(to("alice", notification="m", seconds=-(10**7)), notification=note("m")))
        claim = await self.lapsed(store, begun=False, now=-(10**7))
        (again,) = await self.take(store, -(10**7))
        assert (again.delivery.id, again.delivery.fence) == (claim.delivery.id, claim.delivery.fence + 1)

    async def test_what_is_final_is_never_claimed(self, store: DeliveryStore) -> None:
        """No final state, nor PARKED or UNKNOWN, is claimed."""
        for state in State:
            if not state.is_open:
                await self.bring(store, state, f"n{state}")
        assert await self.take(store, 10**6) == []
        await self.let_pass(store, 0.05)
        assert await self.take(store, 10**6) == []
