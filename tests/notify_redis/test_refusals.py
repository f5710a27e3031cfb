"""Servers that refuse, are busy, have lost the scripts or have another clock, and connections that were replaced."""

from __future__ import annotations

import logging
from contextlib import aclosing, suppress

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from redis._parsers import _AsyncRESP2Parser
from redis.asyncio import ConnectionPool

from notify import (
    BackendUnavailableError,
    Event,
    PushRejectedError,
    PushUncertainError,
    RoutingInfo,
)
from notify.testing import FaultProxy
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from notify_redis._connection import pack
from notify_redis._errors import NotSentError
from notify_redis._names import partition_of
from notify_redis._selfcheck import check_version
from tests.parts import until
from tests.servers.redis import Server, single

pytestmark = pytest.mark.anyio


def limited(server: Server, name: str, *rights: str) -> str:
    """Make a user with everything but these rights, and return the URL to log in with."""
    server.ask("ACL", "SETUSER", name, "reset", "on", ">secret", "~*", "&*", "+@all", *rights)
    return f"redis://{name}:secret@127.0.0.1:{server.port}"


async def test_pushes_that_are_not_allowed(server: Server, prefix: str) -> None:
    """A login that may not run scripts, or not load them, gets that error at once, and nothing is retried."""
    for name, right in {"runless": "-evalsha", "loadless": "-script|load"}.items():
        async with aclosing(RedisStore(limited(server, name, right), prefix=prefix, timeout=2.0)) as store:
            with pytest.raises(PushRejectedError, match=r"(?i)permission|refuses"):
                await store.save(Event("alice", "t"))


