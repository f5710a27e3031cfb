"""Makes the runs of schedules, together with all other processes on the store.

A schedule is one row among the deliveries, which no channel sends: its notification and its channel are called
`schedule:NAME`. So workers share schedules as they share deliveries: the row is claimed when it is due, for the length
of a lease, and each claim submits one batch of recipients, then makes the row due again, at once or for the next run. A
process that dies is followed by another one after the lease.

That a run is made once does not depend on the lease: each run has an idempotency key, and each of its recipients has
one record.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import anyio

from notify import BackendError, ClosedError, UsageError
from notify.adapters import OutageLog, without_stray_cancellation

from ._audience import batches
from ._parts import DispatchParts
from ._schedules import LOCAL_TIME, LocalRun, Schedule, ScheduledRun, agenda
from ._submitting import NotificationDraft, draft, plans_of_many, submission
from ._telemetry import DispatchTelemetry
from ._types import PRIORITIES
from .abc import Claim, Delivery, Move, Notification, RecipientRecord, State, Submission, delivery_id

logger = logging.getLogger("notify")

SCHEDULE: Final = "schedule:"
"""How the channels of schedules begin."""

_BATCH: Final = 500
"""Recipients that one claim submits."""

_AGAIN: Final = timedelta(seconds=60)
"""After which a run is tried again if the application's part of it failed."""

_KEPT: Final = timedelta(days=2)
"""How much longer than a run lasts its key is kept, in case a clock is set back."""


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """The next and the last run of a schedule.

    Attributes:
        schedule: the schedule.
        next_at: when its next run begins, or about now if one is being made.
        last_run: the date of the last run that is over, or its instant; empty: none is.
        ticket: that of the newest run, for `explain`; empty: there was none.
    """

    schedule: Schedule
    next_at: datetime
    last_run: str
    ticket: str

    def __str__(self) -> str:
        """Return one line for people."""
        last = f"; last {self.last_run}, ticket {self.ticket}" if self.last_run else ""
        return f"{self.schedule}: next {self.next_at:%F %T} UTC{last}"


