"""The inbox of the demo: two browsers of one user, at two instances, stay in step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.cli.demo import demo
from tests.web.pages import chromium, screenshot

pytestmark = pytest.mark.slow

SOON = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with demo(tmp_path_factory.mktemp("demo")) as (command, started):
        yield started
        assert command.interrupt().status == 130


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_browsers(browser: Browser, url: str, scheme: str) -> None:
    """Sent, replaced, read, dismissed and restored: both lists and both numbers follow."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    sides = [page.locator(f".browser.{name}") for name in "ab"]
    start = [side.locator("article").count() for side in sides]
    for side in sides:
        expect(side.locator("article", has_text="Welcome to your inbox")).to_be_visible(timeout=SOON)
    page.get_by_role("button", name="Send to the inbox").click()
    for _ in range(2):
        page.get_by_role("button", name="Replace by group").click()
    for side in sides:
        expect(side.locator("article", has_text="Anna commented")).to_have_count(1, timeout=SOON)
        expect(side.locator("article", has_text="40 % done")).to_have_count(1, timeout=SOON)
    total = sides[0].locator("article").count()
    assert total >= max(start)
    badges = [side.locator(".bar [part=badge]") for side in sides]
    unread = int(badges[0].inner_text())
    sides[0].locator("article", has_text="Anna commented").locator("[part=dismiss]").click()
    for side, badge in zip(sides, badges, strict=True):
        expect(side.locator("article", has_text="Anna commented")).to_have_count(0, timeout=SOON)
        expect(badge).to_have_text(str(unread - 1), timeout=SOON)
    page.locator(".inbox").scroll_into_view_if_needed()
    screenshot(page, f"demo-inbox-{scheme}")
    sides[0].get_by_role("button", name="Undo").click()
    sides[1].get_by_role("button", name="Mark all read").click()
    for side, badge in zip(sides, badges, strict=True):
        expect(side.locator("article", has_text="Anna commented")).to_have_count(1, timeout=SOON)
        expect(badge).to_be_hidden(timeout=SOON)
    for side in sides:
        side.locator("article", has_text="Anna commented").locator("[part=dismiss]").click()
        break
    assert errors == []
    context.close()
