"""The one writer of a campaign's records, on SQLite or PostgreSQL. First remember, then act."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, bindparam, delete, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from evaluators.base import Score
from evaluators.digest import hash_json
from orchestrator.state import Candidate, Entry
from orchestrator.storage import engine as engines
from orchestrator.storage import fork, lease, records
from orchestrator.storage.base import (
    MAX_SNAPSHOTS,
    CampaignRecord,
    CampaignState,
    LeaseLostError,
    NewCampaign,
    Snapshot,
    StoreError,
    StoreFaultError,
    StoreHeldError,
    Taken,
    Turn,
)
from orchestrator.storage.fork import ForkPoint
from orchestrator.storage.packing import pack_json
from orchestrator.storage.rows import (
    candidate_row,
    outcome_values,
    parent_rows,
    score_rows,
)
from orchestrator.storage.schema import (
    GIVEN_UP,
    artifact,
    attempt,
    campaign,
    candidate,
    log,
    parentage,
    score,
    snapshot,
)
from workers.job import Outcome, Scored

#: Rows of one query: SQLite takes no more than 32,766 values.
_CHUNK = 10_000

T = TypeVar("T")

#: Closes the open attempt that an outcome answers.
_CLOSE = (
    update(attempt)
    .where(
        attempt.c.campaign == bindparam("of_campaign"),
        attempt.c.candidate == bindparam("of_candidate"),
        attempt.c.rows == bindparam("of_rows"),
        attempt.c.number == bindparam("of_number"),
        attempt.c.state == "open",
    )
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "state", "sequence", "ended_at", "final", "fitness", "seconds",
                "accelerator_seconds", "worker", "node", "device", "stage", "kind", "cause", "log",
                "retryable",
            )
        }
    )
)  # fmt: skip


class SqlStore:
    """A `Store` in a database. Keeps one connection; holds no lock between turns.

    Raises:
        StoreError: if the store cannot be opened.
    """

    def __init__(self, url: str, name: str, *, clock: Callable[[], float] = time.time) -> None:
        self._engine: Engine = engines.open_for_writing(url)
        with self._faults():
            self._connection: Connection = self._engine.connect()
        self._name = name
        self._url = engines.without_password(url)
        self._clock = clock
        self._id = 0
        self._token: str | None = None
        self._harness = ""

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
        try:
            if self._token is not None:
                self._write(self._release)
        except (LeaseLostError, StoreFaultError):
            pass  # a lease that cannot be given back ends with this process
        finally:
            self._token = None
            self._connection.close()
            self._engine.dispose()

    def load(self) -> CampaignRecord | None:
        """Returns the campaign, or None if there is none of this name."""
        with self._reading():
            row = self._row()
            return None if row is None else self._record(row)

    def create(self, new: NewCampaign) -> None:
        """Records a new campaign and takes it."""

        def work() -> None:
            token, now = lease.new_token(), self._clock()
            result = self._connection.execute(
                insert(campaign).values(
                    state="running", **self._new_values(new, now), **_lease_values(token, now)
                )
            )
            key = result.inserted_primary_key
            assert key is not None
            self._id, self._token = key[0], token
            self._harness = new.versions.get("lm_eval", "")
            self._event("created", {"settings_hash": settings_hash(new.search_settings)})

        with self._told_if_there():
            self._transact(work)

    def _new_values(self, new: NewCampaign, now: float) -> dict[str, Any]:
        return {
            "name": self._name,
            "settings": json.dumps(new.settings),
            "search_settings": json.dumps(new.search_settings),
            "settings_hash": settings_hash(new.search_settings),
            "seed": new.seed,
            "versions": json.dumps(new.versions),
            "started_at": now,
        }

    def reopen(self, settings: Mapping[str, Any]) -> CampaignRecord:
        """Takes up a campaign again: what a dead driver left open is lost and will be redone."""

        def work() -> CampaignRecord:
            row = self._row(lock=True)
            assert row is not None, "reopen comes after load"
            now = self._clock()
            if lease.is_alive(row, now):
                raise StoreHeldError(lease.refusal(row, now, self._url))
            self._take(row, now)
            changed = json.loads(row.settings) != json.loads(json.dumps(settings))
            self._lose_open(now)
            self._update({"state": "running", "reason": None, "settings": json.dumps(settings)})
            was = {"before": json.loads(row.settings)} if changed else {}
            self._event("reopened", {**was, "taken_over": row.lease_token is not None})
            return self._record(row)

        return self._transact(work)

    def write(self, turn: Turn) -> None:
        """Records a turn, all or nothing, durably."""

        def work() -> None:
            first = self._advance(turn)
            self._add(turn.candidates)
            self._close_attempts(turn.taken, first)
            begun = [
                {
                    "campaign": self._id,
                    "candidate": one.job.candidate,
                    "rows": one.job.rows,
                    "number": one.job.attempt,
                    "halvings": one.job.halvings,
                    "started_at": self._clock(),
                    "lease_until": one.lease_until,
                    "evaluation": one.evaluation,
                }
                for one in turn.begun
            ]
            if begun:
                self._connection.execute(insert(attempt), begun)

        self._write(work)

    def digests(self, from_generation: int) -> dict[str, str]:
        """Returns candidate -> digest of its recipe."""
        query = select(candidate.c.id, candidate.c.digest).where(
            candidate.c.campaign == self._id, candidate.c.generation >= from_generation
        )
        with self._reading():
            return {row.id: row.digest.hex() for row in self._connection.execute(query)}

    def candidates(self, ids: Iterable[str]) -> dict[str, Candidate]:
        """Returns the candidates of these ids."""
        with self._reading():
            return records.candidates(self._connection, self._id, ids)

    def entries(self, after: int) -> Iterator[Entry]:
        """Returns all that was recorded after a place, in the order of recording."""
        return records.entries(self._connection, self._id, after, self._reading)

    def cached(self, evaluations: Sequence[bytes]) -> dict[bytes, Score]:
        """Returns the scores of those evaluations that were made before, in any campaign."""
        with self._reading():
            return records.cached(self._connection, evaluations)

    def keep(self, shot: Snapshot) -> None:
        """Records a snapshot and forgets all but the newest few."""

        def work() -> None:
            self._update({"heartbeat_at": self._clock()})
            mine = snapshot.c.campaign == self._id
            self._connection.execute(
                delete(snapshot).where(mine, snapshot.c.sequence == shot.sequence)
            )
            self._connection.execute(
                insert(snapshot).values(
                    campaign=self._id,
                    sequence=shot.sequence,
                    fingerprint=shot.fingerprint,
                    state=pack_json(shot.state),
                )
            )
            newest = (
                select(snapshot.c.sequence)
                .where(mine)
                .order_by(snapshot.c.sequence.desc())
                .limit(MAX_SNAPSHOTS)
            )
            kept = self._connection.execute(newest).scalars().all()
            self._connection.execute(delete(snapshot).where(mine, snapshot.c.sequence < kept[-1]))

        self._write(work)

    def snapshots(self) -> list[Snapshot]:
        """Returns the snapshots that are kept, the newest first."""
        with self._reading():
            return records.snapshots(self._connection, self._id)

    def sequence(self) -> int:
        """Returns the place of the last recorded outcome."""
        with self._reading():
            row = self._row()
        assert row is not None
        return int(row.sequence)

    def beat(self) -> bool:
        """Renews the lease; returns whether somebody asked the campaign to stop."""

        def work() -> bool:
            self._update({"heartbeat_at": self._clock()})
            query = select(campaign.c.stop_requested).where(campaign.c.id == self._id)
            return bool(self._connection.execute(query).scalar())

        return self._write(work)

    def end(self, state: CampaignState, reason: str | None, elapsed_s: float) -> None:
        """Records that this run of the campaign is over."""

        def work() -> None:
            values = {"state": state, "reason": reason, "elapsed_s": elapsed_s, "stop_requested": 0}
            self._update(values)
            self._lose_open(self._clock())  # the evaluators end with their driver
            self._event("ended", {"state": state, "reason": reason})

        self._write(work)

    def retry(self, wanted: Sequence[tuple[str, str, int]]) -> None:
        """Records the wish to measure failed candidates again: (candidate, rows, attempt)."""

        def work() -> None:
            row = self._row()
            assert row is not None
            for id_, rows, _ in wanted:
                self._connection.execute(
                    update(attempt)
                    .where(
                        attempt.c.campaign == self._id,
                        attempt.c.candidate == id_,
                        attempt.c.rows == rows,
                        GIVEN_UP,
                    )
                    .values(retried=1)
                )
            searched = sum(rows == "search" for _, rows, _ in wanted)
            self._update({"sequence": row.sequence + 1, "num_failed": row.num_failed - searched})
            self._event("retry", {"wanted": list(wanted)}, row.sequence + 1)

        self._write(work)

    def fork_point(self, ancestor: str, generation: int | None) -> ForkPoint:
        """Returns where a fork of another campaign of this store would leave it.

        Raises:
            StoreError: if that generation is not complete.
        """
        with self._reading():
            return fork.find_point(self._connection, ancestor, generation)

    def fork(
        self,
        new: NewCampaign,
        ancestor: CampaignRecord,
        point: ForkPoint,
        history: Sequence[Mapping[str, Any]],
    ) -> None:
        """Records a campaign that begins with another's candidates and outcomes."""

        def work() -> None:
            now = self._clock()
            result = self._connection.execute(
                insert(campaign).values(
                    state="interrupted",
                    reason=f"forked from {ancestor.name}",
                    parent=point.ancestor,
                    history=json.dumps(history),
                    **self._new_values(new, now),
                )
            )
            key = result.inserted_primary_key
            assert key is not None
            self._id = key[0]
            fork.copy_history(self._connection, point, self._id)
            self._event("forked", {"from": ancestor.name, "generation": point.generation})

        with self._told_if_there():
            self._transact(work)

    def add_artifact(self, candidate_id: str | None, path: str, sha256: str, size: int) -> None:
        """Records a file that was written, so that it can be told from another."""

        def work() -> None:
            self._update({"heartbeat_at": self._clock()})
            self._connection.execute(
                insert(artifact).values(
                    campaign=self._id,
                    candidate=candidate_id,
                    at=self._clock(),
                    path=path,
                    sha256=sha256,
                    bytes=size,
                )
            )

        self._write(work)

    # Transactions.

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A transaction that changes nothing; ended at once, so that no lock stays behind."""
        with self._faults():
            try:
                yield
            finally:
                self._connection.rollback()

    def _transact(self, work: Callable[[], T]) -> T:
        """Runs work in a transaction; it is in the store, durably, or nothing of it is."""
        with self._faults(), self._connection.begin():
            return work()

    @contextmanager
    def _told_if_there(self) -> Iterator[None]:
        """Two drivers may begin a campaign at once; one of them did."""
        try:
            yield
        except IntegrityError as error:
            self._token = None
            raise StoreError(
                f"campaign {self._name!r} was started by another process just now; look at it "
                f"with `shoal status {self._name}`"
            ) from error

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Tells what the database could not do; what it refuses as untrue is our own mistake."""
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise StoreFaultError(f"the store cannot be used: {error.orig}") from error

    def _write(self, work: Callable[[], T]) -> T:
        assert self._token is not None, "only a taken campaign is written"
        return self._transact(work)

    def _update(self, values: Mapping[Any, Any]) -> None:
        """Changes our campaign's row, which we can only while we hold its lease."""
        result = self._connection.execute(
            update(campaign)
            .where(campaign.c.id == self._id, campaign.c.lease_token == self._token)
            .values(values)
        )
        if result.rowcount != 1:
            raise LeaseLostError(
                f"campaign {self._name!r} has been taken over by another driver; this one ends"
            )

    # Parts of a turn.

    def _advance(self, turn: Turn) -> int:
        """Moves the counters on; returns the first of the places that the outcomes take."""
        ended = [one for one in turn.taken if one.outcome.rows == "search" and one.final]
        scored = sum(isinstance(one.outcome, Scored) for one in ended)
        values: dict[Any, Any] = {
            campaign.c.sequence: campaign.c.sequence + len(turn.taken),
            campaign.c.num_scored: campaign.c.num_scored + scored,
            campaign.c.num_failed: campaign.c.num_failed + len(ended) - scored,
            campaign.c.num_cached: campaign.c.num_cached + sum(one.cached for one in ended),
            campaign.c.elapsed_s: turn.elapsed_s,
            campaign.c.generation: turn.generation,
            campaign.c.heartbeat_at: self._clock(),
        }
        self._update(values)
        if not turn.taken:
            return 0
        last = self._connection.execute(
            select(campaign.c.sequence).where(campaign.c.id == self._id)
        ).scalar_one()
        return int(last) - len(turn.taken) + 1

    def _add(self, candidates: Sequence[Candidate]) -> None:
        if not candidates:
            return
        rows = [candidate_row(self._id, one) for one in candidates]
        self._connection.execute(insert(candidate), rows)
        family = [row for one in candidates for row in parent_rows(self._id, one)]
        if family:
            self._connection.execute(insert(parentage), family)

    def _lose_open(self, now: float) -> None:
        self._connection.execute(
            update(attempt)
            .where(attempt.c.campaign == self._id, attempt.c.state == "open")
            .values(state="lost", ended_at=now)
        )

    def _close_attempts(self, taken: Sequence[Taken], first: int) -> None:
        now = self._clock()
        closed, copied, scores = [], [], []
        for sequence, one in enumerate(taken, start=first):
            outcome, values = one.outcome, outcome_values(one, sequence, now)
            if one.cached:
                copied.append(self._copied(one, values, now))
            else:
                closed.append(
                    {
                        "of_campaign": self._id,
                        "of_candidate": outcome.candidate,
                        "of_rows": outcome.rows,
                        "of_number": outcome.attempt,
                        **{f"new_{name}": value for name, value in values.items()},
                    }
                )
            if isinstance(outcome, Scored):
                scores += score_rows(self._id, outcome, self._harness)
        if closed:
            result = self._connection.execute(_CLOSE, closed)
            assert result.rowcount == len(closed), "an outcome has no open attempt to close"
        if copied:
            self._connection.execute(insert(attempt), copied)
        if scores:
            self._connection.execute(insert(score), scores)

    def _copied(self, taken: Taken, values: dict[str, Any], now: float) -> dict[str, Any]:
        outcome: Outcome = taken.outcome
        return {
            "campaign": self._id,
            "candidate": outcome.candidate,
            "rows": outcome.rows,
            "number": outcome.attempt,
            "started_at": now,
            "cached": 1,
            "evaluation": taken.evaluation,
            **values,
        }

    # Reading.

    def _row(self, *, lock: bool = False) -> Any:
        query = select(campaign).where(campaign.c.name == self._name)
        return self._connection.execute(query.with_for_update() if lock else query).first()

    def _record(self, row: Any) -> CampaignRecord:
        self._id = row.id
        self._harness = json.loads(row.versions).get("lm_eval", "")
        return CampaignRecord(
            id=row.id,
            name=row.name,
            settings=json.loads(row.settings),
            search_settings=json.loads(row.search_settings),
            state=row.state,
            elapsed_s=row.elapsed_s,
            history=json.loads(row.history),
            forked_from=self._origin() if row.parent is not None else None,
        )

    def _origin(self) -> tuple[str, int]:
        query = select(log.c.data).where(log.c.campaign == self._id, log.c.kind == "forked")
        data = json.loads(self._connection.execute(query).scalar_one())
        return data["from"], data["generation"]

    # The lease.

    def _take(self, row: Any, now: float) -> None:
        self._id, self._token = row.id, lease.new_token()
        self._connection.execute(
            update(campaign)
            .where(campaign.c.id == self._id)
            .values(stop_requested=0, **_lease_values(self._token, now))
        )

    def _release(self) -> None:
        columns = ("lease_token", "lease_holder", "leased_at", "heartbeat_at")
        self._update(dict.fromkeys(columns))

    def _event(self, kind: str, data: Mapping[str, Any], sequence: int | None = None) -> None:
        values = {"at": self._clock(), "kind": kind, "data": json.dumps(data), "sequence": sequence}
        self._connection.execute(insert(log).values(campaign=self._id, **values))


def settings_hash(search_settings: Mapping[str, Any]) -> str:
    """Returns a hash of what decides which candidates come."""
    return hash_json(search_settings)


def _lease_values(token: str, now: float) -> dict[str, Any]:
    return {
        "lease_token": token,
        "lease_holder": lease.myself().as_json(),
        "leased_at": now,
        "heartbeat_at": now,
    }
