"""Damaged records and missing or unreachable servers raise the library's own errors, within the timeout."""

from __future__ import annotations

from contextlib import aclosing, suppress
from functools import partial
from time import monotonic
from typing import Any

import anyio
import anyio.to_thread
import pytest
from redis.asyncio import RedisCluster, Sentinel, SSLConnection

from notify import (
    BackendUnavailableError,
    CodecError,
    Event,
    Notifier,
    PushRejectedError,
    PushUncertainError,
    RoutingInfo,
    UsageError,
)
from notify.testing import FaultProxy
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore, _client
from notify_redis._record import decode, encode
from tests.parts import until
from tests.servers.redis import Server, cluster, directory, free_port, running, sentinels, single

pytestmark = pytest.mark.anyio


# -- unreachable -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis+cluster://127.0.0.1:{port}", "redis+sentinel://127.0.0.1:{port}/main"])
async def test_masters_that_cannot_be_asked(prefix: str, scheme: str) -> None:
    """Where no sentinel and no node of the cluster answers, pushes are rejected and reads fail, in time."""
    url = scheme.format(port=free_port())
    async with aclosing(RedisStreamStore(url, prefix=prefix, timeout=0.5)) as store:
        began = monotonic()
        with pytest.raises(PushRejectedError, match="no "):
            await store.save(Event("alice", "t"))
        with pytest.raises(BackendUnavailableError):
            await store.read("alice", "0", 10)
        with pytest.raises(BackendUnavailableError):
            await store.subscribe("alice").__aenter__()
        assert monotonic() - began < 5.0
        assert not store.is_receiving


@pytest.mark.parametrize("options", [(), ("--cluster-enabled", "yes")], ids=["single", "without slots"])
async def test_a_cluster_that_is_none(prefix: str, options: tuple[str, ...]) -> None:
    """A server that is in no cluster, or in one that has no slots yet, is no place to push to."""
    with single(*options) as server:
        url = f"redis+cluster://127.0.0.1:{server.port}"
        async with aclosing(RedisStore(url, prefix=prefix, timeout=0.3)) as store:
            with pytest.raises(PushRejectedError, match="slots"):
                await store.save(Event("alice", "t"))


async def test_closing_while_the_masters_are_looked_for(prefix: str) -> None:
    """Pushes, streams and routers that wait for a cluster that hangs end when their part is closed."""
    with single("--cluster-enabled", "yes") as server:
        url = f"redis+cluster://127.0.0.1:{server.port}"
        store, router = RedisStore(url, prefix=prefix), RedisRouter(url, prefix=prefix)
        server.freeze()
        try:
            async with anyio.create_task_group() as tasks:

                async def save() -> None:
                    with pytest.raises(PushRejectedError):
                        await store.save(Event("alice", "t"))

                tasks.start_soon(save)
                with anyio.move_on_after(0.1):
                    await tasks.start(partial(router.receive, "here", lambda event: 0))
                began = monotonic()
                await store.aclose()
                assert monotonic() - began < 3.0  # the timeout is 4
            await router.aclose()
        finally:
            server.thaw()


async def test_a_router_that_gave_up_listening(prefix: str) -> None:
    """A router that was cancelled while the masters could not be found stops looking for them."""
    router = RedisRouter(f"redis+cluster://127.0.0.1:{free_port()}", prefix=prefix)
    async with aclosing(router), anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.2):
            await tasks.start(partial(router.receive, "here", lambda event: 0))
        await until(lambda: not router._client.background.running)


async def test_a_cluster_that_comes_up_late(prefix: str) -> None:
    """A stream that could not be opened without the cluster, and a push, go on once the cluster is there."""
    with cluster() as all_:
        for each in all_.masters:
            each.kill()
        async with aclosing(RedisStreamStore(all_.url, prefix=prefix, timeout=0.5)) as store:
            stream = store.subscribe("alice", "0")
            with pytest.raises(BackendUnavailableError):
                await stream.next()
            for each in all_.masters:
                await anyio.to_thread.run_sync(each.start)
            event: list[Event] = []

            async def push() -> bool:
                with suppress(PushRejectedError, PushUncertainError):
                    event.append(await store.save(Event("alice", "t", key="k")))
                return bool(event)

            await until(push, 30)
            assert await store.subscribe("alice", "0").next(10) == event[0]


async def test_sentinels_that_know_no_such_service(prefix: str) -> None:
    """Sentinels that watch something else are asked in vain, and the error names the service."""
    with directory() as path:
        sentinel = Server(path, sentinel="")
        with running(sentinel):
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/nobody"
            async with aclosing(RedisStore(url, prefix=prefix, timeout=0.5)) as store:
                with pytest.raises(PushRejectedError, match="nobody"):
                    await store.save(Event("alice", "t"))


