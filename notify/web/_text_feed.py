"""The frames of one stream as texts, for a WebSocket: what `_sse.FrameFeed` is for server-sent events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final

from notify import Event

from ._dialects import Frame
from ._frames import one_line, sync_members, ws_text
from ._session import Session
from ._site import Site
from ._translation import Translation

PING: Final = ws_text(b"{}", event="notify.ping")

CHUNK: Final = 65_536
"""Characters of frames that are encoded before they are sent, roughly."""


class TextFeed:
    """The frames of one stream.

    Args:
        site: the application.
        session: entered.
        translation: the frames of the dialect, if there is one.

    Attributes:
        is_synced: whether the replay is over.
    """

    def __init__(self, site: Site, session: Session, translation: Translation | None) -> None:
        self._site, self._session, self._translation = site, session, translation
        self.is_synced = False

    def beginning(self) -> Iterator[str]:
        """Yield the frames that precede those of the stream."""
        session = self._session
        if self._translation is not None:
            yield from texts_of(self._translation.beginning())
        if session.is_invalid:
            gap = {"reason": "invalid", "from": "", "to": session.last_id, "user": session.user}
            yield ws_text(one_line(gap), event="notify.gap")
        if not session.has_log:
            yield from self._sync()

    def encoded(self, event: Event | None) -> list[str]:
        """Return the frames of an event and of those that are in hand after it.

        Args:
            event: what the session's `next` has returned; for None, a heartbeat if one is due, and nothing otherwise.
        """
        session = self._session
        if event is None:
            is_due = time.monotonic() >= session.written + self._site.options.heartbeat
            return [PING] if is_due else []
        frames, size = list[str](), 0
        while event is not None:
            texts = self._texts(event)
            frames += texts
            size += sum(map(len, texts))
            event = session.stream.next_nowait() if size < CHUNK else None
        return frames

    def _texts(self, event: Event) -> list[str]:
        if event.type == "notify.sync":
            return self._sync(event)
        if self._translation is not None:
            id_ = self._translation.id_of(event, self._session.last_id)
            return texts_of(self._translation.frames(event), id_)
        if event.type == "notify.gap":
            return [ws_text(one_line({**event.payload, "user": event.user}), event="notify.gap")]
        if event.type == "notify.counts":
            return [ws_text(event.data, event="notify.counts")]
        session = self._session
        return [self._site.frames.ws(event, event.id if session.is_one_log else session.last_id)]

    def _sync(self, event: Event | None = None) -> list[str]:
        self.is_synced = True
        if self._translation is not None:
            return texts_of(self._translation.sync(event))
        position = self._session.last_id
        data = one_line({"position": position, "heartbeat": self._site.options.heartbeat})
        return [ws_text(b"%b%b}" % (data[:-1], sync_members(event)), event="notify.sync", id=position)]


def texts_of(frames: Iterable[Frame], id_: str = "") -> list[str]:
    """Return the texts of a dialect's frames."""
    return [ws_text(frame.data or b"null", event=frame.name, id=id_) for frame in frames]
