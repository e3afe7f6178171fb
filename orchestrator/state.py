"""What a campaign is and what it remembers: plain values, no behaviour to speak of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from evaluators.base import Rows
from orchestrator.algorithms.base import Algorithm, Memory
from orchestrator.spaces.base import Genome, Space
from workers.job import Job, Outcome
from workers.recipe import MergeRecipe

Role = Literal["reference", "search", "control"]
#: A candidate on one kind of rows.
Key: TypeAlias = tuple[str, Rows]
Stop = Literal["time", "failures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A numbered genome and its recipe."""

    #: A letter for the role and the number: s17 is the search's seventeenth proposal.
    id: str
    role: Role
    #: Counts from 1 within a role, in the order of proposals.
    number: int
    generation: int
    #: What a reference is called; empty for others.
    name: str = ""
    #: None for references.
    genome: Genome | None
    recipe: MergeRecipe
    parents: tuple[str, ...] = ()
    operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a campaign ends."""

    generations: int | None = None
    evaluations: int | None = None
    max_attempts: int = 3
    #: Share of failed candidates at which the campaign gives up...
    max_failure_fraction: float = 0.5
    #: ...once so many have ended.
    min_ended: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How candidates are proposed: what a fork may change from some candidate on."""

    algorithm: Algorithm
    seed: int
    #: Whether random search runs beside the search, at the same number of evaluations.
    control: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A stretch of a campaign's history that it has from the campaign it was forked from."""

    #: Number of the last search candidate that these rules proposed.
    until: int
    rules: Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Everything that decides which candidates come, and nothing else."""

    space: Space
    algorithm: Algorithm
    seed: int
    limits: Limits
    control: bool = False
    #: Whether there are test rows.
    tests: bool = False
    #: What was proposed before this campaign was forked off, eldest first.
    history: tuple[Branch, ...] = ()

    def branch(self, number: int) -> Branch:
        """Returns the stretch that the search candidate of this number belongs to."""
        for branch in self.history:
            if number <= branch.until:
                return branch
        rules = Rules(algorithm=self.algorithm, seed=self.seed, control=self.control)
        return Branch(until=2**31, rules=rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best measured candidate of a role."""

    candidate: Candidate
    fitness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A failed candidate that the user wants measured once more."""

    candidate: Candidate
    rows: Rows
    #: Number of the attempt to come.
    attempt: int


@dataclass(frozen=True, slots=True)
class Retry:
    """The user's wish to measure failed candidates again; it has its place among the outcomes."""

    wanted: tuple[Again, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """An outcome as it was recorded, and whether it ended its candidate."""

    outcome: Outcome
    final: bool


#: All that a campaign is a fold over.
Entry: TypeAlias = Recorded | Retry


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a campaign remembers."""

    #: Jobs that have no outcome yet.
    open: Mapping[Key, Job] = field(default_factory=dict)
    #: Every reference, the candidates of the current generation, and those still open.
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    #: Candidate -> fitness, or None where it failed, until the algorithm is told.
    ended: Mapping[str, float | None] = field(default_factory=dict)
    memory: Memory = ()
    generation: int = 0
    #: Search candidates proposed so far; the control has as many.
    proposed: int = 0
    num_scored: int = 0
    num_failed: int = 0
    best: Mapping[Role, Best] = field(default_factory=dict)
    tested: frozenset[str] = frozenset()
    stop: Stop | None = None
    phase: Literal["search", "test", "done"] = "search"

    @property
    def winner(self) -> Best | None:
        """The best of the search and the references; the control takes no part."""
        contenders = [self.best[role] for role in ("search", "reference") if role in self.best]
        return max(contenders, key=lambda best: best.fitness, default=None)


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from an event."""

    state: State
    #: Candidates that did not exist before.
    candidates: Sequence[Candidate] = ()
    jobs: Sequence[Job] = ()
