"""Pure: what is to be done with a notification for one recipient, and why.

`plan`, `submit` and the last look before sending all ask `plan_recipient`, so what `plan` says is what happens unless
something changed in between. For each channel of the type, in this order, the first that applies decides:

1. the type does not have the channel any more                      Skip CHANNEL_NOT_ALLOWED
2. the dispatcher has no such channel                               Skip NOT_INSTALLED
3. it has expired                                                   Skip EXPIRED
4. the type needs a consent that is not given                       Skip NOT_OPTED_IN
5. preferences switch it off (see `_preferences`)                   Skip OPTED_OUT; the inbox lists it silently
6. the recipient has no endpoint, or suppressed ones only           Skip NO_ENDPOINT, SUPPRESSED
7. the channel is a fallback, whose time has not come               Hold FALLBACK
   the channel is a fallback that is not needed                     Skip CONNECTED, READ_ALREADY, REACHED_ALREADY
8. the type is collected                                            Join DIGEST
9. it is quiet                                                      Hold, Join or Skip QUIET_HOURS; Skip EXPIRED
10. nothing is against it                                           Send

Caps are not looked at here: they are counted when the delivery is about to be sent (see `_caps`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from notify.errors import UsageError

from ._decisions import Decision, Hold, Join, Plan, Send, Skip
from ._digests import closes_at
from ._layers import Effective, Layers
from ._quiet import NEVER, quiet_time
from ._reasons import Reason
from ._type_parts import Fallback
from ._types import IN_APP, NotificationType, Recipient
from ._zones import check_zone, utc
from .abc import Endpoint

SUPPRESSED: Final = "suppressed"
"""`Endpoint.reason` of an address that bounces: mandatory notifications may still try it."""

STOPPED: Final = "stopped"
"""`Endpoint.reason` of an address that its owner stopped, as by answering STOP to an SMS: nothing may use it."""


class Reaching(Protocol):
    """What a plan has to know of a channel."""

    @property
    def has_endpoints(self) -> bool:
        """Whether it sends to endpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is known when a delivery is about to be sent, beside what is known at submit.

    Attributes:
        channel: of the delivery: no other one is planned.
        is_digest: it is a digest, so it is not collected again.
        is_part: it is for one of several devices, so it is not collected: the digest would reach the others again.
        is_rest: the notification was sent to another of these devices while this one had to wait. It was counted then,
            perhaps so long ago that the store of counts has forgotten it.
        has_lost_lead: another notification was sent lately, so this one is collected (see `Send.leading`).
        is_connected: whether the recipient has an open stream; asked for channels that are for those who are away.
        is_read: whether the item of the inbox is read, dismissed or gone.
        is_reached: whether the channel was accepted for which this one would step in.
    """

    channel: str
    is_digest: bool = False
    is_part: bool = False
    is_rest: bool = False
    has_lost_lead: bool = False
    is_connected: bool = False
    is_read: bool = False
    is_reached: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    """What does not depend on the channel."""

    type: NotificationType
    recipient: Recipient
    layers: Layers
    endpoints: Sequence[Endpoint]
    channels: Mapping[str, Reaching]
    now: datetime
    expires_at: datetime | None
    zone: str
    look: Look | None


def plan_recipient(
    type: NotificationType,
    recipient: Recipient,
    layers: Layers,
    endpoints: Sequence[Endpoint],
    channels: Mapping[str, Reaching],
    *,
    now: datetime,
    expires_at: datetime | None,
    tz: str = "UTC",
    look: Look | None = None,
) -> Plan:
    """Return what is to be done with a notification for one recipient.

    Args:
        type: the type of the notification.
        recipient: who gets it.
        layers: the preferences that count.
        endpoints: the recipient's, in any order; retired ones only explain why there is none.
        channels: the installed channels by name.
        now: the present time, or that at which it is to be sent.
        expires_at: when it has become worthless; None: never.
        tz: the zone of recipients whose zone is unknown.
        look: what is known when a delivery is about to be sent, of which the plan has the only decision; None: this is
            before.

    Raises:
        UsageError: `now` has no time zone, or a zone does not exist.
    """
    zone = layers.zone(recipient.tz, check_zone(tz, "tz"))
    question = _Question(type, recipient, layers, endpoints, channels, utc(now), expires_at, zone, look)
    decided: dict[str, Decision] = {}
    names = type.channels if look is None else (look.channel,)
    for channel in sorted(names, key=lambda name: name in type.fallback):  # a fallback asks what the other one does
        decided[channel] = _decide(question, channel, decided)
    return Plan(type.key, recipient.id, tuple(decided[channel] for channel in names))


def usable(type: NotificationType, channel: str, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the endpoints of a channel to which notifications of a type may be sent, sorted by id."""
    with_bounced = type.is_mandatory(channel)
    found = [
        each
        for each in endpoints
        if each.channel == channel and (each.retired_at is None or (with_bounced and each.reason == SUPPRESSED))
    ]
    return sorted(found, key=lambda each: (each.id, each.kind, each.address))