async def test_subscribing_that_is_not_allowed(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A login that may not subscribe is logged; streams still get new events, from the auditor."""
    async with aclosing(RedisStreamStore(limited(server, "silent", "-subscribe"), prefix=prefix)) as store:
        async with store.subscribe("alice") as stream:
            event = await store.save(Event("alice", "t"))
            assert await stream.next(10) == event
        assert not store.is_receiving
        assert "does not receive" in caplog.text


async def test_looking_that_is_not_allowed(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """While the login may not read, that is logged; missed events arrive once it may again."""
    url = limited(server, "blind")
    caplog.set_level(logging.DEBUG, "notify")
    other = RedisStore(server.url, prefix=prefix)
    async with aclosing(RedisStreamStore(url, prefix=prefix)) as store, aclosing(other):
        seen: list[Event] = []

        async def read(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with store.subscribe("alice") as stream:
                task_status.started()
                seen.append(await stream.next(30))

        async with anyio.create_task_group() as tasks:
            await tasks.start(read)
            server.ask("ACL", "SETUSER", "blind", "-evalsha", "-xread")
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: "cannot be searched for missed events" in caplog.text)
            server.ask("ACL", "SETUSER", "blind", "+evalsha", "+xread")
            await until(lambda: store.live.positions()["alice"] is not None)
            server.ask("ACL", "SETUSER", "blind", "-subscribe")
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: not store.is_receiving)
            await until(lambda: "can be searched for missed events again" in caplog.text)
            caplog.clear()
            server.ask("ACL", "SETUSER", "blind", "-evalsha", "-xread")
            missed = await other.save(Event("alice", "t"))
            await until(lambda: "cannot be searched for missed events" in caplog.text)
            assert not seen
            server.ask("ACL", "SETUSER", "blind", "+evalsha", "+xread", "+subscribe")
        assert seen == [missed]


async def test_routing_and_presence_that_are_not_allowed(server: Server, prefix: str) -> None:
    """A router that may not publish, and a tracker that may not write, raise the library's error."""
    url = limited(server, "mute", "-publish", "-hset")
    async with RedisRouter(url, prefix=prefix, timeout=0.5) as router:
        with pytest.raises(BackendUnavailableError, match="publish"):
            await router.route(Event("alice", "t"), RoutingInfo("there"))
    async with RedisPresence(url, prefix=prefix, timeout=0.5) as tracker:
        with pytest.raises(BackendUnavailableError, match="hset"):
            await tracker.register("alice")


async def test_questions_that_are_not_allowed(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the login may not ask about the server's settings is passed over."""
    url = limited(server, "modest", "-info", "-config")
    async with aclosing(RedisStore(url, prefix=prefix)) as store:
        await store.save(Event("alice", "t"))
    assert not caplog.records


async def test_a_server_without_scripts(prefix: str) -> None:
    """Where what the server says is no answer to go by, the push ends by its deadline, uncertain."""
    with single("--rename-command", "EVALSHA", "hidden") as server:
        async with aclosing(RedisStore(server.url, prefix=prefix, timeout=0.5)) as store:
            with pytest.raises(PushUncertainError, match="unknown command"):
                await store.save(Event("alice", "t"))


async def test_a_server_that_is_busy(victim: Server, prefix: str) -> None:
    """While another script keeps the server busy, pushes and reads wait until their timeout; then they continue."""
    victim.ask("CONFIG", "SET", "busy-reply-threshold", 20)
    store, hasty = RedisStore(victim.url, prefix=prefix), RedisStore(victim.url, prefix=prefix, timeout=1.0)
    async with aclosing(store), aclosing(hasty):
        await store.save(Event("alice", "t"))
        await hasty.head("alice")
        async with anyio.create_task_group() as tasks:

            async def occupy() -> None:
                with suppress(Exception):
                    await anyio.to_thread.run_sync(lambda: victim.ask("EVAL", "while true do end", 0))

            tasks.start_soon(occupy)
            await anyio.sleep(0.1)
            stored: list[Event] = []

            async def save() -> None:
                stored.append(await store.save(Event("alice", "t")))

            tasks.start_soon(save)
            with pytest.raises(BackendUnavailableError, match="BUSY"):
                await hasty.head("alice")
            assert not stored
            victim.ask("SCRIPT", "KILL")
        assert stored


async def test_a_servers_clock_that_jumps_ahead(server: Server, prefix: str) -> None:
    """A deadline reckoned by a clock that has since been set forward is refused once, and then reckoned anew."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        await store.save(Event("alice", "t"))
        store._client.node_of(0).writes.ahead -= 3_600_000
        await store.save(Event("alice", "t"))
        assert len((await store.read("alice", "0", 10)).events) == 2


def test_servers_that_are_too_old() -> None:
    """A server without what is needed is refused by name."""
    check_version("6.2.0", is_cluster=False)
    check_version("7.0.1", is_cluster=True)
    for text, is_cluster in {"6.0.16": False, "6.2.7": True}.items():
        with pytest.raises(NotSentError, match=text):
            check_version(text, is_cluster=is_cluster)


async def test_a_replica_is_warned_of(victim: Server, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The log says that pushes to a replica will be rejected."""
    victim.ask("REPLICAOF", "127.0.0.1", server.port)
    with caplog.at_level(logging.WARNING, "notify"):
        async with RedisStore(victim.url):
            pass
    assert "is a replica" in caplog.text


async def test_scripts_that_were_flushed_are_loaded_by_reads(server: Server, prefix: str) -> None:
    """A read that meets a server without the scripts loads them and goes on."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        event = await store.save(Event("alice", "t"))
        assert await store.head("alice") == event.id
        server.ask("SCRIPT", "FLUSH")
        assert await store.head("alice") == event.id


async def test_a_connection_that_is_another_one(server: Server, prefix: str) -> None:
    """What was reckoned for one connection is not sent over the next one, whose server may have another clock."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        await store.save(Event("alice", "t"))
        link = store._client.node_of(0).writes
        assert await link.call([pack(b"PING")], 1.0, epoch=link.epoch) == [b"PONG"]
        with pytest.raises(NotSentError, match="another one"):
            await link.call([pack(b"PING")], 1.0, epoch=link.epoch + 1)


async def test_another_parser(server: Server, prefix: str) -> None:
    """Without the driver's parser in C replies come one by one, and all is as before."""
    pool = ConnectionPool.from_url(server.url, parser_class=_AsyncRESP2Parser)
    async with aclosing(RedisStreamStore(pool, prefix=prefix)) as store, store.subscribe("alice") as stream:
        events = await store.save_many([Event("alice", "t", number) for number in range(100)])
        assert [await stream.next(5) for _ in events] == events


async def test_a_retry_after_the_log_was_trimmed(server: Server, prefix: str) -> None:
    """Where the log was trimmed before a push could be repeated, the push is uncertain, and not repeated."""
    other = RedisStore(server.url, prefix=prefix)
    async with FaultProxy("127.0.0.1", server.port) as proxy, aclosing(other):
        url = f"redis://127.0.0.1:{proxy.port}"
        async with aclosing(RedisStore(url, prefix=prefix)) as store, anyio.create_task_group() as tasks:
            await store.save(Event("alice", "first"))
            proxy.drop_reply(request=b"second")
            await proxy.refuse()

            async def save() -> None:
                with pytest.raises(PushUncertainError, match="trimmed"):
                    await store.save(Event("alice", "second"))

            tasks.start_soon(save)
            await until(lambda: server.ask("XLEN", store._names.stream("alice")) == 2)
            await other.trim("9999999999999-0")
            proxy.heal()
        assert (await other.read("alice", "0", 10)).events == ()


async def test_a_partition_with_many_users(server: Server, prefix: str) -> None:
    """Trimming reaches every user of a partition, also where there are more than one look shows."""
    users = [name for name in (f"u{number}" for number in range(400_000)) if partition_of(name) == 7][:1200]
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        await store.save_many([Event(user, "t") for user in users])
        assert await store.trim("9999999999999-0") == len(users) == 1200
