"""Every option of a client, a pool or a URL is honoured, has no effect by design, or is refused by its name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis import CredentialProvider, DriverInfo
from redis.asyncio import (
    BlockingConnectionPool,
    Connection,
    ConnectionPool,
    Redis,
    RedisCluster,
    Sentinel,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from notify import Event, PushRejectedError
from notify.errors import NotifyError, UsageError
from notify_redis import RedisPresence, RedisRouter, RedisStore
from tests.notify_redis.test_refusals import limited
from tests.servers.certificates import Certificates
from tests.servers.redis import DURABLE, Server, directory, free_port, running, single

pytestmark = pytest.mark.anyio


async def works(url: Any, prefix: str) -> Event:
    async with aclosing(RedisStore(url, prefix=prefix)) as store:
        event = await store.save(Event("alice", "t"))
        assert await store.head("alice") == event.id
        return event


# -- settings of a client --------------------------------------------------------------------------------------------


class Provider(CredentialProvider):
    """A login that is asked for at each connection, as for tokens that expire."""

    def __init__(self, *login: str) -> None:
        self.login = login
        self.asked = 0

    def get_credentials(self) -> tuple[str, ...]:
        self.asked += 1
        return self.login


CALLS: list[dict[str, Any]] = [
    {"decode_responses": True},
    {"decode_responses": True, "encoding": "latin-1", "encoding_errors": "replace"},
    {"protocol": 3},
    {"socket_timeout": 0.001},
    {"socket_timeout": None, "socket_connect_timeout": None},
    {"retry": Retry(ExponentialBackoff(), 5), "retry_on_error": [redis.ConnectionError]},
    {"health_check_interval": 1},
    {"single_connection_client": True},
    {"max_connections": 1},
    {"socket_keepalive": True, "socket_keepalive_options": {}},
    {"socket_read_size": 128},
    {"driver_info": DriverInfo(name="mine", lib_version="1")},
]


@pytest.mark.parametrize("options", CALLS, ids=lambda options: ",".join(options))
async def test_settings_of_calls(server: Server, prefix: str, options: dict[str, Any]) -> None:
    """What a client says about its own calls does not matter: stores, routers and trackers work with it."""
    client = Redis(port=server.port, **options)
    async with aclosing(client):
        await works(client, prefix)
        async with RedisPresence(client, prefix=prefix) as presence, RedisRouter(client, prefix=prefix) as router:
            assert not await presence.locate(["alice"])
            await router.route(Event("alice", "t"), None)


async def test_names_and_logins(server: Server, prefix: str) -> None:
    """The client's name, login and credential provider are those of the connections."""
    limited(server, "named")
    provider = Provider("named", "secret")
    for login in ({"username": "named", "password": "secret"}, {"credential_provider": provider}):
        client = Redis(port=server.port, client_name="orders", **login)
        async with aclosing(client), aclosing(RedisStore(client, prefix=prefix)) as store:
            await store.save(Event("alice", "t"))
            lines = str(server.ask("CLIENT", "LIST")).split("\\n")
            assert any(" name=orders " in line and " user=named " in line for line in lines)
    assert provider.asked


async def test_connect_functions_pools_and_classes(server: Server, prefix: str) -> None:
    """A function to call on connecting, a connection class of one's own and a blocking pool are used as given."""
    called: list[Any] = []

    async def on_connect(connection: Any) -> None:
        called.append(connection)
        await connection.on_connect()

    class Mine(Connection):
        pass

    for pool in (
        ConnectionPool(port=server.port, redis_connect_func=on_connect),
        ConnectionPool(connection_class=Mine, port=server.port, redis_connect_func=on_connect),
        BlockingConnectionPool(port=server.port, redis_connect_func=on_connect),
    ):
        before = len(called)
        async with aclosing(pool):
            await works(pool, prefix)
        assert len(called) > before
    assert any(isinstance(each, Mine) for each in called)


async def test_unix_sockets(prefix: str) -> None:
    """A socket by URL, with a database and a login, and by client."""
    with directory() as path:
        socket = path / "a b@c.sock"
        server = Server(path, *DURABLE, "--unixsocket", str(socket))
        with running(server):
            limited(server, "me")
            for url in (
                f"unix://{socket}?db=1",
                f"unix://{socket}?db=1&username=me&password=secret",
                f"unix://me:secret@{str(socket).replace(' ', '%20').replace('@', '%40')}?db=1",
                Redis(unix_socket_path=str(socket), db=1),
                ConnectionPool(connection_class=UnixDomainSocketConnection, path=str(socket), db=1),
            ):
                event = await works(url, prefix)
            assert (await works(f"{server.url}/1", prefix)).prev == event.id


