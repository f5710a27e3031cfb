"""`Breaker`: a circuit breaker. A provider that keeps failing gets one message from time to time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from notify.adapters import OutageLog

from .._channel import Channel, Job
from .._checks import check_count, check_seconds
from .._outcomes import Ambiguous, Misconfigured, Outcome, Throttled, Transient
from ._wrapper import ChannelWrapper

_logger = logging.getLogger("notify")

MAX_KEYS = 10_000
"""How many keys with failures are remembered: they may be origins of addresses that came from outside."""


@dataclass(slots=True)
class Circuit:
    """The state of one key. It is closed while `open_until` is None.

    Invariants:
        I1: while it is half-open, at most one message is on its way as a probe, and only until `probe_until`.
    """

    failures: int = 0
    open_until: float | None = None
    probe_until: float = float("-inf")


class Breaker(ChannelWrapper):
    """A circuit breaker: stops sending after several failures in a row, and then tries one message from time to time.

    | state | a message | leaves |
    |---|---|---|
    | closed | is sent | after `failures` failures in a row: open |
    | open | is `Throttled`, which counts as no attempt | after `reset` seconds: half-open |
    | half-open | one is sent, for `probe_timeout` seconds; others are `Throttled` | a success: closed; else open |

    `Transient`, `Ambiguous`, `Misconfigured` and exceptions are failures, and so is a message that is cancelled.
    `Throttled` counts neither way. Every other outcome shows that the provider works.

    Args:
        channel: sends the messages.
        failures: how many failures in a row open it.
        reset: seconds for which it stays open.
        probe_timeout: seconds after which the message that is tried counts as `Ambiguous`, so that one that hangs does
            not block others.
        key: a function from a job to what fails separately, such as the push service; by default the whole channel.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        failures: int = 5,
        reset: float = 30.0,
        probe_timeout: float = 10.0,
        key: Callable[[Job], str] = lambda _: "",
    ) -> None:
        super().__init__([channel])
        check_count("failures", failures)
        check_seconds("reset", reset)
        check_seconds("probe_timeout", probe_timeout)
        self._failures = failures
        self._reset = reset
        self._probe_timeout = probe_timeout
        self._key = key
        self._circuits: dict[str, Circuit] = {}
        kind = type(channel).__name__
        self._log = OutageLog(_logger, f"nothing is sent through {kind} for a while", f"{kind} sends again")

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`."""
        key = self._key(job)
        circuit = self._circuits.get(key) or Circuit()
        if circuit.open_until is None:
            try:
                outcome = await self._channels[0].send(job)
            except BaseException:  # also a cancellation, which is how a dispatcher's timeout ends a message
                self._count(key, Ambiguous())
                raise
            self._count(key, outcome)
            return outcome
        now = anyio.current_time()
        wait = max(circuit.open_until, circuit.probe_until) - now
        if wait > 0:
            return Throttled(wait, key)
        circuit.probe_until = now + self._probe_timeout  # keeps I1
        outcome = Ambiguous("the probe took too long")
        try:
            with anyio.move_on_after(self._probe_timeout):
                outcome = await self._channels[0].send(job)
        finally:
            circuit.probe_until = float("-inf")
            circuit.open_until = anyio.current_time() + self._reset  # unless the outcome says otherwise
            self._count(key, outcome)
        return outcome

    def _count(self, key: str, outcome: Outcome) -> None:
        if isinstance(outcome, Throttled):
            return
        if not isinstance(outcome, Transient | Ambiguous | Misconfigured):
            self._circuits.pop(key, None)
            if not self._circuits:
                self._log.recovered()
            return
        if key not in self._circuits and len(self._circuits) >= MAX_KEYS:
            del self._circuits[next(iter(self._circuits))]
        circuit = self._circuits.setdefault(key, Circuit())
        circuit.failures += 1
        if circuit.failures >= self._failures:
            circuit.open_until = anyio.current_time() + self._reset
            self._log.failed(type(outcome).__name__)
