"""The `notify` command: push, follow and look after notifications from a terminal.

```console
notify push alice comment.created '{"post": 7}'
notify tail alice
```

Exit status: 0; 1 where something could not be done; 2 where the command line is wrong; 130 after Ctrl-C, 143 after
SIGTERM; 141 where whoever read the output has gone. Whatever goes wrong is one line on standard error.
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

from .. import __version__, ids
from .._notifier import Notifier
from .._runtime._backoff import backoff
from ..abc import StreamStore
from ..errors import BackendError, BackendUnavailableError, NotifyError, PushUncertainError, UsageError
from ..event import Event, check_user
from ._console import complain, first_signal, lines_of, payload_of, position, printable, say, seconds
from ._feed import Feed, Progress
from ._inspect import describe, examine
from ._tail import Tail
from ._urls import DEFAULT, file_of, open_store, redact

FAILED, WRONG, INTERRUPTED, CUT_OFF = 1, 2, 128 + signal.SIGINT, 128 + signal.SIGPIPE

TIMEOUT: Final = 5.0
PATIENCE: Final = 30.0
MARGIN: Final = 0.5
"""Seconds that a store has to say by itself that it got no answer: it knows more about that than we do."""

CLOSING: Final = 3.0
"""Seconds that connections to a server that hangs may take to be closed."""


_EPILOG: Final = """\
The store is the URL after --store, or else in NOTIFY_STORE, or else sqlite:///notify.db, a file in the working
directory: sqlite:///FILE, redis://HOST:PORT/DB, rediss://, unix://, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB,
redis+cluster://HOST:PORT,HOST:PORT, postgresql://USER@HOST/DATABASE. The command removes nothing but by trim. The exit
status is 0; 1 if something could not be done; 2 if the command line is wrong; 130 after Ctrl-C, 143 after SIGTERM; 141
if whoever read the output has gone."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Complain and exit."""
        complain(f"{message} (see {self.prog} --help)")
        sys.exit(WRONG)


# -- commands ----------------------------------------------------------------------------------------------------


async def _push(options: argparse.Namespace) -> int:
    """Push one event, or a feed."""
    if options.stdin:
        if options.user is not None:
            raise UsageError("with --stdin the users come from standard input")
        return await _push_feed(options)
    if options.user is None or options.type is None:
        raise UsageError("push takes USER TYPE [JSON], or --stdin")
    if options.ids:
        raise UsageError("--ids is for --stdin: the id of a single event is always said")
    payload = None if options.payload is None else payload_of(options.payload)
    key = options.key or secrets.token_hex(12)
    async with Notifier() as nowhere:  # what is wrong with it shows before a file is made
        await nowhere.push(options.user, options.type, payload, key=key)
    async with _store(options) as store, Notifier(store, timeout=options.timeout + MARGIN) as notifier:
        try:
            event = await notifier.push(options.user, options.type, payload, key=key)
        except PushUncertainError as error:
            text = f"{error}; repeat it with --key {key}, and it is stored once"
            raise PushUncertainError(text, backend=error.backend) from error
    assert event is not None  # only `offline="drop"` returns None
    say(event.id)
    return 0


async def _push_feed(options: argparse.Namespace) -> int:
    fd = -1 if sys.stdin is None else sys.stdin.fileno()
    if fd < 0:
        raise UsageError("standard input is closed")
    key = options.key or secrets.token_hex(6)
    Event("-", "-", key=f"{key}:{1 << 63}")  # a key that is too long is refused before anything is pushed
    patience = options.timeout or PATIENCE
    feed = Feed(key=key, patience=patience, show_ids=options.ids)
    progress = Progress(fd, lambda: (feed.pushed, feed.failed))
    feed.before_line = progress.clear
    status = 0

    async def end_early() -> None:
        nonlocal status
        await anyio.wait_readable(ours)
        status = 128 + os.read(ours, 1)[0]
        tasks.cancel_scope.cancel()

    with first_signal() as ours:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_early)
            async with _store(options, patience) as store, Notifier(store) as notifier:
                tasks.start_soon(progress.run)
                await feed.run(notifier, lines_of(fd))
            tasks.cancel_scope.cancel()
    return _conclude(feed, key, status)


def _conclude(feed: Feed, key: str, status: int) -> int:
    """Say how far a feed has got, and how to go on with it; return the exit status."""
    if status:
        complain(f"ended by {signal.Signals(status - 128).name}")
    elif feed.reason:
        complain(f"gave up: {feed.reason}")
    if status or feed.reason:
        complain(f"what is stored is not stored twice if the whole feed is pushed again with --key {key}")
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
    """Say the id of the last event."""
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
    """Try every part once."""
    is_well, lines = await examine(_open(options), options.timeout)
    for line in lines:
        say(printable(redact(line)))
    return 0 if is_well else FAILED


async def _stats(options: argparse.Namespace) -> int:
    """Say what can be told of a store from outside."""
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
        raise argparse.ArgumentTypeError(f"a number of seconds above 0, not {text!r:.40}") from None


