"""Pure: which pages of which sites may use the application, decided by the headers that browsers add to each request.

A browser sends the user's cookies with requests that another site's page has caused. CORS only hides the answer from
that page; the stream behind it would have been opened. So such requests are refused before anything is opened:

1. WebSocket: `Origin` has to be the application's own or an allowed one. Every browser sends it, Chromium sends
   nothing else. Without it the client is a program, which may not use cookies.
2. HTTP with `Sec-Fetch-Site`, which no page can forge: `same-origin` and `none` (typed by the user) pass; `same-site`
   and `cross-site` only from an allowed origin.
3. HTTP without it: `Origin`, if there is one, has to be the application's own or an allowed one.
4. Methods that change something must also carry what a plain form cannot send: JSON, or a header that makes the
   browser ask first (`preflight`).

The application's own origin is the host and port that `Host` names. The scheme of an origin is compared only where the
server knows that the connection is encrypted, since behind a proxy it usually is not. `X-Forwarded-*` headers are never
read here: any client can send them. A server that is told which proxies to trust applies them itself, and a proxy that
changes `Host` needs the public origin among the allowed ones.

The origin `null` is that of every sandboxed frame and local file, of any author: it is never allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from notify.errors import UsageError

Headers = Mapping[str, str]
"""The headers of a request, their names in lower case."""

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

MAX_AGE: Final = 600
"""Seconds for which a browser may remember the answer to a preflight."""

_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII)
_TOKENS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?: ?, ?[A-Za-z0-9!#$%&'*+.^_`|~-]+)*", re.ASCII)
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_ENCRYPTED: Final = frozenset({"https", "wss"})
_SIMPLE_TYPES: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
_ASKED_FIRST: Final = ("authorization", "webhook-signature", "x-notify", "x-requested-with")
_EXPOSED: Final = b"Retry-After"
_USUAL_HEADERS: Final = "authorization, content-type, last-event-id, x-notify"


class Refusal(NamedTuple):
    """Why a request is refused.

    Attributes:
        status: the HTTP status.
        code: the code of the error body.
        message: the message of the error body.
    """

    status: int
    code: str
    message: str


class Origin(NamedTuple):
    """Scheme, host and port, in lower case; the default port of the scheme is empty."""

    scheme: str
    host: str
    port: str


class CrossSiteRules:
    """Decides by the headers of a request.

    Args:
        origins: origins of other sites whose pages may use the application, such as `https://app.example`.

    Raises:
        UsageError: `origins` is not a list of origins.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        if isinstance(origins, str | bytes) or not isinstance(origins, Iterable):
            raise UsageError(f"origins must be a list of origins, not {origins!r:.80}")
        self._allowed = frozenset(_allowed(text) for text in origins)

    def __bool__(self) -> bool:
        """Whether any other origin is allowed."""
        return bool(self._allowed)

    def refusal(self, method: str, scheme: str, headers: Headers) -> Refusal | None:
        """Return why an HTTP request is refused, or None.

        Args:
            method: in upper case.
            scheme: of the connection, as the server knows it.
            headers: of the request.
        """
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        is_own = False
        if site is not None:
            is_own = site in {"same-origin", "none"}
            if not is_own and not self.is_allowed(origin):
                return _refused(headers, f"from another site ({site!r:.20})")
        elif origin is not None:
            is_own = is_own_origin(origin, scheme, headers.get("host", ""))
            if not is_own and not self.is_allowed(origin):
                return _refused(headers, "from another origin than its own")
        return None if method in SAFE else _unless_asked_first(headers, is_own or self.is_allowed(origin))

    def websocket_refusal(self, scheme: str, headers: Headers) -> Refusal | None:
        """Return why the handshake of a WebSocket is refused, or None.

        Args:
            scheme: of the connection, as the server knows it.
            headers: of the request.
        """
        origin = headers.get("origin")
        if origin is None:
            if "cookie" not in headers:
                return None
            return Refusal(403, "cross_site", "a WebSocket with cookies needs the header Origin, as browsers send it")
        if is_own_origin(origin, scheme, headers.get("host", "")) or self.is_allowed(origin):
            return None
        return _refused(headers, "from another origin than its own")

    def is_allowed(self, origin: str | None) -> bool:
        """Return whether this is the origin of another site that was allowed."""
        return origin is not None and bool(self._allowed) and parsed(origin) in self._allowed

    def cors(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Return the headers of a response that let the page of an allowed origin read it; empty for any other."""
        if not self._allowed:
            return []
        origin = headers.get("origin")
        vary = [(b"vary", b"Origin")]
        if origin is None or not self.is_allowed(origin):
            return vary
        return [
            *vary,
            (b"access-control-allow-origin", origin.encode("ascii")),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    def preflight(self, headers: Headers, methods: Iterable[str]) -> list[tuple[bytes, bytes]]:
        """Return the headers of the response to `OPTIONS` by which a browser asks before it sends a request.

        An allowed origin may send any header, since with it the page could have sent the request anyway.

        Args:
            headers: of the request.
            methods: what the address supports.
        """
        granted = self.cors(headers)
        if len(granted) < 2 or "access-control-request-method" not in headers:
            return granted
        wanted = headers.get("access-control-request-headers", "")
        allowed = wanted if len(wanted) <= 1024 and _TOKENS.fullmatch(wanted) else _USUAL_HEADERS
        return [
            *granted,
            (b"access-control-allow-methods", ", ".join(methods).encode("ascii")),
            (b"access-control-allow-headers", allowed.encode("ascii")),
            (b"access-control-max-age", str(MAX_AGE).encode()),
        ]


def parsed(text: str) -> Origin | None:
    """Return the origin that a header contains; None for `null` and for anything that is not an origin."""
    found = _ORIGIN.fullmatch(text.lower()) if len(text) <= 512 else None
    if found is None:
        return None
    scheme, host, port = found[1], found[2], found[3] or ""
    return Origin(scheme, host, "" if port == _DEFAULT_PORTS.get(scheme) else port)


def is_own_origin(origin: str, scheme: str, host: str) -> bool:
    """Return whether an origin is that of the application itself.

    Args:
        origin: the header `Origin`.
        scheme: of the connection, as the server knows it.
        host: the header `Host`.
    """
    page = parsed(origin)
    if page is None or page.scheme not in _DEFAULT_PORTS:
        return False
    if scheme in _ENCRYPTED and page.scheme != "https":
        return False  # anyone on the way to the browser can write a page of the unencrypted origin
    ours = parsed(f"{page.scheme}://{host}")
    return ours is not None and ours == page


def _allowed(text: object) -> Origin:
    origin = parsed(text) if isinstance(text, str) else None
    if origin is None:
        raise UsageError(
            f"not an origin: {text!r:.80}; write scheme, host and port as browsers do, without a path: "
            "'https://app.example'. Neither '*' nor 'null' nor a pattern is accepted: they would let any site in"
        )
    return origin


def _refused(headers: Headers, how: str) -> Refusal:
    origin, host = headers.get("origin"), headers.get("host", "")
    page = "" if origin is None else f" with the origin {origin!r:.150}"
    message = f"the request to the host {host!r:.80} was sent{page} {how}: add that origin to origins= to allow it"
    return Refusal(403, "cross_site", message)


def _unless_asked_first(headers: Headers, is_known: bool) -> Refusal | None:
    """Refuse what the plain form of any site could have sent.

    Args:
        headers: of the request.
        is_known: whether the browser has named an origin that is let in.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in _SIMPLE_TYPES:
        return Refusal(415, "unsupported_media_type", f"the body must be application/json, not {kind}")
    if kind or is_known or "cookie" not in headers or any(name in headers for name in _ASKED_FIRST):
        return None
    return Refusal(
        403, "cross_site", "a request with cookies needs the header Content-Type: application/json, or X-Notify: 1"
    )
