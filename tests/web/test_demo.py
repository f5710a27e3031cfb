"""The demo of `notify serve --demo` in a real browser: faults on demand, and the verdict that survives them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.cli.demo import demo
from tests.web.pages import ROOT, chromium, screenshot, settled, site

pytestmark = pytest.mark.slow


SOON = 30_000
"""Milliseconds within which everything here has to happen, on a busy machine."""

expect.set_options(timeout=SOON)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with demo(tmp_path_factory.mktemp("demo")) as (command, started):
        yield started
        assert command.interrupt().status == 130
        assert "Traceback" not in "\n".join(command.err)


@contextmanager
def opened(browser: Browser, url: str, width: int = 1400, height: int = 868, **options: Any) -> Iterator[Page]:
    """The page, with every device connected."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    page.set_default_timeout(SOON)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.locator("#rates label", has_text="4").click()
    all_is_well(page)
    try:
        yield page
        assert not errors, errors
    finally:
        context.close()


def all_is_well(page: Page) -> None:
    """Wait until every device is connected and everything has been shown."""
    expect(page.locator("#verdict")).to_have_attribute("data-state", "ok", timeout=SOON)


def count(page: Page, name: str) -> int:
    return int((page.locator(f"[data-count={name}]").text_content() or "").replace(",", ""))


def quiet(page: Page) -> None:
    """Wait for what was on its way when the traffic was switched off."""
    pushed = -1
    while pushed != count(page, "pushed"):
        pushed = count(page, "pushed")
        page.wait_for_timeout(2000)


