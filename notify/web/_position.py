"""Pure: where a client wants to continue, and the mark of a client that was disconnected.

A client says where it is in the `Last-Event-ID` header, as browsers do by themselves when they reconnect, or in the
query string, because a page cannot set the header of its first request. The header wins: it is the newer of the two,
since a browser repeats the URL of the first request when it reconnects.

The last frame after `disconnect` has an id of its own, the *mark*. A browser that reconnects by itself sends it back,
so every instance knows such a client without having kept anything, and answers 204, which ends the reconnecting. The
mark also contains the session and the position: if the page goes on after a new login, it is let in, and misses
nothing.

```text
x1.<digest of the session>.<position>
```
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

HEADER: Final = "last-event-id"

FIELDS: Final = ("lastEventId", "last_event_id", "last_id")
"""Names in the query string: the first is what libraries for browsers send by themselves."""

_MARK: Final = "x1."
_DIGEST: Final = 16


class Asked(NamedTuple):
    """What a client asks for.

    Attributes:
        position: where to continue; empty for "from now on".
        disconnected: the digest of the session in which the client was disconnected; empty if it was not.
    """

    position: str
    disconnected: str = ""

    def is_refused(self, session: str) -> bool:
        """Return whether the client was disconnected in this very session, and has come back by itself."""
        return self.disconnected != "" and self.disconnected == digest(session)


NOTHING: Final = Asked("")
"""From now on."""


def asked(headers: Mapping[str, str], query: Mapping[str, str], fields: tuple[str, ...] = FIELDS) -> Asked:
    """Return what a request asks for.

    Args:
        headers: by their names in lower case.
        query: the fields of the query string.
        fields: those that may contain a position, the first one that is not empty counts.
    """
    text = headers.get(HEADER, "").strip()
    if not text and not query.keys().isdisjoint(fields):
        text = next((found for name in fields if (found := query.get(name, "").strip())), "")
    return parse(text) if text else NOTHING


def parse(text: str) -> Asked:
    """Return what a position means; whether it is one is for `Notifier.subscribe` to say."""
    if text.startswith(_MARK):
        session, dot, position = text[len(_MARK) :].partition(".")
        if dot and len(session) == _DIGEST:
            return Asked(position, session)
    return Asked(text)


def mark(session: str, position: str) -> str:
    """Return the id of the last frame after `disconnect`."""
    return f"{_MARK}{digest(session)}.{position}"


def digest(session: str) -> str:
    """Return what a mark contains of a session: the client sees it, so not the session itself."""
    hashed = hashlib.blake2b(session.encode("utf-8", "surrogatepass"), digest_size=12, person=b"notify.web")
    return base64.urlsafe_b64encode(hashed.digest()).decode()
