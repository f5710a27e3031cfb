"""What a dispatcher consists of, checked once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar

from notify import UsageError
from notify.abc import PresenceTracker
from notify.inbox import Inbox

from ._channel import Channel
from ._content import Templates
from ._delivery_events import DeliveryEvents
from ._layers import Layers
from ._links import Links
from ._preferences import Preferences
from ._registry import TypeRegistry
from ._retry import PATIENT, PROMPT, RETIRING, RetrySchedule
from ._types import NotificationType, Recipient
from .abc import (
    CapStore,
    DigestStore,
    DispatchRecords,
    DispatchStore,
    EndpointStore,
    GateStore,
    PreferenceStore,
)

T = TypeVar("T")

Recipients: TypeAlias = Callable[[Sequence[str]], Iterable[Recipient] | Awaitable[Iterable[Recipient]]]
"""From user ids to what is known of these users, plain or async. A user that it leaves out does not exist."""

LayersOf: TypeAlias = Callable[[Sequence[str]], Mapping[str, Layers] | Awaitable[Mapping[str, Layers]]]
"""From user ids to the layers `override`, `member` and `tenant` of these users, plain or async."""

SCHEDULES: Final[Mapping[str, RetrySchedule]] = {"email": PATIENT, "webhook": RETIRING}
"""How channels are retried, by name; the others by `PROMPT`."""


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class DispatchParts:
    """The parts of a dispatcher.

    Attributes:
        inbox: where `in_app` puts items, which knows what is read; None: there is no inbox.
        presence: knows who is connected; None: there is no tracker, and no user counts as connected.
        store: keeps deliveries.
        records: reads them.
        preferences: keeps what users switch on and off.
        endpoints: keeps devices and addresses.
        caps: counts for frequency caps.
        gates: keeps which providers want to be left alone.
        digests: closes digests.
        types: what can be submitted.
        channels: what can be sent, by name.
        recipients: see `Recipients`.
        templates: make texts.
        defaults: preferences of users who have not decided.
        layers: see `LayersOf`; None: only the users' own preferences and the defaults count.
        tz: the zone of users whose zone is unknown.
        clock: returns the present time.
        chance: returns a number in [0, 1).
        retries: how channels are retried, by name.
        links: signed links in messages; None: there are none.
        events: pushes what becomes of deliveries.
    """

    inbox: Inbox | None
    presence: PresenceTracker | None
    store: DispatchStore
    records: DispatchRecords
    preferences: PreferenceStore
    endpoints: EndpointStore
    caps: CapStore
    gates: GateStore
    digests: DigestStore
    types: TypeRegistry
    channels: Mapping[str, Channel]
    recipients: Recipients
    templates: Templates
    defaults: Preferences
    tz: str
    clock: Callable[[], datetime]
    chance: Callable[[], float]
    retries: Mapping[str, RetrySchedule]
    events: DeliveryEvents
    links: Links | None = None
    layers: LayersOf | None = None

    def schedule(self, channel: str) -> RetrySchedule:
        """Return how a channel is retried."""
        found = self.retries.get(channel) or getattr(self.channels.get(channel), "retries", None)
        return found if isinstance(found, RetrySchedule) else PROMPT

    def horizon(self, type: NotificationType) -> float:
        """Return the most seconds for which a notification of a type is tried."""
        return max(self.schedule(channel).horizon for channel in type.channels)


def part(name: str, given: Any, store: Any, kind: type[T]) -> T:
    """Return what was given for a part, or the store if it can do that too.

    Raises:
        UsageError: neither can.
    """
    found = store if given is None else given
    if isinstance(found, kind):
        return found
    raise UsageError(
        f"Dispatcher: {type(found).__name__} is not a {kind.__name__}; pass {name}= with one, such as a "
        "SQLiteDispatchStore or a PostgresDispatchStore"
    )


def check_channels(channels: object) -> dict[str, Channel]:
    """Return the channels by name.

    Raises:
        UsageError: it is not a mapping of names to channels.
    """
    if not isinstance(channels, Mapping):
        raise UsageError(f"Dispatcher expects channels={{name: channel}}, not {channels!r:.80}")
    for name, channel in channels.items():
        if not isinstance(name, str) or not isinstance(channel, Channel):
            raise UsageError(
                f"Dispatcher: channels[{name!r:.40}] must be a channel (has_endpoints, deduplicates, send), "
                f"not {channel!r:.80}"
            )
    return dict(channels)


def check_presence(presence: object, types: TypeRegistry) -> None:
    """Raise UsageError if a type needs to know who is connected, and nothing does."""
    if presence is not None:
        return
    for each in types:
        for channel, fallback in each.fallback.items():
            if fallback.use == "away":
                raise UsageError(
                    f"the type {each.key!r} uses {channel} for those who are away: pass presence= with the tracker "
                    "that the notifier has, or use 'unread'"
                )


def check_links(links: object) -> Links | None:
    """Return the links; raise UsageError if they are something else."""
    if links is None or isinstance(links, Links):
        return links
    raise UsageError(f"Dispatcher: links must be Links(base_url, keys), not {type(links).__name__}")
