"""The picture of a campaign: fitness over evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator.drawing import drawn
from orchestrator.storage.candidates import CandidateRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Role, id, fitness on search rows, and whether it is out of the running, of one candidate.
Point: TypeAlias = tuple[str, str, float, bool]


def draw(
    history: Sequence[Point],
    references: Sequence[CandidateRecord],
    path: Path,
    *,
    measure: str = "fitness on the search rows",
) -> None:
    """Draws every candidate, the best so far of search and control, and the references.

    Who was stopped by a race or breaks constraints is a faint ring, and is never the best.

    Args:
        history: All measured candidates in the order in which they ended.
        references: Models to compare with; those without a fitness are left out.
        path: The file; its folder is made if there is none.
        measure: What the fitness is, for the axis.
    """
    with drawn(path, figsize=(9, 4.5)) as (figure, axes):
        for role, colour, label in (
            ("search", "C0", "search"),
            ("control", "0.55", "random search"),
        ):
            points = [(one[2], one[3]) for one in history if one[0] == role]
            if points:
                _draw_role(axes, points, colour, label)
        _draw_references(axes, references)
        axes.set(xlabel="evaluations", ylabel=measure)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(fontsize="small", loc="outside right upper")


def _draw_role(axes: Axes, points: Sequence[tuple[float, bool]], colour: str, label: str) -> None:
    common: dict[str, Any] = {"color": colour, "zorder": 3 if label == "search" else 2}
    rings: dict[str, Any] = {"marker": "o", "mfc": "none", "ms": 3, "mew": 0.6, "alpha": 0.35}
    numbered = list(enumerate(points, start=1))
    whole = [(number, fitness) for number, (fitness, stopped) in numbered if not stopped]
    faint = [(number, fitness) for number, (fitness, stopped) in numbered if stopped]
    if whole:
        axes.plot(*zip(*whole, strict=True), ".", alpha=0.45, **common)
        best, steps = float("-inf"), []
        for number, fitness in [*whole, (len(points), float("-inf"))]:
            best = max(best, fitness)
            steps.append((number, best))
        name = f"best of {label}"
        axes.plot(*zip(*steps, strict=True), drawstyle="steps-post", label=name, **common)
    if faint:
        name = f"{label}, out of the running"
        axes.plot(*zip(*faint, strict=True), ls="", label=name, **rings, **common)


def _draw_references(axes: Axes, references: Sequence[CandidateRecord]) -> None:
    measured = [(one.label, one.fitness) for one in references if one.fitness is not None]
    for index, (label, fitness) in enumerate(measured, start=1):
        axes.axhline(fitness, color=f"C{index}", ls="--", lw=1, label=label)
