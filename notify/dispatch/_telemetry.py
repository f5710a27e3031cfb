"""Metrics and spans of dispatch, by the OpenTelemetry API alone. Without an SDK they cost next to nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Span, Status, StatusCode

from ._channel import Job
from .abc import Claim, Notification, State

_SCOPE: Final = "notify"


class DispatchTelemetry:
    """The metrics and spans of one dispatcher."""

    def __init__(self) -> None:
        meter = metrics.get_meter(_SCOPE)
        self._tracer = trace.get_tracer(_SCOPE)
        self._is_measuring = not type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")
        self._submissions = meter.create_counter("notify.dispatch.submissions", "1", "recipients submitted, by type")
        self._outcomes = meter.create_counter(
            "notify.dispatch.outcomes", "1", "what became of deliveries that a worker took, by channel and state"
        )
        self._duration = meter.create_histogram("notify.dispatch.send.duration", "s", "one call of a channel")
        self._latency = meter.create_histogram(
            "notify.dispatch.submit_to_send.duration",
            "s",
            "from the submission to the first attempt, unless it is held",
        )
        self._sending = meter.create_up_down_counter("notify.dispatch.sending", "1", "messages on their way")

    @contextmanager
    def submitting(self, type: str) -> Iterator[Mapping[str, str]]:
        """Run a submission inside a span, and yield what `Notification.meta` carries to the worker."""
        attributes = {"messaging.system": "notify", "messaging.operation.type": "send", "notify.type": type}
        with self._span("notify.dispatch.submit", trace.SpanKind.PRODUCER, attributes):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            yield carrier

    def submitted(self, type: str, recipients: int) -> None:
        """Count what was stored."""
        self._submissions.add(recipients, {"notify.type": type})

    @contextmanager
    def sending(self, job: Job, notification: Notification) -> Iterator[Span]:
        """Run one call of a channel inside a span that is linked to the submission."""
        submitted = trace.get_current_span(propagate.extract(json.loads(notification.meta))).get_span_context()
        attributes: dict[str, str | int] = {
            "notify.type": job.type,
            "notify.channel": job.channel,
            "notify.attempt": job.attempt,
        }
        links = [trace.Link(submitted)] if submitted.is_valid else []
        with self._span("notify.dispatch.send", trace.SpanKind.CLIENT, attributes, links) as span:
            yield span

    @contextmanager
    def _span(
        self, name: str, kind: trace.SpanKind, attributes: Mapping[str, str | int], links: Sequence[trace.Link] = ()
    ) -> Iterator[Span]:
        """Run the block inside a span, which gets only the class of an exception: its message may quote an address."""
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, links=links, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except Exception as error:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def sent(self, span: Span, job: Job, state: State, reason: str, seconds: float) -> None:
        """Record the outcome of one call of a channel."""
        span.set_attributes({"notify.state": state.name.lower(), "notify.reason": reason})
        if state in (State.FAILED, State.GONE, State.PARKED, State.UNKNOWN):
            span.set_status(Status(StatusCode.ERROR, reason))
        self._duration.record(seconds, {"notify.channel": job.channel, "notify.state": state.name.lower()})

    def began(self, claim: Claim, now: datetime) -> None:
        """Count a message as being sent, until `left` is called."""
        channel = claim.delivery.channel
        self._sending.add(1, {"notify.channel": channel})
        if self._is_measuring and claim.delivery.attempts == 0 and _is_prompt(claim):
            seconds = max(0.0, (now - claim.notification.created_at).total_seconds())
            self._latency.record(seconds, {"notify.channel": channel})

    def left(self, channel: str) -> None:
        """Count a message as no longer being sent."""
        self._sending.add(-1, {"notify.channel": channel})

    def ended(self, channel: str, state: State) -> None:
        """Count what became of a delivery."""
        self._outcomes.add(1, {"notify.channel": channel, "notify.state": state.name.lower()})


def _is_prompt(claim: Claim) -> bool:
    """Return whether `submit` decided to send it at once: it is neither held nor collected."""
    if claim.notification.digest is not None:
        return False
    decisions = json.loads(claim.recipient.decisions)
    return any(each["do"] == "send" and each["channel"] == claim.delivery.channel for each in decisions)
