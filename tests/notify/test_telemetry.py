"""Metrics and spans with a real SDK, and nothing without one. Each case is a process: an SDK is installed once."""

from __future__ import annotations

import json
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.forks import Fork

SETUP = """
import asyncio, json
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from notify import Notifier
from notify_memory import MemoryStore, MemoryRouter

def meters():
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    return reader

def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter

def read(reader):
    points = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    label = ",".join(map(str, point.attributes.values()))
                    name = metric.name + (f"[{label}]" if label else "")
                    points[name] = point.count if hasattr(point, "count") else point.value
    return points

async def use(notifier):
    async with notifier, notifier.subscribe("alice", "0") as stream:
        await notifier.push("alice", "t", 1)
        await notifier.push("alice", "t", 2, ephemeral=True, meta={"mine": "kept"})
        events = [await stream.next(10), await stream.next(10)]
        return events, read(reader) if reader else {}

reader = None
"""

IMPORTS = (
    "notify.dispatch.channels",
    "notify.testing.dispatch",
    "opentelemetry.sdk.metrics.export",
    "opentelemetry.sdk.trace.export.in_memory_span_exporter",
)
"""Modules that take long to import."""


def run(script: str) -> Any:
    """Run a script after the set-up in a process of its own and return the JSON it prints."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "script.py").write_text(SETUP + textwrap.dedent(script), encoding="utf-8")
        with Fork("script", cwd=Path(directory), text=True, imports=IMPORTS) as process:
            out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)


def test_metrics() -> None:
    """Counters tell what happened, the latency is recorded, and gauges return to zero when the notifier closes."""
    during, after = run("""
        reader = meters()
        _, during = asyncio.run(use(Notifier(MemoryStore(), router=MemoryRouter())))
        print(json.dumps([during, read(reader)]))
    """)
    assert during["notify.streams.open"] == during["notify.users"] == 1
    assert (during["notify.pushes[stored]"], during["notify.pushes[ephemeral]"]) == (1, 1)
    assert during["notify.deliveries[local]"] == 2
    assert during["notify.routes[routed]"] == 2
    assert during["notify.push_to_yield.duration"] == 2
    assert during["notify.store.duration"] == during["notify.batch.size"] == 1
    assert (during["notify.wake_path.up"], after["notify.wake_path.up"]) == (1, 0)
    assert after["notify.streams.open"] == after["notify.users"] == after["notify.pushes.pending"] == 0
    assert after["notify.pushes[stored]"] == 1


def test_an_sdk_installed_later_still_gets_the_counters() -> None:
    """Counters reach an SDK that is installed after the notifier was made, summed over notifiers."""
    points = run("""
        one, two = Notifier(MemoryStore()), Notifier(MemoryStore())
        reader = meters()
        async def main():
            await use(one)
            await use(two)
            await two.aclose()
        asyncio.run(main())
        print(json.dumps(read(reader)))
    """)
    assert points["notify.pushes[stored]"] == 2
    assert "notify.push_to_yield.duration" not in points


def test_batches_are_measured() -> None:
    """Of a store that is waited for, each call is timed and its size recorded."""
    points = run("""
        reader = meters()
        class Batches:
            def __init__(self): self.inner = MemoryStore()
            def __getattr__(self, name): return getattr(self.inner, name)
            async def save(self, event): return await self.inner.save(event)
            async def read(self, user, after, limit): return await self.inner.read(user, after, limit)
            async def head(self, user): return await self.inner.head(user)
            async def trim(self, before): return await self.inner.trim(before)
            async def aclose(self): pass
            async def save_many(self, events): return await self.inner.save_many(events)
        async def main():
            async with Notifier(Batches()) as notifier:
                await notifier.push("alice", "t")
                await notifier.push_many(["alice", "bob"], "t")
        asyncio.run(main())
        print(json.dumps(read(reader)))
    """)
    assert points["notify.store.duration"] == points["notify.batch.size"] == points["notify.batches"] == 2


def test_what_is_never_stored_is_measured() -> None:
    """Without a store each delivery is recorded as with one."""
    points = run("""
        reader = meters()
        async def main():
            async with Notifier() as notifier, notifier.subscribe("alice") as stream:
                for number in range(3):
                    await notifier.push("alice", "t", number, ephemeral=True)
                    await stream.next(2)
        asyncio.run(main())
        print(json.dumps(read(reader)))
    """)
    assert points["notify.push_to_yield.duration"] == 3


def test_spans() -> None:
    """A push has a span; a delivery has one too, linked to the push by the context in `meta`; the user's meta stays."""
    result = run("""
        exporter = spans()
        events, _ = asyncio.run(use(Notifier(MemoryStore())))
        print(json.dumps({
            "spans": [
                [s.name, s.kind.name, s.context.span_id, [link.context.span_id for link in s.links], dict(s.attributes)]
                for s in exporter.get_finished_spans()
            ],
            "meta": [dict(event.meta) for event in events],
        }))
    """)
    pushes = [span for span in result["spans"] if span[0] == "notify.push"]
    deliveries = [span for span in result["spans"] if span[0] == "notify.deliver"]
    assert [span[1] for span in pushes + deliveries] == ["PRODUCER"] * 2 + ["CONSUMER"] * 2
    assert [span[3] for span in deliveries] == [[span[2]] for span in pushes]
    assert all("alice" not in json.dumps(span[4]) for span in result["spans"])
    assert result["meta"][1]["mine"] == "kept"
    assert all("traceparent" in meta for meta in result["meta"])


