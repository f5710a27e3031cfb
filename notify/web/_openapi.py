"""GET /openapi.json: what the application serves, as OpenAPI 3.1.

The document describes this very application: `POST /push` and the inbox are in it only if they exist. The WebSocket,
which OpenAPI has no words for, is described in docs/protocol.md. The server's address is relative, so the document is
right under any mount and behind any proxy.
"""

from __future__ import annotations

from typing import Final

from notify._asgi import FILES, Receive, Reply, Request, Send

from ._inbox_openapi import SCHEMAS as INBOX_SCHEMAS
from ._inbox_openapi import inbox_paths
from ._openapi_parts import (
    NAME,
    POSITION,
    TIME,
    TYPE,
    Json,
    json_of,
    operation,
    parameter,
    plain,
    shared_parameters,
)
from ._site import Site

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
            "type": TYPE,
            "payload": {"description": "Any JSON value."},
            "timestamp": TIME,
            "group": {"type": "string"},
            "meta": {"type": "object", "additionalProperties": {"type": "string"}},
            "item": {
                "type": "object",
                "description": "Present if an inbox lists the event.",
                "properties": {"expires_at": TIME},
            },
        },
    },
    "Frame": {
        "type": "object",
        "description": "One server-sent event. Without `event` its data is an Event; docs/protocol.md has the others.",
        "properties": {
            "id": {"type": "string", "description": "Continue after it: the browser sends it as Last-Event-ID."},
            "event": {
                "type": "string",
                "description": "`notify.` and `sync`, `counts`, `gap` or `end`; or a type.",
            },
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
            "counts": {"type": "object", "description": "Of the inbox, if there is one: as GET /inbox/counts."},
            "gap": {"type": "object", "description": "Continuity up to these events cannot be proven."},
            "sync": {"type": "boolean", "description": "Whether these are all events that there are."},
        },
    },
    "Ticket": {
        "type": "object",
        "required": ["ticket", "expires_at"],
        "properties": {"ticket": {"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"}, "expires_at": TIME},
    },
    "Push": {
        "type": "object",
        "required": ["type"],
        "additionalProperties": False,
        "properties": {
            "user": {**NAME, "description": "One recipient; at most 255 bytes of UTF-8."},
            "users": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1000},
            "topic": {**NAME, "description": "A topic; its followers have it in their inboxes."},
            "broadcast": {"const": True, "description": "To every stream that is open now."},
            "type": {**TYPE, "description": "Types that begin with `notify.` are reserved."},
            "payload": {"description": "Any JSON value."},
            "key": {"oneOf": [NAME, {"type": "null"}], "description": "Makes the push idempotent."},
            "group": {"oneOf": [NAME, {"type": "null"}], "description": "What the event is about."},
            "ephemeral": {"type": "boolean", "description": "Not stored: only streams that are open now see it."},
            "list": {"type": "boolean", "description": "Listed in the inboxes of the users."},
            "ttl": {
                "oneOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 316_224_000}, {"type": "null"}],
                "description": "Seconds after which a listed event vanishes.",
            },
        },
        "oneOf": [{"required": [target]} for target in ("user", "users", "topic", "broadcast")],
    },
    "Pushed": {
        "type": "object",
        "required": ["id", "type"],
        "properties": {
            "id": {"type": ["string", "null"], "description": "Null where nothing is stored, and for several users."},
            "type": TYPE,
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


async def document(site: Site, request: Request, receive: Receive, send: Send) -> None:
    """Serve GET /openapi.json."""
    document = described(bool(site.publish_secrets), site.inbox is not None)
    await Reply.json(document).send(send, request.response_headers)


def described(has_push: bool, has_inbox: bool) -> Json:
    """Return the document.

    Args:
        has_push: whether `POST /push` exists.
        has_inbox: whether the endpoints of the inbox exist.
    """
    paths: Json = {
        "/stream": {"get": _stream()},
        "/events": {"get": _events()},
        "/ticket": {"post": _ticket()},
        "/health": {"get": _health()},
        "/openapi.json": {"get": operation("describe", "This document.", plain("application/json"))},
    }
    for name in FILES:
        content = plain("text/plain" if name.endswith(".ts") else "text/javascript")
        paths[f"/{name}"] = {"get": operation(name.replace(".", "_"), f"The browser client: {name}.", content, "304")}
    schemes: Json = {
        "application": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Or a cookie, or "
                        "whatever the application's authenticate() reads."},
        "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "From POST /ticket; for one use."},
    }  # fmt: skip
    if has_push:
        paths["/push"] = {"post": _push()}
        schemes["secret"] = {"type": "http", "scheme": "bearer", "description": "A publish secret of the server."}
    schemas = _SCHEMAS
    if has_inbox:
        paths |= inbox_paths()
        schemas = schemas | INBOX_SCHEMAS
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "notify",
            "version": "1",
            "description": "Notifications for browsers and programs. The WebSocket at /ws carries the same objects.",
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": schemes},
    }


def _health() -> Json:
    described_health = operation("health", "Whether each part of the notifier works.", json_of("Health"))
    described_health["responses"]["503"] = {
        "description": "A part has failed, or the server is shutting down.",
        "content": json_of("Health"),
    }
    return described_health


_OPEN: Final[list[Json]] = [{"application": []}, {"ticket": []}]


def _last_event_id() -> Json:
    return parameter("Last-Event-ID", POSITION, "header", description="Goes before those in the query.")


def _stream() -> Json:
    positions = ("lastEventId", "last_event_id", "last_id")
    return operation(
        "stream",
        "The events as server-sent events: first those after the position, then live ones.",
        {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Frame"}}},
        "204",
        "401",
        security=_OPEN,
        parameters=[
            _last_event_id(),
            *(parameter(name, POSITION) for name in positions),
            parameter("events", {"type": "string"}, description="`typed`: frames also have an `event:` field."),
            *shared_parameters(),
        ],
    )


def _events() -> Json:
    return operation(
        "events",
        "The events after a position; with wait=, a long poll.",
        json_of("Events"),
        "204",
        "401",
        security=_OPEN,
        parameters=[
            _last_event_id(),
            parameter("after", POSITION),
            parameter("limit", {"type": "integer", "minimum": 1}),
            parameter("wait", {"type": "number", "minimum": 0}, description="Seconds to wait for an event."),
            *shared_parameters(),
        ],
    )


def _ticket() -> Json:
    return operation(
        "ticket",
        "A ticket for one stream, for clients that can send no headers with it.",
        json_of("Ticket"),
        *("401", "415", "429"),
        security=[{"application": []}],
    )


def _push() -> Json:
    return operation(
        "push",
        "Push an event to one user, to several, or to every open stream. Or sign as Standard Webhooks specifies.",
        json_of("Pushed"),
        *("401", "408", "413", "415", "422", "429"),
        success="202",
        security=[{"secret": []}],
        requestBody={"required": True, "content": json_of("Push")},
    )
