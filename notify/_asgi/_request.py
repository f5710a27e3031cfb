"""What a client asks for, and who the client is."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qsl

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

_ESCAPED: Final = re.compile(r"[%+\x80-\xff]")

MAX_FIELDS: Final = 1000
"""Fields of a query string that are read; a stream may name up to 100 addresses."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is, and what it may read.

    Attributes:
        user: whose events are streamed.
        addresses: further logs that the client may name in `?address=`, for example the topics of a page.
        expires_at: when the credentials expire; an open stream ends then. A datetime with a time zone.
        session: identifies the session; it is also the name of a log, whose events are streamed too.
    """

    user: str
    addresses: Sequence[str] = ()
    expires_at: datetime | None = None
    session: str = ""


class _Cookies(Mapping[str, str]):
    """Cookies that note which of them were read."""

    __slots__ = ("_values", "read")

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        value = self._values[name]
        self.read.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


class _InScope:
    """An attribute that the requests of other frameworks have: reading it raises an error that says where to look.

    Defined for a few names only, because a `__getattr__` for all names would slow down every other attribute.
    """

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, request: Request | None, kind: type) -> Any:
        name = self._name
        raise AttributeError(
            f"{kind.__name__!r} object has no attribute {name!r}; "
            f"what middleware has added is in the scope, as request.scope[{name!r}]"
        )


class Request:
    """One HTTP request, or the handshake of a WebSocket, as `authenticate` sees it.

    Attributes:
        scope: the ASGI scope.
        method: the method; `GET` for a WebSocket.
        response_headers: sent with every response to this request.
    """

    __slots__ = ("_cookies", "_fields", "_headers", "_query", "_response_headers", "method", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.method: str = scope.get("method", "GET")
        self._response_headers: Headers | None = None
        self._headers: dict[str, str] | None = None
        self._cookies: _Cookies | None = None
        self._query: dict[str, str] | None = None
        self._fields: list[tuple[str, str]] | None = None

    @property
    def response_headers(self) -> Headers:
        """Sent with every response to this request: a list to add to."""
        if self._response_headers is None:
            self._response_headers = []
        return self._response_headers

    @response_headers.setter
    def response_headers(self, headers: Headers) -> None:
        self._response_headers = headers

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers by their names in lower case; the values of a repeated one are joined."""
        if self._headers is None:
            headers: dict[str, str] = {}
            for raw, value in self.scope["headers"]:
                name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
                if name in headers:  # HTTP/2 splits cookies
                    text = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{text}"
                headers[name] = text
            self._headers = headers
        return self._headers

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies; of several with one name the first, which has the most specific path."""
        if self._cookies is None:
            cookies: dict[str, str] = {}
            for part in self.headers.get("cookie", "").split(";"):
                name, equals, value = part.strip().partition("=")
                value = value.strip()
                if equals and name:
                    quoted = len(value) > 1 and value[0] == value[-1] == '"'
                    cookies.setdefault(name.strip(), value[1:-1] if quoted else value)
            self._cookies = _Cookies(cookies)
        return self._cookies

    def cookies_read(self) -> list[str]:
        """Return those cookies of which `cookies` was asked for the value, in a fixed order."""
        cookies = self._cookies
        return [] if cookies is None else [f"{name}={cookies[name]}" for name in sorted(cookies.read)]

    @property
    def query(self) -> Mapping[str, str]:
        """The fields of the query string; of a repeated one the last."""
        if self._query is None:
            self._query = dict(self._query_fields())
        return self._query

    def query_all(self, name: str) -> list[str]:
        """Return every value of a field of the query string."""
        return [value for field, value in self._query_fields() if field == name]

    @property
    def path(self) -> str:
        """The path of the URL, decoded, as the server passes it."""
        return str(self.scope.get("path", ""))

    @property
    def client(self) -> str:
        """The address of the client, or of the last proxy; empty if the server does not know it."""
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    if not TYPE_CHECKING:  # pragma: no branch - a type checker would accept these names
        app, auth, session, state, user = (_InScope() for _ in range(5))

    def forget(self) -> None:
        """Drop what a response that has begun no longer needs: it may last for hours."""
        self._headers = self._cookies = self._query = self._fields = self._response_headers = None

    def _query_fields(self) -> list[tuple[str, str]]:
        if self._fields is None:
            raw = self.scope.get("query_string", b"")
            self._fields = []
            if raw:
                text = raw.decode("latin-1")
                if _ESCAPED.search(text) is None and text.count("&") < MAX_FIELDS:  # most: a fifth of the time
                    for field in text.split("&"):
                        if field:
                            name, _, value = field.partition("=")
                            self._fields.append((name, value))
                else:
                    fields = parse_qsl(text, keep_blank_values=True, errors="replace")
                    self._fields = fields[:MAX_FIELDS]
        return self._fields
