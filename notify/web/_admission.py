"""Who may read which logs, and the stream of them that the notifier, or the inbox, returns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from notify import Position
from notify._asgi import Identity, Request, WebError
from notify.abc import Interruptible, Stream

from ._site import Site


@dataclass(slots=True)
class Admission:
    """A client that may read.

    Attributes:
        identity: who it is.
        logs: what it reads: the user, the session's log, the addresses that it has named.
        moment: a `Notifier.moment` from before it was authenticated; 0 where nothing is opened.
        login: see `_login.login_of`.
    """

    identity: Identity
    logs: tuple[str, ...]
    moment: int
    login: str = ""


async def admit(site: Site, request: Request) -> Admission:
    """Return what a client may read.

    Raises:
        WebError: 401 or 503 as by `identify_stream`; 403 if it names an address that it may not read.
        BackendError: its ticket could not be looked up.
        ClosedError: the notifier is closed.
    """
    moment = await site.notifier.moment()
    assert site.authentication is not None
    identity, login = await site.authentication.identify_stream(request)
    named = request.query_all("address") if "address" in request.query else ()
    return Admission(identity, logs_of(identity, named), moment, login)


async def check(site: Site, request: Request) -> Admission:
    """Return what a client may read, for a `HEAD`, which is refused as `admit` would refuse a `GET`.

    A ticket is neither used up nor accepted: what looks at a link must not keep its client out.

    Raises:
        WebError: as by `admit`.
    """
    assert site.authentication is not None
    identity = await site.authentication.identify(request)
    return Admission(identity, logs_of(identity, request.query_all("address")), 0)


def logs_of(identity: Identity, named: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the logs of a stream.

    Raises:
        WebError: 403 if an address is named that the identity does not have.
    """
    if not identity.session and not named:
        return (identity.user,)
    logs = [identity.user, identity.session] if identity.session else [identity.user]
    if named and not {*logs, *identity.addresses}.issuperset(named):
        raise WebError(403, "forbidden", "this user may not read one of the addresses")
    return tuple(dict.fromkeys([*logs, *named]))


class ReadStream(Stream, Interruptible):
    """What a notifier and an inbox return."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the stream is open and its position fixed; only streams of one log have this."""

    @abstractmethod
    def omit_sync(self) -> None:
        """Do not yield `notify.sync`; only streams of one log support this."""


def subscribed(site: Site, admission: Admission, position: Position) -> ReadStream:
    """Return a stream that is not open yet.

    With an inbox it also reads the topics that the user follows, and yields `notify.counts`.

    Raises:
        ClosedError: the notifier is closed.
        InvalidEventIdError: `position` is not a valid position.
        UsageError: too many logs.
    """
    identity, logs, moment = admission.identity, admission.logs, admission.moment
    users: Any = logs[0] if len(logs) == 1 else logs
    expires = identity.expires_at
    stream: Any
    if site.inbox is None:
        stream = site.notifier.subscribe(users, position, signals=True, expires_at=expires, disconnected_since=moment)
    else:
        own = {identity.user, identity.session}
        stream = site.inbox.subscribe(
            identity.user,
            position,
            session=identity.session,
            addresses=[log for log in logs if log not in own],
            signals=True,
            expires_at=expires,
            disconnected_since=moment,
        )
    return stream  # type: ignore[no-any-return]
