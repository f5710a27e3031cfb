"""The options of `NotifyApp`, checked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from notify import UsageError
from notify.inbox import Inbox

from ._dialects import Dialect, find_dialect

MAX_RETRY: Final = 3600.0
"""Seconds: a longer time to wait before reconnecting is surely a mistake, such as milliseconds."""


@dataclass(frozen=True, slots=True)
class WebOptions:
    """The keywords of `NotifyApp`; see there. Durations are in seconds, sizes in bytes.

    Raises:
        UsageError: a value is unacceptable.
    """

    heartbeat: float = 15.0
    retry: tuple[float, float] = (1.0, 5.0)
    lifetime: float = 900.0
    send_timeout: float = 20.0
    long_poll: float = 25.0
    max_streams: int | None = None
    max_streams_per_user: int = 20
    max_body: int = 65_536
    ticket_lifetime: float = 30.0
    drain: float = 2.0
    origins: Sequence[str] = ()
    publish_secrets: Sequence[str | bytes] = ()
    on_push: Callable[..., Any] | None = None
    dialect: str | Dialect | None = None
    authorize_follow: Callable[..., Any] | None = None
    inbox: Inbox | None = None

    def __post_init__(self) -> None:
        for name in ("heartbeat", "lifetime", "send_timeout", "long_poll", "ticket_lifetime"):
            _check_seconds(name, getattr(self, name))
        if not _is_number(self.drain) or not 0 <= self.drain < math.inf:
            raise UsageError(f"drain must be a number of seconds of at least 0, not {self.drain!r}")
        object.__setattr__(self, "retry", _range(self.retry))
        for name in ("max_streams_per_user", "max_body"):
            _check_count(name, getattr(self, name))
        if self.max_streams is not None:
            _check_count("max_streams", self.max_streams)
        for name in ("origins", "publish_secrets"):
            object.__setattr__(self, name, _sequence(name, getattr(self, name)))
        if self.dialect is not None and not isinstance(self.dialect, Dialect):
            object.__setattr__(self, "dialect", find_dialect(self.dialect))
        for name in ("on_push", "authorize_follow"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise UsageError(f"{name} must be a function, not {function!r:.80}")
        if self.inbox is not None and not isinstance(self.inbox, Inbox):
            raise UsageError(f"inbox must be an Inbox, not {self.inbox!r:.80}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_seconds(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value < math.inf:
        raise UsageError(f"{name} must be a number of seconds greater than 0, not {value!r:.80}")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} must be an integer of at least 1, not {value!r:.80}")


def _range(value: Any) -> tuple[float, float]:
    """Return the least and the greatest time until a client reconnects; one number stands for both."""
    pair = (value, value) if _is_number(value) else value
    try:
        least, greatest = pair
    except (TypeError, ValueError):
        least = greatest = None
    if not (_is_number(least) and _is_number(greatest) and 0 <= least <= greatest <= MAX_RETRY):
        raise UsageError(
            f"retry must be two numbers of seconds from 0 to {MAX_RETRY:g}, minimum and maximum, not {value!r:.80}"
        )
    return (float(least), float(greatest))


def _sequence(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str | bytes):
        raise UsageError(f"{name} must be a sequence, not one {value.__class__.__name__}: write ({value!r:.40},)")
    try:
        return tuple(value)
    except TypeError as error:
        raise UsageError(f"{name} must be a sequence, not {value!r:.80}") from error
