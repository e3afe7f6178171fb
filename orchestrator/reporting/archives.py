"""The archives of a campaign that keeps many good models, as its end left them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np

from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.cycle_qd import CycleQd
from orchestrator.algorithms.map_elites import MapElites
from orchestrator.reporting.archive_summary import (
    Filled,
    Illuminating,
    Niches,
    filled,
    niches,
)
from orchestrator.reporting.front import number
from orchestrator.settings import CampaignSettings
from orchestrator.storage.reader import Reader

#: The file that `archive_picture.draw` is to make beside a report.
PICTURE = "archive.png"
#: Cells of each archive that the report lists, the best ones.
_MOST_CELLS = 12
#: Generations that the report tells of.
_MOST_ROWS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An archive with the names of what it is made of."""

    #: What the best of a cell is best in.
    quality: str
    #: A name for each pair of limits; a minus where lower is better as it is measured.
    axes: tuple[str, ...]
    niches: Niches

    def cell(self, place: int) -> dict[str, Any]:
        """Returns a member's cell as data."""
        one = self.niches
        numbers = one.behaviours[place].tolist()
        return {
            "cell": int(one.cells[place]),
            "id": one.members[place].candidate,
            "quality": one.worth[place],
            "behaviour": dict(zip(self.axes, numbers, strict=True)),
            "fitness": one.members[place].fitness,
        }

    @property
    def by_worth(self) -> list[int]:
        """The members' places, the best first."""
        worth = self.niches.worth
        return sorted(range(len(worth)), key=lambda place: -worth[place])


@dataclass(frozen=True, slots=True, kw_only=True)
class Archives:
    """All archives of a campaign, and how they were filled."""

    archives: Sequence[Named]
    #: The archives together after each generation.
    course: Sequence[Filled]
    #: What each is worth by itself.
    sums: Sequence[Filled]
    #: The quality that QD scores count from.
    floor: float


def collect(reader: Reader, settings: CampaignSettings) -> Archives | None:
    """Reads a campaign's archives; None if its algorithm keeps none, or nobody was measured.

    They are told anew of all that was measured, by what is known of it now.
    """
    algorithm = settings.search
    if not isinstance(algorithm, MapElites | CycleQd):
        return None
    told = reader.told(settings.name)
    generations = [
        [one for _, one in group] for _, group in groupby(told, key=lambda pair: pair[0])
    ]
    return _archives(algorithm, generations, *names(reader, settings, generations))


def _archives(
    algorithm: Illuminating,
    generations: Sequence[Sequence[Evaluated]],
    goals: Sequence[str],
    genes: Sequence[str],
) -> Archives | None:
    everyone = [one for generation in generations for one in generation]
    if not everyone:
        return None
    several = isinstance(algorithm, CycleQd) and len(everyone[0].values) > 1
    floor = min(0.0, *(_lowest(one, several=several) for one in everyone))
    memory, candidates, course = Memory(), 0, list[Filled]()
    for generation in generations:
        memory = algorithm.tell(memory, generation)
        candidates += len(generation)
        course.append(filled(algorithm, memory, floor, candidates))
    found = niches(algorithm, memory)
    return Archives(
        archives=[_named(one, goals, genes) for one in found],
        course=course,
        sums=[_sum(one, floor) for one in found],
        floor=floor,
    )


def _lowest(one: Evaluated, *, several: bool) -> float:
    assert one.fitness is not None, "only what was measured was told"
    return min(one.values) if several and one.values else one.fitness


def _sum(one: Niches, floor: float) -> Filled:
    worth = np.array(one.worth)
    return Filled(
        candidates=len(worth),
        cells=len(worth),
        coverage=len(worth) / one.num_cells,
        qd_score=float(np.maximum(worth - floor, 0.0).sum()),
        best=float(worth.max()),
    )


def _named(one: Niches, goals: Sequence[str], genes: Sequence[str]) -> Named:
    known: Mapping[str, Sequence[str]] = {"objective": goals, "gene": genes}
    axes = tuple(known[of][place] for of, place in one.axes)
    if len(one.limits) == 1 < len(axes):
        axes = (f"mean of {', '.join(axes)}",)
    return Named(
        quality="fitness" if one.quality is None else goals[one.quality], axes=axes, niches=one
    )


