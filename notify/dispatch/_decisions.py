"""Pure: what is decided for one recipient, one decision for each channel, and its form in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, TypeAlias

from notify.errors import UsageError

from ._reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """It is sent.

    Attributes:
        channel: over which channel.
        reason: why it may be.
        layer: what decided so, such as `"user"` or `"mandatory"`; see `Layers`.
        rule: which entry of the preferences.
        at: when.
        endpoints: the ids of the devices or addresses, sorted; what is registered when it is sent counts.
        silent: without an alert.
        leading: only if nothing was sent lately, else it is collected; see `Digest.leading`.
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
    """It is looked at again later.

    Attributes:
        channel: over which channel.
        reason: why it has to wait.
        layer: what decided so.
        rule: which entry of the preferences.
        until: until when; None: until `delay` seconds after `after` was accepted, or until `after` has failed.
        after: another channel.
        delay: see `until`.
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
    """It is collected, and sent together with others.

    Attributes:
        channel: over which channel.
        reason: why: the type says so, or the quiet hours.
        layer: what decided so.
        rule: which entry of the preferences.
        closes_at: when a digest that it opens ends.
        until: when that digest is sent: `closes_at`, or the end of the quiet hours after it.
    """

    channel: str
    reason: Reason
    layer: str
    rule: str = ""
    closes_at: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """It is not sent.

    Attributes:
        channel: over which channel.
        reason: why.
        layer: what decided so.
        rule: which entry of the preferences.
    """

    channel: str
    reason: Reason
    layer: str
    rule: str = ""


Decision: TypeAlias = Send | Hold | Join | Skip
"""What is decided for one channel."""

_KINDS: Final[Mapping[str, type[Decision]]] = {"send": Send, "hold": Hold, "join": Join, "skip": Skip}
_INSTANTS: Final = frozenset({"at", "until", "closes_at"})
_EMPTY: Final[tuple[object, ...]] = (None, "", (), False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided for one recipient.

    Attributes:
        type: the key of the type.
        user: the recipient.
        decisions: one for each channel of the type, in its order.
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
        """Return a text for people: one line for each channel."""
        return "\n".join(f"{each.channel}: {phrase(each)}" for each in self.decisions)

    def to_json(self) -> bytes:
        """Return the decisions as `RecipientRecord.decisions` keeps them."""
        return json.dumps([to_json(each) for each in self.decisions], separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, type: str, user: str, decisions: bytes) -> Plan:
        """Return the plan of which these are the decisions."""
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
        case Skip():
            return f"skip, {decision.reason}{by}"


def skip_all(type: str, user: str, channels: Sequence[str], reason: Reason, layer: str) -> Plan:
    """Return a plan that skips every channel for the same reason, such as `Reason.UNKNOWN_RECIPIENT`."""
    return Plan(type, user, tuple(Skip(channel=each, reason=reason, layer=layer) for each in channels))


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value
