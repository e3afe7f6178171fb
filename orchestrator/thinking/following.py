"""How much attention follows the way through mazes, and whether it walks along it.

Whoever looks at random also looks at the way: each figure has its chance beside it. The start and
the goal are marked, and draw eyes for that alone: `between` leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluators.ctm.inputs import Image
from evaluators.ctm.maze_growing import MOVES, STAY, Bools, routes
from orchestrator.thinking.record import Cell, Floats
from workers.ctm.machine import Machine

Doubles: TypeAlias = npt.NDArray[np.float64]

#: Moves of a way that is long enough to be walked along.
_LONG = 4
#: Weights of attention that are held at once.
_MOST_WEIGHTS = 16_000_000
_STEPS = np.array([*MOVES.tolist(), (0, 0)])
#: Attention is said to walk where its place along the way goes with the ticks (correlation) and
#: gets on by such a share of the way, and to drift where at least by the lesser ones.
_WALKS, _DRIFTS = (0.5, 0.25), (0.2, 0.1)


def along_cells(cells: Sequence[Cell], size: tuple[int, int], grid: tuple[int, int]) -> Doubles:
    """Returns where along a way each place is: 0 at its start, 1 at its end; NaN off it (places).

    Args:
        cells: Pixels of the way, at least two.
        size: Height and width of the picture.
        grid: Rows and columns of places.
    """
    along = np.full((1, *size), np.nan)
    rows, columns = zip(*cells, strict=True)
    along[0, rows, columns] = np.linspace(0, 1, len(cells))
    found: Doubles = _on_grid(along, grid)[0]
    return found


def attention_along(
    mean: Floats, cells: Sequence[Cell], size: tuple[int, int], grid: tuple[int, int]
) -> Floats:
    """Returns of attention (ticks, places) what each cell of a way has (ticks, cells).

    Args:
        mean: Weights, whose places are a grid.
        cells: Pixels of the way.
        size: Height and width of the picture.
        grid: Rows and columns of places.
    """
    rows, columns = size[0] // grid[0], size[1] // grid[1]
    places = [
        min(row // rows, grid[0] - 1) * grid[1] + min(column // columns, grid[1] - 1)
        for row, column in cells
    ]
    return mean[:, places]


def share_on(attention: Floats, along: Doubles) -> Floats:
    """Returns the share of attention (..., places) that is on a way (places)."""
    found: Floats = attention[..., ~np.isnan(along)].sum(axis=-1)
    return found


@torch.no_grad()
def examine_attention(machine: Machine, pictures: Tensor) -> dict[str, Any]:
    """Returns how much a machine's attention follows the ways through mazes: plain data for JSON.

    `on_way_by_tick` and `on_way_by_head` are the share of attention that is on the way, and
    `on_way_chance` the share that the way has of all places. `between_by_tick` is, of the attention
    on floor other than start and goal, the share that is on the way, and `between_chance` the share
    that the way has of that floor. `along_by_tick` and `along_by_head` (heads, ticks) are where
    along the way the attention on it is, from 0 at the start to 1 at the goal, and `walking` is the
    correlation of that with the ticks, a mean with its 95 % interval; `walking_by_head` is that of
    each head. These are of the `long_rows` whose way has 4 moves at least. `moves` is how often the
    place that is looked at most changes. What is not of a head is of the mean of all heads.

    Args:
        machine: In evaluation mode; it attends to pictures.
        pictures: Walls, start and goal (mazes, 3, height, width), with walls around.
    """
    settings, device = machine.settings, next(machine.parameters()).device
    assert isinstance(settings.inputs, Image)
    grid = grid_of(settings.inputs, pictures)
    each = settings.ticks * settings.heads * grid[0] * grid[1]
    parts = []
    for some in torch.split(pictures, max(1, _MOST_WEIGHTS // each)):
        trace = machine(some.to(device), watch=True).trace
        attention = torch.stack(trace.attention, dim=1).float().cpu().numpy()
        parts.append(_measure(attention, some.numpy() > 0.5, grid))
    return _summary(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def grid_of(kind: Image, pictures: Tensor) -> tuple[int, int]:
    """Returns rows and columns of the places of pictures (..., height, width)."""
    shrink = 2 ** len(kind.pools)
    return pictures.shape[-2] // shrink, pictures.shape[-1] // shrink


def _measure(attention: Floats, mazes: Bools, grid: tuple[int, int]) -> tuple[Doubles, ...]:
    """Returns figures of each maze, of attention (mazes, ticks, heads, places)."""
    along, moves = _along(mazes)
    along = _on_grid(along, grid)
    way, mean = ~np.isnan(along), attention.mean(axis=2)
    floor, ends = (_on_grid(np.where(some, 0.0, np.nan), grid) for some in (
        ~mazes[:, 0], mazes[:, 1] | mazes[:, 2]
    ))  # fmt: skip
    open_floor = ~np.isnan(floor) & np.isnan(ends)
    heads_on, heads_at = _on_and_at(attention, along)
    on, at = _on_and_at(mean[:, :, None], along)
    between = _sum(mean, way & open_floor) / np.maximum(_sum(mean, open_floor), 1e-12)
    chance = (way & open_floor).sum(axis=1) / np.maximum(open_floor.sum(axis=1), 1)
    tops = mean.argmax(axis=2)
    return (
        moves, on[:, :, 0], way.mean(axis=1), heads_on.mean(axis=1),
        between, chance, at[:, :, 0], heads_at, (tops[:, 1:] != tops[:, :-1]).sum(axis=1),
    )  # fmt: skip


def _summary(
    moves: Doubles, on: Doubles, chance: Doubles, heads_on: Doubles, between: Doubles,
    between_chance: Doubles, at: Doubles, heads_at: Doubles, changes: Doubles,
) -> dict[str, Any]:  # fmt: skip
    some, many = moves > 1, moves >= _LONG
    walking = _correlation(at[many][:, :, None])[:, 0]
    mean, half = (float(walking.mean()), _half(walking)) if many.any() else (0.0, 0.0)
    figures = {
        "rows": len(moves),
        "on_way_by_tick": on.mean(axis=0).tolist(),
        "on_way_by_head": heads_on.mean(axis=0).tolist(),
        "on_way_chance": float(chance.mean()),
        "between_by_tick": _mean(between[some]),
        "between_chance": float(between_chance[some].mean()) if some.any() else 0.0,
        "long_rows": int(many.sum()),
        "along_by_tick": _mean(at[many]),
        "along_by_head": _mean(heads_at[many].transpose(0, 2, 1)),
        "walking": {"mean": mean, "low": mean - half, "high": mean + half},
        "walking_by_head": _mean(_correlation(heads_at[many])),
        "moves": float(changes.mean()),
    }
    judged = {**figures, "verdict": _verdict(figures)}
    return {**judged, "in_words": _in_words(judged)}


def _in_words(found: Mapping[str, Any]) -> str:
    """Returns what was found as sentences, the verdict first."""
    on, between = (float(np.mean(found[f"{name}_by_tick"])) for name in ("on_way", "between"))
    first, last = found["along_by_tick"][0], found["along_by_tick"][-1]
    walking = found["walking"]
    return (
        f"Attention {found['verdict']} the way: its place along it goes from {first:.2f} to "
        f"{last:.2f} (0 is the start, 1 the goal), and its correlation with the ticks is "
        f"{walking['mean']:+.2f} [{walking['low']:+.2f}, {walking['high']:+.2f}]; the place looked "
        f"at most changes {found['moves']:.1f} times in {len(found['on_way_by_tick'])} ticks. "
        f"{on:.0%} of attention is on the way, {found['on_way_chance']:.0%} would be by chance; of "
        f"attention on floor other than start and goal {between:.0%}, "
        f"{found['between_chance']:.0%} by chance."
    )


def _verdict(found: Mapping[str, Any]) -> str:
    gained = found["along_by_tick"][-1] - found["along_by_tick"][0]
    for (least, far), words in ((_WALKS, "walks along"), (_DRIFTS, "drifts along")):
        if found["walking"]["low"] >= least and gained >= far:
            return words
    return "does not walk along"


def _along(mazes: Bools) -> tuple[Doubles, Doubles]:
    """Returns where along its way each pixel is (mazes, height, width), and the moves of ways."""
    num, _, height, width = mazes.shape
    said = routes(mazes, int((~mazes[:, 0]).sum(axis=(1, 2)).max()))
    moves = (said != STAY).sum(axis=1)
    starts = np.argwhere(mazes[:, 1])[:, None, 1:]
    cells = np.concatenate([starts, starts + _STEPS[said].cumsum(axis=1)], axis=1)
    along = np.full((num, height, width), np.nan)
    steps = np.minimum(np.arange(cells.shape[1]), moves[:, None])
    along[np.arange(num)[:, None], cells[:, :, 0], cells[:, :, 1]] = steps / moves[:, None]
    return along, moves.astype(np.float64)


def _on_grid(values: Doubles, grid: tuple[int, int]) -> Doubles:
    """Returns of pixels (mazes, height, width) the mean that each place has (mazes, places)."""
    num, height, width = values.shape
    rows, columns = height // grid[0], width // grid[1]
    parts = values[:, : grid[0] * rows, : grid[1] * columns]
    parts = parts.reshape(num, grid[0], rows, grid[1], columns)
    known = ~np.isnan(parts)
    total = np.where(known, parts, 0.0).sum(axis=(2, 4))
    count = known.sum(axis=(2, 4))
    found = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return found.reshape(num, -1)


def _on_and_at(attention: Floats, along: Doubles) -> tuple[Doubles, Doubles]:
    """Returns how much attention is on the way, and where along it (mazes, ticks, heads)."""
    on: Doubles = np.einsum("nthp,np->nth", attention, ~np.isnan(along), dtype=np.float64)
    at = np.einsum("nthp,np->nth", attention, np.nan_to_num(along), dtype=np.float64)
    return on, at / np.maximum(on, 1e-12)


def _sum(mean: Floats, where: Bools) -> Doubles:
    found: Doubles = np.einsum("ntp,np->nt", mean, where, dtype=np.float64)
    return found


def _correlation(at: Doubles) -> Doubles:
    """Returns how places along ways (mazes, ticks, heads) go with the ticks (mazes, heads)."""
    ticks = np.arange(at.shape[1]) - (at.shape[1] - 1) / 2
    apart = at - at.mean(axis=1, keepdims=True)
    size = np.sqrt((apart**2).sum(axis=1) * (ticks**2).sum())
    found: Doubles = np.einsum("nth,t->nh", apart, ticks) / np.maximum(size, 1e-12)
    return found


def _mean(values: Doubles) -> list[Any]:
    """Returns the mean over mazes; 0 where there are none."""
    found: list[Any] = (values.sum(axis=0) / max(1, len(values))).tolist()
    return found


def _half(values: Doubles) -> float:
    """Returns half of the 95 % interval of a mean."""
    return float(1.96 * values.std() / np.sqrt(len(values)))
