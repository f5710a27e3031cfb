"""Gaps are logged, but a client that causes them cannot fill the log."""

from __future__ import annotations

import pytest

from notify import Event, Gap, Notifier
from notify._stream._gap_log import GapLog
from notify.adapters import join_positions
from notify_memory import MemoryStore


@pytest.mark.anyio
async def test_forged_positions_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Many positions that clients made up cause one warning for each reason; other gaps are logged at level DEBUG."""
    caplog.set_level("DEBUG", "notify")
    users = ["alice", "bob"]
    async with Notifier(MemoryStore()) as notifier:
        for user in users:
            await notifier.push(user, "t")
        for number in range(20):
            ahead = f"9999999999999-{number}"
            for stream in (
                notifier.subscribe("alice", ahead),
                notifier.subscribe(users, join_positions(dict.fromkeys(users, ahead))),
                notifier.subscribe("nobody", f"5-{number}", signals=True),
            ):
                async with stream:
                    assert isinstance(await stream.next(10), Event)
        reported = dict(notifier.statistics().gaps)
    gaps = [record for record in caplog.records if record.getMessage().startswith("gap (")]
    assert reported == {"rewound": 60, "expired": 20}
    assert len(gaps) == 80
    warnings = [record.getMessage() for record in gaps if record.levelname == "WARNING"]
    assert [text.partition(" for ")[0] for text in warnings] == ["gap (rewound)", "gap (expired)"]


def test_gaps_that_go_on_are_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    """There is one warning a minute for each reason, and it names the latest gap."""
    log = GapLog()
    for now in (0.0, 59.9, 60.0, 119.0, 500.0):
        log.note(Gap("rewound", "9-0", "0"), f"user{now:g}", now)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"gap (rewound) for user 'user{now}' between 9-0 and 0" for now in (0, 60, 500)]
