"""Begins, sends and finishes deliveries that are ready, each in a task of its own.

The tasks are not children of the worker's task: if that is cancelled, what has begun is finished. A channel that is
slow, or never returns, delays only its own messages. If the event loop ends, asyncio cancels the tasks too, and each
stores an ambiguous outcome.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import anyio

from notify import BackendError, ClosedError, UsageError
from notify.adapters import Background, backoff, without_stray_cancellation

from ._channel_log import ChannelLog
from ._endpoint_health import EndpointHealth
from ._looking import Ready
from ._moves import gate_name, move
from ._outcomes import Ambiguous, Misconfigured, Outcome, check_outcome
from ._parts import DispatchParts
from ._retry import delay
from ._settle import Settlement, settle
from ._telemetry import DispatchTelemetry
from .abc import State

logger = logging.getLogger("notify")

_FINISH: Final = 10.0
"""The most seconds for which a worker tries to store an outcome; after them, it is as if it had died."""

_GRACE: Final = 2.0
"""Seconds for everything else that follows a message."""


def storing_time(timeout: float, lease: float) -> float:
    """Return for how many seconds a worker tries to store an outcome; the lease covers these as well.

    Raises:
        UsageError: the lease leaves too little for it.
    """
    left = lease - timeout
    if not (timeout > 0 and left > 0 and left >= min(_FINISH, lease / 4)):
        raise UsageError(
            f"Dispatcher: lease={lease:g} must exceed timeout={timeout:g} by {_FINISH:g} seconds, or by a quarter of "
            "the lease if that is less, because the outcome is stored after the channel has answered"
        )
    return min(_FINISH, left)


class Batch:
    """Messages that are sent together; what follows for their endpoints is decided when all of them are finished."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.begun = 0
        self.settled: list[tuple[Ready, Settlement]] = []
        self._finished = anyio.Event()

    def end_one(self) -> None:
        """Note that a message is finished, or was not begun."""
        self.left -= 1
        if not self.left:
            self._finished.set()

    async def wait(self) -> None:
        """Wait until no message is left."""
        if self.left:
            await self._finished.wait()


