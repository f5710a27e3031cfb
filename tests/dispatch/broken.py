"""Stores of deliveries with one bug each, and the tests of the suites that must notice it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from inspect import unwrap
from typing import Any, NamedTuple

import anyio.lowlevel

from notify import Guarantees, UsageError
from notify.dispatch.abc import (
    STOPPABLE,
    CapWindow,
    Claim,
    Delivery,
    DeliveryAttempt,
    DigestJoin,
    Endpoint,
    Move,
    State,
    Submission,
    Submitted,
)
from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore
from notify_memory._dispatch_digests import MemoryDigests


class Bug(NamedTuple):
    """A broken store, and a test that fails on it."""

    part: type[MemoryDispatchStore]
    test: str

    def __str__(self) -> str:
        return f"{self.part.__name__}-{self.test}"


BUGS: list[Bug] = []

Store = type[MemoryDispatchStore]


def caught_by(*tests: str) -> Callable[[Store], Store]:
    """Enter a broken store into the table."""

    def enter(part: Store) -> Store:
        BUGS.extend(Bug(part, f"test_{test}") for test in tests)
        return part

    return enter


class Kept(MemoryDispatchStore):
    """A store of which a second one can be had, on the same data; it outlives both."""

    guarantees = Guarantees(durable=True, shared=True)

    def sibling(self) -> Any:
        """Return another store on the same data."""
        other = type(self)(clock=self._clock)
        guard, check = other._guard, other._check
        other.__dict__.update(self.__dict__)
        other._guard, other._check = guard, check
        other._digests = self._digests
        return other

    def _update(self, id: str, **changes: Any) -> None:
        self._rows[id].delivery = replace(self._rows[id].delivery, **changes)


# -- submitting ------------------------------------------------------------------------------------------------------


@caught_by("what_is_submitted_is_read")
class KeepsMicroseconds(Kept):
    def _add(self, deliveries: Any, now: datetime) -> None:
        given = list(deliveries)
        super()._add(given, now)
        for each in given:
            self._update(each.id, due_at=each.due_at)


@caught_by("a_recipient_is_submitted_once", "many_moves_at_once")
class AddsToWhatThereIs(Kept):
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        for each in submission.deliveries:
            self._records.pop((each.notification, each.user), None)
            self._rows.drop([each.id])
        return await super().submit(submission, connection=connection)

    async def advance(self, moves: Sequence[Move], now: datetime) -> Sequence[bool]:
        made = []
        for move in moves:
            made += await super().advance([move], now)
        return made


@caught_by("one_recipient_of_several_parts")
class SendsTwiceWherePartsOverlap(Kept):
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        known = [each for each in submission.deliveries if (each.notification, each.user) in self._records]
        self._add([replace(each, id=f"{each.id} again") for each in known], submission.notification.created_at)
        return await super().submit(submission, connection=connection)


@caught_by("a_repeated_key_stores_nothing", "keys_are_shared", "everything_survives", "purging_keys")
class ForgetsKeys(Kept):
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        self._keys.clear()
        return await super().submit(submission, connection=connection)


@caught_by("a_key_is_forgotten_in_time")
class KeepsKeys(Kept):
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        return await super().submit(replace(submission, keep_until=None), connection=connection)


@caught_by("a_refused_submission_leaves_no_key")
class TakesTheKeyFirst(Kept):
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        if submission.key is not None:
            await super().submit(replace(submission, deliveries=(), joins=(), recipients=()))
        return await super().submit(submission, connection=connection)


@caught_by("an_audience_in_parts")
class TakesPartsForReplays(Kept):
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        known = (submission.tenant, submission.key or "") in self._keys
        return await super().submit(replace(submission, cursor=None) if known else submission, connection=connection)


@caught_by("a_recipient_without_deliveries")
class KeepsOnlyThoseWhoGetIt(Kept):
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        users = {each.user for each in (*submission.deliveries, *submission.joins)}
        kept = [each for each in submission.recipients if each.user in users]
        return await super().submit(replace(submission, recipients=kept), connection=connection)


@caught_by("a_final_delivery_is_kept")
class TakesAllAsWaiting(Kept):
    def _add(self, deliveries: Any, now: datetime) -> None:
        super()._add([replace(each, state=State.WAITING, due_at=each.due_at or now) for each in deliveries], now)


@caught_by("many_recipients")
class TakesFiveHundred(Kept):
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        users = [each.user for each in submission.recipients[:500]]
        rows = [each for each in submission.deliveries if each.user in users]
        joins = [each for each in submission.joins if each.user in users]
        part = replace(submission, recipients=submission.recipients[:500], deliveries=rows, joins=joins)
        return await super().submit(part, connection=connection)


@caught_by("one_of_equal_submissions_is_stored", "one_key_for_many_users")
class LooksFirst(Kept):
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        kept = self._keys.get((submission.tenant, submission.key or ""))
        await anyio.lowlevel.checkpoint()
        if kept is None:
            self._keys.pop((submission.tenant, submission.key or ""), None)
        return await super().submit(submission, connection=connection)


# -- claiming --------------------------------------------------------------------------------------------------------


@caught_by("what_is_due_is_claimed")
class ClaimsEarly(Kept):
    async def claim(self, now: datetime, **more: Any) -> Sequence[Claim]:
        return await super().claim(now + timedelta(milliseconds=1), **more)


@caught_by("the_most_urgent_first")
class InOrderOfTime(Kept):
    async def claim(self, now: datetime, **more: Any) -> Sequence[Claim]:
        for id, row in self._rows.items():
            self._update(id, priority=-row.delivery.priority)
        return await super().claim(now, **more)


@caught_by("some_channels_only")
class NoChannelsIsAll(Kept):
    async def claim(
        self, now: datetime, *, lease: float, limit: int = 50, channels: Sequence[str] | None = None
    ) -> Sequence[Claim]:
        return await super().claim(now, lease=lease, limit=limit, channels=channels or None)


@caught_by("a_lease_that_ended_is_claimed_again", "workers_share", "a_worker_joins")
class KeepsTheFence(Kept):
    async def claim(self, now: datetime, **more: Any) -> Sequence[Claim]:
        claims = await super().claim(now, **more)
        for claim in claims:
            self._update(claim.delivery.id, fence=1)
        return [replace(claim, delivery=replace(claim.delivery, fence=1)) for claim in claims]


@caught_by("what_had_begun_is_ambiguous", "an_ambiguous_one_is_sent_again_or_given_up")
class TakesTheBegunForNew(Kept):
    async def claim(self, now: datetime, **more: Any) -> Sequence[Claim]:
        claims = await super().claim(now, **more)
        for claim in claims:
            self._update(claim.delivery.id, state=State.CLAIMED)
        return [
            replace(claim, is_ambiguous=False, delivery=replace(claim.delivery, state=State.CLAIMED))
            for claim in claims
        ]


@caught_by("leases_do_not_follow_policy")
class LeasesByPolicy(Kept):
    async def claim(self, now: datetime, **more: Any) -> Sequence[Claim]:
        self._clock = now.timestamp
        return await super().claim(now, **more)


@caught_by("what_is_final_is_never_claimed", "a_report_overtakes_the_worker")
class RetriesTheUnknown(Kept):
    async def claim(self, now: datetime, **more: Any) -> Sequence[Claim]:
        for id, row in self._rows.items():
            if row.delivery.state in (State.UNKNOWN, State.DELIVERED):
                self._update(id, state=State.WAITING, due_at=now)
        return await super().claim(now, **more)


@caught_by("nothing_is_claimed_twice")
class LooksAndThenTakes(Kept):
    async def claim(self, now: datetime, **more: Any) -> Sequence[Claim]:
        before = {id: replace(row) for id, row in self._rows.items()}
        claims = await super().claim(now, **more)
        taken = {claim.delivery.id: self._rows[claim.delivery.id] for claim in claims}
        self._rows |= {id: before[id] for id in taken}
        await anyio.lowlevel.checkpoint()
        self._rows |= taken
        return claims


# -- moving ----------------------------------------------------------------------------------------------------------


@caught_by("the_state_table")
class SkipsWhatIsBeingSent(Kept):
    def _make(self, move: Move, now: datetime) -> bool:
        row = self._rows.get(move.id)
        if row is not None and move.to is State.SKIPPED and row.delivery.state is State.SENDING:
            self._update(move.id, state=State.CLAIMED)
        return super()._make(move, now)


@caught_by("only_the_latest_claim_counts")
class TakesMovesOfOlderClaims(Kept):
    def _make(self, move: Move, now: datetime) -> bool:
        row = self._rows.get(move.id)
        if row is not None and 0 < move.fence < row.delivery.fence:
            move = replace(move, fence=row.delivery.fence)
        return super()._make(move, now)


@caught_by("a_repeated_move_is_refused", "interrupted_calls")
class BeginsAgain(Kept):
    def _make(self, move: Move, now: datetime) -> bool:
        row = self._rows.get(move.id)
        if row is not None and row.delivery.fence == move.fence:
            row.begun = 0
        return super()._make(move, now)


@caught_by("beginning_renews_the_lease")
class KeepsTheFirstLease(Kept):
    async def advance(self, moves: Sequence[Move], now: datetime) -> Sequence[bool]:
        return await super().advance([replace(each, lease=None) for each in moves], now)


@caught_by("sending_needs_a_lease")
class BeginsLate(Kept):
    def _make(self, move: Move, now: datetime) -> bool:
        if move.id in self._rows:
            self._rows[move.id].lease_until = self._now() + 60_000
        return super()._make(move, now)


@caught_by("waiting_again")
class WaitsForNothing(Kept):
    def _make(self, move: Move, now: datetime) -> bool:
        return super()._make(replace(move, due_at=None), now)


@caught_by("refunds")
class RefundsAnything(Kept):
    def _make(self, move: Move, now: datetime) -> bool:
        is_made = super()._make(replace(move, refund=False), now)
        if is_made and move.refund:
            self._update(move.id, attempts=self._rows[move.id].delivery.attempts - 1)
        return is_made


@caught_by("what_is_kept_with_a_state")
class ForgetsTheProvider(Kept):
    def _enter(
        self, row: Any, to: State, now: datetime, reason: str, provider_id: str = "", due_at: datetime | None = None
    ) -> None:
        super()._enter(row, to, now, reason, provider_id, due_at)
        row.delivery = replace(row.delivery, provider_id=provider_id)


@caught_by("every_outcome_is_listed")
class ListsWhatWasMade(Kept):
    def _make(self, move: Move, now: datetime) -> bool:
        is_made = super()._make(move, now)
        if not is_made:
            self._attempts.pop((move.id, move.fence), None)
        return is_made


@caught_by("what_was_decided_before_sending_is_not_listed")
class TakesAnyMoveForAnOutcome(Kept):
    def _make(self, move: Move, now: datetime) -> bool:
        return super()._make(replace(move, before_sending=False), now)


@caught_by("what_is_no_outcome_is_not_listed")
class ListsEverything(Kept):
    def _make(self, move: Move, now: datetime) -> bool:
        outcome = DeliveryAttempt(move.id, now, move.fence, move.to, move.reason, move.error, False)
        self._attempts.setdefault((move.id, move.fence), outcome)
        return super()._make(move, now)


@caught_by("a_channel_becomes_its_endpoints")
class KeepsTheChannel(Kept):
    def _make(self, move: Move, now: datetime) -> bool:
        is_made = super()._make(move, now)
        self._add(move.children, now)
        return is_made


@caught_by("one_of_two_moves_is_made")
class AsksAndThenMoves(Kept):
    async def advance(self, moves: Sequence[Move], now: datetime) -> Sequence[bool]:
        states = [self._rows[move.id].delivery.state for move in moves if move.id in self._rows]
        await anyio.lowlevel.checkpoint()
        for move, state in zip(moves, states, strict=False):
            self._update(move.id, state=state)
            self._rows[move.id].begun = 0
        return await super().advance(moves, now)


# -- reports, and what waits -----------------------------------------------------------------------------------------


@caught_by("what_is_reported_later")
class BelievesEveryReport(Kept):
    async def resolve(
        self, id: str, to: State, now: datetime, *, reason: str = "", provider_id: str = ""
    ) -> Delivery | None:
        if id in self._rows and to is State.DELIVERED:
            self._update(id, state=State.ACCEPTED)
        return await super().resolve(id, to, now, reason=reason, provider_id=provider_id)


@caught_by("a_report_on_what_is_in_doubt", "cancelling_what_is_in_doubt")
class ForgetsTheDoubt(Kept):
    async def claim(self, now: datetime, **more: Any) -> Sequence[Claim]:
        claims = await super().claim(now, **more)
        for claim in claims:
            self._update(claim.delivery.id, reason="")
        return [replace(claim, delivery=replace(claim.delivery, reason="")) for claim in claims]


@caught_by("a_report_on_what_is_in_doubt")
class SendsWhatHasArrived(Kept):
    async def resolve(
        self, id: str, to: State, now: datetime, *, reason: str = "", provider_id: str = ""
    ) -> Delivery | None:
        if id in self._rows and self._rows[id].delivery.state in (State.WAITING, State.CLAIMED):
            return self._rows[id].delivery
        return await super().resolve(id, to, now, reason=reason, provider_id=provider_id)


@caught_by("cancelling_what_is_in_doubt")
class CallsItCancelled(Kept):
    async def cancel(self, notification: str, now: datetime, **more: Any) -> int:
        for id, row in self._rows.items():
            if row.delivery.notification == notification and row.delivery.state in STOPPABLE:
                self._update(id, reason="")
        return await super().cancel(notification, now, **more)


@caught_by(
    "arguments_that_no_store_takes",
    "arguments_for_preferences_that_no_store_takes",
    "arguments_for_endpoints_that_no_store_takes",
    "arguments_for_caps_that_no_store_takes",
    "arguments_for_gates_that_no_store_takes",
)
class TakesAnything(Kept):
    resolve = unwrap(MemoryDispatchStore.resolve)
    patch = unwrap(MemoryDispatchStore.patch)
    register = unwrap(MemoryDispatchStore.register)
    admit = unwrap(MemoryDispatchStore.admit)
    close_gate = unwrap(MemoryDispatchStore.close_gate)


@caught_by("reports_at_the_same_time")
class LooksBeforeItWrites(Kept):
    async def resolve(
        self, id: str, to: State, now: datetime, *, reason: str = "", provider_id: str = ""
    ) -> Delivery | None:
        seen = self._rows[id].delivery.state if id in self._rows else None
        await anyio.lowlevel.checkpoint()
        if seen is not None:
            self._update(id, state=seen)
        return await super().resolve(id, to, now, reason=reason, provider_id=provider_id)


@caught_by("opened_and_clicked")
class TheLastTimeCounts(Kept):
    async def track(self, id: str, act: Any, now: datetime) -> Delivery | None:
        if id in self._rows:
            self._update(id, opened_at=None)
        return await super().track(id, act, now)


@caught_by("what_waits_for_a_channel", "what_waits_for_several_devices", "the_last_device_fails")
class NeverWakes(Kept):
    def _settle(self, changed: Delivery, now: datetime) -> None:
        pass


@caught_by("what_waits_is_not_overlooked")
class ForgetsTheLast(Kept):
    def _settle(self, changed: Delivery, now: datetime) -> None:
        if changed.state is not State.FAILED:
            super()._settle(changed, now)


@caught_by("what_a_worker_has_had_does_not_wait", "hurrying")
class WakesTheHeld(Kept):
    def _settle(self, changed: Delivery, now: datetime) -> None:
        super()._settle(changed, now)
        for each in self._rows.of(changed.notification, changed.user):
            if each.after == changed.channel and each.state is State.WAITING and each.fence:
                self._update(each.id, due_at=now)

    async def hurry(self, now: datetime, *, user: str | None = None, channel: str | None = None) -> int:
        for id, row in self._rows.items():
            if row.delivery.state is State.WAITING:
                self._update(id, after="")
        return await super().hurry(now, user=user, channel=channel)


# -- records ---------------------------------------------------------------------------------------------------------


@caught_by("cancelling", "cancelling_takes_it_from_the_worker")
class CancelsWhatIsBeingSent(Kept):
    async def cancel(self, notification: str, now: datetime, **more: Any) -> int:
        for id, row in self._rows.items():
            if row.delivery.notification == notification and row.delivery.state is State.SENDING:
                self._update(id, state=State.CLAIMED)
        return await super().cancel(notification, now, **more)


@caught_by("cancelling_a_part", "cancelling_leaves_digests")
class CancelsAll(Kept):
    async def cancel(self, notification: str, now: datetime, **more: Any) -> int:
        return await super().cancel(notification, now)


@caught_by("what_is_stuck")
class RepeatsThePage(Kept):
    async def stuck(self, states: Sequence[State], *, after: str = "", limit: int = 100) -> Sequence[Delivery]:
        return [*reversed(await super().stuck(states, after=after, limit=limit))]


@caught_by("hurrying_what_is_parked")
class LeavesTheParked(Kept):
    async def hurry(self, now: datetime, *, user: str | None = None, channel: str | None = None) -> int:
        if user is None:
            return await super().hurry(now, user="", channel=channel)
        return await super().hurry(now, user=user, channel=channel)


@caught_by("purging")
class PurgesAtOnce(Kept):
    async def purge(self, before: datetime, *, limit: int = 500) -> int:
        return await super().purge(before)


class _Needless(MemoryDigests):
    def needed(self, busy: Any) -> set[str]:
        return set()


@caught_by("purging_spares_digests")
class PurgesWhatDigestsNeed(Kept):
    async def purge(self, before: datetime, *, limit: int = 500) -> int:
        self._digests.__class__ = _Needless
        return await super().purge(before, limit=limit)


@caught_by(
    *("the_end", "a_closed_store_has_no_preferences", "a_closed_store_has_no_endpoints"),
    *("a_closed_store_counts_nothing", "a_closed_store_has_no_gates"),
)
class NeverCloses(Kept):
    async def aclose(self) -> None:
        pass


# -- digests ---------------------------------------------------------------------------------------------------------


class WithDigests(Kept):
    """A store whose digests do something else with a join."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        proper = self._digests.join
        self._digests.join = lambda join, now: self.change(proper, join, now)  # type: ignore[method-assign]

    def change(self, proper: Any, join: DigestJoin, now: datetime) -> None:
        """Do something else."""
        proper(join, now)


