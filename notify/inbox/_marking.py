"""Changing what an inbox contains: marks, dismissal, follows, merges."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from functools import partial

from notify import UsageError
from notify.adapters import check_user
from notify.event import plain

from ._events import mark_payload
from ._names import Names
from ._subscribing import InboxStreams
from .abc import Change


class InboxMarks(InboxStreams):
    """The changes. Each is one event in the user's log, which every device of the user receives.

    Every method that returns a `Change`:

    - affects only items that were sent before the change is stored, and stores nothing if it changes nothing,
    - ignores ids that are unknown, of other users, expired or malformed: nothing in the answer tells them apart,
    - raises `PushRejectedError` if the change is certainly not stored, `PushUncertainError` if that is unknown (to
      repeat it is harmless), `InvalidEventError` for a user, topic, session or group that is unacceptable, and
      `ClosedError` if the inbox or the store is closed,
    - if its caller is cancelled, takes effect or does not, as a whole, and is announced if it does,
    - can be called by any number of tasks, and costs one round trip, whatever the number of items; one more for a user
      who follows topics.
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
        """Give items another state: what the following methods do, for code that gets the state as a value.

        Args:
            user: whose inbox.
            state: `seen`, `read`, `unread`, `dismissed` or `restored`.
            ids: the items, at most 1,000; or this, or one of the next two, alone.
            up_to: every item up to a position (`page.position`, `counts.position`) or to an item's id.
            group: the items of this group.

        Raises:
            UsageError: another state; more than 1,000 ids; not exactly one of the three is given.
            InvalidEventIdError: `up_to` is neither a position nor an id.
        """
        return await self._change(user, state, mark_payload(user, state, ids, up_to, group))

    async def mark_seen(self, user: str, *, up_to: str) -> Change:
        """Note that every item up to a position was shown, whether or not it was read: a badge goes to zero."""
        return await self.mark(user, "seen", up_to=up_to)

    async def mark_read(self, user: str, ids: str | Iterable[str]) -> Change:
        """Mark items as read; they count as seen too."""
        return await self.mark(user, "read", ids=ids)

    async def mark_read_up_to(self, user: str, up_to: str) -> Change:
        """Mark every item up to a position as read: with `page.position`, nothing that came after the page was read."""
        return await self.mark(user, "read", up_to=up_to)

    async def mark_unread(self, user: str, ids: str | Iterable[str]) -> Change:
        """Mark items as not read; dismissed ones are active again."""
        return await self.mark(user, "unread", ids=ids)

    async def dismiss(self, user: str, ids: str | Iterable[str]) -> Change:
        """Remove items from the list, until they are restored; they count as read too."""
        return await self.mark(user, "dismissed", ids=ids)

    async def dismiss_up_to(self, user: str, up_to: str) -> Change:
        """Dismiss every item up to a position."""
        return await self.mark(user, "dismissed", up_to=up_to)

    async def dismiss_group(self, user: str, group: str) -> Change:
        """Dismiss the items of a group."""
        return await self.mark(user, "dismissed", group=group)

    async def restore(self, user: str, ids: str | Iterable[str]) -> Change:
        """List dismissed items again; they stay read."""
        return await self.mark(user, "restored", ids=ids)

    # -- other logs ----------------------------------------------------------------------------------------------

    async def follow(self, user: str, topic: str, *, history: bool = False) -> Change:
        """List the items of a topic too, from now on, and show them in the open streams of the user's inbox.

        Args:
            user: who follows.
            topic: the log that `publish` sends to. Topics and users have one space of names: keep them apart, for
                example by a prefix.
            history: list the items that the topic has already, too.

        Raises:
            UsageError: the user follows 99 topics already, merged sessions included; or `topic` is the user.
        """
        _check_other(user, "topic", topic)
        return await self._change(user, "followed", {"topic": plain(topic), "since": "0" if history else None})

    async def unfollow(self, user: str, topic: str) -> Change:
        """Stop listing a topic: its items vanish from the user's inbox."""
        _check_other(user, "topic", topic)
        return await self._change(user, "unfollowed", {"topic": plain(topic)})

    async def merge(self, session: str, into: str) -> Change:
        """Copy what an inbox has, with all states and follows, into another: that of a session, at the login.

        A second merge copies only what has arrived since. The session's own inbox stays as it is.

        Args:
            session: the log of the session.
            into: the user.

        Raises:
            UsageError: there would be more than 99 topics and sessions; or both are the same.
        """
        _check_other(into, "session", session)
        return await self._change(into, "merged", {"session": plain(session), "until": None})

    def following(self, user: str) -> AsyncIterator[str]:
        """Return the topics that a user follows, by name, read in pages.

        Raises:
            BackendUnavailableError: from the iterator: not reachable; safe to repeat.
        """
        check_user(user)
        return Names(partial(self._store.edges, user=plain(user)), lambda follow: follow.topic, self._reading)

    def followers(self, topic: str) -> AsyncIterator[str]:
        """Return the users who follow a topic, by name, read in pages.

        Raises:
            BackendUnavailableError: from the iterator: not reachable; safe to repeat.
        """
        check_user(topic)
        return Names(partial(self._store.edges, topic=plain(topic)), lambda follow: follow.user, self._reading)


def _check_other(user: str, what: str, log: str) -> None:
    check_user(user)
    check_user(log)
    if user == log:
        raise UsageError(f"{what} and user are both {user!r:.80}: an inbox lists its own items anyway")
