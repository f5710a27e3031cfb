import gc
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from notify.errors import UsageError
from notify.testing.faults import FaultProxy, Faults

pytestmark = pytest.mark.anyio


class Echo:
    """A server that answers each chunk with the same bytes, the end with END, BYE by leaving."""

    def __init__(self) -> None:
        self.port = 0
        self.chunks: list[bytes] = []
        self.ends: list[str] = []
        self.streams: list[SocketStream] = []

    @property
    def received(self) -> bytes:
        return b"".join(self.chunks)

    async def serve(self, stream: SocketStream) -> None:
        self.streams.append(stream)
        async with stream:
            try:
                async for chunk in stream:
                    self.chunks.append(chunk)
                    if chunk == b"BYE":
                        return
                    if chunk != b"LATER":
                        await stream.send(chunk)
                self.ends.append("eof")
                await stream.send(b"END")
            except anyio.BrokenResourceError:
                self.ends.append("reset")


@asynccontextmanager
async def echo_server(path: Path | None = None) -> AsyncIterator[Echo]:
    server = Echo()
    if path is None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        server.port = listener.extra(SocketAttribute.local_port)
    else:
        listener = await anyio.create_unix_listener(path)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[FaultProxy, Echo]]:
    with anyio.fail_after(20):
        async with echo_server() as server, FaultProxy("127.0.0.1", server.port) as proxy:
            yield proxy, server


async def connect(proxy: FaultProxy) -> SocketStream:
    return await anyio.connect_tcp(proxy.host, proxy.port)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - a socket has no event to wait for
            await anyio.sleep(0.001)


async def receive(stream: SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive()
    return data


async def ask(stream: SocketStream, request: bytes) -> bytes:
    await stream.send(request)
    return await receive(stream, len(request))


async def assert_dies_at_once(proxy: FaultProxy) -> None:
    """A reset may come before or after the client's library has set the connection up."""
    with pytest.raises((OSError, anyio.BrokenResourceError)):
        async with await connect(proxy) as client:
            await client.receive()


async def test_healthy_proxy_is_transparent() -> None:
    """Bytes, the end of the stream and what follows it pass in both directions."""
    async with proxied() as (proxy, server), await connect(proxy) as client:
        assert await ask(client, b"hello") == b"hello"
        await client.send_eof()
        assert await receive(client, 3) == b"END"
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        assert server.ends == ["eof"]
        await until(lambda: proxy.connections == 0)
        assert proxy.accepted == 1


async def test_abort_of_the_client_reaches_the_server() -> None:
    """A client that resets its connection resets the server's."""
    async with proxied() as (proxy, server):
        with socket.create_connection((proxy.host, proxy.port)) as client:
            await until(lambda: server.streams)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: server.ends == ["reset"])
        await until(lambda: proxy.connections == 0)


async def test_client_that_sends_to_a_server_that_left_is_reset() -> None:
    """The reset that a closed server answers with reaches the client."""
    async with proxied() as (proxy, _), await connect(proxy) as client:

        async def send_on() -> None:
            while True:
                await client.send(b"anybody?")

        await client.send(b"BYE")
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await send_on()
        await until(lambda: proxy.connections == 0)


async def test_delay_holds_back_one_direction() -> None:
    """A reply comes no earlier than the delay; the request was there at once."""
    async with proxied() as (proxy, server), await connect(proxy) as client:
        proxy.down = Faults(delay=0.2)
        start = anyio.current_time()
        await client.send(b"hello")
        await until(lambda: server.received == b"hello")
        assert await receive(client, 5) == b"hello"
        assert anyio.current_time() - start >= 0.2


async def test_jitter_is_that_of_the_seed() -> None:
    """The first chunk is held back by the first number of the seeded generator."""
    async with echo_server() as server, FaultProxy("127.0.0.1", server.port, seed=1) as proxy:
        proxy.up = Faults(jitter=1.0)
        async with await connect(proxy) as client:
            start = anyio.current_time()
            assert await ask(client, b"hello") == b"hello"
            assert anyio.current_time() - start >= random.Random(1).random()


