"""Parts as outside authors write them, from the docstrings of `notify.abc` and the toolkit of `notify.adapters`."""

from __future__ import annotations

import secrets
import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream, TaskStatus

from notify import (
    Background,
    ClosedError,
    Event,
    Gap,
    Guarantees,
    InvalidEventIdError,
    LiveLog,
    Notifier,
    Page,
    RoutingInfo,
    Stream,
    UsageError,
    ids,
)
from notify.abc import Deliver, Position, Registration
from notify.adapters import LeasedPresence, safe_name


class PlainStore:
    """A store of five methods and nothing else; every one of them really waits."""

    guarantees = Guarantees()

    def __init__(self) -> None:
        self.logs: dict[str, list[Event]] = {}
        self.heads: dict[str, str] = {}
        self.keys: dict[tuple[str, str], Event] = {}
        self.closed = False

    async def save(self, event: Event) -> Event:
        await self.enter()
        first = self.keys.get((event.user, event.key)) if event.key is not None else None
        return first or self.append(event)

    async def read(self, user: str, after: str, limit: int) -> Page:
        await self.enter()
        log = self.logs.get(user, [])
        start = bisect_right(log, ids.parse(after), key=number)
        return Page.of(log[start : start + limit], after, self.heads.get(user, ids.ZERO))

    async def head(self, user: str) -> str:
        await self.enter()
        return self.heads.get(user, ids.ZERO)

    async def trim(self, before: datetime | str) -> int:
        if isinstance(before, datetime):
            before = ids.format(ids.parse(ids.before(before))[0] + 1, 0)
        first = ids.parse(before)
        await self.enter()
        return self.cut(first)

    async def aclose(self) -> None:
        self.closed = True

    async def enter(self) -> None:
        """Wait as a driver would, and refuse once closed."""
        await anyio.lowlevel.checkpoint()
        if self.closed:
            raise ClosedError("the store is closed")

    def append(self, event: Event) -> Event:
        head = self.heads.get(event.user, ids.ZERO)
        stored = event.stored(ids.following(head, self.now()), head)
        self.keep(stored)
        return stored

    def now(self) -> float:
        return time.time()

    def keep(self, stored: Event) -> None:
        self.heads[stored.user] = stored.id
        self.logs.setdefault(stored.user, []).append(stored)
        if stored.key is not None:
            self.keys[stored.user, stored.key] = stored

    def cut(self, first: tuple[int, int]) -> int:
        removed = 0
        for log in self.logs.values():
            count = bisect_left(log, first, key=number)
            del log[:count]
            removed += count
        return removed


class FileStore(PlainStore):
    """Keeps what it saves and trims as lines of a file that several of its kind may share."""

    guarantees = Guarantees(durable=True, shared=True)

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.offset = 0

    async def enter(self) -> None:
        """Take over what others have written; from here to the end of the method nothing waits."""
        await super().enter()
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                kind, _, text = line.decode().strip().partition(" ")
                self.obey(kind, text)
            self.offset = file.tell()

    def obey(self, kind: str, text: str) -> None:
        """Do what a line says that another process has written."""
        if kind == "save":
            self.keep(Event.from_bytes(bytes.fromhex(text)))
        else:
            super().cut(ids.parse(text))

    def append(self, event: Event) -> Event:
        stored = super().append(event)
        self.write(f"save {stored.to_bytes().hex()}")
        return stored

    def cut(self, first: tuple[int, int]) -> int:
        self.write(f"trim {ids.format(*first)}")
        return super().cut(first)

    def write(self, line: str) -> None:
        with self.path.open("ab") as file:
            file.write(line.encode() + b"\n")
            self.offset = file.tell()


class LiveStore(PlainStore):
    """Streams, by the library's live log."""

    def __init__(self) -> None:
        super().__init__()
        self.background = Background("live store")
        self.live = LiveLog(self, background=self.background)

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        return self.live.subscribe(user, last_id)

    def keep(self, stored: Event) -> None:
        super().keep(stored)
        self.live.offer(stored)

    async def aclose(self) -> None:
        self.live.close()
        await self.background.aclose(1.0)
        await super().aclose()


