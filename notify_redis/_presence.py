"""Presence in Redis: where each user is connected, under a lease that is renewed for all of a process together.

What is kept: one sorted set of leases (the name of a tracker, and when its lease ends by the server's clock), and for
each user a hash whose fields are `<name>:<number of the location>`. Fields carry the name of the tracker that wrote
them, so a field counts exactly while that name has a lease. Any tracker that reads it afterwards removes it.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Final, Self

from redis.exceptions import ResponseError

from notify import Guarantees, RoutingInfo
from notify.adapters import LeaseKeeper, LeaseRegistration
from notify.errors import UsageError

from ._client import RedisClient
from ._connection import RedisUrl, pack
from ._errors import FAILURES, NoAnswerError, phrase, unavailable
from ._names import RedisNames
from ._scripts import LEASE

logger = logging.getLogger("notify.redis")

ENTRY_TTL: Final = 86_400.0
"""Seconds after which what a dead process has left is gone, even if no process asks for its users before."""

REWRITE: Final = ENTRY_TTL / 3
"""Seconds after which entries are written again, long before they expire."""

USERS_PER_WRITE: Final = 500
_LEASES: Final = 0
"""The partition of the leases."""


class RedisPresence:
    """Knows which users are connected where, across processes. asyncio.

    Args:
        url: as for `RedisStore`.
        prefix: what every key begins with.
        ttl: seconds after which the users of a process that died are offline, from 0.1 to a day.
        timeout: seconds that one call may take.

    Raises:
        UsageError: an argument is unacceptable.
    """

    guarantees: ClassVar = Guarantees(shared=True, leased=True)

    def __init__(self, url: RedisUrl, *, prefix: str = "notify", ttl: float = 30.0, timeout: float = 4.0) -> None:
        if not timeout > 0:
            raise UsageError(f"timeout must be greater than 0 seconds, got {timeout!r}")
        owner = type(self).__name__
        self._client = RedisClient(url, owner)
        self._leases = RedisLeases(self._client, RedisNames(prefix), ttl, timeout)
        self._keeper = LeaseKeeper(
            self._leases, owner=owner, ttl=ttl, batch_size=USERS_PER_WRITE, asyncio_only=True, logger=logger
        )

    async def register(self, user: str, routing: RoutingInfo | None = None) -> LeaseRegistration:
        """See `notify.abc.PresenceTracker.register`."""
        return await self._keeper.register(user, routing)

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`."""
        return await self._keeper.locate(users)

    async def aclose(self) -> None:
        """See `notify.abc.PresenceTracker.aclose`. Takes a second or two at most; an unreleased lease expires."""
        await self._keeper.aclose()
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Return the tracker; it connects when first needed."""
        self._keeper.check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()


class RedisLeases:
    """One tracker's lease, and the fields under it: see `notify.adapters.LeaseBackend`.

    Invariants:
        I1. A tracker whose lease was lost continues under a new name. Others may have removed some of the fields that
            it wrote under the old name by then, and go on doing so.
        I2. `_fields` holds every field that a user's hash may have of this tracker, under whichever name.
        I3. No field is written before its lease is granted: it would look like one of a dead tracker.
    """

    def __init__(self, client: RedisClient, keys: RedisNames, ttl: float, timeout: float) -> None:
        self.name = _new_name()
        self.epoch = 0
        self.lease_key = keys.named(_LEASES, "leases")
        self._client = client
        self._keys = keys
        self._ttl = ttl
        self._timeout = timeout
        self._own_names = {self.name}
        self._numbers: dict[bytes, bytes] = {}
        self._fields: dict[str, frozenset[bytes]] = {}
        self._leased_until = 0.0
        self._rewritten_at = time.monotonic()

    async def write(self, changes: Mapping[str, Sequence[RoutingInfo]]) -> None:
        """See `notify.adapters.LeaseBackend.write`."""
        if not self._fields and time.monotonic() > self._leased_until:
            await self._renew()  # keeps I3
        commands: list[tuple[int, bytes]] = []
        wanted: dict[str, frozenset[bytes]] = {}
        for user, locations in changes.items():
            key, partition = self._keys.presence(user), self._partition(user)
            fields = {self._field(value): value for value in map(_encode, locations)}
            before, wanted[user] = self._fields.get(user, frozenset()), frozenset(fields)
            gone = before - wanted[user]
            if gone:
                commands.append(self._delete(user, gone))
            if fields:
                pairs = [piece for pair in fields.items() for piece in pair]
                commands.append((partition, pack(b"HSET", key, *pairs)))
                commands.append((partition, pack(b"PEXPIRE", key, b"%d" % (ENTRY_TTL * 1000))))
            self._fields[user] = before | wanted[user]  # keeps I2: what fails may still be executed
        await self.ask(commands)
        self._fields |= wanted
        for user in changes:
            if not wanted[user]:
                del self._fields[user]

    async def renew(self, locations: int | None) -> bool:
        """See `notify.adapters.LeaseBackend.renew`. The fields are not counted: that would be a command per user."""
        is_held = await self._renew()
        if not is_held:
            logger.warning("the presence lease was lost; %d users are registered again", len(self._fields))
            old, self.name = self.name, _new_name()  # keeps I1
            self._own_names.add(self.name)
            await self._renew()
            await self.ask([(_LEASES, pack(b"ZREM", self.lease_key, old))])
        epoch = sum(node.reads.epoch for node in self._client.nodes)
        is_same_server = self.epoch in (0, epoch)  # another connection may lead to one that has lost the latest writes
        self.epoch = epoch
        is_fresh = time.monotonic() - self._rewritten_at < REWRITE
        if is_held and is_same_server and is_fresh:
            return True
        self._rewritten_at = time.monotonic()
        return False

    async def fetch(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.adapters.LeaseBackend.fetch`."""
        commands = [(self._partition(user), pack(b"HGETALL", self._keys.presence(user))) for user in users]
        replies = await self.ask([*commands, self._lease(b"")])
        _, *names = replies.pop()
        living = {*names, *self._own_names}
        located: dict[str, list[RoutingInfo]] = {}
        dead: list[tuple[int, bytes]] = []
        for user, pairs in zip(users, replies, strict=True):
            for field, value in zip(pairs[::2], pairs[1::2], strict=True):
                name = field.partition(b":")[0]
                if name not in living:
                    dead.append(self._delete(user, [field]))
                elif name not in self._own_names:
                    located.setdefault(user, []).append(_decode(value))
        if dead:
            self._client.start(self._remove, dead)
        return located

    async def release(self, users: Sequence[str]) -> None:
        """See `notify.adapters.LeaseBackend.release`. The lease goes first: without it, its fields no longer count."""
        await self.ask([(_LEASES, pack(b"ZREM", self.lease_key, self.name))])
        removals = [self._delete(user, fields) for user, fields in self._fields.items() if fields]
        for start in range(0, len(removals), USERS_PER_WRITE):
            await self.ask(removals[start : start + USERS_PER_WRITE])

    async def ask(self, commands: Sequence[tuple[int, bytes]]) -> list[Any]:
        """Send commands, each to the node of its partition, and return their replies.

        Raises:
            BackendUnavailableError: not answered in time, or refused.
        """
        try:
            replies = await self._client.ask(commands, self._timeout) if commands else []
            for reply in replies:
                if isinstance(reply, ResponseError):
                    raise NoAnswerError(f"the server refuses: {phrase(reply)}") from reply
        except FAILURES as error:
            raise unavailable(error, self._client.name) from error
        return replies

    async def _renew(self) -> bool:
        """Renew or grant the lease, and return whether it was held."""
        now = time.monotonic()
        ((was_held, *_),) = await self.ask([self._lease(self.name)])
        self._leased_until = now + self._ttl / 2  # the keeper renews a third later at the latest
        return bool(was_held)

    async def _remove(self, commands: Sequence[tuple[int, bytes]]) -> None:
        """Remove fields of dead trackers; their names never come back."""
        with suppress(*FAILURES):
            await self._client.ask(commands, self._timeout)

    def _delete(self, user: str, fields: Iterable[bytes]) -> tuple[int, bytes]:
        return self._partition(user), pack(b"HDEL", self._keys.presence(user), *fields)

    def _lease(self, name: bytes) -> tuple[int, bytes]:
        ttl = b"%d" % (self._ttl * 1000)
        return _LEASES, pack(b"EVALSHA", LEASE.sha, b"1", self.lease_key, name, ttl)

    def _field(self, value: bytes) -> bytes:
        return self.name + b":" + self._numbers.setdefault(value, b"%d" % len(self._numbers))

    def _partition(self, user: str) -> int:
        return self._keys.of_user(user)[3]


def _new_name() -> bytes:
    return secrets.token_hex(8).encode()


def _encode(routing: RoutingInfo) -> bytes:
    return json.dumps([routing.instance_id, dict(routing.metadata)], ensure_ascii=False).encode()


def _decode(value: bytes) -> RoutingInfo:
    instance_id, metadata = json.loads(value)
    return RoutingInfo(instance_id, MappingProxyType(metadata))
