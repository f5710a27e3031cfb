"""Pure: what operations of the OpenAPI document are made of."""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

NAME: Final[Json] = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
TYPE: Final[Json] = {"type": "string", "pattern": r"^[A-Za-z0-9_.:-]{1,128}$"}
POSITION: Final[Json] = {"type": "string", "description": "An id, the resume token of a stream, or 0 for everything."}
TIME: Final[Json] = {"type": "string", "format": "date-time"}

_REASONS: Final = {
    "204": "Do not come back: the user was disconnected.",
    "304": "The client has the current version of the file.",
    "400": "The request is not understood.",
    "401": "Credentials are missing, not valid or expired.",
    "403": "Refused: another site, or a log or a topic that is not for this client.",
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


def operation(name: str, summary: str, content: Json, *errors: str, success: str = "200", **others: Any) -> Json:
    """Return an operation with its successful response, and the errors that any request may meet."""
    responses: Json = {success: {"description": "Success.", "content": content}}
    for status in sorted({*_ALWAYS, *errors}):
        response: Json = {"description": _REASONS[status]}
        if status not in {"204", "304"}:
            response["content"] = json_of("Error")
        if status in {"429", "503"}:
            response["headers"] = _RETRY
        responses[status] = response
    return {"operationId": name, "summary": summary, **others, "responses": responses}


def json_of(schema: str) -> Json:
    """Return content that is JSON of this schema."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def plain(kind: str) -> Json:
    """Return content of this type, whatever it is."""
    return {kind: {"schema": {}}}


def parameter(name: str, schema: Json, where: str = "query", **others: Any) -> Json:
    """Return an optional parameter."""
    return {"name": name, "in": where, "required": False, "schema": schema, **others}


def shared_parameters() -> list[Json]:
    """Return the parameters of each request that opens a stream."""
    addresses = {"type": "array", "items": {"type": "string"}}
    return [
        parameter("address", addresses, explode=True, description="Further logs that the client may read."),
        parameter("ticket", {"type": "string"}, description="From POST /ticket, in place of credentials."),
    ]
