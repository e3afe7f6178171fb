"""Reading a store while a campaign runs, without ever holding up its writer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, select

from evaluators.base import Rows, TaskScore
from orchestrator.storage import engine as engines
from orchestrator.storage import lease, schema
from orchestrator.storage.base import StoreError
from orchestrator.storage.packing import unpack_genome, unpack_json
from orchestrator.storage.rows import task_scores
from orchestrator.storage.schema import (
    attempt,
    campaign,
    candidate,
    parentage,
    score,
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
    fitness: float | None
    operator: str
    genome: Sequence[float] | None
    recipe: Mapping[str, Any]
    parents: Sequence[str]
    scores: Mapping[str, TaskScore]
    test: Mapping[str, TaskScore]
    test_fitness: float | None

    @property
    def label(self) -> str:
        """What people call it: a reference's name, else its id."""
        return self.name or self.id


def find_campaign(connection: Connection, name: str, url: str) -> Any:
    """Returns a campaign's row.

    Raises:
        StoreError: if there is none, naming the nearest.
    """
    row = connection.execute(select(campaign).where(campaign.c.name == name)).first()
    if row is None:
        from evaluators.registry import nearest

        names = list(connection.execute(select(campaign.c.name)).scalars())
        shown = engines.without_password(url)
        raise StoreError(f"no campaign {name!r} in store {shown!r}; {nearest(name, names)}")
    return row


class Reader:
    """A store opened for reading.

    Raises:
        StoreError: if there is no such store.
    """

    def __init__(self, url: str) -> None:
        self._engine = engines.open_for_reading(url)
        self._url = url

    def names(self) -> list[str]:
        """Returns the campaigns' names, the last started first."""
        query = select(campaign.c.name).order_by(campaign.c.started_at.desc())
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def settings(self, name: str) -> Mapping[str, Any]:
        """Returns a campaign's settings, defaults resolved."""
        with self._engine.connect() as connection:
            found: Mapping[str, Any] = json.loads(self._campaign(connection, name).settings)
            return found

    def versions(self, name: str) -> Mapping[str, str]:
        """Returns the software versions a campaign was started with."""
        with self._engine.connect() as connection:
            found: Mapping[str, str] = json.loads(self._campaign(connection, name).versions)
            return found

    def status(self, name: str) -> dict[str, Any]:
        """Returns how far a campaign is, as `shoal status --json` prints it."""
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            in_flight = select(func.count()).where(
                attempt.c.campaign == row.id, attempt.c.state == "open"
            )
            running = row.state == "running" and lease.is_alive(row, time.time())
            state = row.state if running or row.state != "running" else "interrupted"
            best = connection.execute(_by_rank(row.id).limit(1)).first()
            return {
                "campaign": row.name,
                "state": state,
                "reason": row.reason,
                "generation": row.generation,
                "evaluated": row.num_scored,
                "failed": row.num_failed,
                "cached": row.num_cached,
                "in_flight": connection.execute(in_flight).scalar_one() if running else 0,
                "driver": lease.describe(row) if running else None,
                "best": _best_of(connection, best) if best is not None else None,
                "started_at": _iso(row.started_at),
                "elapsed_s": round(row.elapsed_s, 3),
                "evaluations_per_hour": _per_hour(
                    max(0, row.num_scored - row.num_cached), row.elapsed_s
                ),
            }

    def best(self, name: str, num: int) -> list[CandidateRecord]:
        """Returns the best candidates by fitness; the control takes no part."""
        with self._engine.connect() as connection:
            return self._ranked(connection, self._campaign(connection, name).id, num)

    def references(self, name: str) -> list[CandidateRecord]:
        """Returns the models that candidates are compared with."""
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            query = (
                _candidates()
                .where(candidate.c.campaign == row.id, candidate.c.generation == 0)
                .order_by(candidate.c.number)
            )
            return self._records(connection, row.id, connection.execute(query).all())

    def best_control(self, name: str) -> CandidateRecord | None:
        """Returns the best of the random search that ran beside, if one did."""
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            query = _by_rank(row.id, controls=True).limit(1)
            found = self._records(connection, row.id, connection.execute(query).all())
            return found[0] if found else None

    def candidate(self, name: str, candidate_id: str) -> CandidateRecord:
        """Returns a candidate by its id, or a reference by its name.

        Raises:
            StoreError: if there is none.
        """
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            # References are the generation 0, which an index finds among a million.
            by_name = and_(candidate.c.name == candidate_id, candidate.c.generation == 0)
            query = _candidates().where(
                candidate.c.campaign == row.id, (candidate.c.id == candidate_id) | by_name
            )
            found = connection.execute(query).first()
            if found is None:
                raise StoreError(f"campaign {name!r} has no candidate {candidate_id!r}")
            return self._records(connection, row.id, [found])[0]

    def attempts(self, name: str, candidate_id: str) -> list[dict[str, Any]]:
        """Returns every attempt at a candidate, in order."""
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            query = (
                select(attempt)
                .where(attempt.c.campaign == row.id, attempt.c.candidate == candidate_id)
                .order_by(attempt.c.id)
            )
            return [_attempt_of(one) for one in connection.execute(query)]

    def history(self, name: str) -> list[tuple[str, str, float]]:
        """Returns (role, candidate, fitness) of every measurement, in the order of recording."""
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            query = (
                select(candidate.c.role, candidate.c.id, attempt.c.fitness)
                .join_from(
                    attempt,
                    candidate,
                    and_(
                        candidate.c.campaign == attempt.c.campaign,
                        candidate.c.id == attempt.c.candidate,
                    ),
                )
                .where(
                    attempt.c.campaign == row.id,
                    attempt.c.rows == "search",
                    attempt.c.state == "scored",
                )
                .order_by(attempt.c.sequence)
            )
            return [(one.role, one.id, one.fitness) for one in connection.execute(query)]

    def failures(self, name: str, num: int) -> list[tuple[str, int]]:
        """Returns the most frequent causes of failure with their counts."""
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            count = func.count().label("num")
            query = (
                select(attempt.c.cause, count)
                .where(attempt.c.campaign == row.id, attempt.c.state == "failed")
                .group_by(attempt.c.cause)
                .order_by(count.desc())
                .limit(num)
            )
            return [(one.cause, one.num) for one in connection.execute(query)]

    @contextmanager
    def moment(self, name: str) -> Iterator[tuple[Connection, Any]]:
        """Opens a campaign's row and all that belongs to it, as they are at one moment."""
        with self._engine.connect() as connection:
            if connection.dialect.name == "sqlite":  # which begins only where it writes
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection, self._campaign(connection, name)

    def _campaign(self, connection: Connection, name: str) -> Any:
        return find_campaign(connection, name, self._url)

    def _ranked(self, connection: Connection, campaign_id: int, num: int) -> list[CandidateRecord]:
        rows = connection.execute(_by_rank(campaign_id).limit(num)).all()
        return self._records(connection, campaign_id, rows)

    def _records(
        self, connection: Connection, campaign_id: int, rows: Sequence[Any]
    ) -> list[CandidateRecord]:
        return [self._record(connection, campaign_id, row) for row in rows]

    def _record(self, connection: Connection, campaign_id: int, row: Any) -> CandidateRecord:
        parents = select(parentage.c.parent).where(
            parentage.c.campaign == campaign_id, parentage.c.child == row.id
        )
        test = select(attempt.c.fitness).where(
            attempt.c.campaign == campaign_id,
            attempt.c.candidate == row.id,
            attempt.c.rows == "test",
            attempt.c.state == "scored",
        )
        return CandidateRecord(
            id=row.id,
            role=row.role,
            number=row.number,
            generation=row.generation,
            name=row.name,
            state=row.state,
            fitness=row.fitness,
            operator=row.operator,
            genome=None if row.genome is None else unpack_genome(row.genome),
            recipe=unpack_json(row.recipe),
            parents=list(connection.execute(parents.order_by(parentage.c.place)).scalars()),
            scores=_scores(connection, campaign_id, row.id, "search"),
            test=_scores(connection, campaign_id, row.id, "test"),
            test_fitness=connection.execute(test).scalar(),
        )


