"""What becomes of logs: gaps with their reasons, names that cannot collide, keys of others, clocks, late attempts."""

from __future__ import annotations

import logging
import re
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from notify import ClosedError, Event, InvalidEventError, Notifier, PushRejectedError, UsageError, ids
from notify.testing._samples import HOSTILE_NAMES
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from notify_redis._connection import check_settings, pack
from notify_redis._names import PARTITIONS, TAGS, RedisNames, slot_of
from notify_redis._record import encode
from notify_redis._scripts import PUSH
from tests.parts import until
from tests.servers.redis import VOLATILE, Server, single

pytestmark = pytest.mark.anyio


async def gap_of(store: RedisStreamStore, user: str, last_id: str) -> str | None:
    """Resume there and return the reason of the first gap."""
    async with Notifier(store) as notifier, notifier.subscribe(user, last_id, signals=True) as stream:
        event = await stream.next(5)
        return event.payload["reason"] if event.type == "notify.gap" else None


# -- gaps ----------------------------------------------------------------------------------------------------------


async def test_a_log_that_was_trimmed(server: Server, prefix: str) -> None:
    """Resuming from before the retained events yields a gap `trimmed`."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix, max_len=5)) as store:
        events = [await store.save(Event("alice", "t", number)) for number in range(10)]
        assert await gap_of(store, "alice", events[1].id) == "trimmed"
        assert await gap_of(store, "alice", events[4].id) is None


async def test_a_log_that_expired(server: Server, prefix: str) -> None:
    """Resuming after a whole log was evicted, flushed or has expired yields a gap `expired`."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store:
        event = await store.save(Event("alice", "t"))
        server.ask("DEL", store._names.stream("alice"))
        assert await gap_of(store, "alice", event.id) == "expired"
        again = await store.save(Event("alice", "t"))
        assert again.prev == ids.ZERO
        assert await gap_of(store, "alice", event.id) == "expired"


async def test_a_clock_that_stepped_back_after_the_log_was_lost(server: Server, prefix: str) -> None:
    """Ids that begin again below those that clients hold are a gap, `rewound`; live streams get it too."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store:
        key = store._names.stream("alice")
        ahead = f"{int(time.time() * 1000) + 7_200_000}-5"
        server.ask("XADD", key, ahead, "p", "0", "n", "x", "e", encode(Event("alice", "future")))
        async with Notifier(store) as notifier, notifier.subscribe("alice", "0", signals=True) as stream:
            assert (await stream.next(5)).type == "future"
            assert (await stream.next(5)).type == "notify.sync"
            server.ask("DEL", key)
            event = await store.save(Event("alice", "present"))
            assert ids.compare(event.id, ahead) < 0
            assert await gap_of(store, "alice", ahead) == "rewound"
            await store.live._catch_up.audit()
            gap = await stream.next(5)
            assert (gap.type, gap.payload["reason"]) == ("notify.gap", "rewound")


async def test_a_clock_that_stepped_back(server: Server, prefix: str) -> None:
    """While a log holds an id of the future, what is pushed gets greater ones, and the log stays a chain."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        ahead = f"{int(time.time() * 1000) + 7_200_000}-5"
        server.ask("XADD", store._names.stream("alice"), ahead, "p", "0", "n", "x", "e", encode(Event("alice", "t")))
        first, second = [await store.save(Event("alice", "t")) for _ in range(2)]
        assert (first.prev, second.prev) == (ahead, first.id)
        assert ids.compare(ahead, first.id) < 0


async def test_a_restart_without_persistence(prefix: str) -> None:
    """After a restart that lost everything, live and resuming streams get a gap `expired` and continue."""
    with single(*VOLATILE) as server:
        async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store:
            event = await store.save(Event("alice", "t"))
            async with Notifier(store) as notifier, notifier.subscribe("alice", "0", signals=True) as stream:
                assert await stream.next(5) == event
                assert (await stream.next(5)).type == "notify.sync"
                server.kill()
                await anyio.to_thread.run_sync(server.start)
                gap = await stream.next(15)
                assert (gap.type, gap.payload["reason"]) == ("notify.gap", "expired")
                again = await store.save(Event("alice", "t"))
                assert await stream.next(15) == again
            assert await gap_of(store, "alice", event.id) == "expired"


async def test_forged_positions(server: Server, prefix: str) -> None:
    """The largest legal position reads nothing, yields a gap `rewound`, and leaves the log writable."""
    largest = f"{(1 << 64) - 1}-{(1 << 64) - 1}"
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store:
        event = await store.save(Event("alice", "t"))
        page = await store.read("alice", largest, 10)
        assert ([*page.events], page.gap, page.position) == ([], "rewound", event.id)
        assert [*(await store.read("alice", f"0-{(1 << 64) - 1}", 10)).events] == [event]
        assert await gap_of(store, "alice", largest) == "rewound"
        assert (await store.save(Event("alice", "t"))).prev == event.id


