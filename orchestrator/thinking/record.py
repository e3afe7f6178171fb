"""What a machine thought about one sample: plain arrays that pages and pictures are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
#: Row and column in a grid; fractions are between places.
Spot: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One input: a grid of places, as a picture or with a label in each."""

    name: str
    #: Rows and columns of places, in the order of the attention's weights.
    grid: tuple[int, int]
    #: Red, green and blue (height, width, 3); None where there are labels.
    picture: npt.NDArray[np.uint8] | None = None
    labels: tuple[str, ...] = ()
    #: Weights of the attention at each of its ticks (ticks, heads, places); None: seen as it is.
    attention: Floats | None = None

    @property
    def mean(self) -> Floats | None:
        """The attention of all heads together (ticks, places)."""
        return None if self.attention is None else self.attention.mean(axis=1)

    @property
    def centres(self) -> list[Spot]:
        """Where the attention's centre is at each tick, in places from 0; empty without one."""
        if self.mean is None:
            return []
        columns = np.arange(self.mean.shape[1])
        places = np.stack([columns // self.grid[1], columns % self.grid[1]], axis=1)
        return [(float(row), float(column)) for row, column in self.mean @ places]


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The way that an answer describes, in pixels of the picture."""

    cells: tuple[tuple[int, int], ...]
    #: How it ends: at the goal, against a wall, or on the way because no more moves were said.
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """All ticks of one sample."""

    #: The machine and the task.
    subject: str
    #: The subject and which sample it is.
    title: str
    #: What it was made of and from, a line for people.
    facts: str
    looks: tuple[Look, ...]
    #: What the classes are called.
    classes: tuple[str, ...]
    #: Probabilities of the classes (ticks, positions, classes).
    probabilities: Floats
    #: (ticks)
    certainty: Floats
    #: Activations before and after the neurons' own models (ticks, neurons).
    pre: Floats
    post: Floats
    #: What the answer is read from (ticks, pairs).
    synchronisation: Floats
    #: Edge of the triangle that the pairs fill; None where they fill none.
    triangle: int | None = None
    #: The right classes (positions), or the right order; None if it is not known.
    target: tuple[int, ...] | None = None
    #: Ticks before the first one at which answers are judged.
    unjudged: int = 0
    #: What was said up to each tick, of tasks whose answer is read over the ticks.
    said: tuple[tuple[int, ...], ...] = ()
    #: The way at each tick, of tasks whose answer is one.
    walks: tuple[Walk, ...] = field(default=())
    #: The right way.
    way: Walk | None = None

    @property
    def ticks(self) -> int:
        """Number of ticks."""
        return len(self.certainty)

    @property
    def surest(self) -> int:
        """The tick that the answer is taken from, from 0."""
        if self.said:
            return self.ticks - 1
        return self.unjudged + int(self.certainty[self.unjudged :].argmax())

    @property
    def predicted(self) -> npt.NDArray[np.intp]:
        """The likeliest classes (ticks, positions)."""
        found: npt.NDArray[np.intp] = self.probabilities.argmax(axis=2)
        return found

    def look_at(self, tick: int) -> tuple[Look, int]:
        """Returns what is looked at at a tick, and the how-manieth tick of that it is, from 0."""
        each = self.ticks // len(self.looks)
        return self.looks[tick // each], tick % each

    def answer(self, tick: int) -> tuple[int, ...]:
        """Returns what is answered at a tick."""
        return self.said[tick] if self.said else tuple(int(one) for one in self.predicted[tick])

    def verdict(self, tick: int) -> str:
        """Returns what is to be said of a tick's answer; nothing where it is not judged."""
        right, answer = self.right(tick), self.answer(tick)
        if right is None or self.target is None:
            return ""
        open_yet = bool(self.said) and answer == self.target[: len(answer)]
        return "right" if right else "right so far" if open_yet else "wrong"

    def right(self, tick: int) -> bool | None:
        """Returns whether all of the answer is right; None if that is not known or judged."""
        if self.target is None or tick < self.unjudged:
            return None
        return self.answer(tick) == self.target
