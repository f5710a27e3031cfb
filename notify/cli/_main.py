"""The `notify` command: push, follow and inspect notifications from a terminal.

```console
notify push alice comment.created '{"post": 7}'
notify tail alice
```

Exit status: 0 on success; 1 on failure; 2 for a wrong command line; 130 after Ctrl-C, 143 after SIGTERM; 141 if the
reader of the output closed the pipe. Every error is reported as one line on standard error.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from io import TextIOWrapper
from typing import Any, Final, NoReturn

import anyio

from .. import __version__
from ..errors import BackendError, BackendUnavailableError, NotifyError, UsageError
from . import _commands, _serve
from ._commands import PATIENCE
from ._console import report, say, seconds
from ._dispatch import ACTIONS as DISPATCH_ACTIONS
from ._dispatch import add_dispatch
from ._inbox import ACTIONS, add_inbox
from ._urls import DEFAULT, import_backend, redact

FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 128 + signal.SIGINT, 128 + signal.SIGPIPE

TIMEOUT: Final = 5.0
CLOSING: Final = 3.0
"""Seconds allowed for closing the connections to a server that does not respond."""


_EPILOG: Final = """\
The store is given by --store, else by the environment variable NOTIFY_STORE, else it is sqlite:///notify.db in the
working directory. URLs: sqlite:///FILE, redis://HOST:PORT/DB, rediss://, unix://,
redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB, redis+cluster://HOST:PORT,HOST:PORT, postgresql://USER@HOST/DATABASE,
and those of installed backends. Only trim and forget remove events. Exit status: 0 on success; 1 on
failure; 2 for a wrong command line; 130 after Ctrl-C, 143 after SIGTERM; 141 if the reader of the output closed the
pipe."""


class _Parser(argparse.ArgumentParser):
    """Reports errors as one line."""

    def error(self, message: str) -> NoReturn:
        """Report the error and exit."""
        report(f"{message} (see {self.prog} --help)")
        sys.exit(USAGE)


# -- the command line --------------------------------------------------------------------------------------------


def _seconds(text: str) -> float:
    try:
        return seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of seconds greater than 0, got {text!r:.40}") from None


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r:.40}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    everywhere = _Parser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    everywhere.add_argument("--store", metavar="URL", help=f"URL of the store (default: $NOTIFY_STORE, or {DEFAULT})")
    everywhere.add_argument("--prefix", metavar="NAME", help="prefix of the application's keys or tables")
    everywhere.add_argument("--schema", metavar="NAME", help="PostgreSQL schema")
    everywhere.add_argument("-v", "--verbose", action="store_true", help="print the library's log to standard error")
    parser = _Parser(
        prog="notify", description=(__doc__ or "").partition("\n")[0], epilog=_EPILOG, parents=[everywhere]
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)

    def command(
        name: str, run: Callable[..., Awaitable[int]] | None, text: str, *, into: Any = None, **defaults: Any
    ) -> argparse.ArgumentParser:
        place = commands if into is None else into
        added: argparse.ArgumentParser = place.add_parser(
            name, help=text, description=text, parents=[everywhere], allow_abbrev=False
        )
        added.set_defaults(run=run, parser=added, **{"follows": False, "creates": False, **defaults})
        wait = f"how long to wait for the store (default: {TIMEOUT:g})"
        if name == "push":
            wait = f"how long to wait for the store, or retry a line (default: {TIMEOUT:g}, with --stdin {PATIENCE:g})"
        if name not in ("tail", "serve", "token"):
            added.add_argument("--timeout", metavar="SECONDS", type=_seconds, help=wait)
        return added

    push = command("push", _commands.push, "push an event to a user and print its id", creates=True)
    push.add_argument("user", metavar="USER", nargs="?", help="user id")
    push.add_argument("type", metavar="TYPE", nargs="?", help="event type, for example comment.created")
    push.add_argument("payload", metavar="JSON", nargs="?", help="payload (default: null)")
    push.add_argument("--key", help="idempotency key: pushes with the same key store one event")
    push.add_argument("--group", metavar="NAME", help="what the event is about")
    push.add_argument("--meta", metavar="NAME=TEXT", action="append", default=[], help="may be repeated")
    push.add_argument("--stdin", action="store_true", help="push lines of USER TYPE [JSON] from standard input")
    push.add_argument("--ids", action="store_true", help="with --stdin: print the number and id of each line")

    init = command("init", _commands.init, "create the file or tables of the store", creates=True)
    init.add_argument("--print-sql", action="store_true", help="print what would be executed, and connect to nothing")

    init.add_argument("--dispatch", action="store_true", help="also what deliveries of notify.dispatch need")

    tail = command("tail", _commands.tail, "print a user's events as they arrive", follows=True)
    tail.add_argument("user", metavar="USER", help="user id")
    tail.add_argument(
        "--after",
        metavar="ID",
        help="start after this id; 0 for all events, or a time",
    )
    tail.add_argument("--json", action="store_true", help="print one JSON object per line")
    tail.add_argument("--no-follow", dest="follow", action="store_false", help="stop at the end of the log")

    command("head", _commands.head, "print the id of a user's last event").add_argument(
        "user", metavar="USER", help="user id"
    )
    trim = command("trim", _commands.trim, "remove all users' events older than an id or a time")
    trim.add_argument("before", metavar="BEFORE", help="an id, or a time such as 2026-01-01T00:00:00Z")
    trim.add_argument("--yes", action="store_true", help="also if that is in the future: every event")
    forget = command("forget", _commands.forget, "erase all that the store holds about a user")
    forget.add_argument("user", metavar="USER", help="user id")
    forget.add_argument("--yes", action="store_true", help="required, because it cannot be undone")
    add_inbox(command, _seconds, lambda inbox: inbox.add_subparsers(metavar="ACTION", parser_class=_Parser))
    add_dispatch(command, _seconds, lambda dispatch: dispatch.add_subparsers(metavar="ACTION", parser_class=_Parser))
    _add_serve(command)
    command("check", _commands.check, "check every part once; exit status 1 if one does not work")
    stats = command("stats", _commands.stats, "describe the store, and the logs of users")
    stats.add_argument("users", metavar="USER", nargs="*", help="user id")
    return parser


def _add_serve(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands of the web layer."""
    serve = command("serve", _serve.serve, "serve notifications to browsers over HTTP", follows=True, creates=True)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=_port, default=8000, help="port to listen on; 0 for a free one (default: 8000)")
    serve.add_argument("--user-header", metavar="NAME", help="header in which a trusted proxy passes the user")
    trust = "address or network of your proxies, whose headers are believed; may be repeated"
    serve.add_argument("--trust", metavar="ADDRESS", action="append", default=[], help=trust)
    origin = "another site whose pages may connect, such as https://app.example.com; may be repeated"
    serve.add_argument("--origin", metavar="URL", action="append", default=[], help=origin)
    retry = "seconds after which clients reconnect (default: 1 to 5)"
    serve.add_argument("--retry", metavar=("MIN", "MAX"), nargs=2, type=_seconds, help=retry)
    serve.add_argument("--with-stdin", action="store_true", help="end when standard input is closed")
    serve.add_argument("--demo", action="store_true", help="show two instances over one store, with faults on demand")
    token = command("token", _serve.token, "print a token for a user of notify serve")
    token.add_argument("user", metavar="USER", help="user id")
    lifetime = "how long the token is valid (default: 3600)"
    token.add_argument("--lifetime", metavar="SECONDS", type=_seconds, default=3600.0, help=lifetime)


