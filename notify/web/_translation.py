"""Pure: one connection's use of a dialect: each event becomes frames of a name and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from notify import Event
from notify.inbox.abc import CHANGES

from ._dialects import Dialect, Frame, Since, gone, members_of, mode_of, steps_of

MAX_GROUPS: Final = 1000
"""Groups whose latest notification a connection remembers, to say that it was replaced."""


class Translation:
    """One connection's frames: pure, and bounded in what it remembers.

    Args:
        dialect: whose.
        position: the position that the client gave; empty for none.
        since: its `?since=`; empty for none.
        now: seconds since 1970.
        logs: how many logs are read.

    Attributes:
        dialect: whose.
        position: where the stream starts.
    """

    def __init__(self, dialect: Dialect, position: str, since: str, now: float, logs: int = 1) -> None:
        ours = Since(position) if position and dialect.is_resumed else dialect.start(since, now, logs)
        self.position, self._seen = ours
        self.dialect = dialect
        self._latest: dict[tuple[str, str], str] = {}  # by user and group
        self._is_live = False

    def beginning(self) -> Iterator[Frame]:
        """Yield the frames before all others."""
        if self.dialect.hello is not None:
            yield self.dialect.hello

    def sync(self, event: Event | None = None) -> Iterator[Frame]:
        """Yield the frames after the replay; its signal, if there was one, may contain the counts of an inbox."""
        self._is_live = True
        if self.dialect.sync is not None:
            yield self.dialect.sync
        if event is not None:
            yield from self.dialect.changed(event)

    def id_of(self, event: Event, last_id: str) -> str:
        """Return the id of an event's frames, for a stream that is at `last_id` after it; empty for none."""
        return last_id if self.dialect.is_resumed and event.id else ""

    def frames(self, event: Event) -> Iterator[Frame]:
        """Yield the frames that an event becomes: none, if the client has it already."""
        if event.type == "notify.sync":
            yield from self.sync(event)
        elif event.type == "notify.gap":
            yield Frame(event.type, event.data)  # under a name that these clients have no handler for
        elif event.type in CHANGES or event.type == "notify.counts":
            yield from self._changed(event)
        elif not self.is_known(event):
            if self.dialect.is_flushed:
                yield from self._replaced(event)
            yield self.dialect.frame(event)

    def is_known(self, event: Event) -> bool:
        """Whether the client has an event of the replay, or does not want it."""
        if event.type in CHANGES or event.type == "notify.counts":
            return True
        if self._is_live or not event.id or (self.dialect.is_flushed and mode_of(event) != "timeseries"):
            return False
        if self._seen is None:
            return self.dialect.is_flushed  # a series is repeated only to a client that says since when
        return steps_of(event.id) <= self._seen

    def _changed(self, event: Event) -> Iterator[Frame]:
        """Yield the frames of a change: of a group that is dismissed the latest notification is known here alone."""
        yield from self.dialect.changed(event)
        if self.dialect.is_flushed and event.type == "notify.dismissed":
            group = members_of(event).get("group")
            for place in [place for place in self._latest if place[1] == group]:
                yield gone(self._latest.pop(place))

    def _replaced(self, event: Event) -> Iterator[Frame]:
        if event.group is None:
            return
        place = (event.user, event.group)
        replaced = self._latest.pop(place, None)
        if replaced is not None:
            yield gone(replaced)
        if event.id:
            self._latest[place] = event.id
            if len(self._latest) > MAX_GROUPS:
                del self._latest[next(iter(self._latest))]
