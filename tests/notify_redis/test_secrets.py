"""No piece of a password is shown anywhere: in errors and their causes, in the log, in what objects print."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from contextlib import aclosing
from traceback import format_exception
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from notify import Event, Notifier, RoutingInfo
from notify.errors import NotifyError
from notify_redis import RedisPresence, RedisRouter, RedisStore, RedisStreamStore
from tests.cli.commands import called
from tests.notify_redis.test_refusals import limited
from tests.servers.redis import Server

pytestmark = pytest.mark.anyio

HOSTS = [
    "redis://{}@127.0.0.1:1/0",
    "redis+sentinel://{}@127.0.0.1:1,127.0.0.1:1/main/0",
    "redis+cluster://{}@127.0.0.1:1",
]
CHARACTERS = "ab1:/?#[]@!$&'()*+,;=% \"\\.-_~|^{}<>`"


def everything(error: BaseException) -> str:
    """All that anybody prints of an error and what led to it."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is not None and each not in seen:
            seen.append(each)
            todo += [each.__cause__, each.__context__]
    return "".join([*format_exception(error), *map(str, seen), *map(repr, seen), *(str(each.args) for each in seen)])


async def attempts(url: str) -> list[str]:
    """Use every part at a server that is not there; return what the errors and the parts print."""
    texts: list[str] = []

    async def attempt(call: Callable[[], Any]) -> None:
        try:
            await call()
        except NotifyError as error:
            texts.append(everything(error))

    kinds: list[Callable[..., Any]] = [RedisStore, RedisStreamStore, RedisRouter, RedisPresence]
    for kind in kinds:
        try:
            part = kind(url, timeout=0.1)
        except NotifyError as error:
            texts.append(everything(error))
            continue
        async with aclosing(part):
            texts += [repr(part), repr(part._client), repr(part._client.endpoint), str(part._client.endpoint)]
            if kind is RedisRouter:
                await attempt(lambda part=part: part.route(Event("alice", "t"), RoutingInfo("there")))
            elif kind is RedisPresence:
                await attempt(lambda part=part: part.locate(["alice"]))
            else:
                await attempt(lambda part=part: part.save(Event("alice", "t")))
                await attempt(lambda part=part: part.read("alice", "0", 1))
    return texts


@pytest.mark.parametrize("template", HOSTS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=st.text(CHARACTERS, min_size=1, max_size=12))
@example(password="57#Wc903z")
@example(password="s3cr/et")
@example(password="s3cr?et")
@example(password="s3cr@et")
@example(password="s3cr?db=QQQ")
@example(password="s3cr%et")
async def test_raw_passwords(template: str, password: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a raw password holds, neither it nor a piece of it is shown by any part."""
    caplog.set_level(logging.DEBUG)
    texts = await attempts(template.format(f":QQQ{password}ZZZ"))
    assert texts
    for text in [*texts, caplog.text]:
        assert "QQQ" not in text
        assert "ZZZ" not in text
    caplog.clear()


async def test_a_login_that_the_server_refuses(server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong password, and a right one in a query, are not shown by what the server answers."""
    right = limited(server, "QQQname")
    for url in (right.replace("secret", "ZZZ"), f"{server.url}?username=QQQname&password=ZZZ"):
        async with aclosing(RedisStreamStore(url, prefix=prefix)) as store, Notifier(store) as notifier:
            health = await notifier.check()
            assert not health.ok
            texts = [str(health), *await attempts(url), caplog.text]
        assert all("ZZZ" not in text for text in texts)
    gc.collect()
    assert "ZZZ" not in caplog.text


@pytest.mark.parametrize(
    "password", ["57#Wc903z", "s3cr/et", "s3cr?et", "s3cr@et", "s3cr?max_len=5", "s3cr%et", "plain"]
)
@pytest.mark.parametrize("scheme", ["redis://:{}@127.0.0.1:1/0", "postgresql://u:{}@127.0.0.1:1/x"])
@pytest.mark.parametrize("way", ["option", "variable"])
def test_the_command_line(tmp_path: Any, password: str, scheme: str, way: str) -> None:
    """The command shows no piece of a password, given as an option or in the environment."""
    url = scheme.format(f"QQQ{password}ZZZ")
    given_by = {"option": (("--store", url), {}), "variable": ((), {"NOTIFY_STORE": url})}
    arguments, variables = given_by[way]
    done = called(tmp_path, "head", "alice", "--timeout", "0.5", *arguments, variables=variables)
    assert done.status
    assert "QQQ" not in done.out + done.err
    assert "ZZZ" not in done.out + done.err
