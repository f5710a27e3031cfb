"""Events in notifications: a payload holds less than 8,000 bytes, so a larger event is sent in fragments.

A fragment is text: its target, the name of its event, its number, how many there are, and a part of the event in
base64. The fragments of an event arrive in order, possibly with those of other events in between.
"""

from __future__ import annotations

import logging
import secrets
from base64 import b64decode, b64encode
from collections import OrderedDict
from typing import Final

from notify.abc import Deliver

from ._wake import MAX_PAYLOAD

logger = logging.getLogger("notify.pg")

ALL: Final = "*"
"""The target of an event that every process takes; otherwise it is the short key of an instance, or of a user."""

HEADER: Final = 64
"""Bytes of a payload before its part of the event, at most."""

FRAGMENT_SIZE: Final = MAX_PAYLOAD - HEADER

MAX_INCOMPLETE: Final = 64
"""Events of which only some fragments have arrived; beyond this the oldest is dropped."""


def split(target: str, raw: bytes) -> list[str]:
    """Return the payloads that carry an event."""
    text = b64encode(raw).decode()
    total = -(-len(text) // FRAGMENT_SIZE)
    name = secrets.token_hex(6)
    fragments = [text[start : start + FRAGMENT_SIZE] for start in range(0, len(text), FRAGMENT_SIZE)]
    return [f"{target} {name} {number} {total} {fragment}" for number, fragment in enumerate(fragments)]


class FragmentAssembler:
    """Puts the fragments of events together.

    Args:
        deliver: called with the bytes of each event that is complete.
    """

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._fragments: OrderedDict[str, list[str]] = OrderedDict()

    def take(self, payload: str) -> None:
        """Take one payload, and deliver the event that it completes."""
        try:
            _target, name, number, total, fragment = payload.split(" ")
            fragments = self._fragments.setdefault(name, [])
            if int(number) == len(fragments):
                fragments.append(fragment)
            if len(self._fragments) > MAX_INCOMPLETE:
                self._fragments.popitem(last=False)
            if len(fragments) < int(total):
                return
            self._fragments.pop(name, None)
            data = b64decode("".join(fragments), validate=True)
        except ValueError as error:
            logger.warning("ignored a notification that is not a fragment of an event: %r", error)
        else:
            self._deliver(data)
