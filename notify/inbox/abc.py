"""What an inbox consists of, and `InboxStore`, the interface of a store with inboxes. Written for authors of stores.

An inbox is the fold of its user's log: what is left when the events of the log are applied one after the other. Two
kinds of event have an effect on it:

- an **item**: an event whose `meta` contains `ITEM`. It is listed in the inbox until retention, its time to live, or a
  later item of the same log and group removes it.
- a **change**: an event whose type is in `CHANGES`. It affects only items that come before it.

| type | payload | what each item that it names is afterwards |
|---|---|---|
| `notify.seen` | `ids`, `up_to` or `group` | seen |
| `notify.read` | `ids`, `up_to` or `group` | seen, read |
| `notify.unread` | `ids`, `up_to` or `group` | not read, not dismissed |
| `notify.dismissed` | `ids`, `up_to` or `group` | seen, read, dismissed |
| `notify.restored` | `ids`, `up_to` or `group` | not dismissed |
| `notify.followed` | `topic`, `since` | the topic's items after `since` are listed too |
| `notify.unfollowed` | `topic` | the topic's items are no longer listed |
| `notify.merged` | `session`, `until` | the session's items up to `until` are listed too, in their present states |

Each effect is absolute: what an item is afterwards does not depend on what it was before, so applying an event again is
harmless. A time (`seen_at`, ...) is that of the event that brought the item into that state; further events of the same
effect leave it alone.

**The store applies events in the step that appends them**, in every way in which it saves. So the rows of an inbox,
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
"""The name in `meta` that makes an event an item. Its value: when the item expires, in ms since 1970, or empty."""

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
"""How many items one change may name by their ids."""

MAX_TOPICS: Final = 99
"""How many topics one user may follow, merged sessions included: a stream reads at most 100 logs, one is the user's."""

State: TypeAlias = Literal["active", "unread", "read", "dismissed", "all"]
"""`active`: not dismissed. `unread`, `read`: the active items that are. `all`: active and dismissed items."""


@dataclass(frozen=True, slots=True)
class InboxRetention:
    """How many items an inbox keeps, and for how long.

    Attributes:
        max_items: items in one inbox, dismissed ones included. The insert that exceeds it removes the oldest.
        max_age: seconds for which an item is kept after it was sent; None: no limit.
        keep_unread: exempt unread items from `max_age`, and from `max_items` until there are ten times as many.
    """

    max_items: int = 1000
    max_age: float | None = 90 * 86_400.0
    keep_unread: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of an inbox.

    Attributes:
        event: the event that was sent, without its `prev` and `key`, which are not kept. `event.user` is its log.
        id: the event's id; `<id>@<log>` if it comes from another log (a topic, a merged session).
        seen_at: when it was marked as seen; None: unseen.
        read_at: when it was marked as read; None: unread.
        dismissed_at: when it was dismissed; None: active.
        expires_at: when its time to live ends; None: only `InboxRetention` limits it.
    """

    event: Event
    id: str
    seen_at: datetime | None = None
    read_at: datetime | None = None
    dismissed_at: datetime | None = None
    expires_at: datetime | None = None

    @property
    def is_unread(self) -> bool:
        """Whether it is unread."""
        return self.read_at is None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many active items an inbox has.

    Attributes:
        total: all of them.
        unseen: those that are not marked as seen.
        unread: those that are not marked as read.
        position: where these numbers are exact: `notify.adapters.join_positions` of the positions in the user's own
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
        limit: how many items at most; 0: only the counts are wanted.
        state: see `State`.
        types: only items of these types; None: of all.
        group: only items of this group, of any log; None: of all.
        ids: only the items with these ids, in any state, on one page; no other attribute applies. None: any items.
    """

    before: str | None = None
    limit: int = 20
    state: State = "active"
    types: tuple[str, ...] | None = None
    group: str | None = None
    ids: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A part of an inbox, and the counts at the same moment.

    Attributes:
        items: newest first.
        next: `before` of the next page; None: this is the last one.
        counts: of the whole inbox, whatever the page is restricted to.
        position: the same as `counts.position`. Pass it as `up_to` to mark only what was there when this page was read.
    """

    items: Sequence[Item]
    next: str | None
    counts: Counts
    position: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a change did.

    Attributes:
        ids: the items whose state has changed, newest first; at most `MAX_IDS` of them.
        counts: of the inbox afterwards.
        event: the event that was stored; None: nothing changed, so nothing was stored.
    """

    ids: Sequence[str]
    counts: Counts
    event: Event | None


