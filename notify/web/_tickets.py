"""Tickets: for clients that can send no headers, such as EventSource and WebSocket in a browser on another host.

A client that is authenticated asks for a ticket by `POST /ticket`, and opens its stream with it, in the URL. The ticket
is random, is good for one stream within seconds, and only for a page of the origin that asked for it; so it is worth
nothing to a reader of access logs.

Every instance accepts the tickets of every other one, since they are kept in the store: each ticket has a log under a
reserved name, which contains a hash of the ticket, and never the ticket itself.

    issue     append `notify.ticket` with the identity
    redeem    read it, and append `notify.ticket.used`

A log has one order, and each event names the one before it. So among any number of attempts, on any number of
instances, exactly one appends the event that follows the ticket directly: that one has redeemed it. This does not
depend on idempotency keys or on how long they are kept, and stays true once the log is erased, since an event that is
appended after that follows nothing. Nor does it depend on the clocks of the instances: both events carry the time of
the store, and a ticket has expired if there is more than its lifetime between them.

A notifier without a store is alone; its tickets are kept in memory.
"""

from __future__ import annotations

import math
import re
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from time import monotonic
from typing import Any, Final, NamedTuple

from notify import BackendUnavailableError, Event, NotifyError, Store, ids
from notify._asgi import Identity, WebError
from notify.abc import Forget, ability

from ._login import Client
from ._open_tickets import OpenTickets

ISSUED: Final = "notify.ticket"
USED: Final = "notify.ticket.used"
"""The types of the two events in the log of a ticket."""

MAX_KEPT: Final = 10_000
"""Tickets that are kept in memory, and logs that are remembered to be erased once their tickets have expired."""

GRACE: Final = 60.0
"""Seconds for which the log of an expired ticket is kept: a request with the ticket may be on its way."""

_GRAMMAR: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # `token_urlsafe(32)`; also valid in a subprotocol
_ERASED_AT_ONCE: Final = 2


class IssuedTicket(NamedTuple):
    """What a client gets.

    Attributes:
        ticket: the secret.
        expires_at: by the clock of the store.
    """

    ticket: str
    expires_at: datetime


