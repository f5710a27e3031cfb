"""Pure: the values of deliveries as rows of numbers and texts, which stores on SQL databases share.

Instants are milliseconds since 1970. The functions take and return columns in the order of the tuples of names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from ._records import Delivery, DigestJoin, Endpoint, Notification, RecipientRecord, State
from ._steps import instant, millis

DELIVERY_COLUMNS: Final = (
    *("id", "notification_id", "user_id", "channel", "endpoint", "state", "due_at", "expires_at", "priority"),
    *("after_channel", "delay", "fence", "attempts", "reason", "provider_id", "updated_at", "opened_at", "clicked_at"),
)

NOTIFICATION_COLUMNS: Final = ("id", "type", "data", "created_at", "expires_at", "digest_id", "meta")

RECIPIENT_COLUMNS: Final = ("notification_id", "user_id", "decisions", "address")

ENDPOINT_COLUMNS: Final = (
    *("user_id", "channel", "address", "kind", "meta", "session", "id", "generation", "created_at", "last_seen_at"),
    *("last_success_at", "failures", "failing_since", "retired_at", "reason"),
)


def millis_or_none(moment: datetime | None) -> int | None:
    """Return an optional instant in milliseconds since 1970."""
    return None if moment is None else millis(moment)


def instant_or_none(milliseconds: int | None) -> datetime | None:
    """Return the optional instant so many milliseconds after 1970."""
    return None if milliseconds is None else instant(milliseconds)


def delivery_row(delivery: Delivery, now: int) -> tuple[Any, ...]:
    """Return the columns of a new delivery, which came into its state at `now`."""
    return (
        delivery.id,
        delivery.notification,
        delivery.user,
        delivery.channel,
        delivery.endpoint,
        int(delivery.state),
        millis_or_none(delivery.due_at),
        millis_or_none(delivery.expires_at),
        delivery.priority,
        delivery.after,
        float(delivery.delay),
        delivery.fence,
        delivery.attempts,
        delivery.reason,
        delivery.provider_id,
        now,
        millis_or_none(delivery.opened_at),
        millis_or_none(delivery.clicked_at),
    )


def delivery_of(row: Sequence[Any]) -> Delivery:
    """Return the delivery of these columns."""
    return Delivery(
        id=row[0],
        notification=row[1],
        user=row[2],
        channel=row[3],
        endpoint=row[4],
        state=State(row[5]),
        due_at=instant_or_none(row[6]),
        expires_at=instant_or_none(row[7]),
        priority=row[8],
        after=row[9],
        delay=row[10],
        fence=row[11],
        attempts=row[12],
        reason=row[13],
        provider_id=row[14],
        updated_at=instant_or_none(row[15]),
        opened_at=instant_or_none(row[16]),
        clicked_at=instant_or_none(row[17]),
    )


def notification_row(notification: Notification) -> tuple[Any, ...]:
    """Return the columns of a notification."""
    return (
        notification.id,
        notification.type,
        notification.data,
        millis(notification.created_at),
        millis_or_none(notification.expires_at),
        notification.digest,
        notification.meta,
    )


def notification_of(row: Sequence[Any]) -> Notification:
    """Return the notification of these columns."""
    return Notification(row[0], row[1], row[2], instant(row[3]), instant_or_none(row[4]), row[5], row[6])


def recipient_row(record: RecipientRecord) -> tuple[Any, ...]:
    """Return the columns of a recipient."""
    return record.notification, record.user, record.decisions, record.address


def endpoint_of(row: Sequence[Any]) -> Endpoint:
    """Return the endpoint of these columns."""
    return Endpoint(
        user=row[0],
        channel=row[1],
        address=row[2],
        kind=row[3],
        meta=json.loads(row[4]),
        session=row[5],
        id=row[6],
        generation=row[7],
        created_at=instant_or_none(row[8]),
        last_seen_at=instant_or_none(row[9]),
        last_success_at=instant_or_none(row[10]),
        failures=row[11],
        failing_since=instant_or_none(row[12]),
        retired_at=instant_or_none(row[13]),
        reason=row[14],
    )


def meta_text(endpoint: Endpoint) -> str:
    """Return what a channel needs of an endpoint, as JSON."""
    return json.dumps(dict(endpoint.meta), separators=(",", ":"))


def channels_text(join: DigestJoin) -> str:
    """Return the channels of a digest, as JSON."""
    return json.dumps([*join.channels], separators=(",", ":"))
