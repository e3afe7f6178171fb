"""Mazes in the frames of a film: the route as it forms, and attention along the right way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.thinking.following import attention_along
from orchestrator.thinking.record import Cell, Thinking
from orchestrator.thinking.walking import GOAL, WALL, reach

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WALK, _WAY, _BEFORE, _START = "#1c7ed6", "#26915f", "#0b4f8a", "#d64550"
_MUTED, _LINE, _HEAT = "#667085", "#e2e5ec", "#f76707"


def draw_maze(axes: Axes, thinking: Thinking, tick: int) -> None:
    """Draws the right way, the moves of the rounds before, and the route that is answered now."""
    look, _ = thinking.look_at(tick)
    assert look.picture is not None
    size = look.picture.shape[:2]

    def spots(cells: Sequence[Cell]) -> tuple[list[float], list[float]]:
        xs = [(column + 0.5) * look.grid[1] / size[1] - 0.5 for _, column in cells]
        return xs, [(row + 0.5) * look.grid[0] / size[0] - 0.5 for row, _ in cells]

    walk, side = thinking.walks[tick], 170 / max(size)
    common: dict[str, Any] = {"solid_capstyle": "round", "solid_joinstyle": "round"}
    if look.way is not None:
        cells = look.way.cells
        axes.plot(*spots(cells), ls=(0, (0.1, 2)), lw=3, color=_WAY, dash_capstyle="round")
        axes.plot(*spots(cells[-1:]), "s", ms=side, color=_WAY)
    axes.plot(*spots(walk.cells[:1]), "s", ms=side, color=_START)
    if len(look.walked) > 1:
        axes.plot(*spots(look.walked), lw=2, color=_BEFORE, **common)
    xs, ys = spots(walk.cells)
    axes.plot(xs, ys, lw=6, color="white", **common)
    axes.plot(xs, ys, lw=3.5, color=_WALK, **common)
    mark = {GOAL: ("o", "#2f9e44"), WALL: ("X", "#e03131")}.get(walk.end, ("o", _WALK))
    axes.plot(xs[-1], ys[-1], mark[0], ms=12, mfc=mark[1], mec="white", mew=1.5)


def draw_attention_along(axes: Axes, thinking: Thinking, tick: int) -> None:
    """Draws, for each tick, how much attention each cell of the way has, and how far is right."""
    from matplotlib.colors import LinearSegmentedColormap

    look, inside = thinking.look_at(tick)
    assert look.way is not None
    cells = look.way.cells
    each = thinking.ticks // len(thinking.looks)
    title = "how much of the way is right (blue) at each tick"
    if look.mean is not None and look.on_way is not None and look.picture is not None:
        heat = LinearSegmentedColormap.from_list("heat", ["#f1f3f5", _HEAT])
        shown = attention_along(look.mean, cells, look.picture.shape[:2], look.grid)
        shown[inside + 1 :] = np.nan
        axes.imshow(shown.T, cmap=heat, vmin=0, vmax=look.mean.max(), aspect="auto")
        title = (
            f"attention on the way {look.on_way[inside].mean():.0%}, {look.chance:.0%} by chance; "
            "blue: so much of the way is right"
        )
    walks = thinking.walks[tick - inside : tick + 1]
    far = [reach(walk, look.way) for walk in walks]
    axes.plot(range(len(far)), far, drawstyle="steps-mid", color=_WALK, lw=2)
    axes.plot(len(far) - 1, far[-1], "o", ms=5, color=_WALK)
    axes.set(xlim=(-0.5, each - 0.5), ylim=(len(cells) - 0.5, -0.5), xticks=[])
    axes.set_yticks([0, len(cells) - 1], ["start", "goal"], fontsize=8)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=9, color=_MUTED, loc="left", pad=5)
    for edge in axes.spines.values():
        edge.set_color(_LINE)
