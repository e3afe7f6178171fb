"""Reading a store while a campaign runs, without ever holding up its writer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, select

from evaluators.base import DOCUMENTS
from orchestrator.algorithms.base import Evaluated
from orchestrator.campaign.counterparts import COUNTERPART
from orchestrator.measurement.measured import Standing
from orchestrator.storage import candidates, lease, records
from orchestrator.storage import engine as engines
from orchestrator.storage.base import StoreError
from orchestrator.storage.births import Birth, births
from orchestrator.storage.candidates import CandidateRecord
from orchestrator.storage.packing import unpack_genome
from orchestrator.storage.schema import OPEN, RANKED, attempt, campaign, candidate, spent
from orchestrator.storage.told import told


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What a candidate is worth by each objective, all to be maximised."""

    id: str
    role: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """What a candidate was worth after a part of the search rows."""

    #: Share of the rows; where these are stretches, of the training.
    share: float
    fitness: float


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

    def search_settings(self, name: str) -> Mapping[str, Any]:
        """Returns what must not change while a campaign runs, with what was found out for it."""
        with self._engine.connect() as connection:
            found: Mapping[str, Any] = json.loads(self._campaign(connection, name).search_settings)
            return found

    def counted_in(self, name: str) -> str:
        """Returns what the search rows consist of: documents, or stretches of training."""
        return counted_in(self.search_settings(name))

    def versions(self, name: str) -> Mapping[str, str]:
        """Returns the software versions a campaign was started with."""
        with self._engine.connect() as connection:
            found: Mapping[str, str] = json.loads(self._campaign(connection, name).versions)
            return found

    def status(self, name: str) -> dict[str, Any]:
        """Returns how far a campaign is, as `shoal status --json` prints it."""
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            in_flight = (
                select(func.count()).select_from(attempt).where(attempt.c.campaign == row.id, OPEN)
            )
            running = row.state == "running" and lease.is_alive(row, time.time())
            state = row.state if running or row.state != "running" else "interrupted"
            best = candidates.ranked(connection, row.id, 1)
            winner = candidates.winner(connection, row, candidates.CONTENDERS)
            documents, stopped = _spent(connection, row.id)
            return {
                "campaign": row.name,
                "state": state,
                "reason": row.reason,
                "generation": row.generation,
                "evaluated": row.num_scored,
                "failed": row.num_failed,
                "cached": row.num_cached,
                "stopped": stopped,
                "documents": documents,
                "counted_in": counted_in(json.loads(row.search_settings)),
                "in_flight": connection.execute(in_flight).scalar_one() if running else 0,
                "driver": lease.describe(row) if running else None,
                "best": _best_of(connection, row.id, best[0]) if best else None,
                "winner": None if winner is None else winner.id,
                "started_at": _iso(row.started_at),
                "elapsed_s": round(row.elapsed_s, 3),
                "evaluations_per_hour": _per_hour(
                    max(0, row.num_scored - row.num_cached), row.elapsed_s
                ),
            }

    def best(self, name: str, num: int) -> list[CandidateRecord]:
        """Returns the best candidates by the search rows; the control takes no part."""
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            found = candidates.ranked(connection, row.id, num)
            return [candidates.record(connection, row.id, one) for one in found]

    def best_control(self, name: str) -> CandidateRecord | None:
        """Returns the best by the search rows of the random search beside, if there was one."""
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            found = candidates.ranked(connection, row.id, 1, ["control"])
            return candidates.record(connection, row.id, found[0]) if found else None

    def winner(self, name: str) -> CandidateRecord | None:
        """Returns the best by the selection rows if any were scored there, else by rank.

        Once a campaign has ended, who was measured on all search rows is before who was not.
        """
        return self._winner(name, candidates.CONTENDERS)

    def control_winner(self, name: str) -> CandidateRecord | None:
        """Returns the winner of the random search that ran beside, if one did."""
        return self._winner(name, ["control"])

    def _winner(self, name: str, roles: Sequence[str]) -> CandidateRecord | None:
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            found = candidates.winner(connection, row, roles)
            return None if found is None else candidates.record(connection, row.id, found)

    def references(self, name: str) -> list[CandidateRecord]:
        """Returns the models that candidates are compared with.

        These are those of the start, what the campaign's end made of its archives, and the
        counterparts of its winner.
        """
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            winner = candidates.winner(connection, row)
            generations = {0, row.generation, *([] if winner is None else [winner.generation])}
            query = (
                candidates.candidates()
                .where(
                    candidate.c.campaign == row.id,
                    candidate.c.generation.in_(generations),
                    candidate.c.role == "reference",
                )
                .order_by(candidate.c.number)
            )
            found = [
                candidates.record(connection, row.id, one) for one in connection.execute(query)
            ]
            return [one for one in found if _is_compared(one, row.generation, winner)]

    def candidate(self, name: str, candidate_id: str) -> CandidateRecord:
        """Returns a candidate by its id, or a reference by its name.

        Raises:
            StoreError: if there is none.
        """
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            # References are the generation 0, which an index finds among a million.
            by_name = and_(candidate.c.name == candidate_id, candidate.c.generation == 0)
            query = candidates.candidates().where(
                candidate.c.campaign == row.id, (candidate.c.id == candidate_id) | by_name
            )
            found = connection.execute(query).first()
            if found is not None:
                return candidates.record(connection, row.id, found)
        for one in self.references(name):  # those that only an end can name are of its generations
            if one.name == candidate_id:
                return one
        raise StoreError(f"campaign {name!r} has no candidate {candidate_id!r}")

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

    def history(self, name: str) -> list[tuple[str, str, float, bool]]:
        """Returns (role, candidate, fitness, whether it is out of the running) of all measured.

        Out of it is who was stopped by a race or breaks constraints.

        They come in the order in which each was first known. What a candidate was estimated at
        first, and what fresh rows said later, is told together: what is known of it now.
        """
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            first = (
                select(attempt.c.candidate, func.min(attempt.c.sequence).label("place"))
                .where(
                    attempt.c.campaign == row.id,
                    attempt.c.fidelity.is_not(None),
                    attempt.c.final == 1,
                )
                .group_by(attempt.c.candidate)
                .subquery()
            )
            query = (
                select(
                    candidate.c.role,
                    candidate.c.id,
                    attempt.c.fitness,
                    attempt.c.stopped,
                    attempt.c.violation,
                )
                .join_from(attempt, candidate, candidates.SAYS_WORTH)
                .join(first, first.c.candidate == candidate.c.id)
                .where(attempt.c.campaign == row.id, RANKED)
                .order_by(first.c.place)
            )
            return [
                (one.role, one.id, one.fitness, bool(one.stopped or one.violation))
                for one in connection.execute(query)
            ]

    def curves(self, name: str, candidate_id: str | None = None) -> dict[str, list[CurvePoint]]:
        """Returns candidate -> what it was worth after each block of the search rows."""
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            return curves(connection, row.id, None if candidate_id is None else [candidate_id])

    def objectives(self, name: str) -> list[Objectives]:
        """Returns the objectives of all that keep the constraints and that no race stopped.

        They come in the order of proposals within each role.
        """
        with self._engine.connect() as connection:
            row = self._campaign(connection, name)
            query = (
                select(candidate.c.id, candidate.c.role, attempt.c.objectives)
                .join_from(attempt, candidate, candidates.SAYS_WORTH)
                .where(
                    attempt.c.campaign == row.id,
                    attempt.c.stopped == 0,
                    attempt.c.violation == 0,
                    attempt.c.objectives.is_not(None),
                    RANKED,
                )
                .order_by(candidate.c.role, candidate.c.number)
            )
            return [
                Objectives(id=one.id, role=one.role, values=unpack_genome(one.objectives))
                for one in connection.execute(query)
            ]

    def births(self, name: str) -> Iterator[Birth]:
        """Yields how the search's candidates came to be that have ended, parents first."""
        with self.moment(name) as (connection, row):
            yield from births(connection, row.id)

    def told(self, name: str) -> Iterator[tuple[int, Evaluated]]:
        """Yields what the search's algorithm was told, with the generation of each."""
        with self.moment(name) as (connection, row):
            yield from told(connection, row.id)

    def standings(self, name: str, ids: Sequence[str]) -> dict[str, Standing]:
        """Returns what these candidates scored on search and fresh rows, document by document."""
        with self.moment(name) as (connection, row):
            return records.standings(connection, row.id, ids)

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


