"""Candidates as the store knows them, and how they rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, select

from evaluators.base import Score, TaskScore
from evaluators.pooling import pool
from orchestrator.storage.base import SEARCHED
from orchestrator.storage.packing import unpack_genome, unpack_json
from orchestrator.storage.records import parts_of
from orchestrator.storage.schema import (
    ENDED,
    RANKED,
    REPORTED,
    attempt,
    candidate,
    parentage,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """A candidate as the store knows it."""

    id: str
    role: str
    number: int
    generation: int
    name: str
    state: str
    #: What it is worth on the search rows; an estimate where `fidelity` is below 1.
    fitness: float | None
    #: Standard error of the fitness, where it has one.
    stderr: float | None = None
    #: Share of the search rows that the fitness rests on.
    fidelity: float = 1.0
    #: Whether a race ended it.
    stopped: bool = False
    #: By how much it breaks the constraints; 0 if it keeps them.
    violation: float = 0.0
    #: Value of each of the campaign's objectives, all to be maximised; empty if none were said.
    values: Sequence[float] = ()
    #: Rows -> how many of their documents were scored.
    documents: Mapping[str, int] = field(default_factory=dict)
    operator: str
    genome: Sequence[float] | None
    recipe: Mapping[str, Any]
    parents: Sequence[str]
    #: On all search and fresh rows that it was measured on.
    scores: Mapping[str, TaskScore]
    selection: Mapping[str, TaskScore] = field(default_factory=dict)
    selection_fitness: float | None = None
    test: Mapping[str, TaskScore]
    test_fitness: float | None
    control: Mapping[str, TaskScore] = field(default_factory=dict)
    control_fitness: float | None = None

    @property
    def label(self) -> str:
        """What people call it: a reference's name, else its id."""
        return self.name or self.id


#: The attempt that says what a candidate is worth, once it has ended on the search rows.
SAYS_WORTH = and_(
    attempt.c.campaign == candidate.c.campaign,
    attempt.c.candidate == candidate.c.id,
    ENDED,
)
_WORTH = (
    attempt.c.fitness,
    attempt.c.stderr,
    attempt.c.fidelity,
    attempt.c.tie,
    attempt.c.stopped,
    attempt.c.violation,
    attempt.c.objectives,
)
#: Generation by generation, references first and controls last.
AS_PROPOSED = (
    candidate.c.generation,
    case((candidate.c.role == "reference", 0), (candidate.c.role == "search", 1), else_=2),
    candidate.c.number,
)
#: Roles of which one wins; the control has a winner of its own.
CONTENDERS = ("search", "reference")


def candidates() -> Select[Any]:
    """Returns candidates with their state and worth, where they have ended."""
    state = func.coalesce(attempt.c.state, "proposed").label("state")
    joined = candidate.outerjoin(attempt, SAYS_WORTH)
    return select(candidate, state, *_WORTH).select_from(joined)


def ranked(
    connection: Connection,
    campaign_id: int,
    num: int,
    roles: Sequence[str] = CONTENDERS,
    *,
    least_fidelity: float = 0.0,
) -> list[Any]:
    """Returns the rows of the best candidates of some roles, the best first.

    As the campaign ranks them: by `Measured.rank`, among equals the search before references, and
    the elder first.
    """
    found: list[Any] = []
    kept, broken = attempt.c.violation == 0, attempt.c.violation > 0
    # One after the other, each as an index has it.
    for stopped, keeps in ((0, kept), (0, broken), (1, kept), (1, broken)):
        query = (
            select(candidate, attempt.c.state, *_WORTH)
            .join_from(attempt, candidate, SAYS_WORTH)
            .where(
                attempt.c.campaign == campaign_id,
                attempt.c.stopped == stopped,
                keeps,
                attempt.c.fidelity >= least_fidelity,
                RANKED,
                candidate.c.role.in_(roles),
            )
            .order_by(
                attempt.c.violation,
                attempt.c.fitness.desc(),
                attempt.c.tie.desc().nulls_last(),
                case((candidate.c.role == "search", 0), else_=1),
                candidate.c.number,
            )
            .limit(num - len(found))
        )
        found += connection.execute(query).all() if len(found) < num else []
    return found


