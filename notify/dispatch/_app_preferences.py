"""Preferences: what a user switches on and off, what that comes to, and whose entry decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from notify import NotifyError, UsageError
from notify._asgi import Reply, Request, WebError, identify_and_read, parsed_json, read_body

from ._app_site import DispatchSite, Receive, log_failure
from ._planning import known
from ._preferences import check_patch
from .abc import merge_patch

CODE: Final = "invalid_preferences"
KINDS: Final = frozenset({"application/json", "application/merge-patch+json", ""})


async def read(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve GET /preferences."""
    identity = await site.identification.identify(request)
    return Reply.json(await preferences_value(site, identity.user))


async def patch(site: DispatchSite, request: Request, receive: Receive, names: Mapping[str, str]) -> Reply:
    """Serve PATCH /preferences."""
    identify = partial(site.identification.identify, request)
    identity, receive = await identify_and_read(identify, receive, site.max_body, site.timeout)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in KINDS:
        raise WebError(415, "unsupported_media_type", f"the body must be application/json, not {kind:.80}")
    found = parsed_json(await read_body(receive, site.max_body, site.timeout))
    if not isinstance(found, dict):
        raise WebError(422, CODE, "the body must be one JSON object: a merge patch (RFC 7386)")
    try:
        types = site.parts.types if site.parts.types.unknown == "error" else None
        text = check_patch(found, types=types, channels=site.parts.channels)
    except UsageError as error:
        raise WebError(422, CODE, str(error)) from None
    stored = (await site.parts.preferences.preferences([identity.user])).get(identity.user, b"{}")
    if len(merge_patch(stored, text)) > site.max_body:
        raise WebError(413, "payload_too_large", f"preferences may have at most {site.max_body} bytes")
    await site.dispatcher.set_preferences(identity.user, found, by=identity.user, source="http")
    return Reply.json(await preferences_value(site, identity.user))


async def preferences_value(site: DispatchSite, user: str) -> dict[str, Any]:
    """Return what is stored of a user, and what it comes to.

    For each type and channel that is whether it is on, by which layer and entry; then consents, quiet hours, the zone.
    """
    try:
        found = (await known(site.parts, [user]))[user]
    except NotifyError:
        raise
    except Exception as error:  # the application's function; only the zone is needed here
        log_failure("recipients=", error)
        found = (await known(site.parts, [user], [user]))[user]
    layers, types = found.layers, list(site.parts.types)
    whose, quiet = layers.quiet_hours()
    return {
        "preferences": json.loads(layers.user.to_json()),
        "effective": {
            each.key: {name: layers.effective(each, name)._asdict() for name in each.channels} for each in types
        },
        "types": {each.key: {"category": each.category, "opt_in": each.opt_in} for each in types},
        "opt_in": {each.opt_in: layers.consent(each)._asdict() for each in types if each.opt_in is not None},
        "quiet_hours": {"rules": [] if quiet is None else quiet.to_json(), "layer": whose},
        "tz": found.zone(site.parts.tz),
    }
