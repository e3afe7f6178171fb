"""The tasks that a network can learn, and what a task is. Importing this needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from evaluators.base import Rows
from evaluators.ctm.inputs import Inputs, Outputs
from evaluators.registry import Registry

if TYPE_CHECKING:
    from evaluators.ctm.task import Data

#: How answers are judged: each position by itself; as a route, whose first steps come first; or as
#: an order that is read over the ticks.
Judgement: TypeAlias = Literal["positions", "route", "order"]

TASKS = Registry(
    "task",
    {
        "parity": "evaluators.ctm.parity:Parity",
        "pointers": "evaluators.ctm.pointers:Pointers",
        "automaton": "evaluators.ctm.automata:Automata",
        "sorting": "evaluators.ctm.sorting:Sorting",
        "maze": "evaluators.ctm.mazes:Mazes",
        "digits": "evaluators.ctm.pictures:Digits",
        "pictures": "evaluators.ctm.pictures:Pictures",
        "questions": "evaluators.ctm.questions:Questions",
        "dataset": "evaluators.ctm.dataset:Dataset",
    },
)


class Task(Protocol):
    """The settings of a task."""

    @property
    def inputs(self) -> Inputs:
        """What goes in."""
        ...

    @property
    def outputs(self) -> Outputs:
        """What comes out."""
        ...

    @property
    def judgement(self) -> Judgement:
        """How answers are judged."""
        ...

    @property
    def answer_phases(self) -> int | None:
        """In how many of the last phases answers are judged; in all if None."""
        ...

    @property
    def num_rows(self) -> Mapping[Rows, int]:
        """Kinds of rows there are, and how many samples each has."""
        ...

    def open(self) -> Data:
        """Makes or reads the samples."""
        ...