def _decide(question: _Question, channel: str, decided: Mapping[str, Decision]) -> Decision:
    """Return the decision for one channel, by the steps that the module lists."""
    type, now = question.type, question.now
    if channel not in type.channels:
        return Skip(channel=channel, reason=Reason.CHANNEL_NOT_ALLOWED, layer="type")
    if channel not in question.channels:
        return Skip(channel=channel, reason=Reason.NOT_INSTALLED, layer="dispatcher")
    if question.expires_at is not None and now >= question.expires_at:
        return Skip(channel=channel, reason=Reason.EXPIRED, layer="type")
    consent = question.layers.consent(type)
    if not consent.on:
        return Skip(channel=channel, reason=Reason.NOT_OPTED_IN, layer=consent.layer, rule=consent.rule)
    choice = question.layers.effective(type, channel)
    if not choice.on and channel != IN_APP:
        return Skip(channel=channel, reason=Reason.OPTED_OUT, layer=choice.layer, rule=choice.rule)
    targets: list[Endpoint] = []
    if question.channels[channel].has_endpoints:
        targets = usable(type, channel, question.endpoints)
        if not targets:
            return _without_endpoint(question, channel)
    return (
        _as_fallback(question, channel, decided)
        or _collected(question, channel, targets)
        or _quiet(question, channel, targets)
        or _send(question, channel, choice, targets)
    )


def _without_endpoint(question: _Question, channel: str) -> Decision:
    reasons = {each.reason for each in question.endpoints if each.channel == channel}
    reason = Reason.SUPPRESSED if reasons & {SUPPRESSED, STOPPED} else Reason.NO_ENDPOINT
    return Skip(channel=channel, reason=reason, layer="endpoints")


def _as_fallback(question: _Question, channel: str, decided: Mapping[str, Decision]) -> Decision | None:
    fallback = question.type.fallback.get(channel)
    if fallback is None:
        return None
    look = question.look
    if look is not None:
        reason = _not_needed(fallback, look)
        return None if reason is None else Skip(channel=channel, reason=reason, layer="type")
    other, until = decided.get(fallback.of), question.now + timedelta(seconds=fallback.after)
    if not isinstance(other, Send | Hold) and not (other is None and fallback.after):  # skipped, or without an inbox
        return None
    if question.expires_at is not None and until >= question.expires_at:
        return Skip(channel=channel, reason=Reason.EXPIRED, layer="type")
    if other is None:
        return Hold(channel=channel, reason=Reason.FALLBACK, layer="type", until=until)
    return Hold(channel=channel, reason=Reason.FALLBACK, layer="type", after=fallback.of, delay=float(fallback.after))


def _not_needed(fallback: Fallback, look: Look) -> Reason | None:
    if fallback.use == "failed":
        return Reason.REACHED_ALREADY if look.is_reached else None
    if look.is_read:
        return Reason.READ_ALREADY
    return Reason.CONNECTED if fallback.use == "away" and look.is_connected else None


