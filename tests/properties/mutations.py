"""Faults to put into the core on purpose: a test suite that never failed proves nothing.

Each mutation replaces one piece of source by another and is named after what it breaks. The piece must occur exactly
once in its module, so this list cannot outlive the code that it is about. A mutation is applied by compiling the
changed module and giving the function its new code; nothing is imported twice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        name: what it breaks, as a sentence.
        function: `module:qualified name` of the function that holds the piece.
        old: the piece of source.
        new: what stands there instead.
    """

    name: str
    function: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "an event that does not follow the cursor is yielded",
        "notify._stream._splice:splice",
        "    return Contiguity.BEHIND\n",
        "    return Contiguity.NEXT\n",
    ),
    Mutation(
        "an event at or before the cursor is yielded again",
        "notify._stream._splice:splice",
        "        return Contiguity.SEEN\n",
        "        return Contiguity.NEXT\n",
    ),
    Mutation(
        "an event beyond the cursor counts as seen",
        "notify._stream._splice:splice",
        "    return Contiguity.BEHIND\n",
        "    return Contiguity.SEEN\n",
    ),
    Mutation(
        "the ring takes duplicates and late events",
        "notify._stream._ring:Ring.append",
        "event.id == last or ids.parse(event.id) <= ids.parse(last):",
        "False:",
    ),
    Mutation(
        "a stream is content with a read that began before it came",
        "notify._stream._reads:Read.suits",
        "return ring is self.watermark.ring and end <= self.watermark.end",
        "return True",
    ),
    Mutation(
        "a head is shared with a stream that came later",
        "notify._stream._reads:Read.__init__",
        "self if after is None else (user, after)",
        "(user, after)",
    ),
    Mutation(
        "a full page counts as the end of the log",
        "notify._stream._reads:Reads._hand_over",
        "len(outcome.events) < PAGE_SIZE",
        "len(outcome.events) <= PAGE_SIZE",
    ),
    Mutation(
        "a full page read at once counts as the end of the log",
        "notify._stream._hub:StreamHub.request",
        "len(page.events) < PAGE_SIZE",
        "len(page.events) <= PAGE_SIZE",
    ),
    Mutation(
        "an event that the log has lost is looked for again and again",
        "notify._stream._cursor:Cursor._judge",
        "if verdict is Contiguity.BEHIND and self.index < self._proven:",
        "if False:",
    ),
    Mutation(
        "the cursor moves before the event is handed over",
        "notify._stream._subscription:Subscription.__anext__",
        "                if taken is not None:\n",
        "                if taken is not None:\n                    await anyio.sleep(0)\n",
    ),
    Mutation(
        "the cursor moves before a live event is handed over",
        "notify._stream._subscription:Subscription.__anext__",
        "                        cursor.last_id = event.id\n                        cursor.counters.yielded += 1\n",
        "                        cursor.last_id = event.id\n"
        "                        await anyio.sleep(0)\n"
        "                        cursor.counters.yielded += 1\n",
    ),
    Mutation(
        "a live event is taken for the next one unproven",
        "notify._stream._subscription:Subscription.__anext__",
        "if event.prev == cursor.last_id and event.id and not streams.volatile:",
        "if event.id and not streams.volatile:",
    ),
    Mutation(
        "a page that was read ahead replaces the one that is handed out",
        "notify._stream._attachment:Attachment.receive",
        "        self._prefetched = (page, reached_end, watermark)\n",
        "        self._accept(page, reached_end, watermark)\n",
    ),
    Mutation(
        "a reader that was cancelled still counts as waiting",
        "notify._stream._subscription:Subscription.__anext__",
        "                        if streams.waiting:\n",
        "                        if False:\n",
    ),
    Mutation(
        "an offer wakes nobody",
        "notify._stream._user_streams:UserStreams.offer",
        "                stream.waiter.wake()",
        "                pass",
    ),
    Mutation(
        "the ring forgets what not everybody has read",
        "notify._stream._user_streams:UserStreams.offer",
        "if len(waiting) == self.streams and",
        "if",
    ),
    Mutation(
        "another stream's read hides news from the audit",
        "notify._stream._user_streams:UserStreams.reached",
        "        if self.last_id is None:\n",
        "        if self.last_id is None or ids.parse(position) > ids.parse(self.last_id):\n",
    ),
    Mutation(
        "an audit that finds news tells nobody",
        "notify._stream._catch_up:CatchUp._compare",
        "and streams.last_id == position:\n            streams.resync()\n",
        "and streams.last_id == position:\n            pass\n",
    ),
    Mutation(
        "an audit stops at the size of the buffer",
        "notify._stream._catch_up:CatchUp._take",
        "page.gap is not None or len(page.events) >= self._hub.buffer_size",
        "page.gap is not None",
    ),
    Mutation(
        "an audit does not look for gaps",
        "notify._stream._catch_up:CatchUp._take",
        "page.gap is not None or len(page.events) >= self._hub.buffer_size",
        "False",
    ),
    Mutation(
        "a stream told to read again does not",
        "notify._stream._cursor:Cursor._judge",
        "        if event is RESYNC:\n            return Contiguity.BEHIND\n",
        "        if event is RESYNC:\n            return Contiguity.SEEN\n",
    ),
    Mutation(
        "a gap is crossed without a word",
        "notify._stream._cursor:Cursor._cross_gap",
        "        rare.gaps.append(gap)\n",
        "",
    ),
    Mutation(
        "a gap is met and not told",
        "notify._stream._cursor:Cursor._cross_gap",
        "        rare.gaps.append(gap)\n",
        "        pass\n",
    ),
    Mutation(
        "a closed stream is never taken off the books",
        "notify._stream._attachment:Attachment._detach",
        "        self._source.detach(streams)\n",
        "",
    ),
    Mutation(
        "a stream that is closed twice is released twice",
        "notify._stream._attachment:Attachment._detach",
        "streams, self._streams = self._streams, None",
        "streams = self._streams",
    ),
    Mutation(
        "a stream begins at the oldest entry of the ring",
        "notify._stream._cursor:Cursor.attach",
        "        self.index = ring.end\n",
        "        self.index = max(0, ring.end - 1)\n",
    ),
    Mutation(
        "a stream is closed and its reader sleeps on",
        "notify._stream._base_stream:BaseStream._close",
        "        self._discard()\n        self._wake()\n",
        "        self._discard()\n",
    ),
    Mutation(
        "a stream whose bare next was cancelled stays attached",
        "notify._stream._subscription:Subscription._interrupted",
        "if self._streams is None or self._held:",
        "if True:",
    ),
    Mutation(
        "a read that a cancelled reader has requested is of no use to it",
        "notify._stream._subscription:Subscription._interrupted",
        "                self._abandoned = True\n                return\n",
        "                pass\n",
    ),
    Mutation(
        "a stream that attaches again has lost the page in hand",
        "notify._stream._cursor:Cursor.attach",
        "self.page, rare.kept_page = rare.kept_page, None",
        "self.page = rare.kept_page = None",
    ),
    Mutation(
        "a stream that attaches again reads before it hands out the page in hand",
        "notify._stream._subscription:Subscription._advance",
        "                if not cursor.page:  # attached again with a page in hand: that comes first\n",
        "                if True:\n",
    ),
    Mutation(
        "an event is offered before it is stored",
        "notify._push._writer:Writer._save",
        "                stored = _checked(await self._store.save(save.event))\n",
        "                stored = self.on_saved(save, save.event) or _checked(await self._store.save(save.event))\n",
    ),
    Mutation(
        "a push that was saved in a batch is not offered",
        "notify._push._writer:Writer._save_batch",
        "                self.on_saved(save, outcome)\n",
        "                pass\n",
    ),
    Mutation(
        "cancelling a push cancels the save",
        "notify._push._writer:Writer.outcome",
        "                while save.outcome is None:\n                    await save.waiter\n",
        "                try:\n"
        "                    while save.outcome is None:\n                        await save.waiter\n"
        "                except BaseException:\n"
        "                    [job.cancel() for job in tuple(self._background._jobs)]\n"
        "                    raise\n",
    ),
    Mutation(
        "a later push to the same user overtakes one that is being saved",
        "notify._push._writer:Writer._forward",
        "            lane = self._lanes.get(user)\n",
        "            lane = self._lanes.pop(user, None) and None\n",
    ),
)


@contextmanager
def applied(mutation: Mutation) -> Iterator[None]:
    """Run the block with this fault in the core.

    Raises:
        AssertionError: the piece of source does not occur exactly once, or makes no difference.
    """
    module_name, qualname = mutation.function.split(":")
    module = import_module(module_name)
    assert module.__file__ is not None
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1, f"{mutation.old!r} occurs {source.count(mutation.old)} times"
    changed = compile(source.replace(mutation.old, mutation.new), module.__file__, "exec")
    function: Any = module
    for name in qualname.split("."):
        function = getattr(function, name)
    assert isinstance(function, FunctionType)
    before, after = function.__code__, _find(changed, qualname)
    assert before.co_code != after.co_code or before.co_consts != after.co_consts or before.co_names != after.co_names
    function.__code__ = after
    try:
        yield
    finally:
        function.__code__ = before


def _find(code: CodeType, qualname: str) -> CodeType:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_qualname == qualname:
                return constant
            if qualname.startswith(f"{constant.co_qualname}."):
                return _find(constant, qualname)
    raise AssertionError(f"no function {qualname} in {sys.modules}")
