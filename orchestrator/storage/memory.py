"""A store that remembers for as long as the process lives: for tests, and as the meaning of others.

What a database refuses by its constraints is refused here by assertions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evaluators.base import Documents, Score
from orchestrator.campaign.state import Again, Candidate, Entry, Recorded, Retry
from orchestrator.measurement.measured import Standing
from orchestrator.storage import lease
from orchestrator.storage.base import (
    MAX_SNAPSHOTS,
    SEARCHED,
    Begun,
    CampaignRecord,
    CampaignState,
    LeaseLostError,
    NewCampaign,
    Snapshot,
    StoreError,
    StoreHeldError,
    Taken,
    Turn,
)
from workers.job import JobKey, Scored


@dataclass(slots=True)
class _Campaign:
    record: CampaignRecord
    candidates: dict[str, Candidate] = field(default_factory=dict)
    #: (candidate, rows) -> what was begun and has no end.
    open: dict[tuple[str, str], Begun] = field(default_factory=dict)
    #: (candidate, rows, block) that have been scored, or have failed for good.
    accepted: set[tuple[str, str, int]] = field(default_factory=set)
    #: The documents that they were about.
    documents: dict[tuple[str, str, int], Documents | None] = field(default_factory=dict)
    #: Candidate -> what it scored on search and fresh rows.
    standings: dict[str, Standing] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    token: str | None = None
    stop_requested: bool = False


@dataclass(slots=True)
class Memory:
    """What would be the database: several campaigns, and what their evaluations gave."""

    campaigns: dict[str, _Campaign] = field(default_factory=dict)
    scores: dict[bytes, Score] = field(default_factory=dict)


class MemoryStore:
    """A `Store` over a `Memory`."""

    def __init__(self, memory: Memory, name: str) -> None:
        self._memory = memory
        self._name = name
        self._token: str | None = None

    def load(self) -> CampaignRecord | None:
        """Returns the campaign, or None if there is none of this name."""
        found = self._memory.campaigns.get(self._name)
        return found.record if found else None

    def create(self, new: NewCampaign) -> None:
        """Records a new campaign and takes it."""
        if self._name in self._memory.campaigns:
            raise StoreError(f"campaign {self._name!r} was started by another process just now")
        record = CampaignRecord(
            id=len(self._memory.campaigns) + 1,
            name=self._name,
            settings=_plain(new.settings),
            search_settings=_plain(new.search_settings),
            state="running",
            elapsed_s=0.0,
        )
        self._token = lease.new_token()
        self._memory.campaigns[self._name] = _Campaign(record, token=self._token)

    def reopen(self, settings: Mapping[str, Any]) -> CampaignRecord:
        """Takes up a campaign again."""
        mine = self._memory.campaigns[self._name]
        if mine.token is not None:
            raise StoreHeldError(f"campaign {self._name!r} is being run by another driver")
        mine.token = self._token = lease.new_token()
        mine.open.clear()
        mine.stop_requested = False
        mine.record = replace(mine.record, state="running", settings=_plain(settings))
        return mine.record

    def write(self, turn: Turn) -> None:
        """Records a turn."""
        mine = self._mine()
        mine.record = replace(mine.record, elapsed_s=turn.elapsed_s)
        for one in turn.candidates:
            assert one.id not in mine.candidates, "a candidate is recorded once"
            mine.candidates[one.id] = one
            assert set(one.parents) <= mine.candidates.keys() - {one.id}, "parents exist"
        for taken in turn.taken:
            self._take(mine, taken)
        for begun in turn.begun:
            key = (begun.job.candidate, begun.job.rows)
            assert key[0] in mine.candidates, "a candidate is recorded before it is measured"
            assert key not in mine.open, "one open attempt at a time"
            mine.open[key] = begun

    def digests(self, from_generation: int) -> dict[str, str]:
        """Returns candidate -> digest of its recipe."""
        return {
            one.id: one.recipe.digest()
            for one in self._campaign().candidates.values()
            if one.generation >= from_generation
        }

    def candidates(self, ids: Iterable[str]) -> dict[str, Candidate]:
        """Returns the candidates of these ids."""
        known = self._campaign().candidates
        return {id_: known[id_] for id_ in ids if id_ in known}

    def standings(self, ids: Iterable[str]) -> dict[str, Standing]:
        """Returns what these candidates scored on search and fresh rows, in recorded order."""
        known = self._campaign().standings
        return {id_: known[id_] for id_ in ids if id_ in known}

    def entries(self, after: int) -> Iterator[Entry]:
        """Returns all that was recorded after a place."""
        return iter(list(self._campaign().entries[after:]))

    def cached(self, evaluations: Sequence[bytes]) -> dict[bytes, Score]:
        """Returns the scores of those evaluations that were made before."""
        known = self._memory.scores
        return {one: known[one] for one in evaluations if one in known}

    def keep(self, shot: Snapshot) -> None:
        """Records a snapshot and forgets all but the newest few."""
        mine = self._mine()
        others = [one for one in mine.snapshots if one.sequence != shot.sequence]
        kept = sorted([*others, shot], key=lambda one: -one.sequence)
        mine.snapshots = kept[:MAX_SNAPSHOTS]

    def snapshots(self) -> list[Snapshot]:
        """Returns the snapshots that are kept, the newest first."""
        return list(self._campaign().snapshots)

    def sequence(self) -> int:
        """Returns the place of the last recorded outcome."""
        return len(self._campaign().entries)

    def beat(self) -> bool:
        """Renews the lease; returns whether somebody asked the campaign to stop."""
        return self._mine().stop_requested

    def end(self, state: CampaignState, reason: str | None, elapsed_s: float) -> None:
        """Records that this run of the campaign is over."""
        del reason
        mine = self._mine()
        mine.stop_requested = False
        mine.open.clear()
        mine.record = replace(mine.record, state=state, elapsed_s=elapsed_s)

    def retry(self, wanted: Sequence[JobKey]) -> None:
        """Records the wish to measure again what failed for good, each by its next attempt."""
        mine = self._mine()
        mine.accepted -= {(id_, rows, block) for id_, rows, block, _ in wanted}
        mine.entries.append(
            Retry(
                tuple(
                    Again(
                        candidate=mine.candidates[id_],
                        rows=rows,
                        block=block,
                        documents=mine.documents[id_, rows, block],
                        attempt=number,
                    )
                    for id_, rows, block, number in wanted
                )
            )
        )

    def close(self) -> None:
        """Gives the campaign back."""
        mine = self._memory.campaigns.get(self._name)
        if mine is not None and mine.token == self._token:
            mine.token = None
        self._token = None

    def _campaign(self) -> _Campaign:
        return self._memory.campaigns[self._name]

    def _mine(self) -> _Campaign:
        mine = self._campaign()
        if mine.token is None or mine.token != self._token:
            raise LeaseLostError(f"campaign {self._name!r} has been taken over by another driver")
        return mine

    def _take(self, mine: _Campaign, taken: Taken) -> None:
        outcome = taken.outcome
        place = (outcome.candidate, outcome.rows, outcome.block)
        assert place not in mine.accepted, "one accepted outcome of a block of a candidate's rows"
        if not taken.cached:
            begun = mine.open.pop((outcome.candidate, outcome.rows))
            assert begun.job.key == outcome.key, "an outcome has an open attempt to close"
            mine.documents[place] = begun.job.documents
            if isinstance(outcome, Scored) and begun.evaluation is not None:
                self._memory.scores.setdefault(begun.evaluation, outcome.score)
        if isinstance(outcome, Scored) or taken.final:
            mine.accepted.add(place)
        if isinstance(outcome, Scored) and outcome.rows in SEARCHED:
            known = mine.standings.get(outcome.candidate, Standing())
            part = (outcome.rows, outcome.block)
            mine.standings[outcome.candidate] = known.with_part(part, outcome.score)
        mine.entries.append(Recorded(outcome, taken.final))


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(data))
    return found