def test_spans_do_not_quote_errors() -> None:
    """A push that fails has the kind of error in its span, not the message, which may quote a user or a payload."""
    spans = run("""
        from notify import BackendUnavailableError

        class Failing(MemoryStore):
            async def save(self, event):
                raise BackendUnavailableError(f"no room for {event.user}: {event.data}", backend="Failing")

        async def main():
            async with Notifier(Failing()) as notifier:
                try:
                    await notifier.push("alice@hush.example", "t", "hush")
                except BackendUnavailableError as error:
                    assert "hush" in str(error)

        exporter = spans()
        asyncio.run(main())
        print(json.dumps([[each.name, each.status.status_code.name, each.status.description, each.to_json()]
                          for each in exporter.get_finished_spans()]))
    """)
    assert [each[:3] for each in spans] == [["notify.push", "ERROR", "BackendUnavailableError"]]
    assert "hush" not in str(spans)


def test_spans_and_metrics_together_and_events_without_context() -> None:
    """With both, a delivery of an event that carries no context has a span without links."""
    result = run("""
        exporter, reader = spans(), meters()
        store = MemoryStore()
        async def main():
            from notify import Event
            await store.save(Event("alice", "t"))
            notifier = Notifier(store)
            async with notifier.subscribe("alice", "0") as stream:
                await stream.next(2)
                await store.save(Event("alice", "t"))
                notifier.deliver((await store.read("alice", stream.last_id, 1)).events[0])
                await stream.next(2)
            await notifier.aclose()
        asyncio.run(main())
        print(json.dumps([[s.name, len(s.links)] for s in exporter.get_finished_spans()]))
    """)
    assert result == [["notify.deliver", 0]]


def test_without_an_sdk_nothing_is_recorded() -> None:
    """Without an SDK events carry no context, and no stream observes what it yields."""
    result = run("""
        notifier = Notifier(MemoryStore())
        events, _ = asyncio.run(use(notifier))
        print(json.dumps([[dict(event.meta) for event in events], notifier._live._hub.observe is None]))
    """)
    assert result == [[{}, {"mine": "kept"}], True]


