"""The Pareto front of a campaign: what nothing else beats in every objective at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator.drawing import drawn
from orchestrator.operators.pareto import non_dominated
from orchestrator.settings import CampaignSettings
from orchestrator.storage.candidates import CandidateRecord
from orchestrator.storage.reader import Reader

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The file that `draw` is to make beside a report.
PICTURE = "front.png"
#: Values of a candidate's objectives as they are measured, in the order of the campaign's.
Point: TypeAlias = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A candidate on the front."""

    record: CandidateRecord
    #: Objective -> its value as it is measured, whichever way is better.
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Those that keep the constraints and that no other of these beats in every objective."""

    #: Objectives, without the minus of those where lower is better.
    names: tuple[str, ...]
    #: 1 where higher is better, else -1.
    signs: tuple[float, ...]
    #: The best in the first objective first; of equals only the eldest, the search before models
    #: that were there already.
    members: Sequence[Member]
    #: Role -> everybody who was measured and keeps the constraints.
    points: Mapping[str, Sequence[Point]]


def collect(reader: Reader, settings: CampaignSettings) -> Front | None:
    """Reads a campaign's front; None if the campaign has none, or nobody was measured.

    Who was stopped or breaks constraints is not on it, and neither is the random search beside.
    """
    aims = settings.objectives
    if aims is None or aims.kind != "pareto":
        return None
    known = reader.objectives(settings.name)
    contenders = sorted(
        (one for one in known if one.role != "control"), key=lambda one: one.role != "search"
    )
    unique = {one.values: one for one in reversed(contenders)}
    kept = [unique[values] for values in sorted(unique, reverse=True)]
    if not kept:
        return None
    best = non_dominated([one.values for one in kept])
    records = [reader.candidate(settings.name, kept[index].id) for index in best]
    signs = _signs(aims.of, records)
    names = tuple(name if name in records[0].scores else name.removeprefix("-") for name in aims.of)
    points: dict[str, list[Point]] = {}
    for one in known:
        points.setdefault(one.role, []).append(_measured(one.values, signs))
    return Front(
        names=names,
        signs=signs,
        members=[
            Member(
                record=one,
                values=dict(zip(names, _measured(one.values, signs), strict=True)),
            )
            for one in records
        ],
        points=points,
    )


def _signs(of: Sequence[str], records: Sequence[CandidateRecord]) -> tuple[float, ...]:
    """Returns which way each objective is better: a minus says so of a measure."""
    return tuple(
        _sign_of_task(name, place, records)
        if name in records[0].scores
        else -1.0 if name.startswith("-") else 1.0
        for place, name in enumerate(of)
    )  # fmt: skip


def _sign_of_task(name: str, place: int, records: Sequence[CandidateRecord]) -> float:
    """A task's weight says it; where that is 0, how its value was turned to be maximised."""
    for one in records:
        product = one.scores[name].value * one.values[place]
        if product:
            return math.copysign(1.0, product)
    return math.copysign(1.0, records[0].scores[name].weight)


def _measured(values: Sequence[float], signs: Sequence[float]) -> Point:
    return tuple(sign * value + 0.0 for sign, value in zip(signs, values, strict=True))


def header(front: Front) -> list[str]:
    """Returns the column names of the front's table."""
    ways = [f"{name} (lower is better)" if sign < 0 else name
            for name, sign in zip(front.names, front.signs, strict=True)]  # fmt: skip
    return ["on the front", *ways, "search fitness"]


def rows(front: Front) -> list[list[str]]:
    """Returns the front's table, the best in the first objective first."""
    return [
        [
            one.record.label,
            *(number(value) for value in one.values.values()),
            "-" if one.record.fitness is None else f"{one.record.fitness:.3f}",
        ]
        for one in front.members
    ]


def as_json(front: Front) -> list[dict[str, Any]]:
    """Returns the front as data."""
    return [
        {
            "id": one.record.id,
            "name": one.record.name or None,
            "objectives": dict(one.values),
            "search_fitness": one.record.fitness,
        }
        for one in front.members
    ]


def number(value: float) -> str:
    """Writes a score to a thousandth, and a count in full."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def draw(front: Front, path: Path) -> None:
    """Draws everybody by the first two objectives, and the front.

    Args:
        front: What to draw.
        path: The file; its folder is made if there is none.
    """
    with drawn(path, figsize=(7, 5)) as (figure, axes):
        looks = (("control", "0.6", "random search"), ("search", "C0", "search"),
                 ("reference", "C1", "models as they were"))  # fmt: skip
        for role, colour, label in looks:
            if found := front.points.get(role):
                first, second, *_ = zip(*found, strict=True)
                axes.plot(first, second, "o", ms=4, alpha=0.5, color=colour, label=label)
        _draw_front(axes, front)
        axes.set(xlabel=header(front)[1], ylabel=header(front)[2])
        figure.legend(fontsize="small", loc="outside right upper")


def _draw_front(axes: Axes, front: Front) -> None:
    """Joins the front's members by steps where there are two objectives, else marks them."""
    points = sorted(tuple(one.values.values())[:2] for one in front.members)
    first, second = zip(*points, strict=True)
    steps = "steps-post" if front.signs[0] < 0 else "steps-pre"
    style: dict[str, Any] = {"ls": "-", "drawstyle": steps} if len(front.names) == 2 else {"ls": ""}
    axes.plot(first, second, marker="o", mfc="none", ms=8, color="C3", label="front", **style)