@dataclass(frozen=True, slots=True)
class Follow:
    """That a user follows a topic.

    Attributes:
        user: the follower.
        topic: the name of the log that is followed.
        since: the position in that log after which its items are listed.
    """

    user: str
    topic: str
    since: str


@runtime_checkable
class InboxStore(Store, Protocol):
    """A store that keeps inboxes; the beginning of this module says what it applies, and when.

    Every way of saving applies items: `save`, `save_many`, `save_soon`, `save_in`, an outbox. If an event of a type in
    `CHANGES` is saved, as when a log is copied from another store, that is applied as well. No new id is at or below
    the greatest position that the inbox has seen in this log: after a restored backup or a failover, ids go on above.

    Attributes:
        inbox_retention: set by `notify.inbox.Inbox`, the default until then. Not stored: each process has its own.
    """

    inbox_retention: InboxRetention

    @abstractmethod
    async def change(self, draft: Event) -> Change:
        """Apply a change and append it to the user's log, in one step; store nothing if it changes nothing.

        Followed topics are pulled first (see `pull`). Items that do not exist are ignored. The streams of the user are
        woken as by `save`. For a topic that this change has added, the position of the counts holds the `since` of the
        follow, so a stream that continues from it yields the events that the topic has had since then.

        Args:
            draft: an event of a type in `CHANGES`, checked by the caller. A null `since` of `notify.followed` is
                replaced by the end of the topic's log, and a null `until` of `notify.merged` by the end of the
                session's; the stored event has that value.

        Raises:
            PushRejectedError: certainly not stored; repeating it is safe.
            PushUncertainError: the outcome is unknown; repeating it is safe, too.
            UsageError: more than `MAX_TOPICS` topics would be followed.
            ClosedError: the store is closed.

        Order, cancellation, concurrency: as `Store.save`.
        Cost: one round trip for a mark, whatever the number of items, and a few for a follow or a merge. For a user who
            follows topics, that of `pull` and one more at most.
        """

    @abstractmethod
    async def pull(self, user: str) -> int:
        """Copy what followed topics have got since the last pull into the user's rows; return how many items that are.

        Only the user's rows and positions change: nothing is appended. An item that has replaced another one in
        the topic (`group`) replaces its copy. A pull that is interrupted or concurrent loses and repeats nothing.

        Raises, cancellation, concurrency: as `Forget.forget`.
        Cost: one read if there is nothing new; else proportional to what is new.
        """

    @abstractmethod
    async def items(self, user: str, query: ItemQuery) -> ItemPage:
        """Pull, then return items and counts of one moment.

        Raises:
            BackendUnavailableError: not reachable; safe to repeat.
            ClosedError: the store is closed.

        Cancellation: a pull may have happened or not; no item is lost.
        Concurrency: any number of tasks.
        Cost: one indexed read, whatever the size of the inbox; for a user who follows topics, that of `pull` too.
        """

    @abstractmethod
    async def edges(self, *, user: str = "", topic: str = "", after: str = "", limit: int = 100) -> Sequence[Follow]:
        """Return the next follows of a user, sorted by topic, or of a topic, sorted by user.

        Args:
            user: the follower; this or `topic` is given, not both. Sessions that were merged are not follows.
            topic: what is followed.
            after: the topic or user after which to go on; empty: from the beginning.
            limit: how many at most.

        Raises, cancellation, concurrency: as `Store.read`.
        Cost: one round trip, proportional to what is returned.
        """

    @abstractmethod
    async def sweep(self, limit: int = 500) -> int:
        """Remove at most `limit` due items, of any inbox, and return how many: fewer than `limit` when none are left.

        Raises:
            BackendUnavailableError: not reachable; safe to repeat.
            ClosedError: the store is closed.

        Cancellation: some may be removed already; safe to repeat.
        Concurrency: any number of tasks and processes.
        Cost: proportional to what is removed.
        """
