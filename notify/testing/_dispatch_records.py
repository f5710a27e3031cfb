"""Tests of cancelling, of what operators do, and of removing what is old."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio.lowlevel
import pytest

from notify import ClosedError, UsageError
from notify.dispatch.abc import STOPPABLE, Move, State

from ._dispatch_base import (
    START,
    DeliveryStore,
    DeliveryStoreT,
    DispatchTests,
    at,
    channels,
    joining,
    move,
    note,
    submission,
    to,
)
from ._dispatch_strange import STRANGE_NAMES, STRANGE_NUMBERS, STRANGE_TEXTS, STRANGE_TIMES, refused


class DispatchRecordTests(DispatchTests[DeliveryStoreT]):
    """Cancelling, looking, hurrying, purging."""

    async def test_cancelling(self, store: DeliveryStore) -> None:
        """What has not begun is cancelled and counted, in each state; what has begun, or has ended, is left alone."""
        for state in State:
            row = await self.bring(store, state, state.name)
            before = await self.look(store, row.id)
            stopped = await store.cancel(state.name, at(5), reason="WITHDRAWN")
            found = await self.look(store, row.id)
            if state in STOPPABLE:
                assert stopped == 1
                assert (found.state, found.reason, found.updated_at) == (State.CANCELLED, "WITHDRAWN", at(5))
            else:
                assert (stopped, found) == (state is State.JOINED, before)
            assert await store.cancel(state.name, at(6)) == 0
            await self.finish(store)
        assert await store.cancel("unknown", at(5)) == 0

    async def test_arguments_that_no_store_takes(self, store: DeliveryStore) -> None:
        """Text that some databases cannot store, names too long to index, and values of wrong types are refused."""
        (row,) = await self.bring_all(store, State.ACCEPTED, "n", ["alice"])
        before = await self.look(store, row.id)
        for bad in STRANGE_NAMES:
            await refused(partial(store.resolve, bad, State.DELIVERED, at(1)), "id")
            await refused(partial(store.cancel, bad, at(1)), "notification")
            await refused(partial(store.cancel, "n", at(1), user=bad), "user")
            await refused(partial(store.cancel, "n", at(1), channel=bad), "channel")
            await refused(partial(store.claim, at(1), lease=1.0, channels=["email", bad]), "channels")
            await refused(partial(store.record, bad, "alice"), "notification")
            await refused(partial(store.record, "n", bad), "user")
            await refused(partial(store.delivery, bad), "id")
            await refused(partial(store.stuck, [State.ACCEPTED], after=bad), "after")
            await refused(partial(store.hurry, at(1), user=bad), "user")
            await refused(partial(store.hurry, at(1), channel=bad), "channel")
            await refused(partial(store.track, bad, "opened", at(1)), "id")
            await refused(partial(store.digest_items, bad), "digest")
            await refused(partial(store.advance, [Move(bad, 1, State.WAITING)], at(1)), "id")
        for text in STRANGE_TEXTS:
            await refused(partial(store.resolve, row.id, State.DELIVERED, at(1), reason=text), "reason")
            await refused(partial(store.resolve, row.id, State.DELIVERED, at(1), provider_id=text), "provider_id")
            await refused(partial(store.cancel, "n", at(1), reason=text), "reason")
        for moment in STRANGE_TIMES:
            await refused(partial(store.resolve, row.id, State.DELIVERED, moment), "aware")
            await refused(partial(store.cancel, "n", moment), "aware")
            await refused(partial(store.claim, moment, lease=1.0), "aware")
            await refused(partial(store.advance, [Move(row.id, 1, State.DELIVERED)], moment), "aware")
            await refused(partial(store.hurry, moment, user="alice"), "aware")
            await refused(partial(store.purge, moment), "aware")
            await refused(partial(store.track, row.id, "opened", moment), "aware")
            await refused(partial(store.close_digests, moment), "aware")
        for number in STRANGE_NUMBERS:
            await refused(partial(store.claim, at(1), lease=1.0, limit=number), "limit")
            await refused(partial(store.stuck, [State.ACCEPTED], limit=number), "limit")
            await refused(partial(store.purge, at(1), limit=number), "limit")
            await refused(partial(store.close_digests, at(1), limit=number), "limit")
            await refused(partial(store.digest_items, "n", after=number), "after")
        strange: Any = (-1.0, float("nan"), float("inf"), "1", None)
        for seconds in strange:
            await refused(partial(store.claim, at(1), lease=seconds), "lease")
        word: Any = "accepted"
        await refused(partial(store.resolve, row.id, word, at(1)), "to")
        await refused(partial(store.stuck, [word]), "states")
        await refused(partial(store.track, row.id, word, at(1)), "act")
        await refused(partial(store.claim, at(1), lease=1.0, channels="email"), "channels")
        assert await self.look(store, row.id) == before

    async def test_cancelling_takes_it_from_the_worker(self, store: DeliveryStore) -> None:
        """Who has claimed what is cancelled then cannot begin; who has begun can finish."""
        await store.submit(submission(to("alice"), to("alice", "sms")))
        email, sms = sorted(await self.take(store), key=lambda claim: claim.delivery.channel)
        await store.advance([move(sms, State.SENDING)], at(0))
        assert await store.cancel("n", at(1)) == 1
        assert await store.advance([move(email, State.SENDING), move(sms, State.ACCEPTED)], at(2)) == [False, True]
        assert await self.take(store, 10**6) == []

    async def test_cancelling_what_is_in_doubt(self, store: DeliveryStore) -> None:
        """A delivery in doubt that waits, is claimed or is parked becomes UNKNOWN, and is counted."""
        for after in STOPPABLE:
            row = await self.doubtful(store, after, after.name)
            assert await store.cancel(after.name, at(5), reason="WITHDRAWN") == 1
            found = await self.look(store, row.id)
            assert (found.state, found.reason, found.updated_at) == (State.UNKNOWN, "WITHDRAWN", at(5))
            assert await self.take(store, 10**6) == []

    async def test_cancelling_a_part(self, store: DeliveryStore) -> None:
        """One recipient, one channel, or both; what waits for a channel that is cancelled is due at once."""
        users, names = ("alice", "bob"), ("email", "push", "sms")
        await store.submit(submission(*(to(user, name, seconds=60) for user in users for name in names)))
        other = to("alice", notification="m", seconds=60)
        waiting = to("alice", "sms", notification="m", seconds=None, after="email", delay=900)
        await store.submit(submission(other, waiting))
        assert await store.cancel("n", at(0), user="alice", channel="push") == 1
        assert await store.cancel("n", at(0), user="alice") == 2
        assert await store.cancel("n", at(0), channel="sms") == 1
        assert await store.cancel("m", at(7), channel="email") == 1
        assert await self.due_at(store, waiting) == 7
        assert sorted(channels(await self.take(store, 60))) == ["email", "push", "sms"]
        assert await store.cancel("m", at(7)) == 1

    async def test_cancelling_leaves_digests(self, store: DeliveryStore) -> None:
        """A notification that waits in an open digest leaves it; one that is sent over other channels too stays."""
        await store.submit(submission(joining(), joining(key="two", channels=("email", "push"))))
        await store.submit(submission(joining(notification="m")))
        await store.submit(submission(joining("bob", key="bob")))
        assert await store.cancel("n", at(1), channel="email", user="alice") == 1
        assert await store.cancel("n", at(1), channel="email", user="carol") == 0
        assert await store.cancel("n", at(1), channel="push") == 0
        for user in ("bob", None):
            assert await store.cancel("n", at(1), user=user, joins=False) == 0
        assert await store.cancel("n", at(1), user="bob") == 1
        assert await store.cancel("n", at(1)) == 1
        assert await store.cancel("n", at(1)) == 0
        await store.submit(submission(joining(notification="o", key="two", channels=("email", "push"))))
        assert await store.close_digests(at(7200)) == 3
        found = {
            (claim.delivery.user, *(item.notification.id for item in await store.digest_items(claim.notification.id)))
            for claim in await self.take(store, 7200)
        }
        assert found == {("alice", "m"), ("alice", "o"), ("bob",)}
        assert await store.cancel("m", at(7201)) == 0

    async def test_what_is_stuck(self, store: DeliveryStore) -> None:
        """Deliveries in given states are listed by id, page by page."""
        failed = [await self.bring(store, State.FAILED, f"f{number}") for number in range(5)]
        parked = await self.bring(store, State.PARKED, "p")
        assert await store.stuck([]) == []
        assert [each.id for each in await store.stuck([State.PARKED])] == [parked.id]
        both = sorted(row.id for row in [*failed, parked])
        found: list[str] = []
        while page := await store.stuck([State.FAILED, State.PARKED], after=found[-1] if found else "", limit=4):
            found += [each.id for each in page]
            await anyio.lowlevel.checkpoint()
        assert found == both
        assert await self.look(store, parked.id) in await store.stuck([State.PARKED])

    async def test_hurrying(self, store: DeliveryStore) -> None:
        """What a user or a channel waits for is due now, but not what waits for another channel, or for its delay."""
        rows = [
            to("alice", "email", seconds=900),
            to("alice", "push", seconds=0),
            to("alice", "sms", seconds=None, after="email"),
            to("bob", "email", seconds=900),
        ]
        await store.submit(submission(*rows))
        delayed = to("alice", "sms", notification="m", seconds=None, after="push", delay=900)
        await store.submit(submission(to("alice", "push", notification="m", seconds=-1), delayed))
        claim = await self.take_one(store, -1)
        await store.advance([move(claim, State.SENDING), move(claim, State.ACCEPTED)], at(0))
        assert await store.hurry(at(10), user="alice") == 1
        due = [await self.due_at(store, row) for row in (*rows, delayed)]
        assert due == [10, 0, None, 900, 900]
        assert await store.hurry(at(20), channel="email") == 1
        assert await self.due_at(store, rows[3]) == 20
        assert await store.hurry(at(20), user="alice", channel="push") == 0
        with pytest.raises(UsageError, match="user= or channel="):
            await store.hurry(at(20))
        held = await self.take_one(store, 900, channels=["sms"])
        await store.advance([move(held, State.WAITING, due_at=at(5000))], at(900))
        assert await store.hurry(at(901), user="alice") == 1
        assert await self.due_at(store, delayed) == 901
        tried = await self.take_one(store, 901, channels=["sms"])
        await store.advance([move(tried, State.SENDING), move(tried, State.WAITING, due_at=at(9000))], at(901))
        assert await store.hurry(at(902), user="alice") == 0, "a retry does not come sooner because a user is hurried"
        assert await self.due_at(store, delayed) == 9000
        assert await store.hurry(at(902), user="alice", channel="sms") == 1
        assert await self.due_at(store, delayed) == 902

    async def test_hurrying_what_is_parked(self, store: DeliveryStore) -> None:
        """Parked deliveries wait again when their channel is hurried, not when a user is."""
        parked = await self.bring(store, State.PARKED, "n")
        other = await self.bring(store, State.PARKED, "m", channel="sms")
        failed = await self.bring(store, State.FAILED, "f")
        assert await store.hurry(at(5), user="alice") == 0
        assert await store.hurry(at(5), channel="email", user="bob") == 0
        assert await store.hurry(at(5), channel="email") == 1
        states = [(await self.look(store, row.id)).state for row in (parked, other, failed)]
        assert states == [State.WAITING, State.PARKED, State.FAILED]
        assert await self.due_at(store, parked) == 5

    async def test_purging(self, store: DeliveryStore) -> None:
        """What is old, and done with, is removed with all that belongs to it, no more at once than the limit."""
        for number in range(5):
            await self.bring(store, State.ACCEPTED, f"old {number}")
        open_row = await self.bring(store, State.SENDING, "open")
        expanded = await self.bring(store, State.EXPANDED, "no child left")
        rows = submission(to("alice", notification="young"), notification=note("young", created_at=at(50)))
        await store.submit(rows)
        assert await store.purge(START) == 0
        assert await store.purge(at(50), limit=4) == 4
        assert await store.purge(at(50), limit=4) == 2
        assert await store.purge(at(50)) == 0
        assert await store.record("old 0", "alice") is None
        assert await store.delivery(expanded.id) is None
        assert await store.stuck([State.ACCEPTED]) == []
        assert await store.delivery(open_row.id) is not None
        await store.submit(submission(to("alice", notification="old 0")))
        found = await store.record("old 0", "alice")
        assert found is not None
        assert [*found[3]] == []
        assert await store.purge(at(51)) == 0

    async def test_purging_spares_digests(self, store: DeliveryStore) -> None:
        """What a digest has collected stays until the digest has been sent; then both go."""
        await store.submit(submission(joining()))
        assert await store.purge(at(10**6)) == 0
        assert await store.close_digests(at(3600)) == 1
        assert await store.purge(at(10**6)) == 0
        claim = await self.begin(store, 3600)
        assert await store.purge(at(10**6)) == 0
        assert len(await store.digest_items(claim.notification.id)) == 1
        await store.advance([move(claim, State.ACCEPTED)], at(3600))
        assert await store.purge(at(10**6), limit=1) == 1
        assert await store.purge(at(10**6)) == 1
        assert await store.digest_items(claim.notification.id) == []
        await store.submit(submission(joining(closes=7200.0), notification=note(created_at=at(3601))))
        assert await store.close_digests(at(7200)) == 1
        again = await self.take_one(store, 7200)
        assert again.notification.id != claim.notification.id

    async def test_purging_keys(self, store: DeliveryStore) -> None:
        """A key is removed once its time is over; one that has no end stays, with the answer that it gives."""
        await self.bring(store, State.ACCEPTED, "n")
        for name, until in (("short", at(60)), ("long", None)):
            rows = submission(key=name, fingerprint="f", keep_until=until, notification=note())
            await store.submit(rows)
        await store.purge(at(60))
        late = submission(key="short", fingerprint="g", notification=note("m", created_at=at(59)))
        with pytest.raises(UsageError):
            await store.submit(late)
        await store.purge(at(60.001))
        assert not (await store.submit(late)).is_replay
        kept = submission(key="long", fingerprint="f", notification=note("m"))
        assert (await store.submit(kept)).notification == "n"

    async def test_the_end(self, store: DeliveryStore) -> None:
        """After `aclose`, which may be repeated, every method raises ClosedError."""
        await store.submit(submission(to("alice")))
        claim = await self.take_one(store)
        for _ in range(2):
            await store.aclose()
        for call in (
            partial(store.submit, submission(to("alice"))),
            partial(store.claim, START, lease=1.0),
            partial(store.advance, [move(claim, State.SENDING)], START),
            partial(store.resolve, "n", State.DELIVERED, START),
            partial(store.cancel, "n", START),
            partial(store.record, "n", "alice"),
            partial(store.delivery, "n"),
            partial(store.stuck, [State.FAILED]),
            partial(store.hurry, START, user="alice"),
            partial(store.purge, START),
            partial(store.track, "n", "opened", START),
            partial(store.close_digests, START),
            partial(store.digest_items, "n"),
        ):
            with pytest.raises(ClosedError):
                await call()
