"""`notify.web.durable` over a real server: the public suite, the public client, and what they do not ask."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from notify import Notifier, UsageError
from notify.web.durable import DurableStreams, Form, below_mount, payload
from notify_memory import MemoryStore
from notify_sqlite import SQLiteStreamStore
from tests.web.node import install
from tests.web.servers import MEASURED_END, WebServer

BEGINNING = "-1"
ALICE = {"x-user": "alice"}

NPM = Path(__file__).parent / "npm-durable"

READ_SIDE = {
    "Read Operations": 3,
    "Long-Poll Operations": 2,
    "Long-Poll Edge Cases": 5,
    "Browser Security Headers": 9,
    "HEAD Metadata": 3,
    "Offset Validation and Resumability": 20,
    "Caching and ETag": 5,
    "Chunking and Large Payloads": 2,
    "Read-Your-Writes Consistency": 3,
    "SSE Mode": 31,
    "JSON Mode": 16,
    "Property-Based Tests (fast-check) > Byte-Exactness Property": 2,
    "Property-Based Tests (fast-check) > Immutability Properties": 1,
    "Property-Based Tests (fast-check) > Offset Validation Properties": 1,
    "Property-Based Tests (fast-check) > State Hash Verification": 4,
}
"""The groups of the suite that are about reading, and how many tests each of them has at least."""


@pytest.fixture(scope="session")
def npm() -> Path:
    """The folder with the packages that these tests need."""
    return install(NPM)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    """`DurableStreams` with the write half that the suite needs."""
    options = [
        "--timeout-keep-alive",
        "60",
    ]  # the suite computes for seconds and repeats no request
    with WebServer("uvicorn", "tests.web.durable_shim:app", tmp_path, options=options, ready="/") as server:
        yield server
        assert server.stop(MEASURED_END) < 5
        assert "Traceback" not in server.log


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_public_suite(npm: Path, server: WebServer, tmp_path: Path) -> None:
    """Every test of every group that is about reading passes, and none of them is skipped."""
    report = tmp_path / "report.json"
    names = "|".join(re.escape(group.rpartition(" > ")[2]) for group in READ_SIDE)
    command = [
        "node",
        "node_modules/vitest/vitest.mjs",
        "run",
        "--reporter=json",
        "--testTimeout=60000",  # its own 5 seconds are short on a busy machine
        f"--outputFile={report}",
        "-t",
        names,
    ]
    environment = {**os.environ, "STREAMS_URL": server.url}
    done = subprocess.run(command, cwd=npm, env=environment, capture_output=True, text=True, timeout=300)
    assert report.exists(), done.stdout + done.stderr
    tests = [test for file in json.loads(report.read_text())["testResults"] for test in file["assertionResults"]]
    passed, failed = Counter[str](), dict[str, Any]()
    for test in tests:
        group = " > ".join(test["ancestorTitles"][1:])
        if group in READ_SIDE and test["status"] == "passed":
            passed[group] += 1
        elif group in READ_SIDE:
            failed[test["fullName"]] = (test["status"], test["failureMessages"])
    assert not failed, json.dumps(failed, indent=1)
    assert {group: passed[group] for group in READ_SIDE if passed[group] < READ_SIDE[group]} == {}


# -- what the suite does not ask ----------------------------------------------------------------------------------


class Logs:
    """A database that a server reads, and this process writes."""

    def __init__(self, folder: Path) -> None:
        self.file = str(folder / "logs.db")

    async def push(self, *numbers: int, user: str = "alice") -> list[str]:
        """Push events, and return their ids."""
        async with Notifier(SQLiteStreamStore(self.file)) as notifier:
            return [(await notifier.push(user, "row", {"n": number})).id for number in numbers]

    def run(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """Run something asynchronous."""
        return anyio.run(lambda: function(*arguments, **options))


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


@contextmanager
def serving(logs: Logs, folder: Path, **options: Any) -> Iterator[WebServer]:
    """The events of a database, at a real server that ends well."""
    env = {"STREAMS_FILE": logs.file, "STREAMS_OPTIONS": json.dumps(options)}
    app = "tests.web.durable_app:app"
    with WebServer("uvicorn", app, folder, env=env, ready="/") as server:
        yield server
        assert server.stop(MEASURED_END) < 8
        assert "Traceback" not in server.log


def frames(text: str) -> list[tuple[str, Any]]:
    """Parse server-sent events, without comments."""
    parsed = []
    for block in text.split("\n\n"):
        fields = [line.partition(":") for line in block.split("\n") if line and not line.startswith(":")]
        if fields:
            named = {name: value.removeprefix(" ") for name, _, value in fields}
            parsed.append((named["event"], json.loads(named["data"])))
    return parsed


def test_catch_up_in_pages(logs: Logs, tmp_path: Path) -> None:
    """A long log comes in several answers, each event once and in order; any event id is an offset too."""
    pushed = logs.run(logs.push, *range(50))
    with serving(logs, tmp_path, chunk=80) as server, httpx.Client(base_url=server.url, headers=ALICE) as client:
        offset, items, answers = BEGINNING, [], 0
        while True:
            answer = client.get("/alice", params={"offset": offset})
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["stream-next-offset"] > offset
            items, offset, answers = items + answer.json(), answer.headers["stream-next-offset"], answers + 1
            if "stream-up-to-date" in answer.headers:
                break
        assert [item["id"] for item in items] == pushed
        assert [item["payload"] for item in items] == [{"n": number} for number in range(50)]
        assert {(item["user"], item["type"]) for item in items} == {("alice", "row")}
        assert answers > 4
        rest = client.get("/", params={"offset": pushed[47]}).json()
        assert [item["id"] for item in rest] == pushed[48:]


def test_on_trio(tmp_path: Path) -> None:
    """All three kinds of reading work on trio, and the server ends while a client reads."""
    with WebServer("hypercorn-trio", "tests.web.durable_shim:app", tmp_path, ready="/") as server:
        with httpx.Client(base_url=server.url, timeout=20) as client:
            json_type = {"content-type": "application/json"}
            assert client.put("/rows", headers=json_type).status_code == 201
            end = client.post("/rows", headers=json_type, json=[1, 2, 3]).headers["stream-next-offset"]
            assert client.get("/rows").json() == [1, 2, 3]
            assert client.get("/rows", params={"live": "long-poll", "offset": end}).status_code == 204
            with client.stream("GET", "/rows", params={"live": "sse", "offset": "-1"}) as answer:
                text, chunks = "", answer.iter_text()
                while "upToDate" not in text:
                    text += next(chunks)
                server.send(15)
                text += "".join(chunks)  # ends, and is complete
            assert frames(text)[0] == ("data", [1, 2, 3])
        server.wait(8)
        assert "Traceback" not in server.log


def test_gone_offset(logs: Logs, tmp_path: Path) -> None:
    """An offset before what is retained is answered with 410, whatever the mode; the beginning is always there."""
    pushed = logs.run(logs.push, *range(5))

    async def trim() -> None:
        async with SQLiteStreamStore(logs.file) as store:
            assert await store.trim(pushed[3]) == 3

    with serving(logs, tmp_path) as server, httpx.Client(base_url=server.url, headers=ALICE) as client:
        before = client.get("/alice", params={"offset": BEGINNING})
        logs.run(trim)
        for live in ({}, {"live": "long-poll"}, {"live": "sse"}):
            answer = client.get("/alice", params={"offset": pushed[0], **live})
            assert (answer.status_code, answer.json()["error"]["code"]) == (410, "gone")
            assert answer.headers["x-content-type-options"] == "nosniff"
        after = client.get("/alice", params={"offset": BEGINNING}, headers={"if-none-match": before.headers["etag"]})
        assert [item["id"] for item in after.json()] == pushed[3:]  # the end is the same, the content is not
        again = client.get("/alice", params={"offset": BEGINNING}, headers={"if-none-match": after.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert "private" in after.headers["cache-control"]


REFUSED = [
    ("GET", "/alice", {}, {}, 401, "unauthenticated"),
    ("GET", "/bob", ALICE, {}, 403, "forbidden"),
    ("GET", "/secret", ALICE, {}, 404, "not_found"),
    ("PUT", "/alice", ALICE, {}, 405, "method_not_allowed"),
    ("GET", "/alice", ALICE, {"offset": ""}, 400, "invalid_position"),
    ("GET", "/alice", ALICE, {"offset": "5_3"}, 400, "invalid_position"),
    ("GET", "/alice", ALICE, {"offset": ["-1", "now"]}, 400, "bad_request"),
    ("GET", "/alice", ALICE, {"live": "sse"}, 400, "bad_request"),
    ("GET", "/alice", ALICE, {"live": "always", "offset": "now"}, 400, "bad_request"),
    (
        "GET",
        "/alice",
        {**ALICE, "sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        {},
        403,
        "cross_site",
    ),
]


def test_refusals(logs: Logs, tmp_path: Path) -> None:
    """Every bad request is an error of the one shape, with the headers that protect a browser."""
    with serving(logs, tmp_path) as server, httpx.Client(base_url=server.url) as client:
        for method, path, headers, query, status, code in REFUSED:
            answer = client.request(method, path, headers=headers, params=query)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert "access-control-allow-origin" not in answer.headers
        assert [client.get(path, headers=ALICE).json() for path in ("/room/7", "/session-of-alice", "/x/alice")] == [
            []
        ] * 3


def test_allowed_origin(logs: Logs, tmp_path: Path) -> None:
    """A page of an allowed origin may read the headers that the protocol needs."""
    page = {**ALICE, "origin": "https://app.example", "sec-fetch-site": "cross-site"}
    with serving(logs, tmp_path, origins=["https://app.example"]) as server:
        answer = httpx.get(f"{server.url}/alice", headers=page)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page["origin"])
        exposed = answer.headers["access-control-expose-headers"].lower()
        assert {"etag", "stream-next-offset", "stream-cursor", "stream-up-to-date"} <= set(exposed.split(", "))
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        asked = {"access-control-request-method": "GET", "access-control-request-headers": "if-none-match"}
        preflight = httpx.options(f"{server.url}/alice", headers={"origin": page["origin"], **asked})
        assert preflight.status_code == 204
        assert "if-none-match" in preflight.headers["access-control-allow-headers"]


def test_long_poll(logs: Logs, tmp_path: Path) -> None:
    """It waits for a stored event, says so if none comes, and ignores ephemeral ones."""
    (first,) = logs.run(logs.push, 1)

    async def push_later() -> None:
        async with Notifier(SQLiteStreamStore(logs.file)) as notifier:
            await notifier.push("alice", "typing", ephemeral=True)
            await notifier.push("alice", "row", {"n": 2})

    with serving(logs, tmp_path, long_poll=1.0, heartbeat=0.3) as server:
        with httpx.Client(base_url=server.url, headers=ALICE) as client:
            query = {"live": "long-poll", "offset": first}
            began = time.monotonic()
            empty = client.get("/alice", params=query)
            assert 0.9 < time.monotonic() - began < 5
            assert (empty.status_code, empty.headers["stream-up-to-date"]) == (204, "true")
            logs.run(push_later)
            answer = client.get("/alice", params=query | {"cursor": empty.headers["stream-cursor"]})
            assert [item["payload"] for item in answer.json()] == [{"n": 2}]
            assert int(answer.headers["stream-cursor"]) > int(empty.headers["stream-cursor"])


def test_server_sent_events(logs: Logs, tmp_path: Path) -> None:
    """Replay, heartbeat, live events without the ephemeral ones, and an end when the server ends."""
    pushed = logs.run(logs.push, 1, 2)

    async def push_later() -> None:
        async with Notifier(SQLiteStreamStore(logs.file)) as notifier:
            await notifier.push("alice", "typing", ephemeral=True)
            pushed.append((await notifier.push("alice", "row", {"n": 3})).id)

    with serving(logs, tmp_path, heartbeat=0.2) as server:
        url = f"{server.url}/alice?live=sse&offset=-1"
        with httpx.stream("GET", url, headers=ALICE, timeout=10) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            assert answer.headers["x-accel-buffering"] == "no"
            text, chunks = "", answer.iter_text()
            while not text.endswith("\n\n:\n"):
                text += next(chunks)
            logs.run(push_later)
            while pushed[2] not in text:
                text += next(chunks)
            server.send(MEASURED_END)
            text += "".join(chunks)  # ends, and is complete
    kinds = [kind for kind, _ in frames(text)]
    assert kinds[::2] == ["data"] * (len(kinds) // 2)
    assert kinds[1::2] == ["control"] * (len(kinds) // 2)
    assert [item["id"] for kind, data in frames(text) if kind == "data" for item in data] == pushed
    assert frames(text)[-1][1]["upToDate"] is True


def test_limits(logs: Logs, tmp_path: Path) -> None:
    """A user's oldest live read ends for a further one; beyond the limit of the process, 503 with Retry-After."""
    with serving(logs, tmp_path, max_streams=2, max_streams_per_user=1, heartbeat=0.2) as server:
        query = "live=sse&offset=now"
        with (
            httpx.stream("GET", f"{server.url}/?{query}", headers=ALICE, timeout=10) as first,
            httpx.stream("GET", f"{server.url}/?{query}", headers=ALICE, timeout=10) as second,
        ):
            assert "control" in "".join(first.iter_text())  # it has ended
            with httpx.stream("GET", f"{server.url}/?{query}", headers={"x-user": "bob"}, timeout=10) as third:
                assert [second.status_code, third.status_code] == [200, 200]
                full = httpx.get(f"{server.url}/?{query}", headers={"x-user": "carol"})
                assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
                assert int(full.headers["retry-after"]) > 0
                assert httpx.get(f"{server.url}/", headers={"x-user": "carol"}).json() == []  # a plain read is served


