"""Writes a turn into the tables, within a transaction that is the caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from orchestrator.campaign.state import Candidate
from orchestrator.storage import document_sets
from orchestrator.storage.base import Begun, Taken, Turn
from orchestrator.storage.engine import insert_into
from orchestrator.storage.ledger import Ledger, standings
from orchestrator.storage.rows import candidate_row, outcome_values, parent_rows, score_rows
from orchestrator.storage.schema import (
    OPEN,
    STANDING,
    attempt,
    campaign,
    candidate,
    parentage,
    score,
    spent,
)
from workers.job import Scored

#: What names an attempt.
_KEY = ("campaign", "candidate", "rows", "block", "number")
#: What an outcome says about the attempt that it answers.
_SAID = (
    "state", "sequence", "ended_at", "final", "fitness", "own_fitness", "stderr", "fidelity", "tie",
    "stopped", "violation", "objectives", "documents", "superseded", "seconds",
    "accelerator_seconds", "worker", "node", "device", "stage", "kind", "cause", "log", "retryable",
)  # fmt: skip
#: Closes the open attempt that an outcome answers.
_CLOSE = (
    update(attempt)
    .where(
        attempt.c.campaign == bindparam("of_campaign"),
        attempt.c.candidate == bindparam("of_candidate"),
        attempt.c.rows == bindparam("of_rows"),
        attempt.c.block == bindparam("of_block"),
        attempt.c.number == bindparam("of_number"),
        OPEN,
    )
    .values({name: bindparam(f"new_{name}") for name in _SAID})
)
#: Takes from an attempt of an earlier turn that it says what its candidate is worth.
_SUPERSEDE = (
    update(attempt)
    .where(
        attempt.c.campaign == bindparam("of_campaign"),
        attempt.c.candidate == bindparam("of_candidate"),
        STANDING,
    )
    .values(superseded=1)
)
#: Says by how much a candidate breaks constraints, where that is known only after its measurement.
_JUDGE = (
    update(attempt)
    .where(
        attempt.c.campaign == bindparam("of_campaign"),
        attempt.c.candidate == bindparam("of_candidate"),
        STANDING,
    )
    .values(violation=bindparam("new_violation"))
)
#: What is copied is about the documents of what it was copied from.
_COPIED_SET = (
    select(attempt.c.document_set)
    .where(
        attempt.c.evaluation == bindparam("of_evaluation"),
        attempt.c.state == "scored",
        attempt.c.cached == 0,
    )
    .order_by(attempt.c.id)
    .limit(1)
    .scalar_subquery()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes turns of one campaign."""

    connection: Connection
    campaign: int
    #: Version of the library that scores.
    harness: str
    #: Changes the campaign's own row, which fails if somebody else has taken the campaign.
    change: Callable[[Mapping[Any, Any]], None]

    def write(self, turn: Turn, now: float) -> None:
        """Records a turn."""
        closed = [_closed(self.campaign, one, now) for one in turn.taken]
        ledger, gone = self._book(closed)
        self._advance(turn, ledger, closed, now)
        self._add(turn.candidates)
        if gone:
            owner = {"of_campaign": self.campaign}
            self.connection.execute(_SUPERSEDE, [{**owner, "of_candidate": one} for one in gone])
        self._close(turn.taken, closed, now)
        self._judge(turn.judged)
        self._begin(turn.begun, now)

    def _book(self, closed: Sequence[dict[str, Any]]) -> tuple[Ledger, list[str]]:
        """Says of each outcome whether it stands; returns whose attempts of before do no more."""
        # The first block of the search rows is what there is first.
        later = {
            row["candidate"]
            for row in closed
            if row["rows"] == "fresh" or (row["rows"] == "search" and row["block"])
        }
        ledger = Ledger()
        if later:
            ledger.standings = standings(self.connection, self.campaign, later, None)
        gone: list[str] = []
        for row in closed:
            for one in ledger.book(row, row):
                if one is None:
                    gone.append(row["candidate"])
                else:
                    one["superseded"] = 1
        return ledger, gone

    def _advance(
        self, turn: Turn, ledger: Ledger, closed: Sequence[dict[str, Any]], now: float
    ) -> None:
        """Moves the counters on, and gives the outcomes their places."""
        values: dict[Any, Any] = {
            campaign.c.sequence: campaign.c.sequence + len(closed),
            campaign.c.num_scored: campaign.c.num_scored + ledger.num_scored,
            campaign.c.num_failed: campaign.c.num_failed + ledger.num_failed,
            campaign.c.num_cached: campaign.c.num_cached + ledger.num_cached,
            campaign.c.elapsed_s: turn.elapsed_s,
            campaign.c.generation: turn.generation,
            campaign.c.heartbeat_at: now,
        }
        self.change(values)
        if not closed:
            return
        last = self.connection.execute(
            select(campaign.c.sequence).where(campaign.c.id == self.campaign)
        ).scalar_one()
        for place, row in enumerate(closed, start=last - len(closed) + 1):
            row["sequence"] = place
        if more := ledger.spent(self.campaign):
            add_spent(self.connection, more)

    def _add(self, candidates: Sequence[Candidate]) -> None:
        if not candidates:
            return
        rows = [candidate_row(self.campaign, one) for one in candidates]
        self.connection.execute(insert(candidate), rows)
        family = [row for one in candidates for row in parent_rows(self.campaign, one)]
        if family:
            self.connection.execute(insert(parentage), family)

    def _close(self, taken: Sequence[Taken], closed: Sequence[dict[str, Any]], now: float) -> None:
        pairs = list(zip(taken, closed, strict=True))
        ours = [
            {
                **{f"of_{name}": row[name] for name in _KEY},
                **{f"new_{name}": row[name] for name in _SAID},
            }
            for one, row in pairs
            if not one.cached
        ]
        if ours:
            result = self.connection.execute(_CLOSE, ours)
            assert result.rowcount == len(ours), "an outcome has no open attempt to close"
        copied = [
            {
                **row,
                "started_at": now,
                "evaluation": one.evaluation,
                "of_evaluation": one.evaluation,
            }
            for one, row in pairs
            if one.cached
        ]
        if copied:
            self.connection.execute(insert(attempt).values(document_set=_COPIED_SET), copied)
        scores = [
            row
            for one in taken
            if isinstance(one.outcome, Scored)
            for row in score_rows(self.campaign, one.outcome, self.harness)
        ]
        if scores:
            self.connection.execute(insert(score), scores)

    def _judge(self, judged: Mapping[str, float]) -> None:
        rows = [
            {"of_campaign": self.campaign, "of_candidate": id_, "new_violation": violation}
            for id_, violation in judged.items()
        ]
        if rows:
            self.connection.execute(_JUDGE, rows)

    def _begin(self, begun: Sequence[Begun], now: float) -> None:
        named = [one.job.documents for one in begun if one.job.documents is not None]
        sets = document_sets.intern(self.connection, named)
        rows = [
            {
                "campaign": self.campaign,
                "candidate": one.job.candidate,
                "rows": one.job.rows,
                "block": one.job.block,
                "number": one.job.attempt,
                "document_set": sets.get(id(one.job.documents)),
                "halvings": one.job.halvings,
                "started_at": now,
                "lease_until": one.lease_until,
                "evaluation": one.evaluation,
            }
            for one in begun
        ]
        if rows:
            self.connection.execute(insert(attempt), rows)


def add_spent(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds to what was spent."""
    connection.execute(_adding(connection.dialect.name), rows)


@cache
def _adding(dialect: str) -> sqlite.Insert | postgresql.Insert:
    new = insert_into(dialect, spent)
    return new.on_conflict_do_update(
        index_elements=[spent.c.campaign, spent.c.role, spent.c.rows],
        set_={
            "documents": spent.c.documents + new.excluded.documents,
            "stopped": spent.c.stopped + new.excluded.stopped,
        },
    )


def _closed(campaign_id: int, taken: Taken, now: float) -> dict[str, Any]:
    """Returns an attempt's row with its outcome, which has no place yet."""
    outcome = taken.outcome
    return {
        "campaign": campaign_id,
        "candidate": outcome.candidate,
        "rows": outcome.rows,
        "block": outcome.block,
        "number": outcome.attempt,
        "cached": int(taken.cached),
        "superseded": 0,
        **outcome_values(taken, now),
    }
