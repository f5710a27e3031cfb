"""`Inbox`, the class that applications use: sending and reading. Its base classes add marks, follows and streams."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from notify import Event, InvalidEventError, NotifyError, PushReport, UsageError
from notify.abc import Enqueue, ability
from notify.adapters import check_user
from notify.event import check_name, plain

from ._events import PLAIN_ITEM, check_limit, item_ids, item_meta, item_query
from ._marking import InboxMarking
from .abc import Counts, Item, ItemPage, ItemQuery, State


class Inbox(InboxMarking):
    """The inboxes of all users: sends items, lists and counts them, and changes their states on every device at once.

    ```python
    inbox = Inbox(notifier)
    await inbox.send("alice", "comment.created", {"post": 7}, group="post:7")
    page = await inbox.list("alice")
    await inbox.mark_read_up_to("alice", page.position)
    ```

    `async with Inbox(notifier)` also removes due items in the background, in one process at a time. Without that, they
    are removed by the next write to their inbox, and by `sweep`. An inbox that is not used so need not be closed: it
    holds nothing open beyond its notifier.

    Args:
        notifier: sends the items; its store has to be an `InboxStore`.
        retention: how many items each inbox keeps, and for how long. It is not stored, so pass the same one to every
            Inbox on the store, in every process. Processes that remove due items in the background warn if they differ.
        hooks: objects with one or more of `before_send(draft) -> draft | None`, `after_send(event)` and
            `after_change(user, change)`, plain or async, called in the order given. A call that fails, or that takes
            longer than 10 seconds, is logged once for each outage and counted in `hook_failures`; the item is sent, or
            the change made, as if there were no such hook. A plain hook runs on the event loop and must not block.

    Raises:
        UsageError: the notifier's store does not keep inboxes; an Inbox on this store object has another retention; or
            a hook has none of the methods.
    """

    # -- sending -------------------------------------------------------------------------------------------------

    async def send(
        self,
        user: str,
        type: str,
        payload: Any = None,
        *,
        key: str | None = None,
        group: str | None = None,
        meta: Mapping[str, str] | None = None,
        ttl: float | None = None,
        connection: Any = None,
    ) -> Event | None:
        """Push an event as `Notifier.push` does, and list it in the user's inbox.

        Args:
            user: the recipient.
            type: as for `push`.
            payload: as for `push`.
            key: as for `push`: a repeated one sends nothing.
            group: what the item is about. The item replaces the one in this group, whatever state that is in.
            meta: as for `push`.
            ttl: seconds after which the item expires; None: never.
            connection: a connection of the store's driver with an open transaction, for a store with an outbox
                (PostgreSQL). The item is listed soon after the commit, and never if the transaction is rolled back.
                Locks nothing. `offline=` of the notifier and `after_send` do not apply.

        Returns:
            The stored event. None if a hook withheld it, if `offline="drop"` dropped it, and always with `connection`.

        Raises:
            InvalidEventError: an argument is not valid; nothing was stored.
            UsageError: `ttl` is not valid, or `connection` was given and the store has no outbox.
            BackendError: as by `push`.
            ClosedError: the notifier is closed.

        Order, cancellation, concurrency: as `push`.
        Cost: one save.
        """
        reserved = PLAIN_ITEM if ttl is None else item_meta(ttl, time.time())
        event = self._notifier.draft(user, type, payload, key=key, group=group, meta=meta, reserved=reserved)
        if connection is not None and not ability(self._store, Enqueue):
            raise UsageError(f"{self._name} has no outbox for items of a transaction: send without connection=")
        if self._hooks.before:
            changed = await self._hooks.before_send([event])
            if not changed:
                return None
            (event,) = changed
        if connection is not None and ability(self._store, Enqueue):
            await self._store.enqueue(event, connection=connection)
            return None
        sent: Event | None = await self._notifier.push_event(event)
        if sent is not None and self._hooks.after:
            await self._hooks.after_send([sent])
        return sent

    async def send_many(
        self,
        users: Iterable[str],
        type: str,
        payload: Any = None,
        *,
        key: str | None = None,
        group: str | None = None,
        meta: Mapping[str, str] | None = None,
        ttl: float | None = None,
    ) -> PushReport:
        """Send the same item to many users, in bounded batches of one round trip each.

        Args:
            users: the recipients; a user named twice gets the item once.
            type: as for `send`.
            payload: as for `send`.
            key: as for `send`, for each user separately.
            group: as for `send`.
            meta: as for `send`.
            ttl: as for `send`.

        Returns:
            The report of `push_many`. Users for whom a hook withheld the item are not in it.

        Raises:
            InvalidEventError: an argument is not valid; nothing was stored. A single user id that is not valid is in
                the report, unless all are.
            UsageError: `ttl` is not valid.
            BackendError: sending failed for every user; this is the first error.
            ClosedError: the notifier is closed.

        Order, cancellation, concurrency, cost: as `push_many`.
        """
        reserved = item_meta(ttl, time.time())
        first = self._notifier.draft("-", type, payload, key=key, group=group, meta=meta, reserved=reserved)
        if isinstance(users, str | bytes) or not isinstance(users, Iterable):
            raise InvalidEventError(f"send_many() expects an iterable of user ids, got a single {users!r:.80}")
        failed: dict[str, NotifyError] = {}
        drafts: list[Event] = []
        seen: set[str] = set()
        for given in users:
            user: Any = plain(given)
            try:
                check_user(user)
            except InvalidEventError as error:
                failed[str(user)] = error
                continue
            if user in seen:
                continue
            seen.add(user)
            drafts.append(first.addressed_to(user))
        if self._hooks.before:
            drafts = await self._hooks.before_send(drafts)
        report = await self._notifier.push_events(drafts)
        if failed and not drafts:
            raise next(iter(failed.values()))
        if self._hooks.after:
            await self._hooks.after_send(report.events.values())
        return PushReport(report.events, {**failed, **report.failed}, report.offline)

    async def publish(
        self,
        topic: str,
        type: str,
        payload: Any = None,
        *,
        key: str | None = None,
        group: str | None = None,
        meta: Mapping[str, str] | None = None,
        ttl: float | None = None,
    ) -> Event | None:
        """Send an item to all followers of a topic with one write. Followers' inboxes copy it when they are next read.

        Args:
            topic: the name of the topic, which is that of its log.
            type: as for `send`.
            payload: as for `send`.
            key: as for `send`.
            group: as for `send`.
            meta: as for `send`.
            ttl: as for `send`.

        Returns:
            The event in the topic's log; None as by `send`.

        Raises, order, cancellation, concurrency, cost: as `send`, whatever the number of followers.
        """
        check_name("topic", topic)
        return await self.send(topic, type, payload, key=key, group=group, meta=meta, ttl=ttl)

    # -- reading -------------------------------------------------------------------------------------------------

    async def list(
        self,
        user: str,
        *,
        before: str | None = None,
        limit: int = 20,
        state: State = "active",
        types: Iterable[str] | None = None,
        group: str | None = None,
    ) -> ItemPage:
        """Return a page of a user's items, newest first, and the counts of the whole inbox at the same moment.

        Args:
            user: whose inbox.
            before: `next` of the previous page, or the id of an item, which need not exist any more; None: the newest.
            limit: how many items at most.
            state: `active` (not dismissed), `unread` or `read` (of the active ones), `dismissed` or `all`.
            types: only items of these types.
            group: only items of this group.

        Raises:
            InvalidEventError: `user`, `group` or one of `types` is not valid.
            InvalidEventIdError: `before` is not the id of an item.
            UsageError: `limit`, `state` or `types` is not valid.
            BackendUnavailableError: not reachable; safe to repeat.
            ClosedError: the store is closed.

        Order: pages neither skip nor repeat an item, whatever arrives or vanishes in between.
        Cancellation: nothing has changed.
        Concurrency: any number of tasks.
        Cost: one indexed read, whatever the length of the inbox.
        """
        check_user(user)
        query = item_query(before, limit, state, types, group, user)
        with self._reading():
            return await self._store.items(plain(user), query)

    async def get(self, user: str, id: str) -> Item | None:
        """Return one item of a user, in whatever state; None: the id is unknown, expired, another user's or malformed.

        Raises, cancellation, concurrency, cost: as `list`.
        """
        text: object = id  # untyped code may pass anything
        found = await self.get_many(user, [text] if isinstance(text, str) else [])
        return found[0] if found else None

    async def get_many(self, user: str, ids: Iterable[str]) -> Sequence[Item]:
        """Return those of a user's items that have these ids, in whatever state, newest first, in one read.

        Args:
            user: whose inbox.
            ids: at most `MAX_IDS`. Ids that are unknown, expired, another user's or malformed are ignored.

        Raises:
            UsageError: too many ids, or one that is not text.

        Other errors, cancellation, concurrency, cost: as `list`.
        """
        check_user(user)
        found = item_ids(ids, user)
        if not found:
            return ()
        with self._reading():
            return (await self._store.items(plain(user), ItemQuery(ids=tuple(found)))).items

    async def counts(self, user: str) -> Counts:
        """Return how many active items a user has, and the position for which this is exact.

        Raises, cancellation, concurrency, cost: as `list`.
        """
        check_user(user)
        with self._reading():
            return (await self._store.items(plain(user), ItemQuery(limit=0))).counts

    # -- retention -----------------------------------------------------------------------------------------------

    async def sweep(self, limit: int = 500) -> int:
        """Remove at most `limit` due items, of any inbox, and return how many: fewer than `limit` when none are left.

        `async with Inbox(notifier)` calls this in the background.

        Raises:
            UsageError: `limit` is not valid.
            BackendUnavailableError: not reachable; safe to repeat.
            ClosedError: the store is closed.

        Cancellation: some may be removed already; safe to repeat.
        Concurrency: any number of tasks and processes.
        Cost: proportional to what is removed.
        """
        limit = check_limit(limit)
        with self._reading():
            return await self._store.sweep(limit)
