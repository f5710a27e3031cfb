"""From the data of a notification to its text: `Templates`, and the implementation that needs no files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from notify.errors import NotifyError

from ._channel import Content

_SHOWN = 10
"""How many notifications of a digest are listed by their titles; the rest is a number."""


class TemplateLimitError(NotifyError):
    """A sandboxed template takes too many steps, or renders too much text. Its deliveries are parked."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a text is made from: the data, the recipient, and the channel on which it will be read.

    Attributes:
        type: the key of the notification's type.
        channel: the name of the channel.
        user: the recipient.
        locale: the recipient's, such as `"de-AT"`; empty: unknown.
        tz: the recipient's IANA zone; empty: unknown.
        data: the data that was submitted; for a digest, that of its newest notification.
        items: the data of each notification of a digest, oldest first, 500 at most; empty: it is not a digest.
        count: how many notifications a digest has, which may be more than `items`.
        unsubscribe_url: the link for unsubscribing; empty: it is not a marketing message, or the dispatcher has no
            `links`.
    """

    type: str
    channel: str
    user: str = ""
    locale: str = ""
    tz: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    items: Sequence[Mapping[str, Any]] = ()
    count: int = 0
    unsubscribe_url: str = ""


@runtime_checkable
class Templates(Protocol):
    """Makes the texts of notifications. `JinjaTemplates` makes them from files; an application can have its own."""

    @abstractmethod
    def render(self, rendering: Rendering) -> Content:
        """Return the content of one message.

        Raises:
            TemplateMissingError: there is no text for this type and channel. The delivery is parked.
            Exception: any other error of the templates. The delivery is parked, too.

        Cost: called on the worker's event loop for each message, so it must not block.
        """


class DataTemplates:
    """Takes the texts from the data.

    They are `title`, `body` (or `message`), `short`, `url` (or `action_url`), `icon`, `image`, `tag` and `silent`. This
    is what a dispatcher without templates uses. A digest lists the titles of its newest ten notifications.
    """

    def render(self, rendering: Rendering) -> Content:
        """See `Templates.render`."""
        if rendering.items:
            return self._digest(rendering)
        data = rendering.data
        return Content(
            title=_text(data, "title") or rendering.type,
            body=_text(data, "body", "message"),
            short=_text(data, "short"),
            url=_text(data, "url", "action_url"),
            icon=_text(data, "icon"),
            image=_text(data, "image"),
            tag=_text(data, "tag"),
            silent=data.get("silent") is True,
        )

    def _digest(self, rendering: Rendering) -> Content:
        count = max(rendering.count, len(rendering.items))
        newest = self.render(Rendering(rendering.type, rendering.channel, data=rendering.items[-1]))
        lines = [_text(item, "title") or rendering.type for item in reversed(rendering.items[-_SHOWN:])]
        if count > len(lines):
            lines.append(f"+ {count - len(lines)}")
        title = f"{newest.title} (+ {count - 1})" if count > 1 else newest.title
        return Content(title, "\n".join(lines), url=newest.url, icon=newest.icon, tag=newest.tag)


def _text(data: Mapping[str, Any], *names: str) -> str:
    """Return the first of these values that is text and not empty."""
    return next((value for name in names if isinstance(value := data.get(name), str) and value), "")
