"""Metrics and spans, by the OpenTelemetry API alone: the only module that imports it.

Counts are plain integers that observable instruments read at collection, so they cost nothing extra.
Histograms and spans are recorded only if an SDK was installed before the notifier was made.

SDKs run code of applications, such as span processors, and let its exceptions propagate. No such exception
fails, delays or loses an event.
"""

from __future__ import annotations

import logging
import time
import traceback
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Protocol

from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import CallbackOptions, Observation

from ..event import Event
from ._stats import Counters, pushes

logger = logging.getLogger("notify")

_SCOPE: Final = "notify"

_COUNTERS: Final[tuple[tuple[str, str, str, Callable[[Counters], Mapping[str, int]]], ...]] = (
    ("notify.pushes", "pushes by outcome", "outcome", pushes),
    (
        "notify.deliveries",
        "offers that open streams accepted, and events they read from the log",
        "source",
        lambda c: {
            "local": c.delivered_local,
            "routed": c.delivered_routed,
            "replayed": c.delivered_replayed,
        },
    ),
    (
        "notify.routes",
        "routes by outcome",
        "outcome",
        lambda c: {"routed": c.routed, "failed": c.route_failures},
    ),
    ("notify.gaps", "gaps by reason", "reason", lambda c: c.gaps),
    (
        "notify.failures",
        "failed calls of the store's reading side and of the presence tracker",
        "part",
        lambda c: {"read": c.read_failures, "presence": c.presence_failures},
    ),
    ("notify.duplicates", "offers ignored because the streams had seen the event", "", lambda c: {"": c.duplicates}),
    ("notify.ephemeral.dropped", "ephemeral events lost to full buffers", "", lambda c: {"": c.dropped}),
    ("notify.batches", "calls of save_many", "", lambda c: {"": c.batches}),
)


class Observed(Protocol):
    """Where events are yielded."""

    observe: Callable[[Event], None] | None