def counted_in(search_settings: Mapping[str, Any]) -> str:
    """Returns what the search rows of a recorded campaign consist of."""
    found: str = search_settings.get("counted_in", DOCUMENTS)
    return found


def curves(
    connection: Connection, campaign_id: int, ids: Sequence[str] | None
) -> dict[str, list[CurvePoint]]:
    """Returns candidate -> what it was worth after each block; of all candidates if None."""
    query = (
        select(attempt.c.candidate, attempt.c.fidelity, attempt.c.fitness)
        .where(
            attempt.c.campaign == campaign_id,
            attempt.c.rows == "search",
            attempt.c.state == "scored",
        )
        .order_by(attempt.c.candidate, attempt.c.block)
    )
    if ids is not None:
        query = query.where(attempt.c.candidate.in_(ids))
    found: dict[str, list[CurvePoint]] = {}
    for one in connection.execute(query):
        point = CurvePoint(share=one.fidelity, fitness=one.fitness)
        found.setdefault(one.candidate, []).append(point)
    return found


def _is_compared(one: CandidateRecord, generation: int, winner: Any | None) -> bool:
    """Whether a reference belongs to a campaign that has come to this generation and winner."""
    if one.operator == COUNTERPART:
        return winner is not None and list(one.parents) == [winner.id]
    return one.generation in (0, generation)


def _spent(connection: Connection, campaign_id: int) -> tuple[dict[str, dict[str, int]], int]:
    """Returns role -> rows -> documents that were scored, and how many candidates were stopped."""
    query = select(spent).where(spent.c.campaign == campaign_id)
    documents: dict[str, dict[str, int]] = {}
    stopped = 0
    for row in connection.execute(query.order_by(spent.c.role, spent.c.rows)):
        documents.setdefault(row.role, {})[row.rows] = row.documents
        stopped += row.stopped
    return documents, stopped


def _best_of(connection: Connection, campaign_id: int, row: Any) -> dict[str, Any]:
    found = candidates.record(connection, campaign_id, row)
    scores = {task: one.value for task, one in found.scores.items()}
    return {
        "id": found.id,
        "fitness": found.fitness,
        "violation": found.violation,
        "scores": scores,
    }


def _attempt_of(row: Any) -> dict[str, Any]:
    return {
        "rows": row.rows,
        "block": row.block,
        "number": row.number,
        "documents": row.documents,
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
