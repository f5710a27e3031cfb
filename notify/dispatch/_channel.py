"""`Channel`: what reaches people. Written for authors of channels, together with `Outcome`."""

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
        id: what the application is told when it is pressed.
        title: what it says.
        url: what it opens; empty: the message's own.
    """

    id: str
    title: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """What people read, in their language. Each channel takes what it can show.

    Attributes:
        title: one line: the title of a push message, the subject of an e-mail.
        body: the text, without markup.
        short: a text for small screens and SMS; empty: `body`.
        html: the text as HTML, for e-mail; empty: none.
        url: what is opened.
        icon: URL of a small picture.
        image: URL of a large picture.
        tag: a message with the same tag replaces the older one on the device.
        silent: without sound.
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
    """One message, ready to be sent.

    Attributes:
        id: the id of the delivery, the same in each attempt: what lets the far side recognise a repetition.
        notification: the id of the notification.
        type: the key of its type.
        category: of its type.
        user: the recipient; empty for a recipient without an account.
        channel: the name under which the dispatcher knows this channel.
        endpoint: where to send it; None: the channel has no endpoints, as the inbox.
        content: what people read.
        data: what was submitted.
        priority: of its type.
        expires_at: when it has become worthless; None: never.
        now: the present time, by the dispatcher's clock.
        attempt: 1 for the first.
        locale: the recipient's, such as `"de-AT"`; empty: unknown.
        collapse: notifications with the same value replace each other on the device; empty: none does.
        headers: what the dispatcher adds for channels that have headers, such as `List-Unsubscribe` for e-mail.
        alert: False: list it without an alert, since the user has switched this channel off. For the inbox only.
        created_at: when the notification was submitted, the same in each attempt; None: unknown.
    """

    id: str
    notification: str
    type: str
    category: str
    user: str
    channel: str
    endpoint: Endpoint | None
    content: Content
    data: Mapping[str, Any]
    priority: Priority
    expires_at: datetime | None
    now: datetime
    attempt: int
    locale: str = ""
    collapse: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    alert: bool = True
    created_at: datetime | None = None


@runtime_checkable
class Channel(Protocol):
    """One way to reach people.

    Attributes:
        has_endpoints: whether it sends to endpoints, or to the user as such.
        deduplicates: whether the far side recognises a repeated `Job.id`, so that a message whose outcome is unknown
            can be sent again.
    """

    has_endpoints: bool
    deduplicates: bool

    @abstractmethod
    async def send(self, job: Job) -> Outcome:
        """Send one message and return the outcome.

        What a provider answers is an outcome, never an exception. An exception is a fault of the channel itself: the
        dispatcher logs it, and treats it as `Ambiguous` (it cannot know whether bytes went out).

        Order: none.    Cancellation: unknown, as `Ambiguous`.    Concurrency: any number of tasks.
        """


@runtime_checkable
class Gated(Protocol):
    """A channel that reaches several providers, each of which may want to be left alone: push services, for example."""

    @abstractmethod
    def gate(self, endpoint: Endpoint) -> str:
        """Return the name of the provider of an endpoint, as `Throttled.gate` has it."""
