"""What a campaign is and what it remembers: plain values, no behaviour to speak of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from evaluators.base import Documents, Rows, Score
from orchestrator.algorithms.base import Algorithm, Memory
from orchestrator.campaign.stopping import Progress, Stagnation
from orchestrator.measurement.measured import Measured, Standing
from orchestrator.measurement.race import Run
from orchestrator.measurement.regime import Regime
from orchestrator.objectives import Judge, Values
from orchestrator.spaces.base import Space
from orchestrator.spaces.genes import Genome
from workers.job import Job, Outcome
from workers.recipe import Recipe

Role = Literal["reference", "search", "control"]
#: A candidate on one kind of rows.
Key: TypeAlias = tuple[str, Rows]
#: Why a search ended before its budget: time was up, too many failed, it found enough, or nothing
#: more, or nothing was left to search.
Stop = Literal["time", "failures", "target", "stagnation", "exhausted"]
#: Searching; measuring finalists in full; picking among them; measuring for the report; over.
Phase = Literal["search", "complete", "selection", "test", "done"]


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
    recipe: Recipe
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
    #: Fitness of the best search candidate at which the search has found enough.
    target: float | None = None
    stagnation: Stagnation | None = None


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
    #: Kinds of rows that there are.
    kinds: frozenset[Rows] = frozenset({"search"})
    #: How much of the search rows a candidate is measured on.
    regime: Regime = field(default_factory=Regime)
    #: What it is worth beside its fitness; None if fitness is all there is.
    judge: Judge | None = None
    #: How many candidates are measured on the selection rows, or in full if they were estimated.
    finalists: int = 5
    #: What was proposed before this campaign was forked off, eldest first.
    history: tuple[Branch, ...] = ()

    @property
    def needs_answers(self) -> bool:
        """Whether an algorithm is to be told what each document scored."""
        rules = [*(branch.rules.algorithm for branch in self.history), self.algorithm]
        return any(getattr(one, "needs_answers", False) for one in rules)

    def branch(self, number: int) -> Branch:
        """Returns the stretch that the search candidate of this number belongs to."""
        for branch in self.history:
            if number <= branch.until:
                return branch
        rules = Rules(algorithm=self.algorithm, seed=self.seed, control=self.control)
        return Branch(until=2**31, rules=rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """A measured candidate, one of the best of its role."""

    candidate: Candidate
    measured: Measured

    @property
    def fitness(self) -> float:
        """Its fitness on the search rows."""
        return self.measured.fitness

    @property
    def rank(self) -> tuple[bool, float, float, float, bool, int]:
        """Sorts the best, the better the greater; the search before references, then the elder."""
        one = self.candidate
        return (*self.measured.rank, one.role != "reference", -one.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A failed candidate that the user wants measured once more."""

    candidate: Candidate
    rows: Rows
    block: int = 0
    #: The block's documents; None for all.
    documents: Documents | None = None
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
    #: Candidate -> what it is worth, or None where it failed, until the algorithm is told.
    ended: Mapping[str, Measured | None] = field(default_factory=dict)
    #: What those candidates scored that may be measured on more rows or that others race against.
    standings: Mapping[str, Standing] = field(default_factory=dict)
    #: Of these, the documents that an estimate rests on.
    sampled: Mapping[str, Documents] = field(default_factory=dict)
    #: Candidates that failed between two blocks: a retry goes on from there.
    broken: frozenset[str] = frozenset()
    #: Whom candidates of a role race against, the best first, until the algorithm is told again.
    incumbents: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    #: For each role, how far candidates of late came in a race, by age.
    runs: Mapping[Role, tuple[Run, ...]] = field(default_factory=dict)
    #: Reference -> its values that constraints refer to, once it has been measured.
    anchors: Mapping[str, Values] = field(default_factory=dict)
    #: What had been measured before all of these were known: its values, until it is judged.
    unjudged: Mapping[str, Values] = field(default_factory=dict)
    #: What the elite is worth with the fresh rows, until the algorithm is told.
    refreshed: Mapping[str, Measured] = field(default_factory=dict)
    #: Rounds of fresh rows begun.
    rounds: int = 0
    #: What an estimator has learned, in its own terms.
    bank: Any = None
    memory: Memory = field(default_factory=Memory)
    #: The memory's members, where a child's recipe is made of its parents' recipes.
    ancestors: Mapping[str, Candidate] = field(default_factory=dict)
    generation: int = 0
    #: Search candidates proposed so far; the control has as many.
    proposed: int = 0
    num_scored: int = 0
    num_failed: int = 0
    #: Candidates that a race ended.
    num_stopped: int = 0
    #: Documents scored on search and fresh rows, and what full measurements would have taken.
    documents_spent: int = 0
    documents_full: int = 0
    #: When the search's best became better last, where the budget asks for that.
    progress: Progress | None = None
    #: Role -> the best measured candidates, the best first.
    tops: Mapping[Role, tuple[Best, ...]] = field(default_factory=dict)
    #: Finalists that are being measured in full, and those for which that failed.
    completing: frozenset[str] = frozenset()
    incomplete: frozenset[str] = frozenset()
    #: What finalists are worth that were stopped or estimated, once measured in full.
    completed: Mapping[str, Measured] = field(default_factory=dict)
    #: Blocks that finalists were measured on before the budget was raised.
    ahead: Mapping[tuple[str, int], Score] = field(default_factory=dict)
    #: Finalist -> fitness on the selection rows, or None where that failed.
    selected: Mapping[str, float | None] = field(default_factory=dict)
    #: What has been measured for the report.
    tested: frozenset[Key] = frozenset()
    stop: Stop | None = None
    phase: Phase = "search"

    @property
    def best(self) -> Mapping[Role, Best]:
        """The best of each role by the search rows."""
        return {role: tops[0] for role, tops in self.tops.items() if tops}

    @property
    def winner(self) -> Best | None:
        """The best of the search and the references; the control takes no part."""
        return self.best_of("search", "reference")

    def best_of(self, *roles: Role) -> Best | None:
        """Returns the best of some roles: by the selection rows if there are any scored.

        After the search, whoever was measured in full is before those that were estimated.
        """
        known = [one for role in roles for one in self.tops.get(role, ())]
        if self.phase == "search":
            return max(known, key=lambda one: one.rank, default=None)
        full = [
            replace(one, measured=self.completed.get(one.candidate.id, one.measured))
            for one in known
        ]
        picked = [one for one in full if self.selected.get(one.candidate.id) is not None]
        if picked and self.phase in ("test", "done"):
            return max(
                picked,
                key=lambda one: (
                    -one.measured.violation, self.selected[one.candidate.id], one.rank
                ),
            )  # fmt: skip
        return max(full, key=lambda one: (one.measured.fidelity >= 1, one.rank), default=None)


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from an event."""

    state: State
    #: Candidates that did not exist before.
    candidates: Sequence[Candidate] = ()
    jobs: Sequence[Job] = ()
    #: What the candidate is worth after an outcome on search or fresh rows.
    measured: Measured | None = None
    #: Candidates measured before -> by how much they break constraints, as is known only now.
    judged: Mapping[str, float] = field(default_factory=dict)
    #: Whether an outcome ended its candidate on these rows: no attempt or block was to follow.
    final: bool = True
