"""Who the masters are: the sentinels or the nodes of a cluster are asked, each over a short-lived connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import anyio
from redis.asyncio import SSLConnection
from redis.exceptions import RedisError, ResponseError

from ._connection import Address, Connection, RedisEndpoint, ask, format_address, hang_up, pack
from ._errors import NotSentError, RefusedError, caused, not_sent, phrase
from ._names import TAGS, slot_of

QUERY_TIMEOUT: Final = 1.0
"""Seconds that one sentinel or node may take to answer."""


async def _ask_one(endpoint: RedisEndpoint, *command: bytes) -> Any:
    """Return the reply of one server, or the NotSentError that says why there is none."""
    try:
        with anyio.fail_after(QUERY_TIMEOUT):
            connection = await endpoint.connect(QUERY_TIMEOUT)
            try:
                (reply,) = await ask(connection, pack(*command))
            finally:
                await hang_up(connection)
    except NotSentError as error:
        return error
    except (RedisError, OSError) as error:
        return not_sent(f"{endpoint} does not answer: {phrase(error)}", error)
    return not_sent(f"{endpoint} answers: {phrase(reply)}", reply) if isinstance(reply, ResponseError) else reply


def _unknown(text: str, failures: Sequence[NotSentError]) -> NotSentError:
    """Return the error for a query that no server answered: RefusedError if all of them refused it."""
    kind = RefusedError if failures and all(isinstance(each, RefusedError) for each in failures) else NotSentError
    texts = "; ".join(sorted({str(each) for each in failures}))
    return caused(kind(f"{text}: {texts}"), failures[0]) if failures else kind(text)


async def ask_sentinels(endpoint: RedisEndpoint) -> Address:
    """Return the address of the master that the most recent election chose: the highest config-epoch.

    Raises:
        NotSentError: no sentinel knows it.
    """
    answers: list[tuple[int, Address]] = []
    failures: list[NotSentError] = []

    async def query(seed: Address) -> None:
        reply = await _ask_one(endpoint.sentinel(seed), b"SENTINEL", b"MASTER", endpoint.service.encode())
        if isinstance(reply, NotSentError):
            failures.append(reply)
        else:
            facts = dict(zip(reply[::2], reply[1::2], strict=True))
            master = endpoint.located(facts[b"ip"].decode(), int(facts[b"port"]))
            answers.append((int(facts[b"config-epoch"]), master))

    async with anyio.create_task_group() as tasks:
        for seed in endpoint.seeds:
            tasks.start_soon(query, seed)
    if not answers:
        if any(isinstance(each.__cause__, ResponseError) for each in failures):
            raise _unknown(f"no sentinel at {endpoint} knows a master called {endpoint.service!r}", failures)
        hint = (
            " (if they have no TLS, say sentinel_ssl=false)"
            if issubclass(endpoint.sentinel_kind, SSLConnection)
            else ""
        )
        raise _unknown(f"no sentinel at {endpoint} answers{hint}", failures)
    return max(answers)[1]


async def connect_master(endpoint: RedisEndpoint, address: Address) -> Connection:
    """Return a connection to a server that says itself that it is the master.

    Raises:
        NotSentError: not reachable, or not the master yet.
    """
    connection = await endpoint.at(address).connect()
    role: Any = None
    try:
        with anyio.fail_after(QUERY_TIMEOUT):
            (role,) = await ask(connection, pack(b"ROLE"))
    except (RedisError, OSError) as error:
        raise not_sent(f"the master does not answer: {phrase(error)}", error) from error
    finally:
        is_master = isinstance(role, list) and role[0] == b"master"
        if not is_master:
            await hang_up(connection)
    if not is_master:
        actual = role[0].decode() if isinstance(role, list) else role
        raise NotSentError(f"{format_address(address)} is not the master yet: {actual}")
    return connection


async def ask_cluster(endpoint: RedisEndpoint, known: Sequence[Address]) -> list[Address]:
    """Return the address of each partition's master.

    Args:
        endpoint: the cluster's.
        known: nodes to ask before the seeds.

    Raises:
        NotSentError: no node knows the masters of all partitions.
    """
    failures: list[NotSentError] = []
    for seed in dict.fromkeys([*known, *endpoint.seeds]):
        ranges = await _ask_one(endpoint.at(seed), b"CLUSTER", b"SLOTS")
        if isinstance(ranges, NotSentError):
            failures.append(ranges)
            continue
        owners = [(start, end, endpoint.located(*_address(master, seed))) for start, end, master, *_ in ranges]
        found = [[owner for start, end, owner in owners if start <= slot_of(tag) <= end][:1] for tag in TAGS]
        if all(found):
            return [address for (address,) in found]
        failures.append(
            NotSentError(f"{format_address(seed)} knows no master of {found.count([])} of {len(TAGS)} parts")
        )
    raise _unknown(f"no node of {endpoint} knows the masters of all slots", failures)


def _address(node: Sequence[Any], asked: Address) -> Address:
    """Return the address of a node in a reply of CLUSTER SLOTS.

    The preferred endpoint is null or empty where a cluster does not know its endpoints, as behind a load balancer: then
    it is the host that was asked. It is "?" for a node that should have announced a hostname and did not: then the
    address is among the metadata.
    """
    host, port, _, *metadata = node
    if host == b"?":
        pairs = metadata[0] if metadata else []
        host = dict(zip(pairs[::2], pairs[1::2], strict=False)).get(b"ip")
    return host.decode() if host else asked[0], int(port) or asked[1]
