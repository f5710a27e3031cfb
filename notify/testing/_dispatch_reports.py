"""Tests of reports that need no claim, of what recipients do, and of what waits for another channel."""

from __future__ import annotations

from dataclasses import replace

import anyio

from notify.dispatch.abc import LATER, OUTCOMES, STOPPABLE, Delivery, Move, State

from ._dispatch_base import DeliveryStore, DeliveryStoreT, DispatchTests, at, joining, move, note, submission, to


class DispatchReportTests(DispatchTests[DeliveryStoreT]):
    """Reports that need no claim, and what recipients do."""

    async def test_what_is_reported_later(self, store: DeliveryStore) -> None:
        """In each state a report is accepted if the table allows the step; otherwise it changes nothing."""
        steps = sorted({state for states in LATER.values() for state in states})
        for before in State:
            rows = await self.bring_all(store, before, before.name, [state.name for state in steps])
            for row, after in zip(rows, steps, strict=True):
                name, seen = f"{before.name} {after.name}", await self.look(store, row.id)
                found = await store.resolve(row.id, after, at(5), reason="r", provider_id="p")
                assert found == await self.look(store, row.id)
                assert found is not None
                if after in LATER.get(before, ()):
                    assert (found.state, found.reason, found.provider_id) == (after, "r", "p"), name
                    assert found.updated_at == at(5)
                    assert found.due_at == (at(5) if after is State.WAITING else seen.due_at)
                else:
                    assert found == seen, name
            await self.finish(store)
        assert await store.resolve("unknown", State.DELIVERED, at(5)) is None

    async def test_a_report_overtakes_the_worker(self, store: DeliveryStore) -> None:
        """What the provider reports while a worker still sends is final for the worker, too."""
        row = await self.bring(store, State.SENDING, "n")
        fence = (await self.look(store, row.id)).fence
        await store.resolve(row.id, State.DELIVERED, at(1), provider_id="p")
        assert await store.advance([Move(row.id, fence, State.WAITING, provider_id="q")], at(2)) == [False]
        found = await self.look(store, row.id)
        assert (found.state, found.provider_id) == (State.DELIVERED, "p")
        assert await self.take(store, 10**6) == []

    async def test_a_report_on_what_is_in_doubt(self, store: DeliveryStore) -> None:
        """A report ends a delivery in doubt that waits, is claimed or is parked: it is not sent again."""
        for before in sorted(STOPPABLE):
            for after in sorted(LATER[State.SENDING]):
                row = await self.doubtful(store, before, f"{before.name} {after.name}")
                found = await store.resolve(row.id, after, at(4), reason="r", provider_id="p")
                assert found is not None
                assert (found.state, found.reason, found.provider_id) == (after, "r", "p")
                assert await store.advance([Move(row.id, row.fence, State.SENDING)], at(5)) == [False]
                assert await self.take(store, 10**6) == []

    async def test_reports_at_the_same_time(self, store: DeliveryStore) -> None:
        """Contradicting ones, each several times: one of them is final, and no report moves the delivery back."""
        steps = (State.ACCEPTED, State.DELIVERED, State.BOUNCED, State.FAILED) * 2
        rows = await self.bring_all(store, State.UNKNOWN, "n", [str(number) for number in range(5)])
        for row in rows:
            found: list[Delivery | None] = []

            async def report(to: State, row: Delivery = row, found: list[Delivery | None] = found) -> None:
                found.append(await store.resolve(row.id, to, at(5), reason=to.name, provider_id=to.name))

            async with anyio.create_task_group() as tasks:
                for step in steps:
                    tasks.start_soon(report, step)
            final = await self.look(store, row.id)
            assert final.state in (State.DELIVERED, State.BOUNCED, State.FAILED)
            assert (final.reason, final.provider_id) == (final.state.name, final.state.name)
            for each in found:
                assert each is not None
                assert each.state is State.ACCEPTED or each == final

    async def test_opened_and_clicked(self, store: DeliveryStore) -> None:
        """The first time counts, in any state; who clicks has opened."""
        row = await self.bring(store, State.ACCEPTED, "n")
        opened = await store.track(row.id, "opened", at(5))
        assert opened is not None
        assert (opened.opened_at, opened.clicked_at, opened.state) == (at(5), None, State.ACCEPTED)
        clicked = await store.track(row.id, "clicked", at(6))
        assert clicked == replace(opened, clicked_at=at(6))
        for act in ("opened", "clicked"):
            assert await store.track(row.id, act, at(7)) == clicked
        other = await self.bring(store, State.SENDING, "m")
        found = await store.track(other.id, "clicked", at(8))
        assert found is not None
        assert (found.opened_at, found.clicked_at) == (at(8), at(8))
        assert found == await self.look(store, other.id)
        assert await store.track("unknown", "opened", at(8)) is None

    async def test_what_waits_for_a_channel(self, store: DeliveryStore) -> None:
        """After a success it is due when its delay is over, after any other end at once, and not before either."""
        for state in sorted(OUTCOMES - {State.WAITING} | {State.SKIPPED, State.JOINED}):
            name = f"n {state.name}"
            first = to("alice", "push", notification=name)
            second = to("alice", "email", notification=name, seconds=None, after="push", delay=900.5)
            await store.submit(submission(first, second))
            claim = await self.take_one(store)
            assert await self.due_at(store, second) is None
            if state in OUTCOMES:
                assert await store.advance([move(claim, State.SENDING)], at(1)) == [True]
                assert await self.due_at(store, second) is None
            join = joining(notification=name, key=name) if state is State.JOINED else None
            assert await store.advance([move(claim, state, join=join)], at(10)) == [True]
            expected = {State.PARKED: None}.get(state, 10.0)
            if state in (State.ACCEPTED, State.DELIVERED, State.UNKNOWN):
                expected = 910.5
            assert await self.due_at(store, second) == expected, state.name
            await self.finish(store)

    async def test_what_waits_for_several_devices(self, store: DeliveryStore) -> None:
        """The first success counts; as long as one may still come, failures of others do not."""
        first = to("alice", "push")
        second = to("alice", "email", seconds=None, after="push", delay=60)
        other = to("bob", "email", seconds=None, after="push", delay=60)
        await store.submit(submission(first, second, to("bob", "push", seconds=10**6), other))
        claim = await self.take_one(store)
        children = [to("alice", "push", endpoint=name) for name in "abcd"]
        await store.advance([move(claim, State.EXPANDED, children=children)], at(0))
        assert await self.due_at(store, second) is None
        a, b, c, d = sorted(await self.take(store), key=lambda each: each.delivery.endpoint)
        await store.advance([move(each, State.SENDING) for each in (a, b, c)], at(0))
        await store.advance([move(a, State.GONE)], at(1))
        await store.advance([move(d, State.SKIPPED)], at(1))
        assert await self.due_at(store, second) is None
        await store.advance([move(b, State.ACCEPTED)], at(2))
        await store.advance([move(c, State.ACCEPTED)], at(30))
        assert await self.due_at(store, second) == 62
        await store.resolve(b.delivery.id, State.BOUNCED, at(31))
        assert await self.due_at(store, second) == 62
        await store.resolve(c.delivery.id, State.BOUNCED, at(32))
        assert await self.due_at(store, second) == 32
        assert await self.due_at(store, other) is None

    async def test_the_last_device_fails(self, store: DeliveryStore) -> None:
        """When all devices have failed, what waits is due at once; an operator's step counts as a worker's."""
        second = to("alice", "email", seconds=None, after="push", delay=60)
        await store.submit(submission(to("alice", "push"), second))
        claim = await self.take_one(store)
        children = [to("alice", "push", endpoint=name) for name in "abc"]
        await store.advance([move(claim, State.EXPANDED, children=children)], at(0))
        a, b, c = sorted(await self.take(store), key=lambda each: each.delivery.endpoint)
        await store.advance([move(each, State.SENDING) for each in (a, b, c)], at(0))
        await store.advance([move(a, State.FAILED), move(b, State.UNKNOWN), move(c, State.PARKED)], at(1))
        assert await self.due_at(store, second) == 61
        await store.resolve(b.delivery.id, State.FAILED, at(2))
        assert await self.due_at(store, second) == 61
        await store.resolve(c.delivery.id, State.CANCELLED, at(3))
        assert await self.due_at(store, second) == 3

    async def test_what_a_worker_has_had_does_not_wait(self, store: DeliveryStore) -> None:
        """A fallback that was claimed and held is no longer moved by what becomes of the first channel."""
        first, second = to("alice", "push"), to("alice", "email", seconds=None, after="push")
        await store.submit(submission(first, second))
        claim = await self.begin(store)
        await store.advance([move(claim, State.ACCEPTED)], at(1))
        held = await self.take_one(store, 1)
        await store.advance([move(held, State.WAITING, due_at=at(500), reason="QUIET_HOURS")], at(1))
        await store.resolve(first.id, State.BOUNCED, at(2))
        assert await self.due_at(store, second) == 500
        assert note("n") == (await self.take_one(store, 500)).notification
