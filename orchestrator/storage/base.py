"""What a store is: the memory of one campaign, written a turn at a time.

A turn holds all that the driver learned and decided since the last one. It is recorded whole or
not at all, durably, before any of its jobs is handed out: first remember, then act.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from evaluators.base import Rows, Score
from orchestrator.campaign.state import Candidate, Entry
from orchestrator.measurement.measured import Measured, Standing
from workers.job import Job, Outcome

CampaignState = Literal["running", "finished", "stopped", "interrupted"]
#: Rows that say what a candidate is worth.
SEARCHED: frozenset[Rows] = frozenset({"search", "fresh"})


class StoreError(ValueError):
    """A store that cannot be used; the message says which and what to do."""


class StoreHeldError(StoreError):
    """Another driver runs this campaign; the message says who and since when."""


class StoreFaultError(RuntimeError):
    """The store could not be written (disk full, server gone); nothing of the turn is in it."""


class LeaseLostError(RuntimeError):
    """Another driver has taken the campaign over; nothing more can be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCampaign:
    """All that is recorded of a campaign at its start."""

    #: All settings, defaults resolved.
    settings: Mapping[str, Any]
    #: The part that decides which candidates come, with the sources' revisions.
    search_settings: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignRecord:
    """A campaign as the store knows it."""

    id: int
    name: str
    settings: Mapping[str, Any]
    search_settings: Mapping[str, Any]
    state: CampaignState
    elapsed_s: float
    #: Rules of what it was forked from, as plain data.
    history: Sequence[Mapping[str, Any]] = ()
    #: The campaign it was forked from, and after which generation.
    forked_from: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An outcome that came, or that was copied from an equal evaluation (`cached`)."""

    outcome: Outcome
    #: Whether it ended its candidate on these rows: no other block, no other attempt follows.
    final: bool
    cached: bool = False
    #: Hash of all that the score depends on.
    evaluation: bytes | None = None
    #: What the candidate is worth after it was scored on search or fresh rows; None after other
    #: outcomes. None for what its score on all search rows says.
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A job that is about to be handed out, and when it will be given up (seconds since 1970)."""

    job: Job
    lease_until: float
    evaluation: bytes | None = None


@dataclass(slots=True)
class Turn:
    """What is recorded together."""

    elapsed_s: float = 0.0
    generation: int = 0
    candidates: list[Candidate] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    #: Candidates of this turn or before -> by how much they break constraints, as is known now.
    judged: dict[str, float] = field(default_factory=dict)
    begun: list[Begun] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.candidates or self.taken or self.begun)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The search's state after an outcome, as plain data."""

    #: Of the last outcome that it knows.
    sequence: int
    #: Of the code and settings that made it: another's is not used.
    fingerprint: str
    state: Mapping[str, Any]


class Store(Protocol):
    """A campaign's records, opened by its one writer.

    Every method that writes raises `LeaseLostError` if another driver has taken over, and
    `StoreFaultError` if nothing could be written.
    """

    def load(self) -> CampaignRecord | None:
        """Returns the campaign, or None if there is none of this name. Takes nothing."""
        ...

    def create(self, new: NewCampaign) -> None:
        """Records a new campaign and takes it.

        Raises:
            StoreError: if it is there already.
        """
        ...

    def reopen(self, settings: Mapping[str, Any]) -> CampaignRecord:
        """Takes up a campaign again: what a dead driver left open is lost and will be redone.

        Raises:
            StoreHeldError: if another driver holds it.
        """
        ...

    def write(self, turn: Turn) -> None:
        """Records a turn, all or nothing, durably."""
        ...

    def digests(self, from_generation: int) -> dict[str, str]:
        """Returns candidate -> digest of its recipe."""
        ...

    def candidates(self, ids: Iterable[str]) -> dict[str, Candidate]:
        """Returns the candidates of these ids."""
        ...

    def standings(self, ids: Iterable[str]) -> dict[str, Standing]:
        """Returns what these candidates scored on search and fresh rows, in recorded order."""
        ...

    def entries(self, after: int) -> Iterable[Entry]:
        """Returns all that was recorded after a place, in the order of recording."""
        ...

    def cached(self, evaluations: Sequence[bytes]) -> dict[bytes, Score]:
        """Returns the scores of those evaluations that were made before, in any campaign."""
        ...

    def keep(self, snapshot: Snapshot) -> None:
        """Records a snapshot and forgets all but the newest few."""
        ...

    def snapshots(self) -> list[Snapshot]:
        """Returns the snapshots that are kept, the newest first."""
        ...

    def sequence(self) -> int:
        """Returns the place of the last recorded outcome."""
        ...

    def beat(self) -> bool:
        """Renews the lease; returns whether somebody asked the campaign to stop."""
        ...

    def end(self, state: CampaignState, reason: str | None, elapsed_s: float) -> None:
        """Records that this run of the campaign is over."""
        ...

    def close(self) -> None:
        """Gives the campaign back."""
        ...


#: Snapshots that are kept of a campaign.
MAX_SNAPSHOTS = 2
