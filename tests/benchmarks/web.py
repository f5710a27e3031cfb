"""Server-sent events and WebSocket: connections, memory, latency, broadcasts, replays.

The limit is a bare ASGI application with an `asyncio.Queue` for each client and a task that watches for its disconnect,
under the same uvicorn with uvloop. Server and load client are processes of their own, and the contenders take turns.
`CONNECTIONS=5000` sets how many connections there are, 1,000 by default.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.servers import redis

from . import web_paint, web_steps
from .harness import ROUNDS, Bar, Row, Spread, progress
from .web_process import Process

CONNECTIONS = int(os.environ.get("CONNECTIONS", "1000"))
WARM_UP = 100
WAVES = 5
"""Waves of connections in one process, after a first one that does not count; those of the last wave stay open."""

RATE = 1000
LIVE = {"sse": 6 * RATE, "ws": 3 * RATE, "redis": 3 * RATE}
"""Events; the more there are, the steadier p99 is, which is judged for server-sent events alone."""

BROADCASTS = 20
PAUSE = 50e-6
"""Seconds between two broadcasts for each connection, so that each of them is a broadcast of its own."""

BEHIND = 100
RESUMED = 1000
RESUMED_BAR = 50_000

STORM = 10_000
"""Clients that come back at the same moment, as after a restart."""

LEAK = STORM // 100
"""The number of objects left by a storm from which on they count as a leak."""

MISSED = 3

Figures = dict[str, float]


@contextmanager
def processes(kind: str, *redis_urls: str) -> Iterator[tuple[list[Process], list[int], Process]]:
    """Run a server, or one for each URL of Redis, and a load client."""
    servers = [Process("web_server", kind, *urls) for urls in ([url] for url in redis_urls)] or [
        Process("web_server", kind)
    ]
    client = Process("web_client")
    try:
        yield servers, [server.answer()["port"] for server in servers], client
    finally:
        for process in [client, *servers]:
            process.stop()


def path_of(kind: str, transport: str) -> str:
    """Return where a contender serves a transport."""
    return ("/ws" if transport == "ws" else "/stream") + "?user={user}" if kind == "ours" else "/?user={user}"


def one_server(kind: str, transport: str) -> Figures:
    """Connect in waves, push to random users of the last one, broadcast to them.

    The first wave of a process is slower and differs more than the later ones: code, pools of memory and caches are
    new. So it does not count, and of the others the median does. The memory is that of the first wave, since later ones
    reuse what it has left.
    """
    with processes(kind) as ((server,), (port,), client):
        where = {"port": port, "path": path_of(kind, transport), "transport": transport}
        client.ask("connect", users=WARM_UP, **where)
        client.ask("close")
        before = server.ask("memory")["bytes"]
        client.ask("connect", users=CONNECTIONS, **where)
        size = (server.ask("memory")["bytes"] - before) / CONNECTIONS
        waves = []
        for _ in range(WAVES):
            client.ask("close")
            server.ask("deserted")
            spent = server.ask("cpu")["seconds"]
            connected = client.ask("connect", users=CONNECTIONS, **where)
            waves.append((connected["seconds"], server.ask("cpu")["seconds"] - spent))
        seconds, connecting = (statistics.median(figures) for figures in zip(*waves, strict=True))
        live = pushed(server, server, client, LIVE[transport])
        spent = server.ask("cpu")["seconds"]
        client.ask("expect", wanted=BROADCASTS * CONNECTIONS)
        server.ask("shout", times=BROADCASTS, pause=PAUSE * CONNECTIONS)
        client.ask("arrived")
        shouting = server.ask("cpu")["seconds"] - spent
    return {
        "bytes": size,
        "connects": CONNECTIONS / seconds,
        "connect cpu": connecting / CONNECTIONS * 1e6,
        **live,
        "broadcast cpu": shouting / (BROADCASTS * CONNECTIONS) * 1e6,
    }


def pushed(pushing: Process, receiving: Process, client: Process, events: int) -> Figures:
    """Push to random users through one server; the clients are connected to another one, or the same.

    Garbage is collected before: a full collection takes longer than a hundred events, and would fall into these few
    seconds by chance.
    """
    for each in {pushing, receiving}:
        each.ask("memory")
    spent = receiving.ask("cpu")["seconds"]
    client.ask("expect", wanted=events)
    pushing.ask("live", users=CONNECTIONS, rate=RATE, events=events)
    arrived = client.ask("arrived")
    cpu = (receiving.ask("cpu")["seconds"] - spent) / events * 1e6
    return {"p50": arrived["p50"], "p99": arrived["p99"], "live cpu": cpu}


def resumed() -> float:
    """Return how many events a second reach clients that come back at once, each of them behind."""
    with processes("ours") as ((server,), (port,), client):
        server.ask("fill", users=RESUMED, events=BEHIND)
        path = path_of("ours", "sse") + "&last_id=0"
        done = client.ask("connect", users=RESUMED, port=port, path=path, wanted=RESUMED * BEHIND)
        return float(RESUMED * BEHIND / done["all"])


def left_by_a_storm() -> Row:
    """Let many clients come back at the same moment and leave, three times; return what only the third has left.

    What a client leaves, each of them leaves: at least one object for each. A few objects in all are none of theirs: a
    task that has just ended, an entry in a cache of the interpreter. So the bar is one object for a hundred clients.
    """
    with processes("ours") as ((server,), (port,), client):
        server.ask("fill", users=STORM, events=MISSED)
        path = path_of("ours", "sse") + "&last_id=0"
        after, seconds = [], []
        for number in range(3):
            progress(f"web, reconnects: round {number + 1} of 3")
            done = client.ask("connect", users=STORM, port=port, path=path, wanted=STORM * MISSED, window=STORM)
            seconds.append(done["all"])
            client.ask("close")
            server.ask("deserted")
            after.append(server.ask("memory"))
    left = after[2]["objects"] - after[1]["objects"]
    swing = (after[2]["bytes"] - after[1]["bytes"]) / STORM  # of the allocator's, up or down: the bare one's too
    took = statistics.median(seconds)
    note = f"{STORM:,} clients at once, {MISSED} events behind, in {took:.1f} s; {swing:+,.0f} bytes each"
    bar = Bar(f"< {LEAK:,}", left < LEAK)
    return Row("web, left by a third storm", "objects", left, bar=bar, note=note)


def through_redis(url: str) -> Callable[[str], Figures]:
    """Two server processes: one pushes, the clients are connected to the other one."""

    def job(kind: str) -> Figures:
        with processes(kind, url, url) as ((pushing, serving), (_, port), client):
            client.ask("connect", users=CONNECTIONS, port=port, path=path_of(kind, "sse"))
            return pushed(pushing, serving, client, LIVE["redis"])

    return job


def rounds(name: str, job: Callable[[str], Figures]) -> dict[str, list[Figures]]:
    """Run both contenders in turn, the first one changing from round to round."""
    results: dict[str, list[Figures]] = {"bare": [], "ours": []}
    started = time.perf_counter()
    for number in range(ROUNDS):
        progress(f"{name}: round {number + 1} of {ROUNDS}, {time.perf_counter() - started:.0f} s")
        for kind in ("bare", "ours") if number % 2 else ("ours", "bare"):
            results[kind].append(job(kind))
    return results


def row(name: str, unit: str, results: dict[str, list[Figures]], figure: str, most: float | None) -> Row:
    """Return a row for a figure of which less is better: at most so many times that of the bare application."""
    bare, ours = ([each[figure] for each in results[kind]] for kind in ("bare", "ours"))
    times = statistics.median(ours) / statistics.median(bare)
    return Row(
        name,
        unit,
        statistics.median(ours),
        limit=statistics.median(bare),
        ratio=Spread.of([limit / mine for limit, mine in zip(bare, ours, strict=True)]),
        bar=None if most is None else Bar(f"<= {most:.1f} x", times <= most),
        note=f"{times:.2f} times the limit",
    )


def rows_of(transport: str, results: dict[str, list[Figures]]) -> list[Row]:
    """Return the rows of one transport; the bars are for server-sent events."""
    is_judged = transport == "sse"
    name = f"web, {transport}"
    rates = {kind: [each["connects"] for each in results[kind]] for kind in results}
    share = statistics.median(rates["ours"]) / statistics.median(rates["bare"])
    connects = Row(
        f"{name}, connects",
        "connects/s",
        statistics.median(rates["ours"]),
        limit=statistics.median(rates["bare"]),
        ratio=Spread.of([mine / limit for mine, limit in zip(rates["ours"], rates["bare"], strict=True)]),
        bar=Bar(">= 0.7 x", share >= 0.7) if is_judged else None,
        note=f"{share:.2f} times the limit",
    )

    def bar(most: float) -> float | None:
        return most if is_judged else None

    return [
        row(f"{name}, connection", "bytes", results, "bytes", bar(1.2)),
        connects,
        row(f"{name}, connect: CPU", "µs", results, "connect cpu", None),
        row(f"{name}, {RATE:,}/s to random users, p50", "µs", results, "p50", bar(1.3)),
        row(f"{name}, {RATE:,}/s to random users, p99", "µs", results, "p99", bar(1.3)),
        row(f"{name}, {RATE:,}/s to random users: CPU", "µs", results, "live cpu", None),
        row(f"{name}, broadcast: CPU of a delivery", "µs", results, "broadcast cpu", bar(1.1)),
    ]


def measure() -> list[Row]:
    """Run the benchmark."""
    rows = []
    for transport in ("sse", "ws"):
        name = f"web, {CONNECTIONS:,} connections by {transport}"
        rows += rows_of(transport, rounds(name, lambda kind, transport=transport: one_server(kind, transport)))  # type: ignore[misc]
    progress("web, steps of a connect")
    rows += web_steps.measure()
    progress("web, push to paint")
    rows.append(web_paint.measure())
    progress("web, resume")
    speeds = [resumed() for _ in range(ROUNDS)]
    speed = statistics.median(speeds)
    note = f"{RESUMED:,} clients come back at once, {BEHIND} events behind; {min(speeds):,.0f} to {max(speeds):,.0f}"
    rows.append(Row("web, resume", "events/s", speed, bar=Bar(f">= {RESUMED_BAR:,}", speed >= RESUMED_BAR), note=note))
    rows.append(left_by_a_storm())
    with redis.single() as server:
        results = rounds("web, through Redis", through_redis(server.url))
    rows += [row(f"web, through Redis, {figure}", "µs", results, figure, None) for figure in ("p50", "p99", "live cpu")]
    return rows
