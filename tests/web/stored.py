"""An application over the store that the environment names, for servers that are processes of their own."""

from __future__ import annotations

import os

from notify import Notifier
from notify.web import NotifyApp

notifier = Notifier.from_url(os.environ["NOTIFY_TEST_STORE"])
app = NotifyApp(notifier, lambda request: request.query.get("user"), retry=(0.1, 0.3), heartbeat=1.0, long_poll=2.0)
