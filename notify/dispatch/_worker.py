"""Takes deliveries that are due, applies the rules once more, sends, and records the outcome.

| step | what it does |
|---|---|
| claim | keeps other workers from the delivery until the lease ends |
| look | checks type, preferences, quiet hours, connections and reads again: skipped, held, collected, expired |
| expand | replaces the delivery of a channel by one for each device |
| count | counts for the frequency caps, once for a notification and recipient |
| begin | stores SENDING before the first byte is sent, and begins the lease again |
| send | waits for the channel's answer, for `timeout` seconds at most |
| finish | stores the state that follows, the health of the endpoint, the gate of the provider |

A worker that dies before `begin` has sent nothing: the delivery is claimed again. One that dies between `begin` and
`finish` may have sent: the next claim is ambiguous, and sends again only if the receiver recognises repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

import anyio

from notify import BackendError, ClosedError

from ._channel_log import ChannelLog
from ._looking import Looker, Ready
from ._moves import move, of_removed_channel
from ._parts import DispatchParts
from ._purging import Purger
from ._scheduling import SCHEDULE
from ._sending import Batch, Sender
from ._telemetry import DispatchTelemetry
from .abc import Claim, Move, OpenChannels, State

_HAND_BACK: Final = 2.0
"""Seconds in which a worker that is stopped gives back what it has claimed; else their leases end."""


Ended: TypeAlias = tuple[Claim, Move]
"""A delivery that has ended without being sent, and how."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What one step of a worker did.

    Attributes:
        claimed: how many deliveries it took.
        sent: how many of them it sent, whatever the outcome.
        digests: how many digests it closed.
        scheduled: to how many recipients schedules have submitted.
    """

    claimed: int = 0
    sent: int = 0
    digests: int = 0
    scheduled: int = 0


class DispatchWorker:
    """One worker. Any number of them share a store, in any number of processes.

    Args:
        parts: of the dispatcher.
        telemetry: what is measured.
        batch: how many deliveries it takes at once, and has on their way over one channel.
        lease: seconds for which they are its own.
        timeout: seconds for which a channel may take to send one.
        keep: seconds for which notifications are kept; None: for good.
    """

    def __init__(
        self,
        parts: DispatchParts,
        telemetry: DispatchTelemetry,
        *,
        batch: int,
        lease: float,
        timeout: float,
        keep: float | None,
    ) -> None:
        self._parts = parts
        self._batch = batch
        self._lease = lease
        self._telemetry = telemetry
        log = ChannelLog()
        self._looker = Looker(parts, log, timeout=timeout)
        self.sender = Sender(parts, telemetry, log, lease=lease, timeout=timeout, limit=batch, ended=self.wake)
        self._purger = Purger(parts.records, keep, parts.chance, self._leave)
        self._woken = anyio.Event()

    async def tick(self, now: datetime) -> Tick:
        """Close digests that are due, and handle one batch of deliveries.

        Raises:
            BackendError: the store failed; what was claimed is claimed again after its lease.

        Cancellation: what has begun to be sent is finished first, which takes `timeout` and some seconds at most.
        """
        done, batch, ended = await self._step(now, tuple(self._parts.channels))
        try:
            await self._tell(ended)
        finally:
            await self.sender.finish(batch)
        return Tick(done.claimed, batch.begun, done.digests)

    async def step(self, now: datetime) -> bool:
        """Do the same without waiting for what is sent; return whether there may be more to do at once.

        A channel that already has `batch` messages on their way is left out: the others do not wait for it.

        Raises, cancellation: as `tick`; `settle` waits for what has begun.
        """
        if self._woken.is_set():
            self._woken = anyio.Event()
        if self._purger.is_due():
            self.sender.aside(self._purger.purge, now)
        free = tuple(name for name in self._parts.channels if self.sender.is_free(name))
        done, _, ended = await self._step(now, free)
        if ended:
            self.sender.aside(self._tell, ended)
        return bool(done.claimed)

    async def settle(self) -> None:
        """Wait until what `step` has begun is finished, also if the caller is cancelled."""
        self._purger.stop()
        await self.sender.settle()

    def wake(self) -> None:
        """Let `wait` return: there may be something to do."""
        self._woken.set()

    async def wait(self, seconds: float) -> None:
        """Wait until `wake` is called after the beginning of the last `step`, `seconds` at most."""
        with anyio.move_on_after(seconds):
            await self._woken.wait()

    async def _step(self, now: datetime, channels: Sequence[str]) -> tuple[Tick, Batch, Sequence[Ended]]:
        digests = await self._parts.digests.close_digests(now)
        claims: Sequence[Claim] = ()
        if channels:
            claims = await self._parts.store.claim(now, lease=self._lease, limit=self._batch, channels=channels)
        ready, ended = await self._look(claims, now) if claims else ([], [])
        return Tick(len(claims), 0, digests), self.sender.start(ready, now), ended

    async def _look(self, claims: Sequence[Claim], now: datetime) -> tuple[Sequence[Ready], Sequence[Ended]]:
        """Decide what becomes of claims, and store it of those that are not sent now; return the others, and these."""
        try:
            moves, ready = await self._looker.look(claims, now)
            ended = await self._advance(claims, moves, now)
        except anyio.get_cancelled_exc_class():
            await self._hand_back(claims, now)
            raise
        return ready, ended

    async def _advance(self, claims: Sequence[Claim], moves: Sequence[Move], now: datetime) -> list[Ended]:
        """Make moves of deliveries that are not sent now; return those that have ended by them."""
        by_id = {each.delivery.id: each for each in claims}
        made = await self._parts.store.advance(moves, now) if moves else []
        ended = [
            (by_id[each.id], each)
            for each, is_made in zip(moves, made, strict=True)
            if is_made and each.to is not State.WAITING
        ]
        for claim, each in ended:
            self._telemetry.ended(claim.delivery.channel, each.to)
        return ended

    async def _tell(self, ended: Sequence[Ended]) -> None:
        """Push events about what has ended, until one fails: a log that is away must not take a timeout for each."""
        for claim, each in ended:
            if not await self._parts.events.tell(claim, each.to, each.reason):
                return

    async def _leave(self, before: datetime, now: datetime) -> bool:
        """End some deliveries that have been due since before a time, over channels that this dispatcher does not have.

        Schedules have channels of their own, and are left alone. Returns whether there may be more.
        """
        store = self._parts.store
        names = await store.open_channels() if isinstance(store, OpenChannels) else ()
        removed = [name for name in names if name not in self._parts.channels and not name.startswith(SCHEDULE)]
        if not removed:
            return False
        claims = await store.claim(before, lease=self._lease, limit=self._batch, channels=removed)
        moves = [found for each in claims if (found := of_removed_channel(each, before)) is not None]
        await self._tell(await self._advance(claims, moves, now))
        return bool(claims)

    async def _hand_back(self, claims: Sequence[Claim], now: datetime) -> None:
        """Let other workers have at once what this one has claimed, and not begun to send."""
        back = [move(each, State.WAITING, each.delivery.reason) for each in claims if not each.is_ambiguous]
        with anyio.move_on_after(_HAND_BACK, shield=True):
            try:
                await self._parts.store.advance(back, now)
            except (BackendError, ClosedError):
                return  # they are claimed again when their leases have ended
