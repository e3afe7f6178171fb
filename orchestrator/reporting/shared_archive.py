"""An archive whose models share what documents are worth (M2N2), as a campaign's end left it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from orchestrator.algorithms.archive import Cells
from orchestrator.algorithms.base import Memory
from orchestrator.algorithms.natural_niches import NaturalNiches, Scores, scores_of, worths
from orchestrator.campaign.answers import answers_of
from orchestrator.settings import CampaignSettings
from orchestrator.storage.reader import Reader

#: Members that the report lists.
_MOST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model of the archive."""

    id: str
    fitness: float
    #: Mean score over the documents.
    solves: float
    #: Its share of what all documents are worth.
    share: float
    #: Documents on which it alone scores the most.
    alone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedArchive:
    """The archive, and what its members can do together."""

    #: Whoever has the greatest share first.
    members: Sequence[Member]
    documents: int
    #: Mean over the documents of the best score that any member has there.
    together: float


def collect(reader: Reader, settings: CampaignSettings) -> SharedArchive | None:
    """Reads a campaign's archive; None if its algorithm keeps none, or nobody was measured.

    It is told anew of all that was measured.
    """
    algorithm = settings.search
    if not isinstance(algorithm, NaturalNiches):
        return None
    told = list(reader.told(settings.name))
    known = reader.standings(settings.name, [one.candidate for _, one in told])
    memory = Memory()
    for _, group in groupby(told, key=lambda pair: pair[0]):
        memory = algorithm.tell(
            memory,
            [replace(one, answers=answers_of(known[one.candidate])) for _, one in group],
        )
    return summary(memory, algorithm.alpha)


def summary(memory: Memory, alpha: float) -> SharedArchive | None:
    """Sums up what an archive holds; None if there is nobody, or answers are not known."""
    if not memory.members or not memory.members[0].answers:
        return None
    scores = scores_of(memory.members)
    worth = worths(scores, alpha)
    shares = scores @ worth
    total = float(shares.sum()) or 1.0
    alone = _alone(scores)
    members = [
        Member(
            id=one.candidate,
            fitness=one.fitness or 0.0,
            solves=float(scores[place].mean()),
            share=float(shares[place]) / total,
            alone=int(alone[place]),
        )
        for place, one in enumerate(memory.members)
    ]
    return SharedArchive(
        members=sorted(members, key=lambda one: -one.share),
        documents=scores.shape[1],
        together=float(scores.max(axis=0).mean()),
    )


def sentence(found: SharedArchive) -> str:
    """Says what the members can do together and alone."""
    best = max(found.members, key=lambda one: one.solves)
    num = len(found.members)
    return (
        f"The archive holds {num} model{'s' if num > 1 else ''}. Taking for each of the "
        f"{found.documents:,} documents of the search rows whichever of them scores the most, they "
        f"come to {found.together:.3f} a document together; the best alone, {best.id}, comes to "
        f"{best.solves:.3f}."
    )


def header() -> list[str]:
    """Returns the column names of the archive's table."""
    return [
        "model",
        "search fitness",
        "score a document",
        "share of the worth",
        "documents it alone is best on",
    ]


def rows(found: SharedArchive) -> list[list[str]]:
    """Returns the archive, whoever has the greatest share first."""
    return [
        [
            one.id,
            f"{one.fitness:.3f}",
            f"{one.solves:.3f}",
            f"{one.share:.1%}",
            str(one.alone),
        ]
        for one in found.members[:_MOST]
    ]


def as_json(found: SharedArchive) -> dict[str, Any]:
    """Returns the archive as data."""
    return asdict(found)


def _alone(scores: Scores) -> Cells:
    """Counts the documents on which nobody else scores as much; (members,)."""
    best = scores.max(axis=0)
    holds = (scores == best) & (best > 0)
    found: Cells = (holds & (holds.sum(axis=0) == 1)).sum(axis=1)
    return found
