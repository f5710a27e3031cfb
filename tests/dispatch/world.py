"""A dispatcher with everything around it, on the memory store, with a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from notify import Notifier
from notify.dispatch import (
    Accepted,
    Channel,
    Dispatcher,
    Endpoint,
    Job,
    NotificationType,
    Outcome,
    Recipient,
    State,
)
from notify.inbox import Inbox
from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore, MemoryPresence, MemoryStreamStore

START = datetime(2027, 1, 5, 12, tzinfo=UTC)


class Recorder:
    """A channel that keeps what it is asked to send, and answers as it was told."""

    def __init__(self, *, has_endpoints: bool = False, deduplicates: bool = False) -> None:
        self.has_endpoints = has_endpoints
        self.deduplicates = deduplicates
        self.jobs: list[Job] = []
        self.answers: list[Outcome | Exception] = []

    async def send(self, job: Job) -> Outcome:
        """Keep the job and return the next answer; Accepted when none is left."""
        self.jobs.append(job)
        answer = self.answers.pop(0) if self.answers else Accepted(f"p{len(self.jobs)}")
        if isinstance(answer, Exception):
            raise answer
        return answer


class InboxChannel(Recorder):
    """A channel that lists items."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__(deduplicates=True)
        self.inbox = inbox

    async def send(self, job: Job) -> Outcome:
        """Send an item."""
        self.jobs.append(job)
        meta = {"notification": job.notification}
        event = await self.inbox.send(
            job.user, job.type, dict(job.data), key=job.id, group=job.collapse or None, meta=meta
        )
        assert event is not None
        return Accepted(event.id)


class World:
    """A dispatcher with everything around it."""

    def __init__(
        self, types: Iterable[NotificationType], clock: VirtualClock | None = None, store: Any = None, log: Any = None
    ) -> None:
        self.clock = VirtualClock(START) if clock is None else clock
        self.presence = MemoryPresence()
        self.notifier = Notifier(MemoryStreamStore() if log is None else log, presence=self.presence, linger=0)
        self.inbox = Inbox(self.notifier)
        self.store: Any = MemoryDispatchStore(clock=self.clock) if store is None else store
        self.email = Recorder()
        self.push = Recorder(has_endpoints=True, deduplicates=True)
        self.in_app = InboxChannel(self.inbox)
        self.is_away = False
        self.users = {"alice": Recipient("alice", tz="Europe/Berlin", locale="de"), "bob": Recipient("bob")}
        channels: dict[str, Channel] = {"in_app": self.in_app, "email": self.email, "web_push": self.push}
        self.dispatcher = Dispatcher(
            self.inbox,
            self.store,
            types,
            channels,
            recipients=self.recipients,
            presence=self.presence,
            clock=self.clock.now,
        )

    async def recipients(self, ids: Sequence[str]) -> list[Recipient]:
        """Return those that exist."""
        if self.is_away:
            raise ConnectionError("the database of users is away")
        return [self.users[user] for user in ids if user in self.users]

    async def settle(self) -> None:
        """Handle what is due until nothing is."""
        while (done := await self.dispatcher.tick()).claimed or done.scheduled:
            pass

    async def pass_time(self, by: str) -> None:
        """Let time pass and handle what is due then."""
        self.clock.advance(by)
        await self.settle()

    async def submit(self, key: str = "note", to: str | Recipient = "alice", **data: Any) -> str:
        """Submit and return the ticket's id."""
        ticket = await self.dispatcher.submit(key, to, data or {"title": "hello"})
        return ticket.id

    async def states(self, ticket: str, user: str = "alice") -> dict[str, list[State]]:
        """Return the states of a notification's deliveries by channel, without those that were expanded."""
        record = await self.store.record(ticket, user)
        assert record is not None
        result: dict[str, list[State]] = {}
        for each in record[2]:
            if each.state is not State.EXPANDED:
                result.setdefault(each.channel, []).append(each.state)
        return result

    async def device(self, name: str, user: str = "alice") -> Endpoint:
        """Register a device for push messages."""
        device: Endpoint = await self.store.register(
            Endpoint(user, "web_push", f"https://push.example/{name}"), self.clock.now()
        )
        return device


def note(*channels: str, **more: Any) -> NotificationType:
    """Return a type with these channels."""
    return NotificationType("note", channels=channels, **more)
