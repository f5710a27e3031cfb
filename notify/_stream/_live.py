"""The live side of a log: what the notifier and every stream store of ours share.

A `LiveLog` turns a store into something that streams: it holds a ring of recent events for each user with an open
stream, offers new events, reads pages for whoever is behind, and audits that no hint was lost.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import anyio
import anyio.lowlevel

from .. import ids
from .._runtime._background import Background
from .._runtime._loop_guard import LoopGuard
from .._runtime._stats import Counters
from .._runtime._waking import wake
from ..abc import Immediate, Page, Position, ReadMany, Store, ability
from ..errors import ClosedError, UsageError
from ..event import Event, check_user, plain
from ._reads import PAGE_SIZE, Reads, as_unavailable, checked_page
from ._ring import Ring
from ._subscription import Subscription, Watermark

logger = logging.getLogger("notify")

RANKS: Final = 64
"""NotifierStreams of one group fall into so many ranks; draining ends them rank by rank."""

_AUDIT_CHUNK: Final = 500


class UserStreams(Ring):
    """The ring of one user with open streams, and who waits for its next entry.

    Invariants:
        I1. `streams` counts the open streams; the topic is registered exactly while it is positive.
        I2. Whoever is in `waiting` has read the whole ring.
    """

    __slots__ = ("streams", "user", "volatile", "waiting")

    def __init__(self, user: str, size: int, *, volatile: bool) -> None:
        super().__init__(size)
        self.user = user
        self.volatile = volatile
        self.streams = 0
        self.waiting: list[Subscription] = []

    def offer(self, event: Event) -> bool:
        """Add an event and wake whoever waits; return False for a duplicate."""
        waiting = self.waiting
        if len(waiting) == self.streams and event.prev == self.last_id and event.id:
            # Nearly every offer: by I2 nobody needs the older entries, and by its `prev` this is the next one.
            self.events = [event]
            self.end += 1
            self.last_id = event.id
            self.waiting = []
            for stream in waiting:
                stream.waiter.wake()  # type: ignore[union-attr]  # who waits has a waiter
            return True
        if not self.append(event):
            return False
        self.wake()
        return True

    def ephemerals_gone(self) -> int:
        """Return how many entries that are in no log can no longer be read."""
        return self.end - self.readable if self.volatile else super().ephemerals_gone()

    def reached(self, position: str, quiet: bool) -> None:
        """Note where a reader's replay ended.

        What one stream read tells the others nothing, so a later position stays for the audit to find. An earlier one,
        with no offer since the read began, means that the log went back: all have to look.

        Args:
            position: the end of the log, as the reader saw it.
            quiet: whether nothing was offered since the read began.
        """
        if self.last_id is None:
            self.last_id = position
        elif quiet and ids.parse(position) < ids.parse(self.last_id):
            self.resync()

    def leave(self, stream: Subscription) -> None:
        """Take a stream out of the waiting ones, in constant time; nothing happens if it does not wait."""
        waiting, slot = self.waiting, stream.slot
        if slot < len(waiting) and waiting[slot] is stream:
            last = waiting.pop()
            if last is not stream:
                waiting[slot] = last
                last.slot = slot

    def wake(self) -> None:
        """Wake every waiting stream."""
        waiting = self.waiting
        if waiting:
            self.waiting = []
            for stream in waiting:
                wake(stream.waiter)

    def resync(self) -> None:
        """Make every stream read the log again."""
        super().resync()
        self.wake()


def _nothing() -> None:
    """Do nothing."""


class StreamSet:
    """NotifierStreams that end together: all those of one notifier, or of one stream store used by itself.

    Attributes:
        cutoff: streams of a lower rank have ended; 0 while open, `RANKS` once closed.
        counters: where their figures are counted.
        opening: called before a stream is opened.
    """

    def __init__(self, counters: Counters) -> None:
        self.cutoff = 0
        self.counters = counters
        self._next_rank = 0
        self.opening: Callable[[], None] = _nothing

    @property
    def closed(self) -> bool:
        """Whether every stream has ended."""
        return self.cutoff >= RANKS

    def next_rank(self) -> int:
        """Return the rank of a new stream: all ranks in turn."""
        self._next_rank = (self._next_rank + 1) % RANKS
        return self._next_rank

    def attached(self, user: str, track: bool) -> None:
        """Note that a stream was opened."""
        self.counters.open_streams += 1

    async def ready(self, user: str, track: bool) -> None:
        """Wait for what a stream needs before its first read; bounded by whoever overrides it."""

    def detached(self, user: str, track: bool) -> None:
        """Note that a stream was closed; called in finalisers too."""
        if not self.closed:
            self.counters.open_streams -= 1

    def close(self) -> None:
        """End every stream of the group."""
        self.cutoff = RANKS
        self.counters.open_streams = 0


class LiveLog:
    """Makes a store stream: for the authors of stream stores, and inside every notifier.

    A stream store of one's own is a store, a `LiveLog(self, ...)`, `subscribe` that returns
    `self.live.subscribe(...)`, and whatever calls `offer` for each new event or `resync` when some may have been
    missed. Offers are hints: lost, doubled, late and reordered ones do no harm.

    Args:
        store: read from; None for a notifier without one.
        background: whose tasks read.
        counters: where figures are counted.
        buffer_size: entries of a user's ring, hence how many ephemeral events a reader can be behind.
        read_timeout: seconds that one read may take before it counts as failed.
        on_open: called with a user who gets a first open stream.
        on_close: called with a user who lost the last; possibly in a finaliser, so it must not wait.

    Attributes:
        origin: tells this live side from those of other instances.
    """

    def __init__(
        self,
        store: Store | None,
        *,
        background: Background,
        counters: Counters | None = None,
        buffer_size: int = 64,
        read_timeout: float = 5.0,
        on_open: Callable[[str], None] | None = None,
        on_close: Callable[[str], None] | None = None,
    ) -> None:
        self.store = store
        self.name = type(store).__name__
        self.origin = secrets.token_hex(8)
        self.background = background
        self.counters = counters or Counters()
        self.loop = LoopGuard("notifier or store")
        self.observe: Callable[[Event], None] | None = None
        self.read_timeout = read_timeout
        self._buffer_size = buffer_size
        self._on_open = on_open
        self._on_close = on_close
        self._topics: dict[str, UserStreams] = {}
        self._group = StreamSet(self.counters)
        self._groups = [self._group]
        self._reads = Reads(self)
        self._immediate: Immediate | None = None
        if ability(store, Immediate, read_nowait="read", head_nowait="head"):
            self._immediate = store
        self._read_many: ReadMany | None = None
        if ability(store, ReadMany, read_many="read"):
            self._read_many = store
        self._closed = False

    # -- for whoever hands out streams ---------------------------------------------------------------------------

    def subscribe(
        self,
        user: str,
        last_id: Position = None,
        *,
        group: StreamSet | None = None,
        signals: bool = False,
        max_lag: int | None = None,
        track: bool = True,
    ) -> Subscription:
        """Return a stream that is not open yet.

        Raises:
            InvalidEventError: `user` is no user id.
            InvalidEventIdError: `last_id` is no position.
            ClosedError: the log is closed.
        """
        if self._closed:
            raise ClosedError(f"{self.name} is closed")
        check_user(user)
        group = group or self._group
        return Subscription(self, group, plain(user), last_id, signals=signals, max_lag=max_lag, track=track)

    def offer(self, event: Event) -> int:
        """Offer an event to the open streams of its user; return how many took it. Never waits.

        An event without a user goes to every open stream.
        """
        topic = self._topics.get(event.user)
        if topic is not None:
            return topic.streams if topic.offer(event) else 0
        if event.user or event.id:
            return 0
        return sum(topic.streams for topic in list(self._topics.values()) if topic.offer(event))

    def resync(self, user: str | None = None) -> None:
        """Make the open streams of one user, or of all, read the log again: some offers may have been lost."""
        if user is None:
            for topic in list(self._topics.values()):  # a finaliser may take topics away meanwhile
                topic.resync()
        elif user in self._topics:
            self._topics[user].resync()

    @property
    def users(self) -> Mapping[str, UserStreams]:
        """The users with open streams."""
        return self._topics

    def add_group(self, group: StreamSet) -> None:
        """Make `aclose` end the streams of this group too."""
        self._groups.append(group)

    def drop_group(self, group: StreamSet) -> None:
        """Forget a group that was closed."""
        self._groups.remove(group)

    def wake_ended(self) -> None:
        """Wake the streams that have ended by their group's cutoff."""
        waiting = [stream for topic in list(self._topics.values()) for stream in topic.waiting]
        for stream in [*waiting, *self._reads.streams()]:
            stream.wake_if_ended()

    def close(self) -> None:
        """End every stream; later subscriptions raise ClosedError. Never waits. Idempotent."""
        self._closed = True
        for group in self._groups:
            group.close()
        self.wake_ended()

    # -- for streams ---------------------------------------------------------------------------------------------

    def attach(self, user: str) -> UserStreams:
        """Count one more open stream of this user and return what it listens to."""
        topic = self._topics.get(user)
        if topic is None:
            topic = self._topics[user] = UserStreams(user, self._buffer_size, volatile=self.store is None)
            if self._on_open is not None:
                self._on_open(user)
        topic.streams += 1
        return topic

    def detach(self, topic: UserStreams) -> None:
        """Count one open stream less; the last one takes the topic along."""
        topic.streams -= 1
        if not topic.streams:
            del self._topics[topic.user]
            if self._on_close is not None:
                self._on_close(topic.user)

    def request(self, stream: Subscription) -> None:
        """Have the page that the stream wants handed to it: at once, or by a task of ours."""
        if self._immediate is None:
            stream.start_reading()
            self._reads.request(stream)
            return
        after = stream.wanted
        try:
            if after is None:
                page = Page((), None, self._immediate.head_nowait(stream.user))
            else:
                page = checked_page(self._immediate.read_nowait(stream.user, after, PAGE_SIZE))
        except UsageError as error:
            stream.fail(error)
        except Exception as error:
            stream.fail(as_unavailable(error, self.name))
        else:
            stream.receive(page, after is None or len(page.events) < PAGE_SIZE, self.watermark(stream.user))

    def prefetch(self, stream: Subscription) -> None:
        """Have the page after the one that the stream still holds read already, unless reading takes no time."""
        if self._immediate is None:
            self.request(stream)

    def watermark(self, user: str) -> Watermark:
        """Return where the user's ring ends now."""
        topic = self._topics.get(user)
        return Watermark(topic, topic.end if topic is not None else 0)

    async def fetch(self, user: str, after: str | None) -> Page:
        """Read one page, or the head alone."""
        assert self.store is not None
        if after is None:
            return Page((), None, await self.store.head(user))
        return await self.store.read(user, after, PAGE_SIZE)

    # -- audit ---------------------------------------------------------------------------------------------------

    async def audit_forever(self, interval: float) -> None:
        """Look for events that no offer announced, again and again, until cancelled.

        Args:
            interval: seconds that may pass at most between two looks; a part of them is drawn at random.
        """
        while True:
            await anyio.sleep(interval * random.uniform(0.6, 0.95))
            try:
                await self.audit()
            except ClosedError:
                self.resync()  # whoever waits reads, learns of it and ends
                return
            except Exception as error:
                self.counters.read_failures += 1
                logger.warning("cannot look for news in %s: %r", self.name, error)

    async def audit(self) -> None:
        """Look once for events that no offer announced: one query for all users where the store can do that."""
        known = {user: topic.last_id for user, topic in list(self._topics.items()) if topic.last_id is not None}
        users = list(known)
        for start in range(0, len(users), _AUDIT_CHUNK):
            part = {user: known[user] for user in users[start : start + _AUDIT_CHUNK]}
            if self._immediate is not None:
                for user, position in part.items():
                    self._compare(user, position, self._immediate.head_nowait(user))
                await anyio.lowlevel.checkpoint()
                continue
            if self._read_many is not None:
                with anyio.fail_after(self.read_timeout):
                    news = await self._read_many.read_many(part, self._buffer_size)
                self._take_news(news)
            else:
                for user, position in part.items():
                    with anyio.fail_after(self.read_timeout):
                        page = await self.fetch(user, None)
                    self._compare(user, position, page.position)

    def _take_news(self, news: Mapping[str, Page]) -> None:
        for user, page in news.items():
            topic = self._topics.get(user)
            if topic is None:
                continue
            if page.gap is not None or len(page.events) >= self._buffer_size:  # there may be more than was asked for
                topic.resync()
            else:
                self._offer_all(topic, page.events)

    def _offer_all(self, topic: UserStreams, events: Iterable[Event]) -> None:
        for event in events:
            topic.offer(event)

    def _compare(self, user: str, position: str, head: str) -> None:
        topic = self._topics.get(user)
        if topic is not None and head != position and topic.last_id == position:
            topic.resync()
