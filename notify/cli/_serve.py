"""`notify serve`: the web layer by itself, under uvicorn, with authentication that needs no code."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import logging
import os
import re
import select
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio

from .. import Notifier
from ..errors import InvalidEventError, NotifyError, UsageError
from ..event import check_user
from ..inbox import Inbox, InboxStore
from ._console import first_signal, say
from ._opening import entered
from ._tokens import check_secret, sign, verify
from ._urls import missing_extra, redact

if TYPE_CHECKING:
    from ..web import Identity, Request

PATIENCE: Final = 30.0
"""Seconds for which a server of the store that is unavailable at the start is retried."""

GRACE: Final = 4
"""Seconds that uvicorn waits for clients that have stopped reading, when it ends."""

MAX_FRAME: Final = 16_384
"""Bytes of one frame of a WebSocket client: twice what a command may have, so that a large one is answered why not."""

TOKEN_SECRET: Final = "NOTIFY_TOKEN_SECRET"
PUSH_SECRETS: Final = "NOTIFY_PUSH_SECRETS"

Authenticate: TypeAlias = "Callable[[Request], Identity | None]"
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAPPED_PREFIX: Final = 96
"""Bits before an IPv4 address that is written as IPv6, `::ffff:10.0.0.1`."""

_WITHOUT_PORT: Final = re.compile(r"^(?:\[([^\[\]]*)\]|([0-9.]+))(?::[0-9]{1,5})?$", re.ASCII)
"""An entry of X-Forwarded-For, to which some proxies add the port: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""

_NO_WAY = (
    f"serve needs a way to identify its clients: set {TOKEN_SECRET}, which signs their tokens, or name the header in"
    " which your proxy passes the user, --user-header NAME --trust ADDRESS; or try --demo"
)


async def serve(options: argparse.Namespace) -> int:
    """Serve the store's notifications over HTTP until a signal arrives.

    Raises:
        UsageError: no authentication was configured, or not completely.
        MissingError: the extra `serve` is not installed.
        NotifyError: the address cannot be used, or the store cannot be opened.
    """
    load("uvicorn")
    if options.demo:
        demo: Any = import_module("notify.cli._demo")
        status: int = await demo.run(options)
        return status
    web = load("notify.web")
    authenticate = authentication(options, os.environ)
    pushers = [check_secret(each, PUSH_SECRETS).decode() for each in os.environ.get(PUSH_SECRETS, "").split()]
    more: dict[str, Any] = {} if options.retry is None else {"retry": tuple(options.retry)}
    async with entered(options, PATIENCE) as store, Notifier(store) as notifier:
        if isinstance(store, InboxStore):
            more["inbox"] = Inbox(notifier)
        app = web.NotifyApp(notifier, authenticate, origins=options.origin, publish_secrets=pushers, **more)
        app = forwarded(app, [_network(each) for each in options.trust])
        with listening(options.host, options.port) as listener:
            say(f"serving {redact(options.store)} at {address_of(listener)}")
            return await run_server(app, listener, ends_with_input=options.with_stdin)


async def token(options: argparse.Namespace) -> int:
    """Print a token with which a user may read from `notify serve`.

    Raises:
        UsageError: the secret is missing or too short, or the user is not one.
    """
    secret = os.environ.get(TOKEN_SECRET)
    if not secret:
        raise UsageError(f"token needs the secret of the server, in the environment variable {TOKEN_SECRET}")
    check_user(options.user)
    say(sign(options.user, time.time() + options.lifetime, check_secret(secret, TOKEN_SECRET)))
    return 0


def load(module: str) -> Any:
    """Import what only this command needs.

    Raises:
        MissingError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing_extra("serve", "serve", error) from error


# -- authentication ------------------------------------------------------------------------------------------------


def authentication(options: argparse.Namespace, environment: Mapping[str, str]) -> Authenticate:
    """Return what finds the user of a request: by a signed token, by a header from a trusted proxy, or both.

    Raises:
        UsageError: neither was configured, or not completely.
    """
    web = import_module("notify.web")
    text = environment.get(TOKEN_SECRET, "")
    secret = check_secret(text, TOKEN_SECRET) if text else b""
    header = (options.user_header or "").lower()
    trusted = [_network(each) for each in options.trust]
    if header and not trusted:
        raise UsageError(
            "--user-header needs --trust: a client that reaches this server without passing the proxy could write the"
            " header itself"
        )
    if not secret and not header:
        raise UsageError(_NO_WAY)

    def authenticate(request: Request) -> Identity | None:
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if secret and scheme.lower() == "bearer":
            claim = verify(credential.strip(), secret, time.time())
            found: Identity | None = claim and web.Identity(claim.user, expires_at=claim.expires_at)
            return found if found is not None and _is_user(found.user) else None
        user = request.headers.get(header, "") if header and _is_trusted(request.client, trusted) else ""
        return web.Identity(user) if user and _is_user(user) else None

    return authenticate


def _network(text: str) -> Network:
    """Return the network of an option; IPv4 that is written as IPv6 is IPv4, as the addresses compared with it are."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise UsageError(f"--trust expects an address or a network such as 10.0.0.0/8, got {text!r:.80}") from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return network if mapped is None else ipaddress.IPv4Network((mapped, network.prefixlen - MAPPED_PREFIX))


