"""The suites x parts that strangers have written: one class and one factory each, and every promise is theirs too."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from notify import Guarantees, Notifier
from notify.testing import (
    DurableStoreSuite,
    LeasedPresenceSuite,
    LivenessSuite,
    PresenceSuite,
    RouterSuite,
    SharedStoreSuite,
    SharedStreamStoreSuite,
    StoreSuite,
    StreamStoreSuite,
)
from notify.testing._parts import ListStore
from tests.code import code_lines
from tests.conformance.outsiders import (
    BoardPresence,
    FileStore,
    FolderRouter,
    HandmadePresence,
    HandmadeStore,
    LiveFileStore,
    LiveStore,
    PlainStore,
    Switchboard,
)


class TestPlainStore(StoreSuite):
    async def make(self) -> PlainStore:
        return PlainStore()

    def test_it_promises_nothing(self) -> None:
        """A test class may have tests that need no event loop: this store promises nothing beyond the interface."""
        assert PlainStore.guarantees == Guarantees()


class TestListStore(StoreSuite):
    """The store that the suite for routers brings along."""

    async def make(self) -> ListStore:
        return ListStore()


class TestFileStore(StoreSuite, DurableStoreSuite, SharedStoreSuite):
    @pytest.fixture(autouse=True)
    def paths(self, tmp_path: Path) -> None:
        self.names = (tmp_path / f"{number}.log" for number in range(10))

    async def make(self) -> FileStore:
        path = next(self.names)
        path.touch()
        return FileStore(path)

    async def reopen(self, store: FileStore) -> FileStore:
        return FileStore(store.path)

    async def another(self, store: FileStore) -> FileStore:
        return FileStore(store.path)


class TestLiveStore(StreamStoreSuite):
    async def make(self) -> LiveStore:
        return LiveStore()


class TestLiveFileStore(StreamStoreSuite, DurableStoreSuite, SharedStreamStoreSuite, LivenessSuite):
    names: Iterator[Path]

    @pytest.fixture(autouse=True)
    def paths(self, tmp_path: Path) -> None:
        self.names = (tmp_path / f"{number}.log" for number in range(10))

    async def make(self) -> LiveFileStore:
        path = next(self.names)
        path.touch()
        return LiveFileStore(path)

    async def reopen(self, store: LiveFileStore) -> LiveFileStore:
        return LiveFileStore(store.path)

    async def another(self, store: LiveFileStore) -> LiveFileStore:
        return LiveFileStore(store.path)


class TestHandmadeStore(StreamStoreSuite):
    async def make(self) -> HandmadeStore:
        return HandmadeStore()


class TestSwitchboard(RouterSuite):
    async def make(self) -> Switchboard:
        return Switchboard()

    def connect(self, router: Switchboard, notifier: Notifier) -> None:
        router.notifiers[notifier.instance_id] = notifier


class TestFolderRouter(RouterSuite[FolderRouter]):
    @pytest.fixture(autouse=True)
    def folder(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as path:  # pytest's own are too deep for the name of a socket
            self.path = Path(path)
            yield

    async def make(self) -> FolderRouter:
        router = FolderRouter()
        router.folder = self.path
        return router

    async def another(self, router: FolderRouter) -> FolderRouter:
        return await self.make()

    async def garbage(self, router: FolderRouter) -> None:
        async with await anyio.connect_unix(router.folder / "a") as stream:
            await stream.send(b"garbage")


class TestLeasedPresence(PresenceSuite, LeasedPresenceSuite):
    ttl = 0.2

    async def make(self) -> HandmadePresence:
        return HandmadePresence({}, self.ttl)

    async def another(self, tracker: HandmadePresence) -> HandmadePresence:
        return HandmadePresence(tracker.board, self.ttl)

    async def crash(self, tracker: HandmadePresence) -> None:
        await tracker.background.aclose(1.0)

    async def lose_leases(self, tracker: HandmadePresence) -> None:
        del tracker.board[tracker.name]


@pytest.mark.anyio
async def test_a_notifier_uses_the_strangers_live_log() -> None:
    """A live log that a stranger keeps in an attribute serves a notifier's own options too, here its signals."""
    store = LiveStore()
    async with aclosing(store), Notifier(store) as notifier, notifier.subscribe("alice", "0", signals=True) as stream:
        assert (await stream.next(5)).type == "notify.sync"


@pytest.mark.anyio
async def test_a_notifier_ignores_what_is_no_live_log() -> None:
    """A stranger's attribute that is called `live` and is something else does not matter."""
    store = HandmadeStore()
    store.live = True
    async with aclosing(store), Notifier(store) as notifier, notifier.subscribe("alice") as stream:
        event = await notifier.push("alice", "t")
        assert await stream.next(5) == event


@pytest.mark.parametrize(
    ("part", "limit"),
    [
        (PlainStore, 60),
        (LiveStore, 20),
        (LiveFileStore, 35),  # with the abilities `Liveness` and `Ephemerals`
        (Switchboard, 15),
        (FolderRouter, 15),
        (BoardPresence, 40),
    ],
)
def test_an_adapter_is_short(part: type, limit: int) -> None:
    """With the toolkit, adapters take few lines of code."""
    assert 0 < code_lines(inspect.getsource(part)) <= limit