def wait_for(page: Page, condition: Callable[[], bool]) -> None:
    for _ in range(SOON // 100):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError(page.locator("#verdict").inner_text())


def nothing_is_wrong(page: Page) -> None:
    assert {name: count(page, name) for name in ("missed", "twice", "disorder")} == {
        "missed": 0,
        "twice": 0,
        "disorder": 0,
    }


def process(page: Page, name: str) -> int:
    text = page.locator(f".instance.{name.lower()} .facts").text_content() or ""
    found = re.search(r"process (\d+)", text)
    assert found is not None, text
    return int(found[1])


RETRIES = """() => { window.retries = [];
    addEventListener('online', () => retries.push(document.querySelector('.b .facts').textContent)); }"""
"""Record what the page says of instance B whenever it makes the clients connect at once."""


def test_faults_and_the_verdict(browser: Browser, url: str) -> None:
    """An instance is killed and started, a wire is cut and mended: the devices resume, and nothing is missing."""
    with opened(browser, url) as page:
        wait_for(page, lambda: count(page, "shown") > 20)
        killed = process(page, "B")
        page.locator(".b .kill").click()
        expect(page.locator(".b .facts")).to_have_text("killed by SIGKILL")
        with pytest.raises(ProcessLookupError):
            os.kill(killed, 0)
        expect(page.locator("#verdict")).to_have_attribute("data-state", "catching")
        expect(page.locator("#headline")).to_have_text("3 of 6 devices are cut off")
        page.locator("[name=via]").select_option(label="Instance B")
        page.get_by_role("button", name="Push", exact=True).click()
        expect(page.locator("#went")).to_have_text("Instance B did not answer: pushed through A.")
        page.evaluate(RETRIES)
        before = count(page, "pushed")
        wait_for(page, lambda: count(page, "pushed") > before + 5)  # the other instance goes on
        page.locator(".b .kill").click()
        all_is_well(page)
        assert process(page, "B") != killed
        retries = page.evaluate("retries")
        assert len(retries) == 1
        assert re.fullmatch(r"process \d+ · start \d+", retries[0]), "retried before the port was open"
        page.locator(".a .cut").click()
        expect(page.locator(".a .facts")).to_contain_text("wire cut")
        expect(page.locator("#verdict")).to_have_attribute("data-state", "catching")
        page.locator(".a .cut").click()
        all_is_well(page)
        wait_for(page, lambda: count(page, "waiting") == 0 and count(page, "shown") == 2 * count(page, "pushed"))
        nothing_is_wrong(page)


def test_forms_and_toasts(browser: Browser, url: str) -> None:
    """A notification reaches both devices of its user, and one toast; progress takes its own place."""
    with opened(browser, url) as page:
        page.locator("#rates label", has_text="off").click()
        quiet(page)
        page.locator("[name=title]").fill("Hello <b>there</b>")
        page.locator("[name=user]").select_option(label="Everyone")
        page.get_by_role("button", name="Push", exact=True).click()
        toasts = page.locator("notify-toasts [part~=toast]")
        expect(toasts).to_have_count(3)
        expect(toasts.first.locator("[part=title]")).to_have_text("Hello <b>there</b>")
        for name in ("a", "b"):
            expect(page.locator(f".{name} .feed li", has_text="Hello <b>there</b>")).to_have_count(3)
        page.mouse.move(10, 10)
        expect(toasts).to_have_count(0)
        page.locator("[name=user]").select_option(label="Bob")
        page.locator("[name=via]").select_option(label="Instance B")
        page.locator("#job").click()
        expect(page.locator(".a .feed progress")).to_have_count(1)
        expect(page.locator(".b .feed li", has_text="Ready to download").first).to_be_visible()
        groups = page.locator(".a .feed li", has_text="Export").evaluate_all(
            "all => all.map((item) => item.dataset.group)"
        )
        assert len({*groups}) == len(groups)
        expect(toasts.filter(has_text="Ready to download").first).to_be_visible()
        page.locator("#rates label", has_text="4").click()
        all_is_well(page)
        nothing_is_wrong(page)


def test_nothing_pushed_yet(browser: Browser, url: str) -> None:
    """A page that has seen no push does not claim success."""
    with opened(browser, url) as page:
        page.locator("#rates label", has_text="off").click()
        quiet(page)
        page.reload()
        expect(page.locator("#headline")).to_have_text("Nothing pushed yet")
        expect(page.locator("#verdict")).to_have_attribute("data-state", "waiting")
        page.get_by_role("button", name="Push", exact=True).click()
        all_is_well(page)
        assert count(page, "pushed") == 1
        expect(page.locator(".a notify-status").first.get_by_role("status")).to_have_text("Live")


def test_plots(browser: Browser, url: str) -> None:
    """Both plots are drawn, and a fault is marked in them."""
    with opened(browser, url) as page:
        wait_for(page, lambda: page.locator("#p50").text_content() not in (None, "", "\u2013"))
        colours = """id => { const { width, height } = document.getElementById(id);
            const { data } = document.getElementById(id).getContext('2d').getImageData(0, 0, width, height);
            return new Set(new Uint32Array(data.buffer)).size; }"""
        for name in ("rate", "latency"):
            assert page.evaluate(colours, name) > 20


@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(1400, 868, "light"), (1400, 868, "dark"), (900, 1200, "light"), (400, 900, "dark")]
)
def test_pictures(browser: Browser, url: str, width: int, height: int, scheme: Any) -> None:
    """The page fits wide and narrow windows, light and dark; the first picture is the one of the README."""
    with opened(browser, url, width, height, color_scheme=scheme) as page:
        wait_for(page, lambda: count(page, "shown") > (100 if (width, scheme) == (1400, "light") else 30))
        page.locator(".b .kill").click()
        expect(page.locator("#verdict")).to_have_attribute("data-state", "catching")
        page.wait_for_timeout(2_500)
        page.locator(".b .kill").click()
        all_is_well(page)
        page.wait_for_timeout(3_000)
        page.locator("[value=success] + span").click()
        page.locator("#job").click()
        page.get_by_role("button", name="Push", exact=True).click()
        expect(page.locator("notify-toasts [part~=toast]")).to_have_count(2)
        wait_for(page, lambda: page.locator(".a .feed progress").count() == 1)
        page.wait_for_timeout(1_500)
        all_is_well(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        path = screenshot(page, f"demo-{width}-{scheme}")
        assert path.stat().st_size > 20_000
        page.locator("#rates label", has_text="off").click()
        quiet(page)  # otherwise, the export would go on in the page of the next test
        nothing_is_wrong(page)


COLLISIONS = """() => {
    const all = document.querySelectorAll(':is(.top, .verdict, .instance header, .devices, .send, figcaption) *');
    const isSaid = (node) => [...node.childNodes].some((each) => each.nodeType === Node.TEXT_NODE && each.data.trim());
    const box = (node) => {
        const range = document.createRange();
        range.selectNodeContents(node);
        return (node.matches('button') ? node : range).getBoundingClientRect();
    };
    const shown = [...all].filter((node) => isSaid(node) && !node.closest('legend, select'))
        .map((node) => ({ node, name: node.textContent.trim(), ...box(node).toJSON() })).filter(({ width }) => width);
    const card = ({ node }) => node.closest('.card, .verdict, .top');
    const collide = (one, other) => card(one) === card(other) && !one.node.contains(other.node)
        && one.left < other.right && other.left < one.right && one.top + 2 < other.bottom && other.top + 2 < one.bottom;
    const pairs = shown.flatMap((one, index) =>
        shown.slice(index + 1).filter((other) => collide(one, other)).map((other) => [one.name, other.name]));
    const cells = [...document.querySelectorAll('.devices li')].filter((cell) => cell.scrollWidth > cell.clientWidth);
    return [...pairs, ...cells.map((cell) => [cell.textContent.trim(), 'the edge of its cell'])];
}"""
"""Texts that overlap something else, in the headers of the instances, the devices, the form and the verdict."""


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1190, 800), (768, 1024), (390, 844)])
def test_nothing_collides(browser: Browser, url: str, width: int, height: int) -> None:
    """No text runs into another, into a button or out of its cell, whatever state the instances are in; beside the
    plots, no toast covers the button that pushes."""
    with opened(browser, url, width, height) as page:
        assert page.evaluate(COLLISIONS) == []
        page.locator(".a .cut").click()
        page.locator(".b .kill").click()
        expect(page.locator("#headline")).to_have_text("6 of 6 devices are cut off")
        assert page.evaluate(COLLISIONS) == []
        page.evaluate("scrollTo(0, 0)")
        screenshot(page, f"demo-{width}-cut")
        page.locator(".a .cut").click()
        page.locator(".b .kill").click()
        all_is_well(page)
        page.evaluate("scrollTo(0, 0)")
        push = page.get_by_role("button", name="Push", exact=True)
        for _ in range(2):
            push.evaluate("(button) => button.click()")
        toasts = page.locator("notify-toasts [part~=toast]")
        expect(toasts).to_have_count(2)
        settled(toasts)
        screenshot(page, f"demo-{width}-toasts")
        if width > 1180:
            push.click(trial=True, timeout=2_000)
        assert page.evaluate(COLLISIONS) == []


