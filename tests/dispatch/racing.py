"""Whole dispatchers in several processes that submit and send at the same time: `python -m tests.dispatch.racing`.

The arguments are a role and its settings, as one JSON object. A process prints `ready`, waits for a line of input, and
ends when everything that it has submitted is settled.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

from notify.dispatch import (
    Accepted,
    Dispatcher,
    FrequencyCap,
    Job,
    NotificationType,
    Outcome,
    Recipient,
    State,
    Ticket,
)
from tests.forks import Fork
from tests.parts import untraced_environment

from .dispatching import OPEN, open_store, say

LIMIT = 7
"""What the caps let through in a day."""

TYPES = [
    NotificationType("over", channels=["post", "wire"], caps=[FrequencyCap(LIMIT)]),
    NotificationType("held", channels=["post"], caps=[FrequencyCap(LIMIT)], over_cap="hold"),
    NotificationType("plain", channels=["post"]),
]


class Lines:
    """A channel that sends for good: each message is one line of a file."""

    has_endpoints = False
    deduplicates = False

    def __init__(self, file: int) -> None:
        self._file = file

    async def send(self, job: Job) -> Outcome:
        """Send."""
        os.write(self._file, f"{job.channel} {job.type} {job.notification} {job.user}\n".encode())
        return Accepted()


class Racer:
    """One process.

    Args:
        dispatcher: a dispatcher on the store that all of them share, or on one of its own.
        store: that store.
        settings: the numbers `first` to `last` of what is submitted, and whatever else the role wants.
    """

    def __init__(self, dispatcher: Dispatcher, store: Any, settings: dict[str, Any]) -> None:
        self.dispatcher = dispatcher
        self.store = store
        self.settings = settings
        self.tickets: list[Ticket] = []

    async def start(self) -> None:
        """Wait for the others."""
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)

    async def caps(self) -> None:
        """Submit numbered notifications of types with a cap to one user, all at once, while they are sent."""
        await self.start()
        numbers = range(self.settings["first"], self.settings["last"])
        async with self.dispatcher.running(poll_interval=0.05):
            calls = [
                self.dispatcher.submit(type, "alice", {"n": number}, idempotency_key=f"{type} {number}")
                for number in numbers
                for type in ("over", "held")
            ]
            self.tickets = [*await asyncio.gather(*calls)]
            await self.settle()
        for ticket in self.tickets:
            for each in await ticket.report():
                say("became", each.channel, each.state.name, each.reason or "none")

    async def submit(self) -> None:
        """Submit the same notification with the same key, several times at once."""
        await self._repeat(lambda: self.dispatcher.submit("plain", "alice", {"n": 1}, idempotency_key="key"))

    async def submit_many(self) -> None:
        """Submit the same notification to the same users with the same key, several times at once."""
        users = [f"u{number:04}" for number in range(self.settings["users"])]
        await self._repeat(
            lambda: self.dispatcher.submit_many("plain", users, {"n": 1}, idempotency_key="key", batch=10)
        )

    async def submit_in_a_transaction(self) -> None:
        """Submit the same notification with the same key in transactions of the application, several times at once."""
        import asyncpg

        async def submit() -> Ticket:
            connection = await asyncpg.connect(self.settings["dsn"])
            try:
                async with connection.transaction():
                    await connection.execute("INSERT INTO orders VALUES ($1)", os.getpid())
                    return await self.dispatcher.submit(
                        "plain", "alice", {"n": 1}, idempotency_key="key", connection=connection
                    )
            finally:
                await connection.close()

        await self._repeat(submit)

    async def _repeat(self, submit: Any) -> None:
        await self.start()
        if self.settings.get("halt"):  # whose worker must not take what others are to send
            await asyncio.gather(*(submit() for _ in range(3)))
        async with self.dispatcher.running(poll_interval=0.05):
            self.tickets = [*await asyncio.gather(*(submit() for _ in range(3)))]
            for ticket in self.tickets:
                say("ticket", ticket.id, ticket.replayed)
            await self.settle()

    async def settle(self) -> None:
        """Wait until nothing is open but what is held until tomorrow."""
        while any(each.state is not State.WAITING or each.due_at < self.settled_by for each in await self._open()):  # noqa: ASYNC110 - other processes send, too
            await asyncio.sleep(0.05)

    @property
    def settled_by(self) -> datetime:
        """The last instant of the day on which the processes race."""
        return datetime.fromisoformat(self.settings["noon"]).replace(hour=23)

    async def _open(self) -> Sequence[Any]:
        found: Sequence[Any] = await self.store.stuck(OPEN, limit=1000)
        return found


def halt(racer: Racer, step: str) -> None:
    """Let a process say so, and wait to be killed, when it reaches a step of a submission."""
    submit = racer.store.submit

    def reached() -> None:
        say("reached")
        time.sleep(600)

    async def submitting(submission: Any, **more: Any) -> Any:
        batch = [each.user for each in submission.recipients]
        if step == "before" or (step == "between" and "u0020" in batch):
            reached()
        result = await submit(submission, **more)
        if step == "after" or (step == "within" and more.get("connection") is not None):
            reached()
        return result

    racer.store.submit = submitting
    if step == "within" and type(racer.store).__module__.startswith("notify_sqlite"):
        from notify_sqlite._delivery_rows import DeliveryRows

        inner = DeliveryRows.submit

        def within(self: DeliveryRows, submission: Any) -> Any:
            result = inner(self, submission)
            reached()  # in the thread that holds the write lock
            return result

        DeliveryRows.submit = within  # type: ignore[method-assign]


@asynccontextmanager
async def racer(settings: dict[str, Any]) -> AsyncIterator[Racer]:
    """Yield what a process consists of."""
    noon, began = datetime.fromisoformat(settings["noon"]), datetime.now(UTC)
    file = os.open(settings["sent"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    async def recipients(ids: Sequence[str]) -> list[Recipient]:
        return [Recipient(each) for each in ids]

    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings["store"]))
        options: dict[str, Any] = {}
        if settings.get("caps"):
            options["caps"] = options["gates"] = await stack.enter_async_context(open_store(settings["caps"]))
        channels = {"post": Lines(file), "wire": Lines(file)}
        dispatcher = Dispatcher(
            None,
            store,
            TYPES,
            channels,
            recipients=recipients,
            clock=lambda: noon + (datetime.now(UTC) - began),
            lease=300.0,
            **options,
        )
        yield Racer(dispatcher, store, settings)


@contextmanager
def racers() -> Iterator[Any]:
    """Yield a function that starts a process; at the end, kill those that still run."""
    with ExitStack() as stack:

        def start(role: str, **settings: object) -> Fork:
            fork = Fork("tests.dispatch.racing", role, json.dumps(settings), env=untraced_environment(), text=True)
            stack.enter_context(fork)
            stack.callback(fork.kill)
            return fork

        yield start


async def main(role: str, text: str) -> None:
    """Play a role."""
    settings = json.loads(text)
    async with racer(settings) as found:
        if settings.get("halt"):
            halt(found, settings["halt"])
        await getattr(found, role)()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
