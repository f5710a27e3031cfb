"""What administrators do: send to users, devices and audiences, read a user's notifications, ask why."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from notify import InvalidEventError, UsageError
from notify._asgi import Reply, Request, WebError, read_object
from notify.inbox.abc import Item

from ._app_site import DispatchSite, Receive, members_of, text_of
from ._tickets import Ticket
from ._types import Recipient
from .abc import Delivery, DeliveryAttempt, Endpoint, endpoint_id

CODE: Final = "invalid_send"

TARGETS: Final = ("user", "users", "endpoint", "endpoints", "audience")

MAX_TARGETS: Final = 500

MAX_BODY: Final = 1_048_576
"""Bytes of a request to send, at least: 500 subscriptions of browsers have about half of that."""

MAX_LIMIT: Final = 100
LIMIT: Final = 20

_NUMBER: Final = re.compile("[0-9]{1,9}", re.ASCII)


async def send(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /send."""
    await site.check_admin(request)
    found = await read_object(request, receive, max(site.max_body, MAX_BODY), site.timeout)
    members_of(found, CODE, (*TARGETS, "data", "idempotency_key"), ("type",))
    type, data = text_of(found, "type", CODE), found.get("data")
    targets = [name for name in TARGETS if name in found]
    if len(targets) != 1:
        raise WebError(422, CODE, f"name the target by exactly one of {', '.join(TARGETS)}")
    key = text_of(found, "idempotency_key", CODE) or None
    target = targets[0]
    if target in ("users", "endpoints", "audience") and key is None:
        raise WebError(422, CODE, f"{target} needs an idempotency_key, so that the request can be repeated")
    try:
        ticket = await _submitted(site, type, data, key, target, found[target])
    except UsageError as error:
        raise WebError(422, CODE, str(error)) from None
    return Reply.json({"id": ticket.id, "replayed": ticket.replayed, "count": ticket.count}, 202)


async def _submitted(site: DispatchSite, type: str, data: Any, key: str | None, target: str, value: Any) -> Ticket:
    dispatcher = site.dispatcher
    if target in ("user", "endpoint"):
        to = _user(value) if target == "user" else _recipient(site, value)
        return await dispatcher.submit(type, to, data, idempotency_key=key)
    assert key is not None
    if target == "audience":
        audience = site.audiences.get(value) if isinstance(value, str) else None
        if audience is None:
            raise WebError(422, CODE, f"audience must be one of {', '.join(sorted(site.audiences)) or 'none'}")
        return await dispatcher.submit_many(type, audience, data, idempotency_key=key)
    if not isinstance(value, list) or not 0 < len(value) <= MAX_TARGETS:
        raise WebError(422, CODE, f"{target} must be a list of 1 to {MAX_TARGETS}")
    many = [_user(each) if target == "users" else _recipient(site, each) for each in value]
    return await dispatcher.submit_many(type, many, data, idempotency_key=key)


def _user(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 255:
        raise WebError(422, CODE, "a user must be text of 1 to 255 characters")
    return value


def _recipient(site: DispatchSite, value: object) -> Recipient:
    """Return a recipient without an account: one device, address or topic."""
    if not isinstance(value, dict):
        raise WebError(422, CODE, "an endpoint must be an object with channel and address")
    members_of(value, CODE, ("kind", "meta"), ("channel", "address"))
    channel, kind = text_of(value, "channel", CODE), text_of(value, "kind", CODE)
    address, meta = text_of(value, "address", CODE, most=4096), value.get("meta", {})
    installed = site.parts.channels.get(channel)
    if installed is None or not installed.has_endpoints or not address:
        raise WebError(422, CODE, "channel must be one that has endpoints, and address must not be empty")
    if not isinstance(meta, dict) or not all(isinstance(each, str) for each in meta.values()):
        raise WebError(422, CODE, "meta must be an object whose values are text")
    id = f"endpoint:{endpoint_id(channel, kind, address)}"
    return Recipient(id, endpoints=[Endpoint(id, channel, address, kind, meta)])


async def notifications(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve GET /users/{user}/notifications: the items of that user's inbox, newest first."""
    await site.check_admin(request)
    inbox = site.parts.inbox
    if inbox is None:
        raise WebError(404, "not_found", "there is nothing at this path: the dispatcher has no inbox")
    text = request.query.get("limit", str(LIMIT))
    limit = int(text) if _NUMBER.fullmatch(text) else 0
    if not 0 < limit <= MAX_LIMIT:
        raise WebError(400, "bad_request", f"limit must be a whole number of 1 to {MAX_LIMIT}")
    try:
        page = await inbox.list(names["user"], before=request.query.get("before") or None, limit=limit, state="all")
    except InvalidEventError:
        raise WebError(404, "not_found", "there is no such user") from None
    items = [item_value(each) for each in page.items]
    return Reply.json({"items": items, "next": page.next, "total": page.counts.total, "unread": page.counts.unread})


async def explain(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve GET /explain?ticket=&user=."""
    await site.check_admin(request)
    query = request.query
    if not query.get("ticket") or not query.get("user"):
        raise WebError(400, "bad_request", "ticket= and user= are needed")
    found = await site.dispatcher.explain(query["ticket"], query["user"])
    if found is None:
        raise WebError(404, "not_found", "no such notification was submitted for this user")
    return Reply.json(
        {
            "id": found.notification.id,
            "type": found.notification.type,
            "user": found.user,
            "created_at": found.notification.created_at.isoformat(),
            "planned": json.loads(found.planned.to_json()),
            "present": None if found.present is None else json.loads(found.present.to_json()),
            "deliveries": [_delivery_value(each) for each in found.deliveries],
            "attempts": [_attempt_value(each) for each in found.attempts],
            "reset_at": _text(found.reset_at),
            "problem": found.problem,
            "text": str(found),
        }
    )


def item_value(item: Item) -> dict[str, Any]:
    """Return an item of an inbox."""
    event = item.event
    return {
        "id": item.id,
        "type": event.type,
        "payload": event.payload,
        "group": event.group,
        "timestamp": event.timestamp.isoformat(),
        "seen_at": _text(item.seen_at),
        "read_at": _text(item.read_at),
        "dismissed_at": _text(item.dismissed_at),
    }


def _delivery_value(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "channel": delivery.channel,
        "endpoint": delivery.endpoint,
        "state": delivery.state.name.lower(),
        "reason": delivery.reason,
        "attempts": delivery.attempts,
        "due_at": _text(delivery.due_at) if delivery.state.is_open else None,
        "updated_at": _text(delivery.updated_at),
        "opened_at": _text(delivery.opened_at),
        "clicked_at": _text(delivery.clicked_at),
    }


def _attempt_value(attempt: DeliveryAttempt) -> dict[str, Any]:
    return {
        "delivery": attempt.delivery,
        "at": attempt.at.isoformat(),
        "state": attempt.state.name.lower(),
        "reason": attempt.reason,
        "error": attempt.error,
        "is_late": attempt.is_late,
    }


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
