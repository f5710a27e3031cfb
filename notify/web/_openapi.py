"""GET /openapi.json: what the application serves, as OpenAPI 3.1.

The document describes this very application: `POST /push` is in it only if it exists. The WebSocket, which OpenAPI has
no words for, is described in docs/protocol.md. The server's address is relative, so the document is right under any
mount and behind any proxy.
"""

from __future__ import annotations

from typing import Any, Final

from ._files import FILES
from ._reply import Reply
from ._request import Receive, Request, Send
from ._site import Site

Json = dict[str, Any]

_NAME: Final[Json] = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
_TYPE: Final[Json] = {"type": "string", "pattern": r"^[A-Za-z0-9_.:-]{1,128}$"}
_POSITION: Final[Json] = {"type": "string", "description": "An id, the resume token of a stream, or 0 for everything."}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}

_SCHEMAS: Final[Json] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": {"type": "string", "pattern": "^[a-z_]+$", "description": "Stays the same over versions."},
                    "message": {"type": "string", "description": "For developers."},
                },
            }
        },
    },
    "Event": {
        "type": "object",
        "required": ["user", "type", "payload", "timestamp"],
        "properties": {
            "id": {"type": "string", "description": "Absent if the event is not stored."},
            "user": {"type": "string", "description": "Whose log it is from; empty for a broadcast."},
            "type": _TYPE,
            "payload": {"description": "Any JSON value."},
            "timestamp": _TIME,
            "group": {"type": "string"},
            "meta": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
    "Frame": {
        "type": "object",
        "description": "One server-sent event. Without `event` its data is an Event; docs/protocol.md has the others.",
        "properties": {
            "id": {"type": "string", "description": "Continue after it: the browser sends it as Last-Event-ID."},
            "event": {"type": "string", "description": "`notify.sync`, `notify.gap`, `notify.end`, or a type."},
            "data": {"type": "string", "contentMediaType": "application/json"},
            "retry": {"type": "integer", "description": "Milliseconds after which to reconnect."},
        },
    },
    "Events": {
        "type": "object",
        "required": ["events", "position", "sync"],
        "properties": {
            "events": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}},
            "position": {"type": "string", "description": "Ask with it next, as after=."},
            "gap": {"type": "object", "description": "Continuity up to these events cannot be proven."},
            "sync": {"type": "boolean", "description": "Whether these are all events that there are."},
        },
    },
    "Ticket": {
        "type": "object",
        "required": ["ticket", "expires_at"],
        "properties": {"ticket": {"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"}, "expires_at": _TIME},
    },
    "Push": {
        "type": "object",
        "required": ["type"],
        "additionalProperties": False,
        "properties": {
            "user": {**_NAME, "description": "One recipient; at most 255 bytes of UTF-8."},
            "users": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1000},
            "broadcast": {"const": True, "description": "To every stream that is open now."},
            "type": {**_TYPE, "description": "Types that begin with `notify.` are reserved."},
            "payload": {"description": "Any JSON value."},
            "key": {"oneOf": [_NAME, {"type": "null"}], "description": "Makes the push idempotent."},
            "group": {"oneOf": [_NAME, {"type": "null"}], "description": "What the event is about."},
            "ephemeral": {"type": "boolean", "description": "Not stored: only streams that are open now see it."},
        },
        "oneOf": [{"required": ["user"]}, {"required": ["users"]}, {"required": ["broadcast"]}],
    },
    "Pushed": {
        "type": "object",
        "required": ["id", "type"],
        "properties": {
            "id": {"type": ["string", "null"], "description": "Null where nothing is stored, and for several users."},
            "type": _TYPE,
            "ids": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
            "failed": {"type": "object", "additionalProperties": {"type": "object"}},
            "offline": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Health": {
        "type": "object",
        "required": ["ok", "parts"],
        "properties": {
            "ok": {"type": "boolean"},
            "parts": {"type": "object", "additionalProperties": {"enum": ["ok", "failed"]}},
        },
    },
}

_REASONS: Final = {
    "204": "Do not come back: the user was disconnected.",
    "304": "The client has the current version of the file.",
    "400": "The request is not understood.",
    "401": "Credentials are missing, not valid or expired.",
    "403": "Refused: another site, or an address that the client may not read.",
    "404": "Not found.",
    "405": "The method is not supported; Allow names those that are.",
    "408": "The body was not complete in time.",
    "413": "The body or the payload is too large.",
    "415": "The body must be application/json.",
    "422": "The target or another member is unacceptable.",
    "429": "Too many attempts, or tickets of this user; Retry-After says how long to wait.",
    "500": "The application's authenticate() returned something that is not an identity.",
    "503": "Not available now; Retry-After says how long to wait.",
}

