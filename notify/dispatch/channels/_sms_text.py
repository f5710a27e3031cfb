"""Pure: how many segments a text message takes, since each is paid for (3GPP TS 23.038 and 23.040)."""

from __future__ import annotations

from typing import Final, NamedTuple

_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED: Final = frozenset("\f^{}\\[~]|€")
"""Characters of the GSM alphabet that take two places."""


class SmsSize(NamedTuple):
    """How long a text is.

    Attributes:
        segments: how many messages it takes.
        is_gsm: whether all of it is in the GSM alphabet: 160 characters in one segment, else 70.
    """

    segments: int
    is_gsm: bool


def sms_size(text: str) -> SmsSize:
    """Return how long a text is. A character of two places is never divided between two segments."""
    is_gsm = all(char in _BASIC or char in _EXTENDED for char in text)
    places = [1 + (char in _EXTENDED if is_gsm else ord(char) > 0xFFFF) for char in text]
    alone, together = (160, 153) if is_gsm else (70, 67)
    if sum(places) <= alone:
        return SmsSize(1, is_gsm)
    segments, left = 1, together
    for each in places:
        if each > left:
            segments, left = segments + 1, together
        left -= each
    return SmsSize(segments, is_gsm)
