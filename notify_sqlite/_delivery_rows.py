"""What one transaction does to the rows of deliveries. Every function runs in the connection's thread."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

from notify import UsageError
from notify.dispatch.abc import (
    Claim,
    Delivery,
    Move,
    Notification,
    RecipientRecord,
    State,
    Submission,
    Submitted,
    cancelled,
    claims_of,
    delivery_of,
    delivery_row,
    due_after,
    is_later,
    judge,
    millis,
    millis_or_none,
    notification_row,
    recipient_row,
    runs,
    span,
)

from . import _digest_rows as digests

_ABOVE_ALL: Final = 1 << 62


class Standing(NamedTuple):
    """Where a delivery stands, as far as moves depend on it."""

    number: int
    state: State
    fence: int
    begun: int
    lease_until: int
    reason: str


class DeliveryRows:
    """The rows of one file, inside one transaction.

    Args:
        db: the connection.
        sql: the statements.
    """

    def __init__(self, db: sqlite3.Connection, sql: Mapping[str, str]) -> None:
        self._db = db
        self._sql = sql

    def submit(self, submission: Submission) -> Submitted:
        """See `notify.dispatch.abc.DispatchStore.submit`."""
        db, sql, new = self._db, self._sql, submission.notification
        created = millis(new.created_at)
        if submission.key is not None:
            kept = db.execute(sql["get_request"], (submission.tenant, submission.key, created)).fetchone()
            if kept is None:
                until = millis_or_none(submission.keep_until)
                row = (submission.tenant, submission.key, submission.fingerprint, new.id, until)
                db.execute(sql["set_request"], row)
            elif kept[0] != submission.fingerprint:
                raise UsageError(f"the key {submission.key!r:.80} was used for another request: use a new one")
            elif kept[1] != new.id or submission.cursor is None:
                return Submitted(kept[1], True, self._cursor(kept[1]))
        self.add_notification(new)
        if submission.cursor is not None:
            db.execute(sql["set_cursor"], (submission.cursor, new.id))
        added = {
            record.user
            for record in submission.recipients
            if db.execute(sql["add_recipient"], recipient_row(record)).rowcount
        }
        self.add_deliveries([each for each in submission.deliveries if each.user in added], created)
        for join in submission.joins:
            if join.user in added:
                digests.join(self, db, sql, join, created)
        return Submitted(new.id, False, self._cursor(new.id))

    def _cursor(self, notification: str) -> str | None:
        row = self._db.execute(self._sql["get_cursor"], (notification,)).fetchone()
        return None if row is None else row[0]

    def add_notification(self, notification: Notification) -> None:
        """Store a notification, unless it exists."""
        self._db.execute(self._sql["add_notification"], notification_row(notification))

    def add_recipient(self, record: RecipientRecord) -> None:
        """Store a recipient, unless it exists."""
        self._db.execute(self._sql["add_recipient"], recipient_row(record))

    def add_deliveries(self, deliveries: Iterable[Delivery], now: int) -> None:
        """Store deliveries, unless they exist."""
        if rows := [delivery_row(each, now) for each in deliveries]:
            self._db.executemany(self._sql["add_delivery"], rows)

    # -- claims --------------------------------------------------------------------------------------------------

    def due(self, now: int, clock: int, limit: int, channels: Sequence[str] | None) -> list[int]:
        """Return the numbers of the rows that are due, the most urgent first.

        Each priority and channel is a range of the index, sorted by `due_at`. Rows that are not due, or wait for
        another channel, are not read, except those that are due by only one of the two clocks.
        """
        found: list[int] = []
        for priority in self._priorities():
            rest = limit - len(found)
            if rest <= 0:
                break
            names = self._channels(priority) if channels is None else {*channels}
            moments = max(now, clock), now, clock
            rows = (self._db.execute(self._sql["due"], (priority, name, *moments, rest)).fetchall() for name in names)
            found += [number for _, number in sorted(chain.from_iterable(rows))[:rest]]
        return found

    def _priorities(self) -> Iterator[int]:
        """Yield the priorities of open deliveries, the highest first."""
        priority: int | None = _ABOVE_ALL
        while (priority := self._db.execute(self._sql["next_priority"], (priority,)).fetchone()[0]) is not None:
            yield priority

    def _channels(self, priority: int) -> Iterator[str]:
        """Yield the channels of open deliveries of a priority."""
        name: str | None = ""
        while (name := self._db.execute(self._sql["next_channel"], (priority, name)).fetchone()[0]) is not None:
            yield name

    def open_channels(self) -> list[str]:
        """Return the channels of all that is open."""
        return sorted({name for priority in self._priorities() for name in self._channels(priority)})

    def claim(self, now: int, clock: int, lease: float, limit: int, channels: Sequence[str] | None) -> list[Claim]:
        """See `notify.dispatch.abc.DispatchStore.claim`."""
        until = clock + span(lease)
        numbers = self.due(now, clock, limit, channels)
        self._db.executemany(self._sql["claim"], [(now, until, until, number) for number in numbers])
        return claims_of(self._db.execute(self._sql["claimed"], (json.dumps(numbers),)))

    # -- moves ---------------------------------------------------------------------------------------------------

    def standing(self, ids: Sequence[str]) -> dict[str, Standing]:
        """Return where deliveries stand, by their ids; those that do not exist are left out."""
        rows = self._db.execute(self._sql["standing"], (json.dumps(ids),))
        return {row[0]: Standing(row[1], State(row[2]), *row[3:]) for row in rows}

    def advance(self, moves: Sequence[Move], now: int, clock: int) -> list[bool]:
        """See `notify.dispatch.abc.DispatchStore.advance`."""
        return [is_made for run in runs(moves) for is_made in self._advance(run, now, clock)]

    def _advance(self, run: Sequence[Move], now: int, clock: int) -> list[bool]:
        """Make moves, each of another delivery; the rows of all of them are read at once."""
        rows = self.standing([move.id for move in run])
        writes: dict[str, list[tuple[object, ...]]] = {}
        made: list[Move] = []
        for move in run:
            row = rows.get(move.id)
            if row is None:
                continue
            has_lease = row.lease_until > clock
            is_made, is_listed = judge(move, row.state, row.fence, row.begun, has_lease=has_lease)
            if is_made:
                made.append(move)
                for name, values in _writes_of(move, row, now, clock):
                    writes.setdefault(name, []).append(values)
            if is_listed:
                outcome = (move.id, move.fence, now, int(move.to), move.reason, move.error, not is_made)
                writes.setdefault("add_attempt", []).append(outcome)
        for name, each in writes.items():
            self._db.executemany(self._sql[name], each)
        self.add_deliveries([child for move in made for child in move.children], now)
        for move in made:
            if move.join is not None:
                digests.join(self, self._db, self._sql, move.join, now)
        self.settle([rows[move.id].number for move in made if not move.to.is_open], now)
        names = {move.id for move in made}
        return [move.id in names for move in run]

    def settle(self, ended: Sequence[int], now: int) -> None:
        """Set `due_at` of what waits for the channels of these deliveries, by the states of these channels.

        Args:
            ended: the numbers of deliveries that have ended, or may be sent again.
            now: the present time.
        """
        if not ended:
            return
        waiting = self._db.execute(self._sql["waiting_for"], (json.dumps(ended),)).fetchall()
        for number, due_at, delay, *place in waiting:
            states = [State(state) for (state,) in self._db.execute(self._sql["states_of_channel"], place)]
            self._db.execute(self._sql["set_due"], (due_after(states, due_at, delay, now), number))

    def resolve(self, id: str, to: State, now: int, reason: str, provider_id: str) -> Delivery | None:
        """See `notify.dispatch.abc.DispatchStore.resolve`."""
        row = self.standing([id]).get(id)
        if row is None:
            return None
        if is_later(to, row.state, row.reason):
            if to is State.WAITING:
                self._db.execute(self._sql["wait_again"], (reason, now, 0, now, row.number))
            else:
                self._db.execute(self._sql["set_state"], (int(to), reason, now, row.number))
            if provider_id:
                self._db.execute(self._sql["set_provider_id"], (provider_id, row.number))
            self.settle([row.number], now)
        return delivery_of(self._db.execute(self._sql["one_delivery"], (id,)).fetchone())

    def cancel(
        self, notification: str, now: int, user: str | None, channel: str | None, reason: str, joins: bool = True
    ) -> int:
        """See `notify.dispatch.abc.DispatchStore.cancel`."""
        if user is None:
            rows = self._db.execute(self._sql["stoppable"], (notification, channel)).fetchall()
        else:  # one user has few of a notification's deliveries, of which there may be many
            rows = self._db.execute(self._sql["stoppable_of_user"], (notification, channel, user)).fetchall()
        states = [(int(cancelled(before)), reason, now, number) for number, before in rows]
        self._db.executemany(self._sql["set_state"], states)
        self.settle([number for number, _ in rows], now)
        return len(rows) + (digests.leave(self._db, self._sql, notification, user, channel) if joins else 0)

    def hurry(self, channel: str, now: int, limit: int) -> int:
        """Make deliveries of a channel that wait or are parked due now, at most `limit`; return how many."""
        count = self._db.execute(self._sql["unpark_channel"], (now, now, channel, limit)).rowcount
        for priority in self._priorities():
            if count >= limit:
                break
            arguments = (now, priority, channel, now, limit - count)
            count += self._db.execute(self._sql["hurry_channel"], arguments).rowcount
        return count

    # -- the end -------------------------------------------------------------------------------------------------

    def purge(self, notification: str, limit: int) -> bool | None:
        """Remove a notification with what belongs to it; return False if the limit left something of it.

        None: nothing is removed, because a delivery is open again.
        """
        db, sql = self._db, self._sql
        if db.execute(sql["is_open"], (notification,)).fetchone():
            return None
        db.execute(sql["remove_attempts"], (notification, limit))
        removed = db.execute(sql["remove_deliveries"], (notification, limit)).rowcount
        removed = max(removed, db.execute(sql["remove_recipients"], (notification, notification, limit)).rowcount)
        if removed == limit:
            return False
        self._remove(notification)
        return True

    def forget(self, user: str, notifications: Sequence[str]) -> int:
        """Remove a user from these notifications, and those without other recipients; return how many deliveries."""
        db, sql, count, gone = self._db, self._sql, 0, list[str]()
        for id in notifications:
            db.execute(sql["forget_attempts"], (id, user))
            count += db.execute(sql["forget_deliveries"], (id, user)).rowcount
            db.execute(sql["forget_recipient"], (id, user))
            if db.execute(sql["is_abandoned"], (id,)).fetchone():
                self._remove(id)
                gone.append(id)
        if gone:
            db.execute(sql["forget_requests"], (json.dumps(gone),))
        return count

    def _remove(self, notification: str) -> None:
        """Remove the row of a notification, which has no recipients any more."""
        for name in ("remove_digest", "remove_items", "remove_item", "remove_notification"):
            self._db.execute(self._sql[name], (notification,))


def _writes_of(move: Move, row: Standing, now: int, clock: int) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield the statements of a move that is made, with their parameters."""
    refunded = int(move.refund and row.state is State.SENDING)
    if move.to is State.SENDING:
        if move.lease is None:
            yield "begin", (move.reason, now, row.number)
        else:
            until = clock + span(move.lease)
            yield "begin_with_lease", (move.reason, now, until, until, row.number)
    elif move.to is State.WAITING:
        due = now if move.due_at is None else millis(move.due_at)
        yield "wait_again", (move.reason, now, refunded, due, row.number)
    else:
        yield "set_state", (int(move.to), move.reason, now, row.number)
        if refunded:
            yield "refund", (row.number,)
    if move.provider_id:
        yield "set_provider_id", (move.provider_id, row.number)
