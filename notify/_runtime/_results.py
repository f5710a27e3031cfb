"""What a notifier's methods return besides events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import NotifyError
from ..event import Event


@dataclass(frozen=True, slots=True)
class PushReport:
    """What became of a `push_many`, user by user.

    Attributes:
        events: the stored event of each user who has it.
        failed: the error of each user who has not; nobody of them saw a live copy.
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
        parts: `store`, `live` (whether a stream store hears of new events), `presence`, `router`, as far as there are
            any: `"ok"`, or what is wrong.
    """

    ok: bool
    parts: Mapping[str, str]