class Telemetry:
    """The metrics and spans of one notifier.

    Args:
        counters: the notifier's counts.
        observed: calls what is set as its `observe` with each event that a stream yields.
        users: the users with open streams.
        is_receiving: returns whether events of other instances are being received.

    Attributes:
        tracing: whether spans are recorded.
        measuring: whether durations are recorded.
        waiting: returns how many events were last found waiting in the store's outbox.
    """

    def __init__(
        self, counters: Counters, observed: Observed, users: Collection[str], is_receiving: Callable[[], bool]
    ) -> None:
        self.counters = counters
        self._observed = observed
        self.users = users
        self.is_receiving = is_receiving
        self.waiting: Callable[[], int] = lambda: 0
        self._tracer = trace.get_tracer(_SCOPE) if _installed(trace.get_tracer_provider()) else None
        self.tracing = self._tracer is not None
        meter = metrics.get_meter(_SCOPE)
        self.measuring = _installed(metrics.get_meter_provider())
        if self.measuring:
            self._batch = meter.create_histogram("notify.batch.size", "1", "events to one call of the store")
            self._duration = meter.create_histogram("notify.store.duration", "s", "one call of the store to save")
            self._latency = meter.create_histogram(
                "notify.push_to_yield.duration", "s", "from the push to the moment a stream yielded the event"
            )
        if self.measuring or self.tracing:
            observed.observe = self._observe
        self._has_failed = False
        _registry.add(self, meter)

    @contextmanager
    def push_span(self, event: Event) -> Iterator[Event]:
        """Run a push inside a span and yield the event that carries the span's context in its `meta`.

        The span gets only the class of an exception: its message may quote the user or the payload.
        """
        assert self._tracer is not None
        attributes = {
            "messaging.system": "notify",
            "messaging.operation.type": "send",
            "notify.type": event.type,
        }
        span: trace.Span = trace.INVALID_SPAN
        current: AbstractContextManager[object] = nullcontext()  # if none can be started, the current one stays
        with self._harmless():
            span = self._tracer.start_span("notify.push", kind=trace.SpanKind.PRODUCER, attributes=attributes)
            current = trace.use_span(span, record_exception=False, set_status_on_exception=False)
            carrier = dict(event.meta)
            propagate.inject(carrier, trace.set_span_in_context(span))
            event = event.with_meta(carrier)
        try:
            with current:
                yield event
        except Exception as error:
            with self._harmless():
                span.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            with self._harmless():
                span.end()

    def saved(self, seconds: float, events: int) -> None:
        """Record one call of the store."""
        with self._harmless():
            self._duration.record(seconds)
            self._batch.record(events)

    def close(self) -> None:
        """Keep the totals, let the gauges return to zero: to be called once."""
        if self._observed.observe == self._observe:
            self._observed.observe = None  # a stream store outlives its notifiers
        _registry.remove(self)

    def _observe(self, event: Event) -> None:
        with self._harmless():
            if self.measuring:
                self._latency.record(max(0.0, time.time() - event.micros / 1_000_000))
            if self.tracing:
                self._trace_delivery(event)

    def _trace_delivery(self, event: Event) -> None:
        """Record that a stream yielded the event, linked to the push."""
        assert self._tracer is not None
        pushed = trace.get_current_span(propagate.extract(event.meta)).get_span_context()
        links = [trace.Link(pushed)] if pushed.is_valid else []
        self._tracer.start_span(
            "notify.deliver",
            kind=trace.SpanKind.CONSUMER,
            attributes={"notify.type": event.type},
            links=links,
        ).end()

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Run the block; log the first exception of all blocks without its message, which may quote what was pushed."""
        try:
            yield
        except Exception as error:
            if not self._has_failed:
                self._has_failed = True
                place = traceback.extract_tb(error.__traceback__)[-1]
                why = f"{type(error).__name__} at {place.filename}:{place.lineno}"
                logger.warning("telemetry failed, so metrics and spans are incomplete: %s", why)


class _Registry:
    """Sums over the notifiers of the process; what closed ones counted stays in the totals."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[Telemetry] = weakref.WeakSet()
        self._closed = Counters()
        self._created = False

    def add(self, telemetry: Telemetry, meter: metrics.Meter) -> None:
        """Include a notifier; the first one creates the instruments, once for the process."""
        self._open.add(telemetry)
        if self._created:
            return
        self._created = True
        for name, description, label, read in _COUNTERS:
            meter.create_observable_counter(name, [self._counter(label, read)], "1", description)
        gauges: dict[str, tuple[str, Callable[[Telemetry], int]]] = {
            "notify.streams.open": ("streams open now", lambda t: t.counters.open_streams),
            "notify.users": ("users with an open stream now", lambda t: len(t.users)),
            "notify.wake_path.up": ("notifiers that receive what others push", lambda t: int(t.is_receiving())),
            "notify.pushes.pending": (
                "pushes whose outcome is still unknown",
                lambda t: t.counters.pending_pushes,
            ),
            "notify.outbox.waiting": ("events that wait in outboxes for a relay", lambda t: t.waiting()),
        }
        for name, (description, value) in gauges.items():
            meter.create_observable_gauge(name, [self._gauge(value)], "1", description)

    def remove(self, telemetry: Telemetry) -> None:
        """Keep only the totals of a notifier."""
        self._open.discard(telemetry)
        self._closed.add(telemetry.counters)

    def _counter(
        self, label: str, read: Callable[[Counters], Mapping[str, int]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            totals: dict[str, int] = {}
            for counters in [self._closed, *(telemetry.counters for telemetry in self._open)]:
                for value, count in read(counters).items():
                    totals[value] = totals.get(value, 0) + count
            return [Observation(total, {label: value} if label else {}) for value, total in totals.items()]

        return observe

    def _gauge(self, value: Callable[[Telemetry], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _options: [Observation(sum(value(telemetry) for telemetry in self._open))]


_registry = _Registry()


def _installed(provider: object) -> bool:
    """Return whether a provider comes from an SDK: those of the API do nothing, and are in the API's modules."""
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
