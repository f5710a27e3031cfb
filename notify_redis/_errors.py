"""What the driver and the server may answer, translated once: at the driver's edge."""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeVar

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from notify.errors import BackendUnavailableError, PushRejectedError, PushUncertainError

E = TypeVar("E", bound=Exception)


class NotSentError(Exception):
    """The server was not reached: certainly nothing was executed."""


class RefusedError(NotSentError):
    """The server was reached and does not let us in: to try again within moments does not help."""


class NoAnswerError(Exception):
    """Sent, but the answer did not come: executed or not."""


FAILURES: Final = (NotSentError, NoAnswerError)


class Disposition(Enum):
    """What to do about an error that the server answered with; nothing was executed in any of these cases."""

    LOAD = "load the scripts and repeat"
    MOVE = "look where the node is now, and repeat"
    WAIT = "repeat a little later"
    GIVE_UP = "repeating does not help"
    UNKNOWN = "part of it may have been executed"


_DISPOSITIONS: Final = {
    "NOSCRIPT": Disposition.LOAD,
    "MOVED": Disposition.MOVE,
    "ASK": Disposition.MOVE,
    "READONLY": Disposition.MOVE,
    "MASTERDOWN": Disposition.MOVE,
    "UNBLOCKED": Disposition.MOVE,
    "CLUSTERDOWN": Disposition.MOVE,
    "LOADING": Disposition.MOVE,
    "TRYAGAIN": Disposition.WAIT,
    "BUSY": Disposition.WAIT,
    "OOM": Disposition.GIVE_UP,
    "MISCONF": Disposition.GIVE_UP,
    "NOREPLICAS": Disposition.GIVE_UP,
    "NOPERM": Disposition.GIVE_UP,
    "NOAUTH": Disposition.GIVE_UP,
    "WRONGTYPE": Disposition.GIVE_UP,
    "CROSSSLOT": Disposition.GIVE_UP,
}

_OF_CLASS: Final = {
    "NoScriptError": "NOSCRIPT",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "BusyLoadingError": "LOADING",
    "TryAgainError": "TRYAGAIN",
    "OutOfMemoryError": "OOM",
    "NoPermissionError": "NOPERM",
    "ClusterCrossSlotError": "CROSSSLOT",
}
"""The driver cuts off the code of the errors that it has a class for."""


def disposition_of(error: RedisError) -> Disposition:
    """Return what to do about an error reply."""
    code = _OF_CLASS.get(type(error).__name__) or str(error).partition(" ")[0]
    return _DISPOSITIONS.get(code, Disposition.UNKNOWN)


def refused(error: Exception) -> bool:
    """Return whether what was answered while a connection was made will be answered again."""
    if isinstance(error, ResponseError):
        return disposition_of(error) in (Disposition.GIVE_UP, Disposition.UNKNOWN)
    return isinstance(error, RefusedError | AuthenticationError)


def not_sent(text: str, error: Exception) -> NotSentError:
    """Return what it means that a connection could not be made."""
    return caused(RefusedError(text) if refused(error) else NotSentError(text), error)


def unavailable(error: BaseException, backend: str) -> BackendUnavailableError:
    """Return the library's error for what failed and was no push."""
    return caused(BackendUnavailableError(f"Redis cannot be used: {reason(error)}", backend=backend), error)


def rejected(error: BaseException, backend: str) -> PushRejectedError:
    """Return the library's error for an event that was certainly not stored."""
    return caused(PushRejectedError(f"Redis stored nothing: {reason(error)}", backend=backend), error)


def uncertain(error: BaseException, backend: str) -> PushUncertainError:
    """Return the library's error for an event that may have been stored."""
    return caused(PushUncertainError(f"the event may be stored: {reason(error)}", backend=backend), error)


def caused(wrapped: E, error: BaseException) -> E:
    """Chain the driver's exception; those that only carry one stand back for it."""
    wrapped.__cause__ = error.__cause__ or error
    return wrapped


def reason(error: BaseException) -> str:
    """Return the driver's words; its own `repr` leaves them out."""
    return f"{type(error).__name__}: {error}" if isinstance(error, RedisError) else str(error)