COVERED = """() => {
    const box = (node) => node.getBoundingClientRect();
    const toasts = [...document.querySelector('notify-toasts').shadowRoot.querySelectorAll('[part~=toast]')];
    const controls = [...document.querySelectorAll('#form :is(select, input, button)')];
    const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    const found = new Set();
    for (let top = 0; top < document.documentElement.scrollHeight; top += 20) {
        scrollTo(0, top);
        for (const control of controls) {
            if (toasts.some((toast) => meet(box(toast), box(control)))) found.add(control.name || control.textContent);
        }
    }
    return [...found];
}"""
"""Controls of the form that lie under a toast at some position of the scroll bar."""


@pytest.mark.parametrize(("width", "height"), [(375, 667), (800, 600), (800, 1000), (1280, 720), (1280, 900)])
def test_toasts_leave_the_form_free(browser: Browser, url: str, width: int, height: int) -> None:
    """However the page is scrolled, no toast lies over a control of the form that sends it."""
    with opened(browser, url, width, height) as page:
        page.locator("[name=user]").select_option(label="Everyone")
        push = page.get_by_role("button", name="Push", exact=True)
        push.click()
        toasts = page.locator("notify-toasts [part~=toast]")
        expect(toasts).to_have_count(3 if width > 767 else 2)
        settled(toasts)
        screenshot(page, f"demo-{width}x{height}-form")
        covered = page.evaluate(COVERED)
        assert toasts.count() >= 2
        assert covered == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_picture_of_the_readme() -> None:
    """The README shows a picture that is there, of the size that this test takes."""
    path = ROOT / "docs" / "images" / "demo.png"
    assert "docs/images/demo.png" in (ROOT / "README.md").read_text(encoding="utf-8")
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) == (1400, 868)


# -- its checker -----------------------------------------------------------------------------------------------------

CASES = [
    ("in order", ["1-0", "2-0", "10-0"], ["1-0", "2-0", "10-0"], (0, 0, 0, 0)),
    ("on its way", ["1-0", "2-0"], ["1-0"], (0, 0, 0, 1)),
    ("missed", ["1-0", "2-0", "3-0"], ["1-0", "3-0"], (1, 0, 0, 0)),
    ("twice", ["1-0", "2-0"], ["1-0", "2-0", "2-0"], (0, 1, 0, 0)),
    ("out of order", ["1-0", "2-0"], ["2-0", "1-0"], (0, 0, 1, 0)),
    ("sequence numbers", ["5-9", "5-10", "6-0"], ["5-9", "5-10", "6-0"], (0, 0, 0, 0)),
]


@pytest.mark.parametrize("late", [False, True], ids=["told before", "told after"])
def test_the_checker_of_the_page(browser: Browser, late: bool) -> None:
    """What the page itself finds, whether it learns of a push before or after the event was shown."""
    script = (ROOT / "notify" / "web" / "demo" / "checker.js").read_text(encoding="utf-8")
    page = f"<!doctype html><script type=module>{script}\nwindow.Checker = Checker;</script>"
    run = """([pushed, shown, late]) => { const checker = new Checker();
        const tell = () => pushed.forEach((id) => checker.pushed(id));
        if (!late) tell();
        shown.forEach((id) => checker.saw(id));
        if (late) tell();
        return [checker.missed.size, checker.twice, checker.disorder, checker.due.size]; }"""
    with site({"/": page}) as url:
        tab = browser.new_page()
        tab.goto(url)
        tab.wait_for_function("!!window.Checker")
        for name, pushed, shown, expected in CASES:
            assert tuple(tab.evaluate(run, [pushed, shown, late])) == expected, name
        tab.close()
