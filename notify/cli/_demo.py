"""`notify serve --demo`: two instances over one store, as real processes that may be killed, and a page to watch them.

The page is served by this process. The instances are `notify serve` processes, each behind a TCP proxy of this one,
which is the wire that the page can cut. They end with this process, whatever ends it, because they hold the other end
of a pipe.
"""

from __future__ import annotations

import argparse
import ipaddress
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio

from ..errors import UsageError
from ._console import say
from ._demo_instance import Instance
from ._demo_ledger import Ledger
from ._demo_page import DemoApp
from ._demo_traffic import Traffic
from ._opening import entered
from ._serve import PATIENCE, PUSH_SECRETS, TOKEN_SECRET, address_of, listening, run_server
from ._tokens import sign
from ._urls import redact

NAMES: Final = ("A", "B")
USERS: Final = {"demo.alice": "Alice", "demo.bob": "Bob", "demo.carol": "Carol"}
"""Users of the demo; their ids cannot be those of an application by accident."""

READER: Final = ("demo.dana", "Dana")
"""Whose inbox the page shows in two browsers."""

ITEMS: Final = (
    {"title": "Welcome to your inbox", "message": "It is the same on every device"},
    {"title": "Invoice 2041 was paid", "message": "By bank transfer", "type": "success"},
    {"title": "Backup is two days old", "message": "The disk is nearly full", "type": "warning"},
)
"""What is in it at the start."""

LIFETIME: Final = 7 * 86_400.0
"""Seconds for which the page's tokens are valid."""

RATE: Final = 4.0
"""Events per second of the background traffic at the start."""


async def run(options: argparse.Namespace) -> int:
    """Run the demo until a signal arrives.

    Raises:
        UsageError: options that cannot be combined with the demo.
        NotifyError: the address cannot be used, the store cannot be opened, or an instance does not start.
    """
    _check(options)
    listener = listening(options.host, options.port)
    with listener, TemporaryDirectory(prefix="notify-demo-") as directory:
        if not options.has_store:
            options.store = f"sqlite:///{Path(directory, 'demo.db')}"
        url = address_of(listener)
        async with _parts(options, url) as app:
            say(f"the demo is at {url}/ (store: {redact(options.store)}; Ctrl-C ends it)")
            return await run_server(app, listener, ends_with_input=options.with_stdin)


def _check(options: argparse.Namespace) -> None:
    """Refuse what the demo cannot be combined with.

    Raises:
        UsageError: an option that applies to a real server only, or an address that other hosts reach.
    """
    if options.user_header or options.trust or options.origin or options.retry:
        raise UsageError("--demo has users of its own; leave out --user-header, --trust, --origin and --retry")
    try:
        is_local = ipaddress.ip_address(options.host).is_loopback
    except ValueError:
        is_local = False
    if not is_local:
        raise UsageError(
            f"--demo listens on this host only, because its page kills processes: got --host {options.host}"
        )


@asynccontextmanager
async def _parts(options: argparse.Namespace, url: str) -> AsyncIterator[DemoApp]:
    """Open the store, start the instances and the traffic, and yield the page."""
    secret, push_secret = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    arguments = ["serve", "--store", options.store, "--origin", url, "--retry", "0.5", "2", "--with-stdin"]
    for name in ("prefix", "schema"):
        if getattr(options, name, None) is not None:
            arguments += [f"--{name}", getattr(options, name)]
    environment = {TOKEN_SECRET: secret, PUSH_SECRETS: push_secret}
    expires = time.time() + LIFETIME
    users = {user: (name, sign(user, expires, secret.encode())) for user, name in USERS.items()}
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(entered(options, PATIENCE))
        ledger = Ledger(store, users)
        await ledger.prepare()
        instances = {name: Instance(name, arguments, environment, push_secret) for name in NAMES}
        for instance in instances.values():
            await stack.enter_async_context(instance)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        traffic = Traffic([*instances.values()], ledger, [*users], tasks)
        traffic.set_rate(RATE)
        tasks.start_soon(traffic.run)
        for payload in ITEMS:
            order = {"user": READER[0], "type": "generic", "payload": payload, "list": True}
            await instances[NAMES[0]].push({**order, "group": f"start: {payload['title']}"})
        reader = (*READER, sign(READER[0], expires, secret.encode()))
        yield DemoApp(url.removeprefix("http://"), instances, ledger, traffic, users, reader)
