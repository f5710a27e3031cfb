"""What a client asks for, and who the client is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qsl

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

MAX_FIELDS: Final = 1000
"""Fields of a query string that are read; a stream may name up to 100 addresses."""


@dataclass(frozen=True, slots=True, init=False)
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

    def __init__(
        self, user: str, addresses: Sequence[str] = (), expires_at: datetime | None = None, session: str = ""
    ) -> None:
        # Every request makes one, and the method that `dataclass` would generate takes three times as long.
        _set_user(self, user)
        _set_addresses(self, addresses)
        _set_expires_at(self, expires_at)
        _set_session(self, session)


_set_user, _set_addresses, _set_expires_at, _set_session = (
    getattr(Identity, field.name).__set__ for field in fields(Identity)
)


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
        headers: values by lower-case name; the values of a repeated header are joined.
        query: values by the name of a field of the query string; of a repeated field, the last one.
        response_headers: sent with every response to this request; add to this list.
    """

    # Plain attributes, since every request needs them: in Python 3.11 a property takes ten times as long to read.
    __slots__ = ("_cookies", "_fields", "headers", "method", "query", "response_headers", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.method: str = scope.get("method", "GET")
        self.response_headers: Headers = []
        headers: dict[str, str] = {}
        for raw, value in scope.get("headers", ()):
            name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
            if name in headers:  # HTTP/2 splits cookies
                text = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{text}"
            headers[name] = text
        self.headers: Mapping[str, str] = headers
        self._fields = _fields_of(scope.get("query_string"))
        self.query: Mapping[str, str] = dict(self._fields)
        self._cookies: _Cookies | None = None

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

    def query_all(self, name: str) -> list[str]:
        """Return every value of a field of the query string."""
        return [value for field, value in self._fields if field == name]

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


def _fields_of(query_string: bytes | None) -> list[tuple[str, str]]:
    """Return the fields of a query string in order."""
    if not query_string:
        return []
    text = query_string.decode("latin-1")
    if "%" in text or "+" in text or not text.isascii() or text.count("&") >= MAX_FIELDS:
        return parse_qsl(text, keep_blank_values=True, errors="replace")[:MAX_FIELDS]
    # Most query strings need no decoding: this takes a fifth of the time.
    return [field.partition("=")[::2] for field in text.split("&") if field]