def test_spans_and_counts_of_dispatch() -> None:
    """A submission and what its worker sends are linked spans; outcomes are counted by channel and state."""
    found, points, linked = run("""
        from notify.dispatch import Accepted, Dispatcher, NotificationType, Recipient, Rejected
        from notify_memory import MemoryDispatchStore

        class Paper:
            has_endpoints = deduplicates = False
            async def send(self, job):
                return Rejected("503") if job.user == "bob" else Accepted()

        async def recipients(ids):
            return [Recipient(each) for each in ids]

        async def main():
            paper = NotificationType("note", channels=["paper"])
            dispatcher = Dispatcher(None, MemoryDispatchStore(), [paper], {"paper": Paper()}, recipients=recipients)
            for user in ("alice", "bob", "carol"):
                await dispatcher.submit("note", user)
            await dispatcher.tick()

        reader, exporter = meters(), spans()
        asyncio.run(main())
        finished = exporter.get_finished_spans()
        submitted = {each.context.span_id for each in finished if each.name == "notify.dispatch.submit"}
        sent = [each for each in finished if each.name == "notify.dispatch.send"]
        print(json.dumps([
            sorted([each.name, each.attributes.get("notify.state", ""), each.status.status_code.name]
                   for each in finished),
            read(reader),
            submitted == {link.context.span_id for each in sent for link in each.links},
        ]))
    """)
    assert found == [
        ["notify.dispatch.send", "accepted", "UNSET"],
        ["notify.dispatch.send", "accepted", "UNSET"],
        ["notify.dispatch.send", "failed", "ERROR"],
        *[["notify.dispatch.submit", "", "UNSET"]] * 3,
    ]
    assert linked
    assert points["notify.dispatch.submissions[note]"] == 3
    assert points["notify.dispatch.outcomes[paper,accepted]"] == 2
    assert points["notify.dispatch.outcomes[paper,failed]"] == 1
    assert points["notify.dispatch.send.duration[paper,accepted]"] == 2
    assert points["notify.dispatch.send.duration[paper,failed]"] == 1
    assert points["notify.dispatch.submit_to_send.duration[paper]"] == 3
    assert points["notify.dispatch.sending[paper]"] == 0


def test_spans_of_dispatch_do_not_quote_errors() -> None:
    """A submission that fails has the kind of error in its span, not the message, which may quote an address."""
    spans = run("""
        from notify.dispatch import Dispatcher, NotificationType
        from notify.dispatch.channels import LogChannel
        from notify_memory import MemoryDispatchStore

        def schema(data):
            raise ValueError(f"not an address: {data}")

        async def recipients(ids):
            raise RuntimeError(f"no user {ids} at hush.example")

        async def main():
            types = [NotificationType("a", channels=["log"], schema=schema), NotificationType("b", channels=["log"])]
            dispatcher = Dispatcher(None, MemoryDispatchStore(), types, {"log": LogChannel()}, recipients=recipients)
            for key, many in (("a", False), ("b", False), ("a", True), ("b", True)):
                try:
                    if many:
                        await dispatcher.submit_many(key, ["alice"], {"to": "alice@hush.example"})
                    else:
                        await dispatcher.submit(key, "alice", {"to": "alice@hush.example"})
                except Exception as error:
                    assert "hush" in str(error)

        exporter = spans()
        asyncio.run(main())
        print(json.dumps([[each.name, each.status.status_code.name, each.status.description, each.to_json()]
                          for each in exporter.get_finished_spans()]))
    """)
    assert [each[:3] for each in spans] == [
        ["notify.dispatch.submit", "ERROR", "UsageError"],
        ["notify.dispatch.submit", "ERROR", "RuntimeError"],
        ["notify.dispatch.submit", "ERROR", "UsageError"],
        ["notify.dispatch.submit", "UNSET", None],  # the submission is stored; its recipients are read afterwards
    ]
    assert "hush" not in str(spans)


