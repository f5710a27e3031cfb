"""The web application of a soak run, as a server loads it: the store comes from the environment."""

from __future__ import annotations

import json
import os

from notify import Notifier
from notify.web import NotifyApp

from .stores import open_store

SETTINGS = json.loads(os.environ["SOAK_STORE"])

notifier = Notifier(open_store(SETTINGS["url"], SETTINGS["space"], **SETTINGS["options"]), audit_interval=3600.0)
app = NotifyApp(notifier, lambda request: request.query.get("user"), heartbeat=1.0, lifetime=10.0, send_timeout=5.0)
