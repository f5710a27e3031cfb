"""Pure: signed links in messages, which work without a login: unsubscribe, opened, clicked, dismissed.

A token contains its purpose and what it acts on, so it works for as long as its key is kept, even after the delivery
has been removed:

```text
base64url(["unsubscribe", user, category, channel]) "." base64url(HMAC-SHA256(key, the part before the dot))
```

It is not encrypted: anyone who has it can read it. `clicked` contains the URL to which it redirects, so it redirects
nowhere else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from html import escape
from typing import Final, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from notify.errors import UsageError

from ._channel import Job
from ._checks import check_names

Act: TypeAlias = Literal["unsubscribe", "opened", "clicked", "dismissed"]

MIN_KEY: Final = 16
"""The least bytes of a key."""

MAX_TOKEN: Final = 4096
"""The most characters of a token."""

ONE_CLICK: Final = "List-Unsubscribe=One-Click"
"""The body that a mail program posts (RFC 8058)."""

_CONTEXT: Final = b"notify.dispatch.link.1:"
_SIZES: Final = {"unsubscribe": 3, "opened": 1, "clicked": 2, "dismissed": 1}
_URL: Final = re.compile(r"[!-~]{1,2000}", re.ASCII)
_AFTER_URL: Final = r"""(?![^\s<>"')\]])"""


def sign_link(keys: Sequence[bytes], act: Act, *values: str) -> str:
    """Return a token for an act, signed with the first key."""
    content = json.dumps([act, *values], ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    payload = _encoded(content)
    return f"{payload}.{_signature(keys[0], payload)}"


def read_link(keys: Iterable[bytes], act: Act, token: str) -> tuple[str, ...] | None:
    """Return the values of a token for an act; None: none of the keys has signed it, or it is for another act."""
    payload, dot, signature = token.partition(".")
    if not dot or len(token) > MAX_TOKEN or not token.isascii():
        return None
    if not any([hmac.compare_digest(_signature(key, payload), signature) for key in keys]):  # all of them, always
        return None
    found, *values = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return tuple(values) if found == act and len(values) == _SIZES[act] else None


def _signature(key: bytes, payload: str) -> str:
    return _encoded(hmac.digest(key, _CONTEXT + payload.encode(), hashlib.sha256))


def _encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


class Links:
    """Signed links to a `DispatchApp`, which the dispatcher puts into messages.

    Marketing messages over `channels` get the headers `List-Unsubscribe` and `List-Unsubscribe-Post` (RFC 8058), and
    templates the value `unsubscribe_url`.

    Args:
        base_url: where the application is served, such as `"https://example.com/notifications"`.
        keys: secrets of at least 16 bytes each. The first one signs, all are accepted: to replace a key, put the new
            one first, and keep the old one for as long as people may use the links that it has signed.
        channels: the channels whose marketing messages get the headers.
        tracked: the channels over which opening a message (an image in the HTML) and following its URL are recorded.

    Raises:
        UsageError: an argument is not valid. The message does not show a key.
    """

    def __init__(
        self,
        base_url: str,
        keys: Sequence[str | bytes],
        *,
        channels: Collection[str] = ("email",),
        tracked: Collection[str] = (),
    ) -> None:
        given: object = base_url
        parts = urlsplit(given) if isinstance(given, str) and _URL.fullmatch(given) else None
        if parts is None or parts.scheme not in ("https", "http") or not parts.netloc or parts.query or parts.fragment:
            raise UsageError(f"Links: base_url must be the https URL of a DispatchApp, not {base_url!r:.80}")
        if isinstance(keys, str | bytes) or not keys or not all(isinstance(key, str | bytes) for key in keys):
            raise UsageError("Links: keys must be a list of secrets, each of them str or bytes")
        self.keys = tuple(key.encode() if isinstance(key, str) else key for key in keys)
        if any(len(key) < MIN_KEY for key in self.keys):
            raise UsageError(f"Links: each key must have at least {MIN_KEY} bytes; secrets.token_urlsafe(32) makes one")
        self.channels = frozenset(check_names("Links.channels", channels))
        self.tracked = frozenset(check_names("Links.tracked", tracked))
        self._base = base_url.rstrip("/")

    def __repr__(self) -> str:
        return f"Links({self._base!r}, <{len(self.keys)} keys>)"

    def unsubscribe(self, user: str, category: str, channel: str) -> str:
        """Return the URL that unsubscribes a user from a category over a channel."""
        return self._url("unsubscribe", user, category, channel)

    def opened(self, delivery: str) -> str:
        """Return the URL of an image that records that a delivery was opened."""
        return self._url("opened", delivery)

    def clicked(self, delivery: str, url: str) -> str:
        """Return a URL that records a click on a delivery and redirects to `url`, which must be http or https.

        Raises:
            UsageError: it has another scheme, or characters that a URL cannot have.
        """
        if not is_web_url(url):
            raise UsageError("Links.clicked: the URL must be http or https, in ASCII, of at most 2000 characters")
        return self._url("clicked", delivery, url)

    def dismissed(self, delivery: str) -> str:
        """Return a URL to which the service worker posts: it dismisses the item of the notification in the inbox."""
        return self._url("dismissed", delivery)

    def read(self, act: Act, token: str) -> tuple[str, ...] | None:
        """Return the values of a token; None: it is not valid for this act."""
        assert act in get_args(Act)
        return read_link(self.keys, act, token)

    def unsubscribe_url(self, user: str, category: str, channel: str) -> str:
        """Return the URL for unsubscribing from a category; empty if it is not `marketing`."""
        return self.unsubscribe(user, category, channel) if category == "marketing" else ""

    def added_to(self, job: Job) -> Job:
        """Return the job with `dismiss_url`, headers for unsubscribing and, if its channel has them, tracked links."""
        job = replace(job, dismiss_url=self.dismissed(job.id))
        url = self.unsubscribe_url(job.user, job.category, job.channel)
        if url and job.channel in self.channels:
            headers = {"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": ONE_CLICK}
            job = replace(job, headers={**job.headers, **headers})
        return self._tracking(job) if job.channel in self.tracked else job

    def _tracking(self, job: Job) -> Job:
        content = job.content
        if is_web_url(content.url):
            url, link = content.url, self.clicked(job.id, content.url)
            content = replace(
                content,
                url=link,
                body=_replaced(content.body, url, link),
                short=_replaced(content.short, url, link),
                html=content.html.replace(f'href="{escape(url)}"', f'href="{escape(link)}"'),
            )
        if content.html:
            picture = f'<img src="{escape(self.opened(job.id))}" width="1" height="1" alt="">'
            before, end, after = content.html.rpartition("</body>")
            html = f"{before}{picture}{end}{after}" if end else content.html + picture
            content = replace(content, html=html)
        return replace(job, content=content)

    def _url(self, act: Act, *values: str) -> str:
        return f"{self._base}/{act}/{sign_link(self.keys, act, *values)}"


def is_web_url(url: str) -> bool:
    """Whether this is an absolute http or https URL that fits into a header as it is."""
    if not _URL.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(parts.hostname)


def _replaced(text: str, url: str, link: str) -> str:
    return re.sub(re.escape(url) + _AFTER_URL, lambda _: link, text)
