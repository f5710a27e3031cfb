"""Workers and mail servers that are killed or stopped at each step of an SMTP conversation.

A message is sent twice only if it cannot be known whether the server has accepted it: then with the same Message-ID,
and the list of attempts shows it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import anyio
import pytest

from notify.dispatch import Dispatcher, Endpoint, NotificationType, Recipient, State
from notify.dispatch.channels import EmailChannel
from notify.testing.dispatch import VirtualClock
from notify_memory import MemoryDispatchStore
from tests.dispatch.world import START
from tests.parts import until
from tests.servers.postgres import is_gone

from .dispatching import OPEN
from .smtp_steps import STEPS, SmtpSteps, process
from .working import Workers, dispatcher

pytestmark = pytest.mark.anyio

UNKNOWABLE = frozenset({"half", "dot", "taken"})
"""Where the whole message is on its way, and no answer has come."""


# -- workers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """The process that starts workers."""
    made = Workers()
    yield made
    made.kill()


class Killer:
    """Kills a process, once, when a mail server gets to a step, and waits for its end."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._is_known = threading.Event()
        self._pid = 0

    def aim(self, pid: int) -> None:
        """Say which process."""
        self._pid = pid
        self._is_known.set()

    def reach(self, step: str) -> None:
        """Kill it at the step."""
        if step == self._step:
            self._step = ""
            assert self._is_known.wait(60)
            os.kill(self._pid, signal.SIGKILL)
            while not is_gone(self._pid):
                threading.Event().wait(0.005)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_workers_that_are_killed_while_they_talk_to_a_mail_server(workers: Workers, tmp_path: Path) -> None:
    """SIGKILL at every step loses nothing; what may have been taken is sent again, once, as the same message."""
    steps = STEPS[:-1]  # what follows the answer is a step of the worker: `test_worker_kills`
    taken: dict[str, list[str]] = {step: [] for step in steps}
    async with AsyncExitStack() as stack:
        heirs: dict[str, tuple[Dispatcher, str]] = {}
        for step in steps:
            killer = Killer(step)
            server = SmtpSteps(0, killer.reach, taken[step].append)
            stack.enter_context(server.running())
            place = json.dumps(["sqlite", str(tmp_path / f"{step}.db")])
            heir = await stack.enter_async_context(dispatcher(place, "http://127.0.0.1:9", mail=server.port))
            ticket = await heir.submit("mail", "alice", {"title": step})
            heirs[step] = heir, ticket.id
            killer.aim(workers.start(place, "http://127.0.0.1:9", mail=server.port))
        await asyncio.to_thread(workers.wait)
        for step, (heir, ticket) in heirs.items():

            async def is_settled(heir: Dispatcher = heir) -> bool:
                return not await heir.stuck([each.name for each in OPEN], limit=1)

            async with heir.running(poll_interval=0.05):
                await until(is_settled, 60)
            found = await heir.explain(ticket, "alice")
            assert found is not None
            (sent,) = [each for each in found.deliveries if each.endpoint]
            assert (sent.state, sent.attempts) == (State.ACCEPTED, 2), step
            copies = 2 if step in UNKNOWABLE else 1
            assert taken[step] == [sent.id] * copies, step


# -- mail servers ----------------------------------------------------------------------------------------------------


async def recipients(ids: Sequence[str]) -> list[Recipient]:
    return [Recipient(each, endpoints=[Endpoint(channel="email", address="a@example.com")]) for each in ids]


class Sending:
    """A dispatcher with a mail server that is killed or stopped at a step, and is there again afterwards."""

    def __init__(self, step: str, file: Path) -> None:
        self.step = step
        self.file = file
        self.clock = VirtualClock(START)

    @property
    def taken(self) -> list[str]:
        """The ids of the messages that the server has taken."""
        return self.file.read_text().split() if self.file.exists() else []

    async def run(self, number: signal.Signals) -> tuple[State, Counter[str], str]:
        """Send a message; return what became of it, of its attempts, and its id."""
        with ExitStack() as stack:
            victim, port = await anyio.to_thread.run_sync(
                lambda: stack.enter_context(process(self.file, self.step, number))
            )
            channel = EmailChannel(
                "127.0.0.1", port, sender="no-reply@example.com", encryption="none", hostname="localhost", timeout=7.0
            )
            async with MemoryDispatchStore(clock=self.clock) as store, channel:
                types = [NotificationType("mail", channels=["email"])]
                found = Dispatcher(None, store, types, {"email": channel}, recipients=recipients, clock=self.clock.now)
                object.__setattr__(found._parts, "chance", lambda: 0.5)  # no retry is due at once
                ticket = await found.submit("mail", "alice", {"title": self.step})
                await self._settle(found)
                if number == signal.SIGKILL:
                    await anyio.to_thread.run_sync(victim.wait)
                    again = process(self.file, port=port)
                    await anyio.to_thread.run_sync(lambda: stack.enter_context(again))
                else:
                    victim.send_signal(signal.SIGCONT)
                for _ in range(9):
                    self.clock.advance("1h")
                    await self._settle(found)
                explanation = await found.explain(ticket, "alice")
                assert explanation is not None
                (sent,) = [each for each in explanation.deliveries if each.endpoint]
                became = Counter(f"{each.state.name} {each.reason}".strip() for each in explanation.attempts)
                return sent.state, became, sent.id

    @staticmethod
    async def _settle(found: Dispatcher) -> None:
        while (await found.tick()).claimed:
            pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_mail_servers_that_go_away_in_the_middle(number: signal.Signals, tmp_path: Path) -> None:
    """The message is sent when the server is back; where it may have been taken already, that attempt is ambiguous."""
    examples = {step: Sending(step, tmp_path / step) for step in STEPS}
    found: dict[str, tuple[State, Counter[str], str]] = {}

    async def run(step: str, example: Sending) -> None:
        found[step] = await example.run(number)

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for step, example in examples.items():
                tasks.start_soon(run, step, example)
    for step, (state, became, id) in found.items():
        assert state is State.ACCEPTED, step
        assert became["ACCEPTED"] == 1, (step, became)
        assert became["WAITING ambiguous"] == (1 if step in UNKNOWABLE else 0), (step, became)
        assert became.total() == (1 if step == "answered" else 2), (step, became)
        copies = {2} if step == "taken" else {1}
        if number == signal.SIGSTOP and step in UNKNOWABLE:
            copies |= {2}  # it goes on with what it had, unless the end of the connection has discarded that
        assert {*examples[step].taken} == {id}, step
        assert len(examples[step].taken) in copies, step
