"""Samples of tasks: rows to train on, and rows to be judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, Self

from annotated_types import Ge, Interval

from evaluators.base import Rows
from evaluators.ctm.kinds import Judgement

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples and what should come out."""

    #: As the task's inputs say; a tensor for each phase where there are phases.
    inputs: Tensor | list[Tensor]
    #: Classes (batch, positions).
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, places: Tensor | slice) -> Batch:
        """Returns some of the samples."""
        inputs = self.inputs
        taken = [one[places] for one in inputs] if isinstance(inputs, list) else inputs[places]
        return Batch(taken, self.targets[places])

    def to(self, device: str | torch.device) -> Batch:
        """Returns the samples on a device."""
        inputs = self.inputs
        moved = [i.to(device) for i in inputs] if isinstance(inputs, list) else inputs.to(device)
        return Batch(moved, self.targets.to(device))


class Data(Protocol):
    """A task's samples."""

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws samples to train on; the generator alone decides which."""
        ...

    def rows(self, rows: Rows) -> Batch:
        """Returns the samples of a kind of rows, always the same ones, none of them trained on."""
        ...


_STREAMS: Mapping[Rows, int] = {"search": 1, "selection": 2, "test": 3}
#: Torch looks at the lower 32 bits of a seed: the highest says whether it is of rows, so that none
#: is a stream that is trained on.
_HALF = 2**31


def generator_of(seed: int, rows: Rows) -> torch.Generator:
    """Returns the generator that the rows of a kind are drawn with."""
    import torch

    return torch.Generator().manual_seed(_HALF + (seed * 8 + _STREAMS[rows]) % _HALF)


def training_seed(seed: int, step: int) -> int:
    """Returns what the batch of a step is drawn with."""
    return (seed * 1_000_003 + step) % _HALF


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Rows of tasks whose samples are drawn without end."""

    #: Samples that a search is judged by, that its finalists are chosen by, and of the report.
    search_rows: Annotated[int, Ge(1)] = 512
    selection_rows: Annotated[int, Ge(1)] = 512
    test_rows: Annotated[int, Ge(1)] = 2048
    #: Of the rows; training has a seed of its own.
    seed: Annotated[int, Ge(0)] = 0

    @property
    def answer_phases(self) -> int | None:
        """In how many of the last phases answers are judged; in all if None."""
        return None

    @property
    def num_rows(self) -> Mapping[Rows, int]:
        """Kinds of rows there are, and how many samples each has."""
        return {
            "search": self.search_rows,
            "selection": self.selection_rows,
            "test": self.test_rows,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Endless(Drawn):
    """Tasks that are their own samples: nothing is read, and every batch is drawn."""

    def open(self) -> Self:
        """Nothing is read."""
        return self

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws samples; the generator alone decides which."""
        raise NotImplementedError

    def rows(self, rows: Rows) -> Batch:
        """Draws the samples of a kind of rows."""
        return self.batch(generator_of(self.seed, rows), self.num_rows[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Tasks of one input whose samples are given: rows are held out of what is to train on."""

    #: Share of what is to train on that a search is judged by, and that finalists are chosen by.
    held_out: Annotated[float, Interval(gt=0.0, lt=0.5)] = 0.1
    #: Of the split.
    seed: Annotated[int, Ge(0)] = 0

    @property
    def judgement(self) -> Judgement:
        """Each position by itself."""
        return "positions"

    @property
    def answer_phases(self) -> int | None:
        """There is one input."""
        return None
