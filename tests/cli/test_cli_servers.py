"""The `notify` command on real servers that are killed: Redis, Sentinel, Cluster and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import asyncpg  # type: ignore[import-untyped]
import pytest

from notify.testing.faults import FaultProxy
from notify.testing.history import History
from tests.cli.commands import Done, Running, called, running
from tests.parts import untraced
from tests.servers import postgres, redis

pytestmark = pytest.mark.slow


class Place(NamedTuple):
    """A store on servers of its own.

    Attributes:
        url: the store URL for the command.
        end: kills the servers, once they have everything that was acknowledged.
        begin: makes the store available again.
        is_missed: whether the outage is long enough to be reported; a failover is not.
        freeze: stops the server with SIGSTOP.
        thaw: continues it.
    """

    url: str
    end: Callable[[], None]
    begin: Callable[[], None]
    is_missed: bool = True
    freeze: Callable[[], None] = lambda: None
    thaw: Callable[[], None] = lambda: None


@contextmanager
def single() -> Iterator[Place]:
    with redis.single() as server:
        yield Place(server.url, server.kill, server.start, freeze=server.freeze, thaw=server.thaw)


@contextmanager
def sentinels() -> Iterator[Place]:
    """Kills the master; the sentinels then promote the replica."""
    with redis.sentinels() as servers:

        def end() -> None:
            master, replica = in_order()
            offset = redis.plain_info(master, "replication")["master_repl_offset"]
            info = "slave_repl_offset"
            redis.wait_for(
                lambda: int(redis.plain_info(replica, "replication")[info]) >= int(offset), "the replica has it all"
            )
            master.kill()

        def begin() -> None:
            _, replica = dead.pop()
            redis.wait_for(lambda: servers.master_port() == replica.port, "the failover")

        def in_order() -> tuple[redis.Server, redis.Server]:
            both = servers.master, servers.replica
            pair = both if servers.master_port() == both[0].port else both[::-1]
            dead.append((pair[0], pair[1]))
            return pair[0], pair[1]

        dead: list[tuple[redis.Server, redis.Server]] = []
        yield Place(servers.url, end, begin, is_missed=False)


@contextmanager
def cluster() -> Iterator[Place]:
    """Kills every node."""
    with redis.cluster() as servers:

        def end() -> None:
            for server in servers.masters:
                server.kill()

        def begin() -> None:
            for server in servers.masters:
                server.start()

        yield Place(servers.url, end, begin)


@contextmanager
def database() -> Iterator[Place]:
    with postgres.running() as server:
        yield Place(server.dsn, server.kill, server.start, freeze=server.freeze, thaw=server.thaw)


PLACES = {"redis": single, "sentinel": sentinels, "cluster": cluster, "postgres": database}
ALIKE = ["redis", "cluster", "postgres"]
"""Stores that can be killed more than once; with sentinels only one server would be left."""

_numbers = count()


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with PLACES[request.param]() as place:
        yield place


@pytest.fixture
def own_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with PLACES[request.param]() as place:
        yield place


@pytest.fixture
def user() -> str:
    """A user id that no other test uses."""
    return f"user-{next(_numbers)}"


def on(place: Place, directory: Path, *arguments: str) -> Done:
    """Run the command in this process: what the tests are about runs beside it, in another one."""
    return called(directory, *arguments, variables={"NOTIFY_STORE": place.url})


def push(place: Place, directory: Path, user: str, type_: str) -> str:
    """Push until it is stored: a server that was just restarted may refuse for a moment."""
    key = f"{user}-{type_}-{next(_numbers)}"
    for _ in range(5):
        with untraced():  # not measured: other tests push, too
            done = on(place, directory, "push", user, type_, "--key", key)
        if done.status == 0:
            return done.out.strip()
    raise AssertionError(done)


def stored(place: Place, directory: Path, user: str) -> list[dict[str, object]]:
    done = on(place, directory, "tail", user, "--after", "0", "--no-follow", "--json")
    assert done.status == 0, done
    return [json.loads(line) for line in done.out.splitlines()]


def test_every_command(place: Place, tmp_path: Path, user: str) -> None:
    """Push, head, tail, stats, check and trim work on a server as on a file."""
    first, second = push(place, tmp_path, user, "a"), push(place, tmp_path, user, "b")
    assert on(place, tmp_path, "head", user) == (0, f"{second}\n", "")
    rest = on(place, tmp_path, "tail", user, "--after", first, "--no-follow")
    assert rest == (0, f"{second} b null\n", "")
    checked = on(place, tmp_path, "check")
    assert (checked.status, checked.err) == (0, "")
    assert re.match(r"store    ok\nlive     ok\n(warning  .+\n)*$", checked.out)
    described = on(place, tmp_path, "stats", user)
    assert (described.status, described.err) == (0, "")
    assert re.search(rf"^user   {user}: 2 events, 8 bytes of payload, from {first} ", described.out, re.MULTILINE)
    assert on(place, tmp_path, "trim", second).out.startswith("removed ")
    assert [event["id"] for event in stored(place, tmp_path, user)] == [second]


def test_two_terminals(place: Place, tmp_path: Path, user: str) -> None:
    """One process prints what another one pushes; Ctrl-C ends it silently with status 130."""
    assert on(place, tmp_path, "init").status == 0  # or tail says that there is nothing yet
    with running(tmp_path, "tail", user, "--after", "0", variables={"NOTIFY_STORE": place.url}) as tail:
        pushed = [push(place, tmp_path, user, "a") for _ in range(3)]
        tail.wait_for(pushed[-1])
        assert tail.ids() == pushed
        assert tail.interrupt() == (130, "\n".join(tail.out), "")


def follow(place: Place, tail: Running, tmp_path: Path, user: str) -> None:
    """Push, kill the servers, restart them, push again; check the output of tail against the pushes."""
    history = History()

    def push_some(types: str) -> str:
        for type_ in types:
            with history.pushing(user, type_) as attempt:
                attempt.ok(last := push(place, tmp_path, user, type_))
        return last

    tail.wait_for(push_some("abc"))
    place.end()
    if place.is_missed:
        tail.wait_for("notify: the store is unavailable", tail.err)
    place.begin()
    last = push_some("def")
    if place.is_missed:
        tail.wait_for("notify: the store is available again", tail.err)
    tail.wait_for(last)
    tail.wait_for(push_some("g"))
    reader = history.reader(user, "0")
    for event in map(json.loads, tail.out):
        reader.saw(event["id"], event["prev"], event["type"])
    verdict = history.assert_ok()
    assert (verdict.acknowledged, verdict.yields, dict(verdict.gaps)) == (7, 7, {})
    reported = ["the store is unavailable", "the store is available again"]
    assert [line.removeprefix("notify: ").partition(",")[0] for line in tail.err] in (
        [reported] if place.is_missed else [[], reported]
    )
    assert tail.interrupt().status == 130


@pytest.mark.parametrize("own_place", PLACES, indirect=True)
def test_tail_survives_the_kill_of_its_server(own_place: Place, tmp_path: Path, user: str) -> None:
    """SIGKILL of the server and its restart are reported once each; every event is printed once, without a gap."""
    arguments = ("tail", user, "--after", "0", "--json")
    assert on(own_place, tmp_path, "init").status == 0  # or tail says that there is nothing yet
    with running(tmp_path, *arguments, variables={"NOTIFY_STORE": own_place.url}) as tail:
        follow(own_place, tail, tmp_path, user)


@pytest.mark.parametrize("own_place", PLACES, indirect=True)
def test_feed_survives_the_kill_of_its_server(own_place: Place, tmp_path: Path, user: str) -> None:
    """A feed whose server is killed halfway stores every line once, in order for each user."""
    with running(tmp_path, "push", "--stdin", "--ids", variables={"NOTIFY_STORE": own_place.url}) as feed:
        feed.write("".join(f"{user}-{number % 5} n {number}\n" for number in range(1, 501)))
        feed.wait_for("20 ")
        own_place.end()
        feed.write("hello\n")
        feed.write("".join(f"{user}-{number % 5} n {number}\n" for number in range(502, 1001)))
        if own_place.is_missed:
            feed.wait_for("the store is unavailable", feed.err)
        own_place.begin()
        feed.end_input()
        assert feed.wait().status == 1
        assert feed.out[-1] == "pushed 999, failed 1"
        assert "notify: line 501: expected USER TYPE [JSON]" in feed.err
        assert ("notify: the store is available again" in feed.err) >= own_place.is_missed
    said = {int(number): id_ for number, id_ in (line.split() for line in feed.out[:-1])}
    for part in range(5):
        events = stored(own_place, tmp_path, f"{user}-{part}")
        numbers = [number for number in range(1, 1001) if number % 5 == part and number != 501]
        assert [event["payload"] for event in events] == numbers
        assert [event["id"] for event in events] == [said[number] for number in numbers]


@pytest.mark.parametrize("own_place", ALIKE, indirect=True)
def test_feed_waits_for_its_server(own_place: Place, tmp_path: Path, user: str) -> None:
    """A feed started while its server is unavailable reports it once, waits, and then pushes every line."""
    own_place.end()
    with running(tmp_path, "push", "--stdin", variables={"NOTIFY_STORE": own_place.url}) as feed:
        feed.write("".join(f"{user} n {number}\n" for number in range(50)))
        feed.end_input()
        feed.wait_for("the store is unavailable, retrying for 30 s", feed.err)
        own_place.begin()
        done = feed.wait()
    assert (done.status, done.out) == (0, "pushed 50, failed 0")
    reported = [line.partition(",")[0] for line in done.err.splitlines() if " store is " in line]
    assert reported == ["notify: the store is unavailable", "notify: the store is available again"]
    assert [event["payload"] for event in stored(own_place, tmp_path, user)] == list(range(50))


@pytest.mark.parametrize("own_place", ALIKE, indirect=True)
def test_feed_gives_up_and_is_pushed_again(own_place: Place, tmp_path: Path, user: str) -> None:
    """If the server stays down the feed gives up and prints its key; pushed again with it, nothing is stored twice."""
    lines = "".join(f"{user}-{number % 3} n {number}\n" for number in range(600))
    arguments = ("push", "--stdin", "--ids", "--timeout", "2")
    with running(tmp_path, *arguments, variables={"NOTIFY_STORE": own_place.url}) as feed:
        feed.write(lines)
        feed.wait_for("", count=20)
        own_place.end()
        resume = feed.wait_for("again with --key ", feed.err)
        assert feed.wait().status == 1
        pushed, failed = map(int, re.findall(r"\d+", feed.out[-1]))
        assert pushed >= 20
        assert failed > 0
    own_place.begin()
    key = resume.split("--key ")[1].partition(";")[0]
    environment = {"NOTIFY_STORE": own_place.url}
    again = called(tmp_path, "push", "--stdin", "--key", key, stdin=lines, variables=environment)
    assert (again.status, again.out) == (0, "pushed 600, failed 0\n"), again
    for part in range(3):
        payloads = [event["payload"] for event in stored(own_place, tmp_path, f"{user}-{part}")]
        assert payloads == list(range(part, 600, 3))


@pytest.mark.parametrize("own_place", ["redis", "postgres"], indirect=True)
def test_server_that_hangs(own_place: Place, tmp_path: Path, user: str) -> None:
    """While a server hangs, pushes fail with the key to retry with, and tail reports it and can be interrupted; when
    the server continues, every event is stored once."""
    first = push(own_place, tmp_path, user, "a")
    environment = {"NOTIFY_STORE": own_place.url}
    with (
        running(tmp_path, "tail", user, "--after", "0", variables=environment) as tail,
        running(tmp_path, "tail", user, "--after", "0", variables=environment) as other,
        running(tmp_path, "push", "--stdin", "--ids", "--timeout", "60", variables=environment) as feed,
    ):
        feed.write(f"{user} b 1\n")
        feed.wait_for("1 ")
        for each in (tail, other):
            each.wait_for(" b 1")
        own_place.freeze()
        feed.write(f"{user} b 2\n")
        hung = called(tmp_path, "push", user, "c", "--timeout", "1", "--key", "c1", variables=environment)
        assert (hung.status, hung.out, len(hung.err.splitlines())) == (1, "", 1)
        assert called(tmp_path, "check", "--timeout", "1", variables=environment).status == 1
        for each in (tail, other):
            each.wait_for("the store is unavailable", each.err)
        assert other.interrupt().status == 130
        own_place.thaw()
        third = on(own_place, tmp_path, "push", user, "c", "--key", "c1")
        assert third.status == 0, third
        tail.wait_for(third.out.strip())
        tail.wait_for(" b 2")
        feed.end_input()
        assert feed.wait().out.endswith("pushed 2, failed 0")
        assert sorted(line.split(" ", 1)[1] for line in tail.out) == ["a null", "b 1", "b 2", "c null"]
        assert tail.ids()[0] == first
        assert tail.interrupt().status == 130


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_push_without_a_reply(tmp_path: Path, user: str) -> None:
    """A push with an unknown outcome prints the key to retry with; retried with it, the event is stored once."""
    with redis.single() as server:
        async with FaultProxy("127.0.0.1", server.port) as proxy:
            where = ("--store", f"redis://127.0.0.1:{proxy.port}")
            proxy.drop_reply(request=b"no-reply", times=10_000)
            command = ("push", user, "a", '"no-reply"', "--timeout", "2", *where)
            done = await anyio.to_thread.run_sync(lambda: called(tmp_path, *command))
            assert (done.status, done.out) == (1, "")
            found = re.fullmatch(
                r"notify: .+ may be stored.+; retry with --key (\w+), which stores it at most once\n", done.err
            )
            assert found is not None, done
            proxy.heal()
            again = await anyio.to_thread.run_sync(lambda: called(tmp_path, *command, "--key", found[1]))
            assert again.status == 0, again
        rest = ("tail", user, "--after", "0", "--no-follow", "--store", server.url)
        events = await anyio.to_thread.run_sync(lambda: called(tmp_path, *rest))
        assert events.out == f'{again.out.strip()} a "no-reply"\n'


def test_check_reports_a_missing_wake_path(tmp_path: Path, user: str) -> None:
    """Behind a pooler in transaction mode LISTEN does not work: `check` fails with status 1, and tail still works."""
    with postgres.running() as server, postgres.bouncing(server) as bouncer:
        place = Place(bouncer.dsn, server.kill, server.start)
        first = push(place, tmp_path, user, "a")
        done = on(place, tmp_path, "check", "--timeout", "3")
        assert (done.status, done.err) == (1, "")
        assert done.out == "store    ok\nlive     new events are not received, so each arrives late, by an audit\n"
        with running(tmp_path, "tail", user, "--after", "0", variables={"NOTIFY_STORE": place.url}) as tail:
            tail.wait_for(first)
            tail.wait_for(push(place, tmp_path, user, "b"))


def tables(place: Place) -> list[tuple[str, str]]:
    """Every schema and table of the database that is not the server's own."""

    async def ask() -> list[tuple[str, str]]:
        connection = await asyncpg.connect(place.url)
        try:
            found = await connection.fetch(
                "SELECT nspname, relname FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid "
                "WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' ORDER BY 1, 2"
            )
            return [(row[0], row[1]) for row in found]
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_reading_creates_nothing_in_a_database(tmp_path: Path, user: str) -> None:
    """On a misspelt schema the commands that read say that there is nothing, and create no schema and no table; then
    `init` creates them, or the statements that it prints do."""
    with database() as place:
        before = tables(place)
        where = ("--schema", "typo1")
        for command in (
            ("head", user),
            ("stats", user),
            ("trim", "0"),
            ("forget", user, "--yes"),
            ("tail", user, "--no-follow"),
            ("inbox", "list", user),
        ):
            done = on(place, tmp_path, *command, *where)
            assert (done.status, done.out) == (1, ""), (command, done)
            assert done.err.startswith("notify: there is nothing at postgresql://"), done
            assert done.err.endswith(" yet: a push or notify init creates it\n"), done
        done = on(place, tmp_path, "check", *where)
        assert (done.status, done.err) == (0, "")
        assert "warning  there is nothing at postgresql://" in done.out
        assert tables(place) == before
        with running(tmp_path, "tail", user, *where, variables={"NOTIFY_STORE": place.url}) as tail:
            tail.wait_for("there is nothing at", tail.err)
            assert tables(place) == before
            assert on(place, tmp_path, "push", user, "a", *where).status == 0
            tail.wait_for(" a null")
            assert tail.interrupt().status == 130
        assert on(place, tmp_path, "head", user, *where).status == 0
        script = on(place, tmp_path, "init", "--print-sql", "--schema", "typo2")
        assert (script.status, script.err) == (0, "")
        assert "typo2" in script.out
        assert "typo2" not in dict(tables(place))
        done = on(place, tmp_path, "init", "--schema", "typo2")
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith("ready: PostgresStreamStore at postgresql://")
        assert on(place, tmp_path, "init", "--schema", "typo2") == done
        assert on(place, tmp_path, "head", user, "--schema", "typo2") == (0, "0\n", "")


