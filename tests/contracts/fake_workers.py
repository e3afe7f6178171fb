"""Workers without models, importable by the processes that executors start."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from evaluators.base import Score, TaskScore
from workers.job import Failed, Scored


@dataclass(frozen=True)
class FakeSettings:
    """Stands for `WorkerSettings`; `refuse` is why no worker can be opened."""

    refuse: str | None = None

    device: str = "auto"

    #: Says nothing of what it builds, which then is language models.
    builder: str = "none"

    def open(self, name, node=""):
        if self.refuse is not None:
            raise ValueError(self.refuse)
        return FakeWorker(name)


class FakeWorker:
    """Does what a candidate's name says."""

    def __init__(self, name):
        self.name = name

    def run(self, job):
        common = {
            "candidate": job.candidate,
            "attempt": job.attempt,
            "rows": job.rows,
            "seconds": 0.0,
            "worker": self.name,
        }
        deed, _, detail = job.candidate.partition("-")
        if deed == "die":
            os._exit(int(detail))
        if deed == "hang":
            time.sleep(3600)
        if deed == "fail":
            return Failed(stage="build", cause=f"ValueError: {detail}", retryable=False, **common)
        value = float(os.environ.get(detail, "nan")) if deed == "env" else float(detail)
        task = TaskScore(value=value, stderr=None, documents=1)
        return Scored(score=Score(fitness=value, tasks={"t": task}), **common)
