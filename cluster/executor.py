"""What an executor is: jobs go in, outcomes come back, in any order, each exactly once.

A job whose worker dies, hangs past its time or cannot be reached comes back as `Failed`; an
executor itself raises only when no worker can be had at all.
"""

from __future__ import annotations

from typing import Protocol

from workers.job import Job, Outcome


class ExecutorError(RuntimeError):
    """No worker can be started; the message says why."""


class Executor(Protocol):
    """Runs jobs somewhere."""

    @property
    def slots(self) -> int:
        """How many jobs can run at the same time."""
        ...

    def submit(self, job: Job) -> None:
        """Queues a job; returns at once."""
        ...

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        """Waits up to `timeout_s` seconds for outcomes; returns none, one or several.

        Raises:
            ExecutorError: if no worker can be started.
        """
        ...

    def close(self) -> None:
        """Ends all workers, whatever they are doing."""
        ...
