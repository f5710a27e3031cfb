"""Pure: how many tickets of one user are open, so that one client cannot fill the store with them.

Each instance counts what it has issued, until the ticket is used here or expires. One that is used on another instance
counts until it expires, so the limit leaves room for that.
"""

from __future__ import annotations

from collections import Counter, OrderedDict


class OpenTickets:
    """Counts tickets by user.

    Invariants:
        I1. `_counts` has the number of each user's tickets in `_tickets`, and no user without one.

    Args:
        lifetime: seconds for which a ticket counts.
        per_user: the most that one user may have.
        max_kept: the most that are remembered of all users; the oldest is forgotten first.
    """

    def __init__(self, lifetime: float, per_user: int, max_kept: int) -> None:
        self._lifetime = lifetime
        self._per_user = per_user
        self._max_kept = max_kept
        self._tickets: OrderedDict[str, tuple[float, str]] = OrderedDict()  # the first one expires first
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, log: str, user: str, now: float) -> float:
        """Count a ticket and return 0; or return the seconds until the user may have another one."""
        while self._tickets and next(iter(self._tickets.values()))[0] <= now:
            self.discard(next(iter(self._tickets)))
        if self._counts[user] >= self._per_user:
            oldest = next(until for until, whose in self._tickets.values() if whose == user)
            return oldest - now
        self._tickets[log] = (now + self._lifetime, user)
        self._counts[user] += 1
        if len(self._tickets) > self._max_kept:
            self.discard(next(iter(self._tickets)))
        return 0.0

    def discard(self, log: str) -> None:
        """Stop counting a ticket. Idempotent."""
        ticket = self._tickets.pop(log, None)
        if ticket is not None:
            self._counts[ticket[1]] -= 1
            if not self._counts[ticket[1]]:
                del self._counts[ticket[1]]  # keeps I1
