"""What trackers do to their tables: synchronous, run in a connection's thread, inside its transaction.

A lease counts while `now < expires <= now + ttl`: after the clock stepped back, the leases of the dead are not
prolonged, and those of the living are renewed soon.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

from notify import RoutingInfo

from ._worker import roll_back

CHUNK: Final = 500
"""Rows that one transaction writes at most."""

Place: TypeAlias = tuple[str, str]
"""A user and an instance."""


def renew(db: sqlite3.Connection, sql: Mapping[str, str], lease: str, now: int, ttl: int) -> int:
    """Renew a lease, or grant it anew, and return how many places it covers; remove what the dead left."""
    db.execute(sql["renew_lease"], (lease, now + ttl, ttl))
    (count,) = db.execute(sql["count_presence"], (lease,)).fetchone()
    _remove_dead(db, sql, now)
    return int(count)


def write(
    db: sqlite3.Connection,
    sql: Mapping[str, str],
    lease: str,
    now: int,
    ttl: int,
    places: Iterable[tuple[Place, RoutingInfo | None]],
) -> None:
    """Write where users are connected under this lease now; None: there no more."""
    db.execute(sql["renew_lease"], (lease, now + ttl, ttl))  # it may have been lost: then nobody would see them
    for (user, instance), routing in places:
        if routing is None:
            db.execute(sql["delete_presence"], (lease, user, instance))
        else:
            meta = json.dumps(dict(routing.metadata)) if routing.metadata else None
            db.execute(sql["set_presence"], (lease, user, instance, meta))


def _remove_dead(db: sqlite3.Connection, sql: Mapping[str, str], now: int) -> None:
    """Remove leases that ended a time to live ago, as far as `CHUNK` rows go."""
    for (lease,) in db.execute(sql["dead_leases"], (now,)).fetchall():
        if not remove(db, sql, lease):
            return


def remove(db: sqlite3.Connection, sql: Mapping[str, str], lease: str) -> bool:
    """Remove a lease and what it covers; return False where `CHUNK` rows were not all."""
    rows = db.execute(sql["presence_of_lease"], (lease, CHUNK)).fetchall()
    db.executemany(sql["delete_presence"], rows)
    if len(rows) == CHUNK:
        return False
    db.execute(sql["delete_lease"], (lease,))
    return True


def expire(db: sqlite3.Connection, sql: Mapping[str, str], lease: str) -> None:
    """End a lease now: nobody sees what it covers any more."""
    db.execute(sql["delete_lease"], (lease,))


def locate(
    db: sqlite3.Connection, sql: Mapping[str, str], users: Sequence[str], but: str, clock: Callable[[], float]
) -> dict[str, list[RoutingInfo]]:
    """Return where these users are connected under living leases, but for one.

    All in one view, and by the time after it was taken: a lease that is renewed meanwhile would seem to come from a
    clock that is ahead, and its users to be offline.
    """
    found: dict[str, list[RoutingInfo]] = {}
    db.execute("BEGIN")
    try:
        db.execute(sql["any_lease"]).fetchone()
        now = int(clock() * 1000)
        for user in users:
            rows = db.execute(sql["locate"], (user, but, now)).fetchall()
            if rows:
                found[user] = [RoutingInfo(instance, _metadata(meta)) for instance, meta in rows]
    finally:
        roll_back(db)
    return found


def _metadata(text: str | None) -> Mapping[str, str]:
    return MappingProxyType(json.loads(text) if text else {})
