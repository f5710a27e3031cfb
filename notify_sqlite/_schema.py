"""The SQL: its files, the prefix of the table names, and the version of the tables in a file.

The version is in a table, one row for each part. `PRAGMA user_version` and `application_id` belong to the application,
whose own tables may be in the same file.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cache
from importlib.resources import files
from typing import Final

from notify import UsageError
from notify.dispatch.abc import DELIVERY_COLUMNS, ENDPOINT_COLUMNS, NOTIFICATION_COLUMNS, RECIPIENT_COLUMNS

VERSION: Final = 1
"""Version of the tables of each part."""

FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "store": ("store", "inbox"),
    "presence": ("presence",),
    "dispatch": ("dispatch", "dispatch_digests", "dispatch_users"),
}
"""The files of statements of each part."""

LATER: Final = re.compile("create_schema|create_ephemerals|create_(inbox|items|follows).*")
"""What files of earlier releases lack. They can be read as they are; the first write adds it."""

COLUMNS: Final = {
    "delivery": DELIVERY_COLUMNS,
    "notification": NOTIFICATION_COLUMNS,
    "recipient": RECIPIENT_COLUMNS,
    "endpoint": ENDPOINT_COLUMNS,
}
"""What `{name}` in a statement stands for, and `{t.name}` for the columns of the table `t`."""

_COLUMNS = re.compile(r"\{(\w\.)?(" + "|".join(COLUMNS) + r")\}")
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,30}")
_COMMENT = re.compile("^-- .*\n", re.MULTILINE)
_NAMED = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.DOTALL | re.MULTILINE)


class NewerSchemaError(sqlite3.DatabaseError):
    """A later version of this library made the file."""


class OtherTablesError(sqlite3.DatabaseError):
    """A table has the name of one of the library's, but is a different one."""


@cache
def statements(part: str, prefix: str) -> Mapping[str, str]:
    """Return the statements of a part by name, for tables with this prefix.

    Raises:
        UsageError: not a valid prefix. It is the only text that is ever inserted into a statement.
    """
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(f"table_prefix must match {_PREFIX.pattern}, not {prefix!r:.80}")
    texts = ((files("notify_sqlite") / "_sql" / f"{name}.sql").read_text(encoding="utf-8") for name in FILES[part])
    found = [pair for text in texts for pair in _NAMED.findall(text)]
    return {name: _filled(_COMMENT.sub("", sql).strip().replace("{p}", prefix)) for name, sql in found}


def is_readable(db: sqlite3.Connection, sql: Mapping[str, str]) -> bool:
    """Return whether the file has the tables that reading needs. Needs no write lock.

    Indexes only make reads fast. A file that lacks one, such as a file of an earlier release, is read as it is.

    Raises:
        NewerSchemaError: the file is newer than this library.
    """
    tables = {name for name in _creates(sql) if sql[name].startswith("CREATE TABLE")}
    return _has(db, sql, {name for name in tables if not LATER.fullmatch(name)})


def is_ready(db: sqlite3.Connection, sql: Mapping[str, str]) -> bool:
    """Return whether the file has every table and index of these statements. Needs no write lock.

    Raises:
        NewerSchemaError: the file is newer than this library.
    """
    return _has(db, sql, set(_creates(sql)))


def create(db: sqlite3.Connection, sql: Mapping[str, str]) -> None:
    """Create what is missing; called inside a transaction.

    Raises:
        OtherTablesError: a table of that name is not the library's.
    """
    if is_ready(db, sql):
        return  # another process has created it since the caller looked
    for statement in _script(sql):
        db.execute(statement)
    expected = _columns(tuple(_script(sql)))
    for table, columns in expected.items():
        missing = columns - _columns_of(db, table)
        if missing:
            raise OtherTablesError(
                f"the table {table} is not this library's (it has no column {min(missing)!r}): "
                "choose another table_prefix"
            )


def script(sql: Mapping[str, str]) -> str:
    """Return what `create` executes, as text for an administrator."""
    return "".join(f"{statement};\n" for statement in _script(sql))


def _filled(sql: str) -> str:
    return _COLUMNS.sub(lambda found: ", ".join(f"{found[1] or ''}{name}" for name in COLUMNS[found[2]]), sql)


def _creates(sql: Mapping[str, str]) -> Iterator[str]:
    return (name for name in sql if name.startswith("create_"))


def _script(sql: Mapping[str, str]) -> list[str]:
    return [statement for name, statement in sql.items() if name.startswith(("create_", "start_"))]


def _has(db: sqlite3.Connection, sql: Mapping[str, str], names: set[str]) -> bool:
    existing = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if _name(sql["create_schema"]) in existing:
        (version,) = db.execute(sql["version"]).fetchone()
        if version is not None and version > VERSION:
            raise NewerSchemaError(
                f"its tables have version {version}, this library reads versions up to {VERSION}: upgrade the library"
            )
        if version is None and "create_schema" in names:
            return False
    return {_name(sql[name]) for name in names} <= existing


def _name(statement: str) -> str:
    return re.split(r"\s+", statement.partition("IF NOT EXISTS ")[2], maxsplit=1)[0]


@cache
def _columns(creation: tuple[str, ...]) -> Mapping[str, set[str]]:
    """Return the columns of each table that these statements create."""
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in creation:
            db.execute(statement)
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: _columns_of(db, table) for table in tables}


def _columns_of(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
