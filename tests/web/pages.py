"""Pages for a real Chromium, served from strings and from the files of `notify/web/client`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, expect, sync_playwright

ROOT = Path(__file__).parent.parent.parent
CLIENT = ROOT / "notify" / "web" / "client"
SCREENSHOTS = ROOT / "test-output" / "screenshots"
"""Kept after a run, so that they can be looked at."""

DISABLED_FEATURES = [
    # Each window has two extra pages for the pop-ups of its address bar, and each profile a spare process for its next
    # page. Together they take a third of the processor time of a test.
    "WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "SpareRendererForSitePerProcess",
    # Those that Playwright disables: if there are two such lists, Chromium uses only the second.
    "AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay", "MediaRouter", "NetworkTimeServiceQuerying",
    "OptimizationHints", "PaintHolding", "PreconnectToSearch", "ThirdPartyStoragePartitioning",
]  # fmt: skip
"""Features of Chromium that are switched off; a name that it does not know changes nothing."""

ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-gpu", "--disable-software-rasterizer",
    f"--disable-features={','.join(DISABLED_FEATURES)}",
]  # fmt: skip
"""Without a GPU, and without emulating one, which takes more time than drawing the pages."""

PATIENCE = 30_000
"""Milliseconds within which everything in a browser has to happen, on a busy machine."""

expect.set_options(timeout=PATIENCE)

KINDS = {".js": "text/javascript", ".html": "text/html; charset=utf-8", ".css": "text/css"}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS, timeout=4 * PATIENCE)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def site(pages: dict[str, str], headers: dict[str, str] | None = None) -> Iterator[str]:
    """Serve pages by their path, and the client's files beside them; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            file = CLIENT / path.removeprefix("/")
            if path in pages:
                self.answer(200, pages[path].encode(), KINDS.get(Path(path).suffix, KINDS[".html"]))
            elif file.parent == CLIENT and file.is_file():
                self.answer(200, file.read_bytes(), KINDS.get(file.suffix, "text/plain"))
            else:
                self.answer(404, b"", KINDS[".html"])

        def answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Keep the output of the tests clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settled(elements: Locator) -> None:
    """Wait until the animations of these elements have ended."""
    elements.evaluate_all(
        "all => Promise.all(all.flatMap((node) => node.getAnimations()).map((each) => each.finished))"
    )


def screenshot(page: Any, name: str) -> Path:
    """Take a picture of what is visible into the output directory."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=str(path))
    return path
