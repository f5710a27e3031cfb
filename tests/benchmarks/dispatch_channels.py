"""Channels next to their libraries: web push encrypted in the event loop and in threads, e-mails over kept connections.

A message of web push costs about 0.15 ms of processor time. To hand it to a thread and wait for it costs as much again,
and the interpreter runs one thread at a time, so the channel encrypts where it is. Both are shown.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import aiosmtplib
import anyio
import anyio.to_thread
import http_ece
from cryptography.hazmat.primitives.asymmetric import ec

from notify.dispatch import Accepted
from notify.dispatch.channels import EmailChannel, generate_vapid_key
from notify.dispatch.channels._web_push_crypto import VapidSigner, encrypt
from tests.dispatch.jobs import endpoint, job

from .harness import ROUNDS, Row, at_least, cpu_seconds, progress, rate, ratio, run

PUSHES: Final = 2000
TASKS: Final = 20
CONTENT: Final = b"x" * 400
MAILS: Final = 200


# -- web push --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Browser:
    """The keys of a subscription."""

    public: bytes
    auth: bytes


def browsers() -> list[Browser]:
    """Return some subscriptions."""
    found = []
    for _ in range(100):
        numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
        point = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        found.append(Browser(point, os.urandom(16)))
    return found


def bare(to: Browser) -> None:
    """Encrypt one message by the library alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    http_ece.encrypt(CONTENT, private_key=key, dh=to.public, auth_secret=to.auth, version="aes128gcm")


async def pushes(send: Callable[[Browser], Awaitable[None]], clock: Callable[[], float]) -> float:
    """Prepare all messages, some at a time; return the seconds."""
    known = browsers()

    async def work(first: int) -> None:
        for number in range(first, PUSHES, TASKS):
            await send(known[number % len(known)])

    started = clock()
    async with anyio.create_task_group() as tasks:
        for first in range(TASKS):
            tasks.start_soon(work, first)
    return clock() - started


def push_rows() -> Iterator[Row]:
    """Measure how messages of web push are encrypted and signed."""
    signer = VapidSigner(generate_vapid_key(), "mailto:ops@example.com")

    def prepare(to: Browser) -> None:
        encrypt(CONTENT, to.public, to.auth)
        signer.authorization("https://push.example.net", time.time())

    async def alone(to: Browser) -> None:
        bare(to)

    async def in_the_loop(to: Browser) -> None:
        prepare(to)

    async def in_threads(to: Browser) -> None:
        await anyio.to_thread.run_sync(prepare, to)

    for clock, what in ((cpu_seconds, "processor time"), (time.perf_counter, "elapsed")):
        seconds: dict[str, list[float]] = {"alone": [], "loop": [], "threads": []}
        for number in range(1, ROUNDS + 1):
            progress(f"dispatch, web push, {what}: round {number} of {ROUNDS}")
            for name, send in (("alone", alone), ("loop", in_the_loop), ("threads", in_threads)):
                seconds[name].append(run(partial(pushes, send, clock)))
        for name, where in (("loop", "in the event loop"), ("threads", "in threads")):
            spread = ratio(seconds["alone"], seconds[name])
            bar = at_least(spread, 0.8) if name == "loop" else None
            ours, limit = rate(PUSHES, seconds[name]), rate(PUSHES, seconds["alone"])
            yield Row(f"web push encrypted and signed {where}, {what}", "1/s", ours, limit, spread, bar)


# -- e-mail ----------------------------------------------------------------------------------------------------------


@contextmanager
def mail_server() -> Iterator[int]:
    """A server in a process of its own that forgets what it gets; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{port}"]
    with subprocess.Popen([*command, "-c", "aiosmtpd.handlers.Sink"], stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield port
        finally:
            server.kill()


async def mails_alone(port: int) -> float:
    """Send all messages over one connection of the driver; return the seconds."""
    text = b"From: a@example.com\r\nTo: bob@example.com\r\nSubject: A comment\r\n\r\nBob wrote: hello\r\n"
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False) as client:
        started = time.perf_counter()
        for _ in range(MAILS):
            await client.sendmail("a@example.com", ["bob@example.com"], text)
        return time.perf_counter() - started


async def mails(port: int, idle: float) -> float:
    """Send all messages by the channel, one after the other; return the seconds."""
    settings = {"sender": "a@example.com", "encryption": "none", "idle": idle}
    async with EmailChannel("127.0.0.1", port, **settings) as channel:  # type: ignore[arg-type]
        to = endpoint("bob@example.com")
        await channel.send(job(to))  # asks for the name of this host, once
        started = time.perf_counter()
        for number in range(MAILS):
            assert isinstance(await channel.send(job(to, id=f"{number:032}")), Accepted)
        return time.perf_counter() - started


def mail_rows() -> Iterator[Row]:
    """Measure what it brings to keep connections."""
    seconds: dict[str, list[float]] = {"alone": [], "kept": [], "each": []}
    with mail_server() as port:
        for number in range(1, ROUNDS + 1):
            progress(f"dispatch, e-mail: round {number} of {ROUNDS}")
            seconds["alone"].append(run(partial(mails_alone, port)))
            seconds["kept"].append(run(partial(mails, port, 30.0)))
            seconds["each"].append(run(partial(mails, port, 0.0)))
    kept = rate(MAILS, seconds["kept"])
    alone, gain = ratio(seconds["alone"], seconds["kept"]), ratio(seconds["each"], seconds["kept"])
    yield Row("e-mails over kept connections, next to the driver", "1/s", kept, rate(MAILS, seconds["alone"]), alone)
    name = "e-mails over kept connections, next to one for each"
    yield Row(name, "1/s", kept, rate(MAILS, seconds["each"]), gain, at_least(gain, 1.2))


def rows() -> list[Row]:
    """Measure everything."""
    return [*push_rows(), *mail_rows()]