async def test_a_connect_timeout_is_honoured(prefix: str) -> None:
    """A time limit for connecting that was given counts, by client and by URL; the driver's own default does not."""
    for url, seconds in {
        "redis://localhost?socket_connect_timeout=7": 7.0,
        "redis://localhost": 2.0,
        Redis(socket_connect_timeout=0.5): 0.5,
        Redis(): 2.0,
    }.items():
        assert RedisStore(url, prefix=prefix)._client.endpoint.connect_timeout == seconds


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: redis.Redis(), "redis.asyncio"),
        (lambda: Sentinel([("localhost", 1)]), "master_for"),
        (lambda: Sentinel([("localhost", 1)]).slave_for("main"), "master_for"),
        (lambda: ConnectionPool(no_such_option=1), "no_such_option"),
        (lambda: object(), "object"),
        (lambda: b"redis://localhost", "bytes"),
        (lambda: "http://localhost", "redis://"),
        (lambda: "redis://a,b", "several"),
        (lambda: "redis://a:1?port=2", "twice"),
        (lambda: "redis://me:x@a?password=y", "password is given twice"),
        (lambda: "redis://a/1?db=2", "db is given twice"),
        (lambda: "redis://a?credential_provider=x", "credential_provider cannot be given in a URL"),
        (lambda: "redis://a?socket_timeout=soon", "socket_timeout|value"),
        (lambda: "redis://a?path=/x", "path does not apply"),
        (lambda: "unix:///x?port=1", "port does not apply"),
        (lambda: "redis+cluster://", "names no host"),
        (lambda: "redis+sentinel://a", "service"),
        (lambda: "redis+sentinel://a/main?sentinel_ssl=maybe", "sentinel_ssl"),
        (lambda: "redis+sentinel://a/main?sentinel_db=1", "db does not apply"),
        (lambda: "redis+sentinel://a/main?sentinel_foo=1", "'foo'"),
        (lambda: "redis://a?ssl_ca_certs=x", "'ssl_ca_certs'"),
    ],
)
def test_what_is_refused(make: Callable[[], Any], words: str) -> None:
    """What cannot be honoured is refused in the constructor, by its name."""
    with pytest.raises(UsageError, match=words):
        RedisStore(make())


def test_addresses_that_clients_map() -> None:
    """A cluster client's `address_remap` and a Sentinel's forced address change the addresses that servers name."""
    cluster: Any = RedisCluster(host="one", port=1, address_remap=lambda address: ("outside", address[1] + 1))
    assert RedisStore(cluster)._client.endpoint.located("inside", 1) == ("outside", 2)
    client = Sentinel([("one", 1)], force_master_ip="10.0.0.1").master_for("main")
    assert RedisStore(client)._client.endpoint.located("172.17.0.2", 6379) == ("10.0.0.1", 6379)
    assert RedisStore("redis://one")._client.endpoint.located("one", 1) == ("one", 1)


async def test_a_cluster_behind_a_mapping(prefix: str) -> None:
    """A cluster that announces an address which is not reachable is reached through the client's mapping."""
    with single("--cluster-enabled", "yes", "--cluster-announce-ip", "192.0.2.1") as server:
        server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        client: Any = RedisCluster(host="127.0.0.1", port=server.port, address_remap=lambda a: ("127.0.0.1", a[1]))
        await works(client, prefix)


# -- TLS and logins of sentinels -------------------------------------------------------------------------------------


class Watched:
    """A master and a sentinel, each with a plain port and one with TLS, and logins of their own."""

    service = "main"

    def __init__(self, path: Path) -> None:
        certificates = Certificates(path)
        certificate, key = certificates.sign("server", "DNS:localhost", "IP:127.0.0.1")
        self.authority = certificates.authority
        tls = {"tls-cert-file": certificate, "tls-key-file": key, "tls-ca-cert-file": self.authority}
        options = [word for name, value in tls.items() for word in (f"--{name}", str(value))]
        self.master_tls, self.plain_sentinel_tls, self.tls_sentinel_tls = (free_port() for _ in range(3))
        no_clients = ("--tls-auth-clients", "no", "--tls-port", str(self.master_tls))
        self.master = Server(path / "m", *DURABLE, *options, *no_clients)

        def watch(port: int, tls_port: int, more: str) -> str:
            lines = [f"{name} {value}" for name, value in tls.items()]
            return "\n".join(
                [
                    *lines,
                    "tls-auth-clients no",
                    f"tls-port {tls_port}",
                    f"sentinel monitor main 127.0.0.1 {port} 1",
                    more,
                ]
            )

        self.of_tls = Server(
            path / "s", sentinel=watch(self.master_tls, self.plain_sentinel_tls, "tls-replication yes\n")
        )
        self.of_plain = Server(path / "t", sentinel=watch(self.master.port, self.tls_sentinel_tls, ""))


