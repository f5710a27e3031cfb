"""DSNs as hosted databases hand them out, against a server with TLS and passwords; and no password in any text."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import asyncpg
import pytest

from notify import BackendUnavailableError, Event, Notifier, PushRejectedError, UsageError
from notify_pg import PostgresPresence, PostgresRouter, PostgresStore, PostgresStreamStore
from notify_pg._connect import connect
from notify_pg._dsn import check_dsn
from tests.parts import until
from tests.servers.certificates import Certificates
from tests.servers.postgres import USER, Bouncer, Server, directory, running

pytestmark = pytest.mark.anyio

PARTS = [PostgresStore, PostgresStreamStore, PostgresRouter, PostgresPresence]

CHARACTERS = "".join(map(chr, range(33, 127))) + " äß€\U0001f600\u2100"
"""Every printable character of ASCII, a space, and some beyond."""

HBA = """
local all all trust
host all postgres 127.0.0.1/32 trust
host all postgres ::1/128 trust
host all all 127.0.0.1/32 scram-sha-256
"""


class Tls:
    """A server with TLS: its certificate names localhost, but not 127.0.0.1."""

    def __init__(self, server: Server, certificates: Certificates) -> None:
        self.server = server
        self.certificates = certificates

    def dsn(self, words: str = "", login: str = "postgres", host: str = "127.0.0.1", database: str = "postgres") -> str:
        return f"postgresql://{login}@{host}:{self.server.port}/{database}?{words}"


@pytest.fixture(scope="module")
def tls() -> Iterator[Tls]:
    with directory() as path:
        certificates = Certificates(path, USER)
        certificate, key = certificates.sign("server", "DNS:localhost")
        hba = path / "hba.conf"
        hba.write_text(HBA)
        config = f"ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\nhba_file = '{hba}'\n"
        with running(f"{config}\nlisten_addresses = 'localhost,127.0.0.1'") as server:
            yield Tls(server, certificates)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The driver's defaults, and a home without certificates and passwords."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(autouse=True)
async def no_socket_left(anyio_backend: str) -> AsyncIterator[None]:
    """Wait for the end of connections that the server refused: with TLS, asyncpg closes them without waiting for it."""
    yield
    loop: Any = asyncio.get_running_loop()
    await until(lambda: len(loop._selector.get_map()) == 1)  # the one by which the loop wakes itself


async def is_encrypted(dsn: str) -> bool:
    connection = await connect(check_dsn(dsn))
    try:
        return bool(await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
    finally:
        await connection.close()


# -- words -------------------------------------------------------------------------------------------------------------

HOSTED = [
    "sslmode=require",
    "sslmode=require&channel_binding=prefer",
    "sslmode=require&connect_timeout=10&keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3",
    "sslmode=require&application_name=web&options=-c%20geqo%3Doff",
    "sslmode=require&target_session_attrs=read-write",
    "sslmode=require&gssencmode=disable&sslsni=1&sslcertmode=allow&load_balance_hosts=disable&client_encoding=utf8",
    "sslmode=require&pgbouncer=true&schema=public",
    "sslmode=require&fallback_application_name=web&tcp_user_timeout=1000&sslcompression=0&supa=base-pooler.x",
    "sslmode=require&sslnegotiation=postgres&ssl_min_protocol_version=TLSv1.2&statement_timeout=4000",
]


@pytest.mark.parametrize("words", HOSTED)
async def test_a_hosted_dsn_works(tls: Tls, words: str, schema: str) -> None:
    """A DSN with the words of hosted databases connects with TLS, stores, reads, listens and closes."""
    assert await is_encrypted(tls.dsn(words))
    async with PostgresStreamStore(tls.dsn(words), schema=schema) as store, store.subscribe("alice", "0") as stream:
        event = await store.save(Event("alice", "n"))
        assert await stream.next(5) == event


async def test_settings_reach_the_server(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server knows is passed on, from the DSN and from the environment, and a plus sign stays one."""

    async def settings(dsn: str) -> list[str]:
        connection = await connect(check_dsn(dsn))
        names = ("application_name", "geqo", "statement_timeout")
        try:
            return [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
        finally:
            await connection.close()

    assert await settings(tls.dsn("application_name=a+b&options=-c%20geqo=off&statement_timeout=4s")) == [
        "a+b", "off", "4s"
    ]  # fmt: skip
    assert (await settings(tls.dsn("application_name=a&fallback_application_name=b")))[0] == "a"
    assert (await settings(tls.dsn("fallback_application_name=b")))[0] == "b"
    monkeypatch.setenv("PGAPPNAME", "from-environment")
    monkeypatch.setenv("PGOPTIONS", "-c geqo=off")
    assert (await settings(tls.dsn()))[:2] == ["from-environment", "off"]
    assert (await settings(tls.dsn("application_name=a")))[0] == "a"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("channel_binding=require", r"'channel_binding'.*asyncpg has no channel binding: remove it"),
        ("gssencmode=require", "'gssencmode'.*remove it"),
        ("connection_limit=1", "'connection_limit'.*pool_size="),
        ("pool_timeout=5", "'pool_timeout'.*timeout="),
        ("schema=app", "'schema'.*schema="),
        ("ssl=true", "'ssl'.*sslmode=require"),
        ("hostaddr=127.0.0.1", "'hostaddr'.*as the host"),
        ("require_auth=scram-sha-256", "'require_auth'.*remove it"),
        ("load_balance_hosts=random", "'load_balance_hosts'.*remove it"),
        ("client_encoding=latin1", "'client_encoding'.*UTF-8"),
        ("sslrootcert=system&sslmode=require", "sslmode=verify-full"),
        ("sslnegotiation=x", "'sslnegotiation'.*direct"),
    ],
)
@pytest.mark.parametrize("part", PARTS)
def test_a_word_that_cannot_be_honoured_is_named(part: Any, words: str, remedy: str) -> None:
    """What the driver cannot do is refused by the constructor: the word, and what to write instead."""
    with pytest.raises(UsageError, match=remedy):
        part(f"postgresql://bob:s3cret@host/db?{words}")


