"""The programs of docs/howto/web.md and from-others.md, run as they stand on the page by a real server."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx_sse
import pytest
from playwright.sync_api import Browser, Page

from tests.cli.commands import notify
from tests.test_docs import ROOT, Snippet, snippets
from tests.web.pages import chromium
from tests.web.servers import PATIENCE, WebServer, free_port

WEB = ROOT / "docs" / "howto" / "web.md"
OTHERS = ROOT / "docs" / "howto" / "from-others.md"
AUTH = ROOT / "docs" / "howto" / "auth.md"
FRAMEWORKS = ("FastAPI", "Starlette", "Litestar", "Django", "Quart")
OUTSIDE = "aiohttp"
"""The framework whose program is longer, and serves by itself."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """An empty tab in a browser profile of its own."""
    tab = browser.new_page()
    yield tab
    tab.close()


def program(page: Path, heading: str, level: int = 2) -> str:
    """The Python snippet below a heading."""
    text = page.read_text(encoding="utf-8")
    start = text.index(f"\n{'#' * level} {heading}\n")
    line = text.count("\n", 0, start) + 1
    return next(block for block in snippets(page, "python") if block.line > line).source


def html() -> str:
    (block,) = snippets(WEB, "html")
    return block.source


@contextmanager
def serving(
    directory: Path, source: str, port: int | None = None, ready: str = "/", *, killed: bool = False
) -> Iterator[str]:
    """Run a program as app.py, beside page.html, and yield its URL; `killed` ends it by SIGKILL."""
    (directory / "app.py").write_text(source, encoding="utf-8")
    (directory / "page.html").write_text(html(), encoding="utf-8")
    run_here = f"import os; os.chdir({str(directory)!r}); from app import app"
    (directory / "here.py").write_text(run_here, encoding="utf-8")  # as in a terminal: files are found beside it
    with WebServer("uvicorn", "here:app", directory, port=port, ready=ready) as server:
        yield server.url
        if killed:
            server.kill()


class Stream:
    """An EventSource of a Python program."""

    def __init__(self, response: httpx.Response) -> None:
        self._events = httpx_sse.EventSource(response).iter_sse()

    def next(self, name: str = "message") -> Any:
        """Skip to the next event of this name and return its data."""
        return next(event for event in self._events if event.event == name).json()


@contextmanager
def stream(url: str, path: str, **options: Any) -> Iterator[Stream]:
    with (
        httpx.Client(base_url=url, timeout=30) as client,
        client.stream("GET", path, headers={"accept": "text/event-stream"}, **options) as response,
    ):
        assert response.status_code == 200, response.read()
        yield Stream(response)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_program_of_a_framework(framework: str, tmp_path: Path) -> None:
    """The program is short, serves the two lines, and what its endpoint pushes arrives at once; a client that was away
    gets what it missed, also from a new process, and by polling."""
    source = program(WEB, framework)
    with serving(tmp_path, source) as url:
        page = httpx.get(url)
        assert (page.status_code, page.text) == (200, html())
        assert page.headers["content-type"].startswith("text/html")
        assert "customElements" in httpx.get(f"{url}/notify/components.js").text
        with stream(url, "/notify/stream") as events:
            position = events.next("notify.sync")["position"]
            assert httpx.post(f"{url}/hello").status_code in (200, 201, 204)
            received = events.next()
            assert received["payload"] == {"title": "Hello", "message": f"from {framework}"}
            assert (received["user"], received["type"]) == ("alice", "generic")
        assert httpx.post(f"{url}/hello").status_code in (200, 201, 204)
    with serving(tmp_path, source) as url, stream(url, "/notify/stream", params={"last_id": position}) as events:
        assert events.next()["id"] == received["id"]
        assert events.next()["payload"] == received["payload"]
        assert events.next("notify.sync")


def test_the_program_with_an_inbox(tmp_path: Path) -> None:
    """What its endpoint sends is listed, counted and dismissed; a topic among the addresses may be followed."""
    with serving(tmp_path, program(WEB, "With an inbox"), ready="/notify/health") as url:
        with stream(url, "/notify/stream") as events:
            assert events.next("notify.sync")["unread"] == 0
            assert httpx.post(f"{url}/hello").status_code == 200
            item = events.next()
            assert item["item"] == {}
            assert events.next("notify.counts")["unread"] == 1
            page = httpx.get(f"{url}/notify/inbox").json()
            assert [each["id"] for each in page["items"]] == [item["id"]]
            assert httpx.delete(f"{url}/notify/inbox/{item['id']}").json()["ids"] == [item["id"]]
            assert events.next()["type"] == "notify.dismissed"
            assert events.next("notify.counts")["total"] == 0
        assert httpx.post(f"{url}/notify/follow", json={"topic": "news"}).status_code == 200
        assert httpx.post(f"{url}/notify/follow", json={"topic": "bob"}).status_code == 403


def test_the_rule_of_who_may_follow() -> None:
    """It lets in what it names, and nothing else."""
    (block,) = (block for block in snippets(WEB, "python") if "authorize_follow=" in block.source)

    async def follow() -> None:
        names: dict[str, Any] = {}
        exec(block.source, names)
        transport = httpx.ASGITransport(names["app"])
        async with names["notifier"], httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for topic, status in (("blog:tech", 200), ("bob", 403), ("blog:tech\u00e9", 403)):
                assert (await client.post("/follow", json={"topic": topic})).status_code == status

    with ThreadPoolExecutor(1) as thread:  # the browser's driver may be running an event loop in the test's thread
        thread.submit(anyio.run, follow).result()


@pytest.mark.parametrize("framework", [*FRAMEWORKS, OUTSIDE])
def test_the_two_lines_in_a_browser(framework: str, tab: Page, tmp_path: Path) -> None:
    """The two lines show what the program pushes, in Chromium. The server is killed, and the command of the page
    pushes: the toast appears once the server is back, in a page that is loaded again; one that stayed open goes on."""
    console = "".join(block.source for block in snippets(WEB, "console"))
    (command,) = (line for line in console.splitlines() if line.startswith("notify push"))
    port = free_port()
    with killed_in_the_end(framework, tmp_path, port) as url:
        tab.goto(url)
        is_connected(tab)
        hello(tab, framework, url)
    done = notify(tmp_path, *shlex.split(command)[1:])
    assert done.status == 0, done.err
    with killed_in_the_end(framework, tmp_path, port) as url:
        tab.reload()
        tab.get_by_text("While down").wait_for(timeout=10_000)
        assert tab.get_by_text(f"from {framework}").count() == 0, "shown before, and dismissed"
    with killed_in_the_end(framework, tmp_path, port) as url:
        is_connected(tab)
        hello(tab, framework, url)


def killed_in_the_end(framework: str, directory: Path, port: int) -> AbstractContextManager[str]:
    """Run the program of a framework, and end it by SIGKILL."""
    source = program(WEB, framework)
    run = running if framework == OUTSIDE else serving
    return run(directory, source, port, killed=True)


def is_connected(tab: Page) -> None:
    tab.wait_for_function("window.notifyClient?.status === 'connected'", timeout=30_000)


def hello(tab: Page, framework: str, url: str) -> None:
    """Let the program push, and dismiss the toast."""
    assert httpx.post(f"{url}/hello").status_code in (200, 201, 204)
    toast = tab.locator("notify-toasts [part~=toast]", has_text=f"from {framework}")
    toast.wait_for(timeout=10_000)
    toast.get_by_role("button", name=re.compile("close|dismiss", re.IGNORECASE)).click()
    toast.wait_for(state="detached", timeout=10_000)


def test_the_programs_are_ten_lines() -> None:
    """Without imports, blank lines and what the example pushes, the part that is about notifications stays short."""
    for framework in FRAMEWORKS:
        lines = [line for line in program(WEB, framework).splitlines() if line.strip()]
        assert len([line for line in lines if "import" not in line]) <= 14, framework
    assert len(html().splitlines()) == 2


@pytest.mark.parametrize(
    ("heading", "path"),
    [("An endpoint of your own", "/live/stream"), ("Close the notifier", "/notify/stream")],
)
def test_further_programs(heading: str, path: str, tmp_path: Path) -> None:
    """So do the others of the page; another process pushes."""
    (tmp_path / "page.html").write_text("")
    with serving(tmp_path, program(WEB, heading)) as url, stream(url, path) as events:
        assert events.next("notify.sync")
        push(tmp_path)
        assert events.next()["payload"] == {"post": 7}


def test_an_endpoint_of_your_own_in_a_browser(tab: Page, tmp_path: Path) -> None:
    """`EventSource` as the page shows it, and `connect` with the path above `/stream`, receive what is pushed."""
    (script,) = (block.source for block in snippets(WEB, "js") if "/live/stream" in block.source)
    source = program(WEB, "An endpoint of your own") + (
        "\nfrom notify.web import NotifyApp\n"
        'app.mount("/notify", NotifyApp(notifier, lambda request: None))\n'
        'app.get("/")(lambda: Response("<title>live</title>", media_type="text/html"))\n'
    )
    with serving(tmp_path, source) as url:
        said = list[str]()
        tab.on("console", lambda message: said.append(message.text))
        tab.goto(url)
        tab.evaluate(script.rstrip().removesuffix(";").join(("void (", ")")))
        tab.evaluate(
            """async () => {
                const { connect } = await import("/notify/client.js");
                globalThis.received = [];
                globalThis.client = connect("/live", { share: false });
                client.on("comment", ({ payload }) => received.push(payload.post));
            }"""
        )
        tab.wait_for_function("client.status === 'connected'", timeout=30_000)
        push(tmp_path)
        tab.wait_for_function("received.length === 1 && received[0] === 7", timeout=10_000)
        while not any("post: 7" in text for text in said):
            push(tmp_path)  # again: an EventSource does not say when its stream is attached
            tab.wait_for_timeout(200)


def test_the_plain_response(tmp_path: Path) -> None:
    """The framework's own response works as the page shows it."""
    with serving(tmp_path, program(WEB, "The framework's own streaming response")) as url:
        with httpx.Client(base_url=url, timeout=30) as client, client.stream("GET", "/live") as response:
            push(tmp_path)
            assert next(response.iter_lines()) == 'data: {"post": 7}'


