"""`HttpPool` over real sockets: what it says of an answer, and of each way to get none."""

from __future__ import annotations

import ssl
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc
import anyio.streams.tls
import httpcore2
import pytest

from notify.http import HttpAnswer, HttpClient, HttpError, HttpPool
from notify.http._connections import Exchange
from notify.http._connections import failure as failure_of

pytestmark = pytest.mark.anyio

Handler = Callable[[anyio.abc.ByteStream], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A server whose connections are handled so, and its URL."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, handler)
            yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/secret?token=hush"
            tasks.cancel_scope.cancel()


def answering(reply: bytes, *, hang: bool = False) -> Handler:
    """Read something, send this, and close or wait."""

    async def handle(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(reply)
            if hang:
                await anyio.sleep_forever()

    return handle


async def post(url: str, timeout: float = 10.0) -> HttpAnswer:
    async with HttpPool(allow_private=True) as pool:
        return await pool.request("POST", url, headers={"X-Token": "hush"}, content=b"{}", timeout=timeout)


async def failure(url: str, timeout: float = 10.0) -> HttpError:
    with pytest.raises(HttpError) as caught:
        await post(url, timeout)
    assert "hush" not in f"{caught.value}{caught.value!r}"
    return caught.value


async def test_an_answer_has_status_headers_and_body() -> None:
    """Header names are in lower case; the repr shows neither headers nor body."""
    reply = b"HTTP/1.1 201 Created\r\nLocation: /m/1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with serving(answering(reply)) as url:
        answer = await post(url)
    assert (answer.status, answer.headers["location"], answer.body, answer.is_cut) == (201, "/m/1", b"abc", False)
    assert "/m/1" not in repr(answer)
    assert isinstance(HttpPool(), HttpClient)


@pytest.mark.parametrize("hang", [False, True])
async def test_the_status_counts_when_the_body_breaks_off(hang: bool) -> None:
    """Once the status has arrived it is the answer, though the connection is lost or the time is over."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nab"
    async with serving(answering(reply, hang=hang)) as url:
        for timeout in (0.5, 5.0, 50.0) if hang else (50.0,):  # on a busy machine, the status takes longer
            with suppress(HttpError):
                answer = await post(url, timeout)
                break
    assert (answer.status, answer.is_cut) == (200, True)


def pouring(start: bytes, rest: bytes, pause: float = 0.0) -> Handler:
    """Read something, send the start, and the rest again and again until the client goes away."""

    async def handle(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            with suppress(anyio.BrokenResourceError):
                await stream.send(start)
                while True:
                    await stream.send(rest)
                    await anyio.sleep(pause)

    return handle


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", b"x" * 1000),
    ],
)
async def test_a_body_without_end(start: bytes, rest: bytes) -> None:
    """At most 64 KiB of it are read, and the connection is closed."""
    async with serving(pouring(start, rest)) as url:
        answer = await post(url, 60.0)
    assert (answer.status, answer.is_cut) == (200, False)
    assert len(answer.body) <= 65_536
    assert not answer.body.strip(b"x")


async def test_headers_without_end() -> None:
    """They are not an answer."""
    async with serving(pouring(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000)) as url:
        error = await failure(url, 60.0)
    assert (error.is_sent, error.code) == (True, "broken")


async def test_an_answer_that_drips() -> None:
    """The time is that of the whole answer, however often a byte of it arrives."""
    async with serving(pouring(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.02)) as url:
        assert (await failure(url, 0.3)).code == "timeout"
    async with serving(pouring(b"HTTP/1.1 200 OK\r\n\r\n", b"x", 0.02)) as url:
        for timeout in (0.3, 3.0, 30.0):  # until the status has arrived: on a busy machine that takes a longer time
            with suppress(HttpError):
                answer = await post(url, timeout)
                break
    assert (answer.status, answer.is_cut) == (200, True)


@pytest.mark.parametrize("reply", [b"", b"garbage\r\n\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01" * 50])
async def test_what_is_not_an_answer_comes_after_sending(reply: bytes) -> None:
    """A connection that is closed, or speaks something else, says nothing about what became of the request."""
    async with serving(answering(reply)) as url:
        error = await failure(url)
    assert (error.is_sent, error.code) == (True, "broken")


async def test_no_answer_in_time_comes_after_sending() -> None:
    """A server that takes the request and is silent leaves it unknown."""
    async with serving(answering(b"HTTP/1.1 200", hang=True)) as url:
        for timeout in (0.3, 3.0, 30.0):  # on a busy machine, sending takes longer
            error = await failure(url, timeout)
            if error.is_sent:
                break
    assert (error.is_sent, error.code) == (True, "timeout")


async def test_a_refused_connection_comes_before_sending() -> None:
    """Where nothing listens, certainly nothing was sent."""
    async with serving(answering(b"")) as url:
        pass
    error = await failure(url)
    assert (error.is_sent, error.code) == (False, "connect")


async def test_a_request_that_is_only_half_sent() -> None:
    """The first bytes are out, so it is not certain what became of it."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"  # accepts, and never reads
        async with HttpPool(allow_private=True) as pool:
            for timeout in (0.3, 3.0, 30.0):
                with pytest.raises(HttpError) as caught:
                    await pool.request("POST", url, headers={}, content=bytes(50_000_000), timeout=timeout)
                if caught.value.is_sent:
                    break
    assert (caught.value.is_sent, caught.value.code) == (True, "timeout")


async def test_a_handshake_without_end_comes_before_sending() -> None:
    """Bytes of TLS are no bytes of the request."""

    async def silent(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    async with serving(silent) as url:
        error = await failure(url.replace("http:", "https:"), 0.3)
    assert (error.is_sent, error.code) == (False, "timeout")


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    """It has a code of its own, since the settings of one side are wrong."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    await anyio.run_process([*command, "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def handshake(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                await anyio.streams.tls.TLSStream.wrap(stream, server_side=True, ssl_context=context)
            except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream):
                return

    async with serving(handshake) as url:
        error = await failure(url.replace("http:", "https:"))
    assert (error.is_sent, error.code) == (False, "tls")


async def test_private_addresses_are_refused() -> None:
    """Unless that is allowed, nothing is sent to an address that is not public."""
    async with HttpPool() as pool:
        with pytest.raises(HttpError, match="not public") as caught:
            await pool.request("POST", "http://127.0.0.1:9/", headers={}, timeout=5)
    assert (caught.value.is_sent, caught.value.code) == (False, "address")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://a/",
        "http://",
        "https://[",
        "http://a b/",
        "http://a/\r\nX: y",
        "http://ä/",
        "http://a:x/",
        "\ud800",
    ],
)
async def test_a_malformed_url(url: str) -> None:
    """It is refused before anything is sent."""
    error = await failure(url)
    assert (error.is_sent, error.code) == (False, "address")


@pytest.mark.parametrize(
    "headers", [{"X-Token": "hush\r\nX: y"}, {"X Y": "hush"}, {"X-Token": "hush\u20ac"}, {"ä": "hush"}]
)
async def test_malformed_headers(headers: dict[str, str]) -> None:
    """They are refused before a byte is sent, which the error says without quoting them; the pool remains usable."""
    received: list[bytes] = []

    async def keep(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream):
                received.append(await stream.receive())
                await stream.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with serving(keep) as url, HttpPool(allow_private=True) as pool:
        with pytest.raises(HttpError) as caught:
            await pool.request("POST", url, headers=headers, timeout=60)
        assert (caught.value.is_sent, caught.value.code) == (False, "request")
        assert "hush" not in "".join(traceback.format_exception(caught.value))
        assert (await pool.request("POST", url, headers={}, timeout=60)).status == 204
    assert len(received) == 1


async def test_cancelling_leaves_the_pool_usable() -> None:
    """A cancelled request takes no connection of the pool with it."""
    replies = [b"", b"HTTP/1.1 204 No Content\r\n\r\n"]
    reached = anyio.Event()

    async def first_hangs(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            reply = replies.pop(0)
            reached.set()
            if not reply:
                await anyio.sleep_forever()
            await stream.send(reply)

    async with serving(first_hangs) as url, HttpPool(allow_private=True) as pool:
        async with anyio.create_task_group() as tasks:

            async def hang() -> None:
                await pool.request("POST", url, headers={}, timeout=60)

            tasks.start_soon(hang)
            await reached.wait()
            tasks.cancel_scope.cancel()
        assert (await pool.request("POST", url, headers={}, timeout=30)).status == 204


async def test_without_idle_time_each_request_has_its_connection() -> None:
    """`idle=0` opens a connection for each request."""
    connections = 0

    async def counted(stream: anyio.abc.ByteStream) -> None:
        nonlocal connections
        connections += 1
        async with stream:
            try:
                while await stream.receive():
                    await stream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    for idle, expected in ((30.0, 1), (0.0, 3)):
        connections = 0
        async with serving(counted) as url, HttpPool(allow_private=True, idle=idle) as pool:
            for _ in range(3):
                await pool.request("POST", url, headers={}, timeout=30)
        assert connections == expected


def answer(**headers: str) -> HttpAnswer:
    return HttpAnswer(503, {name.replace("_", "-"): text for name, text in headers.items()})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "120"}, 120.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": "9999999999"}, 7 * 86_400.0),
        ({"retry_after": "Thu, 01 Jan 1970 00:00:10 GMT"}, 6.0),
        ({"retry_after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry_after": "Thu, 01 Jan 1970 00:00:10 GMT", "date": "Thu, 01 Jan 1970 00:00:08 GMT"}, 2.0),
        ({"retry_after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 7 * 86_400.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float) -> None:
    """Seconds or a date, by the clock of the server where it says its time; never more than a week."""
    assert answer(**headers).retry_after(4.0) == seconds


@pytest.mark.parametrize("text", ["soon", "-5", "1.5.2", "9" * 30, "", "Wed, 99 Foo 2026", "\u0661"])
def test_a_retry_after_that_is_malformed_is_ignored(text: str) -> None:
    """Then it is as if it were absent."""
    assert answer(retry_after=text).retry_after(0.0) is None
    assert answer().retry_after(0.0) is None


def test_the_extra_that_is_missing_is_named() -> None:
    """Without httpcore2 a pool cannot be made, and says what to install; the names can be imported."""
    script = (
        "import sys; sys.modules['httpcore2'] = None\n"
        "from notify.http import HttpPool\n"
        "try: HttpPool()\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'notify-streams[http]'" in done.stdout


def test_a_connection_that_the_system_gives_up(anyio_backend: str) -> None:
    """After minutes without an answer to the first packet: nothing was sent."""
    error = failure_of(httpcore2.ConnectTimeout("timed out"), Exchange())
    assert (error.code, error.is_sent, str(error)) == ("timeout", False, "timed out")
