"""Presence in Redis: where each user is connected, under a lease that one task renews for all of a process."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Final, Self

import anyio
from redis.exceptions import ResponseError

from notify import Guarantees, RoutingInfo
from notify.adapters import OutageLog, check_user
from notify.errors import BackendUnavailableError, ClosedError, UsageError

from ._client import RedisClient
from ._connection import RedisUrl, pack
from ._errors import FAILURES, NoAnswerError, unavailable
from ._names import RedisNames
from ._scripts import LEASE

logger = logging.getLogger("notify.redis")

ENTRY_TTL: Final = 86_400.0
"""Seconds after which what a dead process left behind is gone, if nobody asked for its users before."""

REWRITE: Final = ENTRY_TTL / 3

USERS_PER_WRITE: Final = 500
MIN_TTL: Final = 0.1
_LEASES: Final = 0
_NOWHERE: Final = RoutingInfo()


class RedisPresence:
    """Knows who is connected where, across processes. asyncio.

    Invariants:
        I1. `_places` is what is registered here, counted; Redis is made to agree with it, user by user, by one task.
        I2. A tracker whose lease was lost goes on under a new name: nobody can mistake its entries for the dead ones.

    Args:
        url: as for `RedisStore`.
        prefix: what every key begins with.
        ttl: seconds after which the users of a process that died are offline.
        timeout: seconds that one call may take.

    Raises:
        UsageError: an argument is unacceptable; `ttl` is at least 0.1 seconds.
    """

    guarantees: ClassVar = Guarantees(shared=True, leased=True)

    def __init__(self, url: RedisUrl, *, prefix: str = "notify", ttl: float = 30.0, timeout: float = 4.0) -> None:
        if not ttl >= MIN_TTL:
            raise UsageError(f"ttl is at least {MIN_TTL} seconds, not {ttl!r}")
        if not timeout > 0:
            raise UsageError(f"timeout must be greater than 0, not {timeout!r}")
        self._keys = RedisNames(prefix)
        self._client = RedisClient(url, type(self).__name__)
        self._ttl = ttl
        self._timeout = timeout
        self._lease_key = self._keys.named(_LEASES, "leases")
        self._name = _new_name()
        self._own = {self._name}
        self._leased = False
        self._renewing = False
        self._epoch = 0
        self._places: dict[str, Counter[bytes]] = {}
        self._numbers: dict[bytes, bytes] = {}
        self._written: dict[str, tuple[float, frozenset[bytes]]] = {}
        self._dirty: dict[str, None] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._flushing = False
        self._closing = False
        self._writing = OutageLog(logger, "presence cannot be written", "presence is written again")
        self._leasing = OutageLog(logger, "the presence lease cannot be renewed", "the presence lease is renewed again")

    # -- PresenceTracker -----------------------------------------------------------------------------------------

    async def register(self, user: str, routing: RoutingInfo | None = None) -> _Registration:
        """See `notify.abc.PresenceTracker.register`."""
        self._check_open()
        check_user(user)
        place = _encode(routing or _NOWHERE)
        self._numbers.setdefault(place, b"%d" % len(self._numbers))
        places = self._places.setdefault(user, Counter())
        places[place] += 1
        registration = _Registration(self, user, place)
        try:
            if places[place] == 1 or user in self._dirty or not self._is_written(user):
                await self._write(user)
        except BaseException:
            registration.release()
            raise
        return registration

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        """See `notify.abc.PresenceTracker.locate`."""
        self._check_open()
        if not users:
            return {}
        commands = [(self._partition(user), pack(b"HGETALL", self._keys.presence(user))) for user in users]
        try:
            replies = await self._ask([*commands, self._lease(b"")])
        except FAILURES as error:
            raise unavailable(error, self._client.name) from error
        _, *live = replies.pop()
        alive = set(live)
        located: dict[str, list[RoutingInfo]] = {}
        dead: list[tuple[int, bytes]] = []
        for user, fields in zip(users, replies, strict=True):
            places = dict.fromkeys(self._places.get(user, ()))
            for field, place in zip(fields[::2], fields[1::2], strict=True):
                name = field.partition(b":")[0]
                if name in self._own:
                    continue
                if name in alive:
                    places[place] = None
                else:
                    dead.append((self._partition(user), pack(b"HDEL", self._keys.presence(user), field)))
            if places:
                routings = [_decode(place) for place in places]
                located[user] = list({routing.instance_id: routing for routing in routings}.values())
        if dead:
            self._client.start(self._bury, dead)
        return located

    async def aclose(self) -> None:
        """See `notify.abc.PresenceTracker.aclose`; gives up telling others after a second, the lease ends by itself."""
        if self._closing:
            return
        self._closing = True
        self._places.clear()
        with anyio.move_on_after(1.0, shield=True):
            if self._leased:
                with suppress(*FAILURES, ClosedError, BackendUnavailableError):
                    await self._ask([(_LEASES, pack(b"ZREM", self._lease_key, self._name))])
                    self._leased = False
                    *others, last = [*self._written, ""]
                    self._mark(others)
                    await self._write(last)  # after all the others
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Return the tracker; it connects at first need."""
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    def forget(self, user: str, place: bytes) -> None:
        """Count one registration less. Never waits: called in finalisers too."""
        places = self._places.get(user)
        if places is None:
            return
        places[place] -= 1
        if places[place] > 0:
            return
        del places[place]
        if not places:
            del self._places[user]
        with suppress(ClosedError, RuntimeError):  # the loop may have ended
            self._mark([user])

    async def forgotten(self, user: str) -> None:
        """Wait until others see what was forgotten; if they cannot now, it goes on in the background."""
        if not self._closing and (user in self._dirty or user in self._waiters or self._flushing):
            with suppress(BackendUnavailableError, ClosedError):
                await self._write(user)

    # -- writing -------------------------------------------------------------------------------------------------

    async def _write(self, user: str) -> None:
        """Wait until Redis agrees on this user, or has failed to."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(user, []).append(waiter)
        self._mark([user])
        await waiter

    def _mark(self, users: Iterable[str]) -> None:
        self._dirty.update(dict.fromkeys(users))
        if self._dirty and not self._flushing:
            self._flushing = True
            try:
                self._client.start(self._flush)
            except BaseException:  # pragma: no cover - closed, or the loop has ended, since the caller has looked
                self._flushing = False
                raise

    async def _flush(self) -> None:
        """Make Redis agree with what is registered here, until it does: keeps I1."""
        delay = 0.05
        try:
            while self._dirty:
                users = list(self._dirty)[:USERS_PER_WRITE]
                for user in users:
                    del self._dirty[user]
                waiters = [waiter for user in users for waiter in self._waiters.pop(user, ())]
                try:
                    await self._agree(users)
                except FAILURES as error:
                    self._dirty.update(dict.fromkeys(users))
                    _tell(waiters, unavailable(error, self._client.name))
                    self._writing.failed(error)
                    await anyio.sleep(delay)
                    delay = min(delay * 2, 1.0)
                except BaseException:
                    _tell(waiters, ClosedError(f"{self._client.name} is closed"))
                    raise
                else:
                    delay = 0.05
                    self._writing.recovered()
                    _tell(waiters, None)
        finally:
            self._flushing = False
            rest, self._waiters = self._waiters, {}  # only where this task was cancelled
            _tell([each for some in rest.values() for each in some], ClosedError(f"{self._client.name} is closed"))

    async def _agree(self, users: Sequence[str]) -> None:
        if not self._leased and not self._closing:
            await self._renew()
        now = time.monotonic()
        commands: list[tuple[int, bytes]] = []
        wanted: dict[str, frozenset[bytes]] = {}
        for user in users:
            key, partition = self._keys.presence(user), self._partition(user)
            fields = {self._name + b":" + self._numbers[place]: place for place in self._places.get(user, ())}
            wanted[user] = frozenset(fields)
            gone = self._written.get(user, (0.0, frozenset[bytes]()))[1] - wanted[user]
            if gone:
                commands.append((partition, pack(b"HDEL", key, *gone)))
            if fields:
                pairs = [piece for pair in fields.items() for piece in pair]
                commands.append((partition, pack(b"HSET", key, *pairs)))
                commands.append((partition, pack(b"PEXPIRE", key, b"%d" % (ENTRY_TTL * 1000))))
        await self._ask(commands)
        for user, fields_now in wanted.items():
            if fields_now:
                self._written[user] = (now, fields_now)
            else:
                self._written.pop(user, None)

    def _is_written(self, user: str) -> bool:
        written = self._written.get(user)
        return written is not None and len(written[1]) >= len(self._places[user])

    async def _bury(self, commands: Sequence[tuple[int, bytes]]) -> None:
        """Remove entries of the dead; their names never come back."""
        with suppress(*FAILURES):
            await self._ask(commands)

    # -- the lease -----------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Renew the lease; one that was lost is begun anew, under another name: keeps I2."""
        (reply,) = await self._ask([self._lease(self._name)])
        had = bool(reply[0])
        if self._leased and not had:
            logger.warning("the presence lease was lost; %d users are registered again", len(self._places))
            old, self._name = self._name, _new_name()
            self._own.add(self._name)
            await self._ask([self._lease(self._name), (_LEASES, pack(b"ZREM", self._lease_key, old))])
            self._mark(self._places)
        self._leased = True
        if not self._renewing:
            self._renewing = True
            self._client.start(self._renew_forever)

    async def _renew_forever(self) -> None:
        while not self._closing:  # pragma: no branch - it is cancelled
            await anyio.sleep(self._ttl / 3)
            try:
                await self._renew()
            except FAILURES as error:
                self._leasing.failed(error)
                continue
            except ClosedError:  # pragma: no cover - closed in the midst of it
                return
            self._leasing.recovered()
            epoch = sum(node.reads.epoch for node in self._client.nodes)
            if self._epoch not in (0, epoch):  # another connection, perhaps to a server that has lost the latest
                self._mark(self._places)  # pragma: no cover - CPython 3.11 does not trace what follows a throw
            self._epoch = epoch
            old = time.monotonic() - REWRITE
            self._mark([user for user, (at, _) in self._written.items() if at < old])

    def _lease(self, name: bytes) -> tuple[int, bytes]:
        ttl = b"%d" % (self._ttl * 1000)
        return _LEASES, pack(b"EVALSHA", LEASE.sha, b"1", self._lease_key, name, ttl)

    # -- asking --------------------------------------------------------------------------------------------------

    async def _ask(self, commands: Sequence[tuple[int, bytes]]) -> list[Any]:
        if not commands:
            return []
        replies = await self._client.ask(commands, self._timeout)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise NoAnswerError(f"the server refuses: {reply}") from reply
        return replies

    def _partition(self, user: str) -> int:
        return self._keys.of_user(user)[3]

    def _check_open(self) -> None:
        if self._closing:
            raise ClosedError(f"{self._client.name} is closed")
        self._client.check_open()


class _Registration:
    """One connection of one user."""

    __slots__ = ("_done", "_place", "_tracker", "_user")

    def __init__(self, tracker: RedisPresence, user: str, place: bytes) -> None:
        self._tracker = tracker
        self._user = user
        self._place = place
        self._done = False

    def release(self) -> None:
        """End the registration. Idempotent."""
        if not self._done:
            self._done = True
            self._tracker.forget(self._user, self._place)

    async def aclose(self) -> None:
        """End the registration and wait until others see it. Idempotent."""
        self.release()
        await self._tracker.forgotten(self._user)


def _new_name() -> bytes:
    return secrets.token_hex(8).encode()


def _encode(routing: RoutingInfo) -> bytes:
    return json.dumps([routing.instance_id, dict(routing.metadata)], ensure_ascii=False).encode()


def _decode(place: bytes) -> RoutingInfo:
    instance_id, metadata = json.loads(place)
    return RoutingInfo(instance_id, MappingProxyType(metadata))


def _tell(waiters: Iterable[asyncio.Future[None]], error: Exception | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
