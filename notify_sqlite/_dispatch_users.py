"""What a SQLite store of deliveries keeps of users: preferences, endpoints, counts for caps; and providers' gates."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Literal, TypeVar

import anyio.lowlevel

from notify import UsageError
from notify.dispatch.abc import (
    CapWindow,
    Endpoint,
    cap_prefix,
    endpoint_id,
    endpoint_of,
    instant,
    merge_patch,
    meta_text,
    millis,
)

from ._connection import SQLiteDatabase
from ._worker import Job

T = TypeVar("T")


class SQLiteUserRecords:
    """Mixin that makes a store keep preferences, endpoints, counts and gates."""

    _database: SQLiteDatabase
    _sql: Mapping[str, str]

    # -- PreferenceStore -----------------------------------------------------------------------------------------

    async def preferences(self, users: Sequence[str]) -> Mapping[str, bytes]:
        """See `notify.dispatch.abc.PreferenceStore.preferences`."""
        names = json.dumps([*users])
        return await self._database.read(
            lambda db: dict(db.execute(self._sql["get_preferences"], (names,)).fetchall()), {}
        )

    async def patch(self, user: str, patch: bytes, *, by: str, source: str, now: datetime) -> bytes:
        """See `notify.dispatch.abc.PreferenceStore.patch`."""

        def job(db: sqlite3.Connection) -> bytes:
            kept = dict(db.execute(self._sql["get_preferences"], (json.dumps([user]),)).fetchall())
            merged = merge_patch(kept.get(user, b"{}"), patch)
            db.execute(self._sql["set_preferences"], (user, merged))
            db.execute(self._sql["add_consent"], (user, millis(now), by, source, patch))
            return merged

        return await self._transact(job)

    async def consents(self, user: str) -> Sequence[tuple[datetime, str, str, bytes]]:
        """See `notify.dispatch.abc.PreferenceStore.consents`."""

        def job(db: sqlite3.Connection) -> list[tuple[datetime, str, str, bytes]]:
            return [(instant(at), *rest) for at, *rest in db.execute(self._sql["get_consents"], (user,))]

        return await self._database.read(job, [])

    # -- EndpointStore -------------------------------------------------------------------------------------------

    async def register(self, endpoint: Endpoint, now: datetime) -> Endpoint:
        """See `notify.dispatch.abc.EndpointStore.register`."""
        id, moment = endpoint_id(endpoint.channel, endpoint.kind, endpoint.address), millis(now)
        place = (endpoint.user, endpoint.channel, endpoint.address, endpoint.kind)
        row = (*place, meta_text(endpoint), endpoint.session, id, moment, moment)

        def job(db: sqlite3.Connection) -> Endpoint:
            db.execute(self._sql["set_endpoint"], row)
            return endpoint_of(db.execute(self._sql["get_endpoint"], (id,)).fetchone())

        return await self._transact(job)

    async def endpoints(self, users: Sequence[str], *, retired: bool = False) -> Mapping[str, Sequence[Endpoint]]:
        """See `notify.dispatch.abc.EndpointStore.endpoints`."""
        names = json.dumps([*users])

        def job(db: sqlite3.Connection) -> dict[str, list[Endpoint]]:
            found: dict[str, list[Endpoint]] = {}
            for row in db.execute(self._sql["endpoints_of"], (names, retired)):
                found.setdefault(row[0], []).append(endpoint_of(row))
            return found

        return await self._database.read(job, {})

    async def session_endpoints(self, session: str) -> Sequence[Endpoint]:
        """See `notify.dispatch.abc.SessionEndpoints.session_endpoints`."""

        def job(db: sqlite3.Connection) -> list[Endpoint]:
            return [endpoint_of(row) for row in db.execute(self._sql["endpoints_of_session"], (session,))]

        return await self._database.read(job, [])

    async def endpoint(self, id: str) -> Endpoint | None:
        """See `notify.dispatch.abc.EndpointStore.endpoint`."""
        return await self._database.read(lambda db: self._endpoint(db, id), None)

    async def retire(self, id: str, generation: int, reason: str, now: datetime) -> bool:
        """See `notify.dispatch.abc.EndpointStore.retire`."""
        row = (millis(now), reason, id, generation)
        return await self._transact(lambda db: db.execute(self._sql["retire"], row).rowcount == 1)

    async def observe(self, id: str, generation: int, now: datetime, *, ok: bool) -> Endpoint | None:
        """See `notify.dispatch.abc.EndpointStore.observe`."""
        name, row = "note_success" if ok else "note_refusal", (millis(now), id, generation)

        def job(db: sqlite3.Connection) -> Endpoint | None:
            return self._endpoint(db, id) if db.execute(self._sql[name], row).rowcount else None

        return await self._transact(job)

    def _endpoint(self, db: sqlite3.Connection, id: str) -> Endpoint | None:
        row = db.execute(self._sql["get_endpoint"], (id,)).fetchone()
        return None if row is None else endpoint_of(row)

    # -- CapStore, GateStore -------------------------------------------------------------------------------------

    async def admit(
        self,
        notification: str,
        user: str,
        windows: Sequence[CapWindow],
        now: datetime,
        *,
        mode: Literal["check", "record"] = "check",
    ) -> int:
        """See `notify.dispatch.abc.CapStore.admit`."""
        self._database.check()
        if not windows:
            raise UsageError("admit() needs at least one window: without a cap there is nothing to ask")
        moment, ends = millis(now), [millis(each.expires_at) for each in windows]

        def job(db: sqlite3.Connection) -> int:
            kept = self._verdict(db, notification, user)
            if kept == -1 or (kept is not None and mode == "check"):
                return kept
            full = (number for number, each in enumerate(windows) if self._count(db, each, moment) >= each.limit)
            verdict = next(full, -1) if mode == "check" else -1
            db.execute(self._sql["set_verdict"], (notification, user, verdict, max(ends)))
            if verdict == -1:
                rows = [(each.bucket, notification, end) for each, end in zip(windows, ends, strict=True)]
                db.executemany(self._sql["count_up"], rows)
            return verdict

        return await self._transact(job)

    async def refund(self, notification: str, user: str, windows: Sequence[CapWindow]) -> None:
        """See `notify.dispatch.abc.CapStore.refund`."""

        def job(db: sqlite3.Connection) -> None:
            verdict = self._verdict(db, notification, user)
            db.execute(self._sql["remove_verdict"], (notification, user))
            if verdict == -1:
                db.executemany(self._sql["uncount"], [(each.bucket, notification) for each in windows])

        await self._transact(job)

    async def close_gate(self, gate: str, until: datetime) -> None:
        """See `notify.dispatch.abc.GateStore.close_gate`."""
        row = (gate, millis(until))
        await self._transact(lambda db: db.execute(self._sql["close_gate"], row).rowcount)

    async def gates(self, now: datetime) -> Mapping[str, datetime]:
        """See `notify.dispatch.abc.GateStore.gates`."""
        moment = millis(now)

        def job(db: sqlite3.Connection) -> dict[str, datetime]:
            return {gate: instant(until) for gate, until in db.execute(self._sql["closed_gates"], (moment,))}

        return await self._database.read(job, {})

    def _verdict(self, db: sqlite3.Connection, notification: str, user: str) -> int | None:
        row = db.execute(self._sql["get_verdict"], (notification, user)).fetchone()
        return None if row is None else row[0]

    def _count(self, db: sqlite3.Connection, window: CapWindow, now: int) -> int:
        (count,) = db.execute(self._sql["get_count"], (window.bucket, now)).fetchone()
        return int(count)

    # -- inside --------------------------------------------------------------------------------------------------

    async def _transact(self, job: Job[T]) -> T:
        """Run a job inside one transaction; cancelling abandons only the wait for it."""
        self._database.check()
        return await self._database.jobs.run(self._database.write, job)

    def _forget_user_records(self, db: sqlite3.Connection, user: str) -> None:
        """Erase what is kept of a user, digests included."""
        for name in ("items", "digests", "preferences", "consents", "endpoints", "verdicts"):
            db.execute(self._sql[f"forget_{name}"], (user,))
        db.execute(self._sql["forget_counts"], [cap_prefix(user)] * 2)

    async def _purge_leftovers(self, before: int, clock: int, limit: int) -> None:
        """Remove keys, endpoints and gates that were over before, and counts that have expired by the store's clock."""
        for name, moment in (
            ("remove_requests", before),
            ("remove_endpoints", before),
            ("remove_session_endpoints", before),
            ("remove_gates", before),
            ("remove_counts", clock),
            ("remove_verdicts", clock),
        ):
            job: Job[int] = partial(_remove, statement=self._sql[name], row=(moment, limit))
            while await self._transact(job) == limit:
                await anyio.lowlevel.checkpoint()


def _remove(db: sqlite3.Connection, statement: str, row: tuple[int, int]) -> int:
    return db.execute(statement, row).rowcount