def test_what_is_on_its_way_and_how_late_it_is() -> None:
    """A message counts as sending until its outcome is stored; attempts that are repeated, what was held, and what was
    collected in a digest are not late."""
    during, after = run("""
        from datetime import UTC, datetime
        from notify.dispatch import Accepted, Digest, Dispatcher, NotificationType, Recipient, Transient
        from notify.testing.dispatch import VirtualClock
        from notify_memory import MemoryDispatchStore

        clock, found = VirtualClock(datetime(2027, 1, 5, 12, tzinfo=UTC)), []

        class Paper:
            has_endpoints = deduplicates = False
            async def send(self, job):
                found.append(read(reader))
                return Transient("503") if job.attempt == 1 else Accepted()

        async def recipients(ids):
            return [Recipient(each) for each in ids]

        async def main():
            store = MemoryDispatchStore(clock=clock)
            types = [NotificationType("note", channels=["paper"]), NotificationType("later", channels=["paper"]),
                     NotificationType("many", channels=["paper"], digest=Digest(window=60.0))]
            dispatcher = Dispatcher(None, store, types, {"paper": Paper()}, recipients=recipients, clock=clock.now)
            await dispatcher.submit("note", "alice")
            clock.advance("5s")
            await dispatcher.tick()
            clock.advance("1h")
            await dispatcher.tick()
            await dispatcher.set_preferences("alice", {"quiet_hours": [{"start": "12:00", "end": "14:00"}]})
            await dispatcher.submit("later", "alice")
            clock.advance("2h")
            await dispatcher.tick()
            await dispatcher.submit("many", "bob")
            clock.advance("1h")
            while (await dispatcher.tick()).claimed:
                pass

        reader = meters()
        asyncio.run(main())
        late = [point for resource in reader.get_metrics_data().resource_metrics for scope in resource.scope_metrics
                for metric in scope.metrics if metric.name == "notify.dispatch.submit_to_send.duration"
                for point in metric.data.data_points]
        print(json.dumps([found[0], [read(reader), [[each.count, each.sum] for each in late]]]))
    """)
    assert during["notify.dispatch.sending[paper]"] == 1
    points, late = after
    assert points["notify.dispatch.sending[paper]"] == 0
    assert points["notify.dispatch.send.duration[paper,waiting]"] == 3
    assert points["notify.dispatch.send.duration[paper,accepted]"] == 2
    assert late == [[1, 5.0]]


FAILING = """
import logging
from notify_sqlite import SQLiteStore
from opentelemetry.sdk.metrics import ExemplarFilter
from opentelemetry.sdk.trace import SpanProcessor

class Lines(logging.Handler):
    found = []
    def emit(self, record):
        self.found.append(record.getMessage())

class Failing(SpanProcessor):
    def on_start(self, span, parent_context=None):
        if when == "start":
            raise RuntimeError("hush: no span may begin")
    def on_end(self, span):
        if when == "end":
            raise RuntimeError("hush: no span may end")

class FailingFilter(ExemplarFilter):
    def should_sample(self, *args):
        raise RuntimeError("hush: nothing is measured")

logging.getLogger("notify").addHandler(Lines())
if when == "measure":
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()], exemplar_filter=FailingFilter()))
else:
    provider = TracerProvider()
    provider.add_span_processor(Failing())
    trace.set_tracer_provider(provider)

async def main():
    seen = []
    for store in (MemoryStore(), SQLiteStore(path)):
        async with asyncio.timeout(20), store, Notifier(store) as notifier, notifier.subscribe("alice", "0") as stream:
            for number in range(3):
                await notifier.push("alice", "t", number)
            await notifier.push_many(["alice", "bob"], "t", 3)
            seen.append([(await stream.next(5)).payload for _ in range(4)])
            await notifier.push("alice", "t", 4)
            seen[-1].append((await stream.next(5)).payload)
    print(json.dumps([seen, Lines.found]))

asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["start", "end", "measure"])
def test_telemetry_that_raises(when: str, tmp_path: Path) -> None:
    """An exception of an application's telemetry fails no push and loses no event; each notifier logs it once."""
    path = str(tmp_path / "notify.db")
    seen, lines = run(f"when, path = {when!r}, {path!r}\n{FAILING}")
    assert seen == [[0, 1, 2, 3, 4]] * 2
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("telemetry failed, so metrics and spans are incomplete: RuntimeError at ")
        assert "hush" not in line
