"""How few values become one for each layer: constant in groups of layers, or between knots.

Genes for each layer of a deep model are too many to search. Either consecutive layers share a set
of values, or sets belong to knots along the depth and the layers between take what lies between.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

#: How a value changes from layer to layer: not within a group, or along a line or half a cosine.
Course = Literal["block", "linear", "cosine"]

#: Places after the point that a cosine is rounded to, because its last bits differ by machine.
_DIGITS = 12


class Depth(Protocol):
    """Places along the depth of a model that values are given for, and the layers' share in them.

    There is at least one place. The embeddings follow the first layer, the head the last one.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """What each place is called in the names of its genes."""
        ...

    def spread(
        self, values: npt.NDArray[np.float64]
    ) -> list[tuple[int, int, npt.NDArray[np.float64]]]:
        """Returns ranges of layers (start, stop) with their values, from layer 0 to the last.

        Args:
            values: (places, ...), any shape a place.
        """
        ...

    def describe(self) -> str:
        """Returns where the places are, for people."""
        ...


@dataclass(frozen=True, slots=True)
class Blocks:
    """Groups of consecutive layers whose sizes differ by at most one; a group has one value."""

    num_layers: int
    num_groups: int

    @property
    def names(self) -> tuple[str, ...]:
        """The layers of each group."""
        return tuple(f"layers {start}-{stop - 1}" for start, stop in self._edges())

    def spread(
        self, values: npt.NDArray[np.float64]
    ) -> list[tuple[int, int, npt.NDArray[np.float64]]]:
        """Gives each group its value."""
        return [(*edge, held) for edge, held in zip(self._edges(), values, strict=True)]

    def describe(self) -> str:
        """Returns the groups."""
        parts = ", ".join(f"{start}-{stop - 1}" for start, stop in self._edges())
        return f"1 group: {parts}" if self.num_groups == 1 else f"{self.num_groups} groups: {parts}"

    def _edges(self) -> list[tuple[int, int]]:
        cuts = [round(group * self.num_layers / self.num_groups) for group in self._bounds()]
        return list(itertools.pairwise(cuts))

    def _bounds(self) -> range:
        return range(self.num_groups + 1)


@dataclass(frozen=True, slots=True)
class Knots:
    """Equally spaced knots, the first and the last layer among them; layers lie between two.

    A single knot is the value of all layers.
    """

    num_layers: int
    num_knots: int
    course: Literal["linear", "cosine"]

    @property
    def names(self) -> tuple[str, ...]:
        """The layer that each knot is at, which may lie between two layers."""
        if self.num_knots == 1:
            return (f"layers 0-{self.num_layers - 1}",)
        return tuple(f"at layer {place:.6g}" for place in self._places())

    def spread(
        self, values: npt.NDArray[np.float64]
    ) -> list[tuple[int, int, npt.NDArray[np.float64]]]:
        """Gives each layer what lies between its knots; neighbours with equal values are one."""
        layers = [self._between(values, layer) for layer in range(self.num_layers)]
        runs: list[tuple[int, int, npt.NDArray[np.float64]]] = []
        for layer, held in enumerate(layers):
            if runs and np.array_equal(runs[-1][2], held):
                runs[-1] = (runs[-1][0], layer + 1, held)
            else:
                runs.append((layer, layer + 1, held))
        return runs

    def describe(self) -> str:
        """Returns the knots."""
        if self.num_knots == 1:
            return "all layers alike"
        places = ", ".join(f"{place:.4g}" for place in self._places())
        return f"{self.num_knots} knots at layers {places}, {self.course} between them"

    def _places(self) -> list[float]:
        return [
            knot * (self.num_layers - 1) / (self.num_knots - 1) for knot in range(self.num_knots)
        ]

    def _between(self, values: npt.NDArray[np.float64], layer: int) -> npt.NDArray[np.float64]:
        if self.num_knots == 1:
            only: npt.NDArray[np.float64] = values[0]
            return only
        place = layer * (self.num_knots - 1) / (self.num_layers - 1)
        below = min(int(place), self.num_knots - 2)
        way = place - below  # from 0 at one knot to 1 at the next
        if self.course == "cosine":
            way = round((1.0 - math.cos(math.pi * way)) / 2.0, _DIGITS)
        low, high = values[below], values[below + 1]
        mixed = (1.0 - way) * low + way * high
        # Rounding must lead neither out of the bounds nor apart what is equal.
        kept: npt.NDArray[np.float64] = np.clip(mixed, np.minimum(low, high), np.maximum(low, high))
        return kept


def depth_of(course: Course, num_layers: int, num_places: int) -> Depth:
    """Returns the places along a model's depth; `num_places` is at most `num_layers`."""
    if course == "block":
        return Blocks(num_layers, num_places)
    return Knots(num_layers, num_places, course)
