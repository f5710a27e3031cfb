"""What the suites of stores of deliveries share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import anyio
import pytest

from notify.dispatch.abc import (
    BY_CLAIM,
    IN_DOUBT,
    Claim,
    Delivery,
    DeliveryAttempt,
    DeliveryTracking,
    DigestJoin,
    DigestStore,
    DispatchRecords,
    DispatchStore,
    Move,
    Notification,
    RecipientRecord,
    State,
    Submission,
    delivery_id,
    exact,
)

from ._suite import Suite

START: Final = exact(datetime.now(UTC))
"""The present time of the tests, which only policy knows."""


class DeliveryStore(DispatchStore, DispatchRecords, DigestStore, DeliveryTracking, Protocol):
    """What one store has to be: its rows refer to each other."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close; every method raises ClosedError from now on."""


if TYPE_CHECKING:
    from typing_extensions import TypeVar

    DeliveryStoreT = TypeVar("DeliveryStoreT", bound=DeliveryStore, default=DeliveryStore)
else:
    from typing import TypeVar

    DeliveryStoreT = TypeVar("DeliveryStoreT", bound=DeliveryStore)


def at(seconds: float) -> datetime:
    """Return the time `seconds` after the start of the tests."""
    return START + timedelta(seconds=seconds)


def note(id: str = "n", **more: Any) -> Notification:
    """Return a notification."""
    return Notification(id, **{"type": "comment.created", "data": b'{"post":7}', "created_at": START, **more})


def to(user: str, channel: str = "email", **more: Any) -> Delivery:
    """Return a new delivery, due at once; `seconds=` says when, None: it waits."""
    name, endpoint = more.pop("notification", "n"), more.pop("endpoint", "")
    seconds = more.pop("seconds", 0.0)
    due = None if seconds is None else at(seconds)
    id = more.pop("id", delivery_id(name, user, channel, endpoint))
    return Delivery(id, name, user, channel, endpoint, due_at=due, **more)


def joining(user: str = "alice", notification: str = "n", key: str = "k", **more: Any) -> DigestJoin:
    """Return a notification's join of a digest that closes after an hour."""
    closes = more.pop("closes", 3600.0)
    given = {"type": "comment.created", "channels": ("email",), "closes_at": at(closes), "due_at": at(closes)}
    return DigestJoin(key, notification, user, **{**given, **more})


def submission(*rows: Delivery | DigestJoin, notification: Notification | None = None, **more: Any) -> Submission:
    """Return a submission of deliveries and joins, with a record of each recipient."""
    name = rows[0].notification if rows else "n"
    notification = notification or note(name)
    recipients = more.pop("recipients", None)
    if recipients is None:
        users = dict.fromkeys(row.user for row in rows)
        recipients = [RecipientRecord(notification.id, user, b'[{"channel":"email"}]') for user in users]
    deliveries = [row for row in rows if isinstance(row, Delivery)]
    joins = [row for row in rows if isinstance(row, DigestJoin)]
    return Submission(notification, recipients, deliveries, joins, **more)


def move(claim: Claim, to: State, **more: Any) -> Move:
    """Return a move of what was claimed."""
    return Move(claim.delivery.id, claim.delivery.fence, to, **more)


def channels(claims: Iterable[Claim]) -> list[str]:
    """Return the channels of what was claimed, by which most tests name deliveries."""
    return [claim.delivery.channel for claim in claims]


