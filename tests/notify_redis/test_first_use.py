"""Mistakes of new users raise at once, with a message that names them: URLs, the event loop, logins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notify import BackendUnavailableError, Event, PushRejectedError, RoutingInfo
from notify.adapters import OutageLog
from notify.errors import UsageError
from notify.testing import FaultProxy
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from notify_redis._errors import RefusedError
from notify_redis._reach import FAIL_FAST_AFTER
from tests.parts import until
from tests.servers.redis import Server, plain, plain_info

pytestmark = pytest.mark.anyio

PARTS: list[Callable[[str], Any]] = [RedisStore, RedisStreamStore, RedisRouter, RedisPresence]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@localhost:6379/abc",
        "redis://localhost/1/2",
        "redis://localhost/abc?db=1",
        "redis://localhost?db=abc",
        "rediss://localhost/abc",
        "unix:///socket?db=abc",
        "redis+sentinel://localhost/main/abc",
        "rediss+sentinel://localhost/main?db=abc",
        "redis+cluster://localhost/abc",
        "redis+cluster://localhost?db=abc",
        "redis+cluster://localhost?db=1",
    ],
)
def test_databases_that_are_no_number(part: Callable[[str], Any], url: str) -> None:
    """A URL with a database that is no number, or that a cluster does not have, is refused, not read as database 0."""
    with pytest.raises(UsageError, match=r"'?db'?|database") as raised:
        part(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost?foo=bar",
        "rediss://localhost/1?foo=bar&password=secret",
        "unix:///socket?foo=bar",
        "redis+sentinel://localhost/main?foo=bar",
        "redis+cluster://localhost?foo=bar",
    ],
)
def test_options_that_do_not_exist(part: Callable[[str], Any], url: str) -> None:
    """A URL with an option that no connection takes is refused by the option's name, without what may be secret."""
    with pytest.raises(UsageError, match=r": unexpected keyword argument 'foo'$") as raised:
        part(url)
    assert "secret" not in str(raised.value)


async def test_a_database_and_options_that_are_right(server: Server, prefix: str) -> None:
    """The database of a URL is the one that is used, and the driver's options may stand beside it."""
    store = RedisStore(f"{server.url}/3/?client_name=me&socket_keepalive=yes", prefix=prefix)
    async with store:
        await store.save(Event("alice", "t"))
    assert "db3" in plain_info(server, "keyspace")


def test_trio_is_refused(server: Server) -> None:
    """On trio every use raises UsageError, because the driver knows asyncio only."""

    async def use(part: Any, function: Callable[..., Any], *args: Any) -> None:
        with pytest.raises(UsageError, match="runs on asyncio only"):
            await function(*args)
        await part.aclose()

    async def enter(stream_store: RedisStreamStore) -> None:
        async with stream_store.subscribe("alice"):
            pass

    async def receive(router: RedisRouter) -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(router.receive, "here", print)

    async def everything() -> None:
        for name, args in {"save": (Event("alice", "t"),), "head": ("alice",), "__aenter__": ()}.items():
            store = RedisStore(server.url)
            await use(store, getattr(store, name), *args)
        stream_store = RedisStreamStore(server.url)
        await use(stream_store, enter, stream_store)
        router = RedisRouter(server.url)
        await use(router, router.route, Event("alice", "t"), RoutingInfo("there"))
        presence = RedisPresence(server.url)
        await use(presence, presence.register, "alice")

    anyio.run(everything, backend="trio")


def refusals(server: Server) -> dict[str, str]:
    """URLs that this server, which wants the password `right`, refuses, with its words."""
    server.ask("ACL", "SETUSER", "mute", "on", ">right", "~*", "&*", "+@all", "-script|load")
    server.ask("CONFIG", "SET", "requirepass", "right")
    at = f"127.0.0.1:{server.port}"
    return {
        f"redis://:wrong@{at}": "invalid username-password pair",
        f"redis://nobody:right@{at}": "invalid username-password pair",
        f"redis://{at}": "Authentication required",
        f"redis://:right@{at}/99": "DB index is out of range",
        f"redis://mute:right@{at}": "no permissions",
        f"redis+cluster://:wrong@{at}": "invalid username-password pair",
        f"redis+cluster://{at}": "Authentication required",
        f"redis+cluster://:right@{at}": "cluster support disabled",
        f"redis+sentinel://:wrong@{at}/main?sentinel_password=wrong": "invalid username-password pair",
    }


async def test_servers_that_do_not_let_us_in(victim: Server, prefix: str) -> None:
    """What a server refuses for good fails at once, in the server's words; a push is rejected, again and again."""
    event = Event("alice", "t")
    for url, words in refusals(victim).items():
        store = RedisStore(url, prefix=prefix, timeout=20.0)
        stream_store = RedisStreamStore(url, prefix=prefix, timeout=20.0)
        router = RedisRouter(url, prefix=prefix, timeout=20.0)
        presence = RedisPresence(url, prefix=prefix, timeout=20.0)
        async with aclosing(store), aclosing(stream_store), aclosing(router), aclosing(presence):
            reads: list[Callable[[], Any]] = [
                store.__aenter__,
                partial(store.head, "alice"),
                stream_store.subscribe("alice").__aenter__,
                partial(router.route, event, RoutingInfo("there")),
                partial(presence.register, "alice"),
                partial(presence.locate, ["alice"]),
            ]
            with anyio.fail_after(10.0):  # all of them together; each would take twice as long
                for push in (store.save, stream_store.save, store.save):
                    with pytest.raises(PushRejectedError, match=f"stored nothing: .*{words}"):
                        await push(event)
                for read in reads:
                    with pytest.raises(BackendUnavailableError, match=f"cannot be used: .*{words}"):
                        await read()


