"""Mistakes in the library's own code are reported as such, once with a traceback, and leave no call waiting."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest

import notify_redis._client
from notify import BackendUnavailableError, Event, PushRejectedError, PushUncertainError, RoutingInfo
from notify._runtime import _driver_errors
from notify.errors import BackendError
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from notify_redis._attempt import PushAttempts, PushCommands
from notify_redis._client import RedisClient
from notify_redis._pipeline import PipelinedConnection
from notify_redis._retry import RedisRetries
from notify_redis._save import RedisSaver
from tests.parts import until
from tests.servers.redis import Server

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def nothing_reported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback is logged once for each place in a process, and all mistakes here are made in one place."""
    monkeypatch.setattr(_driver_errors, "_reported", set())


def mistake(text: str = "wrong") -> Callable[..., Any]:
    def raise_it(*_args: Any, **_options: Any) -> Any:
        return {}[text]

    return raise_it


def tracebacks(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.levelno == logging.ERROR and record.exc_info is not None for record in caplog.records)


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [
        (notify_redis._client, "RedisNode", PushRejectedError),
        (PushCommands, "encode", PushRejectedError),
        (PushAttempts, "settle", PushUncertainError),
        (RedisSaver, "_queue_of", PushRejectedError),
    ],
)
async def test_a_mistake_on_the_way_of_a_push(
    server: Server,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: object,
    name: str,
    error: type[BackendError],
) -> None:
    """The caller learns at once that it is a bug, and whether the event may be stored; the cause is the mistake."""
    monkeypatch.setattr(place, name, mistake(name))
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        with anyio.fail_after(2), pytest.raises(error, match="a bug in RedisStore, not a failure") as caught:
            await store.save(Event("alice", "t"))
        assert isinstance(caught.value.__cause__, KeyError)
        assert tracebacks(caplog) == 1
        monkeypatch.undo()
        assert isinstance(await store.save(Event("alice", "t")), Event)


async def test_a_mistake_while_a_push_is_repeated(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A push whose repetition fails by a mistake is uncertain, and not for a store that closes."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        await store.save(Event("alice", "t"))
        monkeypatch.setattr(RedisRetries, "_attempt_all", mistake("retry"))
        server.ask("SCRIPT", "FLUSH")
        with anyio.fail_after(2), pytest.raises(PushUncertainError, match="a bug in RedisStore"):
            await store.save(Event("alice", "t"))
        assert tracebacks(caplog) == 1


async def test_a_mistake_on_a_connection(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reads, presence and routing say that it is a bug, not that Redis does not answer or that the store closes."""
    monkeypatch.setattr(PipelinedConnection, "_set_up", mistake("set up"))
    async with (
        aclosing(RedisStore(server.url, prefix=prefix)) as store,
        aclosing(RedisPresence(server.url, prefix=prefix)) as presence,
        aclosing(RedisRouter(server.url, prefix=prefix)) as router,
    ):
        for call in (
            lambda: store.read("alice", "0", 10),
            lambda: store.head("alice"),
            lambda: presence.locate(["alice"]),
            lambda: router.route(Event("alice", "t"), RoutingInfo("there")),
        ):
            with anyio.fail_after(2), pytest.raises(BackendUnavailableError, match="a bug in Redis"):
                await call()
        assert tracebacks(caplog) == 1


async def test_a_mistake_in_a_request(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in what sends the commands is told to the caller of that command."""
    monkeypatch.setattr(RedisClient, "_send", mistake("send"))
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        with anyio.fail_after(2), pytest.raises(BackendUnavailableError, match="a bug in RedisStore"):
            await store.head("alice")
    assert tracebacks(caplog) == 1


async def test_a_mistake_while_receiving(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake over a message costs the connection, not the receiving: it is connected again."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store:
        async with store.subscribe("alice") as stream:
            await until(lambda: store.is_receiving, 5)
            monkeypatch.setattr(store._subscriptions, "_on_message", mistake("message"))
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: store._subscriptions.connections == 2 and store.is_receiving, 5)
            events = [await store.save(Event("alice", "t"))]
            await until(lambda: tracebacks(caplog) == 1, 5)
            monkeypatch.undo()
            events.append(await store.save(Event("alice", "t")))
            assert [await stream.next(10) for _ in events] == events
            await until(lambda: store.is_receiving, 10)


async def test_a_damaged_record_of_a_repeated_key(server: Server, prefix: str) -> None:
    """A repeated key whose event cannot be read is uncertain; other pushes of the same write are not affected."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        event = await store.save(Event("alice", "t", key="k"))
        stream = store._names.stream("alice")
        server.ask("XDEL", stream, event.id)
        server.ask("DEL", stream)
        server.ask("XADD", stream, event.id, "p", "0", "n", "nonce", "e", "9 not a record")
        outcomes = await store.save_many([Event("alice", "t", key="k"), Event("bob", "t")])
        assert [type(outcome) for outcome in outcomes] == [PushUncertainError, Event]
