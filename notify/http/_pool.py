"""`HttpPool`: an `HttpClient` that follows no redirects, reads no proxy settings, and connects to public addresses."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ._client import HttpAnswer


class HttpPool:
    """A pool of connections, used again while they are open.

    Every address of the host is checked after its name is resolved, and the connection goes to the address that was
    checked. Of the body of an answer 64 KiB are read. The loop in which it is used first is the only one.

    Args:
        allow_private: whether to connect to addresses that are not public.
        ssl_context: how certificates are checked; as the system does by default.
        idle: seconds for which an unused connection is kept open; 0: each request has a connection of its own, so that
            none is lost on one that the server is just closing.

    Raises:
        ImportError: the extra `http` is not installed.
    """

    def __init__(
        self, *, allow_private: bool = False, ssl_context: ssl.SSLContext | None = None, idle: float = 30.0
    ) -> None:
        self._connections = _connections()(allow_private, ssl_context, idle)

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], content: bytes = b"", timeout: float
    ) -> HttpAnswer:
        """See `HttpClient.request`."""
        answer: HttpAnswer = await self._connections.request(method, url, headers, content, timeout)
        return answer

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self._connections.aclose()

    async def __aenter__(self) -> Self:
        """Return the pool."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()


def _connections() -> Any:
    """Import what needs the driver, or name the extra that is missing."""
    try:
        from ._connections import Connections
    except ImportError as error:
        raise ImportError("HttpPool needs the extra http: pip install 'notify-streams[http]'") from error
    return Connections
