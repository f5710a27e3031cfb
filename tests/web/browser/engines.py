"""One way to drive three browser engines: Chromium by playwright, Firefox by puppeteer, WebKitGTK by selenium.

Chromium is always there; `BROWSERS="firefox webkit"` in the environment adds the others, as `make test-browsers` does.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from playwright.sync_api import BrowserContext
from selenium import webdriver
from selenium.webdriver.webkitgtk.options import Options
from selenium.webdriver.webkitgtk.service import Service

from tests.web.node import HERE, install

ENGINES = ("chromium", *os.environ.get("BROWSERS", "").split())

MINI_BROWSER = "/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser"


class Tab(Protocol):
    """A tab of a browser."""

    def go(self, url: str) -> None:
        """Load a page."""

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""

    def picture(self, path: str) -> None:
        """Write a PNG of what is visible to a file."""

    def close(self) -> None:
        """Close the tab."""


class Engine(Protocol):
    """A browser with an empty profile."""

    def tab(self) -> Tab:
        """Open a tab."""


def until(tab: Tab, condition: str, seconds: float = 30) -> None:
    """Wait until an expression of the page is true."""
    end = time.monotonic() + seconds
    while not _is_true(tab, condition):
        assert time.monotonic() < end, f"not within {seconds} s: {condition}; {tab.js('JSON.stringify(window.got)')}"
        time.sleep(0.02)


def _is_true(tab: Tab, condition: str) -> bool:
    try:
        return bool(tab.js(f"!!({condition})"))
    except Exception:
        return False  # the page is just being replaced, which each driver says in its own way


@contextmanager
def launched(name: str) -> Iterator[Engine]:
    """Run a browser other than Chromium."""
    with {"firefox": firefox, "webkit": webkit}[name]() as engine:
        yield engine


def chromium_of(context: BrowserContext) -> Engine:
    """Wrap a profile of a running Chromium."""

    class ChromiumTab:
        def __init__(self) -> None:
            self.page = context.new_page()
            self.close = self.page.close

        def go(self, url: str) -> None:
            self.page.goto(url)

        def js(self, expression: str) -> Any:
            return self.page.evaluate(f"() => {{ const value = {expression}; return value; }}")

        def picture(self, path: str) -> None:
            self.page.screenshot(path=path)

    class Chromium:
        tab = ChromiumTab

    return Chromium()


@contextmanager
def firefox() -> Iterator[Engine]:
    """Run Firefox."""
    folder = install(HERE / "npm-browsers")
    process = subprocess.Popen(
        ["node", "firefox.mjs"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == '"ready"\n'

    def call(command: str, **arguments: Any) -> Any:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert "error" not in answer, answer
        return answer["value"]

    class FirefoxTab:
        def __init__(self) -> None:
            self.number = call("open")

        def go(self, url: str) -> None:
            call("go", page=self.number, url=url)

        def js(self, expression: str) -> Any:
            return call("run", page=self.number, code=f"(() => {{ const value = {expression}; return value; }})()")

        def picture(self, path: str) -> None:
            call("picture", page=self.number, path=path)

        def close(self) -> None:
            call("close", page=self.number)

    class Firefox:
        tab = FirefoxTab

    try:
        yield Firefox()
    finally:
        process.communicate('{"do": "quit"}\n', 90)


@contextmanager
def webkit() -> Iterator[Engine]:
    """Run WebKitGTK's MiniBrowser on a display of its own."""
    with display(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # selenium's own
        options = Options()
        options.binary_location = MINI_BROWSER
        options.add_argument("--automation")
        driver = webdriver.WebKitGTK(options=options, service=Service("/usr/bin/WebKitWebDriver"))
        try:
            yield webkit_of(driver)
        finally:
            driver.quit()


@contextmanager
def display() -> Iterator[None]:
    """Run an X server that shows nothing."""
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "1280x900x24"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout
            os.environ["DISPLAY"] = f":{server.stdout.readline().strip()}"
            yield
        finally:
            server.terminate()


def webkit_of(driver: webdriver.WebKitGTK) -> Engine:
    """Wrap a driver."""
    unused = [driver.current_window_handle]

    class WebKitTab:
        def __init__(self) -> None:
            if not unused:
                driver.switch_to.new_window("tab")
                unused.append(driver.current_window_handle)
            self.handle = unused.pop()

        def go(self, url: str) -> None:
            driver.switch_to.window(self.handle)
            driver.get(url)

        def js(self, expression: str) -> Any:
            driver.switch_to.window(self.handle)
            return driver.execute_script(f"const value = {expression}; return value;")

        def picture(self, path: str) -> None:
            driver.switch_to.window(self.handle)
            assert driver.save_screenshot(path)

        def close(self) -> None:
            driver.switch_to.window(self.handle)
            driver.close()

    class WebKit:
        tab = WebKitTab

    return WebKit()
