"""The one writer of a campaign's records, on SQLite or PostgreSQL. First remember, then act."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from evaluators.base import Score
from evaluators.digest import hash_json
from orchestrator.campaign.state import Candidate, Entry
from orchestrator.measurement.measured import Standing
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
    Turn,
)
from orchestrator.storage.fork import ForkPoint
from orchestrator.storage.packing import pack_json
from orchestrator.storage.schema import (
    GIVEN_UP,
    OPEN,
    STANDING,
    artifact,
    attempt,
    campaign,
    candidate,
    log,
    snapshot,
)
from orchestrator.storage.turns import Writer
from workers.job import JobKey

T = TypeVar("T")


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
        writer = Writer(
            connection=self._connection,
            campaign=self._id,
            harness=self._harness,
            change=self._update,
        )
        self._write(lambda: writer.write(turn, self._clock()))

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

    def standings(self, ids: Iterable[str]) -> dict[str, Standing]:
        """Returns what these candidates scored on search and fresh rows, in recorded order."""
        with self._reading():
            return records.standings(self._connection, self._id, ids)

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

    def retry(self, wanted: Sequence[JobKey]) -> None:
        """Records the wish to measure again what failed for good, each by its next attempt."""

        def work() -> None:
            row = self._row()
            assert row is not None
            num_failed = row.num_failed
            for id_, rows, block, _ in wanted:
                mine = (
                    attempt.c.campaign == self._id,
                    attempt.c.candidate == id_,
                    attempt.c.rows == rows,
                    attempt.c.block == block,
                    GIVEN_UP,
                )
                stood = select(func.count()).select_from(attempt).where(*mine, STANDING)
                num_failed -= self._connection.execute(stood).scalar_one()
                self._connection.execute(update(attempt).where(*mine).values(retried=1))
            self._update({"sequence": row.sequence + 1, "num_failed": num_failed})
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

    def _lose_open(self, now: float) -> None:
        self._connection.execute(
            update(attempt)
            .where(attempt.c.campaign == self._id, OPEN)
            .values(state="lost", ended_at=now)
        )

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
