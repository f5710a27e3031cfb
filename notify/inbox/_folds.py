"""Pure: all inboxes of one store, and who follows which topic.

An `InboxFolds` that is given every appended item and change in order is a complete model of an `InboxStore`. The ends
of logs come from a function, because a log also has other events, which are not given.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from notify import Event, UsageError, ids

from ._fold import MARKS, Followed, InboxFold, ids_of
from .abc import MAX_IDS, MAX_TOPICS, Counts, Follow, InboxRetention, ItemPage, ItemQuery

_FOLLOWED: Final = "notify.followed"
_UNFOLLOWED: Final = "notify.unfollowed"
_MERGED: Final = "notify.merged"
_OF_LOGS: Final = frozenset({_FOLLOWED, _UNFOLLOWED, _MERGED})

SWEPT: Final = 1000
"""How many inboxes one step of a sweep looks at."""


class InboxFolds:
    """The inboxes of all users.

    Args:
        head: returns the end of a user's log, `"0"` if there is none.

    Attributes:
        retention: how many items each inbox keeps, and for how long.
    """

    def __init__(self, head: Callable[[str], str]) -> None:
        self.retention = InboxRetention()
        self._head = head
        self._folds: dict[str, InboxFold] = {}
        self._followers: dict[str, list[str]] = {}

    # -- writing -------------------------------------------------------------------------------------------------

    def apply(self, event: Event, now: int) -> None:
        """Apply an item or a change that has been appended to the log of its user."""
        fold = self._folds.get(event.user)
        if fold is None:
            fold = self._folds[event.user] = InboxFold(event.user)
        fold.apply(event, now, self.retention)
        if event.type in _OF_LOGS:
            self._apply_to_logs(fold, event, now)

    def _apply_to_logs(self, fold: InboxFold, event: Event, now: int) -> None:
        """Apply a follow, unfollow or merge; a payload that the library does not write has no effect."""
        match event.payload:
            case {"topic": str(topic), "since": str(since)} if event.type == _FOLLOWED and ids.is_id(since):
                if topic not in fold.logs and topic != fold.user:
                    fold.follow(topic, since)
                    insort(self._followers.setdefault(topic, []), fold.user)
            case {"topic": str(topic)} if event.type == _UNFOLLOWED and fold.unfollow(topic):
                self._remove_follower(topic, fold.user)
            case {"session": str(session), "until": str(until)} if event.type == _MERGED and ids.is_id(until):
                if session == fold.user:
                    return
                for topic in fold.merge(session, self._fold(session), until, now, self.retention):
                    if not fold.logs[topic].merged:
                        insort(self._followers.setdefault(topic, []), fold.user)

    def prepare(self, draft: Event, now: int) -> tuple[Event | None, Sequence[str]]:
        """Return the event to append for a change (None: nothing would change) and the ids of the items it affects.

        Followed topics are pulled first. A `since` or `until` that the draft leaves open is filled in.

        Raises:
            UsageError: more than `MAX_TOPICS` logs would be followed or merged.
        """
        self.pull(draft.user, now)
        fold = self._fold(draft.user)
        if draft.type in MARKS:
            rows = fold.found(draft, now, self.retention)
            return (draft if rows else None), ids_of(rows, MAX_IDS)
        return self._prepare_logs(fold, draft), ()

    def _prepare_logs(self, fold: InboxFold, draft: Event) -> Event | None:
        payload = draft.payload
        if draft.type == _UNFOLLOWED:
            followed = fold.logs.get(payload["topic"])
            return None if followed is None or followed.merged else draft
        if draft.type == _FOLLOWED:
            topic = payload["topic"]
            if topic in fold.logs or topic == fold.user:
                return None
            self._check_room(fold, {topic})
            return _completed(draft, "since", self._end(topic))
        session = payload["session"]
        draft = _completed(draft, "until", self._end(session))
        known = fold.logs.get(session, Followed(ids.ZERO, ids.ZERO))
        if session == fold.user or ids.compare(draft.payload["until"], known.position) <= 0:
            return None
        self._check_room(fold, {session, *self._fold(session).logs} - {fold.user})
        return draft

    def _check_room(self, fold: InboxFold, new: set[str]) -> None:
        if len(fold.logs.keys() | new) > MAX_TOPICS:
            raise UsageError(f"a user can follow {MAX_TOPICS} topics, merged sessions included: unfollow some first")

    def _remove_follower(self, topic: str, user: str) -> None:
        followers = self._followers[topic]
        followers.remove(user)
        if not followers:
            del self._followers[topic]

    def pull(self, user: str, now: int) -> int:
        """Copy what the followed topics of a user have got since the last pull, and return how many items."""
        fold = self._folds.get(user)
        if fold is None or not fold.logs:
            return 0
        topics = [topic for topic, followed in fold.logs.items() if not followed.merged]
        return sum(fold.pull(topic, self._folds.get(topic), self._end(topic), now, self.retention) for topic in topics)

    def sweep(self, limit: int, now: int) -> int:
        """Remove at most `limit` due items of any inbox, and return how many. Cost: linear in the number of inboxes."""
        return sum(self.sweeping(limit, now))

    def sweeping(self, limit: int, now: int) -> Iterator[int]:
        """Do what `sweep` does in steps of a few inboxes, and yield how many items each removed.

        Between two steps, anything else may be done with the inboxes.
        """
        users = [*self._folds]
        for start in range(0, len(users), SWEPT):
            removed = 0
            for user in users[start : start + SWEPT]:
                fold = self._folds.get(user)
                if fold is not None and removed < limit:
                    removed += fold.remove_due(now, self.retention, limit - removed)
            yield removed
            limit -= removed
            if limit <= 0:
                return

    def forget(self, user: str) -> None:
        """Remove an inbox, the follows of its user, and as a topic from the inboxes of its followers."""
        fold = self._folds.pop(user, None)
        for topic, followed in () if fold is None else fold.logs.items():
            if not followed.merged:
                self._remove_follower(topic, user)
        for follower in self._followers.pop(user, ()):
            self._folds[follower].unfollow(user)

    def _fold(self, user: str) -> InboxFold:
        """Return a user's inbox; if there is none, an empty one, which is not kept."""
        return self._folds.get(user) or InboxFold(user)

    def _end(self, user: str) -> str:
        """Return the end of a log: also that of a log that was lost or has expired, as far as its inbox has seen it."""
        head, fold = self._head(user), self._folds.get(user)
        return head if fold is None or fold.position == head else max(head, fold.position, key=ids.parse)

    def clear(self) -> None:
        """Remove everything."""
        self._folds.clear()
        self._followers.clear()

    # -- reading -------------------------------------------------------------------------------------------------

    def users(self) -> set[str]:
        """Return the names of all users who have an inbox, and of all topics that are followed."""
        return self._folds.keys() | self._followers.keys()

    def counts(self, user: str, now: int) -> Counts:
        """Return the counts of an inbox, as it is after the last pull."""
        return self._fold(user).counts(self._end(user), now, self.retention)

    def page(self, user: str, query: ItemQuery, now: int) -> ItemPage:
        """Return items and counts of an inbox, as it is after the last pull.

        Raises:
            InvalidEventIdError: `query.before` is not the id of an item.
        """
        return self._fold(user).page(query, self._end(user), now, self.retention)

    def edges(self, user: str, topic: str, after: str, limit: int) -> Sequence[Follow]:
        """Return the next follows of a user, or of a topic; see `notify.inbox.abc.InboxStore.edges`."""
        if topic:
            followers = self._followers.get(topic, [])
            start = bisect_right(followers, after)
            return [Follow(name, topic, self._folds[name].logs[topic].since) for name in followers[start:][:limit]]
        fold = self._fold(user)
        names = sorted(name for name, followed in fold.logs.items() if not followed.merged and name > after)
        return [Follow(user, name, fold.logs[name].since) for name in islice(names, limit)]


def _completed(draft: Event, name: str, value: str) -> Event:
    """Return the draft with this member of its payload filled in, unless it has a value already."""
    payload = draft.payload
    if payload.get(name) is not None:
        return draft
    return Event(
        draft.user,
        draft.type,
        payload | {name: value},
        timestamp=draft.timestamp,
        group=draft.group,
        key=draft.key,
        meta=draft.meta,
    )
