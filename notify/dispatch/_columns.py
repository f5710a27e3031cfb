"""Pure: the values of deliveries as rows of numbers and texts, which stores on SQL databases share.

Instants are milliseconds since 1970. The functions take and return columns in the order of the tuples of names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, make_dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from ._records import Claim, Delivery, DigestJoin, Endpoint, Notification, RecipientRecord, State
from ._steps import instant, millis

T = TypeVar("T")

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

_NOTIFICATION_START: Final = len(DELIVERY_COLUMNS)
_RECIPIENT_START: Final = _NOTIFICATION_START + len(NOTIFICATION_COLUMNS)

_STATE: Final = DELIVERY_COLUMNS.index("state")
_INSTANTS: Final = [place for place, name in enumerate(DELIVERY_COLUMNS) if name.endswith("_at")]

_STATES: Final = {int(state): state for state in State}

_instant: Final = lru_cache(maxsize=1024)(instant)
"""Cached, since rows that are claimed or changed together have the same instants."""


def _maker(kind: type[T]) -> Callable[..., T]:
    """Return a function that makes records of a frozen class from the values of all fields, in a quarter of the time.

    To fill a frozen record takes a call for each field. So a record of another class is filled, which has the same
    fields and is not frozen, and its class is then changed to `kind`.
    """
    twin: Any = make_dataclass(kind.__name__, [each.name for each in fields(kind)], slots=True)  # type: ignore[arg-type]

    def make(*values: Any) -> T:
        record = twin(*values)
        record.__class__ = kind
        return record  # type: ignore[no-any-return]

    return make


_delivery: Final = _maker(Delivery)
_recipient: Final = _maker(RecipientRecord)
_claim: Final = _maker(Claim)


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
    """Return the delivery whose columns the row begins with."""
    values = [*row[:_NOTIFICATION_START]]
    values[_STATE] = _STATES[values[_STATE]]
    for place in _INSTANTS:
        if values[place] is not None:
            values[place] = _instant(values[place])
    return _delivery(*values)


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


def claims_of(rows: Iterable[Sequence[Any]]) -> list[Claim]:
    """Return the claims of rows that have the columns of a delivery, of its notification and of its recipient.

    Deliveries of one notification share one `Notification`.
    """
    claims, known = list[Claim](), dict[str, Notification]()
    for row in rows:
        delivery = delivery_of(row)
        notification = known.get(delivery.notification)
        if notification is None:
            notification = known[delivery.notification] = notification_of(row[_NOTIFICATION_START:_RECIPIENT_START])
        record = _recipient(*row[_RECIPIENT_START:])
        claims.append(_claim(delivery, notification, record, delivery.state is State.SENDING))
    return claims


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
