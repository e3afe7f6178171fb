"""What a campaign came to: its winner, what that is compared with, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evaluators.base import DOCUMENTS, Rows, TaskScore
from orchestrator.campaign.judging import NUM_TOPS
from orchestrator.reporting import archives, curves, shared_archive, statistics
from orchestrator.reporting import front as fronts
from orchestrator.reporting.archives import Archives
from orchestrator.reporting.curves import Curves
from orchestrator.reporting.front import Front
from orchestrator.reporting.operator_stats import OperatorStats, operator_stats
from orchestrator.reporting.shared_archive import SharedArchive
from orchestrator.reporting.statistics import Difference
from orchestrator.settings import CampaignSettings
from orchestrator.storage.candidates import CandidateRecord
from orchestrator.storage.reader import Reader

#: Begins the winner's label.
BEST = "best: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model beside the winner, or the winner itself."""

    label: str
    record: CandidateRecord
    #: The winner's test fitness minus this one's, on the same documents; None if unknown.
    lead: Difference | None = None
    #: Control task -> by how much the winner is better there than this one, on the same documents.
    control_leads: Mapping[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimism:
    """How much more a model's fitness is on rows that it was chosen by than on test rows."""

    label: str
    #: `search` or `selection`.
    rows: Rows
    fitness: float
    test_fitness: float
    difference: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end of a campaign."""

    settings: CampaignSettings
    winner: CandidateRecord
    #: The winner's line first.
    lines: Sequence[Line]
    optimism: Sequence[Optimism] = ()
    #: Those that were compared on the selection rows, the control's left out.
    finalists: Sequence[CandidateRecord] = ()
    #: What each operator achieved, whoever made most children first.
    operators: Sequence[OperatorStats] = ()
    #: The Pareto front, where the campaign aims at one.
    front: Front | None = None
    #: How candidates learned, where they are trained and races looked on.
    curves: Curves | None = None
    #: What the search rows consist of: documents, or stretches of training.
    counted_in: str = DOCUMENTS
    #: The archives, where the algorithm keeps the best of each niche.
    archives: Archives | None = None
    #: The archive, where models share what documents are worth.
    shared_archive: SharedArchive | None = None
    #: What the reader should know of how the rows were chosen.
    warnings: Sequence[str] = ()
    status: Mapping[str, Any]
    versions: Mapping[str, str]
    failures: Sequence[tuple[str, int]]

    @property
    def tests(self) -> bool:
        """Whether the winner was measured on test rows."""
        return bool(self.winner.test)

    @property
    def is_model(self) -> bool:
        """Whether candidates are models, and no values that a function judged."""
        return self.winner.recipe.get("kind") != "values"


def collect(reader: Reader, settings: CampaignSettings) -> Result | None:
    """Reads a campaign's result; None if no candidate was measured."""
    name = settings.name
    winner = reader.winner(name)
    if winner is None:
        return None
    references = reader.references(name)
    # Finalists are taken from so many of the search and from the references.
    tops = reader.best(name, NUM_TOPS + len(references))
    control = reader.control_winner(name)
    ours = [one for one in tops if one.role == "search"]
    searched = [one for one in ours if one is ours[0] or one.test or one.control]
    others = [*searched, *references, *([control] if control else [])]
    lines = [
        line_of(one, winner, ours[:1])
        for one in {one.id: one for one in [winner, *others]}.values()
    ]
    return Result(
        settings=settings,
        winner=winner,
        lines=lines,
        optimism=[
            found for line in lines if line.record in (winner, control) for found in optimism(line)
        ],
        finalists=[one for one in _with_references(tops, lines) if one.selection],
        front=fronts.collect(reader, settings),
        curves=curves.collect(reader, settings, winner, references),
        counted_in=reader.counted_in(name),
        archives=archives.collect(reader, settings),
        shared_archive=shared_archive.collect(reader, settings),
        operators=operator_stats(reader.births(name)),
        warnings=reader.search_settings(name).get("warnings", ()),
        status=reader.status(name),
        versions=reader.versions(name),
        failures=reader.failures(name, 5),
    )


def line_of(
    record: CandidateRecord, winner: CandidateRecord, tops: Sequence[CandidateRecord] = ()
) -> Line:
    """Returns a model's line beside the winner; `tops` begins with the search's best."""
    if record.id == winner.id:
        return Line(label=f"{BEST}{record.label}", record=record)
    return Line(
        label=_label(record, tops),
        record=record,
        lead=_lead(winner, record),
        control_leads=_control_leads(winner, record),
    )


def optimism(line: Line) -> list[Optimism]:
    """Returns a model's fitness on each kind of rows it was chosen by, minus that on test rows.

    Only where both are sums of as many tasks with the same weights; else they do not compare.
    """
    record, found = line.record, []
    chosen_by: Mapping[Rows, Mapping[str, TaskScore]] = {
        "search": record.scores,
        "selection": record.selection,
    }
    for rows, scores in chosen_by.items():
        weights, test_weights = (
            sorted(one.weight for one in side.values()) for side in (scores, record.test)
        )
        difference = statistics.unpaired_difference(scores, record.test)
        if weights == test_weights and difference is not None:
            found.append(
                Optimism(
                    label=line.label,
                    rows=rows,
                    fitness=statistics.weighted_sum(scores),
                    test_fitness=statistics.weighted_sum(record.test),
                    difference=difference,
                )
            )
    return found


def values(scores: Mapping[str, TaskScore]) -> dict[str, float]:
    """Returns task -> value of its metric."""
    return {task: score.value for task, score in scores.items()}


def _with_references(
    tops: Sequence[CandidateRecord], lines: Sequence[Line]
) -> list[CandidateRecord]:
    """Returns the best by search rows and all that is shown, each once, without the control."""
    everyone = [*tops, *(line.record for line in lines if line.record.role != "control")]
    return list({one.id: one for one in everyone}.values())


def _label(record: CandidateRecord, tops: Sequence[CandidateRecord]) -> str:
    if record.role == "control":
        return f"random search: {record.id}"
    if record.role == "search" and tops and record.id == tops[0].id:
        return f"best on search rows: {record.id}"
    return record.label


def _lead(winner: CandidateRecord, other: CandidateRecord) -> Difference | None:
    if not winner.test or set(winner.test) != set(other.test):
        return None
    return statistics.paired_difference(winner.test, other.test)


def _control_leads(winner: CandidateRecord, other: CandidateRecord) -> dict[str, Difference]:
    """Compares task by task; unpaired, hence with more doubt, where a value is no mean."""
    found = {}
    for task in winner.control.keys() & other.control.keys():
        ours, theirs = (_with_sign(one.control[task]) for one in (winner, other))
        difference = statistics.paired_difference(
            {task: ours}, {task: theirs}
        ) or statistics.unpaired_difference({task: ours}, {task: theirs})
        if difference is not None:
            found[task] = difference
    return {task: found[task] for task in winner.control if task in found}


def _with_sign(score: TaskScore) -> TaskScore:
    """Lets higher be better: of a control task's weight only the direction counts."""
    return replace(score, weight=math.copysign(1.0, score.weight))
