"""Writes firebase_messages.json: what firebase-admin's encoder makes of the messages that the tests of FCM send.

It is not a dependency of the tests, since it brings 34 packages along. To write the file again, install firebase-admin
into an environment of its own, and run this file with it.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from firebase_admin import messaging
from firebase_admin._messaging_encoder import MessageEncoder

ID = "0123456789abcdef0123456789abcdef"


def meta(priority: str) -> str:
    return json.dumps({"type": "comment.created", "channel": "test", "priority": priority}, separators=(",", ":"))


def apns(headers: dict[str, str], **aps: object) -> messaging.APNSConfig:
    return messaging.APNSConfig(headers=headers, payload=messaging.APNSPayload(aps=messaging.Aps(**aps)))


MESSAGES = {
    "alert": messaging.Message(
        token="token-hush",
        data={
            "post": "7",
            "name": "x",
            "deep": '{"a":null}',
            "url": "https://example.com/7",
            "id": ID,
            "_meta": meta("high"),
        },
        notification=messaging.Notification("Hi", "there", "https://example.com/7.png"),
        android=messaging.AndroidConfig(
            priority="high",
            ttl=timedelta(hours=1),
            notification=messaging.AndroidNotification(tag=ID, channel_id="high_importance_channel"),
        ),
        apns=apns(
            {"apns-priority": "10", "apns-collapse-id": ID, "apns-expiration": "1799154000"},
            sound="default",
        ),
        webpush=messaging.WebpushConfig(
            headers={"Urgency": "high", "TTL": "3600"},
            fcm_options=messaging.WebpushFCMOptions(link="https://example.com/7"),
        ),
    ),
    "silent": messaging.Message(
        topic="news",
        data={"post": "7", "id": ID, "_meta": meta("normal")},
        android=messaging.AndroidConfig(priority="normal", collapse_key="sync"),
        apns=apns(
            {"apns-priority": "5", "apns-collapse-id": "sync", "apns-push-type": "background"},
            content_available=True,
        ),
        webpush=messaging.WebpushConfig(headers={"Urgency": "normal"}),
    ),
    "installation": messaging.Message(
        fid="fid-1",
        data={"post": "7", "id": ID, "_meta": meta("low")},
        notification=messaging.Notification("Hi"),
        android=messaging.AndroidConfig(priority="normal", notification=messaging.AndroidNotification(tag="t")),
        apns=apns({"apns-priority": "10", "apns-collapse-id": ID}, sound="default"),
        webpush=messaging.WebpushConfig(headers={"Urgency": "low"}),
    ),
}

if __name__ == "__main__":
    written = {name: MessageEncoder().default(message) for name, message in MESSAGES.items()}
    text = json.dumps(written, indent=2, sort_keys=True)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
