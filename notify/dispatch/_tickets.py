"""`Ticket`: what `submit` returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from notify import UsageError

from ._explain import Explanation, ReportEntry

Explain: TypeAlias = Callable[[str, str], Awaitable[Explanation | None]]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What `submit` returns.

    Attributes:
        id: of the notification.
        replayed: the idempotency key was used before, for the same request; nothing was stored now.
        count: how many recipients were submitted by this call.
    """

    id: str
    replayed: bool = False
    count: int = 1
    _user: str = field(default="", repr=False, compare=False)
    _explain: Explain | None = field(default=None, repr=False, compare=False)

    async def report(self, user: str = "") -> Sequence[ReportEntry]:
        """Return what has become of it so far: one entry for each channel and endpoint, also for what was skipped.

        Args:
            user: which recipient; empty: the only one.

        Returns:
            Empty: this user is not a recipient, or the transaction of `connection=` has not been committed.

        Raises:
            UsageError: it has many recipients, and none was named.
            BackendUnavailableError: not reachable; safe to repeat.
        """
        if self._explain is None or not (user or self._user):
            raise UsageError("Ticket.report: name the user, since this ticket is for many recipients")
        found = await self._explain(self.id, user or self._user)
        return () if found is None else found.report()


def user_of(ticket: object) -> str:
    """Return the single recipient of a ticket; empty: it has several, or only the id is known."""
    return ticket._user if isinstance(ticket, Ticket) else ""


def id_of(ticket: object) -> str:
    """Return the id of a ticket, or of what is its id already."""
    if isinstance(ticket, Ticket):
        return ticket.id
    if isinstance(ticket, str):
        return ticket
    raise UsageError(f"expected a Ticket or its id, not {ticket!r:.80}")
