"""What channels over HTTP share: a client of their own or a given one, and what a missing answer means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from notify import UsageError
from notify.http import HttpAnswer, HttpClient, HttpError, HttpPool

from .._checks import check_seconds
from .._outcomes import Ambiguous, Misconfigured, Outcome, Rejected, Transient

USER_AGENT = "notify-streams"

_PHRASES = {
    "address": "the URL is malformed, or its host has an address that is not public",
    "connect": "the connection failed",
    "tls": "the certificate of the server was not accepted",
    "timeout": "there was no answer in time",
    "broken": "the connection broke before the answer",
    "request": "a header is malformed, so nothing was sent: compare the keys and tokens in the channel's settings",
}


class HttpChannel:
    """The part of a channel that sends requests.

    Args:
        extra: the extra that the channel belongs to, for the error that names it.
        client: sends the requests, and is not closed; None: a pool of its own.
        timeout: seconds for one request.
        allow_private: whether to connect to addresses that are not public, for a pool of its own.
        idle: seconds for which the pool keeps an unused connection.
    """

    def __init__(
        self, extra: str, client: HttpClient | None, timeout: float, allow_private: bool, idle: float = 30.0
    ) -> None:
        check_seconds("timeout", timeout)
        self._timeout = timeout
        self._pool: HttpPool | None = None
        if client is None:
            try:
                client = self._pool = HttpPool(allow_private=allow_private, idle=idle)
            except ImportError as error:
                raise UsageError(missing(type(self).__name__, extra)) from error
        self._client = client

    async def _post(self, url: str, headers: Mapping[str, str], content: bytes) -> HttpAnswer:
        return await self._client.request(
            "POST", url, headers={"User-Agent": USER_AGENT, **headers}, content=content, timeout=self._timeout
        )

    async def aclose(self) -> None:
        """Close the connections of the channel's own pool. Idempotent."""
        if self._pool is not None:
            await self._pool.aclose()

    async def __aenter__(self) -> Self:
        """Return the channel."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def encoded(value: Any) -> bytes:
    """Return compact JSON. Half a surrogate pair, which JSON may contain and UTF-8 may not, becomes a question mark."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def missing(who: str, extra: str) -> str:
    """Return the message that names the extra that a class needs."""
    return f"{who} needs the extra {extra}: pip install 'notify-streams[{extra}]'"


def origin(url: str) -> str:
    """Return scheme, host and port of a URL: what may be logged of it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def gate_of(url: str) -> str:
    """Return the origin of an endpoint's URL, as `Gated.gate` does; empty: it has none."""
    try:
        return origin(url)
    except ValueError:
        return ""


def unanswered(error: HttpError, *, is_provider: bool) -> Outcome:
    """Return what a request without an answer means.

    Args:
        error: what the client raised.
        is_provider: the address is a setting of the channel. Otherwise it came from outside, as that of a browser.
    """
    text = _PHRASES.get(error.code, "there was no answer")
    if error.is_sent:
        return Ambiguous(text)
    if error.code == "request" or (is_provider and error.code in {"tls", "address"}):
        return Misconfigured(text)
    if error.code == "address":
        return Rejected("address", is_unclear=True, error=text)
    return Transient(error.code, error=text)