def names(
    reader: Reader, settings: CampaignSettings, generations: Sequence[Sequence[Evaluated]]
) -> tuple[list[str], list[str]]:
    """Returns names of the objectives, with a minus where lower is better, and of the genes."""
    genes = list(reader.search_settings(settings.name)["genes"]["names"])
    some = [one for group in generations for one in group][:_MOST_CELLS]
    num = max((len(one.values) for one in some), default=0)
    if settings.objectives is not None and settings.objectives.of:
        wanted: Sequence[str] = settings.objectives.of
    else:
        wanted = _tasks(reader, settings, some, num)
    scores = reader.candidate(settings.name, some[0].candidate).scores if some else {}
    turned = {name for name, score in scores.items() if score.weight < 0}
    return [f"-{name}" if name in turned else name for name in wanted], genes


def _tasks(
    reader: Reader, settings: CampaignSettings, some: Sequence[Evaluated], num: int
) -> list[str]:
    """Returns which task each objective is: the one that all candidates scored so in."""
    records = [reader.candidate(settings.name, one.candidate) for one in some]
    left = [] if not records else list(records[0].scores)
    found = []
    for place in range(num):
        fits = [
            name
            for name in left
            if all(
                abs(record.scores[name].value) == abs(one.values[place])
                for record, one in zip(records, some, strict=True)
                if name in record.scores
            )
        ]
        found.append(fits[0] if fits else f"objective {place + 1}")
        left = [name for name in left if name != found[-1]]
    return found


def header(named: Named) -> list[str]:
    """Returns the column names of an archive's table."""
    others = [] if named.niches.quality is None else ["search fitness"]
    return ["model", f"quality: {named.quality}", *named.axes, *others]


def rows(named: Named) -> list[list[str]]:
    """Returns the best cells of an archive, the best first."""
    found = []
    for place in named.by_worth[:_MOST_CELLS]:
        cell = named.cell(place)
        numbers = [cell["quality"], *cell["behaviour"].values()]
        others = [] if named.niches.quality is None else [f"{cell['fitness']:.3f}"]
        found.append([cell["id"], *map(number, numbers), *others])
    return found


def sums_header() -> list[str]:
    """Returns the column names of the table of archives."""
    return ["quality", "niches by", "cells filled", "of", "coverage", "QD score", "best"]


def sums_rows(found: Archives) -> list[list[str]]:
    """Returns what each archive holds."""
    return [
        [
            named.quality,
            ", ".join(named.axes) or "-",
            str(one.cells),
            f"{named.niches.num_cells:,}",
            f"{one.coverage:.1%}",
            f"{one.qd_score:.4g}",
            "-" if one.best is None else number(one.best),
        ]
        for named, one in zip(found.archives, found.sums, strict=True)
    ]


def course_header() -> list[str]:
    """Returns the column names of the table of how the archives were filled."""
    return ["after generation", "candidates", "cells filled", "coverage", "QD score", "best"]


def course_rows(found: Archives) -> list[list[str]]:
    """Returns the archives at some generations, evenly spread, the last among them."""
    last = len(found.course)
    shown = sorted({max(1, round(last * part / _MOST_ROWS)) for part in range(1, _MOST_ROWS + 1)})
    return [
        [
            str(number_),
            f"{one.candidates:,}",
            str(one.cells),
            f"{one.coverage:.1%}",
            f"{one.qd_score:.4g}",
            "-" if one.best is None else number(one.best),
        ]
        for number_ in shown
        for one in [found.course[number_ - 1]]
    ]


def sentence(found: Archives) -> str:
    """Says what the archives hold, in one sentence."""
    end, num = found.course[-1], len(found.archives)
    total = sum(one.niches.num_cells for one in found.archives)
    of = "the archive holds" if num == 1 else f"the {num} archives hold"
    return (
        f"{of[0].upper()}{of[1:]} {end.cells} of {total:,} cells ({end.coverage:.1%}), with a QD "
        f"score of {end.qd_score:.4g}: the sum over the cells of the quality above "
        f"{found.floor:.4g}."
    )


def as_json(found: Archives) -> dict[str, Any]:
    """Returns the archives as data, each with all its cells, the best first."""
    return {
        "floor": found.floor,
        "archives": [
            {
                "quality": named.quality,
                "axes": list(named.axes),
                "limits": [list(pair) for pair in named.niches.limits],
                "num_cells": named.niches.num_cells,
                **{key: asdict(one)[key] for key in ("cells", "coverage", "qd_score", "best")},
                "filled": [named.cell(place) for place in named.by_worth],
            }
            for named, one in zip(found.archives, found.sums, strict=True)
        ],
    }
