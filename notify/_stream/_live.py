"""The live side of a log, for authors of stream stores; every notifier also uses one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from .._runtime._background import Background
from .._runtime._stats import Counters
from ..abc import Position, Store, Stream
from ..errors import ClosedError
from ..event import Event, check_user, plain
from ._catch_up import CatchUp
from ._hub import StreamHub
from ._merged_attachment import check_users
from ._merged_subscription import MergedSubscription
from ._stream_set import StreamSet
from ._subscription import Subscription
from ._user_streams import UserStreams


class Positions(Mapping[str, str | None]):
    """The users with open streams, and the newest position known of each: a live view."""

    __slots__ = ("_users",)

    def __init__(self, users: Mapping[str, UserStreams]) -> None:
        self._users = users

    def __getitem__(self, user: str) -> str | None:
        return self._users[user].last_id

    def get(self, user: str, default: Any = None) -> Any:
        """Return the position, in one step: `Mapping.get` would take two frames and an exception."""
        streams = self._users.get(user)
        return default if streams is None else streams.last_id

    def __contains__(self, user: object) -> bool:
        return user in self._users

    def __iter__(self) -> Iterator[str]:
        return iter(self._users)

    def __len__(self) -> int:
        return len(self._users)


class LiveLog:
    """Turns a store into a stream store.

    A stream store is a store with an attribute `live` (`LiveLog(self, ...)`), a method `subscribe` that returns
    `self.live.subscribe(...)`, and a source of new events, which calls `offer` for each of them, or `catch_up` or
    `resync` where some may have been missed.

    Offers are hints: lost, repeated, late and reordered ones do no harm. But offer only events that are certainly
    stored. If a store refuses an event after offering it, readers have already seen it; as long as storing is not
    certain, call `catch_up([user])` instead.

    Args:
        store: read from; None for a notifier without one.
        background: runs the tasks that read, listen and audit; closed by its owner.
        buffer_size: recent events kept for each user with open streams, hence how many ephemeral events a reader can
            be behind, and how many missed events one query of `catch_up` reads for each user.
        read_timeout: seconds that one read may take before it counts as failed.
        on_open: called with a user whose first stream was opened.
        on_close: called with a user whose last stream was closed. Must not wait: it may run in a finaliser.
        listen: receives from other processes, as `ReceivingRouter.receive` does: `await listen(task_status=...)` runs
            from the first open stream on, until cancelled. It calls `task_status.started()` once new events are being
            received; then the log catches up for all users. When it raises or returns, it is run again after increasing
            delays, the outage is logged once, and until `started()` the log is searched for new events every second.
        is_receiving: returns whether new events are being received, for a store that has its own way to know.
    """

    def __init__(
        self,
        store: Store | None,
        *,
        background: Background,
        buffer_size: int = 64,
        read_timeout: float = 5.0,
        on_open: Callable[[str], None] | None = None,
        on_close: Callable[[str], None] | None = None,
        listen: Callable[..., Awaitable[None]] | None = None,
        is_receiving: Callable[[], bool] | None = None,
    ) -> None:
        counters = self._counters = Counters()
        self._hub = StreamHub(
            store,
            background=background,
            counters=counters,
            buffer_size=buffer_size,
            read_timeout=read_timeout,
            on_open=on_open,
            on_close=on_close,
        )
        self._catch_up = CatchUp(
            self._hub,
            store,
            background=background,
            counters=counters,
            read_timeout=read_timeout,
            listen=listen,
            is_receiving=is_receiving,
        )
        self._hub.start = self._catch_up.start
        self._users = self._hub.users
        self._positions = Positions(self._users)
        self._streams = StreamSet(counters)
        self._hub.sets.append(self._streams)
        self._closed = False

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        """Return a stream that is not open yet.

        Args:
            user: the user whose log is read.
            last_id: as for `Notifier.subscribe`.

        Raises:
            InvalidEventError: `user` is not a user id.
            InvalidEventIdError: `last_id` is not a position.
            ClosedError: the log is closed.
        """
        return self._subscribe(user, last_id, self._streams)

    def _subscribe(
        self,
        user: str,
        last_id: Position,
        stream_set: StreamSet,
        signals: bool = False,
        max_lag: int | None = None,
        track: bool = True,
        expires: float | None = None,
        since: int | None = None,
    ) -> Subscription:
        if self._closed:
            raise ClosedError(f"{self._hub.name} is closed")
        check_user(user)
        return Subscription(
            self._hub,
            stream_set,
            user if user.__class__ is str else plain(user),
            last_id,
            signals,
            max_lag,
            track,
            expires,
            since,
        )

    def _subscribe_many(
        self, users: Iterable[str], last_id: Position, stream_set: StreamSet, *options: Any
    ) -> MergedSubscription:
        if self._closed:
            raise ClosedError(f"{self._hub.name} is closed")
        return MergedSubscription(self._hub, stream_set, check_users(users), last_id, *options)

    def offer(self, event: Event) -> int:
        """Offer a stored event to the open streams of its user; return how many accepted it. Never waits.

        An ephemeral event without a user goes to every open stream.
        """
        return self._hub.offer(event)

    def deliver(self, event: Event | bytes) -> int:
        """Offer an event that another process sent, ignoring echoes; return how many streams accepted it. Never waits.

        For the receiving half of `Ephemerals`. What the library's processes tell each other, for example that a user
        was forgotten, comes this way too and is carried out here.

        Args:
            event: an event, or the bytes of `Event.to_bytes`. Bytes that are not an event are logged and ignored.
        """
        return self._hub.deliver(event)

    def resync(self, user: str | None = None) -> None:
        """Make the open streams of one user, or of all, read the log again, one read each. Never waits."""
        self._hub.resync(user)

    def catch_up(self, users: Iterable[str] | None = None) -> None:
        """Soon look for new events of these users, or of all users with open streams. Never waits.

        If the store can `read_many`, one query serves hundreds of users. Events that are found are offered. If a page
        has a gap or is full, or if the query fails, the user's streams read the log themselves.
        """
        self._catch_up.request(users)

    def positions(self) -> Mapping[str, str | None]:
        """Return a live view of the users with open streams: the newest position known; None while it is not known."""
        return self._positions

    @property
    def is_receiving(self) -> bool:
        """Whether new events of other processes are being received; True without `listen` and `is_receiving`."""
        return self._catch_up.is_receiving

    def close(self) -> None:
        """End every stream; later subscriptions raise ClosedError. Never waits. Idempotent."""
        self._closed = True
        self._hub.close()