@caught_by("a_digest_is_closed_when_due", "closing_in_parts", "a_fixed_end_stays", "quiet_hours_keep_it_open")
class ClosesEarly(Kept):
    async def close_digests(self, now: datetime, *, limit: int = 50) -> int:
        return await super().close_digests(now + timedelta(hours=1))


@caught_by("two_generations_at_the_same_time")
class NumbersByTime(Kept):
    async def close_digests(self, now: datetime, *, limit: int = 50) -> int:
        self._digests._generations.clear()
        return await super().close_digests(now, limit=limit)


@caught_by("joining_twice_changes_nothing")
class JoinsEachGeneration(WithDigests):
    def change(self, proper: Any, join: DigestJoin, now: datetime) -> None:
        for digest in self._digests._digests.values():
            if digest.key == join.key and not digest.is_open and join.notification in digest.items:
                digest.items = {f"{name} ": at for name, at in digest.items.items()}
        self._notifications |= {f"{id} ": each for id, each in self._notifications.items()}
        proper(join, now)


@caught_by("a_sliding_end")
class SlidesOnAndOn(WithDigests):
    def change(self, proper: Any, join: DigestJoin, now: datetime) -> None:
        slides = None if join.slides_until is None else 10.0**6
        proper(replace(join, slides_until=slides), now)


