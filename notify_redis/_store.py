"""A store in Redis streams: one for each user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from redis.exceptions import ResponseError

from notify import Event, Guarantees, Page, ids
from notify.adapters import Retention, check_user
from notify.errors import CodecError, NotifyError, UsageError

from ._client import RedisClient
from ._connection import RedisUrl, pack
from ._errors import FAILURES, unavailable
from ._names import PARTITIONS, RedisNames
from ._pushes import PushCommands
from ._record import decode
from ._save import RedisSaver
from ._scripts import READ

PAGES_PER_CALL: Final = 64
"""Logs read by one call of the script."""

TRIMS_PER_CALL: Final = 256
_LAST: Final = (1 << 64) - 1


class RedisStore:
    """Keeps events in Redis streams. asyncio; Redis 6.2 or later: a single server, with sentinels, or a cluster of 7.

    Args:
        url: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host,host/service/db`, `redis+cluster://host,host`;
            or a client or pool of `redis.asyncio`, which is only read for its address and login and never closed.
        prefix: what every key and channel begins with.
        max_len: events kept for each user; up to about 100 more stay, because Redis trims whole blocks.
        exact: keep no more than `max_len`, at the cost of slower pushes.
        max_age: seconds that events are kept; None: until `max_len` or `trim` removes them.
        key_window: seconds within which a repeated idempotency key returns the first event.
        min_replicas: replicas that must confirm a push, or it raises PushUncertainError.
        inline: bytes of an event up to which its announcement carries it; readers fetch larger ones.
        timeout: seconds until a push or read without an answer has failed; less than the notifier's own.

    Raises:
        UsageError: an argument is unacceptable.
    """

    guarantees: ClassVar = Guarantees(durable=True, shared=True)

    def __init__(
        self,
        url: RedisUrl,
        *,
        prefix: str = "notify",
        max_len: int = 1000,
        exact: bool = False,
        max_age: float | None = 7 * 86_400.0,
        key_window: float = 86_400.0,
        min_replicas: int = 0,
        inline: int = 4096,
        timeout: float = 4.0,
    ) -> None:
        retention = Retention(max_len, max_age, key_window)
        if not timeout > 0:
            raise UsageError(f"timeout must be greater than 0, not {timeout!r}")
        if min_replicas < 0 or inline < 0:
            raise UsageError("min_replicas and inline cannot be negative")
        self._keys = RedisNames(prefix)
        self._client = RedisClient(url, type(self).__name__)
        self._age = 0 if max_age is None else max(1, int(max_age * 1000))
        self._timeout = timeout
        self._inline = inline
        commands = PushCommands(self._keys, retention, exact=exact, inline=inline, publish=self._client.publish)
        self._saver = RedisSaver(self._client, self._keys, commands, min_replicas=min_replicas, timeout=timeout)

    # -- Store ---------------------------------------------------------------------------------------------------

    async def save(self, event: Event) -> Event:
        """See `notify.abc.Store.save`; concurrent saves share round trips, and cancelling one undoes nothing."""
        (outcome,) = await self._saver.save([event])
        if isinstance(outcome, NotifyError):
            raise outcome
        return outcome

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`.

        The script that reads entries and head in one piece costs the server five times as much for each entry as a
        plain read. So both are asked: entries that follow speak for themselves, and where there are none, the head that
        was seen at another moment counts only if nothing has happened. Whatever is left is for the script.
        """
        self._client.check_open()
        check_user(user)
        start = _after(after)
        if start:
            stream, _, _, partition = self._keys.of_user(user)
            head = self._read_command([user], {user: after}, 0, quiet=False)
            entries = pack(b"XRANGE", stream, start, b"+", b"COUNT", b"%d" % limit)
            (now, page), rows = await self._ask([(partition, head), (partition, entries)])
            if rows and (not self._age or ids.parse(rows[0][0].decode())[0] >= now - self._age):
                return self._page(user, after, "", False, rows)
            if not rows and page[1].decode() == after:
                return Page((), None, after)
        return (await self._read({user: after}, limit, quiet=False))[user]

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        return (await self._read({user: ids.ZERO}, 0, quiet=False))[user].position

    async def trim(self, before: datetime | str) -> int:
        """See `notify.abc.Store.trim`; goes by the index of users that pushes keep, never over the keyspace."""
        self._client.check_open()
        if isinstance(before, datetime):
            before = f"{ids.parse(ids.before(before))[0] + 1}-0"
        first = b"%d-%d" % ids.parse(before)
        cursors = {partition: b"0" for partition in range(PARTITIONS)}
        count = 0
        while cursors:
            scans = [
                (part, pack(b"ZSCAN", self._keys.indexes[part], at, b"COUNT", b"500")) for part, at in cursors.items()
            ]
            found: list[tuple[int, bytes]] = []
            for (part, _), (cursor, members) in zip(scans, await self._ask(scans), strict=True):
                found += [(part, stream) for stream in members[::2]]
                if cursor == b"0":
                    del cursors[part]
                else:
                    cursors[part] = cursor
            for start in range(0, len(found), TRIMS_PER_CALL):
                some = found[start : start + TRIMS_PER_CALL]
                trims = [(part, pack(b"XTRIM", stream, b"MINID", b"=", first)) for part, stream in some]
                count += sum(await self._ask(trims))
        return count

    async def aclose(self) -> None:
        """See `notify.abc.Store.aclose`."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Connect, so that a wrong address shows here; the first use would do it too."""
        await self._ask([(0, pack(b"PING"))])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    # -- SaveMany, SaveSoon, ReadMany ----------------------------------------------------------------------------

    async def save_many(self, events: Sequence[Event]) -> Sequence[Event | NotifyError]:
        """See `notify.abc.SaveMany.save_many`."""
        return await self._saver.save(events)

    def save_soon(self, event: Event, done: Callable[[Event | NotifyError], None]) -> None:
        """See `notify.abc.SaveSoon.save_soon`."""
        self._saver.save_soon(event, done)

    async def read_many(self, after: Mapping[str, str], limit: int) -> Mapping[str, Page]:
        """See `notify.abc.ReadMany.read_many`."""
        pages = await self._read(after, limit, quiet=True)
        return {user: page for user, page in pages.items() if page.events or page.gap}

    # -- reading -------------------------------------------------------------------------------------------------

    async def _read(self, after: Mapping[str, str], limit: int, *, quiet: bool) -> dict[str, Page]:
        self._client.check_open()
        for user in after:
            check_user(user)
        try:
            await self._client.locate()
        except FAILURES as error:
            raise unavailable(error, self._client.name) from error
        chunks = self._client.chunks(after, lambda user: self._keys.of_user(user)[3], PAGES_PER_CALL)
        commands = [
            (self._keys.of_user(users[0])[3], self._read_command(users, after, limit, quiet=quiet))
            for _, users in chunks
        ]
        pages: dict[str, Page] = {}
        for (_, users), reply in zip(chunks, await self._ask(commands), strict=True):
            for number, head, is_old, entries in reply[1:]:
                user = users[number - 1]
                pages[user] = self._page(user, after[user], head.decode(), bool(is_old), entries)
        return pages

    def _read_command(self, users: Sequence[str], after: Mapping[str, str], limit: int, *, quiet: bool) -> bytes:
        names = [self._keys.stream(user) for user in users]
        rest = [b"%d" % limit, b"%d" % self._age, b"1" if quiet else b""]
        for user in users:
            rest += [after[user].encode(), _after(after[user])]
        return pack(b"EVALSHA", READ.sha, b"%d" % len(names), *names, *rest)

    def _page(self, user: str, after: str, head: str, is_old: bool, entries: Sequence[Any]) -> Page:
        events = [self._event(user, id_, fields) for id_, fields in entries]
        return Page.of(events or (), after, head, expired=is_old)

    def _event(self, user: str, id_: bytes, fields: Sequence[bytes]) -> Event:
        event = decode(fields[5], id_.decode(), fields[1].decode())
        if event.user != user:
            raise CodecError(f"an event of {event.user!r} stands in the log of {user!r}")
        return event

    async def _ask(self, commands: Sequence[tuple[int, bytes]]) -> list[Any]:
        """Send commands that change nothing twice and return their replies."""
        self._client.check_open()
        try:
            replies = await self._client.ask(commands, self._timeout)
        except FAILURES as error:
            raise unavailable(error, self._client.name) from error
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise unavailable(reply, self._client.name) from reply
        return replies


def _after(position: str) -> bytes:
    """Return the exclusive start of a range; empty where nothing can follow."""
    ms, sequence = ids.parse(position)
    return b"" if (ms, sequence) == (_LAST, _LAST) else b"(%d-%d" % (ms, sequence)