@pytest.mark.slow
@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_public_client_over_a_restart(npm: Path, logs: Logs, tmp_path: Path, live: str) -> None:
    """The public client reads everything once and in order, live, while the server is restarted."""
    pushed = logs.run(logs.push, *range(20))
    env = {"STREAMS_FILE": logs.file}
    server = WebServer("uvicorn", "tests.web.durable_app:app", tmp_path, env=env, ready="/")
    command = ["node", "reader.mjs", f"{server.url}/alice", BEGINNING, live, "60"]
    with server:
        reader = subprocess.Popen(command, cwd=npm, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        with reader:
            assert reader.stdout is not None
            lines = [reader.stdout.readline() for _ in range(20)]
            pushed += logs.run(logs.push, *range(20, 40))
            server.stop()
            server.start()
            pushed += logs.run(logs.push, *range(40, 60))
            lines += [reader.stdout.readline() for _ in range(40)]
            reader.kill()
    assert [json.loads(line)["id"] for line in lines] == pushed


# -- pure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "root_path", "below"),
    [
        ("/alice", "", "alice"),
        ("/streams/alice", "/streams", "alice"),
        ("/streams/alice/", "/proxy/streams", "alice"),
        ("/alice", "/streams", "alice"),
        ("/streams", "/streams", ""),
        ("/streams/", "/streams/", ""),
        ("/streamsalice", "/streams", "streamsalice"),
        ("/streams/room/7", "/streams", "room/7"),
        ("", "", ""),
    ],
)
def test_path_below_the_mount(path: str, root_path: str, below: str) -> None:
    """Whatever a framework leaves of the mount in the path, the name of the log is what follows."""
    assert below_mount({"path": path, "root_path": root_path}) == below


@pytest.mark.parametrize(
    "options",
    [
        {"form": 7},
        {"chunk": 0},
        {"heartbeat": 0},
        {"lifetime": -1},
        {"max_streams": 0},
        {"origins": "https://a.example"},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    """They are refused at once."""
    with pytest.raises(UsageError):
        DurableStreams(Notifier(MemoryStore()), lambda request: "alice", **options)
    with pytest.raises(UsageError):
        DurableStreams(Notifier(MemoryStore()), "alice")  # type: ignore[arg-type]


def test_form_of_payloads() -> None:
    """The second ready-made form: what was pushed, without the event around it."""
    assert Form(payload).is_json
