"""Whole workers in other processes, with a real receiver, that kill themselves at a step.

`python -m tests.dispatch.working` imports what workers need and starts one for each line of its input, by forking, so
that starting one takes milliseconds. It answers with the process id, and says when that process has ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from notify import Notifier
from notify.dispatch import (
    Digest,
    Dispatcher,
    Endpoint,
    Fallback,
    FrequencyCap,
    Job,
    NotificationType,
    Outcome,
    Recipient,
    RetrySchedule,
    State,
)
from notify.dispatch.channels import EmailChannel, HttpSmsGateway, InAppChannel, SmsChannel, WebhookChannel
from notify.http import HttpAnswer, HttpPool
from notify.inbox import Inbox
from tests.forks import Fork

from .dispatching import open_store, say

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

TYPES = [
    NotificationType("all", channels=["in_app", "sms", "webhook"]),
    NotificationType("hooks", channels=["webhook"]),
    NotificationType("text", channels=["sms"]),
    NotificationType("digest", channels=["sms"], digest=Digest(window=0.2)),
    NotificationType("fallback", channels=["in_app", "sms"], fallback={"sms": Fallback("unread")}),
    NotificationType("mail", channels=["email"]),
    NotificationType("counted", channels=["webhook"], caps=[FrequencyCap(1000)]),
    NotificationType("offer", channels=["webhook"], category="marketing", opt_in="offers", caps=[FrequencyCap(1000)]),
]

RETRIES = dict.fromkeys(("in_app", "sms", "webhook"), RetrySchedule(attempts=20, base=1.0, longest=4.0))
"""How workers try again: their own schedule brings everything to its end while a test can wait for it."""

STEPS: Mapping[str, str] = {
    "claimed": "all",
    "expanding": "hooks",
    "expanded": "hooks",
    "beginning": "text",
    "begun": "text",
    "half sent": "text",
    "answered": "text",
    "finishing": "text",
    "finished": "text",
    "begun together": "hooks",
    "between endpoints": "hooks",
    "digest closed": "digest",
    "folding": "digest",
    "looking at the inbox": "fallback",
}
"""Where a worker can be killed, and a notification of which type gets it there."""

ONCE = frozenset({"half sent", "begun", "answered", "finishing"})
"""Where it cannot be known whether an SMS has been sent."""


def die() -> None:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)


class Client:
    """Sends requests, and may be killed in the middle of one."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._pool = HttpPool(allow_private=True, idle=0)

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], content: bytes = b"", timeout: float
    ) -> HttpAnswer:
        """Send a request."""
        if self._step == "half sent":
            host, _, port = url.split("/")[2].partition(":")
            connection = socket.create_connection((host, int(port)))
            connection.sendall(f"POST /sms HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{".encode())
            die()
        answer = await self._pool.request(method, url, headers=headers, content=content, timeout=timeout)
        if self._step == "answered":
            die()
        return answer


class Halting:
    """A channel of which a test says when it goes on: with `stop`, after the message has been sent."""

    def __init__(self, inner: Any, stop: bool) -> None:
        self._inner = inner
        self._stop = stop
        self.has_endpoints = inner.has_endpoints
        self.deduplicates = inner.deduplicates

    async def send(self, job: Job) -> Outcome:
        """Send, and perhaps stop this process, as by SIGSTOP, before the outcome is known."""
        outcome: Outcome = await self._inner.send(job)
        if self._stop:
            self._stop = False
            os.kill(os.getpid(), signal.SIGSTOP)
        return outcome


class SharedClock:
    """A clock that several processes share and a test sets ahead of the system's, which still measures the leases."""

    def __init__(self, file: Path | str) -> None:
        self.file = Path(file)

    def now(self) -> datetime:
        """Return the present time."""
        return datetime.now(UTC) + timedelta(seconds=self._seconds())

    def advance(self, seconds: float) -> None:
        """Let time pass in all processes."""
        new = self.file.with_suffix(".new")
        new.write_text(str(self._seconds() + seconds))
        new.replace(self.file)  # atomic, so no process reads half of it

    def _seconds(self) -> float:
        return float(self.file.read_text()) if self.file.exists() else 0.0


