"""What the demo pushes: background traffic at a chosen rate, notifications from the forms, progress by group.

Every push has a key and goes to one instance; if that one does not answer, the same key goes to the other one. So a
push whose outcome is unknown, because its instance was killed in the middle, is stored at most once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from ..errors import UsageError
from ._demo_instance import Instance
from ._demo_ledger import Ledger, Pushed

MAX_RATE: Final = 200.0
"""Events per second that the page may ask for."""

MAX_IN_FLIGHT: Final = 64
"""Pushes in flight at which the traffic pauses, for example while no instance is running."""

RETRY: Final = 0.2
"""Seconds between two attempts."""

STEPS: Final = 25
STEP: Final = 0.22
"""Steps of a job, and seconds between them."""

_SAMPLES: Final = (
    ("order.paid", "Order {n} was paid"),
    ("comment.created", "New comment on post {n}"),
    ("build.finished", "Build {n} passed"),
    ("mention", "You were mentioned in thread {n}"),
    ("file.shared", "Report {n} was shared with you"),
    ("login", "New sign-in from device {n}"),
)


class Traffic:
    """Pushes to the instances. Its tasks belong to the task group that it is given.

    Args:
        instances: at least one.
        ledger: records every attempt.
        users: the recipients.
        tasks: runs the pushes in the background.

    Attributes:
        rate: events per second of the background traffic.
    """

    def __init__(self, instances: Sequence[Instance], ledger: Ledger, users: Sequence[str], tasks: TaskGroup) -> None:
        self.rate = 0.0
        self._instances = instances
        self._ledger = ledger
        self._users = users
        self._tasks = tasks
        self._numbers = count(1)
        self._jobs = count(1)
        self._run = f"demo-{time.time_ns():x}"
        self._wake = anyio.Event()

    def set_rate(self, rate: float) -> None:
        """Change the rate of the background traffic."""
        self.rate = max(0.0, min(MAX_RATE, rate))
        self._wake.set()

    async def run(self) -> None:
        """Push the background traffic until cancelled."""
        while True:
            self._wake = anyio.Event()
            with anyio.move_on_after(random.expovariate(self.rate) if self.rate else None):
                await self._wake.wait()
            if self.rate and not self._wake.is_set() and self._ledger.in_flight < MAX_IN_FLIGHT:
                type_, text = random.choice(_SAMPLES)
                user = random.choice(self._users)
                payload = {"text": text.format(n=random.randrange(100, 1000))}
                self._tasks.start_soon(self.push, user, type_, payload)

    def start_job(self, user: str, via: str = "") -> None:
        """Start a job that reports its progress: each report takes the place of the one before it."""
        self._tasks.start_soon(self._work, user, via)

    async def _work(self, user: str, via: str) -> None:
        number = next(self._jobs)
        group = f"{self._run}-job-{number}"
        for step in range(STEPS + 1):
            done = step / STEPS
            payload: dict[str, Any] = {"title": f"Export {number}", "message": f"{done:.0%} done", "progress": done}
            if done == 1:
                payload |= {"message": "Ready to download", "type": "success", "action_url": "#exports"}
                payload["action_label"] = "Download"
            await self.push(user, "generic", payload, group=group, via=via)
            await anyio.sleep(STEP)

    async def push(
        self, user: str, type_: str, payload: dict[str, Any], group: str | None = None, via: str = ""
    ) -> str:
        """Push one event, at the instance named `via` first; retry elsewhere. Return the name of the one that answered.

        Order: pushes that run concurrently are stored in any order.
        Cancellation: the outcome of the running attempt is unknown.
        Concurrency: any number of tasks.
        Cost: one request for each attempt.
        """
        number = next(self._numbers)
        key = f"{self._run}-{number}"
        payload = {**payload, "n": number, "at": time.time() * 1000}
        order: dict[str, Any] = {"user": user, "type": type_, "payload": payload, "key": key}
        if group is not None:
            order["group"] = group
        first = next((each for each in self._instances if each.name == via), random.choice(self._instances))
        self._ledger.in_flight += 1
        try:
            for attempt in count():  # pragma: no branch - it returns
                living = [each for each in self._instances if each.is_serving]
                instance = first if not living or (first in living and not attempt % 2) else random.choice(living)
                if living and await self._attempt(instance, order, number):
                    return instance.name
                await anyio.sleep(RETRY)
        finally:
            self._ledger.in_flight -= 1
        raise AssertionError("unreachable")  # pragma: no cover - the attempts end with an answer only

    async def _attempt(self, instance: Instance, order: dict[str, Any], number: int) -> bool:
        user = order["user"]
        try:
            with self._ledger.attempt(user, number, order["key"]) as attempt:
                id_ = await instance.push(order)
                attempt.ok(id_)
        except UsageError:
            return True  # refused, which the ledger has recorded: another attempt would be refused too
        except OSError:
            return False
        self._ledger.acknowledged(Pushed(number, user, id_, order["payload"]["at"]))
        return True
