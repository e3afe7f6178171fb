"""Pareto order: who is better when several objectives count, all of them maximised.

Sorting and crowding: Deb, Pratap, Agarwal & Meyarivan 2002, https://doi.org/10.1109/4235.996017.
Reference directions: Das & Dennis 1998; two layers of them: Deb & Jain 2014,
https://doi.org/10.1109/TEVC.2013.2281535. Volume by slicing: Zitzler 2001; While et al. 2006.

Deviations: among those that break the constraints equally, the objectives decide.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

#: Numbers of several candidates: a row each, a column an objective.
Rows = npt.NDArray[np.float64]
#: Objectives of candidates, as a sequence of tuples or as an array.
Values = Sequence[Sequence[float]] | Rows

#: Up to so many are compared each with each at once; a byte for each pair.
_MAX_PAIRED = 4096
#: Points on the simplex that a layer of directions may have: beyond, the settings are a mistake.
_MAX_DIRECTIONS = 100_000


def fronts(values: Values, violations: Sequence[float] | None = None) -> list[list[int]]:
    """Sorts candidates into fronts, the best first; indices of a front ascend.

    Nobody in a front is dominated by any other of it or of later fronts. Who breaks the constraints
    less (`violations`; None: nobody does) dominates whoever breaks them more.
    """
    rows = _rows(values)
    if not len(rows):
        return []
    if violations is None or not any(violations):
        return [front.tolist() for front in _fronts(rows)]
    broken = np.asarray(violations, dtype=np.float64)
    found: list[list[int]] = []
    for level in np.unique(broken):
        (among,) = np.nonzero(broken == level)
        found += [among[front].tolist() for front in _fronts(rows[among])]
    return found


def non_dominated(values: Values, violations: Sequence[float] | None = None) -> list[int]:
    """Returns the indices of the first front, ascending; equal candidates are all in it."""
    rows = _rows(values)
    if not len(rows):
        return []
    among = np.arange(len(rows))
    if violations is not None:
        broken = np.asarray(violations, dtype=np.float64)
        (among,) = np.nonzero(broken == broken.min())
    found: list[int] = among[_best(rows[among])].tolist()
    return found


def crowding(values: Values, level: Sequence[int] | npt.NDArray[np.intp] | None = None) -> Rows:
    """Returns how lonely each is in its front: half the girth of the box to its neighbours.

    Objectives count in units of the front's range. The ends of each are infinitely lonely, so that
    they are kept. Of equal candidates the first has the distance and the others none.

    Args:
        values: objectives of candidates.
        level: the front that each is in; None if they are one front.

    Returns:
        (candidates,) distances, the greater the better.
    """
    every = _rows(values)
    levels = np.zeros(len(every), dtype=np.intp) if level is None else np.asarray(level)
    found = np.zeros(len(every))
    order = np.lexsort((*every.T[::-1], levels))
    first = order[_differs(np.column_stack([levels, every])[order])]
    rows, levels, distance = every[first], levels[first], np.zeros(len(first))
    starts = _differs(levels[:, None])  # they stay where they are, however a front is sorted
    ends, front = np.append(starts[1:], True), np.cumsum(starts) - 1
    inner = np.flatnonzero(~(starts | ends))
    for column in rows.T:
        by = np.lexsort((column, levels))
        numbers = column[by]
        extent = (numbers[ends] - numbers[starts])[front]
        gaps = np.full(len(numbers), np.inf)
        gaps[inner] = numbers[inner + 1] - numbers[inner - 1]
        distance[by] += np.divide(gaps, extent, out=np.zeros(len(gaps)), where=extent > 0)
    found[first] = distance
    return found


def directions(num_objectives: int, divisions: int, inner: int = 0) -> Rows:
    """Returns reference directions: points of the unit simplex, evenly spread; (directions, k).

    Args:
        num_objectives: k.
        divisions: steps along each axis; all shares that are multiples of one step.
        inner: steps of a second, smaller layer half-way to the centre; 0 for none. With many
            objectives and fewer steps than objectives, one layer has no point within.

    Raises:
        ValueError: if the directions would be too many.
    """
    num = num_directions(num_objectives, divisions, inner)
    if num > _MAX_DIRECTIONS:
        raise ValueError(
            f"reference directions: {divisions} divisions of {num_objectives} objectives make "
            f"{num:,}, expected at most {_MAX_DIRECTIONS:,}; set fewer divisions"
        )
    layers = [_simplex(num_objectives, divisions)]
    if inner:
        layers.append(0.5 * _simplex(num_objectives, inner) + 0.5 / num_objectives)
    return np.concatenate(layers)


def num_directions(num_objectives: int, divisions: int, inner: int = 0) -> int:
    """Returns how many directions `directions` would make."""
    return sum(
        math.comb(steps + num_objectives - 1, steps) for steps in (divisions, inner) if steps
    )


def hypervolume(values: Values, reference: Sequence[float]) -> float:
    """Returns the volume between a reference point and a front: the greater the better, exact.

    What is not above the reference in every objective adds nothing. Fast for two and three
    objectives; each further one multiplies the work by the number of points.
    """
    floor = np.asarray(reference, dtype=np.float64)
    rows = _rows(values) - floor
    rows = rows[(rows > 0).all(axis=1)]
    return _volume(rows[_best(rows)]) if len(rows) else 0.0


def _rows(values: Values) -> Rows:
    rows = np.asarray(values, dtype=np.float64)
    return rows if rows.ndim == 2 else rows.reshape(len(rows), -1 if len(rows) else 0)


def _differs(rows: Rows | npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Returns which rows differ from the one before; the first does."""
    found = np.ones(len(rows), dtype=np.bool_)
    (rows[1:] != rows[:-1]).any(axis=1, out=found[1:])
    return found