@pytest.mark.parametrize("how", ["replica", "silent", "forbidden"])
async def test_a_master_that_is_none(victim: Server, server: Server, prefix: str, how: str) -> None:
    """A server that the sentinels call the master is not pushed to unless it says so itself."""
    async with FaultProxy("127.0.0.1", victim.port) as proxy:
        watch = f"sentinel monitor main 127.0.0.1 {proxy.port} 1\n"
        with directory() as path:
            sentinel = Server(path, sentinel=watch)
            await anyio.to_thread.run_sync(sentinel.start)
            try:
                if how == "replica":
                    victim.ask("REPLICAOF", "127.0.0.1", server.port)
                elif how == "forbidden":
                    victim.ask("ACL", "SETUSER", "app", "on", "nopass", "~*", "&*", "+@all", "-role")
                else:
                    proxy.drop_reply(request=b"ROLE", times=1000)
                login = "app:x@" if how == "forbidden" else ""
                url = f"redis+sentinel://{login}127.0.0.1:{sentinel.port}/main"
                async with aclosing(RedisStore(url, prefix=prefix, timeout=1.5)) as store:
                    with pytest.raises(PushRejectedError, match="master"):
                        await store.save(Event("alice", "t"))
            finally:
                sentinel.stop()


async def test_a_master_that_is_demoted(victim: Server, server: Server, prefix: str) -> None:
    """Behind sentinels a master that turns read-only is left; when it says again that it is one, pushes go on."""
    with directory() as path:
        sentinel = Server(path, sentinel=f"sentinel monitor main 127.0.0.1 {victim.port} 1\n")
        with running(sentinel):
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
            async with aclosing(RedisStore(url, prefix=prefix, timeout=1.0)) as store:
                await store.save(Event("alice", "t"))
                victim.ask("REPLICAOF", "127.0.0.1", server.port)
                with pytest.raises(PushRejectedError, match=r"(?i)read.?only|not the master|not connected"):
                    await store.save(Event("alice", "t"))
                victim.ask("REPLICAOF", "NO", "ONE")

                async def stored() -> bool:
                    with suppress(PushRejectedError):
                        return bool(await store.save(Event("alice", "t")))
                    return False

                await until(stored, 10)