class Sender:
    """Sends what is ready.

    Args:
        parts: of the dispatcher.
        telemetry: what is measured.
        log: what is logged about channels.
        lease: seconds for which a delivery is this worker's from its beginning on.
        timeout: seconds for which a channel may take to send one.
        limit: how many messages over one channel are many: those of a channel with as many are not looked for.
        ended: called when a message is finished, unless its channel still has so many.

    Invariants:
        I1. `busy` counts, by channel, the messages of all batches that are not finished.
    """

    def __init__(
        self,
        parts: DispatchParts,
        telemetry: DispatchTelemetry,
        log: ChannelLog,
        *,
        lease: float,
        timeout: float,
        limit: int,
        ended: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._telemetry = telemetry
        self._log = log
        self._lease = lease
        self._timeout = timeout
        self._finish = storing_time(timeout, lease)
        self._limit = limit
        self._ended = ended
        self._background = Background("dispatcher")
        self._health = EndpointHealth(parts.endpoints, parts.schedule)
        self.busy: Counter[str] = Counter()

    def is_free(self, channel: str) -> bool:
        """Whether further messages over a channel may be looked for."""
        return self.busy[channel] < self._limit

    def start(self, ready: Sequence[Ready], now: datetime) -> Batch:
        """Begin and send what is ready, without waiting for it.

        What the receiver can recognise as repeated is begun together. Of the rest, each is begun by itself, so that a
        worker that dies leaves at most one delivery of each kind unknown for every message it had in hand.
        """
        batch = Batch(len(ready))
        self.busy.update(each.job.channel for each in ready)  # keeps I1
        together = [each for each in ready if self._parts.channels[each.job.channel].deduplicates]
        apart = [[each] for each in ready if not self._parts.channels[each.job.channel].deduplicates]
        for part in [together, *apart] if together else apart:
            self._background.start(self._send, batch, part, now)
        return batch

    def aside(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Do something else beside the messages; `settle` waits for it, too."""
        self._background.start(function, *args)

    async def finish(self, batch: Batch) -> None:
        """Wait until a batch is finished, also if the caller is cancelled. A channel that never returns is left behind.

        Cancellation: raised when the batch is finished.
        """
        try:
            await self._wait(batch)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._wait(batch)
            raise

    async def settle(self) -> None:
        """Wait until nothing is being sent, as `finish` does for one batch."""
        await self._background.settle(self._longest)

    @property
    def _longest(self) -> float:
        return self._timeout + self._finish + _GRACE

    async def _wait(self, batch: Batch) -> None:
        with anyio.move_on_after(self._longest) as scope:
            await batch.wait()
        if scope.cancelled_caught:
            logger.warning("messages are left behind, since their channels ignore cancellation: %d", batch.left)

    # -- begin, send, finish: in tasks of their own ----------------------------------------------------------------

    async def _send(self, batch: Batch, part: Sequence[Ready], now: datetime) -> None:
        """Begin some deliveries together, and send each of them in a task of its own."""
        begun: set[str] = set()
        try:
            begun = await self._begin(part, now)
        finally:
            batch.begun += len(begun)
            for each in part:
                self._background.start(self._deliver if each.job.id in begun else self._leave, batch, each, now)

    async def _begin(self, ready: Sequence[Ready], now: datetime) -> set[str]:
        """Write that these are being sent; return the ids of those that this worker may still send."""
        moves = [move(each.claim, State.SENDING, lease=self._lease) for each in ready]
        try:
            made = await self._parts.store.advance(moves, now)
        except (BackendError, ClosedError) as error:
            logger.warning("the store failed when sending was to begin, so deliveries are claimed again: %s", error)
            return set()
        return {each.job.id for each, is_made in zip(ready, made, strict=True) if is_made}

    async def _deliver(self, batch: Batch, ready: Ready, now: datetime) -> None:
        """Send one message, and store the outcome: an ambiguous one, if this task is cancelled before the answer."""
        result: Settlement | None = None
        try:
            self._telemetry.began(ready.claim, now)
            began, began_at = anyio.current_time(), self._parts.clock()
            with self._telemetry.sending(ready.job, ready.claim.notification) as span:
                outcome = await self._outcome(ready)
                seconds = anyio.current_time() - began
                now += max(timedelta(0), self._parts.clock() - began_at)
                result = self._settled(ready, outcome, now)
                self._telemetry.sent(span, ready.job, result.move.to, result.move.reason, seconds)
            is_made = await self._store(ready, result, now)
            if is_made is not None:
                batch.settled.append((ready, result))
                await self._close_gate(ready, result)
            if is_made and result.move.to is not State.WAITING:
                self._telemetry.ended(ready.job.channel, result.move.to)
                await self._parts.events.tell(ready.claim, result.move.to, result.move.reason)
            await self._follow(batch, now)
        except anyio.get_cancelled_exc_class():
            unknown = Ambiguous("the worker was stopped")
            await self._store_last(self._settled(ready, unknown, now) if result is None else result, now)
            raise
        finally:
            self._telemetry.left(ready.job.channel)
            self._end(batch, ready)

    async def _leave(self, batch: Batch, ready: Ready, now: datetime) -> None:
        """End a message that could not be begun."""
        try:
            await self._follow(batch, now)
        finally:
            self._end(batch, ready)

    async def _follow(self, batch: Batch, now: datetime) -> None:
        """Do what follows for the endpoints, with the last message of a batch."""
        if batch.left == 1 and batch.settled:
            await self._health.follow(batch.settled, now)

    def _end(self, batch: Batch, ready: Ready) -> None:
        self.busy[ready.job.channel] -= 1  # keeps I1
        batch.end_one()
        if self.is_free(ready.job.channel):
            self._ended()

    async def _outcome(self, ready: Ready) -> Outcome:
        """Return what a channel answers, within `timeout` seconds."""
        channel = self._parts.channels[ready.job.channel]
        with anyio.move_on_after(self._timeout) as scope:
            try:
                return check_outcome(await without_stray_cancellation(channel.send, ready.job))
            except (Exception, BaseExceptionGroup) as error:
                if isinstance(error, BaseExceptionGroup) and error.subgroup((KeyboardInterrupt, SystemExit)):
                    raise  # pragma: no cover - it ends the process
                if not scope.cancel_called:
                    self._log.raised(ready.job.channel, error)
                    return Ambiguous(f"{type(error).__name__} in the channel")
        return Ambiguous(f"no answer within {self._timeout:g} s")

    def _settled(self, ready: Ready, outcome: Outcome, now: datetime) -> Settlement:
        """Return what follows from an outcome, and log what has to be logged."""
        channel = ready.job.channel
        if isinstance(outcome, Misconfigured):
            self._log.misconfigured(channel, outcome.error)

        def next_delay(attempt: int, outcome: Outcome) -> float | None:
            return delay(attempt, outcome, self._parts.schedule(channel), self._parts.chance())

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

    async def _store(self, ready: Ready, result: Settlement, now: datetime) -> bool | None:
        """Store an outcome, trying again for some seconds while the store is not reachable.

        Returns:
            Whether it changed the delivery: False, it came too late. None: it could not be stored.
        """
        wait = backoff(self._parts.chance, limit=1.0)
        with anyio.move_on_after(self._finish):
            while True:
                try:
                    (is_made,) = await self._parts.store.advance([result.move], now)
                except ClosedError:
                    break
                except BackendError:
                    await anyio.sleep(next(wait))
                else:
                    return is_made
        logger.warning("the outcome of delivery %s could not be stored: it is unknown", ready.claim.delivery.id)
        return None

    async def _store_last(self, result: Settlement, now: datetime) -> None:
        """Store an outcome after this task was cancelled; if that fails, it is as if the worker had died."""
        with anyio.move_on_after(_GRACE, shield=True):
            try:
                await self._parts.store.advance([result.move], now)
            except (BackendError, ClosedError):
                return

    async def _close_gate(self, ready: Ready, result: Settlement) -> None:
        """Leave a provider alone that wants to be; if that cannot be stored, each delivery finds out by itself."""
        if result.gate is None or result.until is None:
            return
        try:
            await self._parts.gates.close_gate(gate_name(ready.job.channel, result.gate), result.until)
        except BackendError as error:
            logger.warning("throttling of the channel %r could not be stored: %s", ready.job.channel, error)
