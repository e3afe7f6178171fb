"""What a machine thought about one sample: plain arrays that pages and pictures are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
#: Row and column, of a place in a grid or of a pixel.
Cell: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The way that an answer describes, in pixels of the picture."""

    cells: tuple[Cell, ...]
    #: How it ends: at the goal, against a wall, or on the way because no more moves were said.
    end: str


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

    #: The right answer (positions), or the right order; None if it is not known.
    target: tuple[int, ...] | None = None
    #: In mazes: the right way from the start in the picture.
    way: Walk | None = None
    #: In mazes walked in rounds: where it went before, up to the start in the picture.
    walked: tuple[Cell, ...] = ()
    #: In mazes: the share of each head's attention that is on the way (ticks, heads), and the share
    #: of all places that the way has.
    on_way: Floats | None = None
    chance: float = 0.0

    @property
    def mean(self) -> Floats | None:
        """The attention of all heads together (ticks, places)."""
        return None if self.attention is None else self.attention.mean(axis=1)

    @property
    def peaks(self) -> list[Cell]:
        """Which place all heads together look at most at each tick; empty without attention."""
        if self.mean is None:
            return []
        return [divmod(int(place), self.grid[1]) for place in self.mean.argmax(axis=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """All ticks of one sample."""

    #: The machine and the task.
    subject: str
    #: The subject and which sample it is.
    title: str
    #: What it was made of and from, a line for people.
    facts: str
    #: What is looked at, one after another, each for as many ticks.
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
    #: Ticks before the first one at which answers are judged.
    unjudged: int = 0
    #: How often it was asked: an answer is taken from the ticks of each round.
    rounds: int = 1
    #: What was said up to each tick, of tasks whose answer is read over the ticks.
    said: tuple[tuple[int, ...], ...] = ()
    #: The way at each tick, of tasks whose answer is one.
    walks: tuple[Walk, ...] = field(default=())

    @property
    def ticks(self) -> int:
        """Number of ticks."""
        return len(self.certainty)

    @property
    def taken(self) -> tuple[int, ...]:
        """The ticks that answers are taken from, from 0: one of each round."""
        if self.said:
            return (self.ticks - 1,)
        each = self.ticks // self.rounds
        firsts = [number * each + self.unjudged for number in range(self.rounds)]
        lasts = [(number + 1) * each for number in range(self.rounds)]
        return tuple(
            first + int(self.certainty[first:last].argmax())
            for first, last in zip(firsts, lasts, strict=True)
        )

    @property
    def predicted(self) -> npt.NDArray[np.intp]:
        """The likeliest classes (ticks, positions)."""
        found: npt.NDArray[np.intp] = self.probabilities.argmax(axis=2)
        return found

    def look_at(self, tick: int) -> tuple[Look, int]:
        """Returns what is looked at at a tick, and the how-manieth tick of that it is, from 0."""
        each = self.ticks // len(self.looks)
        return self.looks[tick // each], tick % each

    def target(self, tick: int) -> tuple[int, ...] | None:
        """Returns what is right at a tick, if that is known."""
        return self.look_at(tick)[0].target

    def answer(self, tick: int) -> tuple[int, ...]:
        """Returns what is answered at a tick."""
        return self.said[tick] if self.said else tuple(int(one) for one in self.predicted[tick])

    def verdict(self, tick: int) -> str:
        """Returns what is to be said of a tick's answer; nothing where it is not judged."""
        right, answer, target = self.right(tick), self.answer(tick), self.target(tick)
        if right is None or target is None:
            return ""
        open_yet = bool(self.said) and answer == target[: len(answer)]
        return "right" if right else "right so far" if open_yet else "wrong"

    def right(self, tick: int) -> bool | None:
        """Returns whether all of the answer is right; None if that is not known or judged."""
        target = self.target(tick)
        if target is None or tick < self.unjudged:
            return None
        return self.answer(tick) == target

    def outcome(self, tick: int) -> str:
        """Returns where the route of a tick ends; nothing where the answer is none."""
        if not self.walks:
            return ""
        return {"goal": "route gets to the goal", "wall": "route runs into a wall"}.get(
            self.walks[tick].end, "route ends on the way"
        )
