"""Pure: what a channel answers: one of these for whatever a provider says. It raises for its own faults only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider took it.

    Attributes:
        provider_id: what the provider calls it, for its callbacks.
    """

    provider_id: str = ""


@dataclass(frozen=True, slots=True)
class Delivered:
    """It has arrived, certainly.

    Attributes:
        provider_id: what the provider calls it.
    """

    provider_id: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """This message will never be taken; another one to the same endpoint may be.

    Attributes:
        code: the provider's code, such as `"413"`.
        is_unclear: it may be the endpoint that is wrong: repeated refusals retire it (see `notify.dispatch`).
        suppress: the endpoint must get nothing more unless it is mandatory, as after a hard bounce.
        error: text for people, without addresses and secrets.
        stop: its owner wants nothing more, as by answering STOP: nothing may be sent to it, mandatory or not.
    """

    code: str = ""
    is_unclear: bool = False
    suppress: bool = False
    error: str = ""
    stop: bool = False


@dataclass(frozen=True, slots=True)
class EndpointGone:
    """The endpoint does not exist any more.

    Attributes:
        code: the provider's code, such as `"410"`.
    """

    code: str = ""


@dataclass(frozen=True, slots=True)
class Throttled:
    """The provider wants to be left alone. Nothing was sent, and no attempt is counted.

    Attributes:
        retry_after: seconds, if the provider named them.
        gate: what is throttled, such as the origin of a push service; empty: the whole channel.
    """

    retry_after: float | None = None
    gate: str = ""


@dataclass(frozen=True, slots=True)
class Transient:
    """It was certainly not taken, and may be the next time.

    Attributes:
        code: the provider's code, or what failed, such as `"connect"`.
        retry_after: seconds, if the provider named them.
        error: text for people, without addresses and secrets.
    """

    code: str = ""
    retry_after: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The bytes went out, and no answer came: it may have been taken.

    Attributes:
        error: text for people, without addresses and secrets.
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
    """Return an outcome; raise TypeError for anything else: what a channel returned is the word of a stranger."""
    if not isinstance(value, Outcome):
        raise TypeError(f"Channel.send() must return an Outcome, not {type(value).__name__}")
    wait = getattr(value, "retry_after", None)
    if wait is not None and not isinstance(wait, int | float):
        raise TypeError(f"retry_after must be seconds or None, not {type(wait).__name__}")
    return value
