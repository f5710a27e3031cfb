"""What an inbox consists of, and the interface of a store that keeps inboxes: adapter authors read this.

An inbox is the fold of its user's log. Two kinds of event have an effect on it:

- an **item**: an event whose `meta` contains `ITEM`. It is listed in the inbox until retention, its time to live, or a
  later item of the same log and group removes it.
- a **change**: an event whose type is in `CHANGES`. It affects only items that are before it.

| type | payload | effect on each item that it names |
|---|---|---|
| `notify.seen` | `ids`, `up_to` or `group` | seen |
| `notify.read` | `ids`, `up_to` or `group` | seen, read |
| `notify.unread` | `ids`, `up_to` or `group` | not read, not dismissed |
| `notify.dismissed` | `ids`, `up_to` or `group` | seen, read, dismissed |
| `notify.restored` | `ids`, `up_to` or `group` | not dismissed |
| `notify.followed` | `topic`, `since` | the topic's items after `since` are listed too |
| `notify.unfollowed` | `topic` | the topic's items are no longer listed |
| `notify.merged` | `session`, `until` | the session's items up to `until` are listed too, in their present states |

Each effect is absolute: it says what an item is afterwards, whatever it was before. A time (`seen_at`, ...) is that of
the first event that had this effect since the item last was without it.

**The store applies events in the step that appends them**, in every way in which it saves, so the rows of an inbox,
its counters and the end of its log never disagree, and log retention removes nothing that has not been applied.

An item is *due*, and no longer exists for any method, once its `expires_at` has come, or once it is older than
`InboxRetention.max_age` (unless that keeps it because it is unread). Due items are removed by the next write to their
inbox and by `sweep`; until then, reads leave them out and subtract them from the counts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

from notify.abc import Store
from notify.event import Event

ITEM: Final = "notify.item"
"""The name in `meta` that makes an event an item. Its value is when that expires, in ms since 1970, or empty."""

CHANGES: Final = frozenset(
    {
        "notify.seen",
        "notify.read",
        "notify.unread",
        "notify.dismissed",
        "notify.restored",
        "notify.followed",
        "notify.unfollowed",
        "notify.merged",
    }
)
"""The types of events that change an inbox."""

MAX_IDS: Final = 1000
"""Items that one change may name by their ids."""

MAX_TOPICS: Final = 99
"""Topics that one user may follow and sessions merged into one inbox, together: a stream reads at most 100 logs."""

State: TypeAlias = Literal["active", "unread", "read", "dismissed", "all"]
"""`active`: not dismissed. `unread` and `read`: active ones. `all`: dismissed ones too."""


@dataclass(frozen=True, slots=True)
class InboxRetention:
    """How many items an inbox keeps, and for how long.

    Attributes:
        max_items: items of each inbox, dismissed ones too; the oldest are removed by the insert that exceeds it.
        max_age: seconds since an item was sent; None: without a limit.
        keep_unread: unread items are removed neither because of their age, nor by `max_items` unless there are more
            than ten times as many.
    """

    max_items: int = 1000
    max_age: float | None = 90 * 86_400.0
    keep_unread: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of an inbox.

    Attributes:
        event: the event that was sent. `prev` and `key` are not kept. `event.user` is the log from which it comes.
        id: the event's id; `<id>@<log>` if it comes from another log (a topic, a merged session).
        seen_at: when it was first shown; None: not yet.
        read_at: when it was read; None: unread.
        dismissed_at: when it was dismissed; None: active.
        expires_at: when it vanishes by itself; None: with `InboxRetention`.
    """

    event: Event
    id: str
    seen_at: datetime | None = None
    read_at: datetime | None = None
    dismissed_at: datetime | None = None
    expires_at: datetime | None = None

    @property
    def is_unread(self) -> bool:
        """Whether it was not read."""
        return self.read_at is None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many active items an inbox has.

    Attributes:
        total: all of them.
        unseen: those that were never shown.
        unread: those that were not read.
        position: for which these numbers are exact: `notify.adapters.join_positions` of the positions in the user's
            log and in each log that is followed or was merged.
    """

    total: int = 0
    unseen: int = 0
    unread: int = 0
    position: str = "0"


@dataclass(frozen=True, slots=True)
class ItemQuery:
    """Which items to read, newest first: by descending id, then log.

    Attributes:
        before: only items that come after this one in the list; an item's id, whether or not it still exists.
        limit: items at most; 0 for the counts alone.
        state: see `State`.
        types: only items of these types; None: of all.
        group: only items of this group, of any log; None: of all.
        id: only the item with this id, in any state; the other filters do not apply.
    """

    before: str | None = None
    limit: int = 20
    state: State = "active"
    types: tuple[str, ...] | None = None
    group: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A part of an inbox, read consistently with the counts.

    Attributes:
        items: newest first.
        next: `before` of the next page; None if this is the last one.
        counts: of the whole inbox, at the same moment.
        position: as `counts.position`; `up_to` of a mark that is to affect nothing that came after this page was read.
    """

    items: Sequence[Item]
    next: str | None
    counts: Counts
    position: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a change did.

    Attributes:
        ids: the items that are now in another state; newest first; at most `MAX_IDS` of them.
        counts: of the inbox after it.
        event: the event that was stored; None if nothing changed, so that nothing was stored.
    """

    ids: Sequence[str]
    counts: Counts
    event: Event | None


@dataclass(frozen=True, slots=True)
class Follow:
    """That a user follows a topic.

    Attributes:
        user: who follows.
        topic: the log that is followed.
        since: the position in that log after which its items are listed.
    """

    user: str
    topic: str
    since: str


@runtime_checkable
class InboxStore(Store, Protocol):
    """A store that keeps inboxes; see the beginning of this module for what it applies, and when.

    Every way of saving applies items: `save`, `save_many`, `save_soon`, `save_in`, an outbox. An event of a change type
    that is saved (a log that is copied from elsewhere) is applied as well. An id is never given at or below the
    greatest position that the inbox has seen in this log: after a restored backup or a failover, ids continue above it.

    Attributes:
        inbox_retention: set by `notify.inbox.Inbox`; the default until then.
    """

    inbox_retention: InboxRetention

    @abstractmethod
    async def change(self, draft: Event) -> Change:
        """Apply a change and append it to the user's log, in one step; store nothing if it changes nothing.

        Followed topics are pulled first (see `pull`). Items that do not exist are ignored. The streams of the user are
        woken as by `save`.

        Args:
            draft: an event of a type in `CHANGES` for the user, checked by the caller. For `notify.followed`, a
                `since` of null is replaced by the end of the topic's log, and the stored event contains that; the
                same holds for `until` of `notify.merged`.

        Raises:
            PushRejectedError: certainly not stored.
            PushUncertainError: the outcome is unknown. Repeating a change is harmless.
            UsageError: more than `MAX_TOPICS` topics would be followed.
            ClosedError: the store is closed.

        Order, cancellation, concurrency: as `Store.save`.
        Cost: one round trip, whatever the number of items; for a user who follows topics, one more.
        """

    @abstractmethod
    async def pull(self, user: str) -> int:
        """Copy the items that followed topics have got since the last pull into the user's rows; return how many.

        Only rows and positions of the user change: nothing is appended. Items of a topic that replace others (`group`)
        replace their copies as well. An interrupted or concurrent pull loses and repeats nothing.

        Raises, cancellation, concurrency: as `Forget.forget`.
        Cost: one read if there is nothing new; else proportional to what is new.
        """

    @abstractmethod
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        """Return items and counts, with what followed topics have got.

        Raises:
            BackendUnavailableError: not reachable; safe to repeat.
            ClosedError: the store is closed.

        Cancellation: no item is lost.
        Concurrency: any number of tasks.
        Cost: one indexed read, whatever the size of the inbox; for a user who follows topics, that of `pull` too.
        """

    @abstractmethod
    async def edges(self, *, user: str = "", topic: str = "", after: str = "", limit: int = 100) -> Sequence[Follow]:
        """Return the topics that a user follows, or the followers of a topic, by name, after the name `after`.

        Exactly one of `user` and `topic` is given. Sessions that were merged are not among them.

        Raises, cancellation, concurrency: as `Store.read`.
        Cost: one round trip, proportional to what is returned.
        """

    @abstractmethod
    async def sweep(self, limit: int = 500) -> int:
        """Remove due items, of any inbox, and return how many: fewer than `limit` when none are left.

        Raises:
            BackendUnavailableError: not reachable; safe to repeat.
            ClosedError: the store is closed.

        Cancellation: some may be removed already; safe to repeat.
        Concurrency: any number of tasks and processes.
        Cost: proportional to what is removed.
        """
