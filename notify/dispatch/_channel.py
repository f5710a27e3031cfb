"""`Channel`: one way to reach people. Written for authors of channels, as is `Outcome`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from ._outcomes import Outcome
from .abc import Endpoint

Priority: TypeAlias = Literal["low", "normal", "high", "critical"]


@dataclass(frozen=True, slots=True)
class Action:
    """A button of a push message.

    Attributes:
        id: the name under which the application learns that it was pressed.
        title: its label.
        url: the URL that it opens; empty: that of the message.
    """

    id: str
    title: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """The text of a message, in the recipient's language. Each channel uses the fields that it can show.

    Attributes:
        title: one line: the title of a push message, the subject of an e-mail.
        body: the text, without markup.
        short: a text for small screens and SMS; empty: `body`.
        html: the text as HTML, for e-mail; empty: none.
        url: the URL that a click on the message opens.
        icon: the URL of a small image.
        image: the URL of a large image.
        tag: a message replaces an older one with the same tag on the device.
        silent: show it without sound or vibration.
        actions: buttons.
        data: further values for the application.
    """

    title: str = ""
    body: str = ""
    short: str = ""
    html: str = ""
    url: str = ""
    icon: str = ""
    image: str = ""
    tag: str = ""
    silent: bool = False
    actions: tuple[Action, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """One message, ready to be sent. The repr shows neither the content nor the address.

    Attributes:
        id: the id of the delivery, the same in each attempt, by which the receiver can recognise a repetition.
        notification: the id of the notification.
        type: the key of its type.
        category: of its type.
        user: the recipient; empty for a recipient without an account.
        channel: the name under which the dispatcher knows this channel.
        endpoint: where to send it; None for a channel without endpoints, such as the inbox.
        content: the text.
        data: the data that was submitted; for a digest, that of its newest notification.
        priority: of its type.
        expires_at: when it becomes worthless; None: never.
        now: the present time, by the dispatcher's clock.
        attempt: 1 for the first attempt.
        locale: the recipient's, such as `"de-AT"`; empty: unknown.
        collapse: notifications with the same value replace each other on the device; empty: they do not.
        headers: headers that the dispatcher adds, such as `List-Unsubscribe` for e-mail.
        alert: False: list it without an alert, because the user has switched this channel off. For the inbox only.
        created_at: when the notification was submitted, the same in each attempt; None: unknown.
        dismiss_url: where a POST dismisses the item of this notification in the inbox, without a login; empty: the
            dispatcher has no links.
        is_digest: True: it stands for several collected notifications, so it is not urgent.
    """

    id: str
    notification: str
    type: str
    category: str
    user: str
    channel: str
    endpoint: Endpoint | None
    content: Content = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)
    priority: Priority
    expires_at: datetime | None
    now: datetime
    attempt: int
    locale: str = ""
    collapse: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    alert: bool = True
    created_at: datetime | None = None
    dismiss_url: str = ""
    is_digest: bool = False


@runtime_checkable
class Channel(Protocol):
    """One way to reach people.

    Attributes:
        has_endpoints: whether it sends to endpoints (devices, addresses); if not, it sends once to each user.
        deduplicates: whether the receiver recognises a repeated `Job.id`, so that a message whose outcome is unknown
            can be sent again.
    """

    has_endpoints: bool
    deduplicates: bool

    @abstractmethod
    async def send(self, job: Job) -> Outcome:
        """Send one message and return the outcome.

        Whatever a provider answers is an outcome, never an exception. An exception is a bug in the channel: the
        dispatcher logs it, and treats it as `Ambiguous`, since it cannot know whether anything was sent.

        Order: none.    Cancellation: unknown; a dispatcher cancels after its `timeout`, and takes that as `Ambiguous`.
        Concurrency: any number of tasks.
        """


@runtime_checkable
class Gated(Protocol):
    """A channel that reaches several providers, each of which throttles by itself: push services, for example."""

    @abstractmethod
    def gate(self, endpoint: Endpoint) -> str:
        """Return the name of the provider that serves an endpoint, as in `Throttled.gate`."""
