"""A campaign as one table: a row for each candidate, as of one moment, read in batches."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from sqlalchemy import Connection, case, func, select

from orchestrator.storage.packing import unpack_genome
from orchestrator.storage.reader import ACCEPTED, Reader
from orchestrator.storage.schema import attempt, candidate, parentage, score

#: Rows that are held in memory at a time.
_BATCH = 5_000

Kind = Literal["text", "integer", "real", "flag", "time"]

#: What every campaign's table begins with. All but the counts and `cached` may be missing.
_COLUMNS: Mapping[str, Kind] = {
    "id": "text",
    "role": "text",
    "number": "integer",
    "generation": "integer",
    "name": "text",
    "operator": "text",
    "parents": "text",
    "state": "text",
    "fitness": "real",
    "attempts": "integer",
    "cached": "flag",
    "seconds": "real",
    "accelerator_seconds": "real",
    "worker": "text",
    "node": "text",
    "device": "text",
    "started_at": "time",
    "ended_at": "time",
    "cause": "text",
}
#: Of these, those that come from the attempt that decided about the candidate, as they are.
_OF_ATTEMPT = ("fitness", "seconds", "accelerator_seconds", "worker", "node", "device", "cause")
_TIMES = ("started_at", "ended_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Genes:
    """What the numbers of a genome are called, and between which bounds they lie."""

    names: Sequence[str]
    lower: Sequence[float]
    upper: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A campaign's candidates, in the order of proposals."""

    campaign: str
    #: Name -> what is in it; the genes' columns, then the tasks', come after those of all tables.
    columns: Mapping[str, Kind]
    genes: Genes
    #: Columns that hold a task's score.
    tasks: Sequence[str]
    #: Rows as column -> value, without what is missing.
    batches: Iterator[list[dict[str, Any]]]


@contextmanager
def open_table(reader: Reader, name: str) -> Iterator[Table]:
    """Opens a campaign's table; its batches can be read once, until this ends.

    Raises:
        StoreError: if there is no such campaign.
    """
    with reader.moment(name) as (connection, row):
        genes = _genes(connection, row)
        tasks = _tasks(connection, row.id)
        scores = [column for task in tasks for column in (task, f"{task}/stderr")]
        columns: dict[str, Kind] = {
            **_COLUMNS,
            **dict.fromkeys(genes.names, "real"),
            **dict.fromkeys(scores, "real"),
            "test_fitness": "real",
        }
        with closing(_batches(connection, row.id, genes.names)) as batches:
            yield Table(
                campaign=row.name, columns=columns, genes=genes, tasks=tasks, batches=batches
            )


def _genes(connection: Connection, row: Any) -> Genes:
    """Returns the genes; the first version did not record them: then what the genomes show."""
    found = json.loads(row.search_settings).get("genes")
    if found is None:
        lower, upper = _extremes(connection, row.id)
        found = {"names": [f"gene_{n}" for n in range(len(lower))], "lower": lower, "upper": upper}
    names = [f"gene/{name}" if name in _COLUMNS else name for name in found["names"]]
    return Genes(names=names, lower=found["lower"], upper=found["upper"])


def _extremes(connection: Connection, campaign: int) -> tuple[list[float], list[float]]:
    """Returns the least and the greatest that was proposed of each gene."""
    query = select(candidate.c.genome).where(
        candidate.c.campaign == campaign, candidate.c.genome.is_not(None)
    )
    lower, upper = np.zeros(0), np.zeros(0)
    with connection.execute(query, execution_options={"yield_per": _BATCH}) as result:
        for part in result.scalars().partitions():
            genomes = np.array([unpack_genome(packed) for packed in part])
            least, greatest = genomes.min(axis=0), genomes.max(axis=0)
            lower = np.minimum(lower, least) if len(lower) else least
            upper = np.maximum(upper, greatest) if len(upper) else greatest
    return lower.tolist(), upper.tolist()


def _tasks(connection: Connection, campaign: int) -> list[str]:
    query = select(score.c.rows, score.c.task).where(score.c.campaign == campaign).distinct()
    return [f"{row.rows}/{row.task}" for row in connection.execute(query.order_by("rows", "task"))]


def _batches(
    connection: Connection, campaign: int, genes: Sequence[str]
) -> Generator[list[dict[str, Any]], None, None]:
    """Reads candidates in the order of proposals; what is beside them, a batch at a time."""
    taken = [attempt.c[name] for name in (*_OF_ATTEMPT, *_TIMES, "cached")]
    role = case((candidate.c.role == "reference", 0), (candidate.c.role == "search", 1), else_=2)
    query = (
        select(
            *(candidate.c[name] for name in ("id", "role", "number", "generation", "name")),
            candidate.c.operator,
            candidate.c.genome,
            func.coalesce(attempt.c.state, "proposed").label("state"),
            *taken,
        )
        .select_from(candidate.outerjoin(attempt, ACCEPTED))
        .where(candidate.c.campaign == campaign)
        .order_by(candidate.c.generation, role, candidate.c.number)
    )
    with connection.execute(query, execution_options={"yield_per": _BATCH}) as result:
        for rows in result.partitions():
            beside = _beside(connection, campaign, [row.id for row in rows])
            yield [_row(row, genes) | beside[row.id] for row in rows]


def _row(row: Any, genes: Sequence[str]) -> dict[str, Any]:
    found = {
        "id": row.id,
        "role": row.role,
        "number": row.number,
        "generation": row.generation,
        "operator": row.operator,
        "state": row.state,
        "cached": bool(row.cached),
    }
    found |= {"name": row.name} if row.name else {}
    for column in _OF_ATTEMPT:
        if (value := row._mapping[column]) not in (None, ""):
            found[column] = value
    for column in _TIMES:
        if (seconds := row._mapping[column]) is not None:
            found[column] = datetime.fromtimestamp(seconds, UTC)
    if row.genome is not None:
        found |= zip(genes, unpack_genome(row.genome), strict=True)
    return found


def _beside(connection: Connection, campaign: int, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns candidate -> its parents, number of attempts and scores."""
    found: dict[str, dict[str, Any]] = {id_: {"attempts": 0} for id_ in ids}
    family = (
        select(parentage.c.child, parentage.c.parent)
        .where(parentage.c.campaign == campaign, parentage.c.child.in_(ids))
        .order_by(parentage.c.child, parentage.c.place)
    )
    for child, parent in connection.execute(family):
        before = found[child].get("parents")
        found[child]["parents"] = f"{before} {parent}" if before else parent
    of_kind = (attempt.c.candidate, attempt.c.rows)
    tries = (
        select(*of_kind, func.count(), func.max(attempt.c.fitness))
        .where(attempt.c.campaign == campaign, attempt.c.candidate.in_(ids))
        .group_by(*of_kind)
    )
    for id_, rows, num, fitness in connection.execute(tries):
        if rows == "search":
            found[id_]["attempts"] = num
        elif fitness is not None:
            found[id_]["test_fitness"] = fitness
    measured = select(
        score.c.candidate, score.c.rows, score.c.task, score.c.value, score.c.stderr
    ).where(score.c.campaign == campaign, score.c.candidate.in_(ids))
    for id_, rows, task, value, stderr in connection.execute(measured):
        found[id_][f"{rows}/{task}"] = value
        if stderr is not None:
            found[id_][f"{rows}/{task}/stderr"] = stderr
    return found
