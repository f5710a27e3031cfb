"""Browsers and servers for the tests of the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.web.browser.scripted import Scripted, serving
from tests.web.pages import ARGUMENTS, PATIENCE


@pytest.fixture(scope="module")  # its event loop would stop the asynchronous tests that follow in the process
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=ARGUMENTS,
            timeout=4 * PATIENCE,
            ignore_default_args=["--disable-back-forward-cache"],
        )
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser profile of the test's own; an uncaught error of a page fails the test."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context
    context.close()
    assert errors == []


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def site(scripted: Scripted) -> Iterator[str]:
    with serving(scripted) as url:
        yield url


@pytest.fixture
def page(context: BrowserContext, site: str) -> Page:
    return opened(context, site)


def opened(context: BrowserContext, site: str) -> Page:
    """A tab that has loaded the client."""
    page = context.new_page()
    page.goto(site)
    page.wait_for_function("window.ready")
    return page


def until(page: Page, condition: str, timeout: float = PATIENCE / 1000) -> None:
    """Wait until an expression of the page is true."""
    try:
        page.wait_for_function(condition, timeout=1000 * timeout, polling=20)
    except PlaywrightTimeoutError:
        state = page.evaluate("JSON.stringify(window.got)")
        raise AssertionError(f"not within {timeout} s: {condition}; {state}") from None
