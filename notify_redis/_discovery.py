"""Who the masters are: asked of the sentinels, or of the nodes of a cluster, over connections of the moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import anyio
from redis.exceptions import RedisError, ResponseError

from ._connection import Address, Connection, Endpoint, ask, hang_up, pack
from ._errors import NotSentError, RefusedError, caused, not_sent
from ._names import TAGS, slot_of

PATIENCE: Final = 1.0
"""Seconds that one sentinel or node may take to answer."""


async def _ask_one(source: Endpoint, *command: bytes) -> Any:
    """Return the reply of one server; a NotSentError where there is none."""
    try:
        with anyio.fail_after(PATIENCE):
            connection = await source.connect(PATIENCE)
            try:
                (reply,) = await ask(connection, pack(*command))
            finally:
                await hang_up(connection)
    except NotSentError as error:
        return error
    except (RedisError, OSError) as error:
        return not_sent(f"{source} does not answer: {error}", error)
    return not_sent(f"{source} answers: {reply}", reply) if isinstance(reply, ResponseError) else reply


def _unknown(text: str, failures: Sequence[NotSentError]) -> NotSentError:
    """Return the error for a question that nobody could answer: refused, if that is what all of them did."""
    kind = RefusedError if failures and all(isinstance(each, RefusedError) for each in failures) else NotSentError
    texts = "; ".join(sorted({str(each) for each in failures}))
    return caused(kind(f"{text}: {texts}"), failures[0]) if failures else kind(text)


async def ask_sentinels(source: Endpoint) -> Address:
    """Return the address of the master that the most recent vote has chosen.

    Raises:
        NotSentError: no sentinel knows it.
    """
    votes: list[tuple[int, Address]] = []
    failures: list[NotSentError] = []

    async def inquire(seed: Address) -> None:
        reply = await _ask_one(source.sentinel(seed), b"SENTINEL", b"MASTER", source.service.encode())
        if isinstance(reply, NotSentError):
            failures.append(reply)
        else:
            facts = dict(zip(reply[::2], reply[1::2], strict=True))
            votes.append((int(facts[b"config-epoch"]), (facts[b"ip"].decode(), int(facts[b"port"]))))

    async with anyio.create_task_group() as tasks:
        for seed in source.seeds:
            tasks.start_soon(inquire, seed)
    if not votes:
        raise _unknown(f"no sentinel at {source} knows a master called {source.service!r}", failures)
    return max(votes)[1]


async def connect_master(source: Endpoint, address: Address) -> Connection:
    """Return a connection to a server that agrees to be the master.

    Raises:
        NotSentError: not reachable, or not the master yet.
    """
    connection = await source.at(address).connect()
    role: Any = None
    try:
        with anyio.fail_after(PATIENCE):
            (role,) = await ask(connection, pack(b"ROLE"))
    except (RedisError, OSError) as error:
        raise not_sent(f"the master does not answer: {error}", error) from error
    finally:
        is_master = isinstance(role, list) and role[0] == b"master"
        if not is_master:
            await hang_up(connection)
    if not is_master:
        said = role[0].decode() if isinstance(role, list) else role
        raise NotSentError(f"{address[0]}:{address[1]} is not the master yet: {said}")
    return connection


async def ask_cluster(source: Endpoint, known: Sequence[Address]) -> list[Address]:
    """Return the address of each partition's master.

    Args:
        source: of the cluster.
        known: nodes to ask before the seeds.

    Raises:
        NotSentError: no node knows all of them.
    """
    failures: list[NotSentError] = []
    for seed in dict.fromkeys([*known, *source.seeds]):
        ranges = await _ask_one(source.at(seed), b"CLUSTER", b"SLOTS")
        if isinstance(ranges, NotSentError):
            failures.append(ranges)
            continue
        owners = [(start, end, (master[0].decode() or seed[0], int(master[1]))) for start, end, master, *_ in ranges]
        found = [[where for start, end, where in owners if start <= slot_of(tag) <= end][:1] for tag in TAGS]
        if all(found):
            return [address for (address,) in found]
    raise _unknown(f"no node of {source} knows the masters of all slots", failures)
