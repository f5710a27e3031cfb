"""What signed links do, and what clients report about their own deliveries: opened, clicked, dismissed.

Programs that look for dangerous links fetch each URL of an e-mail, so a GET never unsubscribes: it shows a page
with a button, and POST acts, for the button and for mail programs (RFC 8058). A click counts by GET, since there is no
other way; HEAD counts nothing, and neither does a browser that announces a prefetch.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final, Literal

from notify import BackendError
from notify._asgi import Headers, Reply, Request, WebError, read_body

from ._app_site import DispatchSite, Receive
from ._links import ONE_CLICK, Act, is_web_url
from ._preferences import check_patch
from ._types import IN_APP
from .abc import Claim, DeliveryTracking

logger = logging.getLogger("notify")

_PRIVATE: Final[Headers] = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),  # the URL is a secret of its reader
    (b"x-content-type-options", b"nosniff"),
    (b"x-robots-tag", b"noindex"),
]
_PAGE: Final[Headers] = [
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
    ),
    *_PRIVATE,
]
_AHEAD: Final = ("sec-purpose", "purpose", "x-purpose", "x-moz")
"""Headers by which browsers say that they fetch a page before its link is followed: `prefetch`, `preview`."""

_PIXEL: Final = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


@dataclass(frozen=True, slots=True)
class UnsubscribeView:
    """What a page about unsubscribing shows.

    Attributes:
        category: such as `"marketing"`.
        channel: such as `"email"`.
        is_done: the user has just unsubscribed; otherwise the page needs a form with `method="post"`, whose only field
            is `List-Unsubscribe` with the value `One-Click`.
        languages: the header `Accept-Language`.
    """

    category: str
    channel: str
    is_done: bool
    languages: str = ""


def unsubscribe_page(view: UnsubscribeView) -> str:
    """Return the page in English."""
    what = f"{escape(view.category)} messages by {escape(view.channel.replace('_', ' '))}"
    name, _, value = ONE_CLICK.partition("=")
    if view.is_done:
        content = f"<h1>Unsubscribed</h1><p>You get no {what} any more.</p>"
    else:
        content = (
            f'<h1>Unsubscribe</h1><p>Do you want to stop {what}?</p><form method="post">'
            f'<input type="hidden" name="{name}" value="{value}"><button>Unsubscribe</button></form>'
        )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>Unsubscribe</title><style>body{font:1rem/1.5 system-ui;max-width:32rem;margin:4rem auto;padding:0 1rem}"
        f"button{{font:inherit;padding:.5rem 1rem}}</style>{content}</html>"
    )


async def show(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve GET /unsubscribe/{token}: a page, and nothing else happens."""
    _, category, channel = _values(site, "unsubscribe", names)
    return _page(site, request, category, channel, is_done=False)


