"""The files of the browser client that a `DispatchApp` serves."""

from __future__ import annotations

import pytest

from notify._asgi import DISPATCH_FILES
from tests.dispatch.app import refused, serving
from tests.web.pages import CLIENT

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", DISPATCH_FILES)
async def test_a_file_is_served(name: str) -> None:
    """Whole, to the page of any site, under any mount; a copy that is current is not sent again."""
    async with serving() as site, site.client(origin="https://other.example") as page:
        answer = await page.get(f"http://example.com/any/mount/{name}")
        assert (answer.status_code, answer.content) == (200, (CLIENT / name).read_bytes())
        kind = "text/javascript" if name.endswith(".js") else "text/plain"
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert (answer.headers["cache-control"], answer.headers["content-encoding"]) == ("no-cache", "gzip")
        again = await page.get(name, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = await page.head(name)
        assert (head.content, head.headers["content-length"]) == (b"", answer.headers["content-length"])
        refused(await page.post(name, json={}), 403, "cross_site")


async def test_the_worker_may_be_registered_for_the_whole_site() -> None:
    """The header says so, also with 304; no other file has it."""
    async with serving() as site, site.client() as page:
        answer = await page.get("service-worker.js")
        assert answer.headers["service-worker-allowed"] == "/"
        etag = answer.headers["etag"]
        again = await page.get("service-worker.js", headers={"if-none-match": etag})
        assert again.headers["service-worker-allowed"] == "/"
        assert "service-worker-allowed" not in (await page.get("push.js")).headers
