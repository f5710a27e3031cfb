"""`SyncNotifier` in its frameworks: runserver of Django, Flask under gunicorn, prefork workers of Celery."""

from __future__ import annotations

import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from tests.sync.scripts import PATIENCE, background, background_module, events, script, stop, wait_until
from tests.web.servers import free_port

pytestmark = pytest.mark.slow


def request(url: str, method: str = "GET") -> tuple[int, str]:
    """Return the status and the body."""
    try:
        with urlopen(Request(url, method=method), timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def is_up(url: str) -> bool:
    try:
        return request(url)[0] > 0
    except (URLError, OSError):
        return False


# -- Django -------------------------------------------------------------------------------------------------------

SETTINGS = """
SECRET_KEY = "x"
DEBUG = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop"
INSTALLED_APPS = []
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}}
USE_TZ = True
NOTIFY_STORE = "sqlite:///a.db"
"""

SHOP = """
from functools import partial

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpResponse
from django.urls import path

from notify.sync import SyncNotifier

notifier = SyncNotifier.from_url(settings.NOTIFY_STORE)


def pay(request, order):
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO orders VALUES (%s)", [order])
        push = partial(notifier.push, "alice", "order.paid", {"order": order}, key=f"paid-{order}")
        transaction.on_commit(push, robust=True)
        if "fail" in request.GET:
            raise ValueError("no money")
    return HttpResponse("paid")


urlpatterns = [path("pay/<int:order>", pay), path("", lambda request: HttpResponse("up"))]
"""

MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
execute_from_command_line(sys.argv)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, source in (("settings", SETTINGS), ("shop", SHOP), ("manage", MANAGE)):
        (tmp_path / f"{name}.py").write_text(source)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        database.execute("CREATE TABLE orders (id int)")
    return tmp_path


def paid(directory: Path) -> list[int]:
    return [event.payload["order"] for event in events(directory / "a.db")]


@pytest.mark.parametrize("option", ["--noreload", "--nothreading", "--skip-checks"])
def test_django_runserver(project: Path, option: str) -> None:
    """Under `manage.py runserver`, threaded or not, with the reloader or not, each request's push after the commit is
    stored, the second as well as the first; a rolled back transaction notifies of nothing."""
    port = free_port()
    with background(project, sys.executable, "manage.py", "runserver", option, f"127.0.0.1:{port}") as server:
        where = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_up(where) or server.poll() is not None, "the server", project)
        for order in (1, 2, 3):
            assert request(f"{where}/pay/{order}") == (200, "paid"), (project / "log").read_text()
        assert request(f"{where}/pay/4?fail=1")[0] == 500
        assert request(f"{where}/pay/5") == (200, "paid")
        assert paid(project) == [1, 2, 3, 5]
        assert stop(server, signal.SIGINT) in (0, -signal.SIGINT)
    assert "on_commit" not in (project / "log").read_text()


def test_django_wsgi_and_asgi(project: Path) -> None:
    """The view works through Django's WSGI handler in several threads, and through its ASGI handler, which runs it in a
    thread; in an asynchronous view the push is refused with what to use."""
    source = """
    import asyncio, os, threading
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    import django
    django.setup()
    from django.core.handlers.asgi import ASGIHandler
    from django.test import AsyncClient, Client
    import shop
    from notify import UsageError

    def get(order): assert Client().get(f"/pay/{order}").status_code == 200
    threads = [threading.Thread(target=get, args=(order,)) for order in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

    async def use():
        for order in (4, 5): assert (await AsyncClient().get(f"/pay/{order}")).status_code == 200
        try: shop.notifier.push("alice", "a")
        except UsageError as error: print(error)
    asyncio.run(use())
    asyncio.run(use())
    """
    done = script(project, source)
    assert done.returncode == 0, done
    assert done.stdout.count("in async code make a Notifier and use `await notifier.push(...)`") == 2
    assert sorted(paid(project)) == [0, 1, 2, 3, 4, 5]


# -- Flask --------------------------------------------------------------------------------------------------------

