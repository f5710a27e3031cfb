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
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from io import TextIOWrapper
from typing import Any, Final, NoReturn, cast

import anyio

from .. import Notifier, __version__, ids
from ..abc import StreamStore
from ..adapters import backoff
from ..errors import BackendError, BackendUnavailableError, NotifyError, PushUncertainError, UsageError
from ..event import Event, check_user
from ._console import first_signal, lines_of, payload_of, position, printable, report, say, seconds
from ._feed import Feed, Progress
from ._inspect import describe, examine
from ._tail import Tail
from ._urls import DEFAULT, file_of, open_store, redact

FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 128 + signal.SIGINT, 128 + signal.SIGPIPE

TIMEOUT: Final = 5.0
PATIENCE: Final = 30.0
MARGIN: Final = 0.5
"""Seconds by which the notifier's timeout exceeds the store's, so that the store's more precise error is reported."""

CLOSING: Final = 3.0
"""Seconds allowed for closing the connections to a server that does not respond."""


_EPILOG: Final = """\
The store is given by --store, else by the environment variable NOTIFY_STORE, else it is sqlite:///notify.db in the
working directory. URLs: sqlite:///FILE, redis://HOST:PORT/DB, rediss://, unix://,
redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB, redis+cluster://HOST:PORT,HOST:PORT, postgresql://USER@HOST/DATABASE.
Only trim removes events. Exit status: 0 on success; 1 on failure; 2 for a wrong command line; 130 after Ctrl-C, 143
after SIGTERM; 141 if the reader of the output closed the pipe."""


class _Parser(argparse.ArgumentParser):
    """Reports errors as one line."""

    def error(self, message: str) -> NoReturn:
        """Report the error and exit."""
        report(f"{message} (see {self.prog} --help)")
        sys.exit(USAGE)


# -- commands ----------------------------------------------------------------------------------------------------


async def _push(options: argparse.Namespace) -> int:
    """Push one event, or a feed."""
    if options.stdin:
        if options.user is not None:
            raise UsageError("with --stdin the users are read from standard input; do not give USER")
        return await _push_feed(options)
    if options.user is None or options.type is None:
        raise UsageError("push expects USER TYPE [JSON], or --stdin")
    if options.ids:
        raise UsageError("--ids applies to --stdin only; the id of a single event is always printed")
    payload = None if options.payload is None else payload_of(options.payload)
    key = options.key or secrets.token_hex(12)
    async with Notifier() as validator:  # validates the arguments before a file is created
        await validator.push(options.user, options.type, payload, key=key)
    async with _store(options) as store, Notifier(store, timeout=options.timeout + MARGIN) as notifier:
        try:
            event = await notifier.push(options.user, options.type, payload, key=key)
        except PushUncertainError as error:
            text = f"{error}; retry with --key {key}, which stores it at most once"
            raise PushUncertainError(text, backend=error.backend) from error
    assert event is not None  # only `offline="drop"` returns None
    say(event.id)
    return 0


async def _push_feed(options: argparse.Namespace) -> int:
    fd = -1 if sys.stdin is None else sys.stdin.fileno()
    if fd < 0:
        raise UsageError("standard input is closed")
    key = options.key or secrets.token_hex(6)
    Event("-", "-", key=f"{key}:{1 << 63}")  # raises if the key is too long, before anything is pushed
    patience = options.timeout or PATIENCE
    feed = Feed(key=key, patience=patience, show_ids=options.ids)
    progress = Progress(fd, lambda: (feed.pushed, feed.failed))
    feed.before_line = progress.clear
    status = 0

    async def stop_on_signal() -> None:
        nonlocal status
        await anyio.wait_readable(signals)
        status = 128 + os.read(signals, 1)[0]
        tasks.cancel_scope.cancel()

    with first_signal() as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_on_signal)
            async with _store(options, patience) as store, Notifier(store) as notifier:
                tasks.start_soon(progress.run)
                await feed.run(notifier, lines_of(fd))
            tasks.cancel_scope.cancel()
    return _conclude(feed, key, status)


def _conclude(feed: Feed, key: str, status: int) -> int:
    """Print the totals of a feed, and how to resume it; return the exit status."""
    if status:
        report(f"stopped by {signal.Signals(status - 128).name}")
    elif feed.reason:
        report(f"gave up: {feed.reason}")
    if status or feed.reason:
        report(f"to resume, push the whole feed again with --key {key}; lines already stored are not stored twice")
    say(f"pushed {feed.pushed}, failed {feed.failed}")
    return status or (FAILED if feed.failed else 0)


async def _tail(options: argparse.Namespace) -> int:
    """Follow one user's log."""
    check_user(options.user)
    start = None if options.after is None else position(options.after)
    if not options.follow and start is None:
        start = ids.ZERO
    await Tail(lambda: _store(options), options.user, start, json=options.json, follow=options.follow).run()
    return 0


async def _head(options: argparse.Namespace) -> int:
    """Print the id of the last event."""
    check_user(options.user)
    async with _store(options) as store:
        say(await store.head(options.user))
    return 0


