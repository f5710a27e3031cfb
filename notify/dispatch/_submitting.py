"""From a plan to the rows that a store keeps."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from notify import ClosedError, UsageError

from ._decisions import Decision, Hold, Plan, Send, Skip, hold_all, skip_all
from ._digests import joins_of
from ._parts import DispatchParts
from ._planning import Known, address_of, known, plan
from ._reasons import Reason
from ._retry import jitter
from ._schedules import LocalRun
from ._types import PRIORITIES, NotificationType, Recipient
from .abc import Delivery, DigestJoin, Notification, RecipientRecord, Submission, check_texts, delivery_id

MAX_KEY: Final = 255
"""The most characters of an idempotency key."""

MAX_DATA: Final = 65_536
"""The most bytes of the data as JSON: what an event of an inbox may have."""

KEEP_KEY: Final = timedelta(days=1)
"""How long an idempotency key is kept at least; else until the notification has expired, or is tried no more."""


@dataclass(frozen=True, slots=True)
class NotificationDraft:
    """A notification before it is stored.

    Attributes:
        type: its type.
        notification: its row.
        data: what the row has as JSON.
        local: its time in each recipient's zone; None: the present.
    """

    type: NotificationType
    notification: Notification
    data: Mapping[str, Any]
    local: LocalRun | None = None


def draft(
    parts: DispatchParts,
    key: str,
    data: Any,
    now: datetime,
    *,
    meta: Mapping[str, str],
    id: str = "",
    local: LocalRun | None = None,
) -> NotificationDraft:
    """Check what is submitted.

    Raises:
        UsageError: the type is not registered, its schema refuses the data, or the data is not a JSON object of at most
            `MAX_DATA` bytes.
    """
    type = parts.types.resolve(key)
    if type.schema is not None:
        try:
            type.schema(data)
        except Exception as error:
            raise UsageError(f"the schema of the type {key!r} refuses the data: {error}") from error
    encoded = encode_data(data)
    notification = Notification(
        id=id or secrets.token_hex(16),
        type=type.key,
        data=encoded,
        created_at=now,
        expires_at=type.expires_at(now if local is None else local.last + local.grace),
        meta=json.dumps(dict(meta)).encode(),
    )
    return NotificationDraft(type, notification, json.loads(encoded), local)


def encode_data(data: object) -> bytes:
    """Return data as JSON.

    Raises:
        UsageError: it is not a JSON object, or has more than `MAX_DATA` bytes.
    """
    values = {} if data is None else data
    if not isinstance(values, Mapping):
        raise UsageError(f"data must be a mapping that is a JSON object, not {data!r:.80}")
    try:
        encoded = json.dumps(dict(values), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"data must be a JSON object: {error}") from error
    if len(encoded) > MAX_DATA:
        raise UsageError(
            f"data must have at most {MAX_DATA} bytes as JSON, not {len(encoded)}: submit a reference to what is larger"
        )
    return encoded


async def plans(
    parts: DispatchParts, draft: NotificationDraft, users: Sequence[str], given: Mapping[str, Recipient], now: datetime
) -> list[Plan]:
    """Return what is to be done for each of these users."""
    found = await known(parts, users, given)
    expires_at = draft.notification.expires_at
    result = []
    for user, each in found.items():
        who = each.of(given[user]) if user in given else each
        if draft.local is None:
            result.append(plan(parts, draft.type, user, who, now=now, expires_at=expires_at))
        else:
            result.append(_local_plan(parts, draft.type, user, who, draft.local, now))
    return result


def _local_plan(
    parts: DispatchParts, type: NotificationType, user: str, who: Known, local: LocalRun, now: datetime
) -> Plan:
    """Return what is to be done for a recipient whose time of a schedule may be still to come."""
    due = local.due(who.zone(parts.tz), now)
    if due is None:
        return skip_all(type.key, user, type.channels, Reason.MISSED, "schedule")
    moment = max(now, due)
    found = plan(parts, type, user, who, now=moment, expires_at=type.expires_at(moment))
    if due <= now:
        return found

    def held(decision: Decision) -> Decision:
        if isinstance(decision, Skip) or (isinstance(decision, Hold) and decision.until is None):
            return decision
        return Hold(channel=decision.channel, reason=Reason.SCHEDULED, layer="schedule", until=due)

    return replace(found, decisions=tuple(map(held, found.decisions)))


async def plans_of_many(
    parts: DispatchParts, draft: NotificationDraft, users: Sequence[str], given: Mapping[str, Recipient], now: datetime
) -> list[Plan]:
    """Return what is to be done for each of many users.

    A recipient whose values are refused, such as a zone that does not exist, does not stop the others: its deliveries
    are stored, and looked at again later.
    """
    try:
        return await plans(parts, draft, users, given, now)
    except ClosedError:
        raise
    except UsageError:
        if len(users) == 1:
            return [hold_all(draft.type.key, users[0], draft.type.channels, now)]
    found: list[Plan] = []
    for user in users:
        found += await plans_of_many(parts, draft, [user], given, now)
    return found


def submission(
    draft: NotificationDraft,
    plans: Iterable[Plan],
    given: Mapping[str, Recipient],
    *,
    tenant: str,
    key: str | None,
    fingerprint: str,
    horizon: float,
    cursor: str | None = None,
    keep_until: datetime | None = None,
) -> Submission:
    """Return the rows of a notification to these recipients; `horizon` is for how long it may be tried."""
    records: list[RecipientRecord] = []
    deliveries: list[Delivery] = []
    joins: list[DigestJoin] = []
    for each in plans:
        address = address_of(given[each.user]) if each.user in given else b""
        records.append(RecipientRecord(draft.notification.id, each.user, each.to_json(), address))
        deliveries += deliveries_of(draft, each)
        joins += joins_of(draft.type, each.user, each.decisions, notification=draft.notification.id, data=draft.data)
    created = draft.notification.created_at
    if key is not None and keep_until is None:
        keep_until = max(created + KEEP_KEY, draft.notification.expires_at or created + timedelta(seconds=horizon))
    return Submission(
        notification=draft.notification,
        recipients=records,
        deliveries=deliveries,
        joins=joins,
        tenant=tenant,
        key=key,
        fingerprint=fingerprint,
        keep_until=keep_until,
        cursor=cursor,
    )


def deliveries_of(draft: NotificationDraft, plan: Plan) -> list[Delivery]:
    """Return the deliveries of one recipient: one for each channel that sends or holds."""
    notification, expires_at = draft.notification, _expires_at(draft, plan)
    found = []
    for each in plan.decisions:
        if not isinstance(each, Send | Hold):
            continue
        id = delivery_id(notification.id, plan.user, each.channel)
        found.append(
            Delivery(
                id=id,
                notification=notification.id,
                user=plan.user,
                channel=each.channel,
                due_at=each.at if isinstance(each, Send) else release_of(each, id, expires_at),
                expires_at=expires_at,
                priority=PRIORITIES.index(draft.type.priority),
                after=each.after if isinstance(each, Hold) else "",
                delay=each.delay if isinstance(each, Hold) else 0.0,
                reason=each.reason if isinstance(each, Hold) else "",
            )
        )
    return found


def _expires_at(draft: NotificationDraft, plan: Plan) -> datetime | None:
    """Return when a notification has become worthless for one recipient."""
    if draft.local is None:
        return draft.notification.expires_at
    held = (each.until for each in plan.decisions if isinstance(each, Hold) and each.reason is Reason.SCHEDULED)
    return draft.type.expires_at(next(held, None) or draft.notification.created_at)


def release_of(hold: Hold, id: str, expires_at: datetime | None) -> datetime | None:
    """Return when a held delivery is due: the ends of quiet hours are spread, since most of them are at 07:00."""
    if hold.until is None or hold.reason is not Reason.QUIET_HOURS:
        return hold.until
    spread = hold.until + timedelta(seconds=jitter(id))
    return spread if expires_at is None or spread < expires_at else hold.until


def check_key(key: object) -> str | None:
    """Return an idempotency key.

    Raises:
        UsageError: it is not text of 1 to 255 characters, or has some that stores refuse.
    """
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
        raise UsageError(f"idempotency_key must be text of 1 to {MAX_KEY} characters, not {key!r:.80}")
    check_texts("idempotency_key", key)
    return key


def fingerprint(type: str, audience: str, data: bytes) -> str:
    """Return what tells one request from another one with the same idempotency key."""
    return hashlib.sha256(json.dumps([type, audience, data.decode()]).encode()).hexdigest()
