"""What follows from a channel's answer: the delivery's next state, and what becomes of its endpoint and provider. Pure.

| outcome | state | endpoint | provider |
|---|---|---|---|
| Accepted, Delivered | ACCEPTED, DELIVERED | a success | |
| Transient | WAITING while attempts and time are left, else FAILED or EXPIRED | exhausted, if no attempt is left | |
| Throttled | WAITING, the attempt is not counted; EXPIRED if that is too late | | its gate closes |
| Ambiguous | WAITING if the receiver recognises repetitions and attempts and time are left, else UNKNOWN | the same | |
| Rejected | FAILED | a refusal if unclear; retired if `suppress` or `stop` | |
| EndpointGone | GONE | retired | |
| Misconfigured | PARKED | | |

If an attempt may have arrived, the delivery becomes UNKNOWN instead of EXPIRED, or of FAILED for lack of attempts. A
permanent refusal still makes it FAILED or GONE, so that the fallback is used.

A misconfigured channel never retires an endpoint: with a wrong key, every device seems to be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from ._moves import is_in_doubt, move
from ._outcomes import (
    Accepted,
    Ambiguous,
    Delivered,
    EndpointGone,
    Outcome,
    Rejected,
    Throttled,
    Transient,
)
from ._reasons import Reason
from .abc import Claim, Move, State

Effect: TypeAlias = Literal["", "success", "refusal", "exhausted", "gone", "suppressed", "stopped"]

_SHORTEST: Final = 1.0
"""Seconds for which a provider is left alone at least that wants to be."""

_LONGEST_TEXT: Final = 500
"""Characters that are kept of what a provider said."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What follows from an outcome.

    Attributes:
        move: of the delivery.
        effect: what happens to the endpoint.
        gate: what is closed; None: nothing.
        until: until when it is closed.
    """

    move: Move
    effect: Effect = ""
    gate: str | None = None
    until: datetime | None = None


def settle(
    claim: Claim,
    outcome: Outcome,
    now: datetime,
    *,
    retries: bool,
    attempts: int,
    delay: Callable[[int, Outcome], float | None],
) -> Settlement:
    """Decide what follows.

    Args:
        claim: the delivery that was sent.
        outcome: what the channel answered.
        now: the present time.
        retries: whether an ambiguous one may be sent again, since the receiver recognises repetitions.
        attempts: how often sending has begun, this time included.
        delay: from attempts and the outcome to seconds until the next attempt; None: there is no further one.
    """

    def move_to(
        to: State,
        reason: object = "",
        *,
        error: object = "",
        provider_id: object = "",
        due_at: datetime | None = None,
        refund: bool = False,
    ) -> Move:
        return move(
            claim,
            to,
            storable(reason),
            error=storable(error),
            provider_id=storable(provider_id),
            due_at=due_at,
            refund=refund,
            before_sending=False,
        )

    def again(reason: object, error: object, *, refund: bool = False) -> Move:
        is_known = not isinstance(outcome, Ambiguous) and not is_in_doubt(claim)  # else it may have arrived
        if due_at is None:
            return move_to(State.FAILED if is_known else State.UNKNOWN, reason, error=error)
        expires_at = claim.delivery.expires_at
        if expires_at is not None and due_at >= expires_at:
            return move_to(State.EXPIRED if is_known else State.UNKNOWN, reason, error=error)
        return move_to(State.WAITING, reason, due_at=due_at, error=error, refund=refund)

    wait = delay(attempts, outcome) if isinstance(outcome, Transient | Throttled | Ambiguous) else None
    if wait is not None and isinstance(outcome, Throttled):
        wait = max(wait, _SHORTEST)
    due_at = None if wait is None else now + timedelta(seconds=wait)
    match outcome:
        case Accepted(provider_id):
            return Settlement(move_to(State.ACCEPTED, provider_id=provider_id), "success")
        case Delivered(provider_id):
            return Settlement(move_to(State.DELIVERED, provider_id=provider_id), "success")
        case Transient(code, _, error):
            return Settlement(again(code, error), "exhausted" if wait is None else "")
        case Throttled(_, gate):
            return Settlement(again(Reason.THROTTLED, "", refund=True), gate=storable(gate), until=due_at)
        case Ambiguous(error) if retries:
            return Settlement(again(Reason.AMBIGUOUS, error), "exhausted" if wait is None else "")
        case Ambiguous(error):
            return Settlement(move_to(State.UNKNOWN, Reason.AMBIGUOUS, error=error))
        case Rejected(code, is_unclear, suppress, error, stop):
            effect: Effect = "stopped" if stop else "suppressed" if suppress else "refusal" if is_unclear else ""
            return Settlement(move_to(State.FAILED, code, error=error), effect)
        case EndpointGone(code):
            return Settlement(move_to(State.GONE, code), "gone")
    return Settlement(move_to(State.PARKED, Reason.MISCONFIGURED, error=outcome.error))


def storable(text: object) -> str:
    """Return a provider's words as every store takes them: not too long, without NUL and halves of surrogate pairs."""
    return str(text)[:_LONGEST_TEXT].replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
