"""The SQL: its files, the prefix of the table names, and the version of the tables in a file."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

from notify import UsageError

VERSION: Final = 1
"""Version of the tables, stored in `PRAGMA user_version`."""

_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,30}")
_NAMED = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.DOTALL | re.MULTILINE)


class NewerSchemaError(sqlite3.DatabaseError):
    """A later version of this library made the file."""


@cache
def statements(part: str, prefix: str) -> Mapping[str, str]:
    """Return the statements of `_sql/<part>.sql` by name, for tables with this prefix.

    Raises:
        UsageError: not a valid prefix. It is the only text that is ever inserted into a statement.
    """
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(f"table_prefix must match {_PREFIX.pattern}, not {prefix!r:.80}")
    text = (files("notify_sqlite") / "_sql" / f"{part}.sql").read_text(encoding="utf-8")
    return {name: sql.strip().replace("{p}", prefix) for name, sql in _NAMED.findall(text)}


def is_ready(db: sqlite3.Connection, sql: Mapping[str, str]) -> bool:
    """Return whether the file has every table and index of these statements. Needs no write lock.

    Raises:
        NewerSchemaError: the file is newer than this library.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise NewerSchemaError(
            f"the file has schema version {version}, this library reads versions up to {VERSION}: upgrade the library"
        )
    created = {name for name in sql if name.startswith("create_")}
    existing = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    needed = {re.split(r"\s+", sql[name])[5] for name in created}  # CREATE TABLE IF NOT EXISTS name
    return version == VERSION and needed <= existing


def create(db: sqlite3.Connection, sql: Mapping[str, str]) -> None:
    """Create what is missing; called inside a transaction."""
    if is_ready(db, sql):
        return  # another process has created it since the caller looked
    for name, statement in sql.items():
        if name.startswith(("create_", "start_")):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION:d}")