def _is_trusted(client: str, trusted: list[Network]) -> bool:
    address: Any = _address(client)
    return address is not None and any(address.version == each.version and address in each for each in trusted)


def _address(text: str) -> Address | None:
    """Return an address; one of IPv4 that is written as IPv6 is IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def forwarded(app: Any, trusted: list[Network]) -> Any:
    """Return an application to which a pusher behind a trusted proxy has the address that the proxy has noted.

    Only requests to push are changed: wrong secrets slow their address down, and all pushers have that of the proxy.
    Whether the header with the user is trusted depends on the address of the peer, so streams keep that.

    Args:
        app: an ASGI application.
        trusted: the networks of the proxies; empty to return the application itself.
    """
    if not trusted:
        return app

    async def with_address(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith("/push"):
            names = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"x-forwarded-for"]
            peer = str((scope.get("client") or ("",))[0])
            scope = {**scope, "client": (_origin_of(peer, ",".join(names).split(","), trusted), 0)}
        await app(scope, receive, send)

    return with_address


def _origin_of(peer: str, chain: list[str], trusted: list[Network]) -> str:
    """Return the last address of the chain that is not a trusted proxy: what stands before it may be forged."""
    address = peer
    for each in reversed(chain):
        before = _address(_WITHOUT_PORT.sub(r"\1\2", each.strip()))
        if before is None or not _is_trusted(address, trusted):
            break
        address = str(before)
    return address


def _is_user(user: str) -> bool:
    try:
        check_user(user)
    except InvalidEventError:
        return False
    return True


# -- the server ------------------------------------------------------------------------------------------------------


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections.

    Raises:
        NotifyError: the address is in use, or is not one of this host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise NotifyError(f"port {port} of {host} is in use: choose another with --port (0 for any)") from error
        reason = str(error.strerror).partition(" (while ")[0]  # Python repeats the address
        raise NotifyError(f"cannot listen on {host} port {port}: {reason}") from error


def address_of(listener: socket.socket) -> str:
    """Return the URL at which a socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def run_server(app: Any, listener: socket.socket, *, ends_with_input: bool = False) -> int:
    """Run uvicorn until a signal arrives; return the exit status that belongs to it.

    Args:
        app: an ASGI application.
        listener: where connections are accepted.
        ends_with_input: end when standard input is closed, too: with the process that holds its other end.
    """
    uvicorn = load("uvicorn")
    sockets = uvicorn.config.WS_PROTOCOLS
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # --trust judges by the peer, not by what a header says
        timeout_graceful_shutdown=GRACE,
        ws_max_size=MAX_FRAME,
        ws="websockets-sansio" if "websockets-sansio" in sockets else "auto",
        ws_per_message_deflate=False,
    )
    server = uvicorn.Server(config)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    with first_signal() as signals:
        async with _ending(server, ends_with_input):
            await server.serve(sockets=[listener])  # afterwards it sends itself the signal that it has caught
        if select.select([signals], [], [], 0)[0]:
            number = os.read(signals, 1)[0]
            return 128 + number
    return 0


@asynccontextmanager
async def _ending(server: Any, ends_with_input: bool) -> AsyncIterator[None]:
    """End the server when standard input ends, if that is wanted."""

    async def wait() -> None:
        while True:
            await anyio.wait_readable(sys.stdin)
            if not os.read(sys.stdin.fileno(), 4096):
                server.should_exit = True
                return

    async with anyio.create_task_group() as tasks:
        if ends_with_input and sys.stdin is not None:
            tasks.start_soon(wait)
        yield
        tasks.cancel_scope.cancel()