@caught_by("the_limit_closes", "digests_at_the_same_time")
class ClosesLater(WithDigests):
    def change(self, proper: Any, join: DigestJoin, now: datetime) -> None:
        proper(replace(join, limit=None), now)


@caught_by("the_address_that_was_given")
class ForgetsAddresses(Kept):
    def _address_of(self, notification: str, user: str) -> bytes:
        return b""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._digests._address_of = self._address_of


@caught_by("a_long_digest_in_pages")
class OnePage(Kept):
    async def digest_items(
        self, digest: str, *, after: int = 0, limit: int = 500, channel: str | None = None
    ) -> Sequence[Any]:
        return await super().digest_items(digest, after=0, limit=limit, channel=channel)


@caught_by("what_a_digest_has_collected_with_the_ids_of_providers")
class NamesNoProvider(Kept):
    async def digest_items(self, digest: str, **options: Any) -> Sequence[Any]:
        return await super().digest_items(digest, **{**options, "channel": None})


@caught_by("an_empty_digest_has_its_notification")
class DropsTheEmpty(Kept):
    async def close_digests(self, now: datetime, *, limit: int = 50) -> int:
        for id, digest in list(self._digests._digests.items()):
            if digest.is_open and {*digest.items} == digest.left:
                del self._digests._digests[id]
        return await super().close_digests(now, limit=limit)


