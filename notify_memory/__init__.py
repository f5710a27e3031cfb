"""The reference backend: everything in the memory of one process, on asyncio and trio."""

from ._dispatch import MemoryDispatchStore as MemoryDispatchStore
from ._presence import MemoryPresence as MemoryPresence
from ._router import MemoryRouter as MemoryRouter
from ._store import MemoryStore as MemoryStore
from ._stream_store import MemoryStreamStore as MemoryStreamStore

__all__ = ["MemoryDispatchStore", "MemoryPresence", "MemoryRouter", "MemoryStore", "MemoryStreamStore"]
