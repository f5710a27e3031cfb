"""`RecordingChannel`: stands in for a channel in tests of an application."""

from __future__ import annotations

from notify.dispatch import Accepted, Channel, Job, Outcome


class RecordingChannel(Channel):
    """Keeps every job, and answers what it was told to.

    Args:
        outcomes: the answers, one for each job; the last one is given again and again; none: `Accepted`.
        has_endpoints: see `Channel`.
        deduplicates: see `Channel`.

    Attributes:
        jobs: what was sent, in order.
    """

    def __init__(self, *outcomes: Outcome, has_endpoints: bool = True, deduplicates: bool = True) -> None:
        self.has_endpoints = has_endpoints
        self.deduplicates = deduplicates
        self.jobs: list[Job] = []
        self._outcomes = list(outcomes) or [Accepted()]

    async def send(self, job: Job) -> Outcome:
        """See `Channel.send`."""
        self.jobs.append(job)
        return self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]

    def sent(self, *, user: str | None = None, type: str | None = None) -> list[Job]:
        """Return the jobs of this user and type; None: of any."""
        return [job for job in self.jobs if user in (None, job.user) and type in (None, job.type)]

    def __repr__(self) -> str:
        return "<RecordingChannel>"
