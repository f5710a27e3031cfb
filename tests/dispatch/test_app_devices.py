"""Devices over HTTP: registered by their owners, shown without addresses, and only what can be a push service."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from notify import UsageError
from notify.dispatch import DispatchApp, Dispatcher
from notify.dispatch._app_devices import vapid_keys
from notify.dispatch.channels import Breaker, WebPushChannel, generate_vapid_key
from notify_memory import MemoryDispatchStore
from tests.dispatch.app import SUBSCRIPTION, refused, serving, user_of

pytestmark = pytest.mark.anyio

TOKEN = {"channel": "fcm", "address": "secret-token", "kind": "token", "platform": "android"}


async def test_a_browser_subscribes_and_unsubscribes(caplog: pytest.LogCaptureFixture) -> None:
    """It gets the key, registers, sees its device without the address, and is gone afterwards; nothing is logged."""
    caplog.set_level(logging.DEBUG, "notify")
    async with serving() as site, site.client("alice") as client:
        key = (await client.get("push/vapid-key")).json()["public_key"]
        assert key == site.web_push.public_key
        answer = await client.post("push/subscribe", json=SUBSCRIPTION | {"tz": "Europe/Berlin", "vapid": key})
        assert answer.status_code == 201
        device = answer.json()
        assert (device["channel"], device["tz"]) == ("web_push", "Europe/Berlin")
        stored = (await site.store.endpoints(["alice"]))["alice"][0]
        assert stored.address == SUBSCRIPTION["endpoint"]
        assert stored.meta == {**SUBSCRIPTION["keys"], "vapid": key, "tz": "Europe/Berlin"}  # type: ignore[dict-item]
        shown = await client.get("devices")
        assert [each["id"] for each in shown.json()["devices"]] == [device["id"]]
        assert "secret" not in shown.text + answer.text
        for _ in range(2):
            gone = await client.post("push/unsubscribe", json={"endpoint": SUBSCRIPTION["endpoint"]})
            assert gone.status_code == 204
        assert (await client.get("devices")).json() == {"devices": []}
    assert "secret" not in caplog.text


async def test_a_token_is_registered_and_removed() -> None:
    """By its id or by its address; twice is 404 by id and nothing by address."""
    async with serving() as site, site.client("alice") as client:
        id = (await client.post("devices", json=TOKEN)).json()["id"]
        assert (await client.delete(f"devices/{id}")).status_code == 204
        refused(await client.delete(f"devices/{id}"), 404, "not_found")
        await client.post("devices", json=TOKEN)
        address = {name: TOKEN[name] for name in ("channel", "address", "kind")}
        assert (await client.post("devices/unregister", json=address)).status_code == 204
        assert (await client.get("devices")).json() == {"devices": []}


async def test_foreign_devices_stay() -> None:
    """Another user's device is 404 by id, and stays also where its address is named."""
    async with serving() as site, site.client("alice") as alice, site.client("bob") as bob:
        id = (await alice.post("devices", json=TOKEN)).json()["id"]
        refused(await bob.delete(f"devices/{id}"), 404, "not_found")
        address = {name: TOKEN[name] for name in ("channel", "address", "kind")}
        assert (await bob.post("devices/unregister", json=address)).status_code == 204
        assert len((await alice.get("devices")).json()["devices"]) == 1
        assert (await bob.get("devices")).json() == {"devices": []}


async def test_a_device_belongs_to_a_session_until_login() -> None:
    """Before login it is the session's; registered again after login, the user's. Without session_of it is 401."""
    async with serving(session_of=lambda request: request.cookies.get("session")) as site:
        async with site.client(cookie="session=s1", **{"x-notify": "1"}) as visitor, site.client("alice") as alice:
            id = (await visitor.post("devices", json=TOKEN)).json()["id"]
            stored = await site.store.endpoint(id)
            assert stored is not None
            assert (stored.user, stored.session) == ("", "s1")
            async with site.client(cookie="session=s2") as other:
                refused(await other.delete(f"devices/{id}", headers={"x-notify": "1"}), 404, "not_found")
            refused(await visitor.get("devices"), 401, "unauthenticated")
            assert (await alice.post("devices", json=TOKEN)).json()["id"] == id
            refused(await visitor.delete(f"devices/{id}"), 404, "not_found")
            assert len((await alice.get("devices")).json()["devices"]) == 1
        async with site.client() as stranger:
            refused(await stranger.post("devices", json=TOKEN), 401, "unauthenticated")
    async with serving() as site, site.client(cookie="session=s1") as visitor:
        refused(await visitor.post("devices", json=TOKEN), 401, "unauthenticated")


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://push.example.com/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://10.0.0.1/x",
        "https://2130706433/x",
        "https://0x7f.1/x",
        "https://localhost/x",
        "https://localhost./x",
        "https://db.internal/x",
        "https://user:password@push.example.com/x",
        "https://push.example.com:0/x",
        "https://push.example.com:99999/x",
        "https://push.example.com/a b",
        "https://push.example.com\\@127.0.0.1/x",
        "https://[::1/x",
        "ftp://push.example.com/x",
        "push.example.com",
        "",
        "https://push.example.com/" + "x" * 2048,
        "https://push.example.com/\u0000",
        7,
        None,
    ],
)
async def test_what_cannot_be_a_push_service_is_refused(endpoint: object) -> None:
    """Not https, not a public name, not a URL: 422, and nothing is stored."""
    async with serving() as site, site.client("alice") as client:
        refused(await client.post("push/subscribe", json=SUBSCRIPTION | {"endpoint": endpoint}), 422, "invalid_device")
        assert not await site.store.endpoints(["alice"])