@caught_by("nothing_of_a_store_goes_untested")
class CannotTrack(Kept):
    track = None  # type: ignore[assignment]


# -- users -----------------------------------------------------------------------------------------------------------


@caught_by("merging", "patches_at_the_same_time")
class Replaces(Kept):
    async def patch(self, user: str, patch: bytes, *, by: str, source: str, now: datetime) -> bytes:
        kept = self._preferences.pop(user, None)
        if kept is not None and b"z" not in patch:
            await anyio.lowlevel.checkpoint()
        return await super().patch(user, patch, by=by, source=source, now=now)


@caught_by("those_who_have_any")
class EverybodyHasSome(Kept):
    async def preferences(self, users: Sequence[str]) -> Mapping[str, bytes]:
        found = await super().preferences(users)
        return {user: found.get(user, b"{}") for user in users}


@caught_by("what_is_not_an_object")
class RecordsRefusals(Kept):
    async def patch(self, user: str, patch: bytes, *, by: str, source: str, now: datetime) -> bytes:
        self._consents.setdefault(user, []).append((now, by, source, patch))
        merged = await super().patch(user, patch, by=by, source=source, now=now)
        self._consents[user].pop()
        return merged


@caught_by("who_changed_what")
class NewestFirst(Kept):
    async def consents(self, user: str) -> Sequence[tuple[datetime, str, str, bytes]]:
        return [*reversed(await super().consents(user))]