async def test_healing_releases_what_is_delayed() -> None:
    """A chunk that waits for its delay goes on as soon as the delay is lifted."""
    async with proxied() as (proxy, _), await connect(proxy) as client:
        proxy.up = Faults(delay=3600)
        await client.send(b"hello")
        proxy.heal()
        assert await receive(client, 5) == b"hello"
        assert proxy.up == proxy.down == Faults()


async def test_blackhole_swallows_and_keeps_both_sides_open() -> None:
    """Bytes vanish while both sockets stay open; what is sent after healing passes."""
    async with proxied() as (proxy, server), await connect(proxy) as client:
        assert await ask(client, b"one") == b"one"
        proxy.up = Faults(blackhole=True)
        await client.send(b"two")
        await until(lambda: proxy.swallowed == 3)
        await server.streams[0].send(b"news")
        assert await receive(client, 4) == b"news"  # the other direction still works
        proxy.up, proxy.down = Faults(), Faults(blackhole=True)
        await client.send(b"three")
        await until(lambda: proxy.swallowed == 8)
        proxy.heal()
        assert await ask(client, b"four") == b"four"
        assert server.received == b"onethreefour"
        assert server.ends == []
        assert proxy.connections == 1


async def test_blackhole_hides_the_end_of_a_connection() -> None:
    """A client that goes away inside a black hole leaves the server half-open until it is lifted."""
    async with proxied() as (proxy, server):
        client = await connect(proxy)
        assert await ask(client, b"one") == b"one"
        proxy.up = Faults(blackhole=True)
        await client.aclose()
        await server.streams[0].send(b"is anybody there?")
        await server.streams[0].send(b"hello?")
        await anyio.sleep(0.05)  # time in which a leak would show
        assert server.ends == []
        assert proxy.connections == 1
        proxy.heal()
        await until(lambda: server.ends)
        await until(lambda: proxy.connections == 0)


@pytest.mark.parametrize("faults", [Faults(blackhole=True), Faults(paused=True)], ids=["blackhole", "paused"])
async def test_closed_direction_hides_a_reset(faults: Faults) -> None:
    """A client that resets its connection is not missed by the server before the direction is open again."""
    async with proxied() as (proxy, server):
        with socket.create_connection((proxy.host, proxy.port)) as client:
            await until(lambda: server.streams)
            proxy.up = faults
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await anyio.sleep(0.05)  # time in which a leak would show
        assert server.ends == []
        proxy.heal()
        await until(lambda: server.ends == ["reset"])


async def test_pause_is_back_pressure_without_loss() -> None:
    """While nothing is read the sender gets stuck; afterwards everything arrives."""
    data = random.Random(0).randbytes(16 << 20)
    async with proxied() as (proxy, server), await connect(proxy) as client, anyio.create_task_group() as tasks:
        assert await ask(client, b"hello") == b"hello"
        server.chunks.clear()
        proxy.up = Faults(paused=True)
        proxy.down = Faults(blackhole=True)  # nobody here reads the echo
        sent = anyio.Event()

        async def send() -> None:
            await client.send(data)
            sent.set()

        tasks.start_soon(send)
        with anyio.move_on_after(0.2):
            await sent.wait()
        assert not sent.is_set()
        assert server.received == b""
        proxy.up = Faults()
        await sent.wait()
        await until(lambda: sum(map(len, server.chunks)) == len(data))
        assert server.received == data


async def test_reader_that_does_not_read_is_back_pressure_too() -> None:
    """The proxy buffers next to nothing: a sender waits for the reader, who then gets everything."""
    data = random.Random(0).randbytes(16 << 20)
    async with proxied() as (proxy, server), await connect(proxy) as client, anyio.create_task_group() as tasks:
        assert await ask(client, b"hello") == b"hello"
        sent = anyio.Event()

        async def send() -> None:
            await server.streams[0].send(data)
            sent.set()

        tasks.start_soon(send)
        with anyio.move_on_after(0.2):
            await sent.wait()
        assert not sent.is_set()
        assert await receive(client, len(data)) == data


