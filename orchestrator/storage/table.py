"""A campaign as one table: a row for each candidate, as of one moment, read in batches."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, case, func, select

from evaluators.base import STRETCHES
from evaluators.pooling import pool
from orchestrator.storage.base import SEARCHED
from orchestrator.storage.candidates import AS_PROPOSED, SAYS_WORTH
from orchestrator.storage.gene_columns import Genes, Kind, read_genes
from orchestrator.storage.packing import unpack_genome
from orchestrator.storage.reader import Reader, counted_in, curves
from orchestrator.storage.records import parts_of
from orchestrator.storage.schema import GIVEN_UP, attempt, candidate, parentage, score

#: Rows that are held in memory at a time.
_BATCH = 5_000

#: What every campaign's table begins with. All but the counts and flags may be missing.
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
    "stderr": "real",
    "fidelity": "real",
    "stopped": "flag",
    "violation": "real",
    "documents": "integer",
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
_OF_ATTEMPT = (
    "fitness", "stderr", "fidelity", "violation", "worker", "node", "device", "cause",
)  # fmt: skip
#: What adds up over the parts of the rows that a candidate was measured on.
_SUMS = ("seconds", "accelerator_seconds")
#: Of networks that were trained: what one was worth after each part of its training.
CURVE = "curve"
#: Fitness on rows that nothing is searched on, for the table's end.
_REPORTED = ("selection", "test", "control")


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
        learns = counted_in(json.loads(row.search_settings)) == STRETCHES
        columns: dict[str, Kind] = {
            **_COLUMNS,
            **({CURVE: "text"} if learns else {}),
            **genes.columns,
            **dict.fromkeys(scores, "real"),
            **{f"{rows}_fitness": "real" for rows in _REPORTED},
        }
        with closing(_batches(connection, row.id, genes, learns=learns)) as batches:
            yield Table(
                campaign=row.name, columns=columns, genes=genes, tasks=tasks, batches=batches
            )


def _genes(connection: Connection, row: Any) -> Genes:
    """Returns the genes; the first version did not record them: then what the genomes show."""
    found = json.loads(row.search_settings).get("genes")
    if found is None:
        lower, upper = _extremes(connection, row.id)
        found = {"names": [f"gene_{n}" for n in range(len(lower))], "lower": lower, "upper": upper}
    return read_genes(found, _COLUMNS)


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
    """Returns the tasks of each kind of rows; fresh rows are search rows, too."""
    query = select(score.c.rows, score.c.task).where(score.c.campaign == campaign).distinct()
    found = {f"{_kind(row.rows)}/{row.task}" for row in connection.execute(query)}
    return sorted(found)


def _kind(rows: str) -> str:
    return "search" if rows in SEARCHED else rows


def _batches(
    connection: Connection, campaign: int, genes: Genes, *, learns: bool
) -> Generator[list[dict[str, Any]], None, None]:
    """Reads candidates in the order of proposals; what is beside them, a batch at a time."""
    taken = [attempt.c[name] for name in (*_OF_ATTEMPT, "cached", "stopped")]
    query = (
        select(
            *(candidate.c[name] for name in ("id", "role", "number", "generation", "name")),
            candidate.c.operator,
            candidate.c.genome,
            func.coalesce(attempt.c.state, "proposed").label("state"),
            *taken,
        )
        .select_from(candidate.outerjoin(attempt, SAYS_WORTH))
        .where(candidate.c.campaign == campaign)
        .order_by(*AS_PROPOSED)
    )
    with connection.execute(query, execution_options={"yield_per": _BATCH}) as result:
        for rows in result.partitions():
            beside = _beside(connection, campaign, rows)
            if learns:
                _add_curves(connection, campaign, beside)
            yield [_row(row, genes) | beside[row.id] for row in rows]


def _row(row: Any, genes: Genes) -> dict[str, Any]:
    found = {
        "id": row.id,
        "role": row.role,
        "number": row.number,
        "generation": row.generation,
        "operator": row.operator,
        "state": row.state,
        "cached": bool(row.cached),
        "stopped": bool(row.stopped),
    }
    found |= {"name": row.name} if row.name else {}
    for column in _OF_ATTEMPT:
        if (value := row._mapping[column]) not in (None, ""):
            found[column] = value
    if row.fitness is None:
        found.pop("violation", None)
    if row.genome is not None:
        found |= genes.cells(unpack_genome(row.genome))
    return found


def _beside(connection: Connection, campaign: int, rows: Sequence[Any]) -> dict[str, Any]:
    """Returns candidate -> its parents, what measuring it took, and scores."""
    ids = [row.id for row in rows]
    found: dict[str, dict[str, Any]] = {id_: {"attempts": 0, "documents": 0} for id_ in ids}
    family = (
        select(parentage.c.child, parentage.c.parent)
        .where(parentage.c.campaign == campaign, parentage.c.child.in_(ids))
        .order_by(parentage.c.child, parentage.c.place)
    )
    for child, parent in connection.execute(family):
        before = found[child].get("parents")
        found[child]["parents"] = f"{before} {parent}" if before else parent
    ended = {row.id for row in rows if row.state != "proposed"}
    _add_attempts(connection, campaign, found, ended)
    for id_, scores in _scores(connection, campaign, ids).items():
        found[id_] |= scores
    return found


def _add_attempts(
    connection: Connection, campaign: int, found: dict[str, dict[str, Any]], ended: set[str]
) -> None:
    """Adds what attempts were made and what those took that decided about their candidates."""
    is_accepted = (attempt.c.state == "scored") | GIVEN_UP
    query = (
        select(
            attempt.c.candidate,
            attempt.c.rows,
            func.count(),
            func.coalesce(func.sum(attempt.c.documents), 0),
            func.max(attempt.c.fitness),
            func.min(case((is_accepted, attempt.c.started_at))),
            func.max(case((is_accepted, attempt.c.ended_at))),
            *(func.sum(case((is_accepted, attempt.c[name]))) for name in _SUMS),
        )
        .where(attempt.c.campaign == campaign, attempt.c.candidate.in_(found))
        .group_by(attempt.c.candidate, attempt.c.rows)
        .order_by(attempt.c.candidate, attempt.c.rows.desc())  # search before fresh
    )
    for id_, rows, num, documents, fitness, started, finished, *took in connection.execute(query):
        one = found[id_]
        if rows not in SEARCHED:
            one |= {} if fitness is None else {f"{rows}_fitness": fitness}
            continue
        one["attempts"] += num
        one["documents"] += documents
        if id_ not in ended or started is None:
            continue
        one["started_at"] = min(_moment(started), one.get("started_at", _moment(started)))
        one["ended_at"] = max(_moment(finished), one.get("ended_at", _moment(finished)))
        for name, seconds in zip(_SUMS, took, strict=True):
            if seconds is not None:
                one[name] = one.get(name, 0.0) + seconds


def _add_curves(connection: Connection, campaign: int, found: dict[str, dict[str, Any]]) -> None:
    """Adds what each was worth as it learned, as share:fitness after share:fitness."""
    for id_, points in curves(connection, campaign, list(found)).items():
        found[id_][CURVE] = " ".join(f"{one.share:.6g}:{one.fitness!r}" for one in points)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _scores(connection: Connection, campaign: int, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns candidate -> column -> value; what was scored part by part is put together."""
    columns = (score.c.candidate, score.c.rows, score.c.block, score.c.task)
    query = select(*columns, score.c.value, score.c.stderr).where(
        score.c.campaign == campaign, score.c.candidate.in_(ids)
    )
    found: dict[str, dict[str, Any]] = {id_: {} for id_ in ids}
    several = set()
    for row in connection.execute(query):
        column = f"{_kind(row.rows)}/{row.task}"
        several |= {row.candidate} if column in found[row.candidate] else set()
        found[row.candidate] |= _columns(column, row)
    for id_, parts in parts_of(connection, campaign, sorted(several)):
        for kind in {_kind(rows) for (rows, _) in parts}:
            whole = pool([one for (rows, _), one in parts.items() if _kind(rows) == kind])
            for task, one in whole.tasks.items():
                found[id_] |= _columns(f"{kind}/{task}", one)
    return found


def _columns(name: str, one: Any) -> dict[str, Any]:
    return {name: one.value} | ({} if one.stderr is None else {f"{name}/stderr": one.stderr})
