"""The published package: its types, and the hook in a real React application."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from tests.web.browser.conftest import until
from tests.web.browser.inbox_server import InboxServer
from tests.web.browser.scripted import Scripted, serving
from tests.web.node import HERE, install

CLIENT = Path(str(files("notify.web") / "client"))

pytestmark = pytest.mark.timeout(300)  # what is missing is installed first

APP = """
import { StrictMode, createElement as make, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { useNotify } from 'notify-streams/react';

function Notes({ token }) {
  const auth = () => ({ Authorization: token });
  const { status, connected, events, last } = useNotify('/notify', { share: false, key: token, auth, limit: 3 });
  window.notes = { status, connected, payloads: events.map((event) => event.payload), last: last?.payload };
  return make('p', { id: 'notes' }, `${status} ${events.map((event) => event.payload).join()}`);
}

function App() {
  const [token, setToken] = useState('one');
  window.setToken = setToken;
  return token && make(Notes, { token });
}

createRoot(document.querySelector('#root')).render(make(StrictMode, null, make(App)));
"""

INBOX = """
import { StrictMode, createElement as make, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { useInbox } from 'notify-streams/react';

function List({ filter }) {
  const inbox = useInbox('/notify', { share: false, key: filter, filter });
  const { items, counts } = inbox;
  window.inbox = inbox;
  return make('p', { id: 'list' }, `${counts.unread}: ${items.map(({ payload }) => payload).join()}`);
}

function App() {
  const [filter, setFilter] = useState('active');
  window.setFilter = setFilter;
  return filter && make(List, { filter });
}

createRoot(document.querySelector('#root')).render(make(StrictMode, null, make(App)));
"""

SHOWN_AGAIN = """
import { Activity, createElement as make, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { useNotify } from 'notify-streams/react';

function Notes() {
  const { connected, events } = useNotify(new URL('/notify', location), { share: false, lastId: '0' });
  window.notes = { connected, payloads: events.map((event) => event.payload) };
}

function App() {
  const [mode, setMode] = useState('visible');
  window.setMode = setMode;
  return make(Activity, { mode }, make(Notes));
}

createRoot(document.querySelector('#root')).render(make(App));
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has installed the package and React."""
    folder = tmp_path_factory.mktemp("project")
    modules = folder / "node_modules"
    shutil.copytree(CLIENT, modules / "notify-streams")
    for package in (install(HERE / "npm-client") / "node_modules").iterdir():
        if not package.name.startswith(".package"):
            (modules / package.name).symlink_to(package)
    return folder


def run(project: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=240, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_types(project: Path) -> None:
    """The compiler accepts the ways in which the client is meant to be used, and refuses others."""
    shutil.copy(HERE / "npm-client" / "types.ts", project)
    options = ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--types", ""]
    for resolution in (["--module", "nodenext"], ["--module", "esnext", "--moduleResolution", "bundler"]):
        run(project, "node", "node_modules/typescript/bin/tsc", *options, *resolution, "types.ts")


def test_the_hook(project: Path, context: BrowserContext, site: str, scripted: Scripted) -> None:
    """Connects with the component and its token, again when that changes, and ends with it; also in strict mode."""
    (project / "app.js").write_text(APP)
    bundled = ["--bundle", "--format=esm", "--outfile=bundle.js", "--log-level=error"]
    run(project, "node_modules/esbuild/bin/esbuild", "app.js", '--define:process.env.NODE_ENV="development"', *bundled)
    scripted.files["/react"] = (
        "text/html",
        b"<!doctype html><div id=root></div><script type=module src=/bundle></script>",
    )
    scripted.files["/bundle"] = ("text/javascript", (project / "bundle.js").read_bytes())
    page = context.new_page()
    page.goto(f"{site}/react")
    until(page, "window.notes?.connected")
    for number in range(1, 6):
        scripted.push(number)
    until(page, "notes.last === 5")
    assert page.evaluate("notes.payloads") == [5, 4, 3]
    assert page.inner_text("#notes") == "connected 5,4,3"
    scripted.push("25 %", group="upload")
    scripted.push("50 %", group="upload")
    until(page, "notes.last === '50 %'")
    assert page.evaluate("notes.payloads") == ["50 %", 5, 4]
    page.evaluate("setToken('two')")
    until(page, "notes.payloads.length === 0 && notes.connected")
    scripted.push(6)
    until(page, "notes.last === 6")
    assert scripted.open == 1
    assert [seen.headers["authorization"] for seen in scripted.requests("/stream")][-1] == "two"
    page.evaluate("setToken('')")
    until(page, "document.querySelector('#notes') === null")
    scripted.settle(0)


def test_a_component_that_is_shown_again(project: Path, context: BrowserContext, site: str, scripted: Scripted) -> None:
    """It resumes without repeating events; a URL object that each render creates makes one connection."""
    (project / "shown.js").write_text(SHOWN_AGAIN)
    bundled = ["--bundle", "--format=esm", "--outfile=shown.bundle.js", "--log-level=error"]
    run(
        project, "node_modules/esbuild/bin/esbuild", "shown.js", '--define:process.env.NODE_ENV="development"', *bundled
    )
    text = b"<!doctype html><div id=root></div><script type=module src=/bundle></script>"
    scripted.files["/react"] = ("text/html", text)
    scripted.files["/bundle"] = ("text/javascript", (project / "shown.bundle.js").read_bytes())
    scripted.push("one")
    page = context.new_page()
    page.goto(f"{site}/react")
    until(page, "window.notes?.connected && notes.payloads.join() === 'one'")
    assert len(scripted.requests("/stream")) == 1
    page.evaluate("setMode('hidden')")
    while scripted.open:
        page.wait_for_timeout(10)
    scripted.push("two")
    page.evaluate("setMode('visible')")
    until(page, "notes.connected && notes.payloads.length > 1")
    assert page.evaluate("notes.payloads") == ["two", "one"]
    assert len(scripted.requests("/stream")) == 2


def test_the_hook_of_the_inbox(project: Path, context: BrowserContext) -> None:
    """Items and counts follow the stream and what the component does; another key opens another list."""
    server = InboxServer()
    (project / "inbox.js").write_text(INBOX)
    bundled = ["--bundle", "--format=esm", "--outfile=inbox.bundle.js", "--log-level=error"]
    run(
        project, "node_modules/esbuild/bin/esbuild", "inbox.js", '--define:process.env.NODE_ENV="development"', *bundled
    )
    page_text = b"<!doctype html><div id=root></div><script type=module src=/bundle></script>"
    server.files = {
        "/react": ("text/html", page_text),
        "/bundle": ("text/javascript", (project / "inbox.bundle.js").read_bytes()),
    }
    server.send("one")
    with serving(server) as site:
        page = context.new_page()
        page.goto(f"{site}/react")
        until(page, "document.querySelector('#list')?.innerText === '1: one'")
        server.send("two")
        until(page, "document.querySelector('#list').innerText === '2: two,one'")
        page.evaluate("void inbox.dismiss(inbox.items[1])")
        until(page, "document.querySelector('#list').innerText === '1: two'")
        page.evaluate("setFilter('dismissed')")
        until(page, "document.querySelector('#list').innerText === '1: one'")
        assert server.open == 1
        page.evaluate("setFilter('')")
        until(page, "document.querySelector('#list') === null")
        page.close()
