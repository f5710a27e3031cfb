"""The JSON body of a request: bounded in bytes and in time, strict."""

from __future__ import annotations

import json
from typing import Any

from ._reply import WebError, read_body
from ._request import Receive, Request


def check_json(request: Request) -> None:
    """Raise WebError, 415, if the body of a request says that it is something else than JSON."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise WebError(415, "unsupported_media_type", f"the body must be application/json, not {kind:.80}")


async def read_object(request: Request, receive: Receive, limit: int, seconds: float) -> dict[str, Any]:
    """Return the JSON object in the body of a request.

    Raises:
        WebError: it is not one, has more than `limit` bytes, or is not complete after `seconds`.

    Cancellation: nothing has happened.
    Concurrency: once for each request.
    """
    check_json(request)
    found = parsed_json(await read_body(receive, limit, seconds))
    if not isinstance(found, dict):
        raise WebError(400, "bad_request", "the body must be one JSON object")
    return found


def parsed_json(body: bytes) -> Any:
    """Return a JSON value.

    Raises:
        WebError: 400, not JSON: NaN, infinities and a member that occurs twice are not.
    """
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise WebError(400, "invalid_json", "the body is nested too deeply") from None
    except ValueError as error:  # also what is not UTF-8, and integers of thousands of digits
        raise WebError(400, "invalid_json", f"the body is not JSON: {error!s:.200}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has two members of the same name")
    return found
