"""Mazes, seen as pictures: the first moves of the way from the start to the goal.

(Darlow et al. 2025, section 4.) What a maze looks like, however it is turned or mirrored, says
whether it is one to train on or of which kind of rows: none is both.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge

from evaluators.base import Rows
from evaluators.ctm.inputs import Image, Inputs, Outputs
from evaluators.ctm.kinds import Judgement
from evaluators.ctm.maze_growing import STAY, draw, looks, routes
from evaluators.ctm.task import Batch, Drawn, generator_of

if TYPE_CHECKING:
    import torch

#: Where each move leads after a quarter turn to the left, and after a mirror from left to right.
_TURNED = (2, 3, 1, 0, STAY)
_MIRRORED = (0, 1, 3, 2, STAY)
#: Shares of all looks, in eighths, of each kind of rows; the other half is trained on.
_EIGHTHS: dict[Rows | None, tuple[int, ...]] = {
    None: (0, 1, 2, 3),
    "search": (4,),
    "selection": (5,),
    "test": (6, 7),
}
#: How often as many mazes as are asked for are grown, before there seem to be too few.
_TRIES = 40


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
    #: Whether a code of its place, which is learned, is added to what is seen at each. It is
    #: stretched over larger pictures; the paper's machines have none.
    place_code: bool = True

    def __post_init__(self) -> None:
        if self.edge % 2 == 0:
            raise ValueError(f"edge: expected an odd number of pixels, got {self.edge}")

    @property
    def inputs(self) -> Inputs:
        """Walls, start and goal, a channel each."""
        return Image(
            channels=3,
            height=self.edge,
            width=self.edge,
            widths=self.widths,
            pools=self.pools,
            positions=self.place_code,
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
        self._train = grow(settings.edge, settings.moves, settings.train_rows, settings.seed)

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws mazes, turned and mirrored at random, all of a batch alike."""
        import torch

        places = torch.randint(len(self._train), (size,), generator=generator)
        pose = int(torch.randint(8, (1,), generator=generator))
        return turned(self._train.take(places), pose % 4, mirrored=pose >= 4)

    def rows(self, rows: Rows) -> Batch:
        """Returns the mazes of a kind of rows.

        None is one of another kind or trained on, turned or mirrored or as it is.
        """
        settings = self._settings
        return grow(settings.edge, settings.moves, settings.num_rows[rows], settings.seed, rows)


def turned(batch: Batch, turns: int, *, mirrored: bool) -> Batch:
    """Returns pictures after quarter turns to the left, then a mirror, with moves that fit."""
    import torch

    assert not isinstance(batch.inputs, list)
    pictures, moves = torch.rot90(batch.inputs, turns, (2, 3)), batch.targets
    for _ in range(turns):
        moves = torch.tensor(_TURNED)[moves]
    if mirrored:
        pictures, moves = pictures.flip(3), torch.tensor(_MIRRORED)[moves]
    return Batch(pictures.contiguous(), moves)


@lru_cache(maxsize=8)
def grow(edge: int, moves: int, num: int, seed: int, rows: Rows | None = None) -> Batch:
    """Grows mazes with a start and a goal.

    Args:
        edge: Pixels of an edge, odd.
        moves: Moves that are asked for.
        num: How many.
        seed: What they are drawn with.
        rows: The kind of rows that they are of; to train on if None.

    Returns:
        Pictures (num, 3, edge, edge) of 0 and 1, and moves (num, moves).

    Raises:
        ValueError: if hardly any maze of that size is of that kind.
    """
    import torch

    stream = 0 if rows is None else generator_of(seed, rows).initial_seed()
    rng = np.random.default_rng([seed, stream])
    eighths, kept, found = _EIGHTHS[rows], [], 0
    for _ in range(_TRIES):
        pictures = draw(edge, num, rng)
        ours = [zlib.crc32(look) % 8 in eighths for look in looks(pictures)]
        kept.append(pictures[np.array(ours)])
        found += sum(ours)
        if found >= num:
            chosen = np.concatenate(kept)[:num]
            targets = torch.from_numpy(routes(chosen, moves))
            return Batch(torch.from_numpy(chosen.astype(np.float32)), targets)
    raise ValueError(
        f"edge: of {_TRIES * num} mazes of {edge} x {edge} pixels {found} can be "
        f"{'trained on' if rows is None else f'{rows} rows'}, expected {num}; give a larger edge"
    )
