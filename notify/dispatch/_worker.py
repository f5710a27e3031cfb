"""Takes deliveries that are due, looks at the rules once more, sends, and records the outcome.

| step | what may change in it |
|---|---|
| claim | other workers leave the delivery alone, until the lease ends |
| look | type, preferences, quiet hours, connections, reads are looked at again: skipped, held, collected, expired |
| expand | the delivery of a channel becomes one for each device |
| count | a place in the frequency caps, once for a notification and recipient |
| begin | SENDING is written before the first byte goes out |
| send | the channel's answer, or none in time |
| finish | the state that follows from it, the health of the endpoint, the gate of the provider |

A worker that dies before `begin` has sent nothing: the delivery is claimed again. One that dies between `begin` and
`finish` may have sent: the next claim says so, and sends again only where the far side recognises repetitions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import anyio

from notify import BackendError
from notify.adapters import backoff

from ._channel_log import ChannelLog
from ._looking import Looker, Ready, gate_name, move
from ._outcomes import Ambiguous, Misconfigured, Outcome, Transient
from ._parts import DispatchParts
from ._retry import delay
from ._settle import Settlement, settle
from ._telemetry import DispatchTelemetry
from .abc import Claim, Endpoint, Move, State

logger = logging.getLogger("notify")

_FINISH: Final = 10.0
"""Seconds for which a worker tries to store an outcome, beyond which it is as if the worker had died."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What one step of a worker did.

    Attributes:
        claimed: how many deliveries it took.
        sent: how many of them it sent, whatever the outcome.
        digests: how many digests it closed.
    """

    claimed: int = 0
    sent: int = 0
    digests: int = 0


class DispatchWorker:
    """One worker. Any number of them share a store, in any number of processes.

    Args:
        parts: of the dispatcher.
        telemetry: what is measured.
        batch: how many deliveries it takes at once.
        lease: seconds for which they are its own.
        timeout: seconds for which a channel may take to send one.
    """

    def __init__(
        self, parts: DispatchParts, telemetry: DispatchTelemetry, *, batch: int, lease: float, timeout: float
    ) -> None:
        self._parts = parts
        self._batch = batch
        self._lease = lease
        self._timeout = timeout
        self._telemetry = telemetry
        self._log = ChannelLog()
        self._looker = Looker(parts, self._log)

    async def tick(self, now: datetime) -> Tick:
        """Close digests that are due, and handle one batch of deliveries.

        Raises:
            BackendError: the store failed; what was claimed is claimed again after its lease.

        Cancellation: what has begun to be sent is finished first, which takes `timeout` and some seconds at most.
        """
        digests = await self._parts.digests.close_digests(now)
        claims = await self._parts.store.claim(
            now, lease=self._lease, limit=self._batch, channels=tuple(self._parts.channels)
        )
        if not claims:
            return Tick(digests=digests)
        moves, ready = await self._looker.look(claims, now)
        await self._advance(claims, moves, now)
        with anyio.CancelScope(shield=True):
            sent = await self._send(ready, now)
        return Tick(len(claims), sent, digests)

    async def _advance(self, claims: Sequence[Claim], moves: Sequence[Move], now: datetime) -> None:
        """Make moves of deliveries that are not sent now."""
        channels = {each.delivery.id: each.delivery.channel for each in claims}
        made = await self._parts.store.advance(moves, now) if moves else []
        for each, is_made in zip(moves, made, strict=True):
            if is_made and each.to is not State.WAITING:
                self._telemetry.ended(channels[each.id], each.to)

    # -- begin, send, finish -------------------------------------------------------------------------------------

    async def _send(self, ready: Sequence[Ready], now: datetime) -> int:
        """Begin, send and finish what is ready; return how much of it was begun.

        What the far side can recognise as repeated is begun together. Of the rest, each is begun by itself, so that a
        worker that dies leaves at most one delivery of each kind unknown for every message it had in hand.
        """
        together = [each for each in ready if self._parts.channels[each.job.channel].deduplicates]
        begun = await self._begin(together, now)
        apart = [each for each in ready if not self._parts.channels[each.job.channel].deduplicates]
        count = len(begun)

        async def by_itself(each: Ready) -> None:
            nonlocal count
            if await self._begin([each], now):
                count += 1
                await self._deliver(each, now)

        async with anyio.create_task_group() as tasks:
            for each in begun:
                tasks.start_soon(self._deliver, each, now)
            for each in apart:
                tasks.start_soon(by_itself, each)
        return count

    async def _begin(self, ready: Sequence[Ready], now: datetime) -> list[Ready]:
        """Write that these are being sent; return those that this worker may still send."""
        if not ready:
            return []
        try:
            made = await self._parts.store.advance([move(each.claim, State.SENDING) for each in ready], now)
        except BackendError:
            logger.warning(
                "the store failed when sending was to begin; the deliveries are claimed again", exc_info=True
            )
            return []
        return [each for each, is_made in zip(ready, made, strict=True) if is_made]

    async def _deliver(self, ready: Ready, now: datetime) -> None:
        """Send one message, and store the outcome."""
        began, began_at = anyio.current_time(), self._parts.clock()
        with self._telemetry.sending(ready.job, ready.claim.notification) as span:
            outcome = await self._outcome(ready)
            seconds = anyio.current_time() - began
            now += max(timedelta(0), self._parts.clock() - began_at)
            result = self._settled(ready, outcome, now)
            self._telemetry.sent(span, ready.job, result.move.to, result.move.reason, seconds)
        await self._store(ready, result, now)

    async def _outcome(self, ready: Ready) -> Outcome:
        """Return what a channel answers, within `timeout` seconds."""
        channel = self._parts.channels[ready.job.channel]
        with anyio.move_on_after(self._timeout):
            try:
                return await channel.send(ready.job)
            except Exception as error:
                self._log.raised(ready.job.channel, error)
                return Ambiguous(f"{type(error).__name__} in the channel")
        return Ambiguous(f"no answer within {self._timeout:g} s")

    def _settled(self, ready: Ready, outcome: Outcome, now: datetime) -> Settlement:
        """Return what follows from an outcome, and log what has to be logged."""
        channel = ready.job.channel
        if isinstance(outcome, Misconfigured):
            self._log.misconfigured(channel, outcome.error)

        def next_delay(attempt: int, retry_after: float | None) -> float | None:
            again = Transient("", retry_after) if isinstance(outcome, Ambiguous) else outcome
            return delay(attempt, again, self._parts.schedule(channel), self._parts.chance())

        result = settle(
            ready.claim,
            outcome,
            now,
            retries=self._parts.channels[channel].deduplicates,
            attempts=ready.claim.delivery.attempts + 1,
            delay=next_delay,
        )
        if result.effect == "success":
            self._log.works(channel)
        return result

    async def _store(self, ready: Ready, result: Settlement, now: datetime) -> None:
        """Store an outcome, trying again for some seconds while the store is not reachable."""
        wait = backoff(self._parts.chance, limit=1.0)
        with anyio.move_on_after(_FINISH):
            while True:
                try:
                    (is_made,) = await self._parts.store.advance([result.move], now)
                    await self._follow(ready, result, now)
                except BackendError:
                    await anyio.sleep(next(wait))
                else:
                    if is_made and result.move.to is not State.WAITING:
                        self._telemetry.ended(ready.job.channel, result.move.to)
                    return
        logger.warning("the outcome of delivery %s could not be stored: it is unknown", ready.claim.delivery.id)

    async def _follow(self, ready: Ready, result: Settlement, now: datetime) -> None:
        """Do what follows for the endpoint and the provider."""
        endpoint = ready.job.endpoint
        if result.gate is not None and result.move.due_at is not None:
            await self._parts.gates.close_gate(gate_name(ready.job.channel, result.gate), result.move.due_at)
        if endpoint is None or not endpoint.generation:
            return
        if result.effect == "success":
            await self._parts.endpoints.observe(endpoint.id, endpoint.generation, now, ok=True)
        elif result.effect == "refusal":
            seen = await self._parts.endpoints.observe(endpoint.id, endpoint.generation, now, ok=False)
            if seen is not None and is_hopeless(seen, now):
                await self._parts.endpoints.retire(endpoint.id, endpoint.generation, "refused", now)
        elif result.effect:
            await self._parts.endpoints.retire(endpoint.id, endpoint.generation, result.effect, now)


_REFUSALS: Final = 5
_REFUSING: Final = timedelta(days=1)


def is_hopeless(endpoint: Endpoint, now: datetime) -> bool:
    """Return whether an endpoint is given up: it never worked, and has refused five times over at least a day."""
    since = endpoint.failing_since
    never = endpoint.last_success_at is None
    return never and endpoint.failures >= _REFUSALS and since is not None and now - since >= _REFUSING