async def _run(options: argparse.Namespace) -> int:
    if options.follows or options.stdin:
        status: int = await options.run(options)
        return status
    import_backend(options.store)
    try:
        with anyio.fail_after(options.timeout + CLOSING):
            status = await options.run(options)
    except TimeoutError as error:
        raise BackendUnavailableError(f"no answer within {options.timeout:g} s") from error
    return status


def _prepare(arguments: Sequence[str] | None) -> argparse.Namespace | None:
    """Parse the command line; return None if there is nothing left to do."""
    parser = _parser()
    unset = dict.fromkeys(("store", "prefix", "schema", "run", "timeout", "parser"))
    options = argparse.Namespace(**unset, verbose=False, stdin=False)
    _, unknown = parser.parse_known_args(arguments, options)
    if unknown:
        (options.parser or parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.version:
        say(f"notify {__version__}")
        return None
    if options.run is None:
        if options.parser is not None:
            actions = DISPATCH_ACTIONS if options.parser.prog.endswith("dispatch") else ACTIONS
            options.parser.error(f"an action is required: {actions}")
        known = "push, tail, head, trim, forget, inbox, dispatch, init, serve, token, check or stats"
        parser.error(f"a command is required: {known}")
    options.has_store = options.store is not None
    if options.store is None:
        options.store = os.environ.get("NOTIFY_STORE") or DEFAULT
    options.call_timeout = 4.0
    if not options.follows and not options.stdin:
        options.timeout = options.timeout or TIMEOUT
        options.call_timeout = options.timeout
    return options


def _configure_logging(verbose: bool) -> None:
    """Configure logging: print the log if `verbose`, otherwise keep it off standard error."""
    shown: logging.Handler = logging.StreamHandler() if verbose else logging.NullHandler()
    shown.setFormatter(_Redacting("notify: %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[shown])


class _Redacting(logging.Formatter):
    """Redacts passwords in the log."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return redact(super().format(record))


def _discard_output() -> None:
    """Redirect standard output to /dev/null, because the interpreter flushes it at exit and would print an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_error(error: BaseException, store: str | None) -> int:
    """Report an error as one line and return the exit status."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BrokenPipeError):
        _discard_output()
        return BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, UsageError):
        report(str(error))
        return USAGE
    if isinstance(error, BackendError):
        report(f"{store}: {error}")
        return FAILED
    if isinstance(error, OSError):
        _discard_output()
    elif not isinstance(error, NotifyError):
        logging.getLogger("notify").info("unexpected error", exc_info=error)
    report(str(error) if isinstance(error, NotifyError) else f"{type(error).__name__}: {error}")
    return FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: the arguments after the command name; None for those of the process.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process
            stream = open(os.devnull, "w")
            atexit.register(stream.close)
            setattr(sys, name, stream)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = None
    try:
        options = _prepare(arguments)
        if options is None:
            return 0
        _configure_logging(options.verbose)
        return anyio.run(_run, options)
    except (Exception, KeyboardInterrupt) as error:
        return _report_error(error, redact(options.store) if options else None)
