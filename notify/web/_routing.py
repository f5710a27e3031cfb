"""Pure: which endpoint a request is for, by the end of its path.

Frameworks differ in what of a mount they leave in the path, so only its end counts. A name may be part of the path:

```text
DELETE /inbox/{id}    DELETE /inbox/group/{group}    DELETE /follow/{topic}
```

Such a name is percent-encoded, a slash in it too, so it is taken from `raw_path`, which servers leave as it was sent.
Only `DELETE` has names, which is why a group or a topic may be called like an endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

ITEM: Final = "inbox/{id}"
GROUP: Final = "inbox/group/{group}"
TOPIC: Final = "follow/{topic}"

NAMED: Final = (ITEM, GROUP, TOPIC)
"""Endpoints whose path ends with a name."""

NO_ALIASES: Final[Mapping[str, str]] = {}

_BELOW_INBOX: Final = frozenset({"counts", "mark"})


class Route(NamedTuple):
    """What a request is for.

    Attributes:
        endpoint: the end of the path, or one of `NAMED`.
        name: the name in the path, decoded; empty if there is none.
    """

    endpoint: str
    name: str = ""


def last_segment(path: str) -> str:
    """Return the last segment of a path."""
    return path.rstrip("/").rpartition("/")[2]


def route_of(scope: Mapping[str, Any], aliases: Mapping[str, str] = NO_ALIASES) -> Route:
    """Return what a request is for, with the name in its path; see `endpoint_of`."""
    endpoint = endpoint_of(scope, aliases)
    named = named_of(scope, aliases) if endpoint in NAMED else None
    return Route(endpoint) if named is None else named


def endpoint_of(scope: Mapping[str, Any], aliases: Mapping[str, str] = NO_ALIASES) -> str:
    """Return which endpoint a request is for; whether there is one is not decided here.

    Args:
        scope: of the request.
        aliases: further names of endpoints.
    """
    path: str = scope.get("path", "")
    method = scope.get("method", "GET")
    if method != "GET" and (method == "DELETE" or (method == "OPTIONS" and _asks_for_delete(scope))):
        named = named_of(scope, aliases)
        if named is not None:
            return named.endpoint
    segment = path.rpartition("/")[2] or last_segment(path)
    if segment in _BELOW_INBOX and path.rstrip("/").endswith(f"inbox/{segment}"):
        return f"inbox/{segment}"
    return aliases.get(segment, segment)


def named_of(scope: Mapping[str, Any], aliases: Mapping[str, str] = NO_ALIASES) -> Route | None:
    """Return the endpoint with a name that a path could be for, whatever the method."""
    raw_path = scope.get("raw_path")
    if raw_path:
        raw = raw_path.partition(b"?")[0].decode("latin-1")
        found = _named([unquote(segment, errors="replace") for segment in raw.rstrip("/").split("/")], aliases)
        if found is not None:
            return found
    return _named(str(scope.get("path", "")).rstrip("/").split("/"), aliases)


def _asks_for_delete(scope: Mapping[str, Any]) -> bool:
    wanted = (b"access-control-request-method", b"DELETE")
    return any((name.lower(), value) == wanted for name, value in scope.get("headers", ()))


def _named(segments: list[str], aliases: Mapping[str, str]) -> Route | None:
    *before, name = segments
    first, last = (aliases.get(segment, segment) for segment in ["", "", *before][-2:])
    if name and (first, last) == ("inbox", "group"):
        return Route(GROUP, name)
    if name and name not in _BELOW_INBOX and last == "inbox":
        return Route(ITEM, name)
    if name and last == "follow":
        return Route(TOPIC, name)
    return None