@caught_by("registering", "registering_again")
class OneForEachUser(Kept):
    async def register(self, endpoint: Endpoint, now: datetime) -> Endpoint:
        return await super().register(replace(endpoint, kind=endpoint.kind + endpoint.user), now)


@caught_by("what_registering_ignores")
class BelievesTheGeneration(Kept):
    async def register(self, endpoint: Endpoint, now: datetime) -> Endpoint:
        stored = await super().register(endpoint, now)
        self._endpoints[stored.id] = replace(stored, generation=max(stored.generation, endpoint.generation))
        return self._endpoints[stored.id]


@caught_by("the_endpoints_of_users")
class ShowsTheRetired(Kept):
    async def endpoints(self, users: Sequence[str], *, retired: bool = False) -> Mapping[str, Sequence[Endpoint]]:
        return await super().endpoints(users, retired=True)


@caught_by("the_endpoints_of_a_session")
class ShowsThoseOfUsers(Kept):
    async def session_endpoints(self, session: str) -> Sequence[Endpoint]:
        return [each for each in self._endpoints.values() if each.session == session and each.retired_at is None]


@caught_by("the_endpoints_of_a_session")
class KeepsSessionsForGood(Kept):
    def _purge_user_records(self, before: datetime) -> None:
        kept = {id: each for id, each in self._endpoints.items() if not each.user and each.retired_at is None}
        super()._purge_user_records(before)
        self._endpoints |= kept


