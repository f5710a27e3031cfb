"""What the page of the demo asks for, what ends with the demo, and its ledger."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from notify import Notifier
from notify.cli._demo_instance import Instance
from notify.cli._demo_ledger import Ledger, Pushed
from notify.cli._demo_page import DemoApp
from notify.cli._demo_traffic import Traffic
from notify.errors import NotifyError, UsageError
from notify_memory import MemoryStreamStore
from tests.cli.commands import notify
from tests.cli.demo import demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with demo(tmp_path_factory.mktemp("demo")) as (command, started):
        yield started
        assert command.interrupt().status == 130
        assert "Traceback" not in "\n".join(command.err)


# -- the requests of the page ----------------------------------------------------------------------------------------


def ask(url: str, name: str, body: Any, status: int = 200, **headers: str) -> Any:
    answer = httpx.post(f"{url}/api/{name}", json=body, headers={"X-Notify-Demo": "1", **headers}, timeout=30)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.headers["content-type"] == "application/json" else None


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("nothing", {}), ("kill", {"name": "C"}), ("kill", {}), ("kill", []), ("kill", 7), ("rate", {"rate": "x"}),
        ("rate", {"rate": None}), ("push", {"user": "eve", "title": "x"}), ("job", {"user": "eve"}), ("push", {}),
        ("open", {}), ("poll", {"page": "p"}),
    ],
)  # fmt: skip
def test_wrong_requests(url: str, name: str, body: Any) -> None:
    """What the page would not ask for is 400, and kills nothing."""
    ask(url, name, body, 400)


def test_only_the_page_may_ask(url: str) -> None:
    """Without the header nothing is done; another host name is sent to the right one, so that it learns nothing."""
    assert httpx.post(f"{url}/api/kill", json={"name": "A"}).status_code == 404
    assert httpx.post(f"{url}/api/kill", content=b"{", headers={"X-Notify-Demo": "1"}).status_code == 400
    big = httpx.post(f"{url}/api/kill", content=b" " * (2 << 20), headers={"X-Notify-Demo": "1"})
    assert big.status_code == 400
    assert httpx.get(f"{url}/nothing").status_code == 404
    answer = httpx.get(f"{url}/", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.headers["location"]) == (307, f"{url}/")
    answer = httpx.get(f"{url}/")
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; connect-src 'self' http://")
    for name in ("demo.css", "demo.js", "checker.js", "client.js", "components.js"):
        assert httpx.get(f"{url}/{name}").status_code == 200


def devices(url: str) -> dict[str, Any]:
    """What a poll says about the instances, by name."""
    report = {"page": "watch", "since": 0, "calm": False, "shown": [], "gaps": []}
    if ask(url, "poll", report) == {"reload": True}:
        ask(url, "open", {"page": "watch"})
    return {each["name"]: each for each in ask(url, "poll", report)["instances"]}


def pushed(url: str) -> int:
    report = {"page": "watch", "since": 0, "calm": False, "shown": [], "gaps": []}
    if ask(url, "poll", report) == {"reload": True}:
        ask(url, "open", {"page": "watch"})
    return len(ask(url, "poll", report)["pushed"])


def until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError


def test_faults_on_demand(url: str) -> None:
    """Kill, start, cut and mend do what they say, also twice; what is pushed through a dead instance goes elsewhere."""
    before = devices(url)["B"]
    assert before["running"]
    for _ in range(2):
        ask(url, "kill", {"name": "B"})
    until(lambda: not devices(url)["B"]["running"])
    count = pushed(url)
    assert ask(url, "push", {"user": "*", "title": "Hello", "via": "B"}) == {"through": ["A"]}
    assert pushed(url) >= count + 3
    for _ in range(2):
        ask(url, "start", {"name": "B"})
    after = devices(url)["B"]
    assert (after["running"], after["starts"]) == (True, before["starts"] + 1)
    assert after["pid"] != before["pid"]
    wire = next(each["url"] for each in ask(url, "open", {"page": "q"})["instances"] if each["name"] == "A")
    assert httpx.get(f"{wire}/stream").status_code == 401
    for _ in range(2):
        ask(url, "cut", {"name": "A"})
    assert devices(url)["A"]["cut"]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{wire}/stream")
    for _ in range(2):
        ask(url, "mend", {"name": "A"})
    assert httpx.get(f"{wire}/stream").status_code == 401


def test_a_port_that_was_taken(url: str) -> None:
    """If another process takes the port of a dead instance, starting it fails, and works once the port is free."""
    for _ in range(2):
        ask(url, "kill", {"name": "B"})
        assert not devices(url)["B"]["running"]  # else a page would offer to kill it again
        ask(url, "start", {"name": "B"})
    command = Path(f"/proc/{devices(url)['B']['pid']}/cmdline").read_bytes().split(b"\0")
    port = int(command[command.index(b"--port") + 1])
    ask(url, "kill", {"name": "B"})
    with socket.create_server(("127.0.0.1", port)):
        assert "did not start" in ask(url, "start", {"name": "B"}, 502)["error"]
    ask(url, "start", {"name": "B"})
    assert devices(url)["B"]["running"]


def test_nothing_is_lost_while_both_are_dead(url: str) -> None:
    """A push waits for an instance that serves; the traffic pauses, and goes on."""
    ask(url, "rate", {"rate": 100})
    for name in ("A", "B"):
        ask(url, "kill", {"name": name})
    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(ask, url, "push", {"user": "demo.bob", "title": "Late"})
        time.sleep(1.0)
        assert not pushing.done()
        count = pushed(url)
        for name in ("A", "B"):
            ask(url, "start", {"name": name})
        assert len(pushing.result(30)["through"]) == 1
    assert pushed(url) > count
    ask(url, "rate", {"rate": 4})


def test_a_job_reports_its_progress(url: str) -> None:
    """Each report of a job is an event of its group; the last one says that it is done."""
    opened = ask(url, "open", {"page": "job"})
    carol = next(user for user in opened["users"] if user["id"] == "demo.carol")
    ask(url, "job", {"user": "demo.carol", "via": "A"})
    query = {"last_event_id": carol["start"]}
    headers = {"Authorization": f"Bearer {carol['token']}"}
    seen = []
    with httpx.stream(
        "GET", f"{opened['instances'][1]['url']}/stream", params=query, headers=headers, timeout=30
    ) as answer:
        for line in answer.iter_lines():
            event = json.loads(line[5:]) if line.startswith("data:") else {}
            if "progress" in (event.get("payload") or {}):
                seen.append((event["group"], event["payload"]["progress"]))
                if event["payload"]["progress"] == 1:
                    break
    assert len(seen) > 20
    assert len({group for group, _ in seen}) == 1
    assert [progress for _, progress in seen] == sorted(progress for _, progress in seen)


def test_no_websocket(url: str) -> None:
    """The page's own server has no WebSocket; those of the instances are elsewhere."""
    with pytest.raises(InvalidStatus), connect(url.replace("http", "ws") + "/ws"):
        raise AssertionError("unreachable")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_process_that_cannot_start(tmp_path: Path) -> None:
    """An instance whose process ends at once is an error, not a wait; what an instance refuses is one as well."""
    broken = Instance("A", ["serve", "--store", "nonsense://x"], {}, "s" * 40)
    with pytest.raises(NotifyError, match="did not start"):
        await broken.__aenter__()
    assert not broken.pid
    with pytest.raises(ValueError, match="null"):
        await Instance("A", [], {"NOTIFY": "\0"}, "").__aenter__()
    variables = {"NOTIFY_TOKEN_SECRET": "s" * 40, "NOTIFY_PUSH_SECRETS": "p" * 40}
    store = f"sqlite:///{tmp_path}/a.db"
    instance = Instance("A", ["serve", "--store", store, "--with-stdin"], variables, "p" * 40)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(instance.start)
        with anyio.fail_after(30):
            while not instance.is_running:  # noqa: ASYNC110 - until the process exists
                await anyio.sleep(0.001)
        assert not instance.is_serving
    assert instance.is_serving
    async with instance:
        with pytest.raises(UsageError, match="answered 422"):
            await instance.push({"user": "alice"})
        async with anyio.create_task_group() as tasks:
            ledger = Ledger(MemoryStreamStore(), ["alice"])
            traffic = Traffic([instance], ledger, ["alice"], tasks)
            await traffic.push("alice", "not a type", {})
            assert (ledger.pushed, ledger.in_flight) == ([], 0)
            assert (await ledger.verdict(is_calm=False))["ok"]
        await instance.kill()
        assert not instance.is_running
        with pytest.raises(OSError, match="instance A"):
            await instance.push({"user": "alice", "type": "t"})
        async with anyio.create_task_group() as tasks:  # two pages ask at the same time: one process
            tasks.start_soon(instance.start)
            tasks.start_soon(instance.start)
        assert instance.starts == 2
        assert instance.is_running
        await instance.kill()  # it is left although it has ended


