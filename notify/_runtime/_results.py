"""What a notifier's methods return besides events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import NotifyError
from ..event import Event


@dataclass(frozen=True, slots=True)
class PushReport:
    """The outcome of a `push_many`, user by user.

    Attributes:
        events: the stored event of each user for whom it was stored.
        failed: the error of each other user; none of their streams saw a live copy.
        offline: users left out by `offline="drop"`.
    """

    events: Mapping[str, Event] = field(default_factory=dict)
    failed: Mapping[str, NotifyError] = field(default_factory=dict)
    offline: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict of `Notifier.check`.

    Attributes:
        ok: whether every part works.
        parts: `store`, `live` (whether a stream store receives new events), `presence` and `router`, as far as there
            are any: `"ok"`, or what is wrong. Of several routers, each has its own entry: `router 0 (MyRouter)`.
    """

    ok: bool
    parts: Mapping[str, str]
