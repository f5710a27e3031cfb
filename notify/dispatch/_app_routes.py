"""Pure: which endpoint a request is for, by the end of its path.

Frameworks differ in what of a mount they leave in the path, so only its end counts. The longest template that fits is
taken. Names are taken from `raw_path`, where a slash in a name is still `%2F`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

PATTERNS: Final = {
    "{id}": re.compile("[0-9A-Za-z_-]{16,64}", re.ASCII),
    "{token}": re.compile("[0-9A-Za-z_.-]{20,4096}", re.ASCII),
    "{name}": re.compile("[0-9A-Za-z_.:-]{1,128}", re.ASCII),
    "{user}": re.compile(".+", re.DOTALL),
}
"""What the names in templates look like. An id is not a word, so a device never hides an endpoint."""


class Match(NamedTuple):
    """What a request is for.

    Attributes:
        template: of the endpoint.
        names: what the path has in place of the names of the template.
    """

    template: str
    names: Mapping[str, str]


def match(scope: Mapping[str, Any], templates: Iterable[str]) -> Match | None:
    """Return what a request is for; None: there is no such endpoint."""
    segments = _segments(scope)
    found = (_fit(template, segments) for template in sorted(templates, key=lambda each: -each.count("/")))
    return next((each for each in found if each is not None), None)


def _segments(scope: Mapping[str, Any]) -> list[str]:
    raw = scope.get("raw_path")
    if raw:
        path = raw.partition(b"?")[0].decode("latin-1").rstrip("/")
        return [unquote(segment, errors="replace") for segment in path.split("/")]
    return str(scope.get("path", "")).rstrip("/").split("/")


def _fit(template: str, segments: list[str]) -> Match | None:
    parts = template.split("/")
    if len(segments) < len(parts):
        return None
    names: dict[str, str] = {}
    for part, segment in zip(parts, segments[-len(parts) :], strict=True):
        if part in PATTERNS:
            if not PATTERNS[part].fullmatch(segment):
                return None
            names[part[1:-1]] = segment
        elif part != segment:
            return None
    return Match(template, names)
