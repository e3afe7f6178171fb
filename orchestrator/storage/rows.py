"""Between the search's values and the rows of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from evaluators.base import Rows, Score, TaskScore
from evaluators.documents import (
    pack_log_likelihoods,
    pack_values,
    unpack_log_likelihoods,
    unpack_values,
)
from orchestrator.campaign.state import Candidate, Role
from orchestrator.measurement.measured import Measured
from orchestrator.storage.base import SEARCHED, Taken
from orchestrator.storage.packing import (
    pack_genome,
    pack_text,
    unpack_genome,
    unpack_json,
)
from workers.job import Failed, Outcome, Scored
from workers.recipe import read_recipe

#: Candidate, rows, block: what may be accepted once.
Place: TypeAlias = tuple[str, Rows, int]


def candidate_row(campaign: int, one: Candidate) -> dict[str, Any]:
    """Returns a candidate as the table has it."""
    return {
        "campaign": campaign,
        "id": one.id,
        "role": one.role,
        "number": one.number,
        "generation": one.generation,
        "name": one.name,
        "genome": None if one.genome is None else pack_genome(one.genome),
        "recipe": pack_text(one.recipe.text()),
        "digest": bytes.fromhex(one.recipe.digest()),
        "operator": one.operator,
    }


def parent_rows(campaign: int, one: Candidate) -> list[dict[str, Any]]:
    """Returns a candidate's family: the parent it starts from, and its mates."""
    return [
        {
            "campaign": campaign,
            "child": one.id,
            "place": place,
            "parent": parent,
            "role": "mate" if place else "parent",
        }
        for place, parent in enumerate(one.parents)
    ]


def candidate_of(row: Any, parents: Sequence[str]) -> Candidate:
    """Returns the candidate of a row."""
    return Candidate(
        id=row.id,
        role=cast("Role", row.role),
        number=row.number,
        generation=row.generation,
        name=row.name,
        genome=None if row.genome is None else unpack_genome(row.genome),
        recipe=read_recipe(unpack_json(row.recipe)),
        parents=tuple(parents),
        operator=row.operator,
    )


def outcome_values(taken: Taken, now: float) -> dict[str, Any]:
    """Returns what an outcome says about its attempt."""
    outcome = taken.outcome
    failed = outcome if isinstance(outcome, Failed) else None
    return {
        "state": "failed" if failed else "scored",
        "ended_at": now,
        "final": int(taken.final),
        **(_worth(taken, outcome) if isinstance(outcome, Scored) else _UNSCORED),
        "seconds": outcome.seconds,
        "accelerator_seconds": outcome.accelerator_seconds,
        "worker": _text(outcome.worker),
        "node": _text(outcome.node),
        "device": _text(outcome.device),
        "stage": failed.stage if failed else None,
        "kind": failed.kind if failed else None,
        "cause": _text(failed.cause) if failed else None,
        "log": _text(failed.log) if failed else None,
        "retryable": int(failed.retryable) if failed else None,
    }


#: What there is of no attempt but one that scored.
_UNSCORED = {
    **dict.fromkeys(("fitness", "own_fitness", "stderr", "fidelity", "tie", "documents")),
    "objectives": None,
    "stopped": 0,
    "violation": 0.0,
}


def _worth(taken: Taken, outcome: Scored) -> dict[str, Any]:
    """Returns what an outcome says: on rows that are searched on, about all parts so far."""
    score = outcome.score
    values: dict[str, Any] = {"documents": score.num_documents}
    if outcome.rows not in SEARCHED:
        return {**_UNSCORED, **values, "fitness": score.fitness}
    measured = taken.measured
    if measured is None:
        assert outcome.rows == "search", "fresh rows say what the candidate is worth"
        assert outcome.block == 0, "a part of several says what the candidate is worth"
        measured = Measured(fitness=score.fitness, tie=score.mean_log_likelihood)
    return {
        **values,
        "fitness": measured.fitness,
        "own_fitness": None if score.fitness == measured.fitness else score.fitness,
        "stderr": measured.stderr,
        "fidelity": measured.fidelity,
        "tie": measured.tie,
        "stopped": int(measured.stopped),
        "violation": measured.violation,
        "objectives": pack_genome(measured.values) if measured.values else None,
    }


def _text(text: str) -> str:
    """Returns what any database can hold: errors quote whatever bytes they met."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def outcome_of(row: Any, tasks: Mapping[str, TaskScore]) -> Outcome:
    """Returns the outcome of an attempt's row."""
    common = {
        "candidate": row.candidate,
        "attempt": row.number,
        "rows": row.rows,
        "block": row.block,
        "seconds": row.seconds,
        "worker": row.worker,
        "node": row.node or "",
        "device": row.device or "",
        "accelerator_seconds": row.accelerator_seconds or 0.0,
    }
    if row.state == "scored":
        return Scored(score=Score(fitness=own_fitness(row), tasks=tasks), **common)
    return Failed(
        stage=row.stage,
        cause=row.cause,
        retryable=bool(row.retryable),
        kind=row.kind,
        log=row.log or "",
        **common,
    )


def own_fitness(row: Any) -> float:
    """Returns the fitness of an attempt's part alone."""
    found: float = row.fitness if row.own_fitness is None else row.own_fitness
    return found


def score_rows(campaign: int, outcome: Scored, harness: str) -> list[dict[str, Any]]:
    """Returns the rows of an outcome's scores."""
    return [
        {
            "campaign": campaign,
            "candidate": outcome.candidate,
            "rows": outcome.rows,
            "block": outcome.block,
            "task": task,
            "value": one.value,
            "stderr": one.stderr,
            "documents": one.documents,
            "weight": one.weight,
            "harness": harness,
            "per_document": pack_values(one.per_document),
            "log_likelihoods": pack_log_likelihoods(one.log_likelihoods),
        }
        for task, one in outcome.score.tasks.items()
    ]


def task_scores(rows: Iterable[Any]) -> dict[Place, dict[str, TaskScore]]:
    """Returns (candidate, rows, block) -> task -> its score."""
    found: dict[Place, dict[str, TaskScore]] = {}
    for row in rows:
        place = (row.candidate, row.rows, row.block)
        found.setdefault(place, {})[row.task] = TaskScore(
            value=row.value,
            stderr=row.stderr,
            documents=row.documents,
            weight=row.weight,
            per_document=unpack_values(row.per_document),
            log_likelihoods=unpack_log_likelihoods(row.log_likelihoods),
        )
    return found