def push(directory: Path) -> None:
    """Push from the command line, into the store that the programs name."""
    done = notify(directory, "push", "alice", "comment", '{"post": 7}', "--store", "sqlite:///notify.db")
    assert done.status == 0, done.err


@contextmanager
def running(directory: Path, source: str, port: int, *, killed: bool = False) -> Iterator[str]:
    """Run a program that serves by itself at port 8000, here at another one; `killed` ends it by SIGKILL."""
    assert "port=8000" in source
    (directory / "app.py").write_text(source.replace("port=8000", f"port={port}"), encoding="utf-8")
    (directory / "page.html").write_text(html(), encoding="utf-8")
    with process_at(port, [sys.executable, "app.py"], killed, cwd=directory, env={"PYTHONPATH": str(ROOT)}):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def process_at(
    port: int, command: list[str], killed: bool = False, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until it listens, and end it; its output is in the report of a test that fails."""
    process = subprocess.Popen(command, **options)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 2):
                break
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        yield process
    finally:
        process.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
        process.wait(PATIENCE)


def test_aiohttp(tmp_path: Path) -> None:
    """The recipe for aiohttp streams, resumes, serves the client's files, and refuses other sites."""
    with running(tmp_path, program(WEB, OUTSIDE), free_port()) as url:
        assert httpx.get(url).text == html()
        assert "customElements" in httpx.get(f"{url}/notify/components.js").text
        with stream(url, "/notify/stream") as events:
            position = events.next("notify.sync")["position"]
            assert httpx.post(f"{url}/hello").status_code == 204
            first = events.next()
            assert first["payload"]["message"] == "from aiohttp"
        with stream(url, "/notify/stream", params={"lastEventId": position}) as events:
            assert events.next() == first
        refused = httpx.get(f"{url}/notify/stream", headers={"sec-fetch-site": "cross-site"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "cross_site")


def test_from_others(tmp_path: Path) -> None:
    """The application of the page for users of other libraries serves what its sections say."""
    wanted = ("import", "@app.get", "app.mount")
    blocks: list[Snippet] = [
        block for block in snippets(OTHERS, "python") if any(word in block.source for word in wanted)
    ]
    source = "\n".join(re.sub(r"^await notifier.push.*$", "", block.source, flags=re.MULTILINE) for block in blocks)
    source += (
        '\n@app.post("/push")\nasync def push() -> None:\n    await notifier.push("alice", "comment", {"post": 7})\n'
    )
    with serving(tmp_path, source) as url:
        for path in ("/events?user=alice", "/notify/stream?user=alice"):
            with stream(url, path) as events:
                events.next("notify.sync")
                httpx.post(f"{url}/push")
                assert events.next()["payload"] == {"post": 7}
        with stream(url, "/events?user=alice&events=typed&last_id=0") as events:
            assert events.next("comment")["payload"] == {"post": 7}


# -- docs/howto/sync-frameworks.md --------------------------------------------------------------------------------

SYNC = ROOT / "docs" / "howto" / "sync-frameworks.md"


def files_of(page: Path, directory: Path) -> None:
    """Write each Python snippet to the file that its first line names."""
    for block in snippets(page, "python"):
        name = re.match(r"# (\S+\.py): ", block.source)
        assert name is not None, block.line
        file = directory / name[1]
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.source, encoding="utf-8")


ENVIRONMENT = {"SECRET_KEY": "for tests", "NOTIFY_STORE": "sqlite:///notify.db"}


def in_store(directory: Path) -> dict[str, str]:
    return {**ENVIRONMENT, "NOTIFY_STORE": f"sqlite:///{directory / 'notify.db'}"}


def test_flask_beside_streams(tmp_path: Path) -> None:
    """Flask under gunicorn pushes; the ASGI process beside it reads Flask's session and streams to its user alone."""
    files_of(SYNC, tmp_path)
    env = in_store(tmp_path)
    with (
        WebServer("uvicorn", "streams:app", tmp_path, env=env) as streams,
        running_gunicorn(tmp_path, env) as shop,
        httpx.Client(base_url=shop, timeout=30) as visitor,
    ):
        assert httpx.get(f"{streams.url}/notify/stream").status_code == 401
        assert httpx.get(f"{streams.url}/notify/stream", cookies={"session": "forged"}).status_code == 401
        assert visitor.post("/login/alice").text == "hello"
        before = visitor.get("/news").json()["position"]
        with stream(streams.url, "/notify/stream", cookies=dict(visitor.cookies)) as events:
            events.next("notify.sync")
            assert visitor.post("/pay/7").text == "paid"
            received = events.next()
            assert (received["user"], received["payload"]) == ("alice", {"order": 7})
        polled = visitor.get("/news", params={"after": before}).json()
        assert [event["id"] for event in polled["events"]] == [received["id"]]
        assert visitor.get("/news", params={"after": polled["position"]}).json()["events"] == []


@contextmanager
def running_gunicorn(directory: Path, env: dict[str, str]) -> Iterator[str]:
    """Run the shop by the command of the page, with the view that polls, on another port."""
    (command,) = re.findall(r"run it with `(gunicorn [^`]*)`", SYNC.read_text(encoding="utf-8"))
    assert ":8000" in command
    port = free_port()
    arguments = shlex.split(command.replace(":8000", f":{port}").replace("shop:app", "polling:app"))
    options: dict[str, Any] = {"cwd": directory, "env": {"PYTHONPATH": str(ROOT), **env}}
    with process_at(port, [sys.executable, "-m", *arguments], **options):
        yield f"http://127.0.0.1:{port}"


def test_flask_in_one_process(tmp_path: Path) -> None:
    """Both in one uvicorn, by `mount` and asgiref."""
    files_of(SYNC, tmp_path)
    with (
        WebServer("uvicorn", "both:app", tmp_path, env=in_store(tmp_path)) as server,
        httpx.Client(base_url=server.url, timeout=30) as visitor,
    ):
        visitor.post("/login/alice")
        with stream(server.url, "/notify/stream", cookies=dict(visitor.cookies)) as events:
            events.next("notify.sync")
            assert visitor.post("/pay/7").text == "paid"
            assert events.next()["payload"] == {"order": 7}


SETTINGS = """
SECRET_KEY = "x"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shopsite.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware", "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "@/shop.db"}}
NOTIFY_STORE = "sqlite:///@/notify.db"
USE_TZ = True
"""

URLS = """
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from notify.sync import SyncNotifier

notifier = SyncNotifier.from_url(settings.NOTIFY_STORE)

def pay(request):
    notifier.push(request.user.get_username(), "order.paid", {"order": 7})
    return HttpResponse("paid")

urlpatterns = [path("pay", pay)]
"""

LOGIN = """
import django, os
os.environ["DJANGO_SETTINGS_MODULE"] = "shopsite.settings"
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.create_user("alice"))
print(client.cookies["sessionid"].value)
"""


def django_project(directory: Path, settings: str = "") -> dict[str, str]:
    """Write the project of the page, with the function of auth.md; return the cookies of a user who is logged in."""
    files_of(SYNC, directory)
    project = directory / "shopsite"
    (project / "streams.py").write_text(program(AUTH, "Django", level=3), encoding="utf-8")
    (project / "settings.py").write_text(SETTINGS.replace("@", str(directory)) + settings)
    (project / "urls.py").write_text(URLS)
    done = subprocess.run(
        [sys.executable, "-c", LOGIN],
        cwd=directory, env={"PYTHONPATH": f"{directory}:{ROOT}"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {"sessionid": done.stdout.strip()}


def pays(url: str, cookies: dict[str, str], events: Stream) -> None:
    """What a view of the project pushes arrives in the stream of its user."""
    events.next("notify.sync")
    assert httpx.get(f"{url}/pay", cookies=cookies).text == "paid"
    received = events.next()
    assert (received["user"], received["payload"]) == ("alice", {"order": 7})


def test_django_session(tmp_path: Path) -> None:
    """The `asgi.py` of the page streams to the user of Django's session, found by the function of auth.md; the
    project's own views work beside it."""
    cookies = django_project(tmp_path)
    with WebServer("uvicorn", "shopsite.asgi:application", tmp_path) as server:
        assert httpx.get(f"{server.url}/notify/stream").status_code == 401
        with stream(server.url, "/notify/stream", cookies=cookies) as events:
            pays(server.url, cookies, events)


def test_django_under_runserver(tmp_path: Path) -> None:
    """With daphne among the applications and `ASGI_APPLICATION`, `runserver` streams; Ctrl-C ends it at once."""
    asgi = 'INSTALLED_APPS.insert(0, "daphne")\nASGI_APPLICATION = "shopsite.asgi.application"\n'
    cookies, port = django_project(tmp_path, asgi), free_port()
    command = [sys.executable, "-m", "django", "runserver", "--noreload", str(port)]
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "DJANGO_SETTINGS_MODULE": "shopsite.settings"}
    with process_at(port, command, cwd=tmp_path, env=env) as process:
        url = f"http://127.0.0.1:{port}"
        with stream(url, "/notify/stream", cookies=cookies) as events:
            pays(url, cookies, events)
            process.send_signal(signal.SIGINT)
            assert events.next("notify.end")["reason"] == "shutdown"
            process.wait(PATIENCE)
