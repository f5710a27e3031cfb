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
    """

    def __init__(self, site: Site, session: Session, translation: Translation | None) -> None:
        self._site, self._session, self._translation = site, session, translation
        self._is_synced = False

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

    async def read(self) -> list[str]:
        """Return the next frames: those in hand, a heartbeat if one is due, none if the session was woken.

        Raises:
            Ended: the stream is to end.
        """
        if self._is_synced:
            return self._encoded(await self._session.next())
        return self._encoded(await self._session.next_in_turn())

    def _encoded(self, event: Event | None) -> list[str]:
        session = self._session
        if event is None:
            is_due = time.monotonic() >= session.written + self._site.options.heartbeat
            return [PING] if is_due else []
        frames, size = list[str](), 0
        while event is not None:
            for text in self._texts(event):
                frames.append(text)
                size += len(text)
            event = session.stream.next_nowait() if size < CHUNK else None
        return frames

    def _texts(self, event: Event) -> Iterator[str]:
        if event.type == "notify.sync":
            yield from self._sync(event)
        elif self._translation is not None:
            id_ = self._translation.id_of(event, self._session.last_id)
            yield from texts_of(self._translation.frames(event), id_)
        elif event.type == "notify.gap":
            yield ws_text(one_line({**event.payload, "user": event.user}), event="notify.gap")
        elif event.type == "notify.counts":
            yield ws_text(event.data, event="notify.counts")
        else:
            session = self._session
            yield self._site.frames.ws(event, event.id if session.is_one_log else session.last_id)

    def _sync(self, event: Event | None = None) -> Iterator[str]:
        self._is_synced = True
        if self._translation is not None:
            yield from texts_of(self._translation.sync(event))
            return
        position = self._session.last_id
        data = one_line({"position": position, "heartbeat": self._site.options.heartbeat})
        yield ws_text(b"%b%b}" % (data[:-1], sync_members(event)), event="notify.sync", id=position)


def texts_of(frames: Iterable[Frame], id_: str = "") -> Iterator[str]:
    """Yield the texts of a dialect's frames."""
    for frame in frames:
        yield ws_text(frame.data or b"null", event=frame.name, id=id_)