@pytest.mark.parametrize(
    "change",
    [
        {"keys": {}},
        {"keys": "x"},
        {"keys": {"p256dh": "AAAA", "auth": "BTBZMqHH6r4Tts7J_aSIgg"}},
        {"keys": {**SUBSCRIPTION["keys"], "auth": "!"}},  # type: ignore[dict-item]
        {"keys": {**SUBSCRIPTION["keys"], "auth": 1}},  # type: ignore[dict-item]
        {"keys": {**SUBSCRIPTION["keys"], "auth": "BTBZM"}},  # type: ignore[dict-item]
        {"tz": "Europe/Nowhere"},
        {"user": "alice"},
    ],
)
async def test_malformed_subscriptions_are_refused(change: dict[str, Any]) -> None:
    """Keys of another length, a zone that does not exist, and members that are not known are 422."""
    async with serving() as site, site.client("alice") as client:
        refused(await client.post("push/subscribe", json=SUBSCRIPTION | change), 422, "invalid_device")


async def test_a_subscription_with_another_key_has_to_be_made_again() -> None:
    """It is 409; each key of a channel that has two is accepted, wrapped or not."""
    old, new = generate_vapid_key(), generate_vapid_key()
    async with serving() as site, site.client("alice") as client:
        other = WebPushChannel([new, old], subject="mailto:ops@example.com")
        assert vapid_keys(Breaker(other)) == other.public_keys
        assert len(other.public_keys) == 2
        answer = await client.post("push/subscribe", json=SUBSCRIPTION | {"vapid": other.public_keys[1]})
        refused(answer, 409, "other_key")
        await other.aclose()


@pytest.mark.parametrize(
    "change",
    [
        {"channel": "email"},
        {"channel": "in_app"},
        {"channel": "none"},
        {"kind": "topic"},
        {"platform": "toaster"},
        {"address": ""},
        {"address": "a b"},
        {"address": ["x"]},
        {"address": "x" * 4097},
        {"tz": 5},
        {"more": 1},
    ],
)
async def test_what_is_not_a_device_is_refused(change: dict[str, Any]) -> None:
    """Neither an e-mail address, which needs proof, nor a topic, which reaches everybody, can be registered."""
    async with serving() as site, site.client("alice") as client:
        refused(await client.post("devices", json=TOKEN | change), 422, "invalid_device")


async def test_channels_for_which_devices_are_registered() -> None:
    """Those that are named, and no other; browsers subscribe in any case, unless there is no web push."""
    async with serving(devices=[]) as site, site.client("alice") as client:
        refused(await client.post("devices", json=TOKEN), 422, "invalid_device")
        assert (await client.post("push/subscribe", json=SUBSCRIPTION)).status_code == 201
        site.app = DispatchApp(site.dispatcher, user_of, devices=["fcm"])
        assert (await client.post("devices", json=TOKEN)).status_code == 201
        site.app = DispatchApp(site.dispatcher, user_of, web_push="browser")
        refused(await client.get("push/vapid-key"), 404, "not_found")
        refused(await client.post("push/subscribe", json=SUBSCRIPTION), 404, "not_found")


async def test_one_device_too_many_removes_the_oldest() -> None:
    """The one that was seen longest ago."""
    async with serving(max_devices=2) as site, site.client("alice") as client:
        ids = []
        for number in range(3):
            site.clock.advance("1m")
            ids.append((await client.post("devices", json=TOKEN | {"address": f"t{number}"})).json()["id"])
        shown = {each["id"] for each in (await client.get("devices")).json()["devices"]}
        assert shown == {*ids[1:]}


async def test_one_device_too_many_of_a_session_removes_the_oldest() -> None:
    """A visitor who has not logged in is bounded as a user is, and takes nothing from other visitors."""
    async with serving(max_devices=2, session_of=lambda request: request.headers.get("x-session")) as site:
        ids: dict[str, list[str]] = {"one": [], "two": []}
        for number in range(3):
            for session, mine in ids.items():
                site.clock.advance("1m")
                async with site.client(**{"x-session": session}) as client:
                    answer = await client.post("devices", json=TOKEN | {"address": f"{session}-{number}"})
                mine.append(answer.json()["id"])
        for session, mine in ids.items():
            assert {each.id for each in await site.store.session_endpoints(session)} == {*mine[1:]}
            old = await site.store.endpoint(mine[0])
            assert old is not None
            assert old.reason == "too_many"


async def test_options_are_checked() -> None:
    """A channel that is not there cannot have devices, and functions must be functions."""
    async with serving() as site:
        wrong: list[dict[str, Any]] = [
            {"devices": ["sms"]}, {"devices": ["in_app"]}, {"devices": "fcm"}, {"admin": "root"},
            {"callbacks": {"x": 1}}, {"audiences": []}, {"max_devices": 0}, {"max_body": -1}, {"timeout": 0},
            {"origins": "*"},
        ]  # fmt: skip
        for options in wrong:
            with pytest.raises(UsageError):
                DispatchApp(site.dispatcher, user_of, **options)
        with pytest.raises(UsageError):
            DispatchApp(None, user_of)  # type: ignore[arg-type]


class Sessionless(MemoryDispatchStore):
    """A store of endpoints that does not find those of a session."""

    session_endpoints = None  # type: ignore[assignment]


async def test_sessions_need_a_store_that_finds_their_devices() -> None:
    """Otherwise a visitor could register any number of them."""
    async with serving() as site, Sessionless(clock=site.clock) as store:
        channels = {"fcm": site.dispatcher._parts.channels["fcm"]}
        dispatcher = Dispatcher(None, store, [], channels, recipients=lambda ids: [])
        DispatchApp(dispatcher, user_of)
        with pytest.raises(UsageError, match=r"Sessionless lacks the ability .*SessionEndpoints"):
            DispatchApp(dispatcher, user_of, session_of=lambda request: None)
