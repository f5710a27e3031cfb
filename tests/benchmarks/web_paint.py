"""From a push to the frame in which a page of Chromium shows it."""

from __future__ import annotations

import statistics
import time

from tests.web.pages import chromium

from .harness import Row
from .web_process import Process

EVENTS = 300
RATE = 23
"""Events a second: no multiple of the time of a frame, so that pushes fall on every part of one."""

PAGE = """<!doctype html><meta charset=utf-8><title>Paint</title><link rel=icon href=data:,><p id=out></p>
<script type=module>
import { connect } from '/client.js';
const out = document.querySelector('#out');
window.painted = [];
window.client = connect('/?user=user-0');
client.on('*', ({ payload }) => {
  out.textContent = payload.t;
  requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel(); // its message is handled when the frame has been made
    port1.onmessage = () => painted.push([payload.t, performance.timeOrigin + performance.now()]);
    port2.postMessage(0);
  });
});
</script>"""


def measure() -> Row:
    """Push to the one page of one user, and return a row with the time until it is painted."""
    server = Process("web_server", "ours")
    try:
        url = f"http://127.0.0.1:{server.answer()['port']}/page"
        with chromium() as browser:
            page = browser.new_page()
            page.route("**/page", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
            page.goto(url)
            page.wait_for_function("window.client?.status === 'connected'")
            to_wall = time.time_ns() - time.perf_counter_ns()
            server.ask("live", users=1, rate=RATE, events=EVENTS)
            page.wait_for_function(f"painted.length >= {EVENTS}")
            painted = page.evaluate("painted")
    finally:
        server.stop()
    spent = [at * 1000 - (pushed + to_wall) / 1000 for pushed, at in painted]
    cuts = statistics.quantiles(spent, n=100)
    note = f"{EVENTS} events to one page, one after the other; p99 {cuts[98]:,.0f}"
    return Row("web, push to paint in Chromium, p50", "µs", cuts[49], note=note)