@contextmanager
def watched() -> Iterator[Watched]:
    with directory() as path:
        all_ = Watched(path)
        with running(all_.master, all_.of_tls, all_.of_plain):
            yield all_


async def test_tls_of_masters_and_sentinels(prefix: str) -> None:
    """TLS to the master alone, to the sentinels alone, and to both, by client and by URL."""
    with watched() as all_:
        ca = str(all_.authority)
        plain, tls = ("127.0.0.1", all_.of_tls.port), ("127.0.0.1", all_.plain_sentinel_tls)
        only_tls = ("127.0.0.1", all_.tls_sentinel_tls)
        secure = {"ssl": True, "ssl_ca_certs": ca}
        clients = [
            Sentinel([plain], **secure),
            Sentinel([tls], sentinel_kwargs=secure, **secure),
            Sentinel([only_tls], sentinel_kwargs=secure),
        ]
        for sentinel in clients:
            client = sentinel.master_for("main")
            async with aclosing(client):
                await works(client, prefix)
            for each in sentinel.sentinels:
                await each.aclose()
        urls = [
            f"rediss+sentinel://127.0.0.1:{plain[1]}/main/0?ssl_ca_certs={ca}&sentinel_ssl=false",
            f"rediss+sentinel://127.0.0.1:{tls[1]}/main/0?ssl_ca_certs={ca}",
            f"rediss+sentinel://127.0.0.1:{tls[1]}/main?ssl_cert_reqs=none&sentinel_ssl_ca_certs={ca}",
            f"redis+sentinel://127.0.0.1:{only_tls[1]}/main?sentinel_ssl=true&sentinel_ssl_ca_certs={ca}",
            f"redis+sentinel://127.0.0.1:{only_tls[1]}/main?sentinel_ssl=true&ssl_ca_certs={ca}",
        ]
        for url in urls:
            await works(url, prefix)


async def test_tls_to_sentinels_that_have_none(prefix: str) -> None:
    """Sentinels that do not speak TLS are not called unknown: the message says what happened and names the option."""
    with watched() as all_:
        url = f"rediss+sentinel://127.0.0.1:{all_.of_tls.port}/main/0?ssl_cert_reqs=none"
        began = time.monotonic()
        async with aclosing(RedisStore(url, prefix=prefix, timeout=1.5)) as store:
            with pytest.raises(PushRejectedError, match="sentinel_ssl=false") as caught:
                await store.save(Event("alice", "t"))
        assert time.monotonic() - began < 4.0
        assert not str(caught.value).rstrip().endswith(":")


async def test_logins_of_sentinels(prefix: str) -> None:
    """Master and sentinels may have logins of their own, in the URL and in the client."""
    with watched() as all_:
        all_.of_plain.ask("ACL", "SETUSER", "watcher", "on", ">seen", "~*", "&*", "+@all")
        all_.of_plain.ask("ACL", "SETUSER", "default", "off")
        limited(all_.master, "me")
        port = all_.of_plain.port
        url = f"redis+sentinel://me:secret@127.0.0.1:{port}/main?sentinel_username=watcher&sentinel_password=seen"
        await works(url, prefix)
        login = {"username": "watcher", "password": "seen"}
        sentinel = Sentinel([("127.0.0.1", port)], sentinel_kwargs=login, username="me", password="secret")
        client = sentinel.master_for("main")
        async with aclosing(client):
            await works(client, prefix)
        for each in sentinel.sentinels:
            await each.aclose()
        async with aclosing(RedisStore(f"redis+sentinel://127.0.0.1:{port}/main", prefix=prefix, timeout=1.0)) as store:
            with pytest.raises(NotifyError, match=r"(?i)auth"):
                await store.save(Event("alice", "t"))


def test_classes_of_connections() -> None:
    """TLS is a matter of each side: of the master by the scheme, of the sentinels by their option."""
    for url, kinds in {
        "redis+sentinel://a/main": (Connection, Connection),
        "rediss+sentinel://a/main": (SSLConnection, SSLConnection),
        "rediss+sentinel://a/main?sentinel_ssl=false": (SSLConnection, Connection),
        "redis+sentinel://a/main?sentinel_ssl=true": (Connection, SSLConnection),
    }.items():
        endpoint = RedisStore(url)._client.endpoint
        assert (endpoint.kind, endpoint.sentinel_kind) == kinds