@caught_by("retiring", "observing")
class AnyGeneration(Kept):
    async def retire(self, id: str, generation: int, reason: str, now: datetime) -> bool:
        return await super().retire(id, 0, reason, now)

    async def observe(self, id: str, generation: int, now: datetime, *, ok: bool) -> Endpoint | None:
        found = self._endpoints.get(id)
        return None if found is None else await super().observe(id, found.generation, now, ok=ok)


@caught_by("registrations_at_the_same_time")
class ReadsTheGenerationFirst(Kept):
    async def register(self, endpoint: Endpoint, now: datetime) -> Endpoint:
        before = dict(self._endpoints)
        await anyio.lowlevel.checkpoint()
        self._endpoints = before
        return await super().register(endpoint, now)


# -- caps and gates --------------------------------------------------------------------------------------------------


class WithVerdicts(Kept):
    """A store that keeps verdicts otherwise."""

    async def admit(
        self, notification: str, user: str, windows: Sequence[CapWindow], now: datetime, *, mode: Any = "check"
    ) -> int:
        self.before(notification, user)
        return await super().admit(notification, user, windows, now, mode=mode)

    def before(self, notification: str, user: str) -> None:
        """Change what is kept."""


@caught_by("a_cap_lets_its_limit_through", "all_windows_or_none", "a_count_ends", "recording", "a_refund")
class LetsOneMoreThrough(Kept):
    async def admit(
        self, notification: str, user: str, windows: Sequence[CapWindow], now: datetime, *, mode: Any = "check"
    ) -> int:
        more = [replace(each, limit=each.limit + 1) for each in windows]
        return await super().admit(notification, user, more, now, mode=mode)