async def test_pause_holds_the_rest_of_a_chunk() -> None:
    """What was read before a pause, but not sent yet, waits with the rest."""
    async with proxied() as (proxy, server), await connect(proxy) as client:
        proxy.up = Faults(bandwidth=2)
        await client.send(b"two")
        await until(lambda: server.received)
        proxy.up = Faults(paused=True)
        await anyio.sleep(0.05)  # time in which a leak would show
        assert server.received == b"t"
        proxy.heal()
        assert await receive(client, 3) == b"two"


async def test_slices_reach_the_server_in_small_pieces() -> None:
    """A chunk arrives in many pieces, complete."""
    data = random.Random(0).randbytes(200)
    async with proxied() as (proxy, server), await connect(proxy) as client:
        proxy.up = Faults(slice=1)
        assert await ask(client, data) == data
        assert len(server.chunks) > 20


async def test_bandwidth_is_kept_across_chunks() -> None:
    """20 kB at 100 kB/s take 0.2 seconds, less one piece, however they are sent."""
    async with proxied() as (proxy, _), await connect(proxy) as client:
        proxy.up = Faults(bandwidth=100_000)
        start = anyio.current_time()
        for _ in range(10):
            assert await ask(client, bytes(2000)) == bytes(2000)
        assert anyio.current_time() - start >= 0.17


async def test_lowest_bandwidth_moves_single_bytes() -> None:
    """Below one byte for each beat, bytes go one by one."""
    async with proxied() as (proxy, server), await connect(proxy) as client:
        proxy.up = Faults(bandwidth=20)
        assert await ask(client, b"abc") == b"abc"
        assert server.chunks == [b"a", b"b", b"c"]


@pytest.mark.parametrize("seed", range(4))
async def test_spoiled_bytes_stay_the_same_bytes(seed: int) -> None:
    """Whatever delays, slices, pauses and limits come and go, the echo is what was sent."""
    rng = random.Random(seed)
    data = rng.randbytes(30_000)

    def some_faults() -> Faults:
        return rng.choice(
            [
                Faults(delay=0.002, jitter=0.002),
                Faults(slice=rng.randint(1, 50)),
                Faults(bandwidth=rng.choice([5_000, 200_000])),
                Faults(paused=True),
                Faults(),
            ]
        )

    async with proxied() as (proxy, server), await connect(proxy) as client, anyio.create_task_group() as tasks:

        async def send() -> None:
            rest = data
            while rest:
                size = rng.randint(1, 2000)
                await client.send(rest[:size])
                rest = rest[size:]

        async def spoil() -> None:
            for _ in range(100):
                proxy.up, proxy.down = some_faults(), some_faults()
                await anyio.sleep(0.002)
            proxy.heal()

        tasks.start_soon(send)
        tasks.start_soon(spoil)
        assert await receive(client, len(data)) == data
        assert server.received == data


async def test_reset_kills_both_sides_of_every_connection() -> None:
    """Client and server see a reset, not an end; the next connection is fine."""
    async with proxied() as (proxy, server):
        clients = [await connect(proxy) for _ in range(3)]
        for client in clients:
            assert await ask(client, b"hello") == b"hello"
        await proxy.reset()
        assert proxy.connections == 0
        for client in clients:
            with pytest.raises(anyio.BrokenResourceError):
                await client.receive()
            await client.aclose()
        await until(lambda: server.ends == ["reset"] * 3)
        async with await connect(proxy) as client:
            assert await ask(client, b"again") == b"again"
        assert proxy.accepted == 4


