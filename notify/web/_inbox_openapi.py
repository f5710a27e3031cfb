"""Pure: the endpoints of the inbox in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final, get_args

from notify.inbox.abc import MAX_IDS, State

from ._openapi_parts import NAME, TIME, TYPE, Json, json_of, operation, parameter

_STATES: Final = ("seen", "read", "unread", "dismissed", "restored")
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_ID: Final[Json] = {"type": "string", "description": "Of an item: `<id>`, or `<id>@<log>` from another log."}
_NULL: Final[Json] = {"type": "null"}
_TIME_OR_NULL: Final[Json] = {"oneOf": [TIME, _NULL]}
_PAGE_POSITION: Final[Json] = {"type": "string", "description": "For which the counts are exact; `up_to` of a mark."}
_COUNTS: Final[Json] = {"$ref": "#/components/schemas/Counts"}

SCHEMAS: Final[Json] = {
    "Counts": {
        "type": "object",
        "required": ["total", "unseen", "unread", "position"],
        "description": "Of the items that are not dismissed.",
        "properties": {"total": _COUNT, "unseen": _COUNT, "unread": _COUNT, "position": _PAGE_POSITION},
    },
    "Item": {
        "allOf": [
            {"$ref": "#/components/schemas/Event"},
            {
                "type": "object",
                "required": ["id", "item", "seen_at", "read_at", "dismissed_at"],
                "properties": {
                    "id": _ID,
                    "seen_at": _TIME_OR_NULL,
                    "read_at": _TIME_OR_NULL,
                    "dismissed_at": _TIME_OR_NULL,
                },
            },
        ]
    },
    "Page": {
        "type": "object",
        "required": ["items", "user", "next", "counts", "position"],
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
            "user": {"type": "string", "description": "Whose inbox it is: items of other logs have another `user`."},
            "next": {"oneOf": [{**_ID, "description": "`before` of the next page."}, _NULL]},
            "counts": _COUNTS,
            "position": _PAGE_POSITION,
        },
    },
    "Mark": {
        "type": "object",
        "required": ["state"],
        "additionalProperties": False,
        "properties": {
            "state": {"enum": [*_STATES]},
            "ids": {"type": "array", "items": {"type": "string"}, "maxItems": MAX_IDS},
            "up_to": {"type": "string", "description": "A position of a page, or an item: it and those before it."},
            "group": {"type": "string", "description": "The items of this group."},
        },
        "oneOf": [{"required": [name]} for name in ("ids", "up_to", "group")],
    },
    "Change": {
        "type": "object",
        "required": ["ids", "counts", "position", "event"],
        "properties": {
            "ids": {"type": "array", "items": _ID, "description": "The items that are in another state now."},
            "counts": _COUNTS,
            "position": _PAGE_POSITION,
            "event": {"type": ["string", "null"], "description": "The id of the change; null if nothing changed."},
        },
    },
    "Follow": {
        "type": "object",
        "required": ["topic"],
        "additionalProperties": False,
        "properties": {
            "topic": NAME,
            "history": {"type": "boolean", "description": "Whether what the topic holds already is listed too."},
        },
    },
    "Topics": {
        "type": "object",
        "required": ["topics"],
        "properties": {"topics": {"type": "array", "items": {"type": "string"}}},
    },
}

_TYPES: Final = "Only items of these types; may also be one value with commas."
_CLIENT: Final[Json] = {"security": [{"application": []}]}
_BODY_ERRORS: Final = ("401", "404", "408", "413", "415", "422")
_ERRORS: Final = ("401", "404", "415", "422")


def inbox_paths() -> Json:
    """Return the paths of the inbox."""
    return {
        "/inbox": {"get": _list()},
        "/inbox/counts": {"get": _read("inbox_counts", "How many items there are.", "Counts")},
        "/inbox/mark": {"post": _change("mark", "Make items seen, read, unread, dismissed or restored.", body="Mark")},
        "/inbox/{id}": {"delete": _change("dismiss", "Dismiss an item.", name="id")},
        "/inbox/group/{group}": {"delete": _change("dismiss_group", "Dismiss the items of a group.", name="group")},
        "/follow": {"post": _change("follow", "Follow a topic: its items are listed too.", body="Follow")},
        "/follow/{topic}": {"delete": _change("unfollow", "End following a topic.", name="topic")},
        "/following": {"get": _read("following", "The topics that are followed.", "Topics")},
    }


def _list() -> Json:
    text: Json = {"type": "string"}
    return operation(
        "inbox",
        "A page of the user's items, newest first.",
        json_of("Page"),
        *("401", "404"),
        parameters=[
            parameter("before", _ID, description="`next` of the previous page."),
            parameter("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
            parameter("state", {"enum": [*get_args(State)], "default": "active"}),
            parameter("types", {"type": "array", "items": TYPE, "maxItems": 100}, explode=True, description=_TYPES),
            parameter("group", text),
        ],
        **_CLIENT,
    )


def _read(name: str, summary: str, schema: str) -> Json:
    return operation(name, summary, json_of(schema), *("401", "404"), **_CLIENT)


def _change(summary_name: str, summary: str, *, body: str = "", name: str = "") -> Json:
    others: dict[str, Any] = dict(_CLIENT)
    if body:
        others["requestBody"] = {"required": True, "content": json_of(body)}
    else:
        path: Json = {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        others["parameters"] = [path]
    return operation(summary_name, summary, json_of("Change"), *(_BODY_ERRORS if body else _ERRORS), **others)
