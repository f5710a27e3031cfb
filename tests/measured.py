"""Which tests measure the coverage of the library: one that does takes about twice as long (`tests/conftest.py`).

A test runs at full speed, with the processes that it starts, if others run the same lines and branches: then what it
runs of the library need not be measured. If `make test` says that a line is not covered and you know that it is, look
here first.
"""

from __future__ import annotations

from typing import Final

UNMEASURED: Final = (
    "dispatch/test_plans_come_true.py",
    "inbox/test_behaviour.py",
    "notify/test_web_frameworks.py",
    "properties",
    "web/test_hostile.py",
)
"""Files, and directories of files, that run no line which others do not run."""

MEASURED_UNDER_TRIO: Final = (
    "dispatch/test_channel_email.py",
    "inbox/test_streams_conform.py",
    "notify/test_faults.py",
    "notify/test_instances.py",
    "notify/test_lease_keeper.py",
    "notify/test_merged.py",
    "notify/test_namesakes.py",
    "notify/test_order.py",
    "notify/test_subscribe.py",
    "web/test_durable_ends.py",
    "web/test_polling.py",
    "web/test_publish.py",
    "web/test_sse_corners.py",
    "web/test_sse_ends.py",
)
"""Files that run lines which no test runs under asyncio. All others are measured under asyncio alone."""
