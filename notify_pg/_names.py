"""The names in the database and the texts of SQL: the only module that puts the one into the other."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Final

from notify.errors import UsageError

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
_PLACE: Final = re.compile(r"\{([a-z_]+)\}")
_SQL: Final = Path(__file__).parent / "_sql"
_MAX_BYTES: Final = 63

TABLES: Final = ("meta", "heads", "events", "events_default", "keys", "nonces", "outbox", "trackers", "presence")
FUNCTIONS: Final = {"save": "save_1", "relay": "relay_1"}


@lru_cache
def _text(operation: str) -> str:
    return (_SQL / f"{operation}.sql").read_text(encoding="utf-8")


@lru_cache(maxsize=65_536)
def short_key(text: str) -> str:
    """Return eight characters for a user or instance: two that share them are told apart by what is read then."""
    return urlsafe_b64encode(blake2b(text.encode(), digest_size=6).digest()).decode()


class PostgresNames:
    """What the tables, functions and channels of one schema and prefix are called.

    Raises:
        UsageError: a schema or prefix outside `[a-z][a-z0-9_]{0,30}`.
    """

    def __init__(self, schema: str, table_prefix: str) -> None:
        for what, name in (("schema", schema), ("table prefix", table_prefix)):
            if not _NAME.fullmatch(name):
                raise UsageError(f"a {what} matches [a-z][a-z0-9_]{{0,30}}: {name!r:.80}")
        self.schema = schema
        self.prefix = table_prefix
        self.bell = self._channel("bell")
        self.route = self._channel("route")
        names = {name: name for name in TABLES} | FUNCTIONS
        self._places = {place: self._qualified(name) for place, name in names.items()} | {"schema": f'"{schema}"'}

    @property
    def lock(self) -> int:
        """The number of the advisory lock under which the schema is changed."""
        return self._number("schema")

    @property
    def relay_lock(self) -> int:
        """The number of the advisory lock that the one relay at work holds."""
        return self._number("relay")

    def table(self, name: str) -> str:
        """Return the quoted, qualified name of one of our tables or partitions."""
        return self._qualified(name)

    def sql(self, operation: str, **more: int | str) -> str:
        """Return the text of `_sql/<operation>.sql` with our names in it, and these integers or further tables."""
        places = self._places | {
            place: str(value) if isinstance(value, int) else self._qualified(value) for place, value in more.items()
        }
        return _PLACE.sub(lambda place: places[place[1]], _text(operation))

    def _number(self, purpose: str) -> int:
        digest = blake2b(f"{self.schema}.{self.prefix} {purpose}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    def _qualified(self, name: str) -> str:
        whole = f"{self.prefix}{name}"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", whole)
        assert len(whole) <= _MAX_BYTES
        return f'"{self.schema}"."{whole}"'

    def _channel(self, name: str) -> str:
        channel = f"{self.schema}.{self.prefix}{name}"
        if len(channel) > _MAX_BYTES:
            raise UsageError(f"schema and table prefix are too long together: {channel!r} is over {_MAX_BYTES} bytes")
        return channel