_RETRY: Final[Json] = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds."}}
_ALWAYS: Final = ("400", "403", "405", "500", "503")


async def document(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /openapi.json."""
    await Reply.json(described(bool(site.publish_secrets))).send(send, request.response_headers)


def described(has_push: bool) -> Json:
    """Return the document.

    Args:
        has_push: whether `POST /push` exists.
    """
    paths: Json = {
        "/stream": {"get": _stream()},
        "/events": {"get": _events()},
        "/ticket": {"post": _ticket()},
        "/health": {"get": _health()},
        "/openapi.json": {"get": _operation("describe", "This document.", _plain("application/json"))},
    }
    for name in FILES:
        content = _plain("text/plain" if name.endswith(".ts") else "text/javascript")
        paths[f"/{name}"] = {"get": _operation(name.replace(".", "_"), f"The browser client: {name}.", content, "304")}
    schemes: Json = {
        "application": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Or a cookie, or "
                        "whatever the application's authenticate() reads."},
        "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "From POST /ticket; for one use."},
    }  # fmt: skip
    if has_push:
        paths["/push"] = {"post": _push()}
        schemes["secret"] = {"type": "http", "scheme": "bearer", "description": "A publish secret of the server."}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "notify",
            "version": "1",
            "description": "Notifications for browsers and programs. The WebSocket at /ws carries the same objects.",
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": _SCHEMAS, "securitySchemes": schemes},
    }


def _operation(name: str, summary: str, content: Json, *errors: str, success: str = "200", **others: Any) -> Json:
    """Return an operation with its successful response, and the errors that any request may meet."""
    responses: Json = {success: {"description": "Success.", "content": content}}
    for status in sorted({*_ALWAYS, *errors}):
        response: Json = {"description": _REASONS[status]}
        if status not in {"204", "304"}:
            response["content"] = _json("Error")
        if status in {"429", "503"}:
            response["headers"] = _RETRY
        responses[status] = response
    return {"operationId": name, "summary": summary, **others, "responses": responses}


def _json(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _plain(kind: str) -> Json:
    return {kind: {"schema": {}}}


def _parameter(name: str, schema: Json, where: str = "query", **others: Any) -> Json:
    return {"name": name, "in": where, "required": False, "schema": schema, **others}


def _shared_parameters() -> list[Json]:
    addresses = {"type": "array", "items": {"type": "string"}}
    return [
        _parameter("address", addresses, explode=True, description="Further logs that the client may read."),
        _parameter("ticket", {"type": "string"}, description="From POST /ticket, in place of credentials."),
    ]


def _health() -> Json:
    operation = _operation("health", "Whether each part of the notifier works.", _json("Health"))
    operation["responses"]["503"] = {
        "description": "A part has failed, or the server is shutting down.",
        "content": _json("Health"),
    }
    return operation


_OPEN: Final[list[Json]] = [{"application": []}, {"ticket": []}]


def _stream() -> Json:
    positions = ("lastEventId", "last_event_id", "last_id")
    return _operation(
        "stream",
        "The events as server-sent events: first those after the position, then live ones.",
        {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Frame"}}},
        "204",
        "401",
        security=_OPEN,
        parameters=[
            _parameter("Last-Event-ID", _POSITION, "header", description="Goes before those in the query."),
            *(_parameter(name, _POSITION) for name in positions),
            _parameter("events", {"type": "string"}, description="`typed`: frames also have an `event:` field."),
            *_shared_parameters(),
        ],
    )


def _events() -> Json:
    return _operation(
        "events",
        "The events after a position; with wait=, a long poll.",
        _json("Events"),
        "204",
        "401",
        security=_OPEN,
        parameters=[
            _parameter("after", _POSITION),
            _parameter("limit", {"type": "integer", "minimum": 1}),
            _parameter("wait", {"type": "number", "minimum": 0}, description="Seconds to wait for an event."),
            *_shared_parameters(),
        ],
    )


def _ticket() -> Json:
    return _operation(
        "ticket",
        "A ticket for one stream, for clients that can send no headers with it.",
        _json("Ticket"),
        *("401", "415", "429"),
        security=[{"application": []}],
    )


def _push() -> Json:
    return _operation(
        "push",
        "Push an event to one user, to several, or to every open stream. Or sign as Standard Webhooks specifies.",
        _json("Pushed"),
        *("401", "408", "413", "415", "422", "429"),
        success="202",
        security=[{"secret": []}],
        requestBody={"required": True, "content": _json("Push")},
    )
