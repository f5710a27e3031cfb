"""Tests of the state table: moves of workers, reports of providers, and what waits for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from notify import UsageError
from notify.dispatch.abc import BY_CLAIM, DeliveryAttempt, Move, State

from ._dispatch_base import DeliveryStore, DeliveryStoreT, DispatchTests, at, channels, joining, move, submission, to

_BY_WORKER = sorted({state for states in BY_CLAIM.values() for state in states})


class DispatchMoveTests(DispatchTests[DeliveryStoreT]):
    """Moves of claimed deliveries."""

    async def test_the_state_table(self, store: DeliveryStore) -> None:
        """Each move in each state is made if the table allows it; a refused one changes nothing."""
        for before in State:
            rows = await self.bring_all(store, before, before.name, [state.name for state in _BY_WORKER])
            seen = [await self.look(store, row.id) for row in rows]
            moves = [
                Move(row.id, row.fence, after, due_at=at(900), reason="because", provider_id="p")
                if after is not State.JOINED
                else Move(
                    row.id,
                    row.fence,
                    after,
                    reason="because",
                    provider_id="p",
                    join=joining(row.user, row.notification),
                )
                for row, after in zip(seen, _BY_WORKER, strict=True)
            ]
            made = await store.advance(moves, at(1))
            for row, after, is_made in zip(seen, _BY_WORKER, made, strict=True):
                name = f"{before.name} {after.name}"
                expected = after in BY_CLAIM.get(before, ()) and (before, after) != (State.SENDING, State.SENDING)
                assert is_made == expected, name
                found = await self.look(store, row.id)
                if expected:
                    assert (found.state, found.reason, found.updated_at) == (after, "because", at(1)), name
                    assert found.provider_id == "p"
                    assert found.due_at == (at(900) if after is State.WAITING else row.due_at)
                else:
                    assert found == row, name
            await self.finish(store)

    async def test_only_the_latest_claim_counts(self, store: DeliveryStore) -> None:
        """A move with an older fence, or one that never was, is refused and changes nothing; so is an unknown id."""
        await store.submit(submission(to("alice")))
        old = await self.lapsed(store, begun=False)
        new = await self.take_one(store)
        before = await self.look(store, new.delivery.id)
        fence = new.delivery.fence
        moves = [Move(old.delivery.id, number, State.SENDING) for number in (fence - 1, fence + 1, 0, -1)]
        assert await store.advance([*moves, Move("unknown", 1, State.SENDING)], at(0)) == [False] * 5
        assert await self.look(store, new.delivery.id) == before
        assert await store.advance([move(new, State.SENDING)], at(0)) == [True]

    async def test_a_repeated_move_is_refused(self, store: DeliveryStore) -> None:
        """A move that was made is refused when it is repeated: the beginning, and the outcome."""
        await store.submit(submission(to("alice")))
        claim = await self.begin(store)
        assert await store.advance([move(claim, State.SENDING)], at(0)) == [False]
        assert (await self.look(store, claim.delivery.id)).attempts == 1
        assert await store.advance([move(claim, State.ACCEPTED)] * 2, at(1)) == [True, False]
        assert await store.advance([move(claim, State.FAILED)], at(2)) == [False]
        found = await self.look(store, claim.delivery.id)
        assert (found.state, found.updated_at, found.attempts) == (State.ACCEPTED, at(1), 1)

    async def test_sending_needs_a_lease(self, store: DeliveryStore) -> None:
        """Nothing is begun after the lease has ended; what had begun may be finished, unless it was claimed again."""
        await store.submit(submission(to("alice")))
        claim = await self.lapsed(store, begun=False)
        assert await store.advance([move(claim, State.SENDING)], at(0)) == [False]
        assert await store.advance([move(claim, State.WAITING)], at(0)) == [True]
        begun = await self.lapsed(store, begun=True)
        assert await store.advance([move(begun, State.ACCEPTED)], at(0)) == [True]

    async def test_beginning_renews_the_lease(self, store: DeliveryStore) -> None:
        """With `lease`, a delivery is its worker's from the beginning on; without, as long as it was claimed for."""
        await store.submit(submission(to("alice"), to("alice", "sms")))
        short = self.lease
        while True:
            renewed, other = await self.take(store, lease=short)
            moves = [move(renewed, State.SENDING, lease=600.0), move(other, State.SENDING)]
            if await store.advance(moves, at(0)) == [True, True]:
                break
            short *= 2  # pragma: no cover - the machine was so slow that the lease had ended
            await self.let_pass(store, short)  # pragma: no cover
        await self.let_pass(store, short + 0.05)
        assert channels(await self.take(store, 10**6)) == [other.delivery.channel]
        assert await store.advance([move(renewed, State.ACCEPTED)], at(0)) == [True]

    async def test_an_ambiguous_one_is_sent_again_or_given_up(self, store: DeliveryStore) -> None:
        """Each later claim may begin once more; an attempt is counted each time. UNKNOWN ends it."""
        await store.submit(submission(to("alice")))
        first = await self.lapsed(store, begun=True)
        assert await store.advance([move(first, State.SENDING)], at(0)) == [False]
        second = await self.lapsed(store, begun=True)
        assert second.is_ambiguous
        assert await store.advance([move(first, State.SENDING), move(second, State.SENDING)], at(0)) == [False] * 2
        third = await self.take_one(store)
        assert (third.is_ambiguous, third.delivery.attempts) == (True, 2)
        assert await store.advance([move(third, State.UNKNOWN, reason="AMBIGUOUS")], at(3)) == [True]
        found = await self.look(store, third.delivery.id)
        assert (found.state, found.reason, found.attempts) == (State.UNKNOWN, "AMBIGUOUS", 2)

    async def test_waiting_again(self, store: DeliveryStore) -> None:
        """A delivery that waits again is claimed when it is due; without a time, at once. Only that move sets it."""
        await store.submit(submission(to("alice")))
        claim = await self.take_one(store)
        assert await store.advance([move(claim, State.WAITING, due_at=at(60), reason="QUIET_HOURS")], at(1)) == [True]
        assert await self.take(store, 59.999) == []
        claim = await self.begin(store, 60)
        assert (claim.delivery.fence, claim.delivery.attempts) == (2, 0)
        assert await store.advance([move(claim, State.WAITING)], at(61)) == [True]
        assert await self.take(store, 60.999) == []
        assert (await self.take_one(store, 61)).delivery.attempts == 1

    async def test_refunds(self, store: DeliveryStore) -> None:
        """An attempt that is refunded does not count; what had not begun has nothing to refund."""
        await store.submit(submission(to("alice")))
        claim = await self.begin(store)
        assert await store.advance([move(claim, State.WAITING, refund=True)], at(0)) == [True]
        claim = await self.take_one(store)
        assert await store.advance([move(claim, State.WAITING, refund=True)], at(0)) == [True]
        assert (await self.look(store, claim.delivery.id)).attempts == 0
        claim = await self.begin(store)
        assert await store.advance([move(claim, State.EXPIRED, refund=True)], at(0)) == [True]
        assert (await self.look(store, claim.delivery.id)).attempts == 0

    async def test_what_is_kept_with_a_state(self, store: DeliveryStore) -> None:
        """The reason is that of the last move; what the provider calls it stays until it has another name."""
        await store.submit(submission(to("alice")))
        claim = await self.begin(store)
        await store.advance([move(claim, State.ACCEPTED, reason="202", provider_id="m1")], at(0))
        await store.resolve(claim.delivery.id, State.DELIVERED, at(1))
        found = await self.look(store, claim.delivery.id)
        assert (found.reason, found.provider_id) == ("", "m1")

    async def test_every_outcome_is_listed(self, store: DeliveryStore) -> None:
        """Each attempt is listed with its outcome once; one that came too late is listed, and changes nothing."""
        await store.submit(submission(to("alice")))
        row = (await self.record_of(store))[0][0]
        first = await self.begin(store)
        await store.advance([move(first, State.WAITING, reason="503", error="try later")], at(1))
        second = await self.lapsed(store, begun=True, now=2)
        third = await self.take_one(store, 2)
        late = move(second, State.ACCEPTED, provider_id="p", reason="late")
        assert await store.advance([move(third, State.UNKNOWN), late, late], at(3)) == [True, False, False]
        listed = [
            DeliveryAttempt(row.id, at(1), 1, State.WAITING, "503", "try later", False),
            DeliveryAttempt(row.id, at(3), third.delivery.fence, State.UNKNOWN, "", "", False),
            DeliveryAttempt(row.id, at(3), second.delivery.fence, State.ACCEPTED, "late", "", True),
        ]
        found, attempts = await self.record_of(store)
        assert sorted(attempts, key=lambda each: (each.at, each.is_late)) == listed
        assert (found[0].state, found[0].provider_id) == (State.UNKNOWN, "")

    async def test_what_is_no_outcome_is_not_listed(self, store: DeliveryStore) -> None:
        """A delivery that is handed back before it was begun has no attempt, not even where that is refused."""
        await store.submit(submission(to("alice")))
        old = await self.lapsed(store, begun=False)
        new = await self.take_one(store)
        assert await store.advance([move(old, State.WAITING), move(new, State.WAITING)], at(0)) == [False, True]
        assert await store.advance([move(new, State.ACCEPTED)], at(0)) == [False]
        assert (await self.record_of(store))[1] == []
        claim = await self.begin(store)
        await store.resolve(claim.delivery.id, State.DELIVERED, at(1))
        assert await store.advance([move(claim, State.ACCEPTED)], at(2)) == [False]
        assert [(each.state, each.is_late) for each in (await self.record_of(store))[1]] == [(State.ACCEPTED, True)]

    async def test_what_was_decided_before_sending_is_not_listed(self, store: DeliveryStore) -> None:
        """A late move that was decided before sending is not listed as an attempt; a late outcome of sending is."""
        for to_state in (State.WAITING, State.EXPIRED, State.PARKED, State.UNKNOWN):
            name = f"n{to_state}"
            await store.submit(submission(to("alice", notification=name)))
            old = await self.lapsed(store, begun=False)
            claim = await self.begin(store)
            looked = replace(move(old, to_state, reason="looked"), before_sending=True)
            moves = [looked, replace(looked, before_sending=False, refund=True, reason="sent"), looked]
            assert await store.advance(moves, at(1)) == [False] * 3
            record = await store.record(name, "alice")
            assert record is not None
            (listed,) = record[3]
            assert (listed.fence, listed.reason, listed.is_late) == (old.delivery.fence, "sent", True)
            doubtful = replace(move(claim, State.UNKNOWN, reason="looked"), before_sending=True)
            assert await store.advance([doubtful], at(2)) == [True]
            record = await store.record(name, "alice")
            assert record is not None
            assert [(each.reason, each.is_late) for each in record[3]][-1] == ("looked", False)

    async def test_a_channel_becomes_its_endpoints(self, store: DeliveryStore) -> None:
        """The deliveries to endpoints take the place of that of their channel, and are claimed by themselves."""
        await store.submit(submission(to("alice", "push", priority=1)))
        claim = await self.take_one(store)
        children = [
            replace(to("alice", "push", endpoint=name, seconds=seconds, priority=1), expires_at=at(99))
            for name, seconds in (("a", 0.0), ("b", 5.0))
        ]
        expand = move(claim, State.EXPANDED, children=children)
        assert await store.advance([expand], at(1)) == [True]
        assert await store.advance([replace(expand, children=[to("alice", "push", endpoint="c")])], at(1)) == [False]
        rows, _ = await self.record_of(store)
        assert [(row.endpoint, row.state) for row in rows] == [("", State.EXPANDED), ("a", 0), ("b", 0)]
        assert rows[1:] == [replace(child, updated_at=at(1)) for child in children]
        assert [each.delivery.endpoint for each in await self.take(store, 1)] == ["a"]

    async def test_many_moves_at_once(self, store: DeliveryStore) -> None:
        """Moves of one call are made in their order, each or not; one that is never legal refuses the whole call."""
        await store.submit(submission(*(to("alice", f"c{number}") for number in range(6))))
        claims = sorted(await self.take(store), key=lambda claim: claim.delivery.channel)
        begin = [move(claim, State.SENDING) for claim in claims]
        for bad in (
            move(claims[0], State.CLAIMED),
            move(claims[0], State.BOUNCED),
            move(claims[0], State.JOINED),
            move(claims[0], State.SKIPPED, join=joining()),
            move(claims[0], State.SKIPPED, lease=60.0),
            move(claims[0], State.SKIPPED, children=[to("alice", endpoint="e")]),
            move(claims[0], State.EXPANDED, children=[to("alice", endpoint="e", seconds=None)]),
        ):
            with pytest.raises(UsageError):
                await store.advance([*begin, bad], at(0))
        assert {row.state for row in (await self.record_of(store))[0]} == {State.CLAIMED}
        both = [each for claim in claims[:3] for each in (move(claim, State.SENDING), move(claim, State.ACCEPTED))]
        early = [move(claims[3], State.ACCEPTED), move(claims[3], State.SENDING)]
        answers = await store.advance([*both, *early, move(claims[4], State.EXPIRED)], at(1))
        assert answers == [True] * 6 + [False, True, True]
        states = [row.state for row in (await self.record_of(store))[0]]
        assert states == [State.ACCEPTED] * 3 + [State.SENDING, State.EXPIRED, State.CLAIMED]
        assert await store.advance([], at(1)) == []
