"""The programs of docs/howto/celery.md: real workers over a Redis broker submit from tasks, and send by Celery beat."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from notify import Notifier
from notify.dispatch import Dispatcher, Explanation, NotificationType, Recipient
from notify.dispatch.channels import InAppChannel, LogChannel
from notify.inbox import Inbox
from notify_sqlite import SQLiteDispatchStore, SQLiteStreamStore
from tests.servers import redis
from tests.sync.scripts import background, script, stop, wait_until
from tests.test_docs import ROOT, snippets

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "howto" / "celery.md"

ORDERS = range(4)

DIES = """

import signal
from celery import signals


@signals.task_success.connect
def die_once(sender, **_):
    if sender.name == ship.name:
        try:
            open("died", "x").close()
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""The first worker process that has run a task dies before it says so, and the task is run again."""


def write_programs(directory: Path) -> None:
    """Write the files of the page under the names that they begin with."""
    (directory / "shop").mkdir()
    (directory / "shop" / "__init__.py").touch()
    for block in snippets(PAGE, "python"):
        (name,) = re.findall(r"^# (shop/\w+\.py)\n", block.source)
        (directory / name).write_text(block.source)
    tasks, sending = directory / "shop" / "tasks.py", directory / "shop" / "sending.py"
    tasks.write_text(tasks.read_text() + DIES)
    source = sending.read_text()
    assert '"schedule": 5.0' in source
    sending.write_text(source.replace('"schedule": 5.0', '"schedule": 0.5'))  # only to save time


def titles(file: Path) -> list[str]:
    """Return the titles of alice's inbox, oldest first."""

    async def read() -> list[str]:
        async with SQLiteStreamStore(file) as log, Notifier(log) as notifier:
            page = await Inbox(notifier).list("alice", limit=100)
            return [item.event.payload["title"] for item in reversed(page.items)]

    return asyncio.run(read()) if file.exists() else []


def explained(file: Path, order: int) -> Explanation:
    """Return what became of the notification about an order, whose ticket its key leads to."""

    async def recipients(ids: object) -> list[Recipient]:
        return [Recipient("alice")]

    async def ask() -> Explanation:
        types = [NotificationType("order.shipped", channels=["in_app", "log"])]
        async with SQLiteStreamStore(file) as log, Notifier(log) as notifier, SQLiteDispatchStore(file) as store:
            inbox = Inbox(notifier)
            channels = {"in_app": InAppChannel(inbox), "log": LogChannel()}
            dispatcher = Dispatcher(inbox, store, types, channels, recipients=recipients)
            data = {"title": f"Order {order} is on its way"}
            ticket = await dispatcher.submit("order.shipped", "alice", data, idempotency_key=f"shipped:{order}")
            assert ticket is not None
            found = await dispatcher.explain(ticket.id, "alice")
            assert found is not None
            return found

    return asyncio.run(ask())


def test_celery(tmp_path: Path) -> None:
    """Each task notifies once, although one is run twice because its worker was killed; beat has it sent."""
    write_programs(tmp_path)
    file, log = tmp_path / "shop.db", tmp_path / "log"
    celery = (sys.executable, "-m", "celery", "-A", "shop.sending")
    worker = (*celery, "worker", "--beat", "--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO")
    with redis.single() as server, background(tmp_path, *worker, BROKER_URL=server.url, SHOP_DB=str(file)) as process:
        delay = f"for order in range({len(ORDERS)}): shop.tasks.ship.delay(order, 'alice')"
        done = script(tmp_path, f"import os\nos.environ['BROKER_URL'] = {server.url!r}\nimport shop.tasks\n{delay}")
        assert done.returncode == 0, done.stderr

        def is_done() -> bool:
            tasks = re.findall(r"Task shop\.tasks\.ship\[\S+\] succeeded", log.read_text())
            return len(tasks) >= len(ORDERS) and len(titles(file)) >= len(ORDERS)

        wait_until(lambda: is_done() or process.poll() is not None, "the tasks and what they submit", tmp_path)
        assert stop(process) == 0, log.read_text()
    assert (tmp_path / "died").exists()
    assert sorted(titles(file)) == [f"Order {order} is on its way" for order in ORDERS]
    for order in ORDERS:
        assert {each.state.name for each in explained(file, order).deliveries} == {"ACCEPTED"}
