"""Devices: what browsers and apps register of themselves, and the key that browsers need for it.

A device belongs to the user, or before login to a session; registering it again after login makes it the user's. An
address is only ever read from a body, so that no log of requests has it, and it is never shown again.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from notify import UsageError
from notify._asgi import Reply, Request, WebError, identify_and_read, read_object

from ._app_site import DispatchSite, Receive, asked, members_of, text_of
from ._zones import check_zone
from .abc import Endpoint, SessionEndpoints, endpoint_id

CODE: Final = "invalid_device"

KINDS: Final = frozenset({"", "token", "fid"})
"""What a client may register: not a topic, which reaches everybody in it."""

PLATFORMS: Final = frozenset({"", "android", "ios", "web"})
MAX_ADDRESS: Final = 4096

_PRIVATE_ENDS: Final = (".local", ".localhost", ".internal", ".localdomain", ".home.arpa", ".lan", ".test", ".invalid")
_LAST_LABEL: Final = re.compile("(?:xn--[a-z0-9-]+|[a-z]{2,})", re.ASCII)
_DECODED: Final = re.compile("[A-Za-z0-9_-]+={0,2}", re.ASCII)


class EndpointOwner:
    """Whose devices a request is about: a user's, or those of a session before login."""

    __slots__ = ("session", "user")

    def __init__(self, user: str, session: str) -> None:
        self.user = user
        self.session = session

    def owns(self, endpoint: Endpoint) -> bool:
        """Whether a device is theirs."""
        if self.user:
            return endpoint.user == self.user
        return not endpoint.user and bool(self.session) and endpoint.session == self.session


async def owner_of(site: DispatchSite, request: Request) -> EndpointOwner:
    """Return whose devices a request is about.

    Raises:
        WebError: 401, it has neither credentials nor a session.
    """
    try:
        identity = await site.identification.identify(request)
    except WebError as error:
        session = None
        if error.status == 401 and site.session_of is not None:
            session = await asked("session_of", site.session_of, request)
        if not isinstance(session, str) or not 0 < len(session) <= 255:
            raise
        return EndpointOwner("", session)
    return EndpointOwner(identity.user, identity.session)