# -- attempts ------------------------------------------------------------------------------------------------------


def attempt(server: Server, store: RedisStore, nonce: str, *, since: str = "", late: bool = False) -> Any:
    """Run the script by hand, as one attempt of a push to alice."""
    keys = [*store._names.of_user("alice")[:3], store._names.stream("alice")]
    now = int(time.time() * 1000)
    deadline = now - 1000 if late else now + 4000
    fixed = [deadline, 1000, "~", 3_600_000, 0, 1000, 4096, "PUBLISH", "", *("w", "wn", 1000, 1000, ""), since]
    reply = server.ask("EVAL", PUSH.source, 4, *keys, *fixed, nonce, "", encode(Event("alice", nonce)))
    return reply[1:]


async def test_attempts_in_any_order(server: Server, prefix: str) -> None:
    """A first attempt that is executed after the second one, and a second one after the first, append nothing."""
    since = str(int(time.time() * 1000))
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        for nonce, order in {"a": ("", since, ""), "b": (since, "", since), "c": (since, since, since)}.items():
            places = [attempt(server, store, nonce, since=each)[0].split(b" ")[:2] for each in order]
            assert places == places[:1] * 3
        page = await store.read("alice", "0", 10)
        assert [event.type for event in page.events] == ["a", "b", "c"]


async def test_an_attempt_after_its_deadline(server: Server, prefix: str) -> None:
    """What the server comes to after the deadline is refused, whatever became of it before."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        assert attempt(server, store, "a", late=True) == []
        assert [*(await store.read("alice", "0", 10)).events] == []


async def test_a_second_attempt_after_a_trim(server: Server, prefix: str) -> None:
    """Where the log no longer shows whether the first attempt was appended, the second one appends nothing."""
    since = str(int(time.time() * 1000) - 1)
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        attempt(server, store, "a")
        await store.trim("9999999999999-0")
        (reply,) = attempt(server, store, "a", since=since)
        assert reply.startswith(b"?")
        await store.save(Event("alice", "later"))
        (reply,) = attempt(server, store, "a", since=since)
        assert reply.startswith(b"?")


async def test_a_name_that_is_taken(server: Server, prefix: str) -> None:
    """Where another program stores another type of value under a user's key, only that push is rejected."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        server.ask("SET", store._names.stream("bob"), "not a stream")
        outcomes = await store.save_many([Event(user, "t") for user in ("alice", "bob", "carol")])
        assert [type(outcome) for outcome in outcomes] == [Event, PushRejectedError, Event]
        assert server.ask("GET", store._names.stream("bob")) == b"not a stream"


async def test_a_repeated_key_after_a_trim(server: Server, prefix: str) -> None:
    """A key whose event was trimmed still stores nothing and returns the first event's id."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        first = await store.save(Event("alice", "t", key="k"))
        await store.trim("9999999999999-0")
        again = await store.save(Event("alice", "t", key="k"))
        assert (again.id, again.prev) == (first.id, first.prev)
        assert await store.head("alice") == first.id


async def test_a_key_is_forgotten_after_its_window(server: Server, prefix: str) -> None:
    """After `key_window` a repeated key stores another event."""
    async with aclosing(RedisStore(server.url, prefix=prefix, key_window=0.05)) as store:
        first = await store.save(Event("alice", "t", key="k"))

        async def stored_again() -> bool:
            return (await store.save(Event("alice", "t", key="k"))).id != first.id

        await until(stored_again)


async def test_saves_at_once_share_round_trips(server: Server, prefix: str) -> None:
    """A thousand saves that run at once take a few writes, not a thousand."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        await store.save(Event("alice", "t"))
        before = calls(server)
        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(store.save, Event(f"user{number}", "t"))
        assert calls(server) - before < 100


def calls(server: Server) -> int:
    stats = server.ask("INFO", "commandstats")
    return int(stats["cmdstat_evalsha"]["calls"])


# -- names ---------------------------------------------------------------------------------------------------------


def test_names_cannot_collide() -> None:
    """No two users, keys or other names are alike, and all of a user's names are in the user's hash slot."""
    keys = RedisNames("app")
    names: set[bytes] = set()
    for user in HOSTILE_NAMES:
        stream, index, retries, partition = keys.of_user(user)
        tag = TAGS[partition].encode()
        for name in (stream, keys.presence(user), keys.idempotency(user, "k"), keys.idempotency(user, user)):
            assert name not in names
            assert name.startswith(b"app:{%b}:" % tag)
            assert name.count(b"{") == name.count(b"}") == 1
            names.add(name)
        assert index.startswith(b"app:{%b}:" % tag)
        assert retries.startswith(b"app:{%b}:" % tag)
    for partition in range(PARTITIONS):
        names |= {keys.indexes[partition], keys.retries[partition], keys.named(partition, "c", "x")}
    assert len(names) == len(HOSTILE_NAMES) * 4 + PARTITIONS * 3


