"""The one writer of a campaign's records. First remember, then act."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, cast

from sqlalchemy import Connection, Engine, func, insert, select, update

from evaluators.base import Score, TaskScore
from orchestrator.campaign import Candidate
from orchestrator.storage import engine as engines
from orchestrator.storage.packing import pack
from orchestrator.storage.schema import attempt, campaign, candidate, parentage, score
from workers.job import Failed, Job, Outcome, Scored

CampaignState = Literal["running", "finished", "stopped", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignRecord:
    """A campaign as the store knows it."""

    id: int
    name: str
    #: All settings, defaults resolved.
    settings: Mapping[str, Any]
    #: The part that decides which candidates come, with the sources' revisions.
    search_settings: Mapping[str, Any]
    state: CampaignState
    elapsed_s: float


class Store:
    """A store opened for writing one campaign.

    Raises:
        StoreError: if the store cannot be opened, or another process writes this campaign.
    """

    def __init__(self, url: str, name: str) -> None:
        self._engine: Engine = engines.open_for_writing(url)
        self._release: Callable[[], None] = engines.lock(self._engine, url, name)
        self._name = name
        self._id: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the campaign back."""
        self._release()
        self._engine.dispose()

    def load(self) -> CampaignRecord | None:
        """Returns the campaign, or None if there is none of this name."""
        with self._engine.connect() as connection:
            row = connection.execute(select(campaign).where(campaign.c.name == self._name)).first()
        if row is None:
            return None
        self._id = row.id
        return CampaignRecord(
            id=row.id,
            name=row.name,
            settings=json.loads(row.settings),
            search_settings=json.loads(row.search_settings),
            state=row.state,
            elapsed_s=row.elapsed_s,
        )

    def create(
        self,
        settings: Mapping[str, Any],
        search_settings: Mapping[str, Any],
        versions: Mapping[str, str],
    ) -> None:
        """Records a new campaign."""
        with self._engine.begin() as connection:
            result = connection.execute(
                insert(campaign).values(
                    name=self._name,
                    settings=json.dumps(settings),
                    search_settings=json.dumps(search_settings),
                    versions=json.dumps(versions),
                    state="running",
                    started_at=time.time(),
                )
            )
            self._id = cast("int", result.inserted_primary_key[0])  # type: ignore[index]

    def reopen(self, settings: Mapping[str, Any]) -> None:
        """Takes up a campaign again: what a dead driver left open is lost and will be redone."""
        with self._engine.begin() as connection:
            connection.execute(
                update(attempt)
                .where(attempt.c.campaign == self._id, attempt.c.state == "open")
                .values(state="lost")
            )
            connection.execute(
                update(campaign)
                .where(campaign.c.id == self._id)
                .values(state="running", reason=None, settings=json.dumps(settings))
            )

    def candidates(self) -> dict[str, str]:
        """Returns candidate -> digest of its recipe."""
        query = select(candidate.c.id, candidate.c.digest).where(candidate.c.campaign == self._id)
        with self._engine.connect() as connection:
            return {row.id: row.digest for row in connection.execute(query)}

    def add(self, candidates: Sequence[Candidate], generation: int) -> None:
        """Records new candidates and their parentage, all or none."""
        rows = [_candidate_row(self._id, one) for one in candidates]
        family = [
            {"campaign": self._id, "child": one.id, "place": place, "parent": parent}
            for one in candidates
            for place, parent in enumerate(one.parents)
        ]
        with self._engine.begin() as connection:
            if rows:
                connection.execute(insert(candidate), rows)
            if family:
                connection.execute(insert(parentage), family)
            connection.execute(
                update(campaign).where(campaign.c.id == self._id).values(generation=generation)
            )

    def begin(self, job: Job) -> None:
        """Records that a job is about to be handed out."""
        with self._engine.begin() as connection:
            connection.execute(
                insert(attempt).values(
                    campaign=self._id,
                    candidate=job.candidate,
                    rows=job.rows,
                    number=job.attempt,
                    started_at=time.time(),
                )
            )

    def record(self, outcome: Outcome, *, final: bool, elapsed_s: float) -> None:
        """Records an outcome, its scores and the candidate's new state, all or none.

        `final` says that a failure ends the candidate rather than being tried again.
        """
        with self._engine.begin() as connection:
            self._close_attempt(connection, outcome, final=final)
            if isinstance(outcome, Scored):
                self._add_scores(connection, outcome)
            if outcome.rows == "search" and (final or isinstance(outcome, Scored)):
                fitness = outcome.score.fitness if isinstance(outcome, Scored) else None
                state = "scored" if isinstance(outcome, Scored) else "failed"
                connection.execute(
                    update(candidate)
                    .where(candidate.c.campaign == self._id, candidate.c.id == outcome.candidate)
                    .values(state=state, fitness=fitness)
                )
            connection.execute(
                update(campaign).where(campaign.c.id == self._id).values(elapsed_s=elapsed_s)
            )

    def outcomes(self) -> list[tuple[Outcome, bool]]:
        """Returns every recorded outcome, in the order of recording, and whether it was final."""
        query = (
            select(attempt)
            .where(attempt.c.campaign == self._id, attempt.c.sequence.is_not(None))
            .order_by(attempt.c.sequence)
        )
        with self._engine.connect() as connection:
            return [(_outcome(row, {}), bool(row.final)) for row in connection.execute(query)]

    def end(self, state: CampaignState, reason: str | None, elapsed_s: float) -> None:
        """Records that this run of the campaign is over."""
        with self._engine.begin() as connection:
            connection.execute(
                update(campaign)
                .where(campaign.c.id == self._id)
                .values(state=state, reason=reason, elapsed_s=elapsed_s)
            )

    def _close_attempt(self, connection: Connection, outcome: Outcome, *, final: bool) -> None:
        last = select(func.coalesce(func.max(attempt.c.sequence), 0)).where(
            attempt.c.campaign == self._id
        )
        values: dict[str, Any] = {
            "sequence": connection.execute(last).scalar_one() + 1,
            "seconds": outcome.seconds,
            "worker": outcome.worker,
            "final": int(final),
        }
        if isinstance(outcome, Scored):
            values |= {"state": "scored", "fitness": outcome.score.fitness}
        else:
            values |= {
                "state": "failed",
                "stage": outcome.stage,
                "cause": outcome.cause,
                "retryable": int(outcome.retryable),
            }
        result = connection.execute(
            update(attempt)
            .where(
                attempt.c.campaign == self._id,
                attempt.c.candidate == outcome.candidate,
                attempt.c.rows == outcome.rows,
                attempt.c.number == outcome.attempt,
                attempt.c.state == "open",
            )
            .values(**values)
        )
        assert result.rowcount == 1, f"no open attempt at {outcome.candidate} to close"

    def _add_scores(self, connection: Connection, outcome: Scored) -> None:
        rows = [
            {
                "campaign": self._id,
                "candidate": outcome.candidate,
                "rows": outcome.rows,
                "task": task,
                "value": one.value,
                "stderr": one.stderr,
                "documents": one.documents,
                "weight": one.weight,
                "per_document": pack(one.per_document),
            }
            for task, one in outcome.score.tasks.items()
        ]
        connection.execute(insert(score), rows)


def _candidate_row(campaign_id: int | None, one: Candidate) -> dict[str, Any]:
    return {
        "campaign": campaign_id,
        "id": one.id,
        "role": one.role,
        "number": one.number,
        "generation": one.generation,
        "name": one.name,
        "genome": None if one.genome is None else json.dumps(one.genome),
        "recipe": json.dumps(one.recipe.as_dict()),
        "digest": one.recipe.digest(),
        "operator": one.operator,
    }


def _outcome(row: Any, tasks: Mapping[str, TaskScore]) -> Outcome:
    common = {
        "candidate": row.candidate,
        "attempt": row.number,
        "rows": row.rows,
        "seconds": row.seconds,
        "worker": row.worker,
    }
    if row.state == "scored":
        return Scored(score=Score(fitness=row.fitness, tasks=tasks), **common)
    return Failed(stage=row.stage, cause=row.cause, retryable=bool(row.retryable), **common)
