"""A store in Redis streams: one stream for each user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import anyio
from redis.exceptions import ResponseError

from notify import Event, Guarantees, Page, ids
from notify.adapters import Retention, check_user
from notify.errors import CodecError, NotifyError, UsageError
from notify.inbox.abc import Change, Follow, InboxRetention, ItemPage, ItemQuery

from ._attempt import PushAttempts
from ._client import RedisClient
from ._commands import PushCommands
from ._connection import RedisUrl, pack
from ._errors import FAILURES, unavailable
from ._inbox import RedisInbox
from ._names import PARTITIONS, RedisNames
from ._record import decode
from ._save import RedisSaver
from ._scripts import FORGET, READ
from ._wake import WakeStreams

PAGES_PER_CALL: Final = 64
"""Logs read by one call of the script."""

TRIMS_PER_CALL: Final = 256

WAKES_PER_CALL: Final = 100
"""Entries of a wake stream that are searched at once."""

EXACT_BELOW: Final = 1000
"""A `max_len` from which on a hundred events more do no harm."""

FORGET_ATTEMPTS: Final = 100
"""How often `forget` waits for a millisecond without a save, before it erases a log that is written all the time."""


class RedisStore:
    """Stores events in Redis streams. asyncio; Redis 6.2 or later, alone or with Sentinel; 7.0 or later as a cluster.

    Args:
        url: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host,host/service/db`, `redis+cluster://host,host`;
            or a client or pool of `redis.asyncio`, which is only read for its address and login and never closed.
        prefix: begins the name of every key and channel.
        max_len: events kept for each user.
        exact: keep no more than `max_len`, for about 5 microseconds of the server's time at each push. False: up to
            about 100 more stay, because Redis trims whole blocks. None: exact where `max_len` is below 1000.
        max_age: seconds that events are kept; None: until `max_len` or `trim` removes them.
        key_window: seconds within which a repeated idempotency key returns the first event.
        min_replicas: replicas that must confirm a push, or it raises PushUncertainError.
        inline: bytes of an event up to which its announcement carries it; readers fetch larger ones.
        timeout: seconds after which a push or read without an answer has failed; less than the notifier's own.

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
        exact: bool | None = None,
        max_age: float | None = 7 * 86_400.0,
        key_window: float = 86_400.0,
        min_replicas: int = 0,
        inline: int = 4096,
        timeout: float = 4.0,
    ) -> None:
        retention = Retention(max_len, max_age, key_window)
        exact = max_len < EXACT_BELOW if exact is None else exact
        if not timeout > 0:
            raise UsageError(f"timeout must be greater than 0, not {timeout!r}")
        if min_replicas < 0 or inline < 0:
            raise UsageError(f"min_replicas and inline must not be negative, got {min_replicas!r} and {inline!r}")
        self._client = RedisClient(url, type(self).__name__)
        self._names = RedisNames(prefix, self._client.endpoint.database)
        self._age_ms = 0 if max_age is None else max(1, int(max_age * 1000))
        self._timeout = timeout
        self._wakes = WakeStreams(self._client, self._names, always=False)
        commands = PushCommands(self._names, retention, exact=exact, inline=inline, wakes=self._wakes)
        attempts = PushAttempts(self._client, commands, min_replicas=min_replicas, timeout=timeout)
        self._saver = RedisSaver(self._client, attempts)
        self._inbox = RedisInbox(self._client, self._names, commands, self._saver, self._ask)

    # -- Store ---------------------------------------------------------------------------------------------------

    async def save(self, event: Event) -> Event:
        """See `notify.abc.Store.save`; concurrent saves share round trips, and cancelling one undoes nothing."""
        (outcome,) = await self._saver.save([event])
        if isinstance(outcome, NotifyError):
            raise outcome
        return outcome

    async def read(self, user: str, after: str, limit: int) -> Page:
        """See `notify.abc.Store.read`.

        The script that reads entries and head consistently costs the server five times as much for each entry as a
        plain XREAD. So both are sent: the script for the head alone, and XREAD. Entries prove continuity by their
        `prev`, so the head does not matter. Without entries, nothing is new if the head is the position asked for. In
        all other cases the script reads both.
        """
        self._client.check_open()
        check_user(user)
        stream, _, _, partition = self._names.of_user(user)
        head = self._read_command([user], {user: after}, 0, only_news=False)
        entries = pack(b"XREAD", b"COUNT", b"%d" % limit, b"STREAMS", stream, after.encode())
        (now, page), reply = await self._ask([(partition, head), (partition, entries)])
        rows = reply[0][1] if reply else ()
        if rows and (not self._age_ms or ids.parse(rows[0][0].decode())[0] >= now - self._age_ms):
            return self._page(user, after, "", False, rows)
        if not rows and page[1].decode() == after:
            return Page((), None, after)
        return (await self._read({user: after}, limit, only_news=False))[user]

    async def head(self, user: str) -> str:
        """See `notify.abc.Store.head`."""
        return (await self._read({user: ids.ZERO}, 0, only_news=False))[user].position

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
                (part, pack(b"ZSCAN", self._names.indexes[part], at, b"COUNT", b"500")) for part, at in cursors.items()
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

    async def prepare(self) -> None:
        """See `notify.abc.Prepare.prepare`: there is nothing to create, so this only connects."""
        await self._ask([(0, pack(b"PING"))])

    def script(self) -> str:
        """See `notify.abc.Prepare.script`: it is empty."""
        return ""

    async def forget(self, user: str) -> int:
        """See `notify.abc.Forget.forget`.

        Erases what has the user's name: the log, idempotency keys, presence, the inbox, whom the user follows and who
        follows the user, the places in indexes, and what wake streams still hold. An open connection of the user is
        registered again when its tracker next writes.
        """
        self._client.check_open()
        check_user(user)
        stream, index, _, partition = self._names.of_user(user)
        await self._inbox.forget(user)
        keys = [stream, index, self._names.presence(user), self._names.idempotency_index(user)]
        keys += [*self._names.inbox(user)[1:], self._names.followers(user)]
        count: int | None = None
        attempts = 0
        while count is None:  # it is a number when told to erase now
            attempts += 1
            now = b"1" if attempts >= FORGET_ATTEMPTS else b""
            (count,) = await self._ask([(partition, pack(b"EVALSHA", FORGET.sha, b"%d" % len(keys), *keys, now))])
            if count is None:
                await anyio.sleep(0.001)
        await self._forget_wakes(self._names.channel(user))
        return count

    async def _forget_wakes(self, channel: bytes) -> None:
        """Remove the entries of all wake streams that announce something to this channel."""
        streams = {part: self._wakes.keys(part)[0] for part in (range(PARTITIONS) if self._client.is_cluster else (0,))}
        starts = dict.fromkeys(streams, b"-")
        while starts:
            count = b"%d" % WAKES_PER_CALL
            reads = [(part, pack(b"XRANGE", streams[part], at, b"+", b"COUNT", count)) for part, at in starts.items()]
            removals: list[tuple[int, bytes]] = []
            for part, entries in zip(list(starts), await self._ask(reads), strict=True):
                removals += [
                    (part, pack(b"XDEL", streams[part], id_)) for id_, fields in entries if channel in fields[::2]
                ]
                if len(entries) < WAKES_PER_CALL:
                    del starts[part]
                else:
                    starts[part] = b"(" + entries[-1][0]
            if removals:
                await self._ask(removals)

    async def aclose(self) -> None:
        """See `notify.abc.Store.aclose`."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Connect, so that a wrong address raises here; the first use would do it too."""
        await self.prepare()
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
        pages = await self._read(after, limit, only_news=True)
        return {user: page for user, page in pages.items() if page.events or page.gap}

    # -- InboxStore ----------------------------------------------------------------------------------------------

    @property
    def inbox_retention(self) -> InboxRetention:
        """See `notify.inbox.abc.InboxStore`."""
        return self._inbox.retention

    @inbox_retention.setter
    def inbox_retention(self, retention: InboxRetention) -> None:
        self._inbox.retention = retention

    async def change(self, draft: Event) -> Change:
        """See `notify.inbox.abc.InboxStore.change`.

        Cost: one round trip for a mark. For a user who follows topics, two more, because positions and topics are in
            different slots, and one more each time that a pull copies items. A follow or an unfollow takes one more,
            for the topic's index of followers. The merge of a session takes two more, to read positions and items, and
            one for each topic that the session follows and the user does not; all of it is repeated if another merge of
            the session is applied in between.
        """
        return await self._inbox.change(draft)

    async def pull(self, user: str) -> int:
        """See `notify.inbox.abc.InboxStore.pull`."""
        return await self._inbox.pull(user)

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        """See `notify.inbox.abc.InboxStore.items`; with `types`, what is read until enough is found."""
        return await self._inbox.items(user, query)

    async def edges(self, *, user: str = "", topic: str = "", after: str = "", limit: int = 100) -> Sequence[Follow]:
        """See `notify.inbox.abc.InboxStore.edges`; the followers of a topic take two round trips."""
        return await self._inbox.edges(user, topic, after, limit)

    async def sweep(self, limit: int = 500) -> int:
        """See `notify.inbox.abc.InboxStore.sweep`."""
        return await self._inbox.sweep(limit)

    # -- reading -------------------------------------------------------------------------------------------------

    async def _read(self, after: Mapping[str, str], limit: int, *, only_news: bool) -> dict[str, Page]:
        """Read a page for each user by the script; `only_news` leaves out users without new events."""
        self._client.check_open()
        for user in after:
            check_user(user)
        try:
            await self._client.locate()
        except FAILURES as error:
            raise unavailable(error, self._client.name) from error
        chunks = self._client.chunks(after, lambda user: self._names.of_user(user)[3], PAGES_PER_CALL)
        commands = [
            (self._names.of_user(users[0])[3], self._read_command(users, after, limit, only_news=only_news))
            for _, users in chunks
        ]
        pages: dict[str, Page] = {}
        for (_, users), reply in zip(chunks, await self._ask(commands), strict=True):
            for number, head, is_old, entries in reply[1:]:
                user = users[number - 1]
                pages[user] = self._page(user, after[user], head.decode(), bool(is_old), entries)
        return pages

    def _read_command(self, users: Sequence[str], after: Mapping[str, str], limit: int, *, only_news: bool) -> bytes:
        streams = [self._names.stream(user) for user in users]
        rest = [b"%d" % limit, b"%d" % self._age_ms, b"1" if only_news else b""]
        rest += [after[user].encode() for user in users]
        return pack(b"EVALSHA", READ.sha, b"%d" % len(streams), *streams, *rest)

    def _page(self, user: str, after: str, head: str, is_old: bool, entries: Sequence[Any]) -> Page:
        events = [self._event(user, id_, fields) for id_, fields in entries]
        return Page.of(events or (), after, head, expired=is_old)

    def _event(self, user: str, id_: bytes, fields: Sequence[bytes]) -> Event:
        event = decode(fields[5], id_.decode(), fields[1].decode())
        if event.user != user:
            raise CodecError(f"the log of {user!r} holds an event of {event.user!r}")
        return event

    async def _ask(self, commands: Sequence[tuple[int, bytes]]) -> list[Any]:
        """Send commands that may be executed twice and return their replies; an error reply is raised."""
        self._client.check_open()
        try:
            replies = await self._client.ask(commands, self._timeout)
        except FAILURES as error:
            raise unavailable(error, self._client.name) from error
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise unavailable(reply, self._client.name) from reply
        return replies
