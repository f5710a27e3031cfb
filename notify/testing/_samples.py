"""Legal and illegal values that a careless backend stumbles over."""

from __future__ import annotations

from typing import Final

_BRACES_AND_COLONS = "{} {a} {a}:b }{ {0} : a a: :a a:b a:b:c ::".split()
_PATHS_AND_PATTERNS = ".. ../a / a/b * a* ? [a] % a% _ %s %25".split()
_QUOTES = ["\\", "\\x00", "'", "a'; --", '"', "`", "$1", "$", "A", "a ", " a", "-", "+", "0", "1-1", "null", "None"]
_UNICODE = ["é", "e\u0301", "ﬁ", "fi", "😀", "😀😀", "\u202e", "\u2028", "\ufeff", "中文"]
_LONG = ["x" * 255, "x" * 254, "é" * 127 + "x", "é" * 127 + "y"]

HOSTILE_NAMES: Final = (*_BRACES_AND_COLONS, *_PATHS_AND_PATTERNS, *_QUOTES, *_UNICODE, *_LONG)
"""Texts that are legal as users, keys and groups, each another one than all the others."""

HOSTILE_META: Final = {"": "", "a:b": "c\r\nd: e", "\x00": "\x00", "😀": '{"quo\\ted": "}"', "trace": "x" * 1000}
"""Legal as `meta`."""

HOSTILE_DATA: Final = (
    b"null",
    b'""',
    b' { "b" : 1.0,\n\t"a":[ ] ,"b":2}\r\n',
    b'{"n":123456789012345678901234567890,"f":1e400,"z":-0.0}',
    b'"\\u0000\\ud800\\u2028\\/"',
    '"\u2028é😀\x7f"'.encode(),
    b'{"$ref":"%s","q":"\'; --","b":"{}"}',
    b'"' + b"x" * 65_534 + b'"',
)
"""JSON that a backend which decodes and encodes it again does not return byte for byte; the last has 64 KiB."""

BAD_IDS: Final = (
    *("garbage", "1", "00", "-1", "1-", "-", "1-1-1", "$", "+", "1_0-0", "१-१", " 1-1", "1-1\n", "1-1\x00"),
    *(f"{1 << 64}-0", f"0-{1 << 64}", "9" * 100),
)
"""Texts that are not positions."""
