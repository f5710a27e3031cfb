"""What a memory store keeps of users: preferences, endpoints, counts for caps; and the gates of providers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from notify import UsageError
from notify.dispatch.abc import CapWindow, Endpoint, cap_prefix, endpoint_id, exact, merge_patch, millis


class MemoryUserRecords(ABC):
    """Mixin that makes a store keep preferences, endpoints, counts and gates."""

    _check: Callable[[], None]

    def __init__(self) -> None:
        """Begin without any."""
        self._preferences: dict[str, bytes] = {}
        self._consents: dict[str, list[tuple[datetime, str, str, bytes]]] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._counts: dict[str, dict[str, datetime]] = {}
        self._verdicts: dict[tuple[str, str], tuple[int, datetime]] = {}
        self._gates: dict[str, datetime] = {}

    @abstractmethod
    def _now(self) -> int: ...

    # -- PreferenceStore -----------------------------------------------------------------------------------------

    async def preferences(self, users: Sequence[str]) -> Mapping[str, bytes]:
        """See `notify.dispatch.abc.PreferenceStore.preferences`."""
        self._check()
        return {user: self._preferences[user] for user in users if user in self._preferences}

    async def patch(self, user: str, patch: bytes, *, by: str, source: str, now: datetime) -> bytes:
        """See `notify.dispatch.abc.PreferenceStore.patch`."""
        self._check()
        merged = merge_patch(self._preferences.get(user, b"{}"), patch)
        self._preferences[user] = merged
        self._consents.setdefault(user, []).append((exact(now), by, source, patch))
        return merged

    async def consents(self, user: str) -> Sequence[tuple[datetime, str, str, bytes]]:
        """See `notify.dispatch.abc.PreferenceStore.consents`."""
        self._check()
        return [*self._consents.get(user, ())]

    # -- EndpointStore -------------------------------------------------------------------------------------------

    async def register(self, endpoint: Endpoint, now: datetime) -> Endpoint:
        """See `notify.dispatch.abc.EndpointStore.register`."""
        self._check()
        id = endpoint_id(endpoint.channel, endpoint.kind, endpoint.address)
        before = self._endpoints.get(id)
        stored = replace(
            endpoint,
            id=id,
            meta=dict(endpoint.meta),
            generation=1 if before is None else before.generation + 1,
            created_at=exact(now) if before is None else before.created_at,
            last_seen_at=exact(now),
            last_success_at=None if before is None else before.last_success_at,
            failures=0,
            failing_since=None,
            retired_at=None,
            reason="",
        )
        self._endpoints[id] = stored
        return stored

    async def endpoints(self, users: Sequence[str], *, retired: bool = False) -> Mapping[str, Sequence[Endpoint]]:
        """See `notify.dispatch.abc.EndpointStore.endpoints`."""
        self._check()
        found: dict[str, list[Endpoint]] = {}
        for each in sorted(self._endpoints.values(), key=lambda each: (each.channel, each.id)):
            if each.user in users and (retired or each.retired_at is None):
                found.setdefault(each.user, []).append(each)
        return found

    async def session_endpoints(self, session: str) -> Sequence[Endpoint]:
        """See `notify.dispatch.abc.SessionEndpoints.session_endpoints`."""
        self._check()
        found = [each for each in self._endpoints.values() if each.session == session and not each.user]
        return sorted((each for each in found if each.retired_at is None), key=lambda each: (each.channel, each.id))

    async def endpoint(self, id: str) -> Endpoint | None:
        """See `notify.dispatch.abc.EndpointStore.endpoint`."""
        self._check()
        return self._endpoints.get(id)

    async def retire(self, id: str, generation: int, reason: str, now: datetime) -> bool:
        """See `notify.dispatch.abc.EndpointStore.retire`."""
        self._check()
        each = self._endpoints.get(id)
        if each is None or each.retired_at is not None or generation not in (0, each.generation):
            return False
        self._endpoints[id] = replace(each, retired_at=exact(now), reason=reason)
        return True

    async def observe(self, id: str, generation: int, now: datetime, *, ok: bool) -> Endpoint | None:
        """See `notify.dispatch.abc.EndpointStore.observe`."""
        self._check()
        each = self._endpoints.get(id)
        if each is None or each.generation != generation:
            return None
        if ok:
            seen = replace(each, failures=0, failing_since=None, last_success_at=exact(now))
        else:
            seen = replace(each, failures=each.failures + 1, failing_since=each.failing_since or exact(now))
        self._endpoints[id] = seen
        return seen

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
        self._check()
        if not windows:
            raise UsageError("admit() needs at least one window: without a cap there is nothing to ask")
        kept, _ = self._verdicts.get((notification, user), (None, None))
        if kept == -1 or (kept is not None and mode == "check"):
            return kept
        full = (number for number, each in enumerate(windows) if self._count(each, now) >= each.limit)
        verdict = next(full, -1) if mode == "check" else -1
        self._verdicts[notification, user] = verdict, max(exact(each.expires_at) for each in windows)
        if verdict == -1:
            for each in windows:
                self._counts.setdefault(each.bucket, {})[notification] = exact(each.expires_at)
        return verdict

    async def refund(self, notification: str, user: str, windows: Sequence[CapWindow]) -> None:
        """See `notify.dispatch.abc.CapStore.refund`."""
        self._check()
        verdict, _ = self._verdicts.pop((notification, user), (None, None))
        for each in windows:
            if verdict == -1:
                self._counts.get(each.bucket, {}).pop(notification, None)

    async def close_gate(self, gate: str, until: datetime) -> None:
        """See `notify.dispatch.abc.GateStore.close_gate`."""
        self._check()
        self._gates[gate] = max(exact(until), self._gates.get(gate, exact(until)))

    async def gates(self, now: datetime) -> Mapping[str, datetime]:
        """See `notify.dispatch.abc.GateStore.gates`."""
        self._check()
        return {gate: until for gate, until in self._gates.items() if until > now}

    def _count(self, window: CapWindow, now: datetime) -> int:
        """Return how many notifications are in the bucket of a window."""
        return sum(expires_at > now for expires_at in self._counts.get(window.bucket, {}).values())

    def _forget_user_records(self, user: str) -> None:
        """Erase what is kept of a user."""
        self._preferences.pop(user, None)
        self._consents.pop(user, None)
        self._endpoints = {id: each for id, each in self._endpoints.items() if each.user != user}
        prefix = cap_prefix(user)
        self._counts = {bucket: each for bucket, each in self._counts.items() if not bucket.startswith(prefix)}
        self._verdicts = {key: each for key, each in self._verdicts.items() if key[1] != user}

    def _purge_user_records(self, before: datetime) -> None:
        """Remove what `DispatchRecords.purge` says: endpoints and gates that were over before, expired counts."""
        self._endpoints = {id: each for id, each in self._endpoints.items() if not _is_over(each, before)}
        self._gates = {gate: until for gate, until in self._gates.items() if until >= before}
        clock = self._now()
        for bucket, counted in list(self._counts.items()):
            self._counts[bucket] = {id: each for id, each in counted.items() if millis(each) > clock}
            if not self._counts[bucket]:
                del self._counts[bucket]
        self._verdicts = {key: each for key, each in self._verdicts.items() if millis(each[1]) > clock}


def _is_over(endpoint: Endpoint, before: datetime) -> bool:
    """Return whether an endpoint was retired before that time, or belongs only to a session last seen before it."""
    if endpoint.retired_at is not None:
        return endpoint.retired_at < before
    is_of_session = bool(endpoint.session) and not endpoint.user
    return is_of_session and endpoint.last_seen_at is not None and endpoint.last_seen_at < before