class Tickets:
    """Issues and redeems tickets.

    Invariants:
        I1. No ticket can be computed from what is in the store or in memory.
        I2. Of all attempts to redeem a ticket one succeeds at most.

    Args:
        store: of the notifier.
        lifetime: seconds for which a ticket is valid.
        per_user: the most tickets of one user that are open here.
    """

    def __init__(self, store: Store | None, lifetime: float, per_user: int = 100) -> None:
        self._store = store
        self._lifetime = lifetime
        self._open = OpenTickets(lifetime, per_user, MAX_KEPT)
        self._kept: OrderedDict[str, tuple[float, Mapping[str, Any]]] = OrderedDict()  # without a store
        self._expiring: deque[tuple[float, str]] = deque(maxlen=MAX_KEPT)

    async def issue(self, client: Client, origin: str) -> IssuedTicket:
        """Return a new ticket.

        Args:
            client: as authenticated: a stream that is opened with the ticket has exactly this identity and login.
            origin: of the page that asks, as its browser sent it; empty if a program asks.

        Raises:
            WebError: 429, the user has too many open tickets.
            BackendError: the store cannot be reached.

        Order: none.
        Cancellation: the ticket may exist, and expires.
        Concurrency: any number of tasks.
        Cost: one save; and the logs of up to two older tickets are erased.
        """
        ticket = secrets.token_urlsafe(32)
        log, facts = _log_of(ticket), _facts(client, origin, self._lifetime)
        wait = self._open.add(log, client.identity.user, monotonic())
        if wait:
            after = [(b"retry-after", b"%d" % math.ceil(wait))]
            raise WebError(
                429,
                "too_many_tickets",
                "this user has too many tickets that are still unused: wait as Retry-After says",
                after,
            )
        if self._store is None:
            self._keep(log, facts)
            return IssuedTicket(ticket, datetime.now(UTC) + timedelta(seconds=self._lifetime))
        try:
            issued = await _saved(self._store, Event(log, ISSUED, facts))
        except BaseException:
            self._open.discard(log)  # no client has it
            raise
        now = monotonic()
        self._expiring.append((now + self._lifetime + GRACE, log))
        for _ in range(_ERASED_AT_ONCE):
            if self._expiring[0][0] <= now:
                await _erase(self._store, self._expiring.popleft()[1])
        return IssuedTicket(ticket, ids.time_of(issued.id) + timedelta(seconds=self._lifetime))

    async def redeem(self, ticket: str, is_for: Callable[[str], bool]) -> Client | None:
        """Return the client of a ticket, which is used up by this; None if the ticket is not valid, or not here.

        An attempt from another origin does not use the ticket up.

        Args:
            ticket: what the client sent.
            is_for: tells whether the client may use a ticket that is bound to this origin; empty if it is not bound.

        Raises:
            BackendError: the store cannot be reached; the ticket may be used up.

        Order: among concurrent attempts the first one in the order of the log succeeds.
        Cancellation: the ticket may be used up.
        Concurrency: any number of tasks and processes.
        Cost: one read, one save, and the erasure of the log.
        """
        if not _GRAMMAR.fullmatch(ticket):
            return None
        log = _log_of(ticket)
        if self._store is None:
            return self._take(log, is_for)
        issued = await _read(self._store, log)
        if issued is None:
            return None
        facts = issued.payload
        if not is_for(facts["origin"]):
            return None
        nonce = secrets.token_hex(16)
        used = await _saved(self._store, Event(log, USED, nonce, key="used"))
        if used.payload != nonce:
            return None  # another attempt was first
        self._open.discard(log)
        await _erase(self._store, log)
        if used.prev != issued.id:
            return None  # keeps I2: the log was erased after an attempt that was first, and has begun again
        age = ids.time_of(used.id) - ids.time_of(issued.id)
        return _client(facts) if age.total_seconds() <= facts["lifetime"] else None

    def _keep(self, log: str, facts: Mapping[str, Any]) -> None:
        now = monotonic()
        self._kept[log] = (now + self._lifetime, facts)
        while len(self._kept) > MAX_KEPT or next(iter(self._kept.values()))[0] < now:
            self._kept.popitem(last=False)

    def _take(self, log: str, is_for: Callable[[str], bool]) -> Client | None:
        until, facts = self._kept.get(log, (0.0, {}))
        if not facts or not is_for(facts["origin"]):
            return None
        self._open.discard(log)
        del self._kept[log]  # keeps I2: nothing is awaited between reading and removing
        return _client(facts) if monotonic() <= until else None


async def _read(store: Store, log: str) -> Event | None:
    try:
        page = await store.read(log, ids.ZERO, 1)
    except NotifyError:
        raise
    except Exception as error:
        raise BackendUnavailableError("a ticket could not be read", backend=type(store).__name__) from error
    return next((event for event in page.events if event.type == ISSUED), None)


async def _saved(store: Store, event: Event) -> Event:
    try:
        return await store.save(event)
    except NotifyError:
        raise
    except Exception as error:
        raise BackendUnavailableError("a ticket could not be stored", backend=type(store).__name__) from error


async def _erase(store: Store, log: str) -> None:
    """Erase the log of a ticket that is used up or has expired; what cannot be erased falls to retention."""
    if ability(store, Forget):
        with suppress(Exception):
            await store.forget(log)


def _log_of(ticket: str) -> str:
    return f"notify.ticket.{sha256(ticket.encode()).hexdigest()}"  # keeps I1


def _facts(client: Client, origin: str, lifetime: float) -> dict[str, Any]:
    identity = client.identity
    expires = identity.expires_at
    return {
        "user": identity.user,
        "addresses": [*identity.addresses],
        "expires_at": None if expires is None else expires.isoformat(),
        "session": identity.session,
        "login": client.login,
        "origin": origin,
        "lifetime": lifetime,
    }


def _client(facts: Mapping[str, Any]) -> Client:
    expires = facts["expires_at"]
    moment = None if expires is None else datetime.fromisoformat(expires)
    identity = Identity(facts["user"], tuple(facts["addresses"]), moment, facts["session"])
    return Client(identity, facts.get("login", identity.session))  # an instance of an older version stores no login