async def test_pushes_to_a_server_that_has_refused_for_long(victim: Server, prefix: str) -> None:
    """A push to a server that has been refusing for a while names the reason too."""
    victim.ask("CONFIG", "SET", "requirepass", "right")
    async with aclosing(RedisStore(victim.url, prefix=prefix)) as store:
        with pytest.raises(PushRejectedError, match="Authentication required"):
            await store.save(Event("alice", "t"))
        link = store._client.node_of(0).writes
        await until(lambda: link.down_for() > FAIL_FAST_AFTER)
        with pytest.raises(PushRejectedError, match=r"no connection for .* s: Authentication required"):
            await store.save(Event("alice", "t"))


async def test_an_uncertain_push_is_not_given_up(server: Server, prefix: str) -> None:
    """A push that an earlier attempt may have stored waits for the login to be corrected, and is stored once."""
    server.ask("ACL", "SETUSER", "late", "reset", "on", ">right", "~*", "&*", "+@all")
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        store = RedisStore(f"redis://late:right@127.0.0.1:{proxy.port}", prefix=prefix, timeout=20.0)
        async with aclosing(store), anyio.create_task_group() as tasks:
            first = await store.save(Event("alice", "first"))
            proxy.drop_reply(request=b"second")
            outcomes: list[Event] = []

            async def save() -> None:
                outcomes.append(await store.save(Event("alice", "second")))

            tasks.start_soon(save)
            await until(lambda: server.ask("XLEN", store._names.stream("alice")) == 2)
            server.ask("ACL", "SETUSER", "late", "off")
            server.ask("CLIENT", "KILL", "USER", "late")
            link = store._client.node_of(0).writes
            await until(lambda: isinstance(link.failure, RefusedError))
            assert not outcomes
            server.ask("ACL", "SETUSER", "late", "on")
            await until(lambda: outcomes)
            assert outcomes[0].prev == first.id
            assert len((await store.read("alice", "0", 10)).events) == 2


async def test_open_streams_outlast_a_refusal(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """Open streams go on trying while the login is refused, which is logged once, until it is corrected."""
    caplog.set_level(logging.INFO, "notify")
    server.ask("ACL", "SETUSER", "gone", "reset", "on", ">right", "~*", "&*", "+@all")
    store = RedisStreamStore(f"redis://gone:right@127.0.0.1:{server.port}", prefix=prefix)
    other = RedisStore(server.url, prefix=prefix)
    async with aclosing(store), aclosing(other), store.subscribe("alice") as stream:
        await until(lambda: store.is_receiving)
        server.ask("ACL", "SETUSER", "gone", "off")
        server.ask("CLIENT", "KILL", "USER", "gone")
        event = await other.save(Event("alice", "t"))
        await until(lambda: refused_logins(server, "gone") >= 8)
        server.ask("ACL", "SETUSER", "gone", "on")
        assert await stream.next(20) == event
        await until(lambda: store.is_receiving)
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "does not receive" in text and "invalid username-password" in text]) == 1
    assert len([text for text in said if "receives from" in text and "again" in text]) == 1


def refused_logins(server: Server, user: str) -> int:
    """How often this user was refused."""
    entries = [plain(entry) for entry in server.ask("ACL", "LOG")]
    return sum(int(entry["count"]) for entry in entries if entry["username"] == user)


async def test_masters_that_cannot_be_found(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """That the masters cannot be found is logged once, however often it is tried."""
    caplog.set_level(logging.WARNING, "notify")
    store = RedisStreamStore(f"redis+cluster://127.0.0.1:{server.port}", prefix=prefix)
    async with aclosing(store):
        for _ in range(12):
            with pytest.raises(PushRejectedError):
                await store.save(Event("alice", "t"))
    (record,) = caplog.records
    assert "cannot find the current masters" in record.getMessage()
    assert "cluster support disabled" in record.getMessage()


def test_an_outage_that_lasts(caplog: pytest.LogCaptureFixture) -> None:
    """An outage is logged when it begins, when its cause changes and when it ends; then another one may begin."""
    caplog.set_level(logging.INFO, "notify")
    outage = OutageLog(logging.getLogger("notify.redis"), "it fails", "it works")
    outage.recovered()
    for error in (ValueError("a"), ValueError("a"), ValueError("b"), TimeoutError(), TimeoutError()):
        outage.failed(error)
    outage.recovered()
    outage.recovered()
    outage.failed(TimeoutError())
    assert [record.getMessage() for record in caplog.records] == [
        "it fails: a",
        "it fails: b",
        "it fails: TimeoutError()",
        "it works",
        "it fails: TimeoutError()",
    ]


async def test_presence_without_its_server(victim: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """Presence complains once of a server that is away, and says once that it is back."""
    caplog.set_level(logging.WARNING, "notify")
    async with RedisPresence(victim.url, prefix=prefix, ttl=1.5, timeout=1.0) as tracker:
        await tracker.register("alice")
        victim.kill()
        await until(lambda: "cannot write or renew its registrations" in caplog.text)
        with pytest.raises(BackendUnavailableError):
            await tracker.register("bob")
        await anyio.to_thread.run_sync(victim.start)
        await until(lambda: "writes and renews its registrations again" in caplog.text)
    said = [record.getMessage() for record in caplog.records]
    for text in ("cannot write or renew its registrations", "writes and renews its registrations again"):
        assert len([each for each in said if text in each]) == 1
