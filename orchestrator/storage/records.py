"""Reading a campaign's records back as the search's values, for its driver."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress

from sqlalchemy import Connection, select

from evaluators.base import Score
from orchestrator.state import Again, Candidate, Entry, Recorded, Retry
from orchestrator.storage.base import Snapshot
from orchestrator.storage.packing import unpack_json
from orchestrator.storage.rows import candidate_of, outcome_of, task_scores
from orchestrator.storage.schema import attempt, candidate, log, parentage, score, snapshot

#: Rows of one query: SQLite takes no more than 32,766 values.
_CHUNK = 10_000


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
        query = (
            select(attempt)
            .where(attempt.c.campaign == campaign, attempt.c.sequence > place)
            .order_by(attempt.c.sequence)
            .limit(_CHUNK)
        )
        with reading():
            rows = connection.execute(query).all()
        for row in rows:
            for sequence in sorted(one for one in retries if one < row.sequence):
                yield retries.pop(sequence)
            yield Recorded(outcome_of(row, {}), bool(row.final))
        if len(rows) < _CHUNK:
            break
        place = rows[-1].sequence
    for sequence in sorted(retries):
        yield retries[sequence]


def cached(connection: Connection, evaluations: Sequence[bytes]) -> dict[bytes, Score]:
    """Returns the scores of those evaluations that were made before, in any campaign."""
    columns = (attempt.c.campaign, attempt.c.candidate, attempt.c.rows)
    query = select(*columns, attempt.c.evaluation, attempt.c.fitness).where(
        attempt.c.evaluation.in_(evaluations),
        attempt.c.state == "scored",
        attempt.c.cached == 0,
    )
    found: dict[bytes, Score] = {}
    for row in connection.execute(query).all():
        scores = select(score).where(
            score.c.campaign == row.campaign,
            score.c.candidate == row.candidate,
            score.c.rows == row.rows,
        )
        tasks = task_scores(connection.execute(scores)).get((row.candidate, row.rows), {})
        found[row.evaluation] = Score(fitness=row.fitness, tasks=tasks)
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
    wishes = {row.sequence: json.loads(row.data)["wanted"] for row in connection.execute(query)}
    ids = {id_ for wanted in wishes.values() for id_, _, _ in wanted}
    known = candidates(connection, campaign, ids)
    return {
        sequence: Retry(
            tuple(
                Again(candidate=known[id_], rows=rows, attempt=number)
                for id_, rows, number in wanted
            )
        )
        for sequence, wanted in wishes.items()
    }
