"""A browser, a site, and what the developer tools add."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.dispatch.browser.site import IN_PAGE, Site, running
from tests.web.pages import PATIENCE
from tests.web.pages import chromium as started


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def servers() -> Iterator[Site]:
    with running() as made:
        yield made


@pytest.fixture
def site(servers: Site) -> Site:
    servers.reset()
    return servers


@pytest.fixture
def context(chromium: Browser, site: Site) -> Iterator[BrowserContext]:
    """A browser profile in which alice is logged in; an uncaught error of a page fails the test."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE)
    context.add_cookies([{"name": "user", "value": "alice", "url": site.url}])
    context.add_init_script(IN_PAGE)
    context.grant_permissions(["notifications"], origin=site.url)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context
    context.close()
    assert errors == []
