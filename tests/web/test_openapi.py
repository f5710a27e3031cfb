"""The OpenAPI document: complete, valid, and true of the application that serves it."""

from __future__ import annotations

import re
from typing import Any

import httpx
import jsonschema_rs
import pytest

from notify import Notifier
from notify.inbox import Inbox
from notify.web import NotifyApp
from notify.web._app import ROUTES
from notify.web._openapi import described
from notify_memory import MemoryStore
from tests.web.serving import serving

pytestmark = pytest.mark.anyio

NOT_FOR_CLIENTS = {"HEAD", "OPTIONS"}


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if "$ref" in value else set[str]()
        return own.union(*(references(each) for each in value.values()))
    return set[str]().union(*(references(each) for each in value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("has_push", [False, True])
@pytest.mark.parametrize("has_inbox", [False, True])
def test_every_route_is_described(has_push: bool, has_inbox: bool) -> None:
    """Each path and method that is served, and no other; pushing and the inbox only where they exist."""
    served = {f"/{name}": {*methods} - NOT_FOR_CLIENTS for name, methods in ROUTES.items()}
    if not has_push:
        del served["/push"]
    if not has_inbox:
        served = {path: methods for path, methods in served.items() if not re.match(r"/(inbox(?!\.)|follow)", path)}
    document = described(has_push, has_inbox)
    assert {path: {method.upper() for method in item} for path, item in document["paths"].items()} == served


def test_references_and_names() -> None:
    """References resolve, schemas are used, every operation has a name of its own and says how its errors look."""
    document = described(True, True)
    named = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) == named
    operations = [each for item in document["paths"].values() for each in item.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        for status, response in operation["responses"].items():
            assert response["description"]
            if status >= "400":
                (reference,) = references(response)
                is_health = operation["operationId"] == "health" and status == "503"
                assert reference.endswith("/Health" if is_health else "/Error")
                assert ("headers" in response) == (status in ("429", "503") and not is_health)


def test_schemas_are_valid() -> None:
    """Each schema is one of JSON Schema 2020-12, as OpenAPI 3.1 uses it, and tells right from wrong."""
    document = described(True, True)
    for schema in document["components"]["schemas"].values():
        assert {"type", "allOf"} & schema.keys()
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    push = jsonschema_rs.Draft202012Validator(document["components"]["schemas"]["Push"])
    assert push.is_valid({"user": "alice", "type": "a.b", "payload": None, "key": None})
    assert push.is_valid({"broadcast": True, "type": "a"})
    for wrong in (
        {"type": "a"},
        {"user": "a", "users": ["b"], "type": "a"},
        {"user": "a", "type": "a b"},
        {"user": "a\n", "type": "a"},
    ):
        assert not push.is_valid(wrong), wrong


async def test_it_is_served() -> None:
    """With a relative address of the server, so that it is right under any mount."""
    notifier = Notifier(MemoryStore())
    async with (
        notifier,
        serving(NotifyApp(notifier, lambda request: None, inbox=Inbox(notifier), publish_secrets=["secret"])) as place,
        httpx.AsyncClient(base_url=f"http://{place}") as client,
    ):
        answer = await client.get("/openapi.json")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == described(True, True)
        assert answer.json()["servers"] == [{"url": "."}]
        head = await client.head("/openapi.json")
        assert (head.status_code, head.content) == (200, b"")