class DispatchTests(Suite[DeliveryStoreT]):
    """The store under test, and what the tests do with it.

    Attributes:
        lease: seconds of a lease that a test lets pass; where it is too short for a busy machine, longer ones follow.
    """

    lease: ClassVar[float] = 0.2

    @pytest.fixture
    async def store(self, anyio_backend: object) -> AsyncIterator[DeliveryStore]:
        """Make a store for one test, and close it."""
        async with self.fresh() as store:
            yield store

    async def let_pass(self, store: DeliveryStore, seconds: float) -> None:
        """Let `seconds` pass by the store's clock. Override it where that clock can be set."""
        await anyio.sleep(seconds)

    async def take(self, store: DeliveryStore, now: float = 0.0, **more: Any) -> Sequence[Claim]:
        """Claim what is due, for long."""
        return await store.claim(at(now), lease=more.pop("lease", 600.0), **more)

    async def take_one(self, store: DeliveryStore, now: float = 0.0, **more: Any) -> Claim:
        """Claim the one delivery that is due."""
        (claim,) = await self.take(store, now, **more)
        return claim

    async def begin(self, store: DeliveryStore, now: float = 0.0, **more: Any) -> Claim:
        """Claim the one delivery that is due, and begin to send it."""
        claim = await self.take_one(store, now, **more)
        assert await store.advance([move(claim, State.SENDING)], at(now)) == [True]
        return claim

    async def lapsed(self, store: DeliveryStore, *, begun: bool, now: float = 0.0) -> Claim:
        """Claim the one delivery that is due, begin to send it if wanted, and let the lease end."""
        lease = self.lease
        while True:
            claim = await self.take_one(store, now, lease=lease)
            if not begun or await store.advance([move(claim, State.SENDING)], at(now)) == [True]:
                await self.let_pass(store, lease + 0.05)
                return claim
            lease *= 2  # pragma: no cover - the machine was so slow that the lease had ended
            await self.let_pass(store, lease)  # pragma: no cover

    async def bring(self, store: DeliveryStore, state: State, name: str, **more: Any) -> Delivery:
        """Submit a delivery of a notification and bring it into a state; return it. Nothing else may be due."""
        (row,) = await self.bring_all(store, state, name, ["alice"], **more)
        return row

    async def bring_all(
        self, store: DeliveryStore, state: State, name: str, users: Sequence[str], **more: Any
    ) -> list[Delivery]:
        """Submit a notification to users and bring its deliveries into a state. Nothing else may be due."""
        rows = [to(user, notification=name, **more) for user in users]
        await store.submit(submission(*rows))
        if state is State.CANCELLED:
            assert await store.cancel(name, at(0)) == len(rows)
        elif state is not State.WAITING:
            claims = await self.take(store, limit=len(rows) + 1)
            assert len(claims) == len(rows)
            way = {State.CLAIMED: [], State.SENDING: [State.SENDING], State.BOUNCED: [State.SENDING, State.ACCEPTED]}
            direct = BY_CLAIM[State.CLAIMED] - {State.PARKED, State.UNKNOWN}
            by_worker = [state] if state in direct else [State.SENDING, state]
            for step in way.get(state, by_worker):
                moves = [move(claim, step, join=self.join_of(claim, step)) for claim in claims]
                assert await store.advance(moves, at(0)) == [True] * len(moves)
            for row in rows if state is State.BOUNCED else ():
                await store.resolve(row.id, State.BOUNCED, at(0))
        for row in rows:
            assert (await self.look(store, row.id)).state is state
        return rows

    async def doubtful(self, store: DeliveryStore, state: State, name: str) -> Delivery:
        """Submit a delivery, begin to send it, and bring it, in doubt, into a state; return it."""
        row = await self.bring(store, State.SENDING, name)
        fence = (await self.look(store, row.id)).fence
        step = State.PARKED if state is State.PARKED else State.WAITING
        (made,) = await store.advance([Move(row.id, fence, step, due_at=at(2), reason=IN_DOUBT)], at(1))
        assert made
        if state is State.CLAIMED:
            await self.take_one(store, 3)
        found = await self.look(store, row.id)
        assert (found.state, found.reason, found.attempts) == (state, IN_DOUBT, 1)
        return found

    def join_of(self, claim: Claim, step: State) -> DigestJoin | None:
        """Return the join that belongs to a move to JOINED, of a digest of its own."""
        name, user = claim.notification.id, claim.delivery.user
        return joining(user, notification=name, key=f"{name} {user}") if step is State.JOINED else None

    async def finish(self, store: DeliveryStore) -> None:
        """Bring what is open into a final state, so that it is not claimed by what follows."""
        for each in await store.stuck([State.SENDING]):
            await store.resolve(each.id, State.FAILED, at(1))
        for state in (State.WAITING, State.CLAIMED):
            for each in await store.stuck([state]):
                await store.cancel(each.notification, at(1))

    async def look(self, store: DeliveryStore, id: str) -> Delivery:
        """Return a delivery as it is now."""
        found = await store.delivery(id)
        assert found is not None
        return found.delivery

    async def record_of(
        self, store: DeliveryStore, user: str = "alice", notification: str = "n"
    ) -> tuple[list[Delivery], list[DeliveryAttempt]]:
        """Return the deliveries and attempts of one recipient."""
        found = await store.record(notification, user)
        assert found is not None
        return [*found[2]], [*found[3]]

    async def due_at(self, store: DeliveryStore, row: Delivery) -> float | None:
        """Return when a delivery is due, in seconds after the start."""
        due = (await self.look(store, row.id)).due_at
        return None if due is None else (due - START).total_seconds()