class ScheduleRunner:
    """The schedules of a dispatcher.

    Args:
        parts: of the dispatcher.
        telemetry: what is measured.
        lease: seconds for which a run is this process's own.
    """

    def __init__(self, parts: DispatchParts, telemetry: DispatchTelemetry, *, lease: float) -> None:
        self._parts = parts
        self._telemetry = telemetry
        self._lease = lease
        self._schedules: dict[str, Schedule] = {}
        self._unknown: dict[str, Schedule] = {}
        self._outages: dict[str, OutageLog] = {}
        self._data: dict[str, tuple[str, Any]] = {}
        self._is_running = self._has_more = False
        self._looked_at = -math.inf
        self._scope: anyio.CancelScope | None = None
        self._outage = OutageLog(logger, "schedules cannot be read, which is retried", "schedules are read again")

    def add(self, schedule: Schedule) -> None:
        """Add a schedule.

        Raises:
            UsageError: there is one of this name, or its type is not registered.
        """
        if not isinstance(schedule, Schedule):
            raise UsageError(f"a schedule must be a Schedule, not {schedule!r:.80}")
        if schedule.name in self._schedules:
            raise UsageError(f"there is a schedule {schedule.name!r} already: give this one another name")
        self._parts.types.resolve(schedule.type)
        self._schedules[schedule.name] = schedule
        self._unknown[schedule.name] = schedule
        text = f"the schedule {schedule.name!r}"
        self._outages[schedule.name] = OutageLog(
            logger, f"{text} cannot be run, which is retried every minute", f"{text} is run again"
        )

    async def tick(self, now: datetime) -> int:
        """Submit one batch of each run that is due; return to how many recipients.

        Raises:
            BackendError: the store failed; safe to repeat.

        Cancellation: some may be submitted; the rest follows after the lease.
        """
        if not self._schedules:
            return 0
        for each in [*self._unknown.values()]:
            await self._introduce(each, now)
            self._unknown.pop(each.name, None)  # a concurrent call may have done it
        channels = {SCHEDULE + name: each for name, each in self._schedules.items()}
        claims = await self._parts.store.claim(now, lease=self._lease, limit=len(channels), channels=[*channels])
        count = 0
        for claim in claims:
            count += await self._act(channels[claim.delivery.channel], claim, now)
        return count

    def is_due(self, seconds: float) -> bool:
        """Whether `step` may have something to do, and is not doing it yet; it looks again after `seconds`."""
        is_time = self._has_more or anyio.current_time() >= self._looked_at + seconds
        return bool(self._schedules) and not self._is_running and is_time

    async def step(self, now: datetime, wake: Callable[[], None]) -> None:
        """Do the same as `tick` in a task of its own, for `run`: what fails is logged; call `wake` if there is more."""
        self._is_running, self._has_more, self._looked_at = True, False, anyio.current_time()
        try:
            with anyio.CancelScope() as self._scope:
                self._has_more = await self.tick(now) > 0
        except (BackendError, ClosedError) as error:
            self._outage.failed(error)
        else:
            self._outage.recovered()
        finally:
            self._is_running = False
        if self._has_more:
            wake()

    def stop(self) -> None:
        """Cancel a `step` in progress, as of an audience that hangs: another process goes on after the lease."""
        if self._scope is not None:
            self._scope.cancel()

    async def status(self, now: datetime) -> list[ScheduleStatus]:
        """Return where each schedule stands, in the order in which they were added."""
        result = []
        for each in self._schedules.values():
            found = await self._parts.records.delivery(_row_id(each))
            if found is None:  # no process has run with it yet
                result.append(ScheduleStatus(each, each.next(now), "", ""))
                continue
            row = found.delivery
            result.append(ScheduleStatus(each, row.due_at or each.next(now), row.reason, row.provider_id))
        return result

    async def _introduce(self, schedule: Schedule, now: datetime) -> None:
        """Store the row of a schedule unless there is one; if its times have changed, look at it at once."""
        name = SCHEDULE + schedule.name
        row = Delivery(_row_id(schedule), name, "", name, due_at=now, priority=len(PRIORITIES) - 1)
        notification = Notification(name, schedule.type, b"{}", now)
        await self._parts.store.submit(Submission(notification, [RecipientRecord(name, "")], [row]))
        found = await self._parts.records.delivery(row.id)
        if found is not None and not _is_in_time(schedule, found, now):  # hurrying may read all that waits
            await self._parts.records.hurry(now, channel=name)

    async def _act(self, schedule: Schedule, claim: Claim, now: datetime) -> int:
        """Do what is to be done about a schedule, and say when it is due again."""
        todo = agenda(schedule, claim.notification.created_at, claim.delivery.reason, now)
        if todo.missed:
            runs = ", ".join(todo.missed)
            logger.warning("the schedule %r was not run in time, so this is left out: %s", schedule.name, runs)
        count, ticket, due_at, last = 0, "", schedule.next(now), todo.last
        if todo.run is not None:
            try:
                with anyio.fail_after(self._lease):
                    count, ticket, is_over = await without_stray_cancellation(
                        self._submit, schedule, todo.run, claim.notification.created_at, now
                    )
            except (BackendError, ClosedError):
                raise
            except Exception as error:  # the audience, the data and `recipients` are the application's
                self._outages[schedule.name].failed(error)
                due_at = now + _AGAIN
            else:
                self._outages[schedule.name].recovered()
                if is_over:
                    last = todo.run.name
                    self._data.pop(schedule.name, None)
                if not is_over or agenda(schedule, claim.notification.created_at, last, now).run is not None:
                    due_at = now
        back = Move(claim.delivery.id, claim.delivery.fence, State.WAITING, due_at, last, ticket)
        await self._parts.store.advance([back], now)
        return count

    async def _submit(
        self, schedule: Schedule, run: ScheduledRun, since: datetime, now: datetime
    ) -> tuple[int, str, bool]:
        """Submit a run to the next recipients; return to how many, the ticket, and whether these were the last."""
        key = f"{SCHEDULE}{schedule.name}:{run.name}"
        with self._telemetry.submitting(schedule.type) as meta:
            request = await self._draft(schedule, run, meta, since, now)
            options: dict[str, Any] = {
                "tenant": SCHEDULE,
                "key": key,
                "fingerprint": key,
                "horizon": 0.0,
                "keep_until": _kept(schedule, run),
            }
            first = await self._parts.store.submit(submission(request, [], {}, cursor="", **options))
            if first.is_replay:
                request = await self._draft(schedule, run, meta, since, now, id=first.notification)
            if first.cursor is None:  # all of it has been removed since
                return 0, first.notification, True
        async with aclosing(batches(schedule.after, first.cursor, _BATCH)) as found:
            async for users, given, cursor in found:
                if cursor == first.cursor:  # else it would be asked for the same ones without end
                    raise UsageError(f"the audience must yield only those after the id it is given, {cursor!r:.80}")
                planned = await plans_of_many(self._parts, request, users, given, now)
                await self._parts.store.submit(submission(request, planned, given, cursor=cursor, **options))
                self._telemetry.submitted(schedule.type, len(users))
                return len(users), first.notification, len(users) < _BATCH
        return 0, first.notification, True

    async def _draft(
        self, schedule: Schedule, run: ScheduledRun, meta: Any, since: datetime, now: datetime, *, id: str = ""
    ) -> NotificationDraft:
        data = await self._data_of(schedule, run)
        if not schedule.is_local:
            return draft(self._parts, schedule.type, data, now, meta=meta, id=id)
        local = LocalRun.of(schedule, run, since)
        carried = {**meta, LOCAL_TIME: local.at.to_text()}
        return draft(self._parts, schedule.type, data, now, meta=carried, id=id, local=local)

    async def _data_of(self, schedule: Schedule, run: ScheduledRun) -> Any:
        """Return the data of a run; a function is asked once for it, as long as this process goes on with it."""
        if not callable(schedule.data):
            return schedule.data
        kept = self._data.get(schedule.name)
        if kept is None or kept[0] != run.name:
            kept = self._data[schedule.name] = run.name, await schedule.data(run.day)
        return kept[1]


def _row_id(schedule: Schedule) -> str:
    name = SCHEDULE + schedule.name
    return delivery_id(name, "", name)


def _is_in_time(schedule: Schedule, row: Claim, now: datetime) -> bool:
    """Return whether the row of a schedule is looked at by itself as soon as there is something to do."""
    due_at, created_at = row.delivery.due_at, row.notification.created_at
    if due_at is None or due_at <= now:
        return True
    return due_at <= schedule.next(now) and agenda(schedule, created_at, row.delivery.reason, now).run is None


def _kept(schedule: Schedule, run: ScheduledRun) -> datetime:
    return run.last + timedelta(seconds=schedule.grace) + _KEPT