async def unsubscribe(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /unsubscribe/{token}."""
    user, category, channel = _values(site, "unsubscribe", names)
    body = await read_body(receive, site.max_body, site.timeout)
    if b"List-Unsubscribe" not in body or b"One-Click" not in body:  # urlencoded, or a part of multipart/form-data
        raise WebError(400, "bad_request", f"the body must be {ONE_CLICK}")
    await _switch_off(site, user, category, channel)
    return _page(site, request, category, channel, is_done=True)


async def _switch_off(site: DispatchSite, user: str, category: str, channel: str) -> None:
    """Switch a category off for a channel, and remove what the user has switched on more exactly before.

    A link may be older than the present channels, so their names are not checked.
    """
    parts, now = site.parts, site.parts.clock()
    chosen = (await site.dispatcher.preferences(user)).types
    keys = [each.key for each in parts.types if each.category == category and chosen.get(each.key, {}).get(channel)]
    patch: dict[str, Any] = {"categories": {category: {channel: False}}}
    if keys:
        patch["types"] = {key: {channel: None} for key in keys}
    await parts.preferences.patch(user, check_patch(patch), by=user, source="unsubscribe link", now=now)
    await parts.records.hurry(now, user=user)


async def pixel(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve GET /opened/{token}: a picture of one transparent pixel."""
    (delivery,) = _values(site, "opened", names)
    await _note(site, request, delivery, "opened")
    return Reply(200, _PIXEL, [(b"content-type", b"image/gif"), *_PRIVATE])


async def redirect(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve GET /clicked/{token}: on to the URL that was signed."""
    delivery, url = _values(site, "clicked", names)
    if not is_web_url(url):
        raise _unknown()
    await _note(site, request, delivery, "clicked")
    return Reply(302, headers=[(b"location", url.encode("ascii")), *_PRIVATE])


async def opened(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /deliveries/{id}/opened."""
    return await _own(site, request, names["id"], "opened")


async def clicked(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /deliveries/{id}/clicked."""
    return await _own(site, request, names["id"], "clicked")


async def dismissed(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /deliveries/{id}/dismissed."""
    found = await _own_delivery(site, request, names["id"])
    await _dismiss(site, found)
    return Reply(204)


async def dismiss(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /dismissed/{token}, for service workers, which may have no credentials."""
    (delivery,) = _values(site, "dismissed", names)
    found = await site.parts.records.delivery(delivery)
    if found is not None:
        await _dismiss(site, found)
    return Reply(204)


async def _dismiss(site: DispatchSite, found: Claim) -> None:
    """Dismiss what the inbox has of the notification of a delivery; there may be nothing."""
    inbox, delivery = site.parts.inbox, found.delivery
    record = await site.parts.records.record(delivery.notification, delivery.user)
    deliveries = () if record is None else record[2]
    ids = [each.provider_id for each in deliveries if each.channel == IN_APP and each.provider_id]
    if inbox is not None and ids:
        await inbox.dismiss(delivery.user, ids)


async def _own_delivery(site: DispatchSite, request: Request, id: str) -> Claim:
    identity = await site.identification.identify(request)
    found = await site.parts.records.delivery(id)
    if found is None or found.delivery.user != identity.user:
        raise WebError(404, "not_found", "you have no such delivery")
    return found


async def _own(site: DispatchSite, request: Request, id: str, act: Literal["opened", "clicked"]) -> Reply:
    await _own_delivery(site, request, id)
    noted = await _tracking(site).track(id, act, site.parts.clock())
    times = {} if noted is None else {"opened_at": noted.opened_at, "clicked_at": noted.clicked_at}
    return Reply.json({"id": id} | {name: None if each is None else each.isoformat() for name, each in times.items()})


async def _note(site: DispatchSite, request: Request, delivery: str, act: Literal["opened", "clicked"]) -> None:
    """Record an open or a click, if the store can. A failure is only logged: the reader gets the page anyway."""
    store = site.parts.store
    if (
        not isinstance(store, DeliveryTracking)
        or request.method == "HEAD"
        or any("pre" in request.headers.get(name, "").lower() for name in _AHEAD)
    ):
        return
    try:
        await store.track(delivery, act, site.parts.clock())
    except BackendError:
        logger.warning("could not record that delivery %s was %s", delivery, act, exc_info=True)


def _tracking(site: DispatchSite) -> DeliveryTracking:
    store = site.parts.store
    if not isinstance(store, DeliveryTracking):
        raise WebError(404, "not_found", "there is nothing at this path: the store does not record opens and clicks")
    return store


def _values(site: DispatchSite, act: Act, names: Mapping[str, str]) -> tuple[str, ...]:
    links = site.parts.links
    values = None if links is None else links.read(act, names["token"])
    if values is None:
        raise _unknown()
    return values


def _unknown() -> WebError:
    return WebError(404, "not_found", "this link is not valid: perhaps it was not copied whole")


def _page(site: DispatchSite, request: Request, category: str, channel: str, *, is_done: bool) -> Reply:
    view = UnsubscribeView(category, channel, is_done, request.headers.get("accept-language", ""))
    return Reply(200, site.unsubscribe_page(view).encode("utf-8", "replace"), _PAGE)
