"""`HttpClient`: one request, one answer, and whether anything was sent if there is no answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol, runtime_checkable

LONGEST_WAIT = 7 * 86_400.0
"""Seconds: a `Retry-After` that asks for more is taken for this."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer to a request.

    Attributes:
        status: the status code.
        headers: by their names in lower case.
        body: its beginning: a client may leave out the rest of a long one.
        is_cut: the connection broke, or the time was over, before the end of the body.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    is_cut: bool = False

    def retry_after(self, now: float) -> float | None:
        """Return the seconds that `Retry-After` asks for; None if it is absent or malformed.

        A date is compared with the `Date` of the answer, where there is one: the clocks may differ.

        Args:
            now: seconds since 1970.
        """
        text = self.headers.get("retry-after", "")
        if text.isascii() and text.isdigit():
            return min(float(text), LONGEST_WAIT) if len(text) < 20 else None
        until = _instant(text)
        if until is None:
            return None
        sent = _instant(self.headers.get("date", ""))
        return min(max(0.0, until - (now if sent is None else sent)), LONGEST_WAIT)


class HttpError(Exception):
    """There was no valid answer. The message names neither the path of the URL nor a header.

    Attributes:
        is_sent: whether any byte of the request may have gone out. If not, the request certainly had no effect.
        code: `"address"` (malformed, or not a public one), `"connect"`, `"tls"` (the certificate was not accepted),
            `"timeout"`, `"broken"`, or `"request"` (the headers are malformed).
    """

    def __init__(self, message: str, *, is_sent: bool, code: str) -> None:
        super().__init__(message)
        self.is_sent = is_sent
        self.code = code


@runtime_checkable
class HttpClient(Protocol):
    """Sends requests over HTTP."""

    @abstractmethod
    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], content: bytes = b"", timeout: float
    ) -> HttpAnswer:
        """Send one request, once, and return the answer, whatever its status. Redirects are not followed.

        Args:
            method: such as `"POST"`.
            url: absolute, `http` or `https`.
            headers: those of the request, without `Host` and `Content-Length`.
            content: the body.
            timeout: seconds for all of it, from the connection to the end of the answer.

        Raises:
            HttpError: there was no valid answer in time.

        Cancellation: unknown; the request may have been sent.    Concurrency: any number of tasks.
        """


def _instant(text: str) -> float | None:
    """Return the seconds since 1970 of an HTTP date."""
    try:
        when = parsedate_to_datetime(text)
        return when.replace(tzinfo=when.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
