"""What each command does; returns the exit status."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import time
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

import anyio

from .. import Notifier, ids
from ..abc import Prepare, StreamStore, ability
from ..errors import PushUncertainError, UsageError
from ..event import Event, check_user
from ._console import first_signal, is_abandoned, lines_of, meta_of, payload_of, position, printable, report, say
from ._feed import Feed, Progress
from ._inspect import describe, examine, is_prepared
from ._opening import entered, opened, opened_dispatch
from ._tail import Tail
from ._urls import MissingError, check_directory, check_file, is_missing, keeps_deliveries, nothing_at, redact

FAILED: Final = 1

PATIENCE: Final = 30.0
"""Seconds for which a line of a feed is retried."""

MARGIN: Final = 0.5
"""Seconds by which the notifier's timeout exceeds the store's, so that the store's more precise error is reported."""

FILE_INTERVAL: Final = 0.1
"""Seconds between two checks whether a file has appeared."""


async def push(options: argparse.Namespace) -> int:
    """Push one event, or a feed."""
    if options.key == "":
        raise UsageError("--key must not be empty: leave it out for a push without a key")
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
    more: dict[str, Any] = {"key": key, "group": options.group, "meta": meta_of(options.meta)}
    async with Notifier() as validator:  # validates the arguments before a file is created
        await validator.push(options.user, options.type, payload, **more)
    async with entered(options) as store, Notifier(store, timeout=options.timeout + MARGIN) as notifier:
        try:
            event = await notifier.push(options.user, options.type, payload, **more)
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
    more: dict[str, Any] = {"group": options.group, "meta": meta_of(options.meta)}
    Event("-", "-", key=f"{key}:{1 << 63}", **more)  # raises if one of them is refused, before anything is pushed
    patience = options.timeout or PATIENCE
    feed = Feed(key=key, patience=patience, show_ids=options.ids, **more)
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
            async with entered(options, patience) as store, Notifier(store) as notifier:
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


async def tail(options: argparse.Namespace) -> int:
    """Follow one user's log."""
    check_user(options.user)
    start = None if options.after is None else position(options.after)
    if not options.follow and start is None:
        start = ids.ZERO
    opened(options)  # refuses a wrong URL before anything is waited for
    if options.follow and is_missing(options.store):
        check_directory(options.store)
        report(nothing_at(options.store))
        start = ids.ZERO if start is None else start  # events that are pushed from now on
        while is_missing(options.store):
            await anyio.sleep(FILE_INTERVAL)
            if is_abandoned(sys.stdout):
                raise BrokenPipeError  # pragma: no cover - it ends the process
    tail = Tail(lambda: entered(options), options.user, start, json=options.json, follow=options.follow)
    tail.nothing = nothing_at(options.store)
    await tail.run()
    return 0


async def init(options: argparse.Namespace) -> int:
    """Create what the store needs, or print how; with `--dispatch` also what a store of deliveries needs."""
    if options.print_sql:
        stores = [opened(options), *([opened_dispatch(options)] if options.dispatch else [])]
        scripts = [store.script() for store in stores if ability(store, Prepare)]
        say("\n".join(filter(None, scripts)) or "-- nothing to create: this store needs no preparation")
        return 0
    async with entered(options) as store:
        if ability(store, Prepare):
            await store.prepare()
        else:
            await store.head("-")  # it answers
        say(f"ready: {type(store).__name__} at {printable(redact(options.store))}")
    if options.dispatch:
        async with aclosing(opened_dispatch(options)) as deliveries:
            await deliveries.prepare()
            say(f"ready: {type(deliveries).__name__} at {printable(redact(options.store))}")
    return 0


async def forget(options: argparse.Namespace) -> int:
    """Erase one user, in the store of deliveries at the same URL too."""
    check_user(options.user)
    if not options.yes:
        place = f"{options.user!r:.80} at {redact(options.store)}"
        raise UsageError(f"forget erases {_parts(options)} of {place}, which cannot be undone: repeat it with --yes")
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(entered(options))
        notifier = await stack.enter_async_context(Notifier(store, timeout=options.timeout + MARGIN))
        if keeps_deliveries(options.store):
            notifier.extend_forget(await stack.enter_async_context(aclosing(opened_dispatch(options))))
        count = await notifier.forget(options.user)
        _check_prepared(store, options)
    say(f"erased {count}")
    return 0


def _parts(options: argparse.Namespace) -> str:
    """Return what the place of the store may hold about a user, without connecting to it."""
    parts = ["log and idempotency keys", "inbox and follows"]
    if keeps_deliveries(options.store):
        parts.append("deliveries, preferences and devices")
    return "the " + ", the ".join(parts)


async def head(options: argparse.Namespace) -> int:
    """Print the id of the last event."""
    check_user(options.user)
    async with entered(options) as store:
        head = await store.head(options.user)
        _check_prepared(store, options)
    say(head)
    return 0


async def trim(options: argparse.Namespace) -> int:
    """Remove old events of all users."""
    before = position(options.before)
    moment = ids.parse(before if isinstance(before, str) else ids.before(before))[0]
    if moment > time.time() * 1000 and not options.yes:
        raise UsageError(f"{options.before} is in the future, so this removes every event of every user: add --yes")
    async with entered(options) as store:
        count = await store.trim(before)
        _check_prepared(store, options)
    say(f"removed {count}")
    return 0


async def check(options: argparse.Namespace) -> int:
    """Check every part once."""
    store = opened(options)
    check_file(options.store)
    ok, lines = await examine(store, options.timeout, nothing_at(options.store))
    for line in lines:
        say(printable(redact(line)))
    return 0 if ok else FAILED


async def stats(options: argparse.Namespace) -> int:
    """Describe the store and the logs of users."""
    for user in options.users:
        check_user(user)
    async with entered(options) as store:
        lines = [line async for line in describe(store, options.store, options.users)]
        _check_prepared(store, options)
    for line in lines:
        say(printable(redact(line)))
    return 0


def _check_prepared(store: StreamStore, options: argparse.Namespace) -> None:
    """Raise MissingError if the store has found that there is nothing to read."""
    if not is_prepared(store):
        raise MissingError(nothing_at(options.store))
