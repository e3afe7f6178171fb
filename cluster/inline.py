"""Runs jobs in this process, newest first on purpose: nothing may rely on the order of outcomes."""

from __future__ import annotations

from workers.job import Job, Outcome
from workers.run import Worker, WorkerSettings


class InlineExecutor:
    """An executor without workers of its own; for small campaigns, tests and debuggers."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._worker: Worker | None = None
        self._queue: list[Job] = []

    @property
    def slots(self) -> int:
        """One job runs at a time."""
        return 1

    def submit(self, job: Job) -> None:
        """Queues a job until outcomes are asked for."""
        self._queue.append(job)

    def outcomes(self, timeout_s: float) -> list[Outcome]:  # noqa: ARG002  (runs to the end)
        """Runs the newest job."""
        if not self._queue:
            return []
        if self._worker is None:
            self._worker = self._settings.open("inline")
        return [self._worker.run(self._queue.pop())]

    def close(self) -> None:
        """Forgets what is queued."""
        self._queue.clear()
        self._worker = None
