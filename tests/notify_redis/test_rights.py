"""Logins without channel rights, servers without pub/sub, and the wrong kind of URL: what is missing is named."""

from __future__ import annotations

from contextlib import aclosing

import anyio
import pytest

from notify import BackendUnavailableError, Event, Notifier, PushRejectedError, RoutingInfo
from notify.errors import NotifyError
from notify_redis import RedisRouter, RedisStore, RedisStreamStore
from tests.notify_redis.test_refusals import limited
from tests.parts import until
from tests.servers.redis import Server, single

pytestmark = pytest.mark.anyio


async def test_channels_that_are_not_allowed(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A login without channels stores; the log says once what is missing, and streams find events by looking."""
    url = limited(server, "deaf")
    server.ask("ACL", "SETUSER", "deaf", "resetchannels")
    async with (
        aclosing(RedisStreamStore(url, prefix=prefix)) as store,
        aclosing(RedisStreamStore(server.url, prefix=prefix)) as other,
    ):
        async with Notifier(other, audit_interval=0.5) as notifier:
            async with notifier.subscribe("alice") as stream, store.subscribe("alice") as own:
                for _ in range(3):
                    event = await store.save(Event("alice", "t"))
                    assert await own.next(10) == event
                stored = [await stream.next(20) for _ in range(3)]
                assert stored[-1] == event
        warnings = [each for each in caplog.messages if "may not announce" in each]
        assert len(warnings) == 1
        assert "&PREFIX:*" in warnings[0]
        (warning,) = [each for each in caplog.messages if "does not receive from" in each]
        assert "&PREFIX:*" in warning
        server.ask("ACL", "SETUSER", "deaf", f"&{prefix}:*")
        await store.save(Event("alice", "t"))
        assert "announces events again" in caplog.text
        await until(lambda: store.is_receiving, 10)


async def test_channels_that_nobody_needs(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a login may not publish does not matter where wake streams carry it: no warning, and readers are told."""
    url = limited(server, "mute")
    server.ask("ACL", "SETUSER", "mute", "resetchannels")
    async with (
        aclosing(RedisStreamStore(server.url, prefix=prefix, wake="xread")) as reader,
        aclosing(RedisStore(url, prefix=prefix)) as store,
        aclosing(RedisStreamStore(url, prefix=prefix, wake="xread")) as sender,
        reader.subscribe("alice") as stream,
    ):
        await until(lambda: reader.is_receiving, 10)
        event = await store.save(Event("alice", "t"))
        assert await stream.next(10) == event
        for number in range(2):
            sender.send_ephemeral(Event("alice", "t", number))
            assert (await stream.next(10)).payload == number
        await until(lambda: not sender._ephemerals._busy)
    assert not [each for each in caplog.messages if "announce" in each or "cannot send" in each]


async def test_a_router_without_channels(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A router whose login lacks the channels says so when it sends, and in the log when it cannot receive."""
    url = limited(server, "quiet")
    server.ask("ACL", "SETUSER", "quiet", "resetchannels")
    async with RedisRouter(url, prefix=prefix) as router:
        with pytest.raises(BackendUnavailableError, match="&PREFIX"):
            await router.route(Event("alice", "t"), RoutingInfo("there"))
        async with Notifier(router=router):
            await until(lambda: "does not receive from" in caplog.text, 10)
    assert "&PREFIX:*" in caplog.text


async def test_keys_that_are_not_allowed(server: Server, prefix: str) -> None:
    """A login without the prefix's keys is told which right it needs."""
    url = limited(server, "keyless")
    server.ask("ACL", "SETUSER", "keyless", "resetkeys", "~other:*")
    async with aclosing(RedisStore(url, prefix=prefix)) as store:
        with pytest.raises(PushRejectedError, match="~PREFIX"):
            await store.save(Event("alice", "t"))
        with pytest.raises(BackendUnavailableError, match="~PREFIX"):
            await store.head("alice")


async def test_a_server_without_publish(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """Behind a server or proxy without pub/sub everything is stored, and streams look for events."""
    hidden = [word for name in ("PUBLISH", "SUBSCRIBE") for word in ("--rename-command", name, "")]
    with single(*hidden, "--appendonly", "yes") as server:
        async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store:
            async with store.subscribe("alice") as stream:
                event = await store.save(Event("alice", "t"))
                assert await stream.next(10) == event
    assert "may not announce" in caplog.text
    assert "does not receive from" in caplog.text


@pytest.mark.parametrize(
    ("options", "url", "remedy"),
    [
        (["--cluster-enabled", "yes"], "redis://127.0.0.1:{}/1", r"redis\+cluster://"),
        (["--appendonly", "yes"], "redis+cluster://127.0.0.1:{}", r"redis://"),
        (["--databases", "2"], "redis://127.0.0.1:{}/2", "databases"),
    ],
)
async def test_the_wrong_kind_of_url(prefix: str, options: list[str], url: str, remedy: str) -> None:
    """A database of a cluster, a cluster that is none, and a database that is missing: the message has the remedy."""
    with single(*options) as server:
        async with aclosing(RedisStore(url.format(server.port), prefix=prefix, timeout=60.0)) as store:
            with anyio.fail_after(20):
                with pytest.raises(NotifyError, match=remedy):
                    await store.save(Event("alice", "t"))
                with pytest.raises(NotifyError, match=remedy):
                    await store.head("alice")


async def test_a_node_of_a_cluster_by_itself(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A node that is addressed as a server of its own works as far as it has the slots, and the log says what it is."""
    with single("--cluster-enabled", "yes") as server:
        server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        async with aclosing(RedisStore(server.url, prefix=prefix)) as store:

            async def stored() -> bool:
                return isinstance((await store.save_many([Event("alice", "t")]))[0], Event)

            await until(stored, 10)
    assert "redis+cluster://" in caplog.text