@pytest.mark.parametrize("own_place", ["redis", "postgres"], indirect=True)
def test_forget_and_init_on_a_server(own_place: Place, tmp_path: Path, user: str) -> None:
    """`forget` erases one user and no other; `init` needs nothing on Redis, and says so."""
    script = on(own_place, tmp_path, "init", "--print-sql")
    assert (script.status, script.err) == (0, "")
    assert script.out.startswith("-- nothing to create") == own_place.url.startswith("redis://")
    assert on(own_place, tmp_path, "init").out.startswith("ready: ")
    for number in range(3):
        push(own_place, tmp_path, user, f"a{number}")
    kept = push(own_place, tmp_path, "alice", "b")
    assert on(own_place, tmp_path, "forget", user, "--yes") == (0, "erased 3\n", "")
    assert stored(own_place, tmp_path, user) == []
    assert [event["id"] for event in stored(own_place, tmp_path, "alice")] == [kept]


def test_xread_by_url(tmp_path: Path, user: str) -> None:
    """Options of the store are chosen in the URL: `tail` follows by XREAD what a push by the same URL announces."""
    with redis.single() as server:
        where = {"NOTIFY_STORE": f"{server.url}?wake=xread"}
        with running(tmp_path, "tail", user, "--after", "0", variables=where) as tail:
            pushed = [called(tmp_path, "push", user, "a", variables=where).out.strip() for _ in range(3)]
            tail.wait_for(pushed[-1])
            assert tail.ids() == pushed
            assert tail.interrupt().status == 130