def _parser() -> argparse.ArgumentParser:
    everywhere = _Parser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    everywhere.add_argument("--store", metavar="URL", help=f"which store (default: $NOTIFY_STORE, or {DEFAULT})")
    everywhere.add_argument("--prefix", metavar="NAME", help="what the application's keys or tables begin with")
    everywhere.add_argument("--schema", metavar="NAME", help="the schema of PostgreSQL")
    everywhere.add_argument("-v", "--verbose", action="store_true", help="the library's log, on standard error")
    parser = _Parser(
        prog="notify", description=(__doc__ or "").partition("\n")[0], epilog=_EPILOG, parents=[everywhere]
    )
    parser.add_argument("--version", action="store_true", help="say which version this is")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Callable[..., Awaitable[int]], text: str, **defaults: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, parents=[everywhere], allow_abbrev=False)
        added.set_defaults(run=run, parser=added, **{"follows": False, "makes": False, **defaults})
        wait = f"how long to wait (default: {TIMEOUT:g})"
        if name == "push":
            wait = f"how long to wait, or to try one line (default: {TIMEOUT:g}, with --stdin {PATIENCE:g})"
        if name != "tail":
            added.add_argument("--timeout", metavar="SECONDS", type=_seconds, help=wait)
        return added

    push = command("push", _push, "notify a user, and say the event's id", makes=True)
    push.add_argument("user", metavar="USER", nargs="?", help="whom")
    push.add_argument("type", metavar="TYPE", nargs="?", help="what kind of event, for example comment.created")
    push.add_argument("payload", metavar="JSON", nargs="?", help="the payload (default: null)")
    push.add_argument("--key", help="repeated with the same key, the event is stored once")
    push.add_argument("--stdin", action="store_true", help="push a feed: lines of USER TYPE [JSON]")
    push.add_argument("--ids", action="store_true", help="with --stdin: say the number and id of each line")

    tail = command("tail", _tail, "show a user's events as they come", makes=True, follows=True)
    tail.add_argument("user", metavar="USER", help="whose")
    tail.add_argument("--after", metavar="ID", help="an id, 0 for all, or a time such as 2026-01-01T00:00:00Z")
    tail.add_argument("--json", action="store_true", help="one JSON object to a line")
    tail.add_argument("--no-follow", dest="follow", action="store_false", help="end where the log ends")

    command("head", _head, "say the id of a user's last event").add_argument("user", metavar="USER", help="whose")
    trim = command("trim", _trim, "remove the events of all users from before an id or a time")
    trim.add_argument("before", metavar="BEFORE", help="an id, or a time such as 2026-01-01T00:00:00Z")
    command("check", _check, "try every part once; the status is 1 if one does not work")
    stats = command("stats", _stats, "say what can be told of a store, and of the logs of users")
    stats.add_argument("users", metavar="USER", nargs="*", help="whose")
    return parser


def _open(options: argparse.Namespace) -> StreamStore:
    return open_store(
        options.store,
        prefix=options.prefix,
        schema=options.schema,
        timeout=options.call_timeout,
        must_exist=not options.makes,
    )


async def _enter(stack: AsyncExitStack, options: argparse.Namespace, patience: float) -> StreamStore:
    """Open the store; where that fails, try again for so many seconds."""
    deadline = anyio.current_time() + patience
    delays = backoff(random.random, limit=1.0)
    is_away = False
    while True:
        store: Any = _open(options)
        try:
            await stack.enter_async_context(store)
        except BackendUnavailableError as error:
            if not patience:
                raise
            if anyio.current_time() >= deadline:
                text = f"gave up: it could not be opened for {patience:g} s: {error}"
                raise BackendUnavailableError(text, backend=error.backend) from error
            if not is_away:
                complain(f"the store is away, so opening it is tried again for {patience:g} s: {error}")
                is_away = True
            await anyio.sleep(next(delays))
        else:
            if is_away:
                complain("the store is back")
            return cast(StreamStore, store)


@asynccontextmanager
async def _store(options: argparse.Namespace, patience: float = 0.0) -> AsyncIterator[StreamStore]:
    """Open the store that was asked for; say so where that makes a file, perhaps in the wrong directory.

    A server may need `patience` seconds. What is wrong with a file does not change by itself.
    """
    file = file_of(options.store)
    is_new = file is not None and not file.exists()
    async with AsyncExitStack() as stack:
        store = await _enter(stack, options, patience if file is None else 0.0)
        if is_new:
            complain(f"{os.fspath(file or '')!r} is a new file")
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
    """Read the command line; None where all is done already."""
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
        parser.error("which command? push, tail, head, trim, check or stats")
    if options.store is None:
        options.store = os.environ.get("NOTIFY_STORE") or DEFAULT
    options.call_timeout = 4.0
    if not options.follows and not options.stdin:
        options.timeout = options.timeout or TIMEOUT
        options.call_timeout = options.timeout
    return options


def _log_where_asked(verbose: bool) -> None:
    """Show the library's log, or keep it and other libraries' complaints off standard error."""
    shown: logging.Handler = logging.StreamHandler() if verbose else logging.NullHandler()
    shown.setFormatter(_OneLine("notify: %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[shown])


class _OneLine(logging.Formatter):
    """Keeps passwords and control characters out of the log."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return redact(super().format(record))


def _leave_output() -> None:
    """Let nothing more be written: the interpreter would try once again at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: BaseException, store: str | None) -> int:
    """Say in one line what went wrong, and return the exit status."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BrokenPipeError):
        _leave_output()
        return CUT_OFF
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, UsageError):
        complain(str(error))
        return WRONG
    if isinstance(error, BackendError):
        complain(f"{store}: {error}")
        return FAILED
    if isinstance(error, OSError):
        _leave_output()
    elif not isinstance(error, NotifyError):
        logging.getLogger("notify").info("this should not happen", exc_info=error)
    complain(str(error) if isinstance(error, NotifyError) else f"{type(error).__name__}: {error}")
    return FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: those after the command's name; None: the process's.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before we began
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
        _log_where_asked(options.verbose)
        return anyio.run(_run, options)
    except (Exception, KeyboardInterrupt) as error:
        return _explain(error, redact(options.store) if options else None)
