"""A notifier for code without an event loop: Django and Flask views, Celery tasks, scripts, threads."""

from ._notifier import SyncNotifier as SyncNotifier
from ._stream import SyncStream as SyncStream

__all__ = ["SyncNotifier", "SyncStream"]
