"""What happens between the steps of calls that delete deliveries little by little."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from notify.dispatch.abc import Delivery, Move, Notification, RecipientRecord, State, Submission
from notify_sqlite import SQLiteDispatchStore

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_is_released_is_not_purged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parked delivery that is released while old notifications are being removed stays, with its notification."""
    async with SQLiteDispatchStore(path) as store:
        row = Delivery("x", "n", "alice", "email", due_at=NOW)
        await store.submit(Submission(Notification("n", "t", b"{}", NOW), [RecipientRecord("n", "alice")], [row]))
        (claim,) = await store.claim(NOW, lease=600.0)
        assert await store.advance([Move("x", claim.delivery.fence, State.PARKED)], NOW) == [True]
        read = store._database.read

        async def then_released(*arguments: Any) -> Any:
            found = await read(*arguments)
            monkeypatch.setattr(store._database, "read", read)
            assert await store.hurry(NOW, channel="email") == 1
            return found

        monkeypatch.setattr(store._database, "read", then_released)
        assert await store.purge(NOW + timedelta(days=1)) == 0
        found = await store.delivery("x")
        assert found is not None
        assert found.delivery.state is State.WAITING