async def test_new_connections_are_reset_before_the_server_hears_of_them() -> None:
    """Only new connections are reset, and only while told."""
    async with proxied() as (proxy, server), await connect(proxy) as old:
        assert await ask(old, b"hello") == b"hello"
        proxy.reset_new = True
        await assert_dies_at_once(proxy)
        assert len(server.streams) == 1
        assert await ask(old, b"still") == b"still"
        proxy.heal()
        async with await connect(proxy) as client:
            assert await ask(client, b"again") == b"again"


async def test_refused_connections_come_back_on_the_same_port() -> None:
    """New connections are refused until the proxy is healed; open ones go on."""
    async with proxied() as (proxy, _), await connect(proxy) as old:
        assert await ask(old, b"hello") == b"hello"
        await proxy.refuse()
        await proxy.refuse()
        with pytest.raises(OSError, match=r"refused|connections? attempts? failed"):
            await connect(proxy)
        assert await ask(old, b"still") == b"still"
        proxy.heal()
        async with await connect(proxy) as client:
            assert await ask(client, b"again") == b"again"


async def test_taken_port_is_reported() -> None:
    """Healing after a refusal fails if the port went to somebody else, and works once it is free."""
    async with proxied() as (proxy, _):
        await proxy.refuse()
        with socket.create_server((proxy.host, proxy.port)), pytest.raises(OSError, match="in use"):
            proxy.heal()
        proxy.heal()
        async with await connect(proxy) as client:
            assert await ask(client, b"again") == b"again"


async def test_half_closed_up_ends_the_requests_only() -> None:
    """The server sees the end of the requests, its answer still arrives, and later requests vanish."""
    async with proxied() as (proxy, server), await connect(proxy) as client:
        assert await ask(client, b"hello") == b"hello"
        proxy.down = Faults(paused=True)  # keeps the server's own end from arriving
        proxy.half_close("up")
        await until(lambda: server.ends == ["eof"])
        await client.send(b"lost")
        await until(lambda: proxy.swallowed == 4)
        proxy.down = Faults()
        assert await receive(client, 3) == b"END"
        assert server.received == b"hello"


async def test_half_closed_down_ends_the_replies_only() -> None:
    """The client sees the end of the replies, while its requests still arrive."""
    async with proxied() as (proxy, server), await connect(proxy) as client:
        assert await ask(client, b"hello") == b"hello"
        proxy.half_close("down")
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        await client.send(b" there")
        await until(lambda: server.received == b"hello there")
        await until(lambda: proxy.swallowed == 6)


async def test_lost_reply_comes_after_the_request_was_served() -> None:
    """The server gets the request, the client a reset instead of the reply, and the next attempt works."""
    async with proxied() as (proxy, server):
        proxy.drop_reply()
        async with await connect(proxy) as client:
            with pytest.raises(anyio.BrokenResourceError):
                await ask(client, b"once")
        assert server.received == b"once"
        assert proxy.lost_replies == 1
        await until(lambda: server.ends == ["reset"])
        async with await connect(proxy) as client:
            assert await ask(client, b"twice") == b"twice"


async def test_lost_replies_are_counted_over_connections() -> None:
    """From the second on, two replies are lost, whichever connection asks."""
    async with proxied() as (proxy, _):
        outcomes: list[bool] = []
        proxy.drop_reply(2, times=2)
        for _ in range(5):
            async with await connect(proxy) as client:
                try:
                    outcomes.append(await ask(client, b"x") == b"x")
                except anyio.BrokenResourceError:
                    outcomes.append(False)
        assert outcomes == [True, False, False, True, True]


async def test_lost_reply_of_one_kind_of_request() -> None:
    """Only replies to requests with the given bytes count, and only those from now on."""
    async with proxied() as (proxy, server), await connect(proxy) as client:
        assert await ask(client, b"ADD 0") == b"ADD 0"
        proxy.drop_reply(request=b"ADD")
        assert await ask(client, b"GET 1") == b"GET 1"
        await server.streams[0].send(b"news")
        assert await receive(client, 4) == b"news"
        with pytest.raises(anyio.BrokenResourceError):
            await ask(client, b"ADD 2")
        assert server.received == b"ADD 0GET 1ADD 2"