class Stub:
    """An instance that answers what it is told to."""

    url = "http://127.0.0.1:1"

    def __init__(self, answer: str | OSError, *, is_serving: bool = True) -> None:
        self.answer = answer
        self.is_serving = is_serving

    async def push(self, order: dict[str, Any]) -> str:
        assert (order["user"], order["list"]) == ("demo.reader", True)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


@pytest.mark.anyio
async def test_an_item_goes_through_an_instance_that_answers() -> None:
    """One that does not answer, or has been killed, is passed over; if there is no other, the page is told so."""
    unused: Any = None
    reader = ("demo.reader", "Reader", "token")
    for stubs, body, status in (
        ({"A": Stub(OSError("gone")), "B": Stub("7-0")}, {"id": "7-0"}, 200),
        ({"A": Stub("6-0", is_serving=False), "B": Stub("7-0")}, {"id": "7-0"}, 200),
        ({"A": Stub(OSError("gone")), "B": Stub("7-0", is_serving=False)}, {"error": "no instance is running"}, 400),
    ):
        instances: Any = stubs
        app = DemoApp("demo", instances, unused, unused, {}, reader)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://demo") as client:
            answer = await client.post("/api/item", json={"title": "x"}, headers={"X-Notify-Demo": "1"})
        assert (answer.status_code, answer.json()) == (status, body)


