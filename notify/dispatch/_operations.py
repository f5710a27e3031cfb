"""What a dispatcher does after `submit`: explain, cancel, release, record reports, forget; and preferences."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from notify import ClosedError, UsageError

from ._caps import reset_of
from ._decisions import Plan, Skip, hold_all
from ._erasing import erase
from ._explain import Explanation
from ._parts import DispatchParts
from ._planning import given_at_submit, known, plan, read_items
from ._preferences import Preferences, check_patch
from ._reading import READS
from ._reasons import Reason
from ._report import Report
from ._reporting import OnReport, note
from ._schedules import LocalTime, Schedule
from ._scheduling import ScheduleRunner, ScheduleStatus
from ._tickets import Ticket, id_of, user_of
from ._types import IN_APP, NotificationType
from .abc import STOPPABLE, Delivery, Notification, RecipientRecord, State


class DispatchOperations:
    """The part of a `Dispatcher` that reads and changes what is stored already."""

    _parts: DispatchParts
    _scheduler: ScheduleRunner
    _on_report: OnReport | None

    @abstractmethod
    def _wake(self) -> None:
        """Let a worker of this process look for what is due."""

    async def explain(self, ticket: Ticket | str, user: str) -> Explanation | None:
        """Return what was decided for a recipient, what was done, and what has changed since; None: there is none.

        If the recipient's zone or stored preferences are not valid now, `Explanation.problem` says so.

        Args:
            ticket: of the notification, or its id.
            user: the recipient.

        Raises:
            BackendUnavailableError: not reachable; safe to repeat.
        """
        record = await self._parts.records.record(id_of(ticket), user)
        if record is None:
            return None
        notification, recipient, deliveries, attempts = record
        planned = Plan.from_json(notification.type, user, recipient.decisions)
        present, reset_at, problem = None, None, ""
        if notification.type in self._parts.types and notification.digest is None:
            type, now = self._parts.types.resolve(notification.type), self._parts.clock()
            try:
                present, zone = await self._plan_now(type, notification, recipient)
            except ClosedError:
                raise
            except UsageError as error:
                present, problem = hold_all(type.key, user, type.channels, now), str(error)
            else:
                present = await self._without_read(type, present, deliveries)
                reset_at = next(filter(None, (_reset_of(type, each, zone) for each in deliveries)), None)
            if any(each.reason is Reason.MISSED for each in planned.decisions):
                present = planned
        return Explanation(notification, user, planned, present, deliveries, attempts, reset_at, problem)

    async def _plan_now(
        self, type: NotificationType, notification: Notification, recipient: RecipientRecord
    ) -> tuple[Plan, str]:
        """Return the plan that would be made now for what was submitted, and the zone of the recipient.

        Raises:
            UsageError: what is known of the recipient now is refused.
        """
        user, given = recipient.user, given_at_submit(recipient)
        who = (await known(self._parts, [user], () if given is None else [user]))[user]
        who = who if given is None else who.of(given)
        moment, expires_at, zone = notification.created_at, notification.expires_at, who.zone(self._parts.tz)
        if (local := LocalTime.of_meta(notification.meta)) is not None:
            moment = max(moment, local.instant(zone))
            expires_at = type.expires_at(moment)
        return plan(self._parts, type, user, who, now=moment, expires_at=expires_at), zone

    async def _without_read(self, type: NotificationType, present: Plan, deliveries: Sequence[Delivery]) -> Plan:
        """Skip the fallbacks that wait although the item has been read: when they are due, they are skipped."""
        uses = {channel: fallback.use for channel, fallback in type.fallback.items()}
        waiting = {each.channel for each in deliveries if each.state in STOPPABLE and uses.get(each.channel) in READS}
        items = [each.provider_id for each in deliveries if each.channel == IN_APP]
        if not waiting or not await read_items(self._parts, present.user, items):
            return present
        decisions = [
            Skip(channel=each.channel, reason=Reason.READ_ALREADY, layer="type")
            if each.channel in waiting and not isinstance(each, Skip)
            else each
            for each in present.decisions
        ]
        return replace(present, decisions=tuple(decisions))

    async def cancel(self, ticket: Ticket | str, *, user: str | None = None, channel: str | None = None) -> int:
        """Stop what has not begun to be sent, and return how many deliveries that were.

        Args:
            ticket: of the notification, or its id.
            user: only for this recipient.
            channel: only over this channel.

        With `Dispatcher(events=)`, an event is pushed for each delivery that was stopped, if the recipient is known:
        from a ticket of `submit`, or from `user`.

        Raises: as `submit`.    Cancellation: done or not; safe to repeat.
        """
        id, parts = id_of(ticket), self._parts
        stopped = await parts.store.cancel(id, parts.clock(), user=user, channel=channel)
        if stopped and (one := user or user_of(ticket)):
            await parts.events.tell_cancelled(parts.records, id, one, Reason.CANCELLED)
        return stopped

    async def stuck(
        self, states: Iterable[str] | None = None, *, after: str = "", limit: int = 100
    ) -> Sequence[Delivery]:
        """Return deliveries that need an operator, by id.

        Args:
            states: names of states, in lower case; None: `unknown`, `parked` and `failed`.
            after: only those after this id.
            limit: how many at most.

        Raises:
            UsageError: there is no such state.
            BackendUnavailableError: not reachable; safe to repeat.
        """
        names = [each.upper() for each in (states or ("unknown", "parked", "failed"))]
        if unknown := [name for name in names if name not in State.__members__]:
            raise UsageError(
                f"there is no state {unknown[0].lower()!r}; they are {', '.join(State.__members__).lower()}"
            )
        return await self._parts.records.stuck([State[name] for name in names], after=after, limit=limit)

    async def release(self, channel: str) -> int:
        """Send what waits or is parked on a channel now, for example after its key was replaced; return how many.

        Raises: as `submit`; UsageError: the dispatcher has no such channel.
        Cancellation: some may be released; safe to repeat.
        """
        if channel not in self._parts.channels:
            raise UsageError(f"no channel is called {channel!r:.80}: there are {', '.join(self._parts.channels)}")
        released = await self._parts.records.hurry(self._parts.clock(), channel=channel)
        self._wake()
        return released

    async def report(self, *reports: Report) -> int:
        """Record what providers report about messages that were sent, and return how many deliveries are known.

        `DispatchApp` does this for its callbacks. A report can be repeated; none moves a delivery backwards.

        Raises: as `submit`.    Cancellation: some may be recorded; safe to repeat.
        """
        found = [await note(self._parts, each, self._on_report) for each in reports]
        self._wake()
        return sum(found)

    def schedule(self, schedule: Schedule) -> None:
        """Let `run` and `tick` submit a notification at fixed times, once for all processes that have the schedule.

        Raises:
            UsageError: there is a schedule of this name, or its type is not registered.
        """
        self._scheduler.add(schedule)
        self._wake()

    async def schedules(self) -> Sequence[ScheduleStatus]:
        """Return the next and the last run of each schedule of this dispatcher.

        Raises:
            BackendUnavailableError: not reachable; safe to repeat.
        """
        return await self._scheduler.status(self._parts.clock())

    async def forget(self, user: str) -> int:
        """Erase everything that is stored about a user, and return how many deliveries that were.

        First preferences, consents, devices and addresses, deliveries of any state, places in digests and counts; then
        the log, keys and inbox in the stores of the notifiers behind `inbox` and `events`. Messages that have not been
        sent are no longer sent. `Notifier.forget` of either notifier erases the dispatcher's stores too.

        Raises:
            UsageError: a store cannot erase a user; nothing was erased.
            BackendError: a store failed; some of it may be erased already; safe to repeat.
            ClosedError: a notifier or a store is closed.

        Cancellation: some of it may be erased already; safe to repeat.    Cost: may read through all deliveries.
        """
        return await erase(self._parts, user)

    async def set_preferences(
        self, user: str, patch: Mapping[str, Any], *, by: str = "", source: str = ""
    ) -> Preferences:
        """Change what a user switches on and off, by a JSON merge patch, and look again at what waits for the user.

        Args:
            user: whose preferences.
            patch: what changes; a value of None removes an entry.
            by: who changes them; empty: the user.
            source: where they are changed, such as `"preference page"`.

        Raises:
            UsageError: the patch has an entry that is not valid, or names an unknown type or channel; it changed
                nothing.
        """
        now, types = self._parts.clock(), self._parts.types
        known_types = types if types.unknown == "error" else None
        checked = check_patch(patch, types=known_types, channels=self._parts.channels)
        text = await self._parts.preferences.patch(user, checked, by=by or user, source=source, now=now)
        await self._parts.records.hurry(now, user=user)
        self._wake()
        return Preferences.from_json(text)

    async def preferences(self, user: str) -> Preferences:
        """Return what a user has switched on and off."""
        found = await self._parts.preferences.preferences([user])
        return Preferences.from_json(found[user]) if user in found else Preferences()


def _reset_of(type: NotificationType, delivery: Delivery, tz: str) -> datetime | None:
    """Return when the cap that refused a delivery has room again; None: no cap did."""
    return None if delivery.updated_at is None else reset_of(type, delivery.reason, tz, delivery.updated_at)
