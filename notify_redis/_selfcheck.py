"""Settings of the server that endanger the promises: checked once, on the first connection, and logged as warnings."""

from __future__ import annotations

import logging
import re
from typing import Any

from redis.exceptions import ResponseError

from ._connection import Connection, RedisEndpoint, ask, pack
from ._errors import NotSentError

logger = logging.getLogger("notify.redis")


async def self_check(connection: Connection, endpoint: RedisEndpoint, name: str) -> None:
    """Log a warning for each such setting; those that the login may not read are skipped.

    Raises:
        NotSentError: the server is too old.
    """
    sections = (b"server", b"persistence", b"memory", b"replication")
    commands = [pack(b"INFO", section) for section in sections] + [pack(b"CONFIG", b"GET", b"save")]
    *info, save = await ask(connection, *commands)
    facts: dict[str, str] = {}
    for text in info:
        if not isinstance(text, ResponseError):
            facts |= dict(re.findall(r"^([a-z_]+):(.*?)\r?$", bytes(text).decode(errors="replace"), re.MULTILINE))
    found = problems(facts, save)
    if facts.get("redis_mode") == "cluster" and not endpoint.is_cluster:
        found.append("this server is a node of a cluster; write redis+cluster://host:port to reach all of its nodes")
    for problem in found:
        logger.warning("%s at %s: %s", name, endpoint, problem)
    check_version(facts.get("redis_version", "99"), is_cluster=endpoint.is_cluster)


def check_version(text: str, *, is_cluster: bool) -> None:
    """Refuse a server without the features that are needed: sharded pub/sub in a cluster, XTRIM MINID anywhere.

    Raises:
        NotSentError: too old.
    """
    needed = (7, 0) if is_cluster else (6, 2)
    if tuple(int(part) for part in re.findall(r"\d+", text)[:2]) < needed:
        raise NotSentError(f"Redis {text} is too old: {'.'.join(map(str, needed))} or later is needed")


def problems(facts: dict[str, str], save: Any) -> list[str]:
    """Return a message for each problem."""
    found = []
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and facts.get("maxmemory", "0") != "0":
        found.append(f"maxmemory-policy {policy} silently removes logs when memory is full; use noeviction")
    saves = isinstance(save, list) and len(save) == 2 and bool(save[1])
    if facts.get("aof_enabled") == "0" and not saves and not isinstance(save, ResponseError):
        found.append("neither AOF nor snapshots are on: a restart loses every log; use appendonly yes")
    if facts.get("role", "master") != "master":
        found.append("this server is a replica: pushes will be rejected")
    return found
