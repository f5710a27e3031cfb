"""Preferences over HTTP: patched, and read with what they come to."""

from __future__ import annotations

import json
from functools import reduce
from typing import Any

import anyio.lowlevel
import pytest

from notify import BackendUnavailableError
from notify.dispatch import DispatchApp
from tests.dispatch.app import refused, serving

pytestmark = pytest.mark.anyio


async def test_preferences_are_patched_and_read_with_their_layer() -> None:
    """Each type and channel says whether it is on, by whose entry; null removes an entry."""
    async with serving() as site, site.client("alice") as client:
        before = (await client.get("preferences")).json()
        assert before["preferences"] == {}
        assert before["effective"]["note"]["fcm"] == {"on": True, "layer": "type", "rule": ""}
        assert before["opt_in"] == {"offers": {"on": False, "layer": "type", "rule": ""}}
        assert before["types"] == {
            "note": {"category": "transactional", "opt_in": None},
            "offer": {"category": "marketing", "opt_in": "offers"},
        }
        assert before["tz"] == "UTC"
        patch = {"channels": {"fcm": False}, "opt_in": {"offers": True}, "tz": "Europe/Berlin"}
        answer = await client.patch("preferences", json=patch)
        assert answer.status_code == 200
        assert answer.json()["preferences"] == patch
        assert answer.json()["effective"]["note"]["fcm"] == {"on": False, "layer": "user", "rule": "channels/fcm"}
        assert answer.json()["opt_in"]["offers"]["on"]
        assert answer.json()["tz"] == "Europe/Berlin"
        rules = [{"start": "22:00", "end": "07:00"}]
        kind = {"content-type": "application/merge-patch+json"}
        answer = await client.patch("preferences", json={"channels": None, "quiet_hours": rules}, headers=kind)
        assert answer.json()["effective"]["note"]["fcm"]["layer"] == "type"
        assert answer.json()["quiet_hours"]["layer"] == "user"
        assert answer.json() == (await client.get("preferences")).json()
        changes = await site.store.consents("alice")
        assert [(by, source) for _, by, source, _ in changes] == [("alice", "http")] * 2


@pytest.mark.parametrize(
    "patch",
    [
        {"all": "yes"},
        {"channels": {"pigeon": False}},
        {"types": {"nothing": {"email": False}}},
        {"types": {"note": False}},
        {"categories": {"news": {"email": False}}},
        {"opt_in": {"offers": "yes"}},
        {"quiet_hours": [{"start": "25:00", "end": "07:00"}]},
        {"tz": "Europe/Nowhere"},
        {"unknown": 1},
        {"extra": reduce(lambda inner, _: {"a": inner}, range(800), 1)},
        [],
        "text",
    ],
)
async def test_what_preferences_cannot_say_is_refused(patch: Any) -> None:
    """It is 422, names what is wrong, and changes nothing."""
    async with serving() as site, site.client("alice") as client:
        refused(await client.patch("preferences", json=patch), 422, "invalid_preferences")
        assert not await site.store.preferences(["alice"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/preferences", {"channels": {"fcm": False}}),
        ("POST", "/devices", {"channel": "fcm", "address": "token"}),
    ],
)
async def test_a_client_that_leaves_while_it_is_authenticated(method: str, path: str, body: Any) -> None:
    """A complete request is carried out; a server may drop the body that it has once the client has left."""
    arriving = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    left = anyio.Event()
    sent: list[Any] = []

    async def authenticate(request: Any) -> str:
        left.set()
        await anyio.lowlevel.checkpoint()
        return "alice"

    async def receive() -> Any:
        if arriving and not left.is_set():
            return arriving.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    async with serving() as site:
        await DispatchApp(site.dispatcher, authenticate)(scope, receive, send)
        assert sent[0]["status"] in (200, 201)
        assert await site.store.preferences(["alice"]) or await site.store.endpoints(["alice"])


@pytest.mark.parametrize("is_away", [False, True])
async def test_preferences_of_users_of_whom_nothing_is_known(is_away: bool) -> None:
    """They are shown and changed without what the application knows, also while it cannot be asked."""
    async with serving() as site, site.client("ghost") as client:

        async def recipients(ids: Any) -> list[Any]:
            if is_away:
                raise ConnectionError("the database of users is away")
            return []

        object.__setattr__(site.dispatcher._parts, "recipients", recipients)
        assert (await client.get("preferences")).json()["effective"]["note"]["fcm"]["on"]
        answer = await client.patch("preferences", json={"channels": {"fcm": False}, "tz": "Europe/Berlin"})
        assert (answer.status_code, answer.json()["tz"]) == (200, "Europe/Berlin")
        assert not (await client.get("preferences")).json()["effective"]["note"]["fcm"]["on"]


async def test_preferences_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is 503, not the preferences of a user without any, and nothing is said of the application's function."""

    async def fail(*_: object) -> None:
        raise BackendUnavailableError("db.internal refused the connection")

    async with serving() as site, site.client("alice") as client:
        monkeypatch.setattr(site.store, "preferences", fail)
        assert "db.internal" not in refused(await client.get("preferences"), 503, "unavailable")
    assert "recipients=" not in caplog.text


async def test_a_request_that_is_not_a_patch_is_refused() -> None:
    """Not JSON, NaN, a member twice, another media type, too large, without a user."""
    async with serving(max_body=1000) as site, site.client("alice") as client, site.client() as nobody:
        for body in (b"{", b'{"all": NaN}', b'{"all": true, "all": false}', b"\xff", b"[" * 900):
            kind = {"content-type": "application/json"}
            refused(await client.patch("preferences", content=body, headers=kind), 400, "invalid_json")
        kind = {"content-type": "text/html"}
        refused(await client.patch("preferences", content=b"{}", headers=kind), 415, "unsupported_media_type")
        refused(await client.patch("preferences", json={"extra": {"x": "y" * 1000}}), 413, "payload_too_large")
        refused(await nobody.patch("preferences", json={}), 401, "unauthenticated")
        refused(await nobody.get("preferences"), 401, "unauthenticated")


async def test_preferences_do_not_grow_without_end() -> None:
    """What they would come to has the bound of a request."""
    async with serving(max_body=1000) as site, site.client("alice") as client:
        assert (await client.patch("preferences", json={"extra": {"a": "x" * 600}})).status_code == 200
        refused(await client.patch("preferences", json={"extra": {"b": "x" * 600}}), 413, "payload_too_large")
        assert (await client.patch("preferences", json={"extra": {"a": "x" * 500}})).status_code == 200
