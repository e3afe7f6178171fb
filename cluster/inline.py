"""Runs jobs in this process, newest first on purpose: nothing may rely on the order of outcomes."""

from __future__ import annotations

import time

from workers.job import Job, Outcome
from workers.run import Worker, WorkerSettings

#: Seconds after which outcomes are handed over, however many jobs are queued.
_AT_MOST_S = 0.1


class InlineExecutor:
    """An executor without workers of its own; for small campaigns, tests and debuggers.

    `at_once` says how many jobs it takes: with jobs of microseconds, recording one after another
    would take longer than running them.
    """

    def __init__(self, settings: WorkerSettings, *, at_once: int = 1) -> None:
        self._settings = settings
        self._at_once = at_once
        self._worker: Worker | None = None
        self._queue: list[Job] = []

    @property
    def slots(self) -> int:
        """As many jobs are queued; one runs at a time."""
        return self._at_once

    def submit(self, job: Job) -> None:
        """Queues a job until outcomes are asked for."""
        self._queue.append(job)

    def outcomes(self, timeout_s: float) -> list[Outcome]:  # noqa: ARG002  (runs to the end)
        """Runs the newest job, and others for as long as that takes next to no time."""
        done: list[Outcome] = []
        began = time.monotonic()
        while self._queue and len(done) < self._at_once:
            if self._worker is None:
                self._worker = self._settings.open("inline")
            done.append(self._worker.run(self._queue.pop()))
            if time.monotonic() - began >= _AT_MOST_S:
                break
        return done

    def close(self) -> None:
        """Forgets what is queued."""
        self._queue.clear()
        self._worker = None
