"""Pure: the outcomes of sending. A channel returns one of them, whatever the provider answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider accepted the message.

    Attributes:
        provider_id: the id that the provider gave it.
    """

    provider_id: str = ""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The message has certainly arrived.

    Attributes:
        provider_id: the id that the provider gave it.
    """

    provider_id: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The provider will never accept this message; it may accept another one to the same endpoint.

    Attributes:
        code: the provider's code, such as `"413"`.
        is_unclear: it may be the endpoint that is wrong. One that never works is retired after repeated refusals.
        suppress: the address bounces, so only mandatory types are sent to it from now on.
        error: a description, without addresses and secrets.
        stop: the owner of the address wants no more messages, for example by answering STOP; so not even mandatory
            types are sent to it from now on.
    """

    code: str = ""
    is_unclear: bool = False
    suppress: bool = False
    error: str = ""
    stop: bool = False


@dataclass(frozen=True, slots=True)
class EndpointGone:
    """The endpoint no longer exists.

    Attributes:
        code: the provider's code, such as `"410"`.
    """

    code: str = ""


@dataclass(frozen=True, slots=True)
class Throttled:
    """The provider throttles. Nothing was sent, and no attempt is counted.

    Attributes:
        retry_after: the seconds to wait that the provider named; None: it named none.
        gate: what is throttled, such as the origin of a push service; empty: the whole channel.
    """

    retry_after: float | None = None
    gate: str = ""


@dataclass(frozen=True, slots=True)
class Transient:
    """The message was certainly not accepted, and may be next time.

    Attributes:
        code: the provider's code, or what failed, such as `"connect"`.
        retry_after: the seconds to wait that the provider named; None: it named none.
        error: a description, without addresses and secrets.
    """

    code: str = ""
    retry_after: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The message was sent, and no answer came: it may have been accepted.

    Attributes:
        error: a description, without addresses and secrets.
    """

    error: str = ""


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """The channel's own settings are wrong: a key, a credential, a template. Nothing is wrong with the endpoint.

    Attributes:
        error: what to change, without secrets.
    """

    error: str = ""


Outcome: TypeAlias = Accepted | Delivered | Rejected | EndpointGone | Throttled | Transient | Ambiguous | Misconfigured
"""What a channel answers."""


def check_outcome(value: object) -> Outcome:
    """Return an outcome; raise TypeError for anything else, since channels are not trusted to return one."""
    if not isinstance(value, Outcome):
        raise TypeError(f"Channel.send() must return an Outcome, not {type(value).__name__}")
    wait = getattr(value, "retry_after", None)
    if wait is not None and not isinstance(wait, int | float):
        raise TypeError(f"retry_after must be seconds or None, not {type(wait).__name__}")
    return value
