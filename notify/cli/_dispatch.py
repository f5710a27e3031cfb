"""`notify dispatch`: runs the dispatcher of an application, and says what it does and why.

A dispatcher consists of objects that only the application has, so the commands take the place where it makes one:
`shop.notifications:dispatcher` is the name `dispatcher` in the module `shop.notifications`. That is a `Dispatcher`, or
a function without arguments that returns one or an asynchronous context manager of one.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import anyio

from ..errors import UsageError
from ._console import first_signal, payload_of, printable, report, say
from ._inbox import Adding
from ._urls import missing_extra

if TYPE_CHECKING:
    from ..dispatch import Dispatcher

ACTIONS: Final = "run, tick, schedules, plan, explain, dead, release or keys"

FAILED: Final = 1


def add_dispatch(command: Adding, number: Callable[[str], float], group: Any) -> None:
    """Add the commands of a dispatcher.

    Args:
        command: adds a command.
        number: parses seconds.
        group: makes the place of further commands, in a parser.
    """
    into = group(command("dispatch", None, "send notifications over channels, and explain what was sent"))

    def action(name: str, run_: Callable[..., Awaitable[int]], text: str, **defaults: Any) -> argparse.ArgumentParser:
        added = command(name, run_, text, into=into, **defaults)
        added.add_argument("target", metavar="MODULE:NAME", help="where the application makes its dispatcher")
        return added

    running = action("run", run, "send what is due, until it is stopped", follows=True)
    running.add_argument("--poll", metavar="SECONDS", type=number, default=1.0, help="how often to look (default: 1)")
    ticking = action("tick", tick, "send what is due now, and end")
    ticking.add_argument("--now", metavar="TIME", type=_time, help="what is due by then, such as 2027-01-05T07:00Z")
    action("schedules", schedules, "list the schedules: when, the next run, the last one")
    planning = action("plan", plan, "print what would be sent to a user, and why; sends nothing")
    planning.add_argument("type", metavar="TYPE", help="key of a type, for example comment.created")
    planning.add_argument("user", metavar="USER", help="user id")
    planning.add_argument("payload", metavar="JSON", nargs="?", help="data (default: {})")
    planning.add_argument("--at", metavar="TIME", type=_time, help="as if it were then (default: now)")
    explaining = action("explain", explain, "print what was decided and done for a user, and what has changed")
    explaining.add_argument("ticket", metavar="TICKET", help="id that submit returned")
    explaining.add_argument("user", metavar="USER", help="user id")
    listing = action("dead", dead, "list deliveries that need attention")
    states = "unknown, parked, failed, bounced or gone; may be repeated (default: unknown, parked, failed)"
    listing.add_argument("--state", metavar="STATE", action="append", help=states)
    listing.add_argument("--limit", metavar="N", type=int, default=100, help="how many (default: 100)")
    listing.add_argument("--after", metavar="ID", default="", help="only those after this one in the list")
    releasing = action("release", release, "try parked deliveries of a channel again, as after a new key")
    releasing.add_argument("channel", metavar="CHANNEL", help="name of the channel")
    command("keys", keys, "make a key for web push, and print it with its public key", into=into)


@asynccontextmanager
async def _dispatcher(target: str) -> AsyncIterator[Dispatcher]:
    """Yield the dispatcher that a target names."""
    made = load(target)
    if inspect.isawaitable(made):
        made = await made
    from ..dispatch import Dispatcher

    if isinstance(made, Dispatcher):
        yield made
        return
    if not hasattr(made, "__aenter__"):
        raise UsageError(f"{target} is {made!r:.80}; expected a Dispatcher, or a function that returns one")
    async with made as entered:
        if not isinstance(entered, Dispatcher):
            raise UsageError(f"{target} enters {entered!r:.80}; expected a Dispatcher")
        yield entered


def load(target: str) -> Any:
    """Return what a target such as `module.of:name` names; a function is called.

    Raises:
        UsageError: there is no such module or name.
    """
    module, _, path = target.partition(":")
    if not module or not path:
        raise UsageError(f"expected MODULE:NAME, such as shop.notifications:dispatcher, got {target!r:.80}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name):
            raise UsageError(f"there is no module {error.name!r} in {os.getcwd()} or on the path") from error
        raise
    for name in path.split("."):
        if not hasattr(found, name):
            raise UsageError(f"{module} has no {path!r:.80}")
        found = getattr(found, name)
    return found() if inspect.isfunction(found) or inspect.isclass(found) else found


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time such as 2027-01-05T07:00Z, got {text!r:.40}") from None
    return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def run(options: argparse.Namespace) -> int:
    """Send what is due until a signal ends it; what has begun to be sent is finished."""
    status = 0
    with first_signal() as signals:
        async with anyio.create_task_group() as tasks, _dispatcher(options.target) as dispatcher:

            async def stop_on_signal() -> None:
                nonlocal status
                await anyio.wait_readable(signals)
                status = 128 + os.read(signals, 1)[0]
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop_on_signal)
            report(f"sending what {options.target} has due")
            await dispatcher.run(poll_interval=options.poll)
    return status


async def tick(options: argparse.Namespace) -> int:
    """Send what is due now."""
    claimed = sent = digests = scheduled = 0
    async with _dispatcher(options.target) as dispatcher:
        done = None
        while done is None or done.claimed or done.scheduled:
            done = await dispatcher.tick(options.now)
            claimed, sent, digests = claimed + done.claimed, sent + done.sent, digests + done.digests
            scheduled += done.scheduled
    say(f"scheduled {scheduled}, taken {claimed}, sent {sent}, digests closed {digests}")
    return 0


async def schedules(options: argparse.Namespace) -> int:
    """List the schedules."""
    async with _dispatcher(options.target) as dispatcher:
        for each in await dispatcher.schedules():
            say(printable(str(each)))
    return 0


async def plan(options: argparse.Namespace) -> int:
    """Print what would be done."""
    data = {} if options.payload is None else payload_of(options.payload)
    async with _dispatcher(options.target) as dispatcher:
        found = await dispatcher.plan(options.type, options.user, data, now=options.at)
    for line in str(found).splitlines():
        say(printable(line))
    return 0


async def explain(options: argparse.Namespace) -> int:
    """Print what was done."""
    async with _dispatcher(options.target) as dispatcher:
        found = await dispatcher.explain(options.ticket, options.user)
    if found is None:
        report(f"nothing was submitted as {printable(options.ticket)} to {printable(options.user)}")
        return FAILED
    for line in str(found).splitlines():
        say(printable(line))
    return 0


async def dead(options: argparse.Namespace) -> int:
    """List deliveries that ended badly."""
    async with _dispatcher(options.target) as dispatcher:
        found = await dispatcher.stuck(options.state or None, after=options.after, limit=options.limit)
    for each in found:
        fields = {
            "id": each.id,
            "state": each.state.name.lower(),
            "reason": each.reason,
            "notification": each.notification,
            "user": each.user,
            "channel": each.channel,
            "attempts": each.attempts,
            "at": None if each.updated_at is None else each.updated_at.isoformat(),
        }
        say(printable(json.dumps(fields, ensure_ascii=False)))
    return 0


async def release(options: argparse.Namespace) -> int:
    """Let parked deliveries of a channel be tried again."""
    async with _dispatcher(options.target) as dispatcher:
        say(f"released {await dispatcher.release(options.channel)}")
    return 0


async def keys(options: argparse.Namespace) -> int:
    """Make a key for web push.

    Raises:
        MissingError: the extra `webpush` is not installed.
    """
    from ..dispatch.channels import WebPushChannel, generate_vapid_key

    try:
        private = generate_vapid_key()
        channel = WebPushChannel(private, subject="mailto:operator@example.com")
    except UsageError as error:  # the arguments are valid, so a package is missing
        raise missing_extra("keys", "webpush", error.__cause__) from error
    say(f"private {private}")
    say(f"public {channel.public_key}")
    return 0