@asynccontextmanager
async def dispatcher(
    place: str, url: str, *, step: str = "", mail: int = 0, caps: str = "", clock: str = "", **options: Any
) -> AsyncIterator[Dispatcher]:
    """Yield a dispatcher on the store at a place, with a receiver at a URL, and a mail server at a port.

    With `caps`, the place of another store, that store counts for caps. With `clock`, the file of a `SharedClock`, that
    clock gives the time. A third value of a place in PostgreSQL is the URL of the Redis server that has the log.
    """
    if clock:
        options["clock"] = SharedClock(clock).now
    kind, *rest = json.loads(place)
    log: Any
    if kind == "sqlite":
        from notify_sqlite import SQLiteStreamStore

        log = SQLiteStreamStore(f"{rest[0]}.log")
    elif len(rest) > 2:
        from notify_redis import RedisStreamStore

        log = RedisStreamStore(rest[2], prefix=rest[1])
    else:
        from notify_pg import PostgresStreamStore

        log = PostgresStreamStore(rest[0], schema=rest[1], pool_size=2)
    email = EmailChannel("127.0.0.1", mail, sender="no-reply@example.com", encryption="none", hostname="localhost")
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(place))
        notifier = await stack.enter_async_context(Notifier(await stack.enter_async_context(log)))
        await stack.enter_async_context(email)
        if caps:
            options["caps"] = options["gates"] = await stack.enter_async_context(open_store(caps))
        inbox = Inbox(notifier)
        sms = SmsChannel(HttpSmsGateway(f"{url}/sms", "key"), client=Client(step))
        channels = {
            "in_app": InAppChannel(inbox),
            "email": email,
            "sms": Halting(sms, step == "stopped"),
            "webhook": WebhookChannel(SECRET, client=Client("")),
        }
        arm(store, inbox, step)

        async def recipients(ids: Sequence[str]) -> list[Recipient]:
            hooks = [Endpoint(channel="webhook", address=f"{url}/hook/{number}") for number in (1, 2)]
            others = [Endpoint(channel="sms", address="+431234567"), Endpoint(channel="email", address="a@example.com")]
            return [Recipient(user, endpoints=[*hooks, *others]) for user in ids]

        yield Dispatcher(inbox, store, TYPES, channels, recipients=recipients, **options)


def arm(store: Any, inbox: Any, step: str) -> None:
    """Let this process be killed when it reaches a step."""
    claim, advance, close, items, get = (
        *(store.claim, store.advance, store.close_digests, store.digest_items),
        inbox.get_many,
    )
    finished: list[str] = []

    async def claiming(*args: Any, **more: Any) -> Any:
        claims = await claim(*args, **more)
        if claims and step == "claimed":
            die()
        return claims

    async def advancing(moves: Any, *args: Any) -> Any:
        states = {each.to for each in moves}
        if (State.EXPANDED in states and step == "expanding") or (State.SENDING in states and step == "beginning"):
            die()
        if State.ACCEPTED in states and step == "finishing":
            die()
        made = await advance(moves, *args)
        if (State.EXPANDED in states and step == "expanded") or (State.SENDING in states and step == "begun"):
            die()
        if State.SENDING in states and step == "begun together":
            die()
        if State.ACCEPTED in states:
            finished.extend(each.id for each in moves)
            if step == "finished" or (step == "between endpoints" and len(finished) == 1):
                die()
        return made

    async def closing(*args: Any, **more: Any) -> int:
        count: int = await close(*args, **more)
        if count and step == "digest closed":
            die()
        return count

    async def folding(*args: Any, **more: Any) -> Any:
        if step == "folding":
            die()
        return await items(*args, **more)

    async def looking(*args: Any) -> Any:
        if step == "looking at the inbox":
            die()
        return await get(*args)

    store.claim, store.advance, store.close_digests, store.digest_items = claiming, advancing, closing, folding
    inbox.get_many = looking


async def work(
    place: str, url: str, step: str, lease: float, mail: int, caps: str, clock: str, poll_interval: float
) -> None:
    """Run a worker for good."""
    options = {"lease": lease, "timeout": 0.75 * lease, "retries": RETRIES}
    async with dispatcher(place, url, step=step, mail=mail, caps=caps, clock=clock, **options) as found:
        await found.run(poll_interval=poll_interval)


def main() -> None:
    """Start a worker for each line of the input."""
    logging.disable()
    say("ready")
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            asyncio.run(work(*json.loads(line)))
            os._exit(0)
        say("started", pid)
        threading.Thread(target=lambda pid=pid: say("ended", *os.waitpid(pid, 0)), daemon=True).start()


class Workers:
    """The process that starts workers."""

    def __init__(self) -> None:
        self._process = Fork("tests.dispatch.working", text=True, stderr=sys.__stderr__, strict=False)
        self._running: set[int] = set()
        assert self._line() == ["ready"]

    def _line(self) -> list[str]:
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()

    def start(
        self,
        place: str,
        url: str,
        step: str = "",
        lease: float = 2.0,
        mail: int = 0,
        caps: str = "",
        clock: str = "",
        poll_interval: float = 0.05,
    ) -> int:
        """Start a worker and return its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([place, url, step, lease, mail, caps, clock, poll_interval]) + "\n")
        self._process.stdin.flush()
        while (line := self._line())[0] != "started":
            self._note(line)
        self._running.add(int(line[1]))
        return int(line[1])

    def wait(self) -> None:
        """Wait until all workers have been killed."""
        while self._running:
            self._note(self._line())

    def end(self, pids: Sequence[int]) -> None:
        """Kill some workers, which still run, and wait for their end."""
        assert self._running.issuperset(pids)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        while not self._running.isdisjoint(pids):
            self._note(self._line())

    def _note(self, line: list[str]) -> None:
        assert line[0] == "ended", line
        assert int(line[2]) == signal.SIGKILL
        self._running.remove(int(line[1]))

    def kill(self) -> None:
        """Kill everything that still runs."""
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()
        assert self._process.stdout is not None
        self._process.stdout.close()


if __name__ == "__main__":
    main()
