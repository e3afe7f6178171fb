"""Inputs as people see them: pictures in red, green and blue, tokens with labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Rgb: TypeAlias = npt.NDArray[np.uint8]

#: Floor, walls, start and goal of mazes.
_FLOOR, _WALL = (238, 240, 244), (52, 58, 70)
_START, _GOAL = (214, 69, 80), (38, 145, 96)
#: Tokens in a row, at most.
_ROW = 8


def paint(picture: npt.NDArray[np.float32], *, as_maze: bool = False) -> Rgb:
    """Returns a picture (channels, height, width) as (height, width, 3).

    Values outside of [0, 1] are stretched to it. What has neither one channel nor three is shown
    as the mean of its channels.
    """
    if as_maze:
        return _maze(picture)
    low, high = float(min(picture.min(), 0.0)), float(max(picture.max(), 1.0))
    values = (picture - low) / (high - low)
    if len(values) != 3:
        values = np.repeat(values.mean(axis=0, keepdims=True), 3, axis=0)
    pixels: Rgb = np.rint(values.transpose(1, 2, 0) * 255).astype(np.uint8)
    return pixels


def labels_of(sample: Tensor, token: Callable[[Sequence[int]], str]) -> tuple[str, ...]:
    """Returns a label for each token (length, ids) or each number (size)."""
    if sample.is_floating_point():
        return tuple(f"{float(one):.2f}" for one in sample)
    return tuple(token(ids) for ids in sample.tolist())


def wrapped(num: int) -> tuple[int, int]:
    """Returns rows and columns of a grid for tokens in rows of like length."""
    rows = math.ceil(num / _ROW)
    return rows, math.ceil(num / rows)


def ranges(numbers: Sequence[int]) -> str:
    """Returns rising numbers as people write them: `1-3, 8`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{one[0]}-{one[-1]}" if len(one) > 1 else str(one[0]) for one in runs)


def _maze(picture: npt.NDArray[np.float32]) -> Rgb:
    walls, start, goal = picture > 0.5
    found = np.empty((*walls.shape, 3), dtype=np.uint8)
    found[:] = _FLOOR
    for mask, colour in ((walls, _WALL), (start, _START), (goal, _GOAL)):
        found[mask] = colour
    return found
