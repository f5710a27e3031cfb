"""A store of deliveries in the memory of one process: the reference implementation, written to be read.

No method waits for anything, so none can be interrupted halfway and nothing needs a lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from heapq import nsmallest
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple, Self

from notify import Guarantees, UsageError
from notify.adapters import LoopGuard
from notify.dispatch.abc import (
    STOPPABLE,
    Claim,
    Delivery,
    DeliveryAttempt,
    DigestItem,
    Move,
    Notification,
    RecipientRecord,
    State,
    Submission,
    Submitted,
    cancelled,
    check_move,
    check_submission,
    checked,
    due_after,
    exact,
    exact_or_none,
    instant,
    instant_or_none,
    is_later,
    judge,
    millis,
    millis_or_none,
    span,
)

from ._dispatch_digests import MemoryDigests
from ._dispatch_rows import MemoryDeliveries, MemoryDelivery, urgency
from ._dispatch_users import MemoryUserRecords


class _Key(NamedTuple):
    fingerprint: str
    notification: str
    keep_until: datetime | None


@checked
class MemoryDispatchStore(MemoryUserRecords):
    """Keeps notifications and deliveries in this process; they are gone when it ends. asyncio or trio.

    Args:
        clock: returns seconds since 1970; leases are measured by it.

    Invariants:
        I1. Every delivery is of a recipient with a record, and every record is of a stored notification.
        I2. Nothing that waits for another channel is overlooked: `_settle` follows each change of a state.
    """

    guarantees: ClassVar = Guarantees()

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._guard = LoopGuard(type(self).__name__)
        self._check = self._guard.check
        self._notifications: dict[str, Notification] = {}
        self._cursors: dict[str, str] = {}
        self._records: dict[tuple[str, str], RecipientRecord] = {}
        self._rows = MemoryDeliveries()
        self._keys: dict[tuple[str, str], _Key] = {}
        self._attempts: dict[tuple[str, int], DeliveryAttempt] = {}
        self._digests = MemoryDigests(self._store, self._address_of)

    # -- DispatchStore -------------------------------------------------------------------------------------------

    async def submit(self, submission: Submission, *, connection: Any = None) -> Submitted:
        """See `notify.dispatch.abc.DispatchStore.submit`; takes no connection."""
        self._check()
        if connection is not None:
            raise UsageError("only PostgresDispatchStore supports connection=, not MemoryDispatchStore: omit it")
        check_submission(submission)
        new = submission.notification
        new = replace(new, created_at=exact(new.created_at), expires_at=exact_or_none(new.expires_at))
        if submission.key is not None:
            kept = self._keys.get((submission.tenant, submission.key))
            if kept is None or (kept.keep_until is not None and kept.keep_until <= new.created_at):
                kept = _Key(submission.fingerprint, new.id, exact_or_none(submission.keep_until))
                self._keys[submission.tenant, submission.key] = kept
            elif kept.fingerprint != submission.fingerprint:
                raise UsageError(f"the key {submission.key!r:.80} was used for another request: use a new one")
            elif kept.notification != new.id or submission.cursor is None:
                return Submitted(kept.notification, True, self._cursors.get(kept.notification))
        self._notifications.setdefault(new.id, new)
        if submission.cursor is not None:
            self._cursors[new.id] = submission.cursor
        added = {record.user for record in submission.recipients if (new.id, record.user) not in self._records}
        for record in submission.recipients:
            self._records.setdefault((record.notification, record.user), record)
        self._add([each for each in submission.deliveries if each.user in added], new.created_at)
        for join in submission.joins:
            if join.user in added:
                self._digests.join(join, new.created_at)
        return Submitted(new.id, False, self._cursors.get(new.id))

    async def claim(
        self, now: datetime, *, lease: float, limit: int = 50, channels: Sequence[str] | None = None
    ) -> Sequence[Claim]:
        """See `notify.dispatch.abc.DispatchStore.claim`."""
        self._check()
        clock, moment = self._now(), exact(now)

        def is_due(row: MemoryDelivery) -> bool:
            each = row.delivery
            if not each.state.is_open or (channels is not None and each.channel not in channels):
                return False
            if each.state is not State.WAITING:
                return row.lease_until <= clock
            return each.due_at is not None and each.due_at <= moment

        due = nsmallest(limit, filter(is_due, self._rows.values()), key=urgency)
        for row in due:
            each, row.lease_until = row.delivery, clock + span(lease)
            row.delivery = replace(
                each,
                state=each.state if each.state is State.SENDING else State.CLAIMED,
                fence=each.fence + 1,
                due_at=instant(row.lease_until),
                updated_at=moment if each.state is State.WAITING else each.updated_at,
            )
        return [self._claim_of(row.delivery) for row in due]

    async def advance(self, moves: Sequence[Move], now: datetime) -> Sequence[bool]:
        """See `notify.dispatch.abc.DispatchStore.advance`."""
        self._check()
        for move in moves:
            check_move(move)
        return [self._make(move, exact(now)) for move in moves]

    async def resolve(
        self, id: str, to: State, now: datetime, *, reason: str = "", provider_id: str = ""
    ) -> Delivery | None:
        """See `notify.dispatch.abc.DispatchStore.resolve`."""
        self._check()
        row = self._rows.get(id)
        if row is not None and is_later(to, row.delivery.state, row.delivery.reason):
            self._enter(row, to, exact(now), reason, provider_id)
            self._settle(row.delivery, exact(now))
        return None if row is None else row.delivery

    async def cancel(
        self,
        notification: str,
        now: datetime,
        *,
        user: str | None = None,
        channel: str | None = None,
        reason: str = "cancelled",
        joins: bool = True,
    ) -> int:
        """See `notify.dispatch.abc.DispatchStore.cancel`."""
        self._check()
        stopped = [
            row
            for row in self._rows.values()
            if row.delivery.notification == notification and row.delivery.state in STOPPABLE
            if user in (None, row.delivery.user) and channel in (None, row.delivery.channel)
        ]
        for row in stopped:
            self._enter(row, cancelled(row.delivery.reason), exact(now), reason)
        for row in stopped:
            self._settle(row.delivery, exact(now))
        return len(stopped) + (self._digests.leave(notification, user, channel) if joins else 0)

    # -- DispatchRecords, DeliveryTracking, Forget ---------------------------------------------------------------

    async def record(
        self, notification: str, user: str
    ) -> tuple[Notification, RecipientRecord, Sequence[Delivery], Sequence[DeliveryAttempt]] | None:
        """See `notify.dispatch.abc.DispatchRecords.record`."""
        self._check()
        found = self._records.get((notification, user))
        if found is None:
            return None
        deliveries = sorted(self._rows.of(notification, user), key=lambda each: (each.channel, each.endpoint))
        names = {each.id for each in deliveries}
        attempts = sorted((a for a in self._attempts.values() if a.delivery in names), key=lambda each: each.at)
        return self._notifications[notification], found, deliveries, attempts

    async def delivery(self, id: str) -> Claim | None:
        """See `notify.dispatch.abc.DispatchRecords.delivery`."""
        self._check()
        row = self._rows.get(id)
        return None if row is None else self._claim_of(row.delivery)

    async def stuck(self, states: Sequence[State], *, after: str = "", limit: int = 100) -> Sequence[Delivery]:
        """See `notify.dispatch.abc.DispatchRecords.stuck`."""
        self._check()
        names = sorted(id for id, row in self._rows.items() if row.delivery.state in states and id > after)
        return [self._rows[id].delivery for id in names[:limit]]

    async def hurry(self, now: datetime, *, user: str | None = None, channel: str | None = None) -> int:
        """See `notify.dispatch.abc.DispatchRecords.hurry`."""
        self._check()
        if user is None and channel is None:
            raise UsageError("hurry() needs user= or channel=: everything at once would be a stampede")
        moment, count = exact(now), 0
        for row in self._rows.values():
            each = row.delivery
            if user not in (None, each.user) or channel not in (None, each.channel):
                continue
            if each.state is State.PARKED and channel is not None:
                self._enter(row, State.WAITING, moment, each.reason)
                count += 1
            elif each.state is State.WAITING and each.due_at is not None and each.due_at > moment:
                if (not each.attempts or channel is not None) and (not each.after or each.fence):
                    row.delivery = replace(each, due_at=moment)
                    count += 1
        return count

    async def purge(self, before: datetime, *, limit: int = 500) -> int:
        """See `notify.dispatch.abc.DispatchRecords.purge`."""
        self._check()
        moment = exact(before)
        needed = {row.delivery.notification for row in self._rows.values() if row.delivery.state.is_open}
        needed |= self._digests.needed(needed)
        old = [each.id for each in self._notifications.values() if each.created_at < moment and each.id not in needed]
        removed = {*old[:limit]}
        self._drop(removed, {id for id, row in self._rows.items() if row.delivery.notification in removed})
        self._keys = {key: each for key, each in self._keys.items() if (each.keep_until or moment) >= moment}
        self._purge_user_records(moment)
        return len(removed)

    async def open_channels(self) -> Sequence[str]:
        """See `notify.dispatch.abc.OpenChannels.open_channels`."""
        self._check()
        return sorted({row.delivery.channel for row in self._rows.values() if row.delivery.state.is_open})

    async def track(self, id: str, act: Literal["opened", "clicked"], now: datetime) -> Delivery | None:
        """See `notify.dispatch.abc.DeliveryTracking.track`."""
        self._check()
        row = self._rows.get(id)
        if row is None:
            return None
        each, clicked = row.delivery, exact(now) if act == "clicked" else None
        row.delivery = replace(each, opened_at=each.opened_at or exact(now), clicked_at=each.clicked_at or clicked)
        return row.delivery

    async def forget(self, user: str) -> int:
        """See `notify.abc.Forget.forget`; returns the number of deliveries."""
        self._check()
        self._digests.forget(user)
        self._forget_user_records(user)
        gone = {id for id, row in self._rows.items() if row.delivery.user == user}
        kept = {*self._cursors} | {name for name, owner in self._records if owner != user}  # an audience goes on
        names = {name for name, owner in self._records if owner == user} - kept
        self._drop(names, gone)
        self._keys = {key: each for key, each in self._keys.items() if each.notification not in names}
        self._records = {key: record for key, record in self._records.items() if key[1] != user}
        return len(gone)

    # -- DigestStore ---------------------------------------------------------------------------------------------

    async def close_digests(self, now: datetime, *, limit: int = 50) -> int:
        """See `notify.dispatch.abc.DigestStore.close_digests`."""
        self._check()
        return self._digests.close_due(exact(now), limit)

    async def digest_items(
        self, digest: str, *, after: int = 0, limit: int = 500, channel: str | None = None
    ) -> Sequence[DigestItem]:
        """See `notify.dispatch.abc.DigestStore.digest_items`."""
        self._check()
        sent = [row.delivery for row in self._rows.values() if row.delivery.channel == channel]
        given = {(each.notification, each.user): each.provider_id for each in sent if not each.endpoint}
        return self._digests.items(digest, self._notifications, given)[after : after + limit]

    # -- the end -------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close; every method raises ClosedError from now on. Idempotent."""
        self._guard.close()

    async def __aenter__(self) -> Self:
        """Return the store itself."""
        self._check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    # -- inside --------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        """Return the store's clock in milliseconds."""
        return int(self._clock() * 1000)

    def _claim_of(self, delivery: Delivery) -> Claim:
        record = self._records[delivery.notification, delivery.user]
        return Claim(delivery, self._notifications[delivery.notification], record, delivery.state is State.SENDING)

    def _address_of(self, notification: str, user: str) -> bytes:
        return self._records[notification, user].address

    def _add(self, deliveries: Iterable[Delivery], now: datetime) -> None:
        for each in deliveries:
            due, expires = exact_or_none(each.due_at), exact_or_none(each.expires_at)
            self._rows.add(MemoryDelivery(replace(each, due_at=due, expires_at=expires, updated_at=now)))

    def _store(self, notification: Notification, record: RecipientRecord, deliveries: Sequence[Delivery]) -> None:
        self._notifications[notification.id] = notification
        self._records[notification.id, record.user] = record
        self._add(deliveries, notification.created_at)

    def _drop(self, notifications: set[str], deliveries: set[str]) -> None:
        """Remove these notifications with their recipients, and these deliveries."""
        for id in notifications:
            del self._notifications[id]
            self._cursors.pop(id, None)
            self._digests.remove(id)
        self._records = {key: each for key, each in self._records.items() if key[0] not in notifications}  # keeps I1
        self._rows.drop(deliveries)
        self._attempts = {key: each for key, each in self._attempts.items() if each.delivery not in deliveries}

    def _make(self, move: Move, now: datetime) -> bool:
        row = self._rows.get(move.id)
        if row is None:
            return False
        before = row.delivery
        is_made, is_listed = judge(move, before.state, before.fence, row.begun, has_lease=row.lease_until > self._now())
        if is_listed:
            attempt = DeliveryAttempt(move.id, now, move.fence, move.to, move.reason, move.error, not is_made)
            self._attempts.setdefault((move.id, move.fence), attempt)
        if not is_made:
            return False
        if move.to is State.SENDING:
            row.begun = move.fence
            if move.lease is not None:
                row.lease_until = self._now() + span(move.lease)
                before = replace(before, due_at=instant(row.lease_until))
        refunded = move.refund and before.state is State.SENDING
        attempts = before.attempts + (move.to is State.SENDING) - refunded
        row.delivery = replace(before, attempts=attempts)
        self._enter(row, move.to, now, move.reason, move.provider_id, exact_or_none(move.due_at))
        self._add(move.children, now)
        if move.join is not None:
            self._digests.join(move.join, now)
        self._settle(row.delivery, now)
        return True

    def _enter(
        self,
        row: MemoryDelivery,
        to: State,
        now: datetime,
        reason: str,
        provider_id: str = "",
        due_at: datetime | None = None,
    ) -> None:
        each = row.delivery
        row.delivery = replace(
            each,
            state=to,
            due_at=(due_at or now) if to is State.WAITING else each.due_at,
            reason=reason,
            provider_id=provider_id or each.provider_id,
            updated_at=now,
        )

    def _settle(self, changed: Delivery, now: datetime) -> None:
        """Give those that wait for the channel of a changed delivery their `due_at`; keeps I2."""
        ours = self._rows.of(changed.notification, changed.user)
        states = [each.state for each in ours if each.channel == changed.channel]
        for each in ours:
            if each.after == changed.channel and each.state is State.WAITING and not each.fence:
                due = due_after(states, millis_or_none(each.due_at), each.delay, millis(now))
                self._rows[each.id].delivery = replace(each, due_at=instant_or_none(due))