def _scores(
    connection: Connection, campaign_id: int, candidate_id: str, rows: Rows
) -> dict[str, TaskScore]:
    query = select(score).where(
        score.c.campaign == campaign_id, score.c.candidate == candidate_id, score.c.rows == rows
    )
    found = task_scores(connection.execute(query.order_by(score.c.task)))
    return found.get((candidate_id, rows), {})


#: The attempt that decided about a candidate on the search rows.
ACCEPTED = and_(
    attempt.c.campaign == candidate.c.campaign,
    attempt.c.candidate == candidate.c.id,
    attempt.c.rows == "search",
    schema.ACCEPTED,
)


def _candidates() -> Select[Any]:
    """Candidates with their state and fitness, where they have ended."""
    state = func.coalesce(attempt.c.state, "proposed").label("state")
    joined = candidate.outerjoin(attempt, ACCEPTED)
    return select(candidate, state, attempt.c.fitness).select_from(joined)


def _by_rank(campaign_id: int, *, controls: bool = False) -> Select[Any]:
    """Among equals the search comes before the references, then the elder: as the campaign says."""
    order = [
        attempt.c.fitness.desc(),
        case((candidate.c.role == "search", 0), else_=1),
        candidate.c.number,
    ]
    role = candidate.c.role == "control" if controls else candidate.c.role != "control"
    both = and_(candidate.c.campaign == attempt.c.campaign, candidate.c.id == attempt.c.candidate)
    return (
        select(candidate, attempt.c.state, attempt.c.fitness)
        .join_from(attempt, candidate, both)
        .where(
            attempt.c.campaign == campaign_id,
            attempt.c.state == "scored",
            attempt.c.rows == "search",
            role,
        )
        .order_by(*order)
    )


def _best_of(connection: Connection, row: Any) -> dict[str, Any]:
    query = select(score.c.task, score.c.value).where(
        score.c.campaign == row.campaign, score.c.candidate == row.id, score.c.rows == "search"
    )
    scores = connection.execute(query.order_by(score.c.task))
    return {"id": row.id, "fitness": row.fitness, "scores": {one.task: one.value for one in scores}}


def _attempt_of(row: Any) -> dict[str, Any]:
    return {
        "rows": row.rows,
        "number": row.number,
        "state": row.state,
        "worker": row.worker,
        "started_at": _iso(row.started_at),
        "seconds": row.seconds,
        "node": row.node,
        "device": row.device,
        "accelerator_seconds": row.accelerator_seconds,
        "cached": bool(row.cached),
        "stage": row.stage,
        "kind": row.kind,
        "cause": row.cause,
        "log": row.log,
    }


def _per_hour(evaluated: int, elapsed_s: float) -> float:
    return round(3600 * evaluated / elapsed_s, 1) if elapsed_s > 0 else 0.0


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
