"""Pure: when a delivery that was not accepted is tried again.

Delays grow, and are drawn at random from 0 up to a limit, so that the deliveries that have piled up in an outage are
not tried at the same time. What a provider asks for is the least delay. A throttled attempt does not count, so it never
uses up a schedule.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from notify.errors import UsageError

from ._checks import check_all, check_count, check_seconds, keep
from ._outcomes import Outcome, Throttled, Transient

LONGEST_WAIT: Final = 86_400.0
"""Seconds. A provider that asks for a longer delay is tried again after this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySchedule:
    """How often a delivery is tried, and how long it waits between attempts.

    A dispatcher takes them as `retries=`, by channel name. Otherwise, channels named `email` or `webhook` make ten
    attempts within three and a half days, as do `EmailChannel` and `WebhookChannel` under any name, because they have
    an attribute `retries`, which wrappers pass on. All others make eight attempts within half an hour.

    Attributes:
        attempts: the number of attempts, including the first.
        base: the limit of the first delay, in seconds; it doubles with each further one.
        longest: the limit of every delay, in seconds, unless the provider asks for a longer one.
        delays: exact delays in seconds instead, one less than `attempts`; up to a tenth is added at random.
        throttled: the shortest delay, in seconds, after the provider throttled and did not say for how long.
        retires: whether an endpoint that has accepted nothing during all these attempts is retired.

    Raises:
        UsageError: an argument is not valid.
    """

    attempts: int = 8
    base: float = 14.0
    longest: float = 900.0
    delays: tuple[float, ...] = ()
    throttled: float = 60.0
    retires: bool = False

    def __post_init__(self) -> None:
        check_count("RetrySchedule.attempts", self.attempts)
        for name in ("base", "longest", "throttled"):
            check_seconds(f"RetrySchedule.{name}", getattr(self, name))
        keep(self, delays=check_all("RetrySchedule.delays", self.delays, (int, float)))
        for each in self.delays:
            check_seconds("RetrySchedule.delays", each, zero=True)
        if self.delays and len(self.delays) != self.attempts - 1:
            raise UsageError(
                f"RetrySchedule.delays must be one less than attempts={self.attempts}, since they lie between them; "
                f"there are {len(self.delays)}"
            )

    @property
    def horizon(self) -> float:
        """The most seconds from the first attempt to the last one, unless a provider asks for more."""
        if self.delays:
            return 1.1 * sum(self.delays)
        return sum(min(self.longest, self.base * 2.0 ** min(step, 60)) for step in range(self.attempts - 1))


PROMPT: Final = RetrySchedule()
"""For push messages and SMS: eight attempts within half an hour."""

PATIENT: Final = RetrySchedule(
    attempts=10, delays=(5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400), throttled=60.0
)
"""For e-mail and webhooks: ten attempts over three days, as the Standard Webhooks specification recommends."""

RETIRING: Final = replace(PATIENT, retires=True)
"""For webhooks: a receiver that fails for so long is gone. A mail server that fails proves nothing about an address."""


def delay(attempt: int, outcome: Outcome, schedule: RetrySchedule, chance: float) -> float | None:
    """Return how many seconds to wait before the next attempt.

    Args:
        attempt: the number of the attempt that led to this outcome, from 1.
        outcome: what the channel answered: `Transient`, `Throttled`, or another one that is safe to repeat.
        schedule: see `RetrySchedule`.
        chance: a number in [0, 1), for example `random.random()`.

    Returns:
        None: it was tried often enough. A throttled one always has a further attempt, until it expires.
    """
    asked = outcome.retry_after if isinstance(outcome, Throttled | Transient) else None
    least = 0.0 if asked is None else _sensible(asked)
    if isinstance(outcome, Throttled):
        return least if asked is not None and least > 0 else schedule.throttled * (1 + chance)
    if attempt >= schedule.attempts:
        return None
    if schedule.delays:
        return max(least, schedule.delays[attempt - 1] * (1 + chance / 10))
    return max(least, chance * min(schedule.longest, schedule.base * 2.0 ** min(attempt - 1, 60)))


def _sensible(seconds: float) -> float:
    return min(seconds, LONGEST_WAIT) if seconds > 0 else 0.0  # a comparison with NaN is false


def retry_after(value: str, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, as a number or an HTTP date; None: it is neither.

    Args:
        value: the header.
        now: the present time.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return _sensible(float(text[:20]))
    try:
        until = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return _sensible((until - now).total_seconds()) if until.tzinfo is not None else None


def jitter(id: str, seconds: float = 120.0) -> float:
    """Return a delay of up to `seconds` for a delivery, always the same for the same one.

    It is added where many are released at the same instant, such as 07:00, and it depends on the id alone, so that
    planning the same thing twice says the same.
    """
    digits = hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()[:6]
    return seconds * int.from_bytes(digits, "big") / 2**48
