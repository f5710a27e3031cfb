"""GET /openapi.json: the endpoints of a `DispatchApp`, as OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from notify._asgi import DISPATCH_FILES, Reply, Request

from ._app_admin import LIMIT, MAX_LIMIT, MAX_TARGETS, TARGETS
from ._app_devices import PLATFORMS
from ._app_routes import PATTERNS
from ._app_site import DispatchSite, Receive

Json = dict[str, Any]


class Described(NamedTuple):
    """One operation.

    Attributes:
        name: its id.
        summary: what it does.
        success: the status of the answer.
        answer: a name of `_SCHEMAS`, or a media type; empty: there is no body.
        body: a name of `_SCHEMAS`; empty: there is no body.
        errors: further statuses of errors.
        security: who may use it.
        query: names of parameters in the query.
    """

    name: str
    summary: str
    success: int
    answer: str = ""
    body: str = ""
    errors: str = "401"
    security: str = "application"
    query: tuple[str, ...] = ()


def kind_of(name: str) -> str:
    """Return the media type of a file."""
    return "text/javascript" if name.endswith(".js") else "text/plain"


OPERATIONS: Final[Mapping[str, Mapping[str, Described]]] = {
    "devices": {
        "get": Described("listDevices", "The user's devices.", 200, "Devices"),
        "post": Described("registerDevice", "Register the token of an app, or renew it.", 201, "Device",
                          "NewDevice", "401 408 413 415 422"),
    },
    "devices/unregister": {
        "post": Described("unregisterDevice", "Remove a device by its address, known or not.", 204, "",
                          "DeviceAddress", "401 408 413 415 422"),
    },
    "devices/{id}": {"delete": Described("removeDevice", "Remove a device by its id.", 204, errors="401 404")},
    "push/vapid-key": {
        "get": Described("vapidKey", "The applicationServerKey for a subscription.", 200, "VapidKey",
                         errors="404", security=""),
    },
    "push/subscribe": {
        "post": Described("subscribe", "Register a browser's push subscription, or renew it.", 201, "Device",
                          "Subscription", "401 404 408 409 413 415 422"),
    },
    "push/unsubscribe": {
        "post": Described("unsubscribePush", "Remove a browser's subscription, known or not.", 204, "",
                          "SubscriptionAddress", "401 408 413 415 422"),
    },
    "preferences": {
        "get": Described("preferences", "What is on and off, and which layer decides.", 200, "Preferences"),
        "patch": Described("patchPreferences", "Change preferences by a JSON merge patch.", 200, "Preferences",
                           "PreferencesPatch", "401 408 413 415 422"),
    },
    "deliveries/{id}/opened": {
        "post": Described("opened", "Record that a delivery to the user was opened.", 200, "Opened", errors="401 404"),
    },
    "deliveries/{id}/clicked": {
        "post": Described("clicked", "Record that the link of a delivery to the user was followed.", 200, "Opened",
                          errors="401 404"),
    },
    "deliveries/{id}/dismissed": {
        "post": Described("dismissed", "Dismiss the inbox item of a delivery to the user.", 204, errors="401 404"),
    },
    "unsubscribe/{token}": {
        "get": Described("unsubscribePage", "A page with a button; this request changes nothing.", 200, "text/html",
                         errors="404", security=""),
        "post": Described("unsubscribe", "Unsubscribe from a category (RFC 8058).", 200, "text/html", "OneClick",
                          "404 408 413", ""),
    },
    "opened/{token}": {
        "get": Described("openedPixel", "An image that records that a message was opened.", 200, "image/gif",
                         errors="404", security=""),
    },
    "clicked/{token}": {
        "get": Described("clickedLink", "Record a click and redirect to the URL that was signed.", 302,
                         errors="404", security=""),
    },
    "dismissed/{token}": {
        "post": Described("dismiss", "Dismiss the item of a delivery in the inbox, for service workers.", 204,
                          errors="404", security=""),
    },
    "callbacks/{name}": {
        "post": Described("callback", "A provider reports what became of messages.", 200, "Reports", "*/*",
                          "404 408 413", "provider"),
    },
    "send": {
        "post": Described("send", "Send to users, endpoints or an audience; for administrators.", 202, "Ticket",
                          "NewNotification", "401 404 408 413 415 422"),
    },
    "users/{user}/notifications": {
        "get": Described("notifications", "A user's inbox, newest first; for administrators.", 200, "Notifications",
                         errors="401 404", query=("before", "limit")),
    },
    "explain": {
        "get": Described("explain", "Why a notification reached a user as it did; for administrators.", 200,
                         "Explanation", errors="401 404", query=("ticket", "user")),
    },
    "openapi.json": {"get": Described("describe", "This document.", 200, "application/json", errors="", security="")},
    **{
        name: {"get": Described(name, "A file of the browser client.", 200, kind_of(name), errors="", security="")}
        for name in DISPATCH_FILES
    },
}  # fmt: skip
"""What `ROUTES` serves."""

_TEXT: Final[Json] = {"type": "string"}
_NAMES: Final[Mapping[str, Json]] = {
    **{name: {**_TEXT, "pattern": f"^{pattern.pattern}$"} for name, pattern in PATTERNS.items()},
    "{user}": {**_TEXT, "minLength": 1, "maxLength": 255},
}
"""The parameters in paths."""

_TIME: Final[Json] = {"type": ["string", "null"], "format": "date-time"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_OBJECT: Final[Json] = {"type": "object"}


def _object(required: str, **properties: Json) -> Json:
    """Return the schema of an object; `required` names those of its members that are always there."""
    return {"type": "object", "required": required.split(), "properties": properties}


def _body(required: str, **properties: Json) -> Json:
    return {**_object(required, **properties), "additionalProperties": False}


_ENDPOINT: Final = _body("channel address", channel=_TEXT, address=_TEXT, kind=_TEXT, meta=_OBJECT)
_KIND: Final[Json] = {"enum": ["", "fid", "token"]}
_KEYS: Final = _body("p256dh auth", p256dh=_TEXT, auth=_TEXT)
_ITEM: Final = _object(
    "id type payload", id=_TEXT, type=_TEXT, payload={}, group={"type": ["string", "null"]},
    timestamp=_TIME, seen_at=_TIME, read_at=_TIME, dismissed_at=_TIME,
)  # fmt: skip

_SCHEMAS: Final[Json] = {
    "Error": _object("error", error=_object("code message", code={**_TEXT, "pattern": "^[a-z_]+$"}, message=_TEXT)),
    "Device": _object(
        "id channel", id=_TEXT, channel=_TEXT, kind=_TEXT, platform=_TEXT, tz=_TEXT,
        created_at=_TIME, last_seen_at=_TIME, last_success_at=_TIME,
    ),
    "Devices": _object("devices", devices={"type": "array", "items": {"$ref": "#/components/schemas/Device"}}),
    "NewDevice": _body(
        "channel address", channel=_TEXT, address=_TEXT, kind=_KIND, platform={"enum": sorted(PLATFORMS)}, tz=_TEXT
    ),
    "DeviceAddress": _body("channel address", channel=_TEXT, address=_TEXT, kind=_TEXT),
    "VapidKey": _object("public_key", public_key=_TEXT),
    "Subscription": _body("endpoint keys", endpoint=_TEXT, keys=_KEYS, expirationTime={}, vapid=_TEXT, tz=_TEXT),
    "SubscriptionAddress": _body("endpoint", endpoint=_TEXT, keys={}, expirationTime={}),
    "Preferences": _object(
        "preferences effective types opt_in quiet_hours tz",
        preferences=_OBJECT, effective=_OBJECT, types=_OBJECT, opt_in=_OBJECT, quiet_hours=_OBJECT, tz=_TEXT,
    ),
    "PreferencesPatch": _OBJECT,
    "Opened": _object("id", id=_TEXT, opened_at=_TIME, clicked_at=_TIME),
    "OneClick": _object("List-Unsubscribe", **{"List-Unsubscribe": {"const": "One-Click"}}),
    "Reports": _object("reports", reports=_COUNT),
    "NewNotification": {
        **_body(
            "type", type=_TEXT, data=_OBJECT, idempotency_key={**_TEXT, "maxLength": 255}, user=_TEXT,
            users={"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_TARGETS}, endpoint=_ENDPOINT,
            endpoints={"type": "array", "items": _ENDPOINT, "minItems": 1, "maxItems": MAX_TARGETS}, audience=_TEXT,
        ),
        "oneOf": [{"required": [target]} for target in TARGETS],
    },
    "Ticket": _object("id replayed count", id=_TEXT, replayed={"type": "boolean"}, count=_COUNT),
    "Notifications": _object(
        "items next total unread", items={"type": "array", "items": _ITEM}, next={"type": ["string", "null"]},
        total=_COUNT, unread=_COUNT,
    ),
    "Explanation": _object("id type user planned deliveries attempts text", id=_TEXT, type=_TEXT, user=_TEXT,
                           planned={"type": "array"}, deliveries={"type": "array"}, attempts={"type": "array"},
                           reset_at=_TIME, problem=_TEXT, text=_TEXT),
}  # fmt: skip

_REASONS: Final = {
    "400": "The request is not understood.",
    "401": "Credentials are missing, not valid or expired.",
    "403": "Refused: another site, not an administrator, or a signature that is not valid.",
    "404": "Not found, or not configured.",
    "405": "The method is not supported; Allow names those that are.",
    "408": "The body was not complete in time.",
    "409": "The subscription was made with another VAPID key.",
    "413": "The body is too large.",
    "415": "The body must be application/json.",
    "422": "A member is missing, unknown or unacceptable.",
    "500": "A function of the application has failed.",
    "503": "Not available now; Retry-After says how long to wait.",
}


async def document(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve GET /openapi.json."""
    return Reply.json(described())