@caught_by("a_notification_counts_once")
class CountsEachTime(WithVerdicts):
    def before(self, notification: str, user: str) -> None:
        self._verdicts.clear()


@caught_by("a_refusal_is_kept")
class AsksAgain(WithVerdicts):
    def before(self, notification: str, user: str) -> None:
        if self._verdicts.get((notification, user), (-1, None))[0] != -1:
            del self._verdicts[notification, user]


@caught_by("without_windows")
class AdmitsWithoutAsking(Kept):
    async def admit(
        self, notification: str, user: str, windows: Sequence[CapWindow], now: datetime, *, mode: Any = "check"
    ) -> int:
        return await super().admit(notification, user, windows, now, mode=mode) if windows else -1


@caught_by("admissions_at_the_same_time", "windows_in_any_order")
class CountsAndThenAdds(Kept):
    async def admit(
        self, notification: str, user: str, windows: Sequence[CapWindow], now: datetime, *, mode: Any = "check"
    ) -> int:
        before = {bucket: dict(counted) for bucket, counted in self._counts.items()}
        await anyio.lowlevel.checkpoint()
        self._counts = before
        return await super().admit(notification, user, windows, now, mode=mode)


@caught_by("gates_are_closed_until_then", "gates_closed_at_the_same_time")
class TheLastCallCounts(Kept):
    async def close_gate(self, gate: str, until: datetime) -> None:
        self._gates.pop(gate, None)
        await super().close_gate(gate, until)


# -- texts, forgetting -----------------------------------------------------------------------------------------------


@caught_by("texts_that_not_every_store_can_keep")
class TakesAnyText(Kept):
    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        try:
            return await super().submit(submission, connection=connection)
        except UsageError as error:
            if "NUL" not in str(error):
                raise
            return Submitted(submission.notification.id, False)


@caught_by("deliveries_to_a_forgotten_user", "claims_of_a_forgotten_user", "a_user_of_whom_there_is_a_record_only")
class ForgetsPreferencesOnly(Kept):
    async def forget(self, user: str) -> int:
        self._forget_user_records(user)
        return 0


@caught_by("notifications_to_a_forgotten_user")
class KeepsKeysOfTheForgotten(Kept):
    async def forget(self, user: str) -> int:
        keys = self._keys
        count = await super().forget(user)
        self._keys = keys
        return count


@caught_by("digests_of_a_forgotten_user")
class ForgetsTheDigestsOfAll(Kept):
    async def forget(self, user: str) -> int:
        self._digests._digests.clear()
        return await super().forget(user)


@caught_by("what_is_kept_of_a_forgotten_user")
class ForgetsWhoseNameBeginsSo(Kept):
    async def forget(self, user: str) -> int:
        self._counts = {bucket: each for bucket, each in self._counts.items() if not bucket.startswith(user)}
        return await super().forget(user)


@caught_by("forgetting_after_closing", "forgetting_after_closing_a_store_of_deliveries")
class ForgetsWhenClosed(Kept):
    async def forget(self, user: str) -> int:
        return 0


def clocked(part: Store) -> tuple[MemoryDispatchStore, VirtualClock]:
    """Return a store with a clock that is set by hand."""
    clock = VirtualClock()
    return part(clock=clock), clock