def test_a_variable_that_cannot_be_honoured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a variable of libpq that the driver does not read."""
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    with pytest.raises(UsageError, match=r"PGCHANNELBINDING is set.*remove it"):
        check_dsn("postgresql://host/db")
    assert check_dsn("postgresql://host/db?channel_binding=disable").tls == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("wibble=1", "does not accept a setting.*wibble"),
        ("work_mem=lots", "does not accept a setting.*work_mem"),
        ("wal_level=logical", "does not accept a setting.*wal_level"),
        ("sslmode=no-verify", "sslmode.*verify-full"),
        ("target_session_attrs=leader", "target_session_attrs"),
        ("sslmode=require&ssl_min_protocol_version=TLSv9", "TLS version"),
        ("sslmode=require&sslnegotiation=direct&sslrootcert=/nowhere.crt", "sslrootcert '/nowhere.crt' cannot be read"),
    ],
)
async def test_a_setting_that_is_refused_later_is_named(tls: Tls, words: str, message: str) -> None:
    """What the server or the driver refuses is the caller's to mend, for reads, saves, routes and presence alike."""
    dsn = tls.dsn(words)
    async with PostgresRouter(dsn) as router:
        with pytest.raises(UsageError, match=message):
            await router.route(Event("alice", "n"), None)
    store, presence = PostgresStreamStore(dsn), PostgresPresence(dsn)
    for call in (store.head("alice"), store.save(Event("alice", "n")), presence.locate(["alice"])):
        with pytest.raises(UsageError, match=message):
            await call
    await store.aclose()
    await presence.aclose()


