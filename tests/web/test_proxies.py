"""The configuration of nginx from docs/howto/proxies.md, in front of real servers."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.parts import until
from tests.web.clients import RawClient, Socket, get
from tests.web.servers import WebServer, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

PAGE = (Path(__file__).parent.parent.parent / "docs" / "howto" / "proxies.md").read_text(encoding="utf-8")
CONFIGURATION = re.search(r"```nginx\n(.*?)```", PAGE, re.DOTALL)
APP = "tests.web.apps.plain:app"


def server(directory: Path, **options: Any) -> WebServer:
    env = {"TEST_STORE": f"sqlite:///{directory}/events.db", "TEST_OPTIONS": json.dumps(options)}
    return WebServer("uvicorn", APP, directory, env=env)


@contextmanager
def nginx(directory: Path, *ports: int, further: str = "", **changes: str) -> Iterator[int]:
    """Run nginx with the page's configuration, its upstream replaced; `changes` are other values of directives."""
    assert CONFIGURATION is not None
    port = free_port()
    text = CONFIGURATION[1].replace("listen 80;", f"listen 127.0.0.1:{port}; {further}")
    text = text.replace(
        "server 127.0.0.1:8000;", " ".join(f"server 127.0.0.1:{each} fail_timeout=1s;" for each in ports)
    )
    for name, value in changes.items():
        text, found = re.subn(rf"{name} [^;]*;", f"{name} {value};", text)
        assert found
    paths = " ".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = directory / "nginx.conf"
    path.write_text(
        f"user root; worker_processes 1; pid {directory}/nginx.pid; daemon off; error_log {directory}/nginx.log;\n"
        f"events {{}}\nhttp {{ access_log off; {paths}\n{text}\n}}\n"
    )
    process = subprocess.Popen(["nginx", "-p", str(directory), "-c", str(path), "-e", f"{directory}/nginx.log"])
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


async def accepts(port: int) -> None:
    async def has_accepted() -> bool:
        try:
            await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
        except OSError:
            return False
        return True

    await until(has_accepted)


async def pushed(port: int, **query: Any) -> None:
    await get(port, "/inside/push?user=alice&" + "&".join(f"{name}={value}" for name, value in query.items()))


async def open_streams(port: int) -> int:
    return int((await get(port, "/inside"))["streams"])


async def test_events_pass_one_by_one(tmp_path: Path, anyio_backend: str) -> None:
    """With `proxy_buffering` on, as it is by default, each event arrives before the next is pushed."""
    with server(tmp_path) as upstream, nginx(tmp_path, upstream.port) as port:
        await accepts(port)
        async with RawClient(port, "/notify/stream?user=alice") as client:
            await client.read_until(b"notify.sync")
            for number in range(3):
                await pushed(upstream.port, first=number)
                await client.read_until(f'"n":{number}'.encode(), 2.0)
            client.leave()
        await until(lambda: _is(open_streams(upstream.port), 0), 2.0)


async def _is(found: Any, expected: Any) -> bool:
    return bool(await found == expected)


async def test_compressed_events_pass_one_by_one(tmp_path: Path, anyio_backend: str) -> None:
    """A proxy that compresses event streams sends each one on at once, because it is told not to buffer."""
    compressing = "gzip on; gzip_min_length 0; gzip_proxied any; gzip_types text/event-stream;"
    with server(tmp_path) as upstream, nginx(tmp_path, upstream.port, further=compressing) as port:
        await accepts(port)
        headers = {"accept-encoding": "gzip"}
        async with RawClient(port, "/notify/stream?user=alice", headers) as client:
            decompressor, text, done = zlib.decompressobj(31), b"", 0
            for expected in (b"notify.sync", b'"n":0', b'"n":1'):
                with anyio.fail_after(3.0):
                    while expected not in text:
                        assert await client.read()
                        text += decompressor.decompress(bytes(client.body[done:]))
                        done = len(client.body)
                await pushed(upstream.port, first=text.count(b'"n":'))
            assert client.headers["content-encoding"] == "gzip"


async def test_a_proxy_that_buffers_shows_nothing(tmp_path: Path, anyio_backend: str) -> None:
    """Without the header, the compressor keeps everything: what the page says how to find, and the test above tests."""
    compressing = "gzip on; gzip_min_length 0; gzip_proxied any; gzip_types text/event-stream;"
    ignoring = f"{compressing} proxy_ignore_headers X-Accel-Buffering;"
    with server(tmp_path) as upstream, nginx(tmp_path, upstream.port, further=ignoring) as port:
        await accepts(port)
        async with RawClient(port, "/notify/stream?user=alice", {"accept-encoding": "gzip"}) as client:
            await until(lambda: _is(open_streams(upstream.port), 1))
            with anyio.move_on_after(1.0) as scope:
                while not client.body:
                    await client.read()
            assert scope.cancelled_caught


