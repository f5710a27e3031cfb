"""Metrics and spans of dispatch, by the OpenTelemetry API alone. Without an SDK they cost next to nothing.

SDKs run code of applications, such as span processors, and let its exceptions propagate. No such exception
stops, delays or repeats a message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Final

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Span, Status, StatusCode

from ._channel import Job
from ._channel_log import logger, place_of
from .abc import Claim, Notification, State

_SCOPE: Final = "notify"


class DispatchTelemetry:
    """The metrics and spans of one dispatcher."""

    def __init__(self) -> None:
        meter = metrics.get_meter(_SCOPE)
        self._is_failing = False
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
            with self._harmless():
                propagate.inject(carrier)
            yield carrier

    def submitted(self, type: str, recipients: int) -> None:
        """Count what was stored."""
        with self._harmless():
            self._submissions.add(recipients, {"notify.type": type})

    @contextmanager
    def sending(self, job: Job, notification: Notification) -> Iterator[Span]:
        """Run one call of a channel inside a span that is linked to the submission."""
        attributes: dict[str, str | int] = {
            "notify.type": job.type,
            "notify.channel": job.channel,
            "notify.attempt": job.attempt,
        }
        links = []
        with self._harmless():
            submitted = trace.get_current_span(propagate.extract(json.loads(notification.meta))).get_span_context()
            links = [trace.Link(submitted)] if submitted.is_valid else []
        with self._span("notify.dispatch.send", trace.SpanKind.CLIENT, attributes, links) as span:
            yield span

    @contextmanager
    def _span(
        self, name: str, kind: trace.SpanKind, attributes: Mapping[str, str | int], links: Sequence[trace.Link] = ()
    ) -> Iterator[Span]:
        """Run the block inside a span, which gets only the class of an exception: its message may quote an address."""
        span: Span = trace.INVALID_SPAN
        with self._harmless():
            span = self._tracer.start_span(name, kind=kind, attributes=attributes, links=links)
        current: AbstractContextManager[object] = nullcontext()  # if none can be started, the current one stays
        if span is not trace.INVALID_SPAN:
            current = trace.use_span(span, record_exception=False, set_status_on_exception=False)
        try:
            with current:
                yield span
        except Exception as error:
            with self._harmless():
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            with self._harmless():
                span.end()

    def sent(self, span: Span, job: Job, state: State, reason: str, seconds: float) -> None:
        """Record the outcome of one call of a channel."""
        with self._harmless():
            span.set_attributes({"notify.state": state.name.lower(), "notify.reason": reason})
            if state in (State.FAILED, State.GONE, State.PARKED, State.UNKNOWN):
                span.set_status(Status(StatusCode.ERROR, reason))
            self._duration.record(seconds, {"notify.channel": job.channel, "notify.state": state.name.lower()})

    def began(self, claim: Claim, now: datetime) -> None:
        """Count a message as being sent, until `left` is called."""
        channel = claim.delivery.channel
        with self._harmless():
            self._sending.add(1, {"notify.channel": channel})
            if self._is_measuring and claim.delivery.attempts == 0 and _is_prompt(claim):
                seconds = max(0.0, (now - claim.notification.created_at).total_seconds())
                self._latency.record(seconds, {"notify.channel": channel})

    def left(self, channel: str) -> None:
        """Count a message as no longer being sent."""
        with self._harmless():
            self._sending.add(-1, {"notify.channel": channel})

    def ended(self, channel: str, state: State) -> None:
        """Count what became of a delivery."""
        with self._harmless():
            self._outcomes.add(1, {"notify.channel": channel, "notify.state": state.name.lower()})

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Run the block; log the first exception of all blocks: span processors, for example, are application code."""
        try:
            yield
        except Exception as error:
            if not self._is_failing:
                self._is_failing = True
                logger.warning("telemetry of dispatch failed, so metrics and spans are incomplete: %s", place_of(error))


def _is_prompt(claim: Claim) -> bool:
    """Return whether `submit` decided to send it at once: it is neither held nor collected."""
    if claim.notification.digest is not None:
        return False
    decisions = json.loads(claim.recipient.decisions)
    return any(each["do"] == "send" and each["channel"] == claim.delivery.channel for each in decisions)
