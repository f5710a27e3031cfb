"""What users are told when the path is wrong, the file cannot be opened or locked, or the event loop is another one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notify import BackendUnavailableError, Event, OverloadedError, PushRejectedError, UsageError
from notify_sqlite import SQLitePresence, SQLiteStore, SQLiteStreamStore
from tests.servers.sqlite import locked

pytestmark = pytest.mark.anyio

PARTS = [SQLiteStore, SQLiteStreamStore, SQLitePresence]


@pytest.mark.parametrize("part", PARTS)
def test_a_path_is_no_url_and_no_other_object(part: Any) -> None:
    """Every constructor refuses a URL, without its secrets, and what is neither a string nor a path."""
    for url in ("sqlite:///x.db", "postgresql://bob:s3cret@host/db"):
        with pytest.raises(UsageError, match="path of a file, not a URL") as caught:
            part(url)
        assert "s3cret" not in str(caught.value)
    for wrong in (None, 7, b"x.db"):
        with pytest.raises(UsageError, match=r"path of a file, not (NoneType|int|bytes)"):
            part(wrong)


@pytest.mark.parametrize("place", ["missing/x.db", "~/x.db", "."])
async def test_what_cannot_be_opened_is_named(path: Path, place: str) -> None:
    """Where there is no such directory, or the path is one, each error of reads, pushes and presence has the path."""
    place = str(path.parent / place)
    for store in (SQLiteStore(place), SQLiteStreamStore(place)):
        with pytest.raises(BackendUnavailableError) as unread:
            await store.head("alice")
        with pytest.raises(PushRejectedError) as unstored:
            await store.save(Event("alice", "t"))
        for error in (unread.value, unstored.value):
            assert "the file cannot be opened" in str(error)
            assert str(error).endswith(f": {Path(place)}")
        await store.aclose()
    presence = SQLitePresence(place)
    with pytest.raises(BackendUnavailableError) as unseen:
        await presence.register("alice")
    assert str(unseen.value).endswith(f": {Path(place)}")
    await presence.aclose()


async def test_who_holds_the_lock_is_left_open(path: Path) -> None:
    """A lock that another connection of this very process holds is not said to be another process's."""
    async with SQLiteStore(path, timeout=0.1) as store:
        with (
            locked(path),
            pytest.raises(OverloadedError, match=r"another connection holds .* lock of the file .*: /"),
        ):
            await store.save(Event("alice", "t"))


async def test_another_event_loop_is_refused(path: Path) -> None:
    """What was used in one event loop refuses every call from another one, and goes on in its own."""

    async def refused(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await call()

    async with SQLiteStreamStore(path) as store, SQLitePresence(path) as presence:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.save(Event("alice", "t")),
            lambda: store.head("alice"),
            lambda: store.trim("0"),
            lambda: presence.register("alice"),
            lambda: presence.locate(["alice"]),
        ]
        for call in calls:
            await anyio.to_thread.run_sync(anyio.run, refused, call)
        event = await store.save(Event("alice", "t"))
        assert (await store.read("alice", "0", 10)).events[0] == event