async def test_heartbeats_keep_a_connection_that_is_cut_without(tmp_path: Path, anyio_backend: str) -> None:
    """An idle limit of two seconds ends a stream that is silent for longer, and not one with a heartbeat below it."""
    for heartbeat, survives in ((0.3, True), (30.0, False)):
        with server(tmp_path, heartbeat=heartbeat) as upstream:
            with nginx(tmp_path, upstream.port, proxy_read_timeout="2s") as port:
                await accepts(port)
                async with RawClient(port, "/notify/stream?user=alice") as client:
                    await client.read_until(b"notify.sync")
                    began = time.monotonic()
                    with anyio.move_on_after(4.0):
                        await client.read_all()
                    assert (client.closed, time.monotonic() - began > 3.9) == (not survives, survives)


async def test_a_websocket_passes(tmp_path: Path, anyio_backend: str) -> None:
    """The upgrade is passed on, and both sides talk."""
    with server(tmp_path) as upstream, nginx(tmp_path, upstream.port) as port:
        await accepts(port)
        client = await Socket.open(port, "/notify/ws?user=alice")
        await client.read_until("notify.sync")
        await pushed(upstream.port)
        await client.read_until("message")
        await client.aclose()
        assert client.messages[0]["payload"]["n"] == 0


async def test_a_client_that_stops_reading_is_closed(tmp_path: Path, anyio_backend: str) -> None:
    """nginx closes its connection after `send_timeout`, and the application sees that it has left."""
    with server(tmp_path) as upstream, nginx(tmp_path, upstream.port, send_timeout="1s") as port:
        await accepts(port)
        client = RawClient(port, "/notify/stream?user=alice")
        await client.open(receive_buffer=4096)
        await client.read_until(b"notify.sync")
        await pushed(upstream.port, count=300, size=40_000)
        await until(lambda: _is(open_streams(upstream.port), 0), 5.0)
        with pytest.raises((AssertionError, ConnectionError)):
            await client.read_until(b'"n":299')
        client.leave()


async def test_a_rolling_deploy(tmp_path: Path, anyio_backend: str) -> None:
    """Two instances: one ends, its clients get a complete response, and go on at the other without a loss."""
    with server(tmp_path) as first, server(tmp_path) as second, nginx(tmp_path, first.port, second.port) as port:
        await accepts(port)
        clients = [await RawClient(port, "/notify/stream?user=alice").open() for _ in range(4)]
        for client in clients:
            await client.read_until(b"notify.sync")
        await pushed(second.port, count=5)
        for client in clients:
            await client.read_until(b'"n":4')
        assert await open_streams(first.port) == 2
        assert await anyio.to_thread.run_sync(first.stop) < 5.0
        await pushed(second.port, first=5, count=5)
        seen = {4: 0, 9: 0}
        for client in clients:
            if await client_ended(client):
                assert (client.complete, client.frames[-1].json["reason"]) == (True, "shutdown")
                again = RawClient(port, f"/notify/stream?user=alice&last_id={client.last_id}")
                await again.open()
                await again.read_until(b"notify.sync")
                assert [message["payload"]["n"] for message in again.messages] == [5, 6, 7, 8, 9]
                again.leave()
                seen[4] += 1
            else:
                assert [message["payload"]["n"] for message in client.messages][:9] == [*range(9)]
                seen[9] += 1
            client.leave()
        assert seen == {4: 2, 9: 2}


async def client_ended(client: RawClient) -> bool:
    """Read until the stream has ended or has got the last event."""
    with anyio.fail_after(5.0):
        while b'"n":9' not in client.body and not client.complete:
            await client.read()
    return client.complete


async def test_under_a_prefix_that_is_removed(tmp_path: Path, anyio_backend: str) -> None:
    """`proxy_pass` with a path at its end shows the application shorter paths, which it does not mind."""
    with server(tmp_path) as upstream, nginx(tmp_path, upstream.port, proxy_pass="http://application/") as port:
        await accepts(port)
        async with RawClient(port, "/notify/stream?user=alice") as client:
            await client.read_until(b"notify.sync")
            assert client.headers["content-type"] == "text/event-stream"
