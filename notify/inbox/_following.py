"""Pure: which topics a stream reads, from what the store answers and from the events in the user's log.

Both say which topics a user follows, but at different times: the store's answer is of the moment when it is read, while
a replay of the log repeats follows of long ago. Positions in the user's own log decide which of them is newer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from notify import Event, Position, ids
from notify.adapters import split_positions

from .abc import Follow


class Steps(NamedTuple):
    """What a stream has to do: read the topics `add`, each from a position, and stop reading the topics `remove`."""

    add: Mapping[str, str]
    remove: Iterable[str]


NOTHING = Steps({}, ())


class FollowSet:
    """The topics that one user follows, as far as a stream of that user knows.

    Attributes:
        topics: by name, each with the position after which its items are listed.
    """

    def __init__(self) -> None:
        self.topics: dict[str, str] = {}
        self._known = ids.ZERO  # the position in the user's log up to which `topics` accounts for everything
        self._steered: dict[str, str] = {}  # the latest event after that by which each topic was steered

    def replace(self, follows: Iterable[Follow], head: str) -> Steps:
        """Accept what the store has answered.

        Args:
            follows: all topics that the user follows.
            head: the end of the user's log, read before `follows`, which therefore include every event up to it.
        """
        found = {follow.topic: follow.since for follow in follows}
        self._steered = {topic: id for topic, id in self._steered.items() if ids.compare(id, head) > 0}
        for topic in self._steered:  # the answer may be older than these events, which were read from the log
            if topic in self.topics:
                found[topic] = self.topics[topic]
            else:
                found.pop(topic, None)
        add = {topic: since for topic, since in found.items() if topic not in self.topics}
        remove = [topic for topic in self.topics if topic not in found]
        self.topics = found
        if ids.compare(head, self._known) > 0:
            self._known = head
        return Steps(add, remove)

    def steer(self, event: Event) -> Steps:
        """Accept an event of the user's own log; one that `topics` already includes changes nothing."""
        payload: Any = event.payload
        match payload:
            case {"topic": str(topic)} if ids.compare(event.id, self._known) > 0:
                self._steered[topic] = event.id
            case _:
                return NOTHING
        if event.type == "notify.unfollowed":
            return Steps({}, () if self.topics.pop(topic, None) is None else (topic,))
        since = payload.get("since")
        if topic in self.topics or not ids.is_id(since):
            return NOTHING
        self.topics[topic] = since
        return Steps({topic: since}, ())


def start_of(topic: str, since: str, last_id: Position, user: str) -> Position:
    """Return from where a stream that starts at `last_id` reads a topic that the user follows since a position.

    If `last_id` has a position for the topic, that is it. Otherwise the topic was not read when `last_id` was made, so
    the reader has seen nothing after `since`. If only new events are wanted (None), or those after a time, that counts.
    """
    if last_id is None or last_id == "":
        return None
    if isinstance(last_id, datetime):
        return since if ids.compare(since, ids.before(last_id)) > 0 else last_id
    return last_id if topic in split_positions(last_id, [user, topic]) else since


def is_plain_id(last_id: Position) -> bool:
    """Return whether this is the position of a stream that read only one log, the user's own."""
    return isinstance(last_id, str) and last_id != ids.ZERO and ids.is_id(last_id)
