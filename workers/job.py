"""What travels to a worker and what comes back. Plain values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from evaluators.base import Documents, Rows, Score
from workers.recipe import Recipe

#: Where an attempt failed. `train` is the training of a network; `worker` means that the process
#: or its node was lost.
Stage = Literal["build", "train", "evaluate", "worker"]
#: What kind of failure it was: `lost` is a dead worker or node, `memory` an out-of-memory error,
#: `diverged` a training that came to numbers that are not finite.
Kind = Literal["error", "lost", "timeout", "memory", "diverged"]
#: Candidate, rows, block, attempt.
JobKey: TypeAlias = tuple[str, Rows, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt at measuring one candidate on one kind of rows, or on a block of them."""

    candidate: str
    #: Counts from 1 for each candidate, kind of rows and block.
    attempt: int
    rows: Rows
    #: Which part of the rows: 0 is the first, or all of them.
    block: int = 0
    #: The block's documents; None for all rows of the kind.
    documents: Documents | None = None
    recipe: Recipe
    #: Nodes on which earlier attempts failed: to be placed elsewhere where there is an elsewhere.
    avoid: tuple[str, ...] = ()
    #: How often the batch is halved, because earlier attempts ran out of memory.
    halvings: int = 0

    @property
    def key(self) -> JobKey:
        """What makes this job unique in its campaign."""
        return (self.candidate, self.rows, self.block, self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """An attempt that measured its candidate."""

    candidate: str
    attempt: int
    rows: Rows
    block: int = 0
    score: Score
    #: Wall time in the worker, building and evaluating.
    seconds: float
    #: Which worker did it, on which node and device, for records.
    worker: str
    node: str = ""
    device: str = ""
    #: Wall time times the share of accelerators that the worker held.
    accelerator_seconds: float = 0.0

    @property
    def key(self) -> JobKey:
        """The key of the job that it answers."""
        return (self.candidate, self.rows, self.block, self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An attempt that did not: where, why, and whether another attempt may fare better."""

    candidate: str
    attempt: int
    rows: Rows
    block: int = 0
    stage: Stage
    cause: str
    #: True for what may pass (a lost worker, a timeout, no memory), False for what will repeat.
    retryable: bool
    kind: Kind = "error"
    #: The end of the traceback, where there is one.
    log: str = ""
    seconds: float
    worker: str
    node: str = ""
    device: str = ""
    accelerator_seconds: float = 0.0

    @property
    def key(self) -> JobKey:
        """The key of the job that it answers."""
        return (self.candidate, self.rows, self.block, self.attempt)


Outcome: TypeAlias = Scored | Failed
