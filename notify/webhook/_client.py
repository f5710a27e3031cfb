"""Posts one message over HTTP/1.1 with httpcore, which follows no redirects and reads no proxy settings."""

from __future__ import annotations

import ssl
from collections.abc import Iterable

import httpcore

from ._addresses import resolve

MAX_ANSWER = 65_536
"""Bytes of an answer that are read so that its connection can be used again. If an answer is longer, or does not say
how long it is, its connection is closed."""

MAX_CONNECTIONS = 100
MAX_IDLE = 20
IDLE_SECONDS = 30.0


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the address that was checked, not to a name that would be resolved once more."""

    def __init__(self, *, allow_private: bool) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check and connect; the caller passes the host name to TLS."""
        addresses = await resolve(host, port, allow_private=self._allow_private)
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.NetworkError:
                continue
        return await self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)


class WebhookClient:
    """A pool of connections.

    Args:
        allow_private: whether to connect to addresses that are not public.
        ssl_context: how certificates are checked; as the system does by default.
    """

    def __init__(self, allow_private: bool, ssl_context: ssl.SSLContext | None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or ssl.create_default_context(),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_IDLE,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=CheckedBackend(allow_private=allow_private),
        )

    async def post(self, url: str, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, str | None]:
        """Return the status of the answer, and its `Retry-After`. The caller bounds the time.

        Raises:
            AddressRefusedError: the host has an address that is not public.
            OSError: there was no valid answer.
        """
        try:
            async with self._pool.stream("POST", url, headers=headers, content=body) as answer:
                found = {name.lower(): value.decode("latin-1") for name, value in answer.headers}
                length = found.get(b"content-length", "")
                if length.isdigit() and int(length) <= MAX_ANSWER:
                    await answer.aread()
                return answer.status, found.get(b"retry-after")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise OSError(str(error) or type(error).__name__) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()