def described() -> Json:
    """Return the document."""
    paths = {
        f"/{template}": {
            "parameters": [
                {"name": name[1:-1], "in": "path", "required": True, "schema": _NAMES[name]}
                for name in template.split("/")
                if name.startswith("{")
            ],
            **{method: _operation(each) for method, each in methods.items()},
        }
        for template, methods in OPERATIONS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "notify dispatch", "version": "1", "description": "Devices, preferences, links, sends."},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "application": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Or a "
                                "cookie, or whatever the application's authenticate() reads."},
                "provider": {"type": "apiKey", "in": "header", "name": "signature", "description": "As the provider "
                             "signs its callbacks."},
            },
        },
    }  # fmt: skip


def _operation(each: Described) -> Json:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    statuses = sorted({"400", "403", "405", "500", "503", *each.errors.split()})
    responses: Json = {str(each.success): {"description": "Success.", **_content(each.answer)}}
    responses |= {status: {"description": _REASONS[status], "content": error} for status in statuses}
    found: Json = {"operationId": each.name, "summary": each.summary, "responses": responses}
    found["security"] = [{each.security: []}] if each.security else []
    if each.body:
        kind = "application/x-www-form-urlencoded" if each.body == "OneClick" else "application/json"
        found["requestBody"] = {"required": True, **_content(each.body, kind)}
    if each.query:
        limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": LIMIT}
        found["parameters"] = [
            {"name": name, "in": "query", "required": name in ("ticket", "user"),
             "schema": limit if name == "limit" else _TEXT}
            for name in each.query
        ]  # fmt: skip
    return found


def _content(name: str, kind: str = "application/json") -> Json:
    if not name:
        return {}
    if "/" in name:
        return {"content": {name: {"schema": {}}}}
    return {"content": {kind: {"schema": {"$ref": f"#/components/schemas/{name}"}}}}