def test_partitions_are_spread_evenly() -> None:
    """Clusters of any size get even shares: each 256th part of the slots has one partition."""
    assert sorted(slot_of(tag) * PARTITIONS // 16_384 for tag in TAGS) == [*range(PARTITIONS)]
    assert len(set(TAGS)) == PARTITIONS


def test_the_layout_never_changes() -> None:
    """Names that were written by an earlier version are found by this one."""
    keys = RedisNames("notify")
    assert keys.of_user("alice") == (
        b"notify:{p343}:alice",
        b"notify:{p343}::users",
        b"notify:{p343}::retries",
        keys.of_user("alice")[3],
    )
    assert keys.idempotency("a:b", "k{}").endswith(b":a%3Ab:k:k%7B%7D")


@pytest.mark.parametrize("prefix", ["", "a b", "a{b}", "x" * 101, "é", "a*"])
def test_prefixes_that_mean_something(prefix: str) -> None:
    """A prefix with braces, spaces or patterns is refused."""
    for part in (RedisStore, RedisRouter, RedisPresence):
        with pytest.raises(UsageError, match="prefix"):
            part("redis://localhost", prefix=prefix)


async def test_keys_of_others_are_left_alone(server: Server, prefix: str) -> None:
    """Trimming touches what the store wrote and nothing else, not even a stream that looks like its own."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        await store.save(Event("alice", "t"))
        other_keys = [f"{prefix}:stream", f"{prefix}:{{p000}}:stranger", f"{prefix}-2:{{p000}}:alice"]
        for key in other_keys:
            server.ask("XADD", key, "1-1", "f", "v")
        assert await store.trim("9999999999999-0") == 1
        assert [server.ask("XLEN", key) for key in other_keys] == [1, 1, 1]


async def test_nothing_is_kept_without_end(server: Server, prefix: str) -> None:
    """Every key has a time to live, longer than the events are kept, so no key stays behind."""
    async with aclosing(RedisStore(server.url, prefix=prefix, max_age=7200.0)) as store:
        tracker = RedisPresence(server.url, prefix=prefix)
        async with tracker:
            await tracker.register("alice")
            await store.save(Event("alice", "t", key="k"))
            attempt(server, store, "x", since=str(int(time.time() * 1000)))
            keys = server.ask("KEYS", f"{prefix}:*")
            lives = {key: server.ask("PTTL", key) for key in keys}
            assert len(lives) == 7
            lease = store._names.named(0, "leases")
            assert [key for key, life in lives.items() if life < 0] == [lease]  # holds live trackers only
            assert lives[store._names.stream("alice")] > 7_200_000


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["client", "pool", "blocking", "three"])
async def test_clients_that_are_passed_in(server: Server, prefix: str, kind: str) -> None:
    """A client or pool says where Redis is, and is neither used, changed nor closed; its retries do not count."""
    retry = Retry(NoBackoff(), 5)
    if kind == "pool":
        pool = ConnectionPool.from_url(server.url, retry=retry, decode_responses=True)
    elif kind == "blocking":
        pool = BlockingConnectionPool.from_url(server.url, max_connections=1, timeout=1)
    else:
        pool = ConnectionPool.from_url(
            server.url, protocol=3 if kind == "three" else 2, socket_timeout=1.0, retry=retry
        )
    client = Redis(connection_pool=pool)
    options = dict(pool.connection_kwargs)
    async with aclosing(RedisStreamStore(client if kind == "client" else pool, prefix=prefix)) as store:
        async with store.subscribe("alice") as stream:
            event = await store.save(Event("alice", "t"))
            assert await stream.next(5) == event
        wire = await store._client.endpoint.connect()
        check_settings(wire)
        await wire.disconnect()
        assert dict(pool.connection_kwargs) == options
    assert await client.ping()
    await client.aclose()
    await pool.aclose()


async def test_a_driver_that_does_not_obey(server: Server, prefix: str) -> None:
    """A connection with the driver's own retries or time limits is refused loudly."""
    from redis.asyncio import Connection

    class Stubborn(Connection):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.retry = Retry(NoBackoff(), 3)

    pool = ConnectionPool(connection_class=Stubborn, host="127.0.0.1", port=server.port)
    async with aclosing(RedisStore(pool, prefix=prefix, timeout=0.5)) as store:
        with pytest.raises(PushRejectedError, match="redis-py"):
            await store.save(Event("alice", "t"))


@pytest.mark.parametrize(
    "where",
    [
        "http://localhost",
        "localhost:6379",
        "redis+sentinel://localhost",
        "redis+cluster://localhost/0/1",
        "redis+cluster://:1",
        7,
        None,
    ],
)
def test_addresses_that_are_none(where: Any) -> None:
    """What is no Redis URL, client or pool is refused at once."""
    with pytest.raises(UsageError):
        RedisStore(where)


@pytest.mark.parametrize(
    "name", ["max_len", "max_age", "key_window", "timeout", "min_replicas", "inline", "probe_interval"]
)
def test_options_that_make_no_sense(name: str) -> None:
    """An option below its least value is refused at once."""
    with pytest.raises(UsageError):
        RedisStreamStore("redis://localhost", **{name: -1})


@pytest.mark.parametrize("ttl", [0, -1, 0.01, float("nan")])
def test_leases_that_are_too_short(ttl: float) -> None:
    """A time to live that no refresh could keep is refused at once."""
    with pytest.raises(UsageError):
        RedisPresence("redis://localhost", ttl=ttl)


async def test_warnings_of_the_servers_settings(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that evicts or does not persist is warned of, once for each part."""
    with single(*VOLATILE, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
            with caplog.at_level(logging.WARNING, "notify"):
                await store.save(Event("alice", "t"))
                await store.head("alice")
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert any("allkeys-lru" in text for text in texts)
    assert any("appendonly" in text for text in texts)


async def test_no_warnings_of_a_good_server(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server with an append-only file and no eviction is not complained of."""
    async with aclosing(RedisStreamStore(server.url, prefix=prefix)) as store, store.subscribe("alice"):
        with caplog.at_level(logging.WARNING, "notify"):
            await store.save(Event("alice", "t"))
    assert not caplog.records


async def test_users_that_are_none(server: Server, prefix: str) -> None:
    """Reading the log of what is no user id is refused as pushing to it is."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        for user in ("", "a\nb", "x" * 256):
            with pytest.raises(InvalidEventError):
                await store.read(user, "0", 10)


def test_another_event_loop(server: Server, prefix: str) -> None:
    """A store that is used from a second event loop says so."""
    store = RedisStore(server.url, prefix=prefix)

    async def use() -> None:
        await store.head("alice")

    async def last() -> None:
        with pytest.raises(UsageError, match="event loop"):
            await store.head("alice")

    async def first() -> None:
        await use()
        await store._client.background.aclose(1.0)

    anyio.run(first)
    anyio.run(last)


async def test_parts_that_are_closed(server: Server, prefix: str) -> None:
    """A closed router routes nothing and receives nothing."""
    router = RedisRouter(server.url, prefix=prefix)
    await router.aclose()
    await router.aclose()
    with pytest.raises(ClosedError):
        await router.route(Event("alice", "t"), None)


def test_commands_are_packed() -> None:
    """Commands go over the wire in the protocol's form, whatever bytes they hold."""
    assert pack(b"SET", b"k", b"\r\n\x00") == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\n\r\n\x00\r\n"


async def test_the_rights_in_the_documentation(server: Server) -> None:
    """A user with the rights that the page on Redis lists, and no others, can do everything."""
    page = (Path(__file__).parents[2] / "docs" / "backends" / "redis.md").read_text(encoding="utf-8")
    rights = re.findall(r"\+[a-z|]+", page.partition("- *Rights.*")[2].partition(", in a cluster")[0])
    assert len(rights) > 30
    server.ask("ACL", "SETUSER", "app", "reset", "on", ">secret", "~prefix:*", "&prefix:*", *rights)
    url = f"redis://app:secret@127.0.0.1:{server.port}"
    async with (
        RedisStreamStore(url, prefix="prefix", max_len=5, min_replicas=0) as store,
        RedisRouter(url, prefix="prefix") as router,
        RedisPresence(url, prefix="prefix") as presence,
        Notifier(store, router=router, presence=presence) as notifier,
        notifier.subscribe("alice") as stream,
    ):
        for number in range(10):
            event = await notifier.push("alice", "t", number, key=f"k{number % 5}")
        assert event is not None
        while (await stream.next(5)).id != event.id:
            pass
        assert (await notifier.check()).ok
        assert attempt(server, store, "again", since=str(int(time.time() * 1000)))
        await store.trim("9999999999999-0")
        assert await store.head("alice") != "0"
        await (await presence.register("bob")).aclose()
    log = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in server.ask("ACL LOG")]
    assert not [entry for entry in log if entry.get(b"username") == b"app"]


async def test_a_request_that_waits_for_a_dropped_connection_gets_the_next_one(server: Server, prefix: str) -> None:
    """What is asked for between the decision to disconnect and the disconnection goes over a new connection."""
    async with aclosing(RedisStore(server.url, prefix=prefix)) as store:
        await store.save(Event("alice", "t"))
        connection = store._client.nodes[0].writes
        epoch = connection.epoch
        connection.drop()
        assert await connection.call([pack(b"PING")], 5.0) == [b"PONG"]
        assert connection.epoch == epoch + 1