class LiveFileStore(FileStore):
    """Streams what any process writes into the file: looks for news every few milliseconds."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.background = Background("live file store")
        self.live = LiveLog(self, background=self.background, listen=self.listen)

    @property
    def is_receiving(self) -> bool:
        return self.live.is_receiving

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        return self.live.subscribe(user, last_id)

    def keep(self, stored: Event) -> None:
        super().keep(stored)
        self.live.offer(stored)

    def send_ephemeral(self, event: Event) -> None:
        if self.closed:
            raise ClosedError("the store is closed")
        with self.path.open("ab") as file:  # `write` would pass over what others have written since the last look
            file.write(b"show " + event.to_bytes().hex().encode() + b"\n")

    def obey(self, kind: str, text: str) -> None:
        if kind == "show":
            self.live.deliver(bytes.fromhex(text))
        else:
            super().obey(kind, text)

    async def listen(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        while True:
            await self.enter()
            await anyio.sleep(0.005)

    async def aclose(self) -> None:
        self.live.close()
        await self.background.aclose(1.0)
        await super().aclose()


class HandmadeStore(PlainStore):
    """Streams, by a stream class of its own that shares nothing with the library's."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = anyio.Event()

    def subscribe(self, user: str, last_id: Position = None) -> Stream:
        if self.closed:
            raise ClosedError("the store is closed")
        return HandmadeStream(self, user, last_id)

    def keep(self, stored: Event) -> None:
        super().keep(stored)
        self.wake()

    async def aclose(self) -> None:
        await super().aclose()
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()


class HandmadeStream:
    """Reads one event at a time, and waits for any change of the store where there is none."""

    dropped = 0

    def __init__(self, store: HandmadeStore, user: str, last_id: Position) -> None:
        self.store = store
        self.user = user
        self.gaps: tuple[Gap, ...] = ()
        self.closed = self.busy = False
        self.opened = last_id not in (None, "")
        self.strict = not isinstance(last_id, datetime)
        self.saw_the_beginning = last_id == "0-0"
        if isinstance(last_id, datetime):
            self.at = ids.before(last_id)
        elif last_id is None or isinstance(last_id, str):
            self.at = ids.canonical(last_id) if last_id else ""
            self.strict = self.saw_the_beginning or self.at != ids.ZERO
        else:
            raise InvalidEventIdError(f"not a position: {last_id!r}")

    async def next(self, timeout: float | None = None) -> Event:
        if self.busy:
            raise UsageError("another task waits already")
        self.busy = True
        try:
            with anyio.fail_after(timeout):
                await self.open()
                return await self.following()
        finally:
            self.busy = False

    async def following(self) -> Event:
        while True:
            changed = self.store.changed
            page = await self.store.read(self.user, self.at, 1)
            self.check()
            strict, self.strict = self.strict, True
            if page.gap is not None and strict:
                self.cross(page)
            elif not page.events:
                self.arrive(page.position)
                await changed.wait()
                self.check()
                continue
            if page.events:
                self.at = page.events[0].id
                return page.events[0]

    def cross(self, page: Page) -> None:
        """Note a gap and go to its far side: the beginning, where the log has lost its end."""
        assert page.gap is not None
        if page.events:
            end = page.events[0].prev
        else:
            end = ids.ZERO if page.gap == "rewound" else page.position
            self.strict = page.gap != "rewound"
        self.gaps += (Gap(page.gap, self.at, end),)
        self.at = end

    @property
    def last_id(self) -> str:
        return "0-0" if self.at == ids.ZERO and self.saw_the_beginning else self.at

    def arrive(self, end: str) -> None:
        """Note where the log ends; a log without an event has a beginning that a reader can have seen."""
        self.at = end
        self.saw_the_beginning = end == ids.ZERO

    async def open(self) -> None:
        self.check()
        if not self.opened:
            self.arrive(await self.store.head(self.user))
            self.opened = True

    def check(self) -> None:
        if self.closed or self.store.closed:
            raise ClosedError("the stream is closed")

    async def aclose(self) -> None:
        self.closed = True
        self.store.wake()

    def __aiter__(self) -> HandmadeStream:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.next()
        except ClosedError:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> HandmadeStream:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