def test_reports_are_checked(url: str) -> None:
    """A report is of a page that has been opened, of its devices, with ids; a page that is unknown is reloaded."""
    ask(url, "open", {"page": "p"})
    report = {"page": "p", "since": 0, "calm": False, "shown": [], "gaps": []}
    assert ask(url, "poll", {**report, "page": "never opened"}) == {"reload": True}
    assert ask(url, "poll", report)["verdict"]["ok"]
    for rows in ([["C/demo.alice", "1-0", 1]], [["A/demo.alice", "x", 1]], [["A/demo.alice"]], [7], 7, [[]]):
        ask(url, "poll", {**report, "shown": rows}, 400)
    for gaps in ([["A/demo.alice", "trimmed", "1-0", "x"]], [["A/demo.alice"]], [[]]):
        ask(url, "poll", {**report, "gaps": gaps}, 400)
    gap = ["A/demo.alice", "trimmed", "1-0", "1-0"]
    assert ask(url, "poll", {**report, "gaps": [gap]})["instances"]


def test_what_has_never_been_pushed_is_found(tmp_path: Path) -> None:
    """The verdict of the server is not a constant: an event that a page made up makes it red."""
    with demo(tmp_path, "--store", "sqlite:///own.db", "--prefix", "shop") as (command, url):
        assert ask(url, "rate", {"rate": 0}) == {}
        opened = ask(url, "open", {"page": "p"})
        report = {"page": "p", "since": 0, "calm": True, "gaps": []}
        made_up = [["A/demo.alice", "9999999999999-0", 10**6]]
        verdict = ask(url, "poll", {**report, "shown": made_up})["verdict"]
        for _ in range(50):
            verdict = ask(url, "poll", {**report, "shown": []})["verdict"]
            if not verdict["ok"]:
                break
            time.sleep(0.1)
        assert not verdict["ok"]
        assert verdict["violations"]
        assert {user["name"] for user in opened["users"]} == {"Alice", "Bob", "Carol"}
        command.process.send_signal(signal.SIGTERM)
        assert command.wait().status == 143
    assert (tmp_path / "own.db").exists()


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    """The demo is for this host and has users of its own."""
    for arguments, expected in (
        (["--host", "0.0.0.0"], "on this host only"),
        (["--host", "localhost"], "on this host only"),
        (["--user-header", "X-User", "--trust", "127.0.0.1"], "users of its own"),
        (["--origin", "https://a.example"], "users of its own"),
    ):
        done = notify(tmp_path, "serve", "--demo", *arguments)
        assert (done.status, done.out) == (2, "")
        assert expected in done.err


def test_instances_end_with_the_demo(tmp_path: Path) -> None:
    """A demo that is killed leaves no process behind, and a store that was named is used and stays."""
    options = ("--store", "sqlite:///kept.db", "--prefix", "shop")
    with demo(tmp_path, *options, "--with-stdin") as (command, url):
        ask(url, "open", {"page": "p"})
        report = {"page": "p", "since": 0, "calm": False, "shown": [], "gaps": []}
        processes = [instance["pid"] for instance in ask(url, "poll", report)["instances"]]
        assert len(set(processes)) == 2
        command.process.kill()
        command.wait()
        for pid in processes:
            gone(pid)
    assert (tmp_path / "kept.db").exists()
    assert "demo.alice: " in notify(tmp_path, "stats", "demo.alice", *options).out


def gone(pid: int) -> None:
    """Wait until a process has ended."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} goes on")


@pytest.mark.anyio
@pytest.mark.parametrize("shown", [[0, 1, 2], [0, 2], [0, 1, 1, 2], [1, 0, 2], [0, 1]], ids=json.dumps)
async def test_the_checker_of_the_server(shown: list[int]) -> None:
    """The ledger reads the log to know what should have come between two events."""
    store = MemoryStreamStore()
    async with Notifier(store) as pusher:
        await pusher.push("alice", "t", 0)
        ledger = Ledger(store, ["alice"])
        await ledger.prepare()
        starts = await ledger.open("p", [("A/alice", "alice")])
        assert starts["alice"] != "0"
        ids: list[str] = []
        for number in range(3):
            attempt = ledger.attempt("alice", number, f"k{number}")
            event = await pusher.push("alice", "t", number, key=f"k{number}")
            attempt.ok(event.id)
            ledger.acknowledged(Pushed(number, "alice", event.id, 0.0))
            ids.append(event.id)
        assert await ledger.shown("p", [["A/alice", ids[number], number] for number in shown], [])
        ledger._last_push -= 10
        verdict = await ledger.verdict(is_calm=True)
        assert verdict["ok"] == (shown == [0, 1, 2])
        assert verdict["pushed"] == 3
        assert verdict is not await ledger.verdict(is_calm=True)
        ledger._pages["p"].heard -= 60
        await ledger.verdict(is_calm=True)
        assert not await ledger.shown("p", [], [])
