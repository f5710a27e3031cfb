"""Deliveries as the functions of the database are told of them, and rows of deliveries read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from notify.dispatch.abc import (
    BY_CLAIM,
    DELIVERY_COLUMNS,
    LATER,
    Delivery,
    DeliveryAttempt,
    DigestJoin,
    Move,
    State,
    Submission,
    channels_text,
    delivery_row,
    instant,
    millis,
    millis_or_none,
    notification_row,
    span,
)

LEGAL_LATER: Final = [100 * before + after for before, states in LATER.items() for after in states]


def numbers(values: Iterable[int | None]) -> str:
    """Return an array of numbers as text in PostgreSQL's syntax, since the driver is slow to encode arrays."""
    return f"{{{','.join('NULL' if value is None else f'{value:d}' for value in values)}}}"


LEGAL_BY_CLAIM: Final = numbers(100 * before + after for before, states in BY_CLAIM.items() for after in states)


def texts(values: list[str]) -> list[str] | None:
    """Return an array of texts; None if all are empty."""
    return values if any(values) else None


def deliveries_json(deliveries: Iterable[Delivery], parents: Iterable[str] | None = None) -> str:
    """Return new deliveries as JSON, each with its parent if there are any."""
    rows = [dict(zip(DELIVERY_COLUMNS, delivery_row(each, 0), strict=True)) for each in deliveries]
    if parents is not None:
        rows = [{**row, "parent": parent} for row, parent in zip(rows, parents, strict=True)]
    return json.dumps(rows)


def join_value(join: DigestJoin) -> dict[str, Any]:
    """Return a join of a digest as a JSON value."""
    return {
        "key": join.key,
        "notification": join.notification,
        "user_id": join.user,
        "type": join.type,
        "channels": channels_text(join),
        "closes_at": millis(join.closes_at),
        "due_at": millis(join.due_at),
        "slides": None if join.slides_until is None else span(join.slides_until),
        "limit": join.limit,
    }


def submit_arguments(submission: Submission) -> list[Any]:
    """Return the arguments of the function that submits."""
    records = submission.recipients
    return [
        submission.tenant,
        submission.key,
        submission.fingerprint,
        millis_or_none(submission.keep_until),
        submission.cursor,
        *notification_row(submission.notification),
        [record.user for record in records],
        [record.decisions for record in records],
        [record.address for record in records],
        deliveries_json(submission.deliveries),
        json.dumps([join_value(join) for join in submission.joins]),
    ]


def advance_arguments(moves: Sequence[Move], now: int) -> list[Any]:
    """Return the arguments of the function that makes moves, each of another delivery."""
    children = [(child, move.id) for move in moves for child in move.children]
    joins = [{**join_value(move.join), "parent": move.id} for move in moves if move.join is not None]
    moves = sorted(moves, key=lambda move: move.id)
    due_at = [millis_or_none(move.due_at) for move in moves]
    refunds = [move.refund or (False if move.before_sending else None) for move in moves]
    leases = [None if move.lease is None else span(move.lease) for move in moves]
    return [
        [move.id for move in moves],
        numbers([move.fence for move in moves]),
        numbers([move.to for move in moves]),
        None if due_at.count(None) == len(due_at) else numbers(due_at),
        texts([move.reason for move in moves]),
        texts([move.provider_id for move in moves]),
        None if refunds.count(None) == len(refunds) else refunds,
        texts([move.error for move in moves]),
        None if leases.count(None) == len(leases) else numbers(leases),
        deliveries_json((child for child, _ in children), (parent for _, parent in children)) if children else None,
        json.dumps(joins) if joins else None,
        now,
        LEGAL_BY_CLAIM,
    ]


def attempt_of(row: Sequence[Any]) -> DeliveryAttempt:
    """Return the attempt of these columns."""
    return DeliveryAttempt(row[0], instant(row[1]), row[2], State(row[3]), row[4], row[5], row[6])
