"""Changing inboxes: marks (seen, read, dismissed and their opposites), follows and merges."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from functools import partial

from notify import UsageError
from notify.adapters import check_user
from notify.event import check_name, plain

from ._events import mark_payload
from ._follow_names import FollowNames
from ._subscribing import InboxSubscribing
from .abc import Change


class InboxMarking(InboxSubscribing):
    """The changes of an inbox. Each is one event in the user's log, which every device of the user receives.

    What is the same for every method that returns a `Change`:

    - It affects only items that were sent before, and stores nothing if it changes nothing.
    - Ids that are unknown, expired, malformed or another user's are ignored, and the answer does not tell these apart.

    Raises:
        PushRejectedError: certainly not stored; repeating it is safe.
        PushUncertainError: whether it was stored is unknown; repeating it is safe, too.
        InvalidEventError: a user, topic, session or group is not valid.
        ClosedError: the inbox or the store is closed.

    Order: changes of one user have the order of their events in the user's log.
    Cancellation: the whole change is made, and announced to the devices, or nothing is.
    Concurrency: any number of tasks.
    Cost: one round trip, whatever the number of items; for a user who follows topics, at least one more, because the
        topics are read first.
    """

    async def mark(
        self,
        user: str,
        state: str,
        *,
        ids: str | Iterable[str] | None = None,
        up_to: str | None = None,
        group: str | None = None,
    ) -> Change:
        """Give items another state: what the methods below do, for code that gets the state as a value.

        Exactly one of `ids`, `up_to` and `group` names the items.

        Args:
            user: whose inbox.
            state: `seen`, `read`, `unread`, `dismissed` or `restored`.
            ids: one id or at most 1,000 ids of items.
            up_to: every item up to a position (`page.position`, `counts.position`) or up to the item with this id.
            group: the item of this group, in each log.

        Raises:
            UsageError: there is no such state; more than 1,000 ids; not exactly one of the three is given.
            InvalidEventIdError: `up_to` is neither a position nor an id.
        """
        return await self._change(user, state, mark_payload(user, state, ids, up_to, group))

    async def mark_seen(self, user: str, *, up_to: str) -> Change:
        """Mark every item up to a position as seen: it was on a screen, whether or not it was read."""
        return await self.mark(user, "seen", up_to=up_to)

    async def mark_read(self, user: str, ids: str | Iterable[str]) -> Change:
        """Mark items as read, and as seen."""
        return await self.mark(user, "read", ids=ids)

    async def mark_read_up_to(self, user: str, up_to: str) -> Change:
        """Mark every item up to a position as read: with `page.position`, none that came after the page was listed."""
        return await self.mark(user, "read", up_to=up_to)

    async def mark_unread(self, user: str, ids: str | Iterable[str]) -> Change:
        """Mark items as unread; dismissed ones become active again."""
        return await self.mark(user, "unread", ids=ids)

    async def dismiss(self, user: str, ids: str | Iterable[str]) -> Change:
        """Remove items from the list until they are restored; marks them as read and seen."""
        return await self.mark(user, "dismissed", ids=ids)

    async def dismiss_up_to(self, user: str, up_to: str) -> Change:
        """Dismiss every item up to a position."""
        return await self.mark(user, "dismissed", up_to=up_to)

    async def dismiss_group(self, user: str, group: str) -> Change:
        """Dismiss the item of a group, in each log that has one."""
        return await self.mark(user, "dismissed", group=group)

    async def restore(self, user: str, ids: str | Iterable[str]) -> Change:
        """List dismissed items again; they stay read."""
        return await self.mark(user, "restored", ids=ids)

    # -- other logs ----------------------------------------------------------------------------------------------

    async def follow(self, user: str, topic: str, *, history: bool = False) -> Change:
        """List a topic's items in the user's inbox from now on, and deliver them to the inbox's open streams.

        Args:
            user: the follower.
            topic: the log that `publish` sends to. Topics and users share one namespace: keep them apart, for example
                by a prefix.
            history: also list the items that the topic already has.

        Raises:
            UsageError: the user follows 99 topics already, merged sessions included; or `topic` is the user.
        """
        _check_other(user, "topic", topic)
        return await self._change(user, "followed", {"topic": plain(topic), "since": "0" if history else None})

    async def unfollow(self, user: str, topic: str) -> Change:
        """Stop following a topic: its items are removed from the user's inbox."""
        _check_other(user, "topic", topic)
        return await self._change(user, "unfollowed", {"topic": plain(topic)})

    async def merge(self, session: str, into: str) -> Change:
        """Copy the items of one inbox, with their states, and its follows into another: a session's at login.

        Another merge copies only what has arrived since the last one. The session's own inbox stays as it is.

        Args:
            session: whose inbox is copied.
            into: the user whose inbox gets the copies.

        Raises:
            UsageError: the user would have more than 99 topics and merged sessions; or both names are the same.
        """
        _check_other(into, "session", session)
        return await self._change(into, "merged", {"session": plain(session), "until": None})

    def following(self, user: str) -> AsyncIterator[str]:
        """Iterate over the topics that a user follows, sorted by name, read in pages.

        Raises:
            BackendUnavailableError: from the iterator: not reachable; safe to repeat.
        """
        check_user(user)
        return FollowNames(partial(self._store.edges, user=plain(user)), lambda follow: follow.topic, self._reading)

    def followers(self, topic: str) -> AsyncIterator[str]:
        """Iterate over the users who follow a topic, sorted by name, read in pages.

        Raises:
            BackendUnavailableError: from the iterator: not reachable; safe to repeat.
        """
        check_name("topic", topic)
        return FollowNames(partial(self._store.edges, topic=plain(topic)), lambda follow: follow.user, self._reading)


def _check_other(user: str, what: str, log: str) -> None:
    check_user(user)
    check_name(what, log)
    if user == log:
        raise UsageError(f"{what} and user are both {user!r:.80}: an inbox lists its own items anyway")
