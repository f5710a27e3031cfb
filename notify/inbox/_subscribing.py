"""`Inbox.subscribe`, and the tasks that all streams of an Inbox share."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from datetime import datetime
from typing import Any, cast
from weakref import ref

import anyio

from notify import BackendError, ClosedError, Notifier, NotifyError, Position, UsageError
from notify.adapters import OutageLog, backoff

from ._base import DEFAULT_RETENTION, InboxBase
from ._counting import Counting
from ._hooks import Hook
from ._steering import Inner, SteeredStream
from ._stream import InboxStream
from .abc import MAX_TOPICS, Counts, InboxRetention, ItemQuery

logger = logging.getLogger("notify")


class InboxSubscribing(InboxBase):
    """Adds streams to an inbox."""

    def __init__(
        self, notifier: Notifier[Any], *, retention: InboxRetention = DEFAULT_RETENTION, hooks: Iterable[Hook] = ()
    ) -> None:
        super().__init__(notifier, retention=retention, hooks=hooks)
        self._counting = Counting(self._counts, self._background)
        self._follows_outage = OutageLog(
            logger,
            "what users follow cannot be read, so open streams of inboxes may show other topics, which is retried",
            "what users follow is read again",
        )

    def subscribe(
        self,
        user: str,
        last_id: Position = None,
        *,
        session: str = "",
        addresses: Iterable[str] = (),
        signals: bool = False,
        track: bool = True,
        max_lag: int | None = None,
        expires_at: datetime | None = None,
        disconnected_since: int | None = None,
    ) -> InboxStream:
        """Return a stream of what an inbox receives: first the events in its logs after `last_id`, then live ones.

        It is a `MergedStream` of the user's own log, the further logs, and the topics that the user follows. Items and
        changes are ordinary events in it. A follow takes effect in stream order, on every instance: after
        `notify.followed` the stream also yields the topic's events since the follow, and after `notify.unfollowed` no
        more of them. If `last_id` has no position for a followed topic, its events since the follow are yielded, unless
        only new events are wanted.

        Args:
            user: whose inbox.
            last_id: as for `Notifier.subscribe`; a plain id is a position in the user's own log.
            session: a further log, that of a session.
            addresses: further logs, for example that of a page.
            signals: also yield `notify.gap`, `notify.sync` and `notify.counts`. The last follows items, changes, and
                the expiry of items that were yielded, after a short delay and once for a burst. Its payload is
                `{"total", "unseen", "unread", "position"}`: the counts, exact for that position. `notify.sync` has the
                same payload, or an empty one if the counts cannot be read. Neither has an id of its own.
            track: as for `Notifier.subscribe`.
            max_lag: as for `Notifier.subscribe`.
            expires_at: as for `Notifier.subscribe`.
            disconnected_since: as for `Notifier.subscribe`.

        Raises:
            InvalidEventError: `user`, `session` or an address is not a user id.
            InvalidEventIdError: `last_id` is not a position.
            UsageError: as by `Notifier.subscribe` for several users.
            ClosedError: the notifier is closed or draining. Opening the stream raises it if the inbox is closed.
        """
        if isinstance(addresses, str) or not isinstance(addresses, Iterable):
            raise UsageError(f"addresses must be an iterable of user ids, not {addresses!r:.80}")
        logs = [user, *([session] if session else ()), *addresses]
        inner = self._notifier.subscribe(
            logs,
            last_id,
            signals=True,
            track=track,
            max_lag=max_lag,
            expires_at=expires_at,
            disconnected_since=disconnected_since,
        )
        return InboxStream(
            cast("Inner", inner), last_id, signals=signals, read_follows=self._start_reading, counting=self._counting
        )

    async def _counts(self, user: str) -> Counts:
        with self._reading():
            return (await self._store.items(user, ItemQuery(limit=0))).counts

    def _start_reading(self, stream: ref[SteeredStream], user: str) -> None:
        self._background.start(self._read_follows, stream, user)

    async def _read_follows(self, reference: ref[SteeredStream], user: str) -> None:
        """Read what a user follows, for one stream. A failure ends its opening; once it is open, it is retried."""
        delays = backoff(random.random)
        error: NotifyError = ClosedError("the inbox is closed")
        answered = False
        try:
            while not answered and reference() is not None:
                try:
                    with self._reading():
                        head = await self._store.head(user)
                        follows = await self._store.edges(user=user, limit=MAX_TOPICS)
                except NotifyError as failure:
                    error = failure
                    if not isinstance(failure, BackendError) or not _is_open(reference):
                        return
                    self._follows_outage.failed(failure)
                    await anyio.sleep(next(delays))
                else:
                    self._follows_outage.recovered()
                    stream = reference()
                    if stream is not None:
                        stream.follows_read(head, follows)
                    answered = True
        finally:
            stream = reference()
            if not answered and stream is not None:
                stream.follows_failed(error)


def _is_open(reference: ref[SteeredStream]) -> bool:
    stream = reference()
    return stream is not None and stream.is_ready
