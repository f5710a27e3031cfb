"""Where webhooks are sent, and which events are wanted there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from notify import Event, UsageError

from ._signature import Secret, keys_of

_OURS: Final = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "user-agent"})
"""Headers that an endpoint cannot set, beside those that begin with `webhook-`."""

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*", re.ASCII)
_URL: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)


class WebhookEndpoint:
    """One receiver of webhooks.

    Args:
        url: `https://...` (or `http://...`), percent-encoded, without a login or a fragment.
        secret: signs what is sent: `whsec_` and base64 of 24 to 64 random bytes. Several while one is being replaced:
            the message then has one signature for each.
        types: the event types that are wanted, compared exactly; empty: all.
        users: the users whose events are wanted; None: all.
        headers: sent with each message, for example a bearer token. The headers of the signature and those of HTTP
            itself cannot be set.

    Raises:
        UsageError: an argument is unacceptable. The message shows neither the secret nor the path of the URL.
    """

    def __init__(
        self,
        url: str,
        secret: Secret | Iterable[Secret],
        types: Collection[str] = (),
        users: Collection[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name = _checked_name(url)
        self.url = url
        self.keys = keys_of(secret)
        for what, names in (("types", types), ("users", users)):
            if isinstance(names, str):
                raise UsageError(f"{what} must be a collection of str, not a str: use [{names!r:.80}]")
        self.types = frozenset(types)
        self.users = None if users is None else frozenset(users)
        self.headers = dict(_checked_header(name, value) for name, value in (headers or {}).items())

    def wants(self, event: Event) -> bool:
        """Return whether the event is sent here."""
        return (not self.types or event.type in self.types) and (self.users is None or event.user in self.users)

    def __repr__(self) -> str:
        return f"<WebhookEndpoint {self.name}>"


def _checked_name(url: Any) -> str:
    """Return scheme and host of the URL: what may be logged, since the path of a webhook is often a secret."""
    if not isinstance(url, str) or not _URL.fullmatch(url):
        raise UsageError(
            "the URL of a webhook must be a str of ASCII without white space: percent-encode other characters"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError("the URL of a webhook is malformed") from None
    if parts.scheme not in ("https", "http"):
        raise UsageError(f"the URL of a webhook must begin with https:// or http://, not {parts.scheme!r:.20}")
    if not parts.hostname:
        raise UsageError("the URL of a webhook has no host")
    if "@" in parts.netloc:
        raise UsageError("the URL of a webhook must not contain a login: pass it in headers=")
    if "#" in url:
        raise UsageError("the URL of a webhook must not contain a fragment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def _checked_header(name: object, value: object) -> tuple[str, str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"headers= has a name that HTTP does not allow: {name!r:.80}")
    if name.lower() in _OURS or name.lower().startswith("webhook-"):
        raise UsageError(f"headers= must not contain {name!r}: the library sets that header itself")
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise UsageError(f"the value of {name!r} in headers= must be a str of printable ASCII")
    return name, value