@pytest.mark.slow
async def test_sentinels_that_die(
    prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without sentinels the master that is known goes on serving; without the master too, pushes end in time."""
    monkeypatch.setattr(_client, "REDISCOVER_INTERVAL", 0.1)
    with sentinels() as all_:
        async with aclosing(RedisStreamStore(all_.url, prefix=prefix, timeout=1.0)) as store:
            await store.save(Event("alice", "t"))
            for each in all_.sentinels:
                each.kill()
            await until(lambda: "cannot find the current masters" in caplog.text, 10)
            await store.save(Event("alice", "t"))
            all_.master.kill()
            began = monotonic()
            with pytest.raises((PushRejectedError, PushUncertainError)):
                await store.save(Event("alice", "t"))
            with pytest.raises(BackendUnavailableError):
                await store.head("alice")
            assert monotonic() - began < 6.0


# -- clients of the driver -----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_clients_of_clusters_and_sentinels(prefix: str) -> None:
    """A cluster client, or one that a sentinel object made, says where Redis is."""
    with cluster() as all_:
        client: Any = RedisCluster(host="127.0.0.1", port=all_.masters[0].port)
        async with aclosing(RedisStore(client, prefix=prefix)) as store:
            event = await store.save(Event("alice", "t"))
            assert [*(await store.read("alice", "0", 10)).events] == [event]
        await client.aclose()
    with sentinels() as watched:
        sentinel = Sentinel([("127.0.0.1", each.port) for each in watched.sentinels])
        master = sentinel.master_for(watched.service)
        async with aclosing(RedisStore(master, prefix=prefix)) as store:
            event = await store.save(Event("alice", "t"))
            assert [*(await store.read("alice", "0", 10)).events] == [event]
        await master.aclose()


def test_cluster_clients_with_tls() -> None:
    """A cluster client that speaks TLS is followed with TLS, under its login."""
    client: Any = RedisCluster(host="one", port=1, ssl=True, ssl_ca_certs="ca.pem", username="me", password="secret")
    source = RedisStore(client)._client.endpoint
    assert source.kind is SSLConnection
    assert (source.options["username"], source.options["ssl_ca_certs"]) == ("me", "ca.pem")
    assert list(source.seeds) == [("one", 1)]


def test_logins_and_tls_of_sentinels() -> None:
    """A URL may have another login for the sentinels; TLS settings count for them too."""
    url = "rediss+sentinel://me:secret@one:1,two/main/3?sentinel_username=s&sentinel_password=p&ssl_ca_certs=ca.pem"
    source = RedisStore(url)._client.endpoint
    assert list(source.seeds) == [("one", 1), ("two", 26_379)]
    assert (source.service, source.options["db"], source.options["username"]) == ("main", 3, "me")
    assert dict(source.sentinel_options) == {"username": "s", "password": "p", "ssl_ca_certs": "ca.pem"}
    assert str(source) == "one:1,two:26379"


# -- what others wrote ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [b"", b"2alice", b"1alice\nt", b"1alice\nt\nnow\n\n\n\nnull", b"1\xff\nt\n1\n\n\n\nnull"]
)
def test_entries_that_are_damaged(raw: bytes) -> None:
    """What is not an entry of a known version is refused as such."""
    with pytest.raises(CodecError):
        decode(raw, "1-0", "0")


def test_entries_keep_everything() -> None:
    """An entry holds every field of its event."""
    event = Event("alice", "t", {"a": 1}, group="g", key="k", meta={"m": "n"})
    assert decode(encode(event), "1-0", "0") == event.stored("1-0", "0")


async def test_an_event_in_the_wrong_log(server: Server, prefix: str) -> None:
    """Another user's event in a log is never shown; what is no stream cannot be read."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        forged = encode(Event("bob", "secret"))
        server.ask("XADD", store._names.stream("alice"), "*", "p", "0", "n", "x", "e", forged)
        with pytest.raises(CodecError, match="bob"):
            await store.read("alice", "0", 10)
        server.ask("SET", store._names.stream("carol"), "text")
        with pytest.raises(BackendUnavailableError, match="WRONGTYPE"):
            await store.read("carol", "0", 10)


async def test_garbage_that_is_routed(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A message that is not an event on an instance's channel is logged, and the next event is delivered."""
    async with (
        RedisRouter(server.url, prefix=prefix) as router,
        Notifier(router=router, instance_id="here") as notifier,
        notifier.subscribe("alice") as stream,
    ):
        channel, _ = router._instance("here")
        await until(lambda: server.ask("PUBLISH", channel, b"garbage"))
        await router.route(Event("alice", "t"), RoutingInfo("here"))
        assert (await stream.next(5)).type == "t"
    assert "cannot be delivered" in caplog.text


# -- presence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [RedisPresence, RedisRouter])
def test_timeouts_that_make_no_sense(part: Any) -> None:
    """A timeout of nothing is refused at once."""
    with pytest.raises(UsageError, match="timeout"):
        part("redis://localhost", timeout=0)


async def test_presence_while_the_server_is_away(victim: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without the server registering fails and says so; what was registered is there again when it is back."""
    trackers = [RedisPresence(victim.url, prefix=prefix, ttl=1.5, timeout=1.0) for _ in range(2)]
    async with trackers[0] as here, trackers[1] as there:
        await here.register("alice", RoutingInfo("one"))
        assert await there.locate(["alice"])
        victim.kill()
        with pytest.raises(BackendUnavailableError):
            await here.register("bob", RoutingInfo("one"))
        with pytest.raises(BackendUnavailableError):
            await there.locate(["alice"])
        await until(lambda: "cannot write or renew its registrations" in caplog.text)
        await anyio.to_thread.run_sync(victim.start)

        async def found() -> bool:
            with suppress(BackendUnavailableError):
                return "alice" in await there.locate(["alice"])
            return False

        await until(found, 10)
        await until(lambda: here._leases.epoch > 1, 10)  # it has written everything again, over the new connection
        assert await there.locate([]) == {}


async def test_a_tracker_that_is_closed_twice_at_the_same_time(server: Server, prefix: str) -> None:
    """The first call to end does not close the connection that the release needs: users are offline at once."""
    async with RedisPresence(server.url, prefix=prefix) as there:
        here = RedisPresence(server.url, prefix=prefix)
        for user in ("alice", "bob"):
            await here.register(user)
        assert {*await there.locate(["alice", "bob"])} == {"alice", "bob"}
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(here.aclose)
        assert await there.locate(["alice", "bob"]) == {}


async def test_a_tracker_that_closes_while_it_writes(victim: Server, prefix: str) -> None:
    """A registration in progress when the tracker closes ends with an error, though the server is frozen."""
    tracker = RedisPresence(victim.url, prefix=prefix)
    await tracker.register("alice")
    victim.freeze()
    ended: list[str] = []

    async def register(user: str) -> None:
        try:
            await tracker.register(user)
        except Exception as error:
            ended.append(type(error).__name__)

    async with anyio.create_task_group() as tasks:
        for user in ("bob", "carol"):
            tasks.start_soon(register, user)
            await anyio.sleep(0.05)
        began = monotonic()
        await tracker.aclose()
    assert monotonic() - began < 2.5
    assert set(ended) <= {"ClosedError", "BackendUnavailableError"}
    assert len(ended) == 2
