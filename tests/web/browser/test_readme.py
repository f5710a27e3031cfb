"""The page of the README, as a reader gets it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.test_docs import README, snippets
from tests.web.browser.scripted import serving
from tests.web.pages import screenshot

pytestmark = pytest.mark.slow


def test_the_page_shows_a_toast(chromium: Browser) -> None:
    """The lines for FastAPI serve a page at the root of the site; what is pushed shows as a toast there."""
    (source,) = (each.source for each in snippets(README, "python") if "FastAPI" in each.source)
    made: dict[str, Any] = {}
    with ThreadPoolExecutor() as pool:  # in this thread, Playwright's event loop runs
        pool.submit(exec, compile(source, "README.md", "exec"), made).result()
    app, notifier = made["app"], made["notifier"]

    async def push() -> None:
        await notifier.push("alice", "generic", {"title": "Hello"})

    app.post("/push")(push)
    app.get("/open")(lambda: notifier.statistics().open_streams)
    with serving(app) as url:
        page = chromium.new_page()
        assert page.goto(url).status == 200  # type: ignore[union-attr]
        page.wait_for_function("fetch('/open').then((answer) => answer.json())", polling=50)
        httpx.post(f"{url}/push", timeout=30).raise_for_status()
        expect(page.get_by_text("Hello")).to_be_visible(timeout=30_000)
        screenshot(page, "readme")
        page.close()
