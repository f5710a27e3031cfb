"""Gathers what plans depend on, for many recipients in a few reads, and asks `plan_recipient`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from notify import UsageError
from notify.adapters import check_user, without_stray_cancellation

from ._decisions import Plan, skip_all
from ._layers import NO_PREFERENCES, Layers
from ._parts import DispatchParts
from ._plan import Look, plan_recipient
from ._preferences import Preferences
from ._reasons import Reason
from ._types import NotificationType, Recipient
from .abc import Endpoint, RecipientRecord, endpoint_id


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one recipient.

    Attributes:
        recipient: None: there is no such user.
        layers: the preferences that count.
        endpoints: devices and addresses, retired ones too.
    """

    recipient: Recipient | None
    layers: Layers
    endpoints: Sequence[Endpoint]

    def zone(self, default: str) -> str:
        """Return the name of the recipient's zone."""
        return self.layers.zone(self.recipient.tz if self.recipient else "", default)

    def of(self, recipient: Recipient) -> Known:
        """Return the same with a recipient who was given whole, and the endpoints that came with it."""
        further = [
            replace(each, user=recipient.id, id=endpoint_id(each.channel, each.kind, each.address))
            for each in recipient.endpoints
        ]
        stored = {each.id for each in self.endpoints}
        return Known(recipient, self.layers, [*self.endpoints, *(each for each in further if each.id not in stored)])


async def known(parts: DispatchParts, users: Iterable[str], given: Collection[str] = ()) -> dict[str, Known]:
    """Look up what is known of users.

    Args:
        parts: of the dispatcher.
        users: their ids.
        given: those of them who were given whole, so that the application is not asked: `Known.of` adds them.
    """
    ids = list(dict.fromkeys(users))
    missing = [user for user in ids if user not in given]
    found = await _asked(parts, missing) if missing else {}
    preferences = await parts.preferences.preferences(ids)
    endpoints = await parts.endpoints.endpoints(ids, retired=True)
    others = await _others(parts, ids)
    result: dict[str, Known] = {}
    for user in ids:
        own = Preferences.from_json(preferences[user]) if user in preferences else NO_PREFERENCES
        layers = Layers(user=own, default=parts.defaults)
        if user in others:
            layers = replace(others[user], user=own, default=parts.defaults)
        unknown = Known(None, layers, endpoints.get(user, ()))
        result[user] = unknown.of(found[user]) if user in found else unknown
    return result


async def _asked(parts: DispatchParts, users: Sequence[str]) -> dict[str, Recipient]:
    """Return what the application knows of users, by their ids."""

    async def call() -> Iterable[Recipient]:
        answer = parts.recipients(users)
        return await answer if inspect.isawaitable(answer) else answer

    found = list(await without_stray_cancellation(call))
    for each in found:
        if not isinstance(each, Recipient):
            raise TypeError(f"recipients= of the Dispatcher must return Recipients, not {type(each).__name__}")
    return {each.id: each for each in found}


async def _others(parts: DispatchParts, users: Sequence[str]) -> Mapping[str, Layers]:
    """Return the layers that the application supplies, by user."""
    layers = parts.layers
    if layers is None:
        return {}

    async def call() -> Mapping[str, Layers]:
        answer = layers(users)
        return await answer if inspect.isawaitable(answer) else answer

    found: Any = await without_stray_cancellation(call)
    if not isinstance(found, Mapping) or not all(isinstance(each, Layers) for each in found.values()):
        raise TypeError("layers= of the Dispatcher must return Layers by user id")
    if any(each.user is not NO_PREFERENCES or each.default is not NO_PREFERENCES for each in found.values()):
        raise UsageError(
            "layers= of the Dispatcher must set only override, member and tenant: users' own preferences are in the "
            "store, and the defaults come from defaults= or the types"
        )
    return dict(found)


def plan(
    parts: DispatchParts,
    type: NotificationType,
    user: str,
    known: Known,
    *,
    now: datetime,
    expires_at: datetime | None,
    look: Look | None = None,
) -> Plan:
    """Return what is to be done for one recipient."""
    if known.recipient is None:
        names = type.channels if look is None else [look.channel]
        return skip_all(type.key, user, names, Reason.UNKNOWN_RECIPIENT, "recipients")
    return plan_recipient(
        type,
        known.recipient,
        known.layers,
        known.endpoints,
        parts.channels,
        now=now,
        expires_at=expires_at,
        tz=parts.tz,
        look=look,
    )


async def read_items(parts: DispatchParts, user: str, ids: Iterable[str]) -> set[str]:
    """Return which of these items of a user are read, dismissed or gone, in one read of the inbox."""
    named = {*ids} - {""}
    if not named or parts.inbox is None:
        return set()
    return named - {each.id for each in await parts.inbox.get_many(user, named) if each.is_unread}


def recipient_of(to: object) -> tuple[str, dict[str, Recipient]]:
    """Return the id of a recipient, and the recipient by id if it was given whole.

    Raises:
        UsageError: it is neither a user id nor a Recipient.
    """
    if isinstance(to, Recipient):
        check_user(to.id)
        return to.id, {to.id: to}
    if isinstance(to, str) and to:
        check_user(to)
        return to, {}
    raise UsageError(f"the recipient must be a user id or a Recipient, not {to!r:.80}")


def address_of(recipient: Recipient) -> bytes:
    """Return a recipient who was given at submit as `RecipientRecord.address` keeps it."""
    endpoints = [
        {"channel": each.channel, "address": each.address, "kind": each.kind, "meta": dict(each.meta)}
        for each in recipient.endpoints
    ]
    return json.dumps({"tz": recipient.tz, "locale": recipient.locale, "endpoints": endpoints}).encode()


def given_at_submit(record: RecipientRecord) -> Recipient | None:
    """Return the recipient who was given at submit; None: it was a user id."""
    if not record.address:
        return None
    values = json.loads(record.address)
    endpoints = [Endpoint(user=record.user, **each) for each in values["endpoints"]]
    return Recipient(record.user, values["tz"], values["locale"], endpoints)
