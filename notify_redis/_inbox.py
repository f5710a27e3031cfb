"""Inboxes: rows, counts and pages, kept by scripts in the slot of their user (`_inbox_keys` has the layout).

Items and changes are saved as all events are (`_save`, `_attempt`, `_retry`), by a longer script, which also applies
what it appends (`_lua/effect.lua`). A script sees one slot, and another log is in another slot, so these take steps:

- A page first asks the user's slot. If the user follows topics, one pipeline asks their slots for new items, and only
  those are copied, by compare-and-set on the state of each topic: concurrent or repeated pulls copy everything once.
- A change of a user with topics is first refused, with nothing stored, and sent again after a pull.
- A merge reads the session's rows in its slot and passes them to the change, again by compare-and-set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from notify import Event, ids
from notify.adapters import check_user
from notify.errors import BackendUnavailableError, NotifyError, UsageError
from notify.inbox.abc import MAX_IDS, MAX_TOPICS, Change, Counts, Follow, InboxRetention, ItemPage, ItemQuery

from ._client import RedisClient
from ._commands import PushCommands, own_position, retention_arguments
from ._connection import pack
from ._errors import rejected
from ._inbox_keys import RedisInboxLog, item_id, name_in_positions, read_logs, split_member, strings
from ._inbox_rows import RedisInboxReply, page_of, query_arguments
from ._names import PARTITIONS, RedisNames, partition_of
from ._save import RedisSaver
from ._scripts import DUE, FOLLOW, LEAVE, NEWS, PAGE, SESSION, SWEEP, Script

Asking = Callable[[Sequence[tuple[int, bytes]]], Awaitable[list[Any]]]

TOPICS_PER_CALL: Final = 32
"""How many topics one call of the script asks for new items: a script blocks its server, so a call has to be short."""

ITEMS_PER_TOPIC: Final = 500
"""How many items one step of a pull copies from a topic."""

FOLLOWERS_PER_CALL: Final = 200
"""How many followers one pipeline reads or removes."""

NO_ITEMS: Final = ItemQuery(limit=0)

_FOLLOWED: Final = "notify.followed"
_UNFOLLOWED: Final = "notify.unfollowed"
_MERGED: Final = "notify.merged"


class RedisInbox:
    """The inboxes of a store.

    Args:
        client: knows which master has which partition.
        names: the names of keys.
        commands: the commands of pushes; has the retention.
        saver: saves changes.
        ask: sends commands to partitions and returns the replies; repeats them after a failure, so they have to be
            idempotent.
    """

    def __init__(
        self, client: RedisClient, names: RedisNames, commands: PushCommands, saver: RedisSaver, ask: Asking
    ) -> None:
        self._client = client
        self._names = names
        self._commands = commands
        self._saver = saver
        self._ask = ask

    @property
    def retention(self) -> InboxRetention:
        """What inboxes keep."""
        return self._commands.inbox_retention

    @retention.setter
    def retention(self, retention: InboxRetention) -> None:
        self._commands.inbox_retention = retention

    # -- changes -------------------------------------------------------------------------------------------------

    async def change(self, draft: Event) -> Change:
        """See `notify.inbox.abc.InboxStore.change`."""
        try:
            return await self._change(draft)
        except BackendUnavailableError as error:  # of a step that precedes the change itself
            raise rejected(error, self._client.name) from error.__cause__

    async def _change(self, draft: Event) -> Change:
        payload: Any = draft.payload
        if draft.type == _MERGED and payload["session"] != draft.user:
            return await self._merge(draft, payload["session"])
        if draft.type == _FOLLOWED and payload["topic"] != draft.user:
            end = await self._note_follower(payload["topic"], draft.user)
            if payload.get("since") is None:
                draft = _with_payload(draft, payload | {"since": end})
        change, word = await self._apply(draft, own_position(draft))
        assert not word, word  # only a merge is to be read again
        if draft.type == _UNFOLLOWED and change.event is not None:
            await self._remove_follower(payload["topic"], draft.user)
        return change

    async def _apply(self, draft: Event, extra: bytes) -> tuple[Change, bytes]:
        """Apply a change, after pulling topics if there are any.

        Returns:
            The change, and why the script has refused it: empty unless the session of a merge has to be read again.

        Raises:
            UsageError: the user would have more than `MAX_TOPICS` topics and merged sessions.
        """
        outcome, answer = await self._saver.change(draft, b"c" + extra)
        if answer and answer[0] == b"pull":
            await self._pull(draft.user, NO_ITEMS, read_logs(answer[1]))
            outcome, answer = await self._saver.change(draft, b"p" + extra)
        if isinstance(outcome, NotifyError):
            raise outcome
        if answer[0] == b"room":
            raise UsageError(
                f"a user can follow {MAX_TOPICS} topics, merged sessions included: unfollow some first, or merge fewer"
            )
        if len(answer) < 2:
            return Change((), Counts(), None), answer[0]
        members = sorted(answer[4], reverse=True)[:MAX_IDS]
        counts = RedisInboxReply.of(draft.user, *answer[1:4]).counts
        return Change(tuple(map(item_id, members)), counts, outcome if outcome.id else None), b""

    async def _merge(self, draft: Event, session: str) -> Change:
        """Read the session, then merge what was read; start again if another merge of it was applied in between."""
        payload = draft.payload
        until = payload.get("until")
        while True:
            logs = await self._logs(draft.user)
            known = logs.get(session)
            after = known.position if known else ids.ZERO
            end, theirs, rows = await self._read_session(session, after, until or "")
            topics = {topic: log for topic, log in theirs.items() if topic != draft.user}
            followed = [topic for topic, log in topics.items() if log.is_followed and topic not in logs]
            for topic in followed:
                await self._note_follower(topic, draft.user)
            extra = [name_in_positions(session), known.text if known else b"", b"%d" % len(topics)]
            for topic, log in topics.items():
                extra += [topic.encode(), log.without_order()]
            for i in range(0, len(rows), 3):
                _, name = split_member(rows[i])
                if not name or name in topics:
                    extra += [rows[i] if name else rows[i] + session.encode(), *rows[i + 1 : i + 3]]
            event = draft if until is not None else _with_payload(draft, payload | {"until": end})
            change, word = await self._apply(event, strings(extra))
            if not word:
                return change

    async def _read_session(
        self, session: str, after: str, until: str
    ) -> tuple[str, dict[str, RedisInboxLog], list[bytes]]:
        arguments = (*retention_arguments(self.retention), after.encode(), until.encode())
        (reply,) = await self._ask([self._call(SESSION, self._names.inbox(session), partition_of(session), *arguments)])
        return reply[0].decode(), read_logs(reply[1]), reply[2]

    # -- topics --------------------------------------------------------------------------------------------------

    async def pull(self, user: str) -> int:
        """See `notify.inbox.abc.InboxStore.pull`."""
        check_user(user)
        copied, _ = await self._pull(user, NO_ITEMS, await self._logs(user))
        return copied

    async def _pull(
        self, user: str, query: ItemQuery, logs: Mapping[str, RedisInboxLog]
    ) -> tuple[int, list[Any] | None]:
        """Copy new items of topics; return how many, and the last reply of the page script if anything was copied."""
        copied = 0
        page: list[Any] | None = None
        for session, log in logs.items():
            if log.last:
                page = await self._page(user, query, await self._merged_later(user, session, log, logs))
                copied += page[0]
                logs = read_logs(page[3])
        todo = {topic: log for topic, log in logs.items() if log.is_followed}
        while todo:
            news = await self._news(user, todo)
            if not news:
                break
            arguments: list[bytes] = []
            for topic, log in todo.items():
                if topic in news:
                    end, more, rows = news[topic]
                    position = split_member(rows[-2])[0] if more else end
                    name = topic.encode()
                    copies = [text for i in range(0, len(rows), 2) for text in (rows[i] + name, rows[i + 1], b"")]
                    arguments += [topic.encode(), log.text, log.at(position), strings(copies)]
            page = await self._page(user, query, arguments)
            copied += page[0]
            # Again: those with more, and those where a concurrent pull has copied something, but less.
            todo = {
                topic: log
                for topic, log in read_logs(page[3]).items()
                if log.is_followed and topic in news and ids.compare(log.position, news[topic][0]) < 0
            }
        return copied, page

    async def _merged_later(
        self, user: str, session: str, known: RedisInboxLog, logs: Mapping[str, RedisInboxLog]
    ) -> list[bytes]:
        """Return what to copy for a `notify.merged` that was saved as an event: the session, then its topics."""
        _, theirs, rows = await self._read_session(session, known.position, known.last)
        order = known.text.split(b" ")[4]
        found = {session: [session.encode(), known.text, known.at(known.last)]}
        for topic, log in theirs.items():
            if topic not in logs and topic != user:
                found[topic] = [topic.encode(), b"", log.without_order() + order]
        copies: dict[str, list[bytes]] = {name: [] for name in found}
        for i in range(0, len(rows), 3):
            _, name = split_member(rows[i])
            if (name or session) in copies:
                member = rows[i] if name else rows[i] + session.encode()
                copies[name or session] += [member, *rows[i + 1 : i + 3]]
        return [text for name, texts in found.items() for text in (*texts, strings(copies[name]))]

    async def _news(self, user: str, topics: Mapping[str, RedisInboxLog]) -> dict[str, tuple[str, bool, list[bytes]]]:
        """Ask topics for new items, in one pipeline to each master: by topic, the end, whether there are more, rows."""
        # The masters are known: what is followed was read from one of them.
        chunks = self._client.chunks(topics, partition_of, TOPICS_PER_CALL)
        fixed = (*retention_arguments(self.retention), user.encode(), b"%d" % ITEMS_PER_TOPIC)
        commands = []
        for _, some in chunks:
            keys = [key for topic in some for key in (*self._names.inbox(topic), self._names.followers(topic))]
            positions = [topics[topic].position.encode() for topic in some]
            commands.append(self._call(NEWS, keys, partition_of(some[0]), *fixed, *positions))
        news: dict[str, tuple[str, bool, list[bytes]]] = {}
        for (_, some), reply in zip(chunks, await self._ask(commands), strict=True):
            for number, end, more, rows in reply:
                news[some[number - 1]] = (end.decode(), bool(more), rows)
        return news

    async def _note_follower(self, topic: str, user: str) -> str:
        """Add a follower to the topic's index, and return the end of the topic's log."""
        keys = (*self._names.inbox(topic), self._names.followers(topic))
        (end,) = await self._ask([self._call(FOLLOW, keys, partition_of(topic), user.encode())])
        return str(end.decode())

    async def _remove_follower(self, topic: str, user: str) -> None:
        await self._ask([(partition_of(topic), pack(b"ZREM", self._names.followers(topic), user.encode()))])

    async def edges(self, user: str, topic: str, after: str, limit: int) -> Sequence[Follow]:
        """See `notify.inbox.abc.InboxStore.edges`; checks each follower in the topic's index, which may be outdated."""
        check_user(user or topic)
        if user:
            logs = await self._logs(user)
            names = sorted(name for name, log in logs.items() if log.is_followed and name > after)
            return [Follow(user, name, logs[name].since) for name in names[:limit]]
        found: list[Follow] = []
        while len(found) < limit:
            wanted = min(max(limit, 0), FOLLOWERS_PER_CALL)
            names = await self._indexed(topic, after, wanted)
            states = await self._states(names, topic)
            found += [Follow(name, topic, states[name]) for name in names if name in states]
            if len(names) < wanted:
                break
            after = names[-1]
        return found[:limit]

    async def _indexed(self, topic: str, after: str, limit: int) -> list[str]:
        start = b"(%b" % after.encode() if after else b"-"
        command = pack(b"ZRANGEBYLEX", self._names.followers(topic), start, b"+", b"LIMIT", b"0", b"%d" % limit)
        (members,) = await self._ask([(partition_of(topic), command)])
        return [member.decode() for member in members]

    async def _states(self, users: Sequence[str], topic: str) -> dict[str, str]:
        """Return, by user, the position since which each of these users has followed a topic."""
        commands = [(partition_of(user), pack(b"HGET", self._names.inbox(user)[-2], topic.encode())) for user in users]
        replies = await self._ask(commands) if commands else []
        pairs = zip(users, replies, strict=True)
        return {user: state.split(b" ", 2)[1].decode() for user, state in pairs if state and state[:1] == b"f"}

    async def _logs(self, user: str) -> dict[str, RedisInboxLog]:
        (reply,) = await self._ask([(partition_of(user), pack(b"HGETALL", self._names.inbox(user)[-2]))])
        return read_logs(reply)

    # -- reading -------------------------------------------------------------------------------------------------

    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        """See `notify.inbox.abc.InboxStore.items`."""
        check_user(user)
        reply = await self._page(user, query, ())
        logs = read_logs(reply[3])
        if any(log.is_open for log in logs.values()):
            _, newer = await self._pull(user, query, logs)
            reply = newer or reply
        return page_of(user, query, reply)

    async def _page(self, user: str, query: ItemQuery, pulled: Sequence[bytes]) -> list[Any]:
        arguments = (*retention_arguments(self.retention), *query_arguments(query), *pulled)
        (reply,) = await self._ask([self._call(PAGE, self._names.inbox(user), partition_of(user), *arguments)])
        return reply  # type: ignore[no-any-return]

    # -- retention -----------------------------------------------------------------------------------------------

    async def sweep(self, limit: int) -> int:
        """See `notify.inbox.abc.InboxStore.sweep`; uses the index of each partition, and never scans the keyspace."""
        removed = 0
        todo = list(range(PARTITIONS))
        while todo and removed < limit:
            asks = [(part, pack(b"EVALSHA", DUE.sha, b"1", self._names.inboxes(part), b"100")) for part in todo]
            found = dict(zip(todo, await self._ask(asks), strict=True))
            for part, streams in found.items():
                for stream in streams:
                    if removed < limit:
                        removed += await self._sweep_one(part, stream, limit - removed)
            todo = [part for part, streams in found.items() if streams]
        return removed

    async def _sweep_one(self, partition: int, stream: bytes, limit: int) -> int:
        keys = self._names.inbox_of(stream, partition)
        arguments = (*retention_arguments(self.retention), b"%d" % limit)
        (removed,) = await self._ask([self._call(SWEEP, keys, partition, *arguments)])
        return int(removed)

    async def forget(self, user: str) -> None:
        """Erase an inbox, the follows of its user, and as a topic from its followers; the caller erases the log."""
        logs = await self._logs(user)
        for topic, log in logs.items():
            if log.is_followed:
                await self._remove_follower(topic, user)
        while names := await self._indexed(user, "", FOLLOWERS_PER_CALL):
            await self._ask(
                [self._call(LEAVE, self._names.inbox(name), partition_of(name), user.encode()) for name in names]
            )
            members = [name.encode() for name in names]
            await self._ask([(partition_of(user), pack(b"ZREM", self._names.followers(user), *members))])

    def _call(self, script: Script, keys: Sequence[bytes], partition: int, *arguments: bytes) -> tuple[int, bytes]:
        return partition, pack(b"EVALSHA", script.sha, b"%d" % len(keys), *keys, *arguments)


def _with_payload(draft: Event, payload: Any) -> Event:
    """Return the draft with another payload."""
    return Event(
        draft.user,
        draft.type,
        payload,
        timestamp=draft.timestamp,
        group=draft.group,
        key=draft.key,
        meta=draft.meta,
    )