def _collected(question: _Question, channel: str, targets: Sequence[Endpoint]) -> Decision | None:
    type, look = question.type, question.look
    if type.digest is None or channel not in type.collected or not _may_join(look):
        return None
    if type.digest.leading and (look is None or not look.has_lost_lead):
        return None
    ends = closes_at(type.digest, question.now, question.zone)
    quiet = _quiet_until(question, channel, targets, ends)
    until = ends if quiet is None or quiet.until == NEVER else quiet.until
    return Join(channel=channel, reason=Reason.DIGEST, layer="type", closes_at=ends, until=until)


def _may_join(look: Look | None) -> bool:
    return look is None or not (look.is_digest or look.is_part)


class _Quiet(NamedTuple):
    until: datetime
    action: str
    layer: str
    rule: str


def _quiet_until(question: _Question, channel: str, targets: Sequence[Endpoint], at: datetime) -> _Quiet | None:
    """Return until when it is quiet at an instant for all of the recipient's devices, and what to do; None: it is not.

    Devices may be in several zones: as soon as it is not quiet for one of them, the delivery is split by devices, and
    each part is looked at by itself.
    """
    layer, hours = question.layers.quiet_hours()
    if hours is None or question.type.quiet_hours == "ignore":
        return None
    rules = hours.of(channel, question.type.priority)
    found = []
    for tz in sorted({_zone_of_device(each, question.zone) for each in targets} or {question.zone}):
        quiet = quiet_time(rules, at, tz)
        if quiet is None:
            return None
        found.append(quiet)
    until, active = min(found, key=lambda each: each.until)
    action = next(action for action in ("drop", "digest", "hold") if any(rule.action == action for rule in active))
    deciding = next(rule for rule in active if rule.action == action)
    return _Quiet(until, action, layer, f"quiet_hours/{hours.rules.index(deciding)}")


def _zone_of_device(endpoint: Endpoint, default: str) -> str:
    """Return the zone that a device reported, if it is one: devices can say anything."""
    try:
        return check_zone(endpoint.meta.get("tz", ""), "tz") or default
    except UsageError:
        return default


def _quiet(question: _Question, channel: str, targets: Sequence[Endpoint]) -> Decision | None:
    quiet = _quiet_until(question, channel, targets, question.now)
    if quiet is None:
        return None
    until, action, layer, rule = quiet
    if action == "drop" or until == NEVER:
        return Skip(channel=channel, reason=Reason.QUIET_HOURS, layer=layer, rule=rule)
    if question.expires_at is not None and until >= question.expires_at:
        return Skip(channel=channel, reason=Reason.EXPIRED, layer=layer, rule=rule)
    if action == "digest" and _may_join(question.look) and question.type.priority != "critical":
        return Join(channel=channel, reason=Reason.QUIET_HOURS, layer=layer, rule=rule, closes_at=until, until=until)
    return Hold(channel=channel, reason=Reason.QUIET_HOURS, layer=layer, rule=rule, until=until)


def _send(question: _Question, channel: str, choice: Effective, targets: Sequence[Endpoint]) -> Send:
    type, look = question.type, question.look
    awake = targets
    if len(targets) > 1:  # it is not quiet for all of them, but it may be for some
        awake = [each for each in targets if _quiet_until(question, channel, [each], question.now) is None]
    reason = Reason.MANDATORY if choice.layer == "mandatory" else Reason.ALLOWED
    is_leading = channel in type.collected and type.digest is not None and bool(type.digest.leading)
    return Send(
        channel=channel,
        reason=reason if choice.on else Reason.LISTED_ONLY,
        layer=choice.layer,
        rule=choice.rule,
        at=question.now,
        endpoints=tuple(each.id for each in awake),
        silent=not choice.on,
        leading=is_leading and not (look is not None and look.is_digest),
    )
