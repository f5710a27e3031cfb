"""`Inbox`: what applications call."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from notify import Event, InvalidEventError, NotifyError, PushReport, UsageError
from notify.abc import Enqueue, ability
from notify.adapters import check_user
from notify.event import plain

from ._events import item_id, item_meta, item_query
from ._marking import InboxMarks
from .abc import Counts, Item, ItemPage, ItemQuery, State


class Inbox(InboxMarks):
    """Items of users: listed, counted, read, replaced and dismissed, on all devices of a user at once.

    ```python
    inbox = Inbox(notifier)
    await inbox.send("alice", "comment.created", {"post": 7}, group="post:7")
    page = await inbox.list("alice")
    await inbox.mark_read_up_to("alice", page.position)
    ```

    Used as `async with Inbox(notifier)`, it also removes due items in the background, in one process at a time; without
    that, only writes to an inbox remove what is due there, and `sweep`. It needs no end beside its notifier's.

    Args:
        notifier: sends the items; its store has to be an `InboxStore`.
        retention: how many items each inbox keeps, and for how long; every Inbox on one store has the same.
        hooks: objects with one or more of `before_send(draft) -> draft | None`, `after_send(event)` and
            `after_change(user, change)`, plain or async. They are called in this order. A call that fails is logged
            once for each outage and counted in `hook_failures`, and the work goes on without it.

    Raises:
        UsageError: the notifier's store does not keep inboxes, or has another retention; a hook has no such method.
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
            group: what the item is about. It takes the place of the item of this group, in whatever state that is.
            meta: as for `push`.
            ttl: seconds after which the item vanishes by itself.
            connection: a connection of the store's driver with an open transaction, for a store with an outbox
                (PostgreSQL): the item is listed soon after the commit, if there is one. Locks nothing. The policy for
                absent users and `after_send` do not apply.

        Returns:
            The stored event. None if a hook withheld it, if `offline="drop"` dropped it, and with `connection`.

        Raises:
            InvalidEventError: an argument is unacceptable; nothing was stored.
            UsageError: `ttl` is unacceptable, or `connection` was given and the store has no outbox.
            BackendError: as by `push`.
            ClosedError: the notifier is closed.

        Order, cancellation, concurrency: as `push`.
        Cost: one save.
        """
        reserved = item_meta(ttl, time.time())
        event = self._notifier.draft(user, type, payload, key=key, group=group, meta=meta, reserved=reserved)
        if connection is not None and not ability(self._store, Enqueue):
            raise UsageError(f"{self._name} has no outbox for items of a transaction: send without connection=")
        if self._hooks.before:
            changed = await self._hooks.before_send(event)
            if changed is None:
                return None
            event = changed
        if connection is not None and ability(self._store, Enqueue):
            await self._store.enqueue(event, connection=connection)
            return None
        sent: Event | None = await self._notifier.push_event(event)
        if sent is not None and self._hooks.after:
            await self._hooks.after_send(sent)
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
            users: the recipients; one who is named twice gets it once.
            type: as for `send`; and so are the others.
            payload: likewise.
            key: likewise; it applies to each user separately.
            group: likewise.
            meta: likewise.
            ttl: likewise.

        Returns:
            The report of `push_many`. A user for whom a hook withheld the item is not in it.

        Raises:
            InvalidEventError: an argument other than a single user is unacceptable; nothing was stored.
            UsageError: `ttl` is unacceptable.
            BackendError: every single user failed; this is the first one's error.
            ClosedError: the notifier is closed.

        Order, cancellation, concurrency, cost: as `push_many`.
        """
        reserved = item_meta(ttl, time.time())
        first = self._notifier.draft("-", type, payload, key=key, group=group, meta=meta, reserved=reserved)
        if isinstance(users, str | bytes):
            raise InvalidEventError(f"send_many() expects an iterable of user ids, got a single {users!r:.80}")
        failed: dict[str, NotifyError] = {}
        drafts: dict[str, Event] = {}
        for given in dict.fromkeys(users):
            user: Any = plain(given)
            try:
                check_user(user)
            except InvalidEventError as error:
                failed[str(user)] = error
                continue
            draft = await self._hooks.before_send(first.addressed_to(user))
            if draft is not None:
                drafts[user] = draft
        report = await self._notifier.push_events(drafts.values())
        if failed and not drafts:
            raise next(iter(failed.values()))
        if self._hooks.after:
            for event in report.events.values():
                await self._hooks.after_send(event)
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
        """Send an item to everyone who follows a topic, with one write: followers read it from the topic.

        Args:
            topic: the log of the topic.
            type: as for `send`; and so are the others.
            payload: likewise.
            key: likewise.
            group: likewise.
            meta: likewise.
            ttl: likewise.

        Returns:
            The event in the topic's log; None as by `send`.

        Raises, order, cancellation, concurrency, cost: as `send`, whatever the number of followers.
        """
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
        """Return a page of a user's items, newest first, with the counts of the whole inbox at the same moment.

        Args:
            user: whose inbox.
            before: `next` of the page before, or the id of an item, whether or not it still exists; None: the newest.
            limit: items at most.
            state: `active` (not dismissed), `unread` or `read` (of the active ones), `dismissed` or `all`.
            types: only items of these types.
            group: only items of this group.

        Raises:
            InvalidEventError: `user` or `group` is unacceptable.
            InvalidEventIdError: `before` is not the id of an item.
            UsageError: `limit`, `state` or `types` is unacceptable.
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
        """Return one item of a user, in whatever state; None if there is none, or it is not one.

        Raises, cancellation, concurrency, cost: as `list`.
        """
        check_user(user)
        text: object = id  # untyped code may pass anything
        found = item_id(text, user) if isinstance(text, str) else None
        if found is None:
            return None
        with self._reading():
            page = await self._store.items(plain(user), ItemQuery(id=found, limit=1))
        return page.items[0] if page.items else None

    async def counts(self, user: str) -> Counts:
        """Return how many active items a user has, and the position for which this is exact.

        Raises, cancellation, concurrency, cost: as `list`.
        """
        check_user(user)
        with self._reading():
            return (await self._store.items(plain(user), ItemQuery(limit=0))).counts

    # -- retention -----------------------------------------------------------------------------------------------

    async def sweep(self, limit: int = 500) -> int:
        """Remove due items, of any inbox, and return how many: fewer than `limit` when none are left.

        Raises:
            BackendUnavailableError: not reachable; safe to repeat.
            ClosedError: the store is closed.

        Cancellation: some may be removed already; safe to repeat.
        Concurrency: any number of tasks and processes.
        Cost: proportional to what is removed.
        """
        with self._reading():
            return await self._store.sweep(limit)
