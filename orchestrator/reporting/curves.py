"""Learning curves: what machines are worth after parts of their training, where races look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.base import STRETCHES
from orchestrator.drawing import drawn
from orchestrator.storage.candidates import CandidateRecord
from orchestrator.storage.reader import CurvePoint, Reader

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from orchestrator.settings import CampaignSettings

#: The file that `draw` is to make beside a report.
PICTURE = "curves.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How a candidate learned."""

    id: str
    role: str
    #: Whether a race ended it, or constraints are broken.
    is_out: bool
    points: Sequence[CurvePoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """How the candidates of a campaign learned, in the order in which they ended."""

    curves: Sequence[Curve]
    #: Steps of a whole training.
    steps: int | None
    winner: str
    #: Candidate -> its name, of those that have one.
    names: Mapping[str, str]

    @property
    def shares(self) -> list[float]:
        """The shares of training after which somebody was scored."""
        return sorted({one.share for curve in self.curves for one in curve.points})


def collect(
    reader: Reader,
    settings: CampaignSettings,
    winner: CandidateRecord,
    references: Sequence[CandidateRecord],
) -> Curves | None:
    """Reads a campaign's curves; None where nobody was scored before the end of a training."""
    name = settings.name
    if reader.counted_in(name) != STRETCHES:
        return None
    points = reader.curves(name)
    if max(map(len, points.values()), default=0) < 2:
        return None
    return Curves(
        curves=[
            Curve(id=id_, role=role, is_out=out, points=points[id_])
            for role, id_, _, out in reader.history(name)
            if id_ in points
        ],
        steps=whole_training(winner.recipe),
        winner=winner.id,
        names={one.id: one.name for one in references},
    )


def whole_training(recipe: Mapping[str, Any]) -> int | None:
    """Returns the steps of a recipe's training; None if it says nothing of such."""
    found: int | None = recipe.get("training", {}).get("steps")
    return found


def as_plain(points: Sequence[CurvePoint], steps: int | None) -> list[dict[str, Any]]:
    """Returns a curve as data; with steps where a training has such."""
    return [
        {
            "share": one.share,
            **({} if steps is None else {"steps": _steps(one, steps)}),
            "fitness": one.fitness,
        }
        for one in points
    ]


def as_json(found: Curves) -> list[dict[str, Any]]:
    """Returns the curves as data."""
    return [
        {
            "id": one.id,
            "role": one.role,
            "stopped": one.is_out,
            "points": as_plain(one.points, found.steps),
        }
        for one in found.curves
    ]


def header(found: Curves) -> list[str]:
    """Returns the column names of the table of curves."""
    return ["model", *(f"after {_after(share, found.steps)}" for share in found.shares)]


def rows(found: Curves, labels: Mapping[str, str]) -> list[list[str]]:
    """Returns the curves of those that have a label, as the labels come."""
    known = {one.id: {point.share: point.fitness for point in one.points} for one in found.curves}
    return [
        [
            label,
            *(f"{known[id_][share]:.3f}" if share in known[id_] else "" for share in found.shares),
        ]
        for id_, label in labels.items()
        if id_ in known
    ]


def sentence(found: Curves) -> str:
    """Says how many were stopped, and when."""
    ours = [one for one in found.curves if one.role != "reference"]
    ended = [one.points[-1].share for one in ours if one.points[-1].share < 1]
    text = f"What {len(found.curves)} machines were worth on the search rows as they learned."
    if not ended:
        return text
    after = [f"{ended.count(one)} after {_after(one, found.steps)}" for one in sorted(set(ended))]
    return f"{text} Of {len(ours)} candidates {len(ended)} were stopped: {', '.join(after)}."


def draw(found: Curves, path: Path) -> None:
    """Draws every curve: the winner's on top, those that were stopped faint.

    Args:
        found: What to draw.
        path: The file; its folder is made if there is none.
    """
    with drawn(path, figsize=(9, 4.5)) as (figure, axes):
        looks = _looks(found)
        for one in sorted(found.curves, key=lambda one: looks[one.id]["zorder"]):
            _draw_curve(axes, one, found.steps, looks[one.id])
        axes.set_xlabel("share of the training" if found.steps is None else "steps of training")
        axes.set_ylabel("fitness on the search rows")
        axes.set_xlim(left=0)
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), fontsize="small", loc="outside right upper")


def _draw_curve(axes: Axes, one: Curve, steps: int | None, look: dict[str, Any]) -> None:
    along = [point.share if steps is None else _steps(point, steps) for point in one.points]
    fitness = [point.fitness for point in one.points]
    axes.plot(along, fitness, marker="o", **look)


def _looks(found: Curves) -> dict[str, dict[str, Any]]:
    """Returns how each curve is drawn; equal labels share a line of the legend."""
    references = [one.id for one in found.curves if one.role == "reference"]
    looks: dict[str, dict[str, Any]] = {}
    for one in found.curves:
        plain: dict[str, Any] = {"lw": 1, "ms": 2.5, "alpha": 0.6, "zorder": 2}
        if one.is_out:
            rings = {"mfc": "none", "ms": 4, "mew": 0.8}
            plain |= {"color": "0.65", "label": "out of the running", "zorder": 1, **rings}
        elif one.role == "control":
            plain |= {"color": "0.45", "label": "random search", "ls": ":"}
        else:
            plain |= {"color": "C0", "label": "search"}
        if one.role == "reference":
            colour = f"C{1 + references.index(one.id)}"
            plain |= {"color": colour, "ls": "--", "alpha": 1, "label": found.names.get(one.id)}
            plain["zorder"] = 3
        if one.id == found.winner:
            label = f"best: {found.names.get(one.id, one.id)}"
            plain |= {"color": "C3", "lw": 2.5, "ms": 5, "alpha": 1, "label": label, "zorder": 4}
        looks[one.id] = plain
    return looks


def _steps(one: CurvePoint, steps: int) -> int:
    return round(one.share * steps)


def _after(share: float, steps: int | None) -> str:
    return f"{share:.0%}" if steps is None else f"{round(share * steps):,} steps"
