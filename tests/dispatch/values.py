"""Values that several tests of the rules use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from notify.dispatch._type_parts import FrequencyCap
from notify.dispatch._types import NotificationType
from notify.dispatch.abc import Endpoint


@dataclass(frozen=True)
class Way:
    """What a plan knows of a channel."""

    has_endpoints: bool = True


CHANNELS: Mapping[str, Way] = {"in_app": Way(has_endpoints=False), "push": Way(), "email": Way(), "sms": Way()}

NOW = datetime(2027, 1, 5, 12, tzinfo=UTC)

COMMENT = NotificationType("comment.created", channels=["in_app", "push", "email"])
OFFER = NotificationType(
    "offers",
    channels=["in_app", "email"],
    category="marketing",
    caps=[FrequencyCap(2), FrequencyCap(5, "week")],
    opt_in="promotions",
)


def utc(text: str) -> datetime:
    """An instant from `2027-01-05 12:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def endpoint(channel: str, id: str = "", **fields: object) -> Endpoint:
    """An endpoint of alice."""
    return Endpoint("alice", channel, f"{id or channel}@example.net", id=id or channel, **fields)  # type: ignore[arg-type]
