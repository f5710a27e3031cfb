"""The errors of the driver and of the server, translated once, where the driver is called.

Three exceptions say what became of a request: `NotSentError` (certainly not executed), `RefusedError` (not executed,
and repeating it does not help) and `NoAnswerError` (executed or not). An error reply of the server has a `Disposition`:
what to do about it. The public error follows from these: a push that was certainly not executed is rejected, any other
push is uncertain, and everything that is not a push is unavailable.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import Final, TypeVar

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from notify.adapters import report_bug
from notify.errors import BackendUnavailableError, PushRejectedError, PushUncertainError

logger = logging.getLogger("notify.redis")

E = TypeVar("E", bound=Exception)


class NotSentError(Exception):
    """The server was not reached: certainly nothing was executed."""


class RefusedError(NotSentError):
    """The server was reached and refused the login, the database or a command: trying again soon does not help."""


class BugError(RefusedError):
    """Our own code, or the driver's, raised an unexpected error: neither the server nor the network is the cause."""


class NoAnswerError(Exception):
    """Sent, but no reply arrived: executed or not."""


FAILURES: Final = (NotSentError, NoAnswerError)


class Disposition(Enum):
    """What to do about an error reply. Nothing was executed, except perhaps with UNKNOWN."""

    LOAD = "load the scripts and repeat"
    MOVE = "look up the master again and repeat"
    WAIT = "repeat a little later"
    GIVE_UP = "do not repeat"
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
"""The driver removes the code from the message of the errors that it has a class for."""


_COMMANDS: Final = "docs/backends/redis.md lists the commands that the login needs, under Rights"

_IN_SCRIPT: Final = ("can't run this command or subcommand", "ACL failure in script")
"""The errors of Redis, up to 7.0 and later, for a command in a script that the login may not run: without a code."""

_REMEDIES: Final = (
    ("channel", "allow the login the prefix's channels: &PREFIX:*"),
    ("of the keys", "allow the login the prefix's keys: ~PREFIX:*"),
    ("no permissions to run", _COMMANDS),
    *((text, _COMMANDS) for text in _IN_SCRIPT),
    ("DB index is out of range", "use a database that the server has, or set `databases` in its configuration"),
    ("not allowed in cluster mode", "a cluster has no databases: write redis+cluster://host:port"),
    ("cluster support disabled", "for a server that is not a cluster write redis://host:port/db"),
)
"""What the server says, and what to do about it."""


def phrase(error: BaseException | str) -> str:
    """Return the message of an error, which is never empty, and the remedy where one is known."""
    text = str(error)
    if not text:
        text = "timed out" if isinstance(error, TimeoutError) else type(error).__name__
    remedy = next((remedy for part, remedy in _REMEDIES if part in text), "")
    return f"{text}; {remedy}" if remedy and remedy not in text else text


def disposition_of(error: RedisError) -> Disposition:
    """Return what to do about an error reply."""
    code = _OF_CLASS.get(type(error).__name__) or str(error).partition(" ")[0]
    return _DISPOSITIONS.get(code, Disposition.UNKNOWN)


def lacks_right(error: RedisError) -> bool:
    """Return whether the login may not run a command, directly or in a script."""
    text = str(error)
    return isinstance(error, NoPermissionError) or any(each in text for each in _IN_SCRIPT)


def refused(error: Exception) -> bool:
    """Return whether an error that occurred while connecting will occur again."""
    if isinstance(error, ResponseError):
        return disposition_of(error) in (Disposition.GIVE_UP, Disposition.UNKNOWN)
    return isinstance(error, RefusedError | AuthenticationError)


def not_sent(text: str, error: Exception) -> NotSentError:
    """Return the error for a connection that could not be made."""
    return caused(RefusedError(text) if refused(error) else NotSentError(text), error)


def bug(error: Exception, part: str) -> BugError:
    """Return the error for an unexpected exception; its traceback is logged once."""
    return caused(BugError(report_bug(error, part, logger)), error)


def unavailable(error: BaseException, backend: str) -> BackendUnavailableError:
    """Return the public error for a failure of anything but a push."""
    return caused(BackendUnavailableError(f"Redis cannot be used: {reason(error)}", backend=backend), error)


def rejected(error: BaseException, backend: str) -> PushRejectedError:
    """Return the public error for an event that was certainly not stored."""
    return caused(PushRejectedError(f"Redis stored nothing: {reason(error)}", backend=backend), error)


def uncertain(error: BaseException, backend: str) -> PushUncertainError:
    """Return the public error for an event that may have been stored."""
    return caused(PushUncertainError(f"the event may be stored: {reason(error)}", backend=backend), error)


def caused(wrapped: E, error: BaseException) -> E:
    """Set the driver's exception as the cause, in place of the internal one that carries it."""
    wrapped.__cause__ = error.__cause__ or error
    return wrapped


def reason(error: BaseException) -> str:
    """Return the message, with the class name where it is the driver's."""
    return f"{type(error).__name__}: {phrase(error)}" if isinstance(error, RedisError) else phrase(error)