async def vapid_key(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve GET /push/vapid-key."""
    return Reply.json({"public_key": _vapid_keys(site)[0]})


async def subscribe(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /push/subscribe."""
    identify = partial(owner_of, site, request)
    owner, receive = await identify_and_read(identify, receive, site.max_body, site.timeout)
    keys = _vapid_keys(site)
    found = await read_object(request, receive, site.max_body, site.timeout)
    members_of(found, CODE, ("expirationTime", "vapid", "tz"), ("endpoint", "keys"))
    meta = _subscription_keys(found["keys"])
    meta["vapid"] = text_of(found, "vapid", CODE, default=keys[0]).rstrip("=")
    if meta["vapid"] not in keys:
        message = "the subscription was made with another key: subscribe again with that of GET /push/vapid-key"
        raise WebError(409, "other_key", message)
    url = _push_url(text_of(found, "endpoint", CODE, most=2048), allow_private=site.allow_private)
    return await _register(site, owner, Endpoint(owner.user, site.web_push, url, meta=meta | _zone(found)))


async def register(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /devices."""
    identify = partial(owner_of, site, request)
    owner, receive = await identify_and_read(identify, receive, site.max_body, site.timeout)
    found = await read_object(request, receive, site.max_body, site.timeout)
    members_of(found, CODE, ("kind", "platform", "tz"), ("channel", "address"))
    channel, kind = text_of(found, "channel", CODE), text_of(found, "kind", CODE)
    platform = text_of(found, "platform", CODE)
    if channel not in site.devices:
        known = ", ".join(sorted(site.devices)) or "none"
        raise WebError(422, CODE, f"devices can be registered for these channels: {known}")
    if kind not in KINDS or platform not in PLATFORMS:
        raise WebError(422, CODE, "kind must be token or fid, and platform android, ios or web, where they are given")
    meta = {"platform": platform} if platform else {}
    return await _register(site, owner, Endpoint(owner.user, channel, _address(found), kind, meta | _zone(found)))


async def listed(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve GET /devices."""
    identity = await site.identification.identify(request)
    return Reply.json({"devices": [device_value(each) for each in await _devices(site, identity.user)]})


async def remove(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve DELETE /devices/{id}."""
    owner = await owner_of(site, request)
    found = await site.parts.endpoints.endpoint(names["id"])
    if found is None or not _is_device(site, found) or not owner.owns(found) or found.retired_at is not None:
        raise WebError(404, "not_found", "you have no such device")
    await site.parts.endpoints.retire(found.id, found.generation, "removed", site.parts.clock())
    return Reply(204)


async def unregister(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve POST /devices/unregister and POST /push/unsubscribe: by the address, whether it is known or not."""
    owner = await owner_of(site, request)
    found = await read_object(request, receive, site.max_body, site.timeout)
    if request.path.rstrip("/").endswith("/unsubscribe"):
        members_of(found, CODE, ("expirationTime", "keys"), ("endpoint",))
        id = endpoint_id(site.web_push, "", text_of(found, "endpoint", CODE, most=2048))
    else:
        members_of(found, CODE, ("kind",), ("channel", "address"))
        id = endpoint_id(text_of(found, "channel", CODE), text_of(found, "kind", CODE), _address(found))
    device = await site.parts.endpoints.endpoint(id)
    if device is not None and _is_device(site, device) and owner.owns(device):
        await site.parts.endpoints.retire(device.id, device.generation, "removed", site.parts.clock())
    return Reply(204)


def device_value(device: Endpoint) -> dict[str, Any]:
    """Return what is shown of a device: not its address."""
    return {
        "id": device.id,
        "channel": device.channel,
        "kind": device.kind,
        "platform": device.meta.get("platform", ""),
        "tz": device.meta.get("tz", ""),
        "created_at": _text(device.created_at),
        "last_seen_at": _text(device.last_seen_at),
        "last_success_at": _text(device.last_success_at),
    }


async def _register(site: DispatchSite, owner: EndpointOwner, device: Endpoint) -> Reply:
    """Store a device; where its owner then has too many, remove those that were seen longest ago."""
    now = site.parts.clock()
    stored = await site.parts.endpoints.register(replace(device, session=owner.session), now)
    found = await _devices(site, owner.user) if owner.user else await _before_login(site, owner.session)
    others = [each for each in found if each.id != stored.id]
    others.sort(key=lambda each: each.last_seen_at or datetime.min.replace(tzinfo=UTC), reverse=True)
    for each in others[site.max_devices - 1 :]:
        await site.parts.endpoints.retire(each.id, each.generation, "too_many", now)
    return Reply.json(device_value(stored), 201)


async def _before_login(site: DispatchSite, session: str) -> list[Endpoint]:
    store = site.parts.endpoints
    assert isinstance(store, SessionEndpoints), "DispatchApp has checked it, since it has session_of="
    return [each for each in await store.session_endpoints(session) if _is_device(site, each)]


async def _devices(site: DispatchSite, user: str) -> list[Endpoint]:
    found = await site.parts.endpoints.endpoints([user])
    return [each for each in found.get(user, ()) if _is_device(site, each)]


def _is_device(site: DispatchSite, endpoint: Endpoint) -> bool:
    """Whether clients may see and remove it: an e-mail address that the application registered is not a device."""
    return endpoint.channel in {*site.devices, site.web_push}


def _vapid_keys(site: DispatchSite) -> list[str]:
    keys = vapid_keys(site.parts.channels.get(site.web_push))
    if not keys:
        raise WebError(404, "not_found", "there is nothing at this path: web push is not configured")
    return keys


def vapid_keys(channel: object) -> list[str]:
    """Return the public keys of a web push channel, also of one inside wrappers; none: it has no key."""
    keys: list[str] = list(getattr(channel, "public_keys", ()))
    for inner in getattr(channel, "_channels", ()):
        keys += vapid_keys(inner)
    return list(dict.fromkeys(keys))


def _subscription_keys(keys: object) -> dict[str, str]:
    """Return the two keys of a subscription; raise WebError, 422, unless they are a public key and a secret."""
    wanted = {"p256dh": 65, "auth": 16}
    if isinstance(keys, dict) and keys.keys() == wanted.keys():
        sizes = {name: _size(value) for name, value in keys.items()}
        if sizes == wanted:
            return {name: str(value).rstrip("=") for name, value in keys.items()}
    raise WebError(422, CODE, "keys must have p256dh and auth as subscription.toJSON() has them")


def _size(value: object) -> int:
    if not isinstance(value, str) or not _DECODED.fullmatch(value):
        return -1
    try:
        text = value.rstrip("=")
        return len(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except binascii.Error:
        return -1


def _push_url(url: str, *, allow_private: bool) -> str:
    """Return the URL of a push service; raise WebError, 422, if it cannot be one.

    It comes from outside, so it must not lead into our network. The channel checks the address that the name has when
    it connects; here, what cannot be a push service is refused at once.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise WebError(422, CODE, "endpoint must be a URL") from None
    schemes = ("https", "http") if allow_private else ("https",)
    is_plain = host and url.isascii() and " " not in url and "\\" not in url and port != 0
    if not is_plain or parts.scheme not in schemes or parts.username is not None or parts.fragment:
        raise WebError(422, CODE, "endpoint must be the https URL of a push service")
    if not allow_private and not _is_public_name(host):
        raise WebError(422, CODE, "endpoint must be the URL of a push service on the public internet")
    return url


def _is_public_name(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        labels = host.split(".")
        return len(labels) > 1 and _LAST_LABEL.fullmatch(labels[-1]) is not None and not host.endswith(_PRIVATE_ENDS)
    return False


def _address(found: Mapping[str, Any]) -> str:
    address = text_of(found, "address", CODE, most=MAX_ADDRESS)
    if not address or not address.isascii() or " " in address:
        raise WebError(422, CODE, "address must be the device's token, as the provider gave it to the device")
    return address


def _zone(found: Mapping[str, Any]) -> dict[str, str]:
    try:
        tz = check_zone(text_of(found, "tz", CODE), "tz")
    except UsageError as error:
        raise WebError(422, CODE, str(error)) from None
    return {"tz": tz} if tz else {}


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
