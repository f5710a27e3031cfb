"""Roles with as few rights as a test wants, on the server that the tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.servers.postgres import USER, Server

DOCUMENTED = "SELECT, INSERT, UPDATE, DELETE"


class Role:
    """A role that may log in.

    Args:
        name: its name.
        server: where it exists.
    """

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.dsn = server.dsn.replace(f"//{USER}@", f"//{name}@")


@asynccontextmanager
async def role(
    server: Server, schema: str, *, rights: str | None = DOCUMENTED, options: str = "", name: str = "app"
) -> AsyncIterator[Role]:
    """A role for one test: with USAGE on the schema and these rights on its tables; None for no right at all."""
    created = Role(f"{name}_{schema}", server)
    sql = await asyncpg.connect(server.dsn)
    try:
        await sql.execute(f"CREATE ROLE {created.name} LOGIN {options}")
        if rights is not None:
            await sql.execute(f"GRANT USAGE ON SCHEMA {schema} TO {created.name}")
            await sql.execute(f"GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO {created.name}")
        yield created
    finally:
        await sql.execute(f"DROP OWNED BY {created.name} CASCADE; DROP ROLE {created.name}")
        await sql.close()
