"""Pure: how long a store keeps what, with the same three options on every backend."""

from __future__ import annotations

from dataclasses import dataclass

from ._options import check_positive

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """The options of a store that say how long events and idempotency keys are kept.

    Attributes:
        max_len: events kept for each user; the oldest go first.
        max_age: seconds that events are kept; None: until `max_len` or `trim` removes them.
        key_window: seconds within which a repeated idempotency key returns the first event.

    Raises:
        UsageError: a value is not greater than 0.
    """

    max_len: int = 1000
    max_age: float | None = 7 * DAY
    key_window: float = DAY

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("max_len", "max_age", "key_window"):
            value = getattr(self, name)
            if value is not None or name != "max_age":
                check_positive(**{name: value})
