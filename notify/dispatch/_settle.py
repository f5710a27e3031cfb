"""What follows from a channel's answer: the delivery's next state, and what becomes of its endpoint and provider. Pure.

| outcome | state | endpoint | provider |
|---|---|---|---|
| Accepted, Delivered | ACCEPTED, DELIVERED | a success | |
| Transient | WAITING while attempts and time are left, else FAILED or EXPIRED | | |
| Throttled | WAITING, the attempt is not counted; EXPIRED if that is too late | | its gate closes |
| Ambiguous | as Transient if the far side recognises repetitions, else UNKNOWN | | |
| Rejected | FAILED | a refusal if unclear; retired if `suppress` or `stop` | |
| EndpointGone | GONE | retired | |
| Misconfigured | PARKED | | |

A misconfigured channel never retires an endpoint: a wrong key of one's own looks like a refusal of each device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from ._outcomes import (
    Accepted,
    Ambiguous,
    Delivered,
    EndpointGone,
    Misconfigured,
    Outcome,
    Rejected,
    Throttled,
    Transient,
)
from ._reasons import Reason
from .abc import Claim, Move, State

Effect: TypeAlias = Literal["", "success", "refusal", "gone", "suppressed", "stopped"]

THROTTLED_FOR: Final = 60.0
"""Seconds for which a provider that names no time is left alone."""

MAX_RETRY_AFTER: Final = 86_400.0
"""What a provider may ask for at most, in seconds."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What follows from an outcome.

    Attributes:
        move: of the delivery.
        effect: what happens to the endpoint.
        gate: what is closed until `move.due_at`; None: nothing.
    """

    move: Move
    effect: Effect = ""
    gate: str | None = None


def settle(
    claim: Claim,
    outcome: Outcome,
    now: datetime,
    *,
    retries: bool,
    attempts: int,
    delay: Callable[[int, float | None], float | None],
) -> Settlement:
    """Decide what follows.

    Args:
        claim: the delivery that was sent.
        outcome: what the channel answered.
        now: the present time.
        retries: whether an ambiguous one may be sent again, since the far side recognises repetitions.
        attempts: how often sending has begun, this time included.
        delay: from attempts and `retry_after` to seconds until the next attempt; None: there is no further one.
    """

    def move(to: State, reason: str = "", **more: object) -> Move:
        return Move(claim.delivery.id, claim.delivery.fence, to, reason=reason, **more)  # type: ignore[arg-type]

    def again(reason: str, seconds: float | None, error: str, *, refund: bool = False) -> Move:
        if seconds is None:
            return move(State.FAILED, reason, error=error)
        due_at = now + timedelta(seconds=seconds)
        expires_at = claim.delivery.expires_at
        if expires_at is not None and due_at >= expires_at:
            return move(State.EXPIRED, reason, error=error)
        return move(State.WAITING, reason, due_at=due_at, error=error, refund=refund)

    match outcome:
        case Accepted(provider_id):
            return Settlement(move(State.ACCEPTED, provider_id=provider_id), "success")
        case Delivered(provider_id):
            return Settlement(move(State.DELIVERED, provider_id=provider_id), "success")
        case Transient(code, retry_after, error):
            return Settlement(again(code, delay(attempts, retry_after), error))
        case Throttled(retry_after, gate):
            seconds = min(max(THROTTLED_FOR if retry_after is None else retry_after, 1.0), MAX_RETRY_AFTER)
            return Settlement(again(Reason.THROTTLED, seconds, "", refund=True), gate=gate)
        case Ambiguous(error) if retries:
            return Settlement(again(Reason.AMBIGUOUS, delay(attempts, None), error))
        case Ambiguous(error):
            return Settlement(move(State.UNKNOWN, Reason.AMBIGUOUS, error=error))
        case Rejected(code, is_unclear, suppress, error, stop):
            effect: Effect = "stopped" if stop else "suppressed" if suppress else "refusal" if is_unclear else ""
            return Settlement(move(State.FAILED, code, error=error), effect)
        case EndpointGone(code):
            return Settlement(move(State.GONE, code), "gone")
        case Misconfigured(error):
            return Settlement(move(State.PARKED, Reason.MISCONFIGURED, error=error))
