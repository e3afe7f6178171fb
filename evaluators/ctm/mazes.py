"""Mazes, seen as pictures: the first moves of the way from the start to the goal.

(Darlow et al. 2025, section 4.) Mazes are grown here by a random walk that backs up where it is
stuck, so that there is one way between any two places.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge

from evaluators.base import Rows
from evaluators.ctm.inputs import Image, Inputs, Outputs
from evaluators.ctm.task import Batch, Drawn, Judgement, generator_of

Walls: TypeAlias = npt.NDArray[np.bool_]
Place: TypeAlias = tuple[int, int]

#: Moves as classes: up, down, left, right; and to stay, once the goal is reached.
MOVES: tuple[Place, ...] = ((-1, 0), (1, 0), (0, -1), (0, 1))
STAY = len(MOVES)
#: Where each move leads after a quarter turn to the left, and after a mirror from left to right.
_TURNED = torch.tensor([2, 3, 1, 0, STAY])
_MIRRORED = torch.tensor([0, 1, 3, 2, STAY])


@dataclass(frozen=True, slots=True, kw_only=True)
class Mazes(Drawn):
    """Square mazes and the way through them.

    Raises:
        ValueError: if the edge is even: walls and ways take turns.
    """

    #: Pixels of an edge, odd.
    edge: Annotated[int, Ge(5)] = 7
    #: Moves that are asked for.
    moves: Annotated[int, Ge(1)] = 10
    #: Mazes to train on, each also turned and mirrored.
    train_rows: Annotated[int, Ge(1)] = 4000
    #: Channels after each convolution, and which are followed by pooling.
    widths: tuple[int, ...] = (16, 32)
    pools: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.edge % 2 == 0:
            raise ValueError(f"edge: expected an odd number of pixels, got {self.edge}")

    @property
    def inputs(self) -> Inputs:
        """Walls, start and goal, a channel each."""
        return Image(
            channels=3, height=self.edge, width=self.edge, widths=self.widths, pools=self.pools
        )

    @property
    def outputs(self) -> Outputs:
        """A move, at each step."""
        return Outputs(positions=self.moves, classes=STAY + 1)

    @property
    def judgement(self) -> Judgement:
        """A route."""
        return "route"

    def open(self) -> MazeData:
        """Grows the mazes."""
        return MazeData(self)


class MazeData:
    """Grown mazes."""

    def __init__(self, settings: Mazes) -> None:
        self._settings = settings
        self._train = grow(settings.edge, settings.moves, settings.train_rows, settings.seed * 8)

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws mazes, turned and mirrored at random, all of a batch alike."""
        places = torch.randint(len(self._train), (size,), generator=generator)
        pose = int(torch.randint(8, (1,), generator=generator))
        return turned(self._train.take(places), pose % 4, mirrored=pose >= 4)

    def rows(self, rows: Rows) -> Batch:
        """Returns the mazes of a kind of rows.

        None is one that is trained on, turned or mirrored or as it is.

        Raises:
            ValueError: if there are not as many others.
        """
        settings = self._settings
        known, num = set(_looks(self._train)), settings.num_rows[rows]
        seed = generator_of(settings.seed, rows).initial_seed()
        for times in (2, 8, 32):
            drawn = grow(settings.edge, settings.moves, times * num, seed)
            new = [place for place, look in enumerate(_looks(drawn)) if look not in known]
            if len(new) >= num:
                return drawn.take(torch.tensor(new[:num]))
        raise ValueError(
            f"maze: expected {num} mazes that are not trained on, found {len(new)}; with an edge "
            f"of {settings.edge} there are few: give a larger edge or fewer train_rows"
        )


def turned(batch: Batch, turns: int, *, mirrored: bool) -> Batch:
    """Returns pictures after quarter turns to the left, then a mirror, with moves that fit."""
    assert isinstance(batch.inputs, torch.Tensor)
    pictures, moves = torch.rot90(batch.inputs, turns, (2, 3)), batch.targets
    for _ in range(turns):
        moves = _TURNED[moves]
    if mirrored:
        pictures, moves = pictures.flip(3), _MIRRORED[moves]
    return Batch(pictures.contiguous(), moves)


@lru_cache(maxsize=8)
def grow(edge: int, moves: int, num: int, seed: int) -> Batch:
    """Grows mazes with a start and a goal.

    Args:
        edge: Pixels of an edge, odd.
        moves: Moves that are asked for.
        num: How many.
        seed: What they are drawn with.

    Returns:
        Pictures (num, 3, edge, edge) of 0 and 1, and moves (num, moves).
    """
    rng = np.random.default_rng(seed)
    pictures = np.zeros((num, 3, edge, edge), dtype=np.float32)
    targets = np.full((num, moves), STAY)
    for picture, target in zip(pictures, targets, strict=True):
        walls = _walls(edge, rng)
        rooms = np.argwhere(~walls)
        first, last = rng.choice(len(rooms), 2, replace=False)
        start, goal = tuple(rooms[first]), tuple(rooms[last])
        picture[0] = walls
        picture[1][start] = picture[2][goal] = 1.0
        way = route(walls, start, goal)[:moves]
        target[: len(way)] = way
    return Batch(torch.from_numpy(pictures), torch.from_numpy(targets))


def route(walls: Walls, start: Place, goal: Place) -> list[int]:
    """Returns the moves of the shortest way, found from the goal backwards."""
    steps, ahead = {goal: 0}, deque([goal])
    while ahead:
        row, column = ahead.popleft()
        for down, right in MOVES:
            near = (row + down, column + right)
            if not walls[near] and near not in steps:
                steps[near] = steps[row, column] + 1
                ahead.append(near)
    moves, (row, column) = [], start
    while (row, column) != goal:
        nearer = [
            number
            for number, (down, right) in enumerate(MOVES)
            if steps.get((row + down, column + right), np.inf) == steps[row, column] - 1
        ]
        moves.append(nearer[0])
        row, column = row + MOVES[nearer[0]][0], column + MOVES[nearer[0]][1]
    return moves


def _walls(edge: int, rng: np.random.Generator) -> Walls:
    """Digs ways through rock, two pixels at a time, backing up where nothing is left to dig."""
    walls = np.ones((edge, edge), dtype=np.bool_)
    here = tuple(int(place) for place in 2 * rng.integers(edge // 2, size=2) + 1)
    walls[here] = False
    path = [here]
    while path:
        row, column = path[-1]
        fresh = [
            (down, right)
            for down, right in MOVES
            if 0 < row + 2 * down < edge
            and 0 < column + 2 * right < edge
            and walls[row + 2 * down, column + 2 * right]
        ]
        if not fresh:
            path.pop()
            continue
        down, right = fresh[rng.integers(len(fresh))]
        walls[row + down, column + right] = walls[row + 2 * down, column + 2 * right] = False
        path.append((row + 2 * down, column + 2 * right))
    return walls


def _looks(batch: Batch) -> list[bytes]:
    """Returns what each maze looks like, the same however it is turned or mirrored."""
    looks = []
    for turns in range(4):
        for mirrored in (False, True):
            pictures = turned(batch, turns, mirrored=mirrored).inputs
            assert isinstance(pictures, torch.Tensor)
            looks.append([one.tobytes() for one in pictures.numpy().astype(np.uint8)])
    return [min(of_one) for of_one in zip(*looks, strict=True)]
