"""Why a notification reached a user, or did not: what was decided, what was done, and what has changed since."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from ._caps import CAP_REASONS
from ._decisions import Decision, Hold, Join, Plan, Send, Skip, phrase
from .abc import Delivery, DeliveryAttempt, Notification, State


@dataclass(frozen=True, slots=True)
class ReportEntry:
    """What has become of a notification over one channel, or at one endpoint, so far.

    Attributes:
        channel: its name.
        state: `SKIPPED` and `JOINED` also where that was decided at submit.
        reason: why it is in this state: a value of `Reason`, or a code of the provider.
        endpoint: the id of the endpoint; empty: the channel as a whole.
        provider_id: what the provider calls it.
    """

    channel: str
    state: State
    reason: str = ""
    endpoint: str = ""
    provider_id: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything about one notification to one user. `str()` returns it as text.

    Attributes:
        notification: what was submitted.
        user: the recipient.
        planned: the decisions at submit.
        present: the decisions that would be made now; None: its type is no longer registered, or it is a digest.
        deliveries: one for each channel that sends or holds, and one for each endpoint of those that have been due.
        attempts: the outcome of each attempt to send, oldest first.
        reset_at: when the frequency cap that refused it has room again, at the latest; None: no cap refused it.
        problem: what is wrong with the recipient's zone or stored preferences, so that nothing can be decided now;
            empty if they are valid.
    """

    notification: Notification
    user: str
    planned: Plan
    present: Plan | None
    deliveries: Sequence[Delivery]
    attempts: Sequence[DeliveryAttempt]
    reset_at: datetime | None = None
    problem: str = ""

    @property
    def changed(self) -> Sequence[Decision]:
        """The decisions that would now be different from those at submit, apart from their times."""
        if self.present is None:
            return ()
        before = {each.channel: _substance(each) for each in self.planned.decisions}
        return [each for each in self.present.decisions if before.get(each.channel) != _substance(each)]

    def report(self) -> Sequence[ReportEntry]:
        """Return one entry for each channel, and for each endpoint of a channel that has been expanded."""
        planned = {each.channel: each for each in self.planned.decisions}
        found: list[ReportEntry] = []
        for channel in dict.fromkeys([*planned, *(each.channel for each in self.deliveries)]):
            rows = [each for each in self.deliveries if each.channel == channel]
            rows = [each for each in rows if each.state is not State.EXPANDED] or rows
            found += [ReportEntry(channel, row.state, row.reason, row.endpoint, row.provider_id) for row in rows]
            if not rows:
                state = State.JOINED if isinstance(planned[channel], Join) else State.SKIPPED
                found.append(ReportEntry(channel, state, planned[channel].reason))
        return found

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        submitted = self.notification.created_at
        yield f"{self.notification.type} {self.notification.id} to {self.user}, {submitted:%F %T} UTC"
        planned = {each.channel: phrase(each) for each in self.planned.decisions}
        for channel in dict.fromkeys([*planned, *(each.channel for each in self.deliveries)]):
            yield f"  {channel}: {planned.get(channel, 'collected')}"
            for each in self.deliveries:
                if each.channel == channel:
                    yield from self._of(each)
        for decision in self.changed:
            yield f"  now it would be: {decision.channel}: {phrase(decision)}"
        if self.problem:
            yield f"  the recipient's values are refused: {self.problem}"

    def _of(self, delivery: Delivery) -> Iterator[str]:
        where = f" endpoint {delivery.endpoint[:8]}" if delivery.endpoint else ""
        why = f" ({delivery.reason})" if delivery.reason else ""
        due = f", due {delivery.due_at:%F %T} UTC" if delivery.state.is_open and delivery.due_at is not None else ""
        if delivery.reason in CAP_REASONS and not due and self.reset_at is not None:
            due = f", room again by {self.reset_at:%F %T} UTC"
        yield f"    {delivery.state.name.lower()}{why}{where}{due}"
        for act, at in (("opened", delivery.opened_at), ("clicked", delivery.clicked_at)):
            if at is not None:
                yield f"      {act} {at:%F %T}"
        for each in self.attempts:
            if each.delivery == delivery.id:
                late = ", too late" if each.is_late else ""
                error = f": {each.error}" if each.error else ""
                yield f"      {each.at:%T} {each.state.name.lower()} {each.reason}{late}{error}".rstrip()


def _substance(decision: Decision) -> tuple[object, ...]:
    """Return what matters of a decision: not its times, which pass by themselves."""
    kind = Send if isinstance(decision, Hold) else type(decision)  # what was held is sent when its time has come
    return (kind, decision.channel, decision.reason if kind is Skip else "", getattr(decision, "silent", False))