async def test_a_setting_that_a_pooler_refuses_is_named(pgbouncer: Bouncer) -> None:
    """PgBouncer knows few settings; its refusal names the one."""
    store = PostgresStore(f"{pgbouncer.dsn}?sslmode=disable&options=-c%20geqo%3Doff")
    with pytest.raises(UsageError, match=r"does not accept a setting.*options"):
        await store.head("alice")
    await store.aclose()


async def test_a_dsn_that_says_pooled_caches_no_statement(tls: Tls, schema: str) -> None:
    """With pgbouncer=true the store treats the server as a pooler, so no statement outlives its transaction."""
    async with PostgresStore(tls.dsn("pgbouncer=true"), schema=schema) as store:
        await store.save(Event("alice", "n"))
        assert store._db.is_pooled


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def test_the_modes_of_tls(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mode connects where libpq would, and encrypts where it would."""
    ca = tls.certificates.authority
    for words in ("", "sslmode=prefer", "sslmode=require", f"sslmode=verify-ca&sslrootcert={ca}"):
        assert await is_encrypted(tls.dsn(words)), words
    assert not await is_encrypted(tls.dsn("sslmode=disable"))
    assert await is_encrypted(tls.dsn(f"sslmode=verify-full&sslrootcert={ca}", host="localhost"))
    monkeypatch.setenv("PGSSLROOTCERT", str(ca))
    assert await is_encrypted(tls.dsn("sslmode=verify-full", host="localhost"))
    monkeypatch.delenv("PGSSLROOTCERT")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))  # where the system keeps what it trusts
    for words in ("sslrootcert=system", "sslmode=verify-full&sslrootcert=system"):
        assert await is_encrypted(tls.dsn(words, host="localhost"))
    certificate, key = tls.certificates.sign("postgres")
    for words in ("sslmode=require", "sslrootcert=system"):
        assert await is_encrypted(tls.dsn(f"{words}&sslcert={certificate}&sslkey={key}", host="localhost"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_certificate_that_is_not_trusted(tls: Tls, tmp_path: Path, host: str) -> None:
    """A server whose certificate is another's, or whose authority is not known, is refused at once, and said so."""
    other = Certificates(tmp_path).authority
    trusted = tls.certificates.authority if host == "127.0.0.1" else other  # the address is not in the certificate
    store = PostgresStore(tls.dsn(f"sslmode=verify-full&sslrootcert={trusted}", host=host), timeout=10)
    with anyio.fail_after(8):
        with pytest.raises(BackendUnavailableError, match=r"cannot be trusted.*sslrootcert") as read:
            await store.head("alice")
        with pytest.raises(PushRejectedError, match="certificate verify failed"):
            await store.save(Event("alice", "n"))
    assert isinstance(read.value.__cause__, ssl.SSLCertVerificationError)
    await store.aclose()


async def test_a_server_without_tls_where_it_is_required(postgres: Server) -> None:
    """A server that has no TLS is refused at once where the DSN requires it."""
    store = PostgresStore(f"{postgres.dsn}?sslmode=require", timeout=10)
    with anyio.fail_after(8), pytest.raises(PushRejectedError, match="rejected SSL upgrade"):
        await store.save(Event("alice", "n"))
    await store.aclose()


@pytest.mark.parametrize("word", ["sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"])
@pytest.mark.parametrize("content", [None, "not a certificate"])
async def test_a_file_that_is_to_blame_is_named(tls: Tls, tmp_path: Path, word: str, content: str | None) -> None:
    """A file that is missing, or that holds something else, is named with the word that names it."""
    certificate, _ = tls.certificates.sign("client")
    path = tmp_path / "file"
    if content:
        path.write_text(content)
        path.chmod(0o600)
    more = f"&sslcert={certificate}" if word == "sslkey" else ""
    login = "bob" if word == "passfile" else "postgres"
    store = PostgresStore(tls.dsn(f"sslmode=require&{word}={path}{more}", login), timeout=1)
    message = {"sslcert": r"sslcert .*'{path}'", "sslkey": r"sslkey '{path}'", "passfile": "passfile"}
    with pytest.raises(UsageError, match=message.get(word, "{word} '{path}'").format(word=word, path=path)):
        await store.head("alice")
    await store.aclose()


async def test_a_certificate_of_the_client_is_named_too(tls: Tls) -> None:
    """So is the client's certificate where the system's authorities are used."""
    with pytest.raises(UsageError, match="sslcert '/nowhere'"):
        await connect(check_dsn(tls.dsn("sslrootcert=system&sslcert=/nowhere")))


# -- addresses ---------------------------------------------------------------------------------------------------------


async def test_hosts_as_people_write_them(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of hosts, sockets by path and by parameter, ports of their own, and all of it from the environment."""
    port, path = tls.server.port, tls.server.directory
    encoded = quote(str(path), safe="")
    for dsn in (
        f"postgresql://postgres@127.0.0.1:1,127.0.0.1:{port}/postgres",
        f"postgresql://postgres@127.0.0.1,localhost:{port}/postgres?port={port}",
        f"postgresql://postgres@{encoded}:{port}/postgres",
        f"postgres://postgres@/postgres?host={path}&port={port}",
        f"postgresql://postgres@localhost/postgres?host={encoded}&port={port}",
        f"POSTGRESQL:///?host={path}&port={port}&user=postgres&dbname=postgres",
        f"postgresql:///postgres?user=postgres&port=1,{port}&host=127.0.0.1,127.0.0.1",
    ):
        await (await connect(check_dsn(dsn))).close()
    for name, value in {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": "postgres",
        "PGDATABASE": "postgres",
    }.items():
        monkeypatch.setenv(name, value)
    await (await connect(check_dsn("postgresql://"))).close()
    monkeypatch.setenv("PGPORT", "none")
    with pytest.raises(UsageError, match=r"PG\.\.\. environment variable"):
        await connect(check_dsn("postgresql://"))


@pytest.mark.parametrize(
    ("dsn", "hosts", "port"),
    [
        ("postgresql://[::1]:5433/d", ["::1"], 5433),
        ("postgresql://[fe80::1%25eth0]/d", ["fe80::1%eth0"], None),
        ("postgresql://u@a:1,[::1]:5,b/d", ["a", "::1", "b"], [1, 5, 5432]),
        ("postgresql://u@a,b/d", ["a", "b"], None),
        ("postgresql://u@:5433/d", None, 5433),
        ("postgresql:///d?host=[::1],a&port=5433", ["::1", "a"], 5433),
    ],
)
def test_addresses(dsn: str, hosts: list[str] | None, port: Any) -> None:
    """Hosts and ports are read as libpq reads them."""
    arguments = check_dsn(dsn).arguments
    assert (arguments.get("host"), arguments.get("port")) == (hosts, port)


async def test_every_character(tls: Tls, schema: str) -> None:
    """Every legal character of a user, a password and a database works, percent-encoded."""
    control = await asyncpg.connect(tls.dsn())
    identifier = CHARACTERS.replace(",", "").replace("=", "").encode()[-63:].decode(errors="ignore")
    name = identifier.replace('"', '""')
    await control.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{CHARACTERS.replace(chr(39), chr(39) * 2)}'")
    await control.execute(f'CREATE DATABASE "{name}" OWNER "{name}"')
    login = f"{quote(identifier, safe='')}:{quote(CHARACTERS, safe='')}"
    async with PostgresStore(tls.dsn(login=login, database=quote(identifier, safe="")), schema=schema) as store:
        assert (await store.save(Event("alice", "n"))).id
    words = f"user={quote(identifier)}&password={quote(CHARACTERS, safe='')}&dbname={quote(identifier)}"
    await (await connect(check_dsn(f"postgresql://127.0.0.1:{tls.server.port}?{words}"))).close()
    await control.execute(f'DROP DATABASE "{name}"')
    await control.execute(f'DROP ROLE "{name}"')
    await control.execute("CREATE ROLE \"a,b\" LOGIN PASSWORD 'x'")
    with pytest.raises(UsageError, match="comma"):
        await connect(check_dsn(tls.dsn(login="a%2Cb:x")))
    await control.execute('DROP ROLE "a,b"')
    await control.close()


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://bob:s3%zzcret@host/db",
        "postgresql://bob:s3%00cret@host/db",
        "postgresql://bob:s3%ffcret@host/db",
        "postgresql://bob:57/s3cret@host/db",
        "postgresql://bob:57?a=s3cret@host/db",
        "postgresql://bob:s3cret@host/db\n",
        " postgresql://bob:s3cret@host/db",
        "postgresql://bob:s3\ncret@host/db",
        "postgresql:bob:s3cret@host/db",
        "postgresql://bob@host/db?=s3cret",
        "postgresql://bob@host/db?s3cret",
        "postgresql://bob@host:99999999/db?password=s3cret",
        "postgresql://bob:s3cret@host:70000/db",
    ],
)
def test_a_malformed_dsn_shows_nothing(dsn: str) -> None:
    """What could be read in two ways is refused, and no piece of it is shown."""
    with pytest.raises(UsageError) as caught:
        check_dsn(dsn)
    printed = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.__cause__)
    assert not any(piece in printed for piece in ("s3", "cret", "57"))
    assert caught.value.__context__ is None  # which tools that report errors show, even if it is suppressed


# -- services and files of passwords -----------------------------------------------------------------------------------


async def test_services(tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service of the service file is used, whichever way it is named; one that is missing is named."""
    file = tmp_path / "services.conf"
    file.write_text(
        f"[app]\nhost=127.0.0.1\nport={tls.server.port}\nuser=postgres\ndbname=postgres\nconnect_timeout=5\n"
    )
    await (await connect(check_dsn(f"postgresql://?service=app&servicefile={file}"))).close()
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    await (await connect(check_dsn("postgresql://?service=app"))).close()
    monkeypatch.setenv("PGSERVICE", "app")
    await (await connect(check_dsn("postgresql://"))).close()
    assert check_dsn("postgresql://other").arguments["host"] == ["other"]
    with pytest.raises(UsageError, match=r"services.conf' has no such service"):
        check_dsn("postgresql://?service=another")
    file.write_text("password=s3cret\n")
    with pytest.raises(UsageError, match=r"services.conf' is malformed") as caught:
        check_dsn("postgresql://")
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    monkeypatch.delenv("PGSERVICEFILE")
    with pytest.raises(UsageError, match=r"pg_service.conf' cannot be read"):
        check_dsn("postgresql://")


async def test_a_file_of_passwords(tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password from a file is used, whichever way the file is named."""
    control = await asyncpg.connect(tls.dsn())
    await control.execute("CREATE ROLE filed LOGIN PASSWORD 's3cret'")
    path = tmp_path / "passwords"
    path.write_text(f"127.0.0.1:{tls.server.port}:*:filed:s3cret\n")
    path.chmod(0o600)
    await (await connect(check_dsn(tls.dsn(f"passfile={path}", "filed")))).close()
    monkeypatch.setenv("PGPASSFILE", str(path))
    await (await connect(check_dsn(tls.dsn("", "filed")))).close()
    monkeypatch.delenv("PGPASSFILE")
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    await (await connect(check_dsn(tls.dsn("", "filed")))).close()
    await control.execute("DROP ROLE filed")
    await control.close()


async def test_a_process_whose_user_has_no_name(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container whose user is a number only, a DSN without a user is what is to be mended."""

    def getuser() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", getuser)
    with pytest.raises(UsageError, match="names no user"):
        await connect(check_dsn(f"postgresql://127.0.0.1:{tls.server.port}/postgres"))
    await (await connect(check_dsn(tls.dsn()))).close()


async def test_gssapi_without_its_module(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that the driver misses is named, with the extra that brings it."""

    async def refuses(**_options: object) -> None:
        raise RuntimeError('missing "gssapi" package')

    monkeypatch.setattr(asyncpg, "connect", refuses)
    with pytest.raises(UsageError, match=r"asyncpg\[gssauth\]"):
        await connect(check_dsn(tls.dsn()))


async def test_a_cancelled_connect_leaves_no_connection(tls: Tls) -> None:
    """Cancelled at whatever moment, even with the connection just made, nothing stays open on the server."""
    control = await asyncpg.connect(tls.dsn())

    async def connecting() -> None:
        (await connect(check_dsn(tls.dsn("application_name=cancelled")))).terminate()

    for steps in range(0, 60, 3):
        async with anyio.create_task_group() as group:
            group.start_soon(connecting)
            for _ in range(steps):
                await anyio.sleep(0.0005)
            group.cancel_scope.cancel()

    async def are_gone() -> bool:
        return not await control.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cancelled'")

    await until(are_gone, 10)
    await control.close()


# -- secrets -----------------------------------------------------------------------------------------------------------

PASSWORD = "Xq7#Zr/9?Wv@3&Kp%5"
PIECES = [PASSWORD[start : start + 4] for start in range(len(PASSWORD) - 3)] + [quote(PASSWORD, safe="")]


def texts(error: BaseException | None) -> Iterator[str]:
    """All that an error says, and the errors that it comes from."""
    while error is not None:
        yield from (str(error), repr(error), "".join(traceback.format_exception(error)))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "trouble", ["wrong password", "no server", "no database", "no name", "bad file", "bad setting"]
)
async def test_no_text_shows_a_password(
    tls: Tls, trouble: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """Whatever fails, no message, repr, traceback, log line or warning holds a piece of the password."""
    caplog.set_level(logging.DEBUG)
    login, port = f"bob:{quote(PASSWORD, safe='')}", tls.server.port
    dsn = {
        "wrong password": tls.dsn(login=login),
        "no server": f"postgresql://{login}@127.0.0.1:1/postgres",
        "no database": tls.dsn(login=f"postgres:{quote(PASSWORD, safe='')}", database="nowhere"),
        "no name": f"postgresql://{login}@no.such.host.invalid:{port}/postgres",
        "bad file": tls.dsn("sslmode=require&sslrootcert=/nowhere", login=login),
        "bad setting": tls.dsn("wibble=1", login=f"postgres:{quote(PASSWORD, safe='')}"),
    }[trouble]
    said: list[str] = []
    for cls in PARTS:
        part: Any = cls(dsn, timeout=0.5)
        said += [repr(part), str(part), repr(part._db), repr(part._db._address), str(vars(part))]
        calls = {
            "save": lambda part=part: part.save(Event("alice", "n")),
            "head": lambda part=part: part.head("alice"),
            "read": lambda part=part: part.read("alice", "0", 1),
            "route": lambda part=part: part.route(Event("alice", "n"), None),
            "locate": lambda part=part: part.locate(["alice"]),
            "__aenter__": lambda part=part: part.__aenter__(),
        }
        for name, call in calls.items():
            if hasattr(part, name) and (cls, name) != (PostgresRouter, "__aenter__"):
                with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
                    await call()
                said += texts(caught.value)
        await part.aclose()
    async with Notifier(PostgresStreamStore(dsn, timeout=0.5)) as notifier:
        health = await notifier.check()
        assert not health.ok
        said.append(repr(health))
        await notifier._store.aclose()  # type: ignore[union-attr]
    said += [record.getMessage() + str(record.exc_text) for record in caplog.records]
    said += [str(warning.message) for warning in recwarn.list]
    assert len(said) > 20
    assert not [(piece, text) for text in said for piece in PIECES if piece in text]
