"""Random histories of `<notify-toasts>` beside a small model: once everything has settled, both show the same toasts.

Events in groups, of two users, with and without an id, an item and a notification number; dismissals here, elsewhere
and refused by the server; the focus, hidden pages, narrow windows, and an element that is moved. Half of the histories
have no animations, and the clock advances in steps; in the other half, toasts take a while to leave.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from tests.web.pages import site

MODEL = Path(__file__).parent / "toasts_model.js"
PAGE = """<!doctype html><meta charset="utf-8"><title>Histories</title>
<style>.slow::part(toast) { animation-duration: 1000s } .calm::part(toast) { animation: none }</style>
<body></body><script src="/model.js"></script><script type="module" src="/components.js"></script>"""
RUN = """async ([first, count, isSlow]) => { const wrong = [];
  for (let seed = first; seed < first + count; seed++) wrong.push(await history_of(seed, isSlow));
  return wrong.filter(Boolean); }"""
SEEDS = 200
ASK = """new Promise((done) => { const heard = new BroadcastChannel('notify.toasts');
  heard.onmessage = done; new BroadcastChannel('notify.toasts').postMessage({ ask: 1 }); }).then(() => 0)"""
"""Ask as a hidden tab does, and wait until another listener has received it."""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("is_slow", [False, True])
def test_histories(context: BrowserContext, is_slow: bool) -> None:
    """The same toasts in the same order and roles; the focus is not lost; no timer or channel is left afterwards."""
    with site({"/": PAGE, "/model.js": MODEL.read_text(encoding="utf-8")}) as url:
        page = context.new_page()
        page.goto(url)
        page.wait_for_function("!!customElements.get('notify-toasts')")
        assert page.evaluate(RUN, [0, SEEDS, is_slow]) == []


def test_a_page_in_the_back_forward_cache(context: BrowserContext) -> None:
    """It stays there when another tab asks for a visible one, because it does not listen while hidden."""
    toasts = PAGE.replace("<body>", "<body><notify-toasts></notify-toasts>").replace("/model.js", "/shown.js")
    script = "window.shown = []; addEventListener('pageshow', ({ persisted }) => shown.push(persisted))"
    with site({"/": toasts, "/shown.js": script, "/other": "<!doctype html><title>Other</title>"}) as url:
        page, other = context.new_page(), context.new_page()
        other.goto(f"{url}/other")
        page.goto(url)
        page.wait_for_function("!!customElements.get('notify-toasts') && shown.length === 1")
        page.goto(f"{url}/other")
        other.evaluate(ASK)
        page.evaluate("history.back()")
        page.wait_for_function("window.shown?.length > 0 && location.pathname === '/'")
        assert page.evaluate("shown") == [False, True]
