"""Pure: moves of claims that are not sent now, and the names of gates."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from ._channel import Channel, Gated
from ._reasons import Reason
from .abc import IN_DOUBT, Claim, Delivery, Endpoint, Move, State, delivery_id, exact

_LOOK_AGAIN: Final = 30.0
"""Seconds after which a delivery is looked at again if what decides about it could not be read."""

_REPLACING: Final = timedelta(hours=1)
"""How long processes of two versions of an application may run beside each other."""


def is_in_doubt(claim: Claim) -> bool:
    """Return whether an earlier attempt may have arrived: its worker died, or it got no answer."""
    return claim.is_ambiguous or claim.delivery.reason == IN_DOUBT


def move(claim: Claim, to: State, reason: str = "", *, error: str = "", **more: Any) -> Move:
    """Return a move of a claim; unless `before_sending` is given, one that was decided before sending began.

    A delivery in doubt keeps that reason while it waits or is parked; the new reason is added to `error`.
    """
    if is_in_doubt(claim) and to in (State.WAITING, State.PARKED) and reason != IN_DOUBT:
        reason, error = IN_DOUBT, f"{reason}: {error}" if error else reason
    more.setdefault("before_sending", to is not State.SENDING)
    return Move(claim.delivery.id, claim.delivery.fence, to, reason=reason, error=error, **more)


def later(claim: Claim, error: Exception, now: datetime) -> Move:
    """Return the move of a claim that could not be looked at."""
    due_at = now + timedelta(seconds=_LOOK_AGAIN)
    return move(claim, State.WAITING, Reason.RETRY, due_at=due_at, error=type(error).__name__)


def ended(claim: Claim, to: State, reason: str, **more: Any) -> Move:
    """Return the move of a claim that is not sent now. One in doubt may have been sent, so it ends as UNKNOWN."""
    if is_in_doubt(claim) and to is not State.WAITING:
        return move(claim, State.UNKNOWN, Reason.AMBIGUOUS)
    return move(claim, to, reason, **more)


def of_other_version(claim: Claim, reason: Reason, now: datetime) -> Move:
    """Return the move of a claim that the types of this worker do not have.

    While an application is replaced, some of its processes have newer types than others. So what was submitted lately
    waits for a worker that knows it; later, the type has been removed.
    """
    is_removed = now - claim.notification.created_at >= _REPLACING
    due_at = now + timedelta(seconds=_LOOK_AGAIN)
    return ended(claim, State.SKIPPED, reason) if is_removed else ended(claim, State.WAITING, reason, due_at=due_at)


def of_removed_channel(claim: Claim, before: datetime) -> Move | None:
    """Return the move of a claim that was due before a time over a channel that the dispatcher does not have.

    None: a worker that had the channel took it later than that, and died. Another one may follow.
    """
    since = claim.delivery.updated_at
    is_old = since is not None and since <= exact(before)
    return ended(claim, State.SKIPPED, Reason.NOT_INSTALLED) if is_old else None


def gate_of(channel: Channel, name: str, endpoint: Endpoint | None) -> str:
    """Return the name of the gate through which a channel reaches an endpoint."""
    return gate_name(name, channel.gate(endpoint) if endpoint is not None and isinstance(channel, Gated) else "")


def gate_name(channel: str, gate: str) -> str:
    """Return the name under which the gate of a provider is kept."""
    return f"{channel}/{gate}" if gate else channel


def child(delivery: Delivery, endpoint: Endpoint, now: datetime) -> Delivery:
    """Return the delivery to one endpoint of a channel."""
    return Delivery(
        id=delivery_id(delivery.notification, delivery.user, delivery.channel, endpoint.id),
        notification=delivery.notification,
        user=delivery.user,
        channel=delivery.channel,
        endpoint=endpoint.id,
        due_at=now,
        expires_at=delivery.expires_at,
        priority=delivery.priority,
    )