async def _trim(options: argparse.Namespace) -> int:
    """Remove old events of all users."""
    before = position(options.before)
    async with _store(options) as store:
        count = await store.trim(before)
    say(f"removed {count}")
    return 0


async def _check(options: argparse.Namespace) -> int:
    """Check every part once."""
    ok, lines = await examine(_open(options), options.timeout)
    for line in lines:
        say(printable(redact(line)))
    return 0 if ok else FAILED


async def _stats(options: argparse.Namespace) -> int:
    """Describe the store and the logs of users."""
    for user in options.users:
        check_user(user)
    async with _store(options) as store:
        async for line in describe(store, options.store, options.users):
            say(printable(redact(line)))
    return 0


# -- the command line --------------------------------------------------------------------------------------------


def _seconds(text: str) -> float:
    try:
        return seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of seconds greater than 0, got {text!r:.40}") from None


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

    def command(name: str, run: Callable[..., Awaitable[int]], text: str, **defaults: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, parents=[everywhere], allow_abbrev=False)
        added.set_defaults(run=run, parser=added, **{"follows": False, "creates": False, **defaults})
        wait = f"how long to wait for the store (default: {TIMEOUT:g})"
        if name == "push":
            wait = f"how long to wait for the store, or retry a line (default: {TIMEOUT:g}, with --stdin {PATIENCE:g})"
        if name != "tail":
            added.add_argument("--timeout", metavar="SECONDS", type=_seconds, help=wait)
        return added

    push = command("push", _push, "push an event to a user and print its id", creates=True)
    push.add_argument("user", metavar="USER", nargs="?", help="user id")
    push.add_argument("type", metavar="TYPE", nargs="?", help="event type, for example comment.created")
    push.add_argument("payload", metavar="JSON", nargs="?", help="payload (default: null)")
    push.add_argument("--key", help="idempotency key: pushes with the same key store one event")
    push.add_argument("--stdin", action="store_true", help="push lines of USER TYPE [JSON] from standard input")
    push.add_argument("--ids", action="store_true", help="with --stdin: print the number and id of each line")

    tail = command("tail", _tail, "print a user's events as they arrive", creates=True, follows=True)
    tail.add_argument("user", metavar="USER", help="user id")
    tail.add_argument(
        "--after",
        metavar="ID",
        help="start after this id; 0 for all events, or a time",
    )
    tail.add_argument("--json", action="store_true", help="print one JSON object per line")
    tail.add_argument("--no-follow", dest="follow", action="store_false", help="stop at the end of the log")

    command("head", _head, "print the id of a user's last event").add_argument("user", metavar="USER", help="user id")
    trim = command("trim", _trim, "remove all users' events older than an id or a time")
    trim.add_argument("before", metavar="BEFORE", help="an id, or a time such as 2026-01-01T00:00:00Z")
    command("check", _check, "check every part once; exit status 1 if one does not work")
    stats = command("stats", _stats, "describe the store, and the logs of users")
    stats.add_argument("users", metavar="USER", nargs="*", help="user id")
    return parser


def _open(options: argparse.Namespace) -> StreamStore:
    return open_store(
        options.store,
        prefix=options.prefix,
        schema=options.schema,
        timeout=options.call_timeout,
        must_exist=not options.creates,
    )


async def _enter(stack: AsyncExitStack, options: argparse.Namespace, patience: float) -> StreamStore:
    """Open the store; if it is unavailable, retry for `patience` seconds."""
    deadline = anyio.current_time() + patience
    delays = backoff(random.random, limit=1.0)
    is_unavailable = False
    while True:
        store: Any = _open(options)
        try:
            await stack.enter_async_context(store)
        except BackendUnavailableError as error:
            if not patience:
                raise
            if anyio.current_time() >= deadline:
                text = f"gave up: could not be opened for {patience:g} s: {error}"
                raise BackendUnavailableError(text, backend=error.backend) from error
            if not is_unavailable:
                report(f"the store is unavailable, retrying for {patience:g} s: {error}")
                is_unavailable = True
            await anyio.sleep(next(delays))
        else:
            if is_unavailable:
                report("the store is available again")
            return cast(StreamStore, store)


@asynccontextmanager
async def _store(options: argparse.Namespace, patience: float = 0.0) -> AsyncIterator[StreamStore]:
    """Open the selected store. Report a newly created file: it may be in the wrong directory.

    A server is retried for `patience` seconds; a file is not, because its errors are permanent.
    """
    file = file_of(options.store)
    is_new = file is not None and not file.exists()
    async with AsyncExitStack() as stack:
        store = await _enter(stack, options, patience if file is None else 0.0)
        if is_new:
            report(f"created {os.fspath(file or '')!r}")
        yield store


async def _run(options: argparse.Namespace) -> int:
    if options.follows or options.stdin:
        status: int = await options.run(options)
        return status
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
        parser.error("a command is required: push, tail, head, trim, check or stats")
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
