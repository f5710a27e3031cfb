"""What an `authenticate` function needs most often: bearer tokens, and ids for sessions.

A session id is also the name of a log: `notifier.push(session_id(session), ...)` reaches every stream of that session,
whether or not its user is logged in, and `notifier.disconnect` with it ends them on every instance.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Final, Protocol

from notify import Notifier, UsageError
from notify._asgi import Request

SESSION_KEY: Final = "notify.session"
"""Where the id stands in a session."""

_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.ASCII | re.IGNORECASE)
_SESSION_ID: Final = re.compile(r"session\.[A-Za-z0-9_-]{32}", re.ASCII)


class MutableSession(Protocol):
    """A session as web frameworks have it: of Starlette, Django, Litestar, Quart, Flask; or a `dict`."""

    def get(self, key: str, default: Any = None, /) -> Any:
        """Return a value of the session."""

    def pop(self, key: str, default: Any = None, /) -> Any:
        """Remove a value of the session."""

    def __setitem__(self, key: str, value: Any, /) -> None:
        """Set a value of the session."""


def bearer_token(request: Request) -> str | None:
    """Return the token of the header `Authorization: Bearer <token>`, or None."""
    found = _BEARER.fullmatch(request.headers.get("authorization", ""))
    return None if found is None else found[1]


def session_id(session: MutableSession) -> str:
    """Return the id of a session, which is made at the first call and kept in the session.

    It stays the same when a user logs in, so that what was pushed to the session before is still found, and ends with
    the session at logout. It is not the framework's own session key, so it may be shown.

    Args:
        session: the framework's session, such as `request.session`; or any mutable mapping.

    Raises:
        UsageError: `session` is not a mapping.
    """
    if not all(hasattr(session, name) for name in ("get", "pop", "__setitem__")):
        raise UsageError(f"session must be the session of a framework or a mapping, not {type(session).__name__}")
    kept = session.get(SESSION_KEY)
    if isinstance(kept, str) and _SESSION_ID.fullmatch(kept):
        return kept
    made = f"session.{secrets.token_urlsafe(24)}"
    session[SESSION_KEY] = made
    return made


async def end_session(notifier: Notifier[Any], session: MutableSession, reason: str = "logged out") -> None:
    """Forget the id of a session, and end its streams on every instance: call it where a user logs out.

    Other sessions of the user stay connected; `notifier.disconnect(user)` ends all of them.

    Args:
        notifier: any instance.
        session: as for `session_id`.
        reason: shown to the clients.

    Raises:
        UsageError: `reason` is not a str of at most 255 characters.
        ClosedError: the notifier is closed.

    Order: the id is forgotten first.
    Cancellation, cost: as `Notifier.disconnect`.
    Concurrency: any number of tasks.
    """
    ended = session.pop(SESSION_KEY, None)
    if isinstance(ended, str) and _SESSION_ID.fullmatch(ended):
        await notifier.disconnect(ended, reason)