def _fronts(rows: Rows) -> list[npt.NDArray[np.intp]]:
    """Sorts rows into fronts; equal rows are worked on once."""
    order = np.lexsort(rows.T[::-1])[::-1]
    new = _differs(rows[order])
    level = np.empty(len(rows), dtype=np.intp)
    level[order] = _levels(rows[order[new]])[np.cumsum(new) - 1]
    order = np.argsort(level, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(level[order])) + 1)


def _levels(rows: Rows) -> npt.NDArray[np.intp]:
    """Returns the front of each row, from 0; rows differ and descend lexicographically."""
    level = np.zeros(len(rows), dtype=np.intp)
    if rows.shape[1] == 1:
        return np.arange(len(rows))
    if rows.shape[1] == 2:
        return _levels_of_two(rows[:, 1])
    if len(rows) > _MAX_PAIRED:
        left, front = np.arange(len(rows)), 0
        while len(left):
            best = _best(rows[left])
            level[left[best]] = front
            left, front = np.delete(left, best), front + 1
        return level
    # Above the diagonal, the earlier is no worse in the first objective: the others decide.
    beats = np.triu(np.ones((len(rows), len(rows)), dtype=np.bool_), 1)
    for column in rows.T[1:]:
        beats &= column[:, None] >= column
    pending, front = beats.sum(axis=0, dtype=np.int32), 0
    while (now := np.flatnonzero(pending == 0)).size:
        level[now] = front
        pending -= beats[now].sum(axis=0, dtype=np.int32)
        pending[now] = -1
        front += 1
    return level


def _levels_of_two(second: Rows) -> npt.NDArray[np.intp]:
    """Returns the front of each, given the second objective of rows that descend in the first."""
    level, least = np.empty(len(second), dtype=np.intp), list[float]()
    for place, cost in enumerate((-second).tolist()):
        # The least cost of a front so far rises from front to front: the first above is its own.
        level[place] = front = bisect_right(least, cost)
        least[front : front + 1] = [cost]
    return level


def _best(rows: Rows) -> npt.NDArray[np.intp]:
    """Returns which rows no other dominates, ascending."""
    order = np.lexsort(rows.T[::-1])[::-1]
    left, best = rows[order], []
    while len(left):
        # None that is left comes before the first lexicographically, so none dominates it.
        head, equal = left[0], (left == left[0]).all(axis=1)
        best.append(order[equal])
        keep = (left > head).any(axis=1)
        left, order = left[keep], order[keep]
    return np.sort(np.concatenate(best))


def _simplex(num_objectives: int, divisions: int) -> Rows:
    """Returns all shares that are multiples of 1 / divisions and sum to 1."""
    bars = combinations(range(divisions + num_objectives - 1), num_objectives - 1)
    shape = math.comb(divisions + num_objectives - 1, divisions), num_objectives - 1
    places = np.array(list(bars), dtype=np.float64).reshape(shape)
    low, high = -1.0, float(divisions + num_objectives - 1)
    edges = np.pad(places, ((0, 0), (1, 1)), constant_values=((0, 0), (low, high)))
    return np.asarray((np.diff(edges, axis=1) - 1) / divisions)


def _volume(rows: Rows) -> float:
    """Returns the volume that rows above 0 dominate: slices along the last objective."""
    rows = rows[np.argsort(-rows[:, -1], kind="stable")]
    heights = rows[:, -1]
    thick = heights - np.append(heights[1:], 0.0)
    if rows.shape[1] == 1:
        return float(heights[0])
    if rows.shape[1] == 2:
        return float(np.maximum.accumulate(rows[:, 0]) @ thick)
    flat = rows[:, :-1]
    return sum(
        float(step) * _volume(flat[:end][_best(flat[:end])])
        for end, step in enumerate(thick, start=1)
        if step > 0
    )