def winner(connection: Connection, campaign: Any, roles: Sequence[str] = CONTENDERS) -> Any | None:
    """Returns the row of the best of some roles by the selection rows, if any were scored there.

    Else the best by rank; of a campaign that has ended, the best of those that were measured in
    full before any that was estimated.
    """
    selected = select(attempt.c.candidate, attempt.c.fitness).where(
        attempt.c.campaign == campaign.id,
        attempt.c.rows == "selection",
        attempt.c.state == "scored",
        REPORTED,
    )
    fitness = {row.candidate: row.fitness for row in connection.execute(selected)}
    query = candidates().where(
        candidate.c.campaign == campaign.id,
        candidate.c.id.in_(fitness),
        candidate.c.role.in_(roles),
    )
    found = connection.execute(query).all() if fitness else []
    if found:
        return max(found, key=lambda row: (-(row.violation or 0.0), fitness[row.id], *_rank(row)))
    if campaign.state in ("finished", "stopped"):
        whole = ranked(connection, campaign.id, 1, roles, least_fidelity=1.0)
        if whole:
            return whole[0]
    return next(iter(ranked(connection, campaign.id, 1, roles)), None)


def _rank(row: Any) -> tuple[Any, ...]:
    """Sorts candidates, the better the greater."""
    has_tie = row.tie is not None
    is_measured = row.fitness is not None
    worth = (is_measured, not row.stopped, -(row.violation or 0.0), row.fitness or 0.0)
    return (*worth, has_tie, row.tie or 0.0, row.role == "search", -row.number)


def record(connection: Connection, campaign_id: int, row: Any) -> CandidateRecord:
    """Returns the record of a row of `candidates` or `ranked`."""
    parents = select(parentage.c.parent).where(
        parentage.c.campaign == campaign_id, parentage.c.child == row.id
    )
    parts = dict(parts_of(connection, campaign_id, [row.id])).get(row.id, {})
    documents: Counter[str] = Counter()
    for (rows, _), one in parts.items():
        documents[rows] += one.num_documents
    kinds = {
        kind: pooled([one for (rows, _), one in parts.items() if rows == kind])
        for kind in ("selection", "test", "control")
    }
    searched = pooled([one for (rows, _), one in parts.items() if rows in SEARCHED])
    return CandidateRecord(
        id=row.id,
        role=row.role,
        number=row.number,
        generation=row.generation,
        name=row.name,
        state=row.state,
        fitness=row.fitness,
        stderr=row.stderr,
        fidelity=row.fidelity or 0.0,
        stopped=bool(row.stopped),
        violation=row.violation or 0.0,
        values=() if row.objectives is None else tuple(unpack_genome(row.objectives)),
        documents=dict(documents),
        operator=row.operator,
        genome=None if row.genome is None else unpack_genome(row.genome),
        recipe=unpack_json(row.recipe),
        parents=list(connection.execute(parents.order_by(parentage.c.place)).scalars()),
        scores=searched.tasks,
        selection=kinds["selection"].tasks,
        selection_fitness=kinds["selection"].fitness,
        test=kinds["test"].tasks,
        test_fitness=kinds["test"].fitness,
        control=kinds["control"].tasks,
        control_fitness=kinds["control"].fitness,
    )


@dataclass(frozen=True, slots=True)
class Pooled:
    """Scores on all parts of some rows; nothing where there are none."""

    fitness: float | None
    tasks: Mapping[str, TaskScore]


def pooled(parts: Sequence[Score]) -> Pooled:
    """Puts the scores on parts of rows together."""
    if not parts:
        return Pooled(None, {})
    whole = pool(parts)
    return Pooled(whole.fitness, {task: whole.tasks[task] for task in sorted(whole.tasks)})
