"""Requests over HTTP/1.1 with httpcore2, which follows no redirects and reads no proxy settings."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpcore2

from ._addresses import AddressRefusedError, resolve
from ._client import HttpAnswer, HttpError

MAX_ANSWER = 65_536
"""Bytes of an answer that are read. If it is longer, its connection is closed."""

_URL = re.compile(r"[\x21-\x7e]{1,8000}", re.ASCII)

MAX_CONNECTIONS = 100
MAX_IDLE = 20


class ClosingStream(httpcore2.AsyncNetworkStream):
    """A connection that is closed when its TLS handshake is cancelled: the driver would leave it open."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner
        self.read = inner.read  # type: ignore[method-assign]
        self.write = inner.write  # type: ignore[method-assign]
        self.aclose = inner.aclose  # type: ignore[method-assign]
        self.get_extra_info = inner.get_extra_info  # type: ignore[method-assign]

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """Encrypt the connection, or close it."""
        try:
            return await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._inner.aclose()
            raise


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the address that was checked, not to a name that would be resolved once more."""

    def __init__(self, *, allow_private: bool) -> None:
        self._inner = httpcore2.AnyIOBackend()
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve, check and connect; the caller passes the host name to TLS."""
        addresses = await resolve(host, port, allow_private=self._allow_private)
        for address in addresses[:-1]:
            try:
                return await self._connect(address, port, timeout, local_address, socket_options)
            except httpcore2.NetworkError:
                continue
        return await self._connect(addresses[-1], port, timeout, local_address, socket_options)

    async def _connect(self, *where: Any) -> ClosingStream:
        return ClosingStream(await self._inner.connect_tcp(*where))


@cache
def system_context() -> ssl.SSLContext:
    """Return the context that trusts what the system trusts, read once."""
    return ssl.create_default_context()


class Exchange:
    """How far a request has come, as the driver traces it."""

    def __init__(self) -> None:
        self.is_sent = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    async def __call__(self, name: str, details: Mapping[str, Any]) -> None:
        """Note that the first byte is about to be sent, or that it was not, because the headers are malformed."""
        if name.endswith(".send_request_headers.started"):
            self.is_sent = True
        elif name.endswith(".send_request_headers.failed"):
            self.is_sent = not isinstance(details["exception"], httpcore2.LocalProtocolError)

    def answer(self, *, is_cut: bool) -> HttpAnswer:
        """Return what has arrived of the answer, whose status is known."""
        return HttpAnswer(self.status, self.headers, bytes(self.body[:MAX_ANSWER]), is_cut)


class Connections:
    """The connections of a pool."""

    def __init__(self, allow_private: bool, ssl_context: ssl.SSLContext | None, idle: float) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context or system_context(),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_IDLE if idle > 0 else 0,
            keepalive_expiry=idle,
            network_backend=CheckedBackend(allow_private=allow_private),
        )

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes, timeout: float
    ) -> HttpAnswer:
        """Do what `HttpClient.request` says. Once the status is known it counts, whatever becomes of the body."""
        if not is_url(url):
            raise HttpError("the URL is malformed", is_sent=False, code="address")
        progress = Exchange()
        try:
            with anyio.move_on_after(timeout):
                await self._exchange(progress, method, url, encoded(headers), content)
                return progress.answer(is_cut=False)
        except httpcore2.LocalProtocolError as error:
            if progress.is_sent:  # pragma: no cover - only headers are checked
                raise failure(error, progress) from None
            raise malformed() from None  # the driver's message quotes the header
        except AddressRefusedError as error:
            raise HttpError(str(error), is_sent=False, code="address") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError) as error:
            if not progress.status:
                raise failure(error, progress) from error
        if not progress.status:
            raise HttpError(f"no answer within {timeout:g} s", is_sent=progress.is_sent, code="timeout")
        return progress.answer(is_cut=True)

    async def _exchange(
        self, progress: Exchange, method: str, url: str, headers: Sequence[tuple[bytes, bytes]], content: bytes
    ) -> None:
        async with self._pool.stream(
            method, url, headers=headers, content=content, extensions={"trace": progress}
        ) as answer:
            progress.headers = {name.decode("ascii").lower(): value.decode("latin-1") for name, value in answer.headers}
            progress.status = answer.status
            length = progress.headers.get("content-length", "0")
            if length.isdigit() and int(length) > MAX_ANSWER:
                return
            async with aclosing(answer.aiter_stream()) as parts:  # else it would be left half-read, for the collector
                async for part in parts:
                    progress.body += part
                    if len(progress.body) > MAX_ANSWER:
                        return

    async def aclose(self) -> None:
        """Close them all."""
        await self._pool.aclose()


def is_url(url: str) -> bool:
    """Return whether a URL can be asked for: absolute, percent-encoded, http or https."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return bool(_URL.fullmatch(url) and parts.scheme in {"http", "https"} and host)


def encoded(headers: Mapping[str, str]) -> Sequence[tuple[bytes, bytes]]:
    """Return headers as they are sent; raise HttpError if they contain characters that headers cannot have."""
    try:
        return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    except UnicodeEncodeError:
        raise malformed() from None


def malformed() -> HttpError:
    """Return the error about headers that cannot be sent."""
    return HttpError("the headers are malformed; nothing was sent", is_sent=False, code="request")


def failure(error: Exception, progress: Exchange) -> HttpError:
    """Translate what the driver raised."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, ssl.SSLCertVerificationError) or isinstance(cause, ssl.SSLCertVerificationError):
        code = "tls"
    elif isinstance(error, httpcore2.TimeoutException):
        code = "timeout"
    else:
        code = "broken" if progress.is_sent else "connect"
    return HttpError(str(error) or type(error).__name__, is_sent=progress.is_sent, code=code)