async def test_reply_to_an_earlier_request_is_not_lost() -> None:
    """What was asked before `drop_reply` is answered; what is asked after it is not."""
    async with proxied() as (proxy, server), await connect(proxy) as client:
        await client.send(b"LATER")
        await until(lambda: server.received == b"LATER")
        proxy.drop_reply()
        await server.streams[0].send(b"reply")
        assert await receive(client, 5) == b"reply"
        with pytest.raises(anyio.BrokenResourceError):
            await ask(client, b"after")


async def test_healing_spares_the_replies_that_were_doomed() -> None:
    """After heal no reply is lost."""
    async with proxied() as (proxy, _), await connect(proxy) as client:
        proxy.drop_reply(times=9)
        proxy.heal()
        assert await ask(client, b"hello") == b"hello"
        assert proxy.lost_replies == 0


async def test_unreachable_server_resets_the_client() -> None:
    """With nothing behind the proxy a connection ends at once, and the proxy goes on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with FaultProxy("127.0.0.1", port) as proxy:
        for _ in range(2):
            await assert_dies_at_once(proxy)


async def test_reset_reaches_a_connection_that_is_not_made_yet() -> None:
    """A server that does not answer the connection keeps neither reset nor half_close waiting."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        async with FaultProxy(*full.getsockname()) as proxy, await connect(proxy) as client:
            await until(lambda: proxy.connections == 1)
            await anyio.wait_all_tasks_blocked()
            proxy.half_close("up")
            with anyio.fail_after(20):
                await proxy.reset()
            with pytest.raises(anyio.BrokenResourceError):
                await client.receive()
        for one in crowd:
            one.close()


async def test_server_behind_a_unix_socket(tmp_path: Path) -> None:
    """A host without a port is the path of a Unix socket."""
    async with echo_server(tmp_path / "s"), FaultProxy(str(tmp_path / "s")) as proxy:
        async with await connect(proxy) as client:
            assert await ask(client, b"hello") == b"hello"
            await proxy.reset()
            with pytest.raises(anyio.BrokenResourceError):
                await client.receive()


@pytest.mark.parametrize("faults", [Faults(), Faults(blackhole=True), Faults(paused=True), Faults(delay=3600)], ids=str)
async def test_leaving_is_prompt_and_leaves_nothing(faults: Faults) -> None:
    """Whatever is stuck, leaving takes no time and leaves no socket and no connection."""
    async with echo_server() as server:
        async with FaultProxy("127.0.0.1", server.port) as proxy:
            client = await connect(proxy)
            assert await ask(client, b"hello") == b"hello"
            proxy.up = proxy.down = faults
            await client.send(b"stuck")
            await anyio.wait_all_tasks_blocked()
            start = anyio.current_time()
        assert anyio.current_time() - start < 5
        assert proxy.connections == 0
        await until(lambda: server.ends)
        with pytest.raises(OSError, match=r"refused|connections? attempts? failed"):
            await connect(proxy)
        await client.aclose()
    gc.collect()  # an open socket would warn here


async def test_exceptions_leave_the_proxy_as_they_are() -> None:
    """What the block raises comes out itself, not in a group; a cancelled block just ends."""
    async with echo_server() as server:
        with pytest.raises(KeyError, match="mine"):
            async with FaultProxy("127.0.0.1", server.port) as proxy, await connect(proxy):
                raise KeyError("mine")
        with anyio.CancelScope() as scope:
            async with FaultProxy("127.0.0.1", server.port) as proxy, await connect(proxy):
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert proxy.connections == 0


@pytest.mark.parametrize("wrong", [{"delay": -1}, {"jitter": -1}, {"slice": 0}, {"bandwidth": 0}])
def test_senseless_faults_are_refused(wrong: dict[str, float]) -> None:
    """A number that could only hang or do nothing is an error at once."""
    with pytest.raises(UsageError):
        Faults(**wrong)  # type: ignore[arg-type]
