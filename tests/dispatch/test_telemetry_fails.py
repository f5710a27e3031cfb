"""An application's telemetry that raises: what is submitted and sent does not depend on it.

Each case is a process, since an SDK is installed once.
"""

from __future__ import annotations

import pytest

from tests.notify.test_telemetry import run

DISPATCH = """
import logging
from collections import Counter
from opentelemetry.sdk.metrics import ExemplarFilter
from opentelemetry.sdk.trace import SpanProcessor
from notify.dispatch import Accepted, Dispatcher, NotificationType, Recipient
from notify_memory import MemoryDispatchStore

lines = []

class Keep(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())

logging.getLogger("notify").addHandler(Keep())

class Failing(SpanProcessor):
    def __init__(self, when):
        self.when = when
    def on_start(self, span, parent_context=None):
        if self.when == "start":
            raise RuntimeError("hush: no span may begin")
    def on_end(self, span):
        if self.when == "end":
            raise RuntimeError("hush: no span may end")

class FailingFilter(ExemplarFilter):
    def should_sample(self, *args):
        raise RuntimeError("hush: nothing is measured")

def install(when):
    if when == "measure":
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader], exemplar_filter=FailingFilter()))
    else:
        provider = TracerProvider()
        provider.add_span_processor(Failing(when))
        trace.set_tracer_provider(provider)

class Paper:
    has_endpoints = deduplicates = False
    sent = Counter()
    async def send(self, job):
        self.sent[job.user] += 1
        return Accepted()

async def recipients(ids):
    return [Recipient(each) for each in ids]

async def main():
    store = MemoryDispatchStore()
    types = [NotificationType("note", channels=["paper"])]
    dispatcher = Dispatcher(None, store, types, {"paper": Paper()}, recipients=recipients)
    states = {}
    for user in ("alice", "bob"):
        ticket = await dispatcher.submit("note", user)
        await dispatcher.tick()
        states[user] = [each.state.name for each in await ticket.report()]
    many = await dispatcher.submit_many("note", ["carol", "dora"], idempotency_key="k")
    await dispatcher.tick()
    for user in ("carol", "dora"):
        found = await dispatcher.explain(many, user)
        states[user] = [each.state.name for each in found.report()]
    busy = {name: count for name, count in dispatcher._worker.sender.busy.items() if count}
    print(json.dumps([Paper.sent, states, busy, lines]))
"""


@pytest.mark.parametrize("when", ["start", "end", "measure"])
def test_telemetry_that_raises(when: str) -> None:
    """Everything is stored, sent once and finished, and one line of the log says where telemetry failed."""
    sent, states, busy, lines = run(DISPATCH + f"\ninstall({when!r})\nasyncio.run(main())\n")
    users = ("alice", "bob", "carol", "dora")
    assert sent == dict.fromkeys(users, 1)
    assert states == {user: ["ACCEPTED"] for user in users}
    assert busy == {}
    (line,) = lines
    assert line.startswith("telemetry of dispatch failed, so metrics and spans are incomplete: RuntimeError")
    assert "hush" not in line
