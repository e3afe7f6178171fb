"""From moves to a way through a maze."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile

import numpy as np
import numpy.typing as npt

from evaluators.ctm.maze_growing import MOVES, STAY, routes
from orchestrator.thinking.record import Cell, Walk

GOAL, WALL, OPEN = "goal", "wall", "open"
_STEPS: dict[tuple[int, int], int] = {
    (int(row), int(column)): number for number, (row, column) in enumerate(MOVES)
}


def walk(picture: npt.NDArray[np.float32], moves: Sequence[int]) -> Walk:
    """Returns where moves lead, up to the first wall, the goal, or a rest.

    Args:
        picture: Walls, start and goal (3, height, width).
        moves: Classes, as the maze task numbers them.
    """
    walls, goal = picture[0] > 0.5, _place(picture[2])
    cells = [_place(picture[1])]
    for move in moves:
        if cells[-1] == goal:
            break
        if move == STAY:
            return Walk(cells=tuple(cells), end=OPEN)
        row, column = (int(one) for one in cells[-1] + MOVES[move])
        inside = 0 <= row < walls.shape[0] and 0 <= column < walls.shape[1]
        if not inside or walls[row, column]:
            return Walk(cells=tuple(cells), end=WALL)
        cells.append((row, column))
    return Walk(cells=tuple(cells), end=GOAL if cells[-1] == goal else OPEN)


def way(picture: npt.NDArray[np.float32]) -> Walk | None:
    """Returns the shortest way from the start to the goal; None where there is none."""
    # Someone's own picture may have no walls around it.
    walled = np.pad(picture[None] > 0.5, ((0, 0), (0, 0), (1, 1), (1, 1)))
    walled[:, 0, [0, -1]] = walled[:, 0, :, [0, -1]] = True
    found = walk(picture, routes(walled, picture[0].size)[0].tolist())
    return found if found.end == GOAL else None


def moves_along(cells: Sequence[Cell], num: int) -> tuple[int, ...]:
    """Returns the first moves of a way, then to stay, as the maze task numbers them."""
    pairs = list(pairwise(cells))[:num]
    moves = [_STEPS[to[0] - here[0], to[1] - here[1]] for here, to in pairs]
    return (*moves, *[STAY] * (num - len(moves)))


def reach(said: Walk, right: Walk) -> int:
    """Returns how many moves are right before the first one that is not."""
    pairs = zip(said.cells, right.cells, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) - 1


def put_start(picture: npt.NDArray[np.float32], cell: Cell) -> npt.NDArray[np.float32]:
    """Returns a maze with the start elsewhere."""
    moved = picture.copy()
    moved[1] = 0
    moved[(1, *cell)] = 1
    return moved


def check_maze(picture: npt.NDArray[np.float32]) -> None:
    """Refuses a picture that is no maze.

    Raises:
        ValueError: if it has not one start and one goal, both outside of walls.
    """
    marks = picture > 0.5
    one_each = marks[1].sum() == marks[2].sum() == 1
    if not one_each or (marks[0] & (marks[1] | marks[2])).any():
        raise ValueError(
            "expected a maze: channels of walls (red), of one start (green) and of one goal "
            f"(blue), which are no walls; got {int(marks[1].sum())} starts and "
            f"{int(marks[2].sum())} goals"
        )


def _place(marks: npt.NDArray[np.float32]) -> tuple[int, int]:
    row, column = np.unravel_index(int(marks.argmax()), marks.shape)
    return int(row), int(column)