class Switchboard:
    """A router of one method: the notifiers register by hand, and events go over the wire form."""

    guarantees = Guarantees()

    def __init__(self) -> None:
        self.notifiers: dict[str, Notifier] = {}

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        raw = event.to_bytes()
        for name, notifier in list(self.notifiers.items()):
            if to is None or to.instance_id == name:
                await anyio.lowlevel.checkpoint()
                notifier.deliver(raw)


class FolderRouter:
    """A router between the processes of one machine: each instance receives on a socket in a common folder."""

    guarantees = Guarantees(shared=True)
    folder: Path

    async def route(self, event: Event, to: RoutingInfo | None) -> None:
        for path in self.folder.iterdir() if to is None else [self.folder / safe_name(to.instance_id)]:
            with suppress(OSError):  # that instance is gone
                async with await anyio.connect_unix(path) as stream:
                    await stream.send(event.to_bytes())

    async def receive(self, instance_id: str, deliver: Deliver, *, task_status: TaskStatus[None]) -> None:
        async def take(stream: SocketStream) -> None:
            async with stream:
                deliver(b"".join([part async for part in stream]))

        async with await anyio.create_unix_listener(self.folder / safe_name(instance_id)) as listener:
            task_status.started()
            await listener.serve(take)


class BoardPresence(LeasedPresence):
    """A tracker on a board that several share: three methods over the library's `LeasedPresence`."""

    def __init__(self, board: dict[tuple[str, str], tuple[float, Sequence[RoutingInfo]]], ttl: float) -> None:
        super().__init__(ttl=ttl)
        self.board = board

    async def put(self, user: str, routes: Sequence[RoutingInfo]) -> None:
        await anyio.lowlevel.checkpoint()
        self.board[user, self.tracker_id] = (anyio.current_time() + self.ttl, routes)

    async def drop(self, user: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.board.pop((user, self.tracker_id), None)

    async def fetch(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        await anyio.lowlevel.checkpoint()
        found: dict[str, list[RoutingInfo]] = {user: [] for user in users}
        for (user, _), (deadline, routes) in self.board.items():
            if user in found and deadline > anyio.current_time():
                found[user] += routes
        return found


class HandmadePresence:
    """Trackers that hang what they know on a common board, each with a deadline that it must renew."""

    guarantees = Guarantees(shared=True, leased=True)

    def __init__(self, board: dict[str, tuple[float, list[tuple[str, RoutingInfo]]]], ttl: float) -> None:
        self.board = board
        self.ttl = ttl
        self.name = secrets.token_hex(8)
        self.own: dict[Registration, tuple[str, RoutingInfo]] = {}
        self.background = Background("leased presence")
        self.renewing = False

    async def register(self, user: str, routing: RoutingInfo | None = None) -> Registration:
        await self.enter()
        registration = HandmadeRegistration(self)
        self.own[registration] = (user, routing or RoutingInfo())
        self.renew()
        if not self.renewing:
            self.renewing = True
            self.background.start(self.renew_forever)
        return registration

    async def locate(self, users: Sequence[str]) -> Mapping[str, Sequence[RoutingInfo]]:
        await self.enter()
        found: dict[str, dict[str, RoutingInfo]] = {}
        for deadline, registrations in self.board.values():
            for user, routing in registrations:
                if deadline > anyio.current_time():
                    found.setdefault(user, {})[routing.instance_id] = routing
        return {user: [*found[user].values()] for user in users if user in found}

    async def aclose(self) -> None:
        await self.background.aclose(1.0)
        self.own.clear()
        self.board.pop(self.name, None)

    async def enter(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.background.closed:
            raise ClosedError("the tracker is closed")

    def end(self, registration: Registration) -> None:
        if self.own.pop(registration, None) is not None:
            self.renew()

    def renew(self) -> None:
        self.board[self.name] = (anyio.current_time() + self.ttl, [*self.own.values()])

    async def renew_forever(self) -> None:
        while True:
            await anyio.sleep(self.ttl / 4)
            self.renew()


class HandmadeRegistration:
    def __init__(self, tracker: HandmadePresence) -> None:
        self.tracker = tracker

    def release(self) -> None:
        self.tracker.end(self)

    async def aclose(self) -> None:
        self.release()
        await anyio.lowlevel.checkpoint()


def number(event: Event) -> tuple[int, int]:
    return ids.parse(event.id)
