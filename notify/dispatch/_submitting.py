"""From a plan to the rows that a store keeps."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from notify import ClosedError, UsageError

from ._decisions import Hold, Plan, Send
from ._digests import joins_of
from ._parts import DispatchParts
from ._planning import address_of, known, plan
from ._reasons import Reason
from ._retry import jitter
from ._types import PRIORITIES, NotificationType, Recipient
from .abc import Delivery, DigestJoin, Notification, RecipientRecord, Submission, delivery_id

MAX_KEY: Final = 255
"""The most characters of an idempotency key."""

KEEP_KEY: Final = timedelta(days=1)
"""How long an idempotency key is kept at least; else until the notification has expired, or is tried no more."""

VALUES_AGAIN: Final = 900.0
"""Seconds after which a delivery is looked at again if values of its recipient are refused."""

Audience: TypeAlias = (
    Iterable[str | Recipient] | AsyncIterable[str | Recipient] | Callable[[str], AsyncIterable[str | Recipient]]
)
"""Many recipients: an iterable, or a function that takes the last id that was submitted (empty at first), and yields
those after it, sorted. With a function, an interrupted submission goes on where it stopped."""


@dataclass(frozen=True, slots=True)
class NotificationDraft:
    """A notification before it has a store: its type, its row and the data that the row has as JSON."""

    type: NotificationType
    notification: Notification
    data: Mapping[str, Any]


def draft(
    parts: DispatchParts, key: str, data: Any, now: datetime, *, meta: Mapping[str, str], id: str = ""
) -> NotificationDraft:
    """Check what is submitted.

    Raises:
        UsageError: the type is not registered, its schema refuses the data, or the data is not a JSON object.
    """
    type = parts.types.resolve(key)
    if type.schema is not None:
        try:
            type.schema(data)
        except Exception as error:
            raise UsageError(f"the schema of the type {key!r} refuses the data: {error}") from error
    values = {} if data is None else data
    if not isinstance(values, Mapping):
        raise UsageError(f"data must be a mapping that is a JSON object, not {data!r:.80}")
    try:
        encoded = json.dumps(dict(values), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"data must be a JSON object: {error}") from error
    notification = Notification(
        id=id or secrets.token_hex(16),
        type=type.key,
        data=encoded,
        created_at=now,
        expires_at=type.expires_at(now),
        meta=json.dumps(dict(meta)).encode(),
    )
    return NotificationDraft(type, notification, json.loads(encoded))


async def plans(
    parts: DispatchParts, draft: NotificationDraft, users: Sequence[str], given: Mapping[str, Recipient], now: datetime
) -> list[Plan]:
    """Return what is to be done for each of these users."""
    found = await known(parts, users, given)
    expires_at = draft.notification.expires_at
    result = []
    for user, each in found.items():
        who = each.of(given[user]) if user in given else each
        result.append(plan(parts, draft.type, user, who, now=now, expires_at=expires_at))
    return result


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
            until = now + timedelta(seconds=VALUES_AGAIN)
            refused = Reason.RECIPIENT_REFUSED
            held = [Hold(channel=each, reason=refused, layer="recipients", until=until) for each in draft.type.channels]
            return [Plan(draft.type.key, users[0], tuple(held))]
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
    ends = draft.notification.expires_at or created + timedelta(seconds=horizon)
    return Submission(
        notification=draft.notification,
        recipients=records,
        deliveries=deliveries,
        joins=joins,
        tenant=tenant,
        key=key,
        fingerprint=fingerprint,
        keep_until=None if key is None else max(created + KEEP_KEY, ends),
        cursor=cursor,
    )


def deliveries_of(draft: NotificationDraft, plan: Plan) -> list[Delivery]:
    """Return the deliveries of one recipient: one for each channel that sends or holds."""
    notification = draft.notification
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
                due_at=each.at if isinstance(each, Send) else release_of(each, id, notification.expires_at),
                expires_at=notification.expires_at,
                priority=PRIORITIES.index(draft.type.priority),
                after=each.after if isinstance(each, Hold) else "",
                delay=each.delay if isinstance(each, Hold) else 0.0,
                reason=each.reason if isinstance(each, Hold) else "",
            )
        )
    return found


def release_of(hold: Hold, id: str, expires_at: datetime | None) -> datetime | None:
    """Return when a held delivery is due: the ends of quiet hours are spread, since most of them are at 07:00."""
    if hold.until is None or hold.reason is not Reason.QUIET_HOURS:
        return hold.until
    spread = hold.until + timedelta(seconds=jitter(id))
    return spread if expires_at is None or spread < expires_at else hold.until


def check_key(key: object) -> str | None:
    """Return an idempotency key.

    Raises:
        UsageError: it is not text of 1 to 255 characters.
    """
    if key is None or (isinstance(key, str) and 0 < len(key) <= MAX_KEY):
        return key
    raise UsageError(f"idempotency_key must be text of 1 to {MAX_KEY} characters, not {key!r:.80}")


def fingerprint(type: str, audience: str, data: bytes) -> str:
    """Return what tells one request from another one with the same idempotency key."""
    return hashlib.sha256(json.dumps([type, audience, data.decode()]).encode()).hexdigest()


async def batches(
    audience: Audience, after: str, size: int
) -> AsyncIterator[tuple[list[str], dict[str, Recipient], str]]:
    """Yield the recipients of an audience in batches: ids, those that were given whole, the last id.

    Raises:
        UsageError: the audience is a single user, or one of its members is not a recipient.
    """
    if isinstance(audience, str | bytes | Recipient):
        raise UsageError(f"an audience is an iterable of recipients, got a single {audience!r:.80}: use submit()")
    source: Any = audience(after) if callable(audience) else audience
    users: list[str] = []
    given: dict[str, Recipient] = {}
    async for each in _each(source):
        if isinstance(each, Recipient):
            given[each.id] = each
        elif not isinstance(each, str) or not each:
            raise UsageError(f"an audience has user ids and Recipients, not {each!r:.80}")
        users.append(each.id if isinstance(each, Recipient) else each)
        if len(users) == size:
            yield users, given, users[-1]
            users, given = [], {}
    if users:
        yield users, given, users[-1]


async def _each(source: Any) -> AsyncIterator[Any]:
    if hasattr(source, "__aiter__"):
        async for each in source:
            yield each
    elif isinstance(source, Iterable):
        for each in source:
            yield each
    else:
        raise UsageError(f"an audience is an iterable of recipients, not {source!r:.80}")
