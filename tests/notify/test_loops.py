"""The wrong event loop, thread or process: every method says so at once, and closing touches nothing of the others."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from notify import Event, Notifier, Stream, UsageError
from notify.abc import StreamStore
from notify.adapters import LiveLog
from notify_memory import MemoryPresence, MemoryRouter, MemoryStore, MemoryStreamStore
from tests.parts import SlowPresence

AT_ONCE = 4.0
"""Seconds, on any machine: less than the timeout of anything that could be waited for."""


class ExternalStore(MemoryStreamStore):
    """Its streams are its own, as far as a notifier knows."""

    @property
    def live(self) -> Any:
        return None

    def subscribe(self, user: str, last_id: Any = None) -> Stream:
        return self._live.subscribe(user, last_id)


@contextmanager
def loop_in_a_thread() -> Iterator[Callable[[Callable[[], Awaitable[Any]]], Any]]:
    """Run an asyncio loop in a thread; what is yielded runs a function there and returns its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(function: Callable[[], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), loop).result(10)

    try:
        yield call
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


CALLS: dict[str, Callable[[Notifier, Stream], Any]] = {
    "push": lambda n, s: n.push("alice", "t"),
    "ephemeral": lambda n, s: n.push("alice", "t", ephemeral=True),
    "push_many": lambda n, s: n.push_many(["alice"], "t"),
    "broadcast": lambda n, s: n.broadcast("t"),
    "forget": lambda n, s: n.forget("alice"),
    "check": lambda n, s: n.check(),
    "drain": lambda n, s: n.drain(0.1),
    "aclose": lambda n, s: n.aclose(),
    "enter": lambda n, s: n.__aenter__(),
    "deliver": lambda n, s: n.deliver(Event("alice", "t")),
    "subscribe": lambda n, s: n.subscribe("alice"),
    "next": lambda n, s: s.next(),
    "next within": lambda n, s: s.next(1),
    "anext": lambda n, s: s.__anext__(),
    "close of a stream": lambda n, s: s.aclose(),
    "store.save": lambda n, s: n._store.save(Event("alice", "t")),
    "store.save_nowait": lambda n, s: n._store.save_nowait(Event("alice", "t")),
    "store.save_many": lambda n, s: n._store.save_many([Event("alice", "t")]),
    "store.read": lambda n, s: n._store.read("alice", "0", 1),
    "store.read_many": lambda n, s: n._store.read_many({"alice": "0"}, 1),
    "store.head": lambda n, s: n._store.head("alice"),
    "store.trim": lambda n, s: n._store.trim("0"),
    "store.forget": lambda n, s: n._store.forget("alice"),
    "store.prepare": lambda n, s: n._store.prepare(),
    "store.aclose": lambda n, s: n._store.aclose(),
    "presence.register": lambda n, s: n._presence.register("alice"),
    "presence.locate": lambda n, s: n._presence.locate(["alice"]),
    "presence.aclose": lambda n, s: n._presence.aclose(),
    "router.route": lambda n, s: n._parts.routes[0].router.route(Event("alice", "t"), None),
    "router.receive": lambda n, s: n._parts.routes[0].router.receive(
        "x", n.deliver, task_status=anyio.TASK_STATUS_IGNORED
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [MemoryStore, MemoryStreamStore, ExternalStore])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_another_loop_is_refused_at_once(kind: Any, call: str, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """While one loop runs in a thread, each method raises UsageError in another one, which is named; nothing breaks."""
    made: dict[str, Any] = {}

    async def use() -> None:
        made["notifier"] = notifier = Notifier(kind(), router=MemoryRouter(), presence=MemoryPresence(), timeout=60.0)
        await notifier.__aenter__()
        made["stream"] = stream = notifier.subscribe("alice")
        await stream.__aenter__()
        await notifier.push("bob", "t")

    async def wrong() -> None:
        await anyio.sleep(0.002)  # a store in memory asks once a millisecond in `save_nowait`
        result = CALLS[call](made["notifier"], made["stream"])
        if isinstance(result, Awaitable):
            await result

    async def still_works() -> None:
        await made["notifier"].push("alice", "t", 1)
        assert (await made["stream"].next(10)).payload == 1
        await made["stream"].aclose()
        await made["notifier"].aclose()

    with loop_in_a_thread() as run:
        run(use)
        began = time.monotonic()
        with pytest.raises(UsageError, match=r"another event loop.*notify\.sync\.SyncNotifier"):
            anyio.run(wrong, backend=backend)
        assert time.monotonic() - began < AT_ONCE
        run(still_works)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("what", ["next", "aclose"])
def test_two_runs_of_trio_are_two_loops(what: str) -> None:
    """A stream and a notifier of one run of trio are refused in another one, in another thread."""
    outcome: Future[None] = Future()

    async def main() -> None:
        async with Notifier(MemoryStore()) as notifier, notifier.subscribe("alice") as stream:

            def wait() -> None:
                try:
                    anyio.run(stream.next if what == "next" else notifier.aclose, backend="trio")
                except Exception as error:
                    outcome.set_exception(error)

            thread = threading.Thread(target=wait)
            thread.start()
            await anyio.to_thread.run_sync(thread.join)
            await notifier.push("alice", "t", 1)
            assert (await stream.next(10)).payload == 1

    anyio.run(main, backend="trio")
    with pytest.raises(UsageError, match="another event loop"):
        outcome.result(0)


def test_deliver_from_a_plain_thread_is_refused() -> None:
    """A thread without an event loop cannot deliver: it would touch the loop's waiters from outside."""
    outcome: Future[int] = Future()

    async def main() -> None:
        async with Notifier(MemoryStore()) as notifier, notifier.subscribe("alice"):

            def deliver() -> None:
                try:
                    outcome.set_result(notifier.deliver(Event("alice", "t")))
                except UsageError as error:
                    outcome.set_exception(error)

            thread = threading.Thread(target=deliver)
            thread.start()
            await anyio.to_thread.run_sync(thread.join)

    anyio.run(main)
    with pytest.raises(UsageError, match="another event loop"):
        outcome.result()


@pytest.mark.parametrize("second", ["asyncio", "trio"])
@pytest.mark.parametrize("first", ["asyncio", "trio"])
@pytest.mark.parametrize("presence", [MemoryPresence, SlowPresence])
def test_closing_after_the_loop_has_ended_releases(
    first: str, second: str, presence: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A notifier whose loop is gone is closed from a new one at once: its users leave, and nothing untrue is logged."""
    tracker = presence()
    notifier = Notifier(MemoryStore(), router=MemoryRouter(), presence=tracker)

    async def use() -> None:
        stream = notifier.subscribe("alice")
        await stream.__aenter__()
        notifier.streams = [stream]  # type: ignore[attr-defined]
        await notifier.push("alice", "t")

    async def close() -> None:
        began = time.monotonic()
        with pytest.raises(UsageError):
            await notifier.push("alice", "t")
        await notifier.aclose()
        await notifier.aclose()
        assert time.monotonic() - began < AT_ONCE

    inner = getattr(tracker, "inner", tracker)
    anyio.run(use, backend=first)
    assert list(inner._users) == ["alice"]
    anyio.run(close, backend=second)
    assert list(inner._users) == []
    assert notifier.statistics().open_streams == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_closing_beside_tasks_that_were_never_ended(caplog: pytest.LogCaptureFixture) -> None:
    """Where a loop was closed without ending its tasks, closing the notifier does not wait for them."""
    loop = asyncio.new_event_loop()
    notifier = Notifier(MemoryStore(), router=MemoryRouter())

    async def use() -> None:
        await notifier.push("alice", "t")
        await notifier.__aenter__()

    loop.run_until_complete(use())
    with pytest.raises(UsageError, match="another event loop"):
        asyncio.run(notifier.aclose())  # it may still run: nothing may be touched
    left = asyncio.all_tasks(loop)
    assert left
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()
    began = time.monotonic()
    asyncio.run(notifier.aclose())
    assert time.monotonic() - began < AT_ONCE
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_store_is_refused_in_a_second_run() -> None:
    """`asyncio.run` twice with one memory store raises, as with any other store; without a loop it can be looked at."""
    store, presence = MemoryStore(), MemoryPresence()
    stored = asyncio.run(store.save(Event("alice", "t")))
    asyncio.run(presence.register("alice"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="MemoryStore belongs to another event loop"):
        asyncio.run(store.save(Event("alice", "t")))
    with pytest.raises(UsageError, match="MemoryPresence belongs to another event loop"):
        asyncio.run(presence.locate(["alice"]))  # type: ignore[arg-type]
    assert list(store.read_nowait("alice", "0", 10).events) == [stored]
    assert list(presence.locate_nowait(["alice"])) == ["alice"]
    asyncio.run(store.aclose())
    asyncio.run(presence.aclose())


def test_a_part_that_was_used_without_a_loop_can_be_used_with_one() -> None:
    """What was saved before there was an event loop is there in the first one."""
    store = MemoryStore()
    stored = store.save_nowait(Event("alice", "t"))
    assert asyncio.run(store.head("alice")) == stored.id


def test_a_stream_of_an_ended_loop_is_closed() -> None:
    """A stream can be closed after its loop has ended, also one of a store whose streams are its own."""
    streams: list[Stream] = []

    async def use() -> None:
        for kind in (MemoryStore, ExternalStore):
            stream = Notifier(kind()).subscribe("alice")
            await stream.__aenter__()
            streams.append(stream)

    async def close() -> None:
        for stream in streams:
            await stream.aclose()

    anyio.run(use)
    anyio.run(close)


def test_the_doubles_of_this_module_are_what_they_say() -> None:
    """`ExternalStore` is a stream store without a `LiveLog`."""
    store = ExternalStore()
    assert isinstance(store, StreamStore)
    assert not isinstance(store.live, LiveLog)
