"""Reading a campaign's records back as the search's values, for its driver."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

from sqlalchemy import Connection, and_, select

from evaluators.base import Score, TaskScore
from orchestrator.campaign.state import Again, Candidate, Entry, Recorded, Retry
from orchestrator.measurement.measured import Part, Standing
from orchestrator.storage import document_sets
from orchestrator.storage.base import SEARCHED, Snapshot
from orchestrator.storage.packing import unpack_json
from orchestrator.storage.rows import Place, candidate_of, outcome_of, own_fitness, task_scores
from orchestrator.storage.schema import attempt, candidate, log, parentage, score, snapshot
from workers.job import JobKey

#: Rows of one query: SQLite takes no more than 32,766 values.
_CHUNK = 10_000
#: Attempts whose documents' results are held in memory at a time.
_BATCH = 256

#: What belongs to an attempt that scored.
SCORED = and_(
    score.c.campaign == attempt.c.campaign,
    score.c.candidate == attempt.c.candidate,
    score.c.rows == attempt.c.rows,
    score.c.block == attempt.c.block,
    attempt.c.state == "scored",
)


def candidates(connection: Connection, campaign: int, ids: Iterable[str]) -> dict[str, Candidate]:
    """Returns the candidates of these ids."""
    wanted = list(ids)
    found: dict[str, Candidate] = {}
    for start in range(0, len(wanted), _CHUNK):
        found |= _some(connection, campaign, wanted[start : start + _CHUNK])
    return found


def entries(
    connection: Connection,
    campaign: int,
    after: int,
    reading: Callable[[], AbstractContextManager[None]],
) -> Iterator[Entry]:
    """Yields all that was recorded after a place, in order; no transaction lasts between yields."""
    with reading():
        retries = _retries(connection, campaign, after)
    place = after
    while True:
        with reading():
            rows, scores = _recorded(connection, campaign, place)
        for row in rows:
            for sequence in sorted(one for one in retries if one < row.sequence):
                yield retries.pop(sequence)
            tasks = scores.get((row.candidate, row.rows, row.block), {})
            yield Recorded(outcome_of(row, tasks), bool(row.final))
        if len(rows) < _BATCH:
            break
        place = rows[-1].sequence
    for sequence in sorted(retries):
        yield retries[sequence]


def _recorded(
    connection: Connection, campaign: int, after: int
) -> tuple[Sequence[Any], dict[Place, dict[str, TaskScore]]]:
    """Returns the next attempts that have ended, and what they scored."""
    query = (
        select(attempt)
        .where(attempt.c.campaign == campaign, attempt.c.sequence > after)
        .order_by(attempt.c.sequence)
        .limit(_BATCH)
    )
    rows = connection.execute(query).all()
    if not rows:
        return rows, {}
    measured = (
        select(score)
        .join_from(attempt, score, SCORED)
        .where(
            attempt.c.campaign == campaign,
            attempt.c.sequence > after,
            attempt.c.sequence <= rows[-1].sequence,
        )
    )
    return rows, task_scores(connection.execute(measured))


def standings(connection: Connection, campaign: int, ids: Iterable[str]) -> dict[str, Standing]:
    """Returns what candidates scored on search and fresh rows, in the order of recording."""
    found = {
        id_: Standing({part: one for part, one in parts.items() if part[0] in SEARCHED})
        for id_, parts in parts_of(connection, campaign, ids)
    }
    return {id_: one for id_, one in found.items() if one.parts}


def parts_of(
    connection: Connection, campaign: int, ids: Iterable[str]
) -> Iterator[tuple[str, dict[Part, Score]]]:
    """Yields each of these candidates that scored with its scores, in the order of recording."""
    wanted = list(ids)
    for start in range(0, len(wanted), _BATCH):
        mine = (
            attempt.c.campaign == campaign,
            attempt.c.candidate.in_(wanted[start : start + _BATCH]),
            attempt.c.state == "scored",
        )
        # Put into order here: SQLite would read all of the campaign in order to sort nothing.
        rows = sorted(
            connection.execute(select(attempt).where(*mine)), key=lambda row: row.sequence
        )
        measured = select(score).join_from(attempt, score, SCORED).where(*mine)
        scores = task_scores(connection.execute(measured))
        found: dict[str, dict[Part, Score]] = {}
        for row in rows:
            tasks = scores.get((row.candidate, row.rows, row.block), {})
            one = Score(fitness=own_fitness(row), tasks=tasks)
            found.setdefault(row.candidate, {})[row.rows, row.block] = one
        yield from found.items()


def cached(connection: Connection, evaluations: Sequence[bytes]) -> dict[bytes, Score]:
    """Returns the scores of those evaluations that were made before, in any campaign."""
    query = select(attempt).where(
        attempt.c.evaluation.in_(evaluations),
        attempt.c.state == "scored",
        attempt.c.cached == 0,
    )
    found: dict[bytes, Score] = {}
    for row in connection.execute(query).all():
        measured = select(score).join_from(attempt, score, SCORED).where(attempt.c.id == row.id)
        tasks = task_scores(connection.execute(measured))
        place = (row.candidate, row.rows, row.block)
        found[row.evaluation] = Score(fitness=own_fitness(row), tasks=tasks.get(place, {}))
    return found


def snapshots(connection: Connection, campaign: int) -> list[Snapshot]:
    """Returns the snapshots that can be read, the newest first."""
    query = (
        select(snapshot).where(snapshot.c.campaign == campaign).order_by(snapshot.c.sequence.desc())
    )
    found = []
    for row in connection.execute(query).all():
        with suppress(zlib.error, ValueError):  # one that cannot be read is as good as none
            state = unpack_json(row.state)
            shot = Snapshot(sequence=row.sequence, fingerprint=row.fingerprint, state=state)
            found.append(shot)
    return found


def _some(connection: Connection, campaign: int, ids: Sequence[str]) -> dict[str, Candidate]:
    of_parents = (
        select(parentage.c.child, parentage.c.parent)
        .where(parentage.c.campaign == campaign, parentage.c.child.in_(ids))
        .order_by(parentage.c.child, parentage.c.place)
    )
    parents: dict[str, list[str]] = {}
    for row in connection.execute(of_parents):
        parents.setdefault(row.child, []).append(row.parent)
    query = select(candidate).where(candidate.c.campaign == campaign, candidate.c.id.in_(ids))
    return {row.id: candidate_of(row, parents.get(row.id, ())) for row in connection.execute(query)}


def _retries(connection: Connection, campaign: int, after: int) -> dict[int, Retry]:
    query = select(log.c.sequence, log.c.data).where(
        log.c.campaign == campaign, log.c.kind == "retry", log.c.sequence > after
    )
    wishes = {row.sequence: wanted_of(row.data) for row in connection.execute(query)}
    known = candidates(connection, campaign, {key[0] for keys in wishes.values() for key in keys})
    return {
        sequence: Retry(tuple(_again(connection, campaign, known, key) for key in keys))
        for sequence, keys in wishes.items()
    }


def wanted_of(data: str) -> list[JobKey]:
    """Returns what a retry's event asks for; older ones knew no blocks."""
    return [
        (one[0], one[1], one[2] if len(one) == 4 else 0, one[-1])
        for one in json.loads(data)["wanted"]
    ]


def _again(
    connection: Connection, campaign: int, known: Mapping[str, Candidate], key: JobKey
) -> Again:
    """Returns what is to be measured again, on the documents that the failed attempt was about."""
    id_, rows, block, number = key
    query = select(attempt.c.document_set).where(
        attempt.c.campaign == campaign,
        attempt.c.candidate == id_,
        attempt.c.rows == rows,
        attempt.c.block == block,
        attempt.c.number == number - 1,
        attempt.c.state == "failed",
    )
    found = connection.execute(query).scalar()
    documents = None if found is None else document_sets.named(connection, [found])[found]
    return Again(candidate=known[id_], rows=rows, block=block, documents=documents, attempt=number)
