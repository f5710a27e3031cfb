"""What a PostgreSQL store of deliveries keeps of users: preferences, endpoints, counts for caps; providers' gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal

from notify import UsageError
from notify.dispatch.abc import (
    CapWindow,
    Endpoint,
    endpoint_id,
    endpoint_of,
    instant,
    merge_patch,
    meta_text,
    millis,
)

from ._connection import PostgresDatabase
from ._dispatch_calls import DispatchCalls
from ._names import PostgresNames
from ._pool import Connection


class PostgresUserRecords:
    """Mixin that makes a store keep preferences, endpoints, counts and gates."""

    _db: PostgresDatabase
    _calls: DispatchCalls
    _names: PostgresNames

    # -- PreferenceStore -----------------------------------------------------------------------------------------

    async def preferences(self, users: Sequence[str]) -> Mapping[str, bytes]:
        """See `notify.dispatch.abc.PreferenceStore.preferences`."""
        query = f"SELECT user_id, document FROM {self._names.table('preferences')} WHERE user_id = ANY ($1::text[])"
        return {user: document for user, document in await self._calls.rows(query, [*users])}

    async def patch(self, user: str, patch: bytes, *, by: str, source: str, now: datetime) -> bytes:
        """See `notify.dispatch.abc.PreferenceStore.patch`."""
        merge_patch(b"{}", patch)
        table, consents, moment = self._names.table("preferences"), self._names.table("consents"), millis(now)

        async def act(connection: Connection) -> bytes:
            async with connection.transaction():
                # the row is locked from now on, also one that is new
                document = await connection.fetchval(
                    f"INSERT INTO {table} AS p (user_id, document) VALUES ($1, $2) "
                    "ON CONFLICT (user_id) DO UPDATE SET document = p.document RETURNING document",
                    user,
                    b"{}",
                )
                merged = merge_patch(document, patch)
                await connection.execute(f"UPDATE {table} SET document = $2 WHERE user_id = $1", user, merged)
                await connection.execute(
                    f"INSERT INTO {consents} (user_id, at, author, source, patch) VALUES ($1, $2, $3, $4, $5)",
                    *(user, moment, by, source, patch),
                )
                return merged

        return await self._calls.write(act)

    async def consents(self, user: str) -> Sequence[tuple[datetime, str, str, bytes]]:
        """See `notify.dispatch.abc.PreferenceStore.consents`."""
        table = self._names.table("consents")
        query = f"SELECT at, author, source, patch FROM {table} WHERE user_id = $1 ORDER BY number"
        return [(instant(at), by, source, patch) for at, by, source, patch in await self._calls.rows(query, user)]

    # -- EndpointStore -------------------------------------------------------------------------------------------

    async def register(self, endpoint: Endpoint, now: datetime) -> Endpoint:
        """See `notify.dispatch.abc.EndpointStore.register`."""
        id = endpoint_id(endpoint.channel, endpoint.kind, endpoint.address)
        place = (endpoint.user, endpoint.channel, endpoint.address, endpoint.kind)
        row = (*place, meta_text(endpoint), endpoint.session, id, millis(now))
        return endpoint_of(tuple(await self._calls.write(partial(self._row, "endpoint_register", *row))))

    async def endpoints(self, users: Sequence[str], *, retired: bool = False) -> Mapping[str, Sequence[Endpoint]]:
        """See `notify.dispatch.abc.EndpointStore.endpoints`."""
        found: dict[str, list[Endpoint]] = {}
        for row in await self._calls.rows(self._names.sql("endpoint_list"), [*users], retired):
            found.setdefault(row["user_id"], []).append(endpoint_of(tuple(row)))
        return found

    async def session_endpoints(self, session: str) -> Sequence[Endpoint]:
        """See `notify.dispatch.abc.SessionEndpoints.session_endpoints`."""
        rows = await self._calls.rows(self._names.sql("endpoint_session"), session)
        return [endpoint_of(tuple(row)) for row in rows]

    async def endpoint(self, id: str) -> Endpoint | None:
        """See `notify.dispatch.abc.EndpointStore.endpoint`."""
        rows = await self._calls.rows(self._names.sql("endpoint_get"), id)
        return endpoint_of(tuple(rows[0])) if rows else None

    async def retire(self, id: str, generation: int, reason: str, now: datetime) -> bool:
        """See `notify.dispatch.abc.EndpointStore.retire`."""
        act = partial(self._row, "endpoint_retire", id, generation, reason, millis(now))
        return await self._calls.write(act) is not None

    async def observe(self, id: str, generation: int, now: datetime, *, ok: bool) -> Endpoint | None:
        """See `notify.dispatch.abc.EndpointStore.observe`."""
        row = await self._calls.write(partial(self._row, "endpoint_observe", id, generation, millis(now), ok))
        return None if row is None else endpoint_of(tuple(row))

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
        self._db.check()
        if not windows:
            raise UsageError("admit() needs at least one window: without a cap there is nothing to ask")
        buckets, limits = [each.bucket for each in windows], [each.limit for each in windows]
        ends = [millis(each.expires_at) for each in windows]
        arguments = (notification, user, buckets, limits, ends, millis(now), mode == "record")
        return int(await self._calls.write(partial(self._call, "admit_notification", *arguments)))

    async def refund(self, notification: str, user: str, windows: Sequence[CapWindow]) -> None:
        """See `notify.dispatch.abc.CapStore.refund`."""
        buckets = [each.bucket for each in windows]
        await self._calls.write(partial(self._call, "refund_notification", notification, user, buckets))

    async def close_gate(self, gate: str, until: datetime) -> None:
        """See `notify.dispatch.abc.GateStore.close_gate`."""
        await self._calls.write(partial(self._row, "gate_close", gate, millis(until)))

    async def gates(self, now: datetime) -> Mapping[str, datetime]:
        """See `notify.dispatch.abc.GateStore.gates`."""
        query = f"SELECT gate, until FROM {self._names.table('gates')} WHERE until > $1"
        return {gate: instant(until) for gate, until in await self._calls.rows(query, millis(now))}

    # -- inside --------------------------------------------------------------------------------------------------

    async def _row(self, operation: str, *arguments_and_connection: Any) -> Any:
        """Run a statement and return its first row; the connection comes last."""
        *arguments, connection = arguments_and_connection
        return await connection.fetchrow(self._names.sql(operation), *arguments)

    async def _value(self, operation: str, *arguments_and_connection: Any) -> Any:
        """Run a statement and return its first value; the connection comes last."""
        *arguments, connection = arguments_and_connection
        return await connection.fetchval(self._names.sql(operation), *arguments)

    async def _call(self, function: str, *arguments_and_connection: Any) -> Any:
        """Call a function of the database and return its value; the connection comes last."""
        *arguments, connection = arguments_and_connection
        names = ", ".join(f"${number}" for number in range(1, len(arguments) + 1))
        return await connection.fetchval(f"SELECT {self._names.function(function)}({names})", *arguments)
