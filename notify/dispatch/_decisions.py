"""Pure: the decisions for one recipient, one for each channel, and their form in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from notify.errors import UsageError

from ._reasons import Reason

REFUSED_RETRY: Final = 900.0
"""Seconds until a delivery is decided again if values of its recipient are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """The notification is sent over this channel.

    Attributes:
        channel: the name of the channel.
        reason: why.
        layer: what decided, such as `"user"` or `"mandatory"`; see `Layers`.
        rule: the entry of the preferences that decided; empty: none.
        at: when.
        endpoints: the ids of the devices or addresses, sorted, without those for which it is quiet (see `QuietHours`):
            each of these is decided by itself. Those that are registered at the time of sending count.
        silent: without an alert.
        leading: only if none was sent recently; otherwise it is collected. See `Digest.leading`.
    """

    channel: str
    reason: Reason
    layer: str
    rule: str = ""
    at: datetime
    endpoints: tuple[str, ...] = ()
    silent: bool = False
    leading: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The notification waits, and is decided again later.

    Attributes:
        channel: the name of the channel.
        reason: why it has to wait.
        layer: what decided; see `Send`.
        rule: the entry of the preferences that decided; empty: none.
        until: when it is decided again; None: `delay` seconds after `after` was accepted, or as soon as `after` failed.
        after: the name of another channel.
        delay: see `until`, in seconds.
    """

    channel: str
    reason: Reason
    layer: str
    rule: str = ""
    until: datetime | None = None
    after: str = ""
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """The notification is collected, and sent together with others.

    Attributes:
        channel: the name of the channel.
        reason: `digest` if its type collects, `quiet_hours` if they do.
        layer: what decided; see `Send`.
        rule: the entry of the preferences that decided; empty: none.
        closes_at: when the digest ends, if this notification opens it.
        until: when that digest is sent: at `closes_at`, or at the end of the quiet hours after it.
    """

    channel: str
    reason: Reason
    layer: str
    rule: str = ""
    closes_at: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """The notification is not sent over this channel.

    Attributes:
        channel: the name of the channel.
        reason: why.
        layer: what decided; see `Send`.
        rule: the entry of the preferences that decided; empty: none.
    """

    channel: str
    reason: Reason
    layer: str
    rule: str = ""


Decision: TypeAlias = Send | Hold | Join | Skip
"""The decision for one channel."""

_KINDS: Final[Mapping[str, type[Decision]]] = {"send": Send, "hold": Hold, "join": Join, "skip": Skip}
_INSTANTS: Final = frozenset({"at", "until", "closes_at"})
_EMPTY: Final[tuple[object, ...]] = (None, "", (), False)


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions for one recipient. `str()` returns them as text.

    Attributes:
        type: the key of the type.
        user: the recipient.
        decisions: one for each channel of the type, in the order of its `channels`.
    """

    type: str
    user: str
    decisions: tuple[Decision, ...]

    def __getitem__(self, channel: str) -> Decision:
        """Return the decision for a channel; KeyError: the type does not use it."""
        for decision in self.decisions:
            if decision.channel == channel:
                return decision
        raise KeyError(channel)

    def __str__(self) -> str:
        """Return one line of text for each channel."""
        return "\n".join(f"{each.channel}: {phrase(each)}" for each in self.decisions)

    def to_json(self) -> bytes:
        """Return the decisions in the form of `RecipientRecord.decisions`."""
        return json.dumps([to_json(each) for each in self.decisions], separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, type: str, user: str, decisions: bytes) -> Plan:
        """Return the plan that `to_json` was called on."""
        return cls(type, user, tuple(from_json(each) for each in json.loads(decisions)))


def to_json(decision: Decision) -> dict[str, Any]:
    """Return a decision as JSON values, without what is empty."""
    kind = next(name for name, each in _KINDS.items() if isinstance(decision, each))
    values = {each.name: getattr(decision, each.name) for each in fields(decision)}
    return {"do": kind} | {name: _to_json(value) for name, value in values.items() if value not in _EMPTY}


def from_json(value: Mapping[str, Any]) -> Decision:
    """Return the decision that was written by `to_json`."""
    given = dict(value)
    kind = _KINDS.get(given.pop("do", ""))
    if kind is None:
        raise UsageError(f"a decision must be one of {', '.join(_KINDS)}, not {value!r:.80}")
    given["reason"] = Reason(given["reason"])
    for name in _INSTANTS & given.keys():
        given[name] = datetime.fromisoformat(given[name])
    if "endpoints" in given:
        given["endpoints"] = tuple(given["endpoints"])
    return kind(**given)


def phrase(decision: Decision) -> str:
    """Return a decision in words."""
    by = f" by {decision.layer}" + (f" {decision.rule}" if decision.rule else "")
    match decision:
        case Send():
            return f"send, {decision.reason}{by}"
        case Hold(until=None):
            return f"hold until {decision.delay:g} s after {decision.after}, {decision.reason}{by}"
        case Hold():
            return f"hold until {decision.until:%F %T} UTC, {decision.reason}{by}"
        case Join():
            return f"collect until {decision.until:%F %T} UTC, {decision.reason}{by}"
    return f"skip, {decision.reason}{by}"


def skip_all(type: str, user: str, channels: Sequence[str], reason: Reason, layer: str) -> Plan:
    """Return a plan that skips every channel for the same reason, such as `Reason.UNKNOWN_RECIPIENT`."""
    return Plan(type, user, tuple(Skip(channel=each, reason=reason, layer=layer) for each in channels))


def hold_all(type: str, user: str, channels: Sequence[str], now: datetime) -> Plan:
    """Return the plan for a recipient whose values are refused: each channel waits, and is decided again later."""
    reason, until = Reason.RECIPIENT_REFUSED, now + timedelta(seconds=REFUSED_RETRY)
    held = (Hold(channel=each, reason=reason, layer="recipients", until=until) for each in channels)
    return Plan(type, user, tuple(held))


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value