FLASK = """
import os
from flask import Flask
from notify.sync import SyncNotifier

notifier = SyncNotifier.from_url("sqlite:///a.db")
notifier.push("alice", "imported", os.getpid())
app = Flask(__name__)


@app.get("/")
def up(): return "up"


@app.post("/pay/<int:order>")
def pay(order):
    notifier.push("alice", "order.paid", {"order": order, "pid": os.getpid()})
    return str(os.getpid())


@app.get("/next/<last>")
def following(last):
    with notifier.subscribe("alice", last) as stream:
        return stream.next(timeout=20).id
"""


@pytest.mark.parametrize("options", [("--preload",), ("--preload", "--threads", "4"), ()], ids=" ".join)
def test_flask_under_gunicorn(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Workers forked from a master that has pushed already each push through a notifier of their own, and read
    streams; SIGTERM ends them all within the usual time."""
    (tmp_path / "shop.py").write_text(FLASK)
    port = free_port()
    arguments = ("shop:app", "--workers", "2", "--bind", f"127.0.0.1:{port}", *options)
    with background_module(tmp_path, "gunicorn", *arguments) as server:
        where = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_up(where) or server.poll() is not None, "the server", tmp_path)
        workers: set[str] = set()
        orders = 0
        deadline = time.monotonic() + PATIENCE
        while len(workers) < 2 or orders < 10:
            assert time.monotonic() < deadline, (workers, (tmp_path / "log").read_text())
            status, pid = request(f"{where}/pay/{orders}", "POST")
            assert status == 200, (tmp_path / "log").read_text()
            workers.add(pid)
            orders += 1
        stored = events(tmp_path / "a.db")
        assert request(f"{where}/next/{stored[-2].id}") == (200, stored[-1].id)
        began = time.monotonic()
        assert stop(server) == 0
        assert time.monotonic() - began < 25
    assert [event.payload["order"] for event in stored if event.type == "order.paid"] == list(range(orders))
    imported = {event.payload for event in stored if event.type == "imported"}
    assert len(imported) == (1 if options else 2)
    assert {str(event.payload["pid"]) for event in stored if event.type == "order.paid"} == workers


# -- Celery -------------------------------------------------------------------------------------------------------

CELERY = """
import os
from pathlib import Path
from celery import Celery, signals
from notify.sync import SyncNotifier

for name in ("queue", "control"): Path(name).mkdir(exist_ok=True)
app = Celery("work", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
app.conf.worker_hijack_root_logger = False
app.conf.broker_connection_retry_on_startup = True
notifier = SyncNotifier.from_url("sqlite:///a.db")


@app.task
def export(number):
    notifier.push("alice", "export.ready", {"number": number, "pid": os.getpid()}, key=f"export-{number}")


@signals.worker_init.connect
def starting(**_): notifier.push("alice", "worker.starting", os.getpid())


@signals.worker_process_shutdown.connect
def close(**_): notifier.close()
"""


def test_celery_prefork(tmp_path: Path) -> None:
    """The children of a prefork worker, which has pushed before it forks, push from their tasks: each the second time
    as well as the first; the worker ends in order."""
    (tmp_path / "work.py").write_text(CELERY)
    arguments = ("-A", "work", "worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO")
    with background_module(tmp_path, "celery", *arguments) as worker:
        assert script(tmp_path, "import work\nfor number in range(12): work.export.delay(number)").returncode == 0
        wait_until(
            lambda: len(events(tmp_path / "a.db")) == 13 or worker.poll() is not None, "the tasks to be done", tmp_path
        )
        assert stop(worker) == 0
    stored = events(tmp_path / "a.db")
    assert [event.type for event in stored] == ["worker.starting"] + ["export.ready"] * 12, (
        tmp_path / "log"
    ).read_text()
    assert sorted(event.payload["number"] for event in stored[1:]) == list(range(12))
    pids = {event.payload["pid"] for event in stored[1:]}
    assert stored[0].payload not in pids
    assert "raised unexpected" not in (tmp_path / "log").read_text()
