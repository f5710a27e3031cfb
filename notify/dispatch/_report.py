"""Pure: what a provider reports about a message after it was sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from notify.errors import UsageError

from ._plan import STOPPED, SUPPRESSED
from .abc import State

GONE: Final = "gone"
"""`Endpoint.reason` of an address that does not exist any more."""

_STATES: Final = frozenset({State.ACCEPTED, State.DELIVERED, State.BOUNCED, State.FAILED})
_REASONS: Final = frozenset({"", GONE, SUPPRESSED, STOPPED})


@dataclass(frozen=True, slots=True)
class Report:
    """What a provider reports about a message after it was sent.

    | what happened | state | retire |
    |---|---|---|
    | it arrived | `DELIVERED` | |
    | the address does not exist (hard bounce) | `BOUNCED` | `"suppressed"`, or `"gone"` |
    | it could not be delivered (soft bounce) | `BOUNCED` | empty, with `is_unclear=True` |
    | the recipient calls it spam (complaint) | `DELIVERED` | `"suppressed"` |
    | the recipient answered STOP | `BOUNCED` | `"stopped"` |

    Attributes:
        delivery: the id of the delivery: `Job.id`, which channels send as the message's id.
        state: `DELIVERED`, `BOUNCED`, `FAILED` or `ACCEPTED`. A step that is not possible any more changes nothing, so
            reports may come late, repeatedly and in any order.
        reason: the provider's code.
        provider_id: what the provider calls the message.
        retire: why the endpoint gets nothing more: `"suppressed"` (mandatory types may still use it), `"gone"`, or
            `"stopped"` (nothing may use it); empty: it stays.
        is_unclear: it may be the endpoint that is wrong. Five such reports within thirty days, over at least a day and
            with nothing delivered in between, retire it.

    Raises:
        UsageError: `state` or `retire` is not one of these.
    """

    delivery: str
    state: State
    reason: str = ""
    provider_id: str = ""
    retire: str = ""
    is_unclear: bool = False

    def __post_init__(self) -> None:
        if self.state not in _STATES:
            raise UsageError(f"Report.state must be ACCEPTED, DELIVERED, BOUNCED or FAILED, not {self.state!r:.80}")
        if self.retire not in _REASONS:
            raise UsageError(f"Report.retire must be 'suppressed', 'gone', 'stopped' or empty, not {self.retire!r:.80}")
