"""Pictures to name: scikit-learn's 8 x 8 digits, and MNIST or CIFAR-10 from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge

from evaluators.base import Rows
from evaluators.ctm.inputs import Image, Inputs, Outputs
from evaluators.ctm.picture_files import CLASSES, SHAPES, Format, count, read
from evaluators.ctm.task import Batch, HeldOut

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named(HeldOut):
    #: Channels after each convolution, and which are followed by pooling.
    widths: tuple[int, ...] = (16,)
    pools: tuple[int, ...] = (0,)

    @property
    def outputs(self) -> Outputs:
        """A class."""
        return Outputs(positions=1, classes=CLASSES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits(_Named):
    """Scikit-learn's 1,797 handwritten digits, shuffled, a fifth of them for tests."""

    @property
    def inputs(self) -> Inputs:
        """Grey values in [0, 1]."""
        return Image(channels=1, height=8, width=8, widths=self.widths, pools=self.pools)

    @property
    def num_rows(self) -> Mapping[Rows, int]:
        """Kinds of rows there are, and how many pictures each has."""
        return sizes(1437, self.held_out, 360)

    def open(self) -> Pool:
        """Reads them from scikit-learn."""
        import torch
        from sklearn.datasets import load_digits

        digits = load_digits()
        pictures = torch.from_numpy((digits.images[:, None] / 16).astype(np.float32))
        whole = shuffled(Batch(pictures, torch.from_numpy(digits.target)[:, None]), self.seed)
        return split(whole.take(slice(0, 1437)), whole.take(slice(1437, None)), self.num_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures(_Named):
    """MNIST or CIFAR-10 as their authors give them, from a folder.

    MNIST are the four idx files, packed (.gz) or not; CIFAR-10 its binary version.

    Raises:
        ValueError: if the folder has not what it should.
    """

    folder: str
    format: Format
    #: Pictures to train on, the first ones; all that are left of them if None.
    train_rows: Annotated[int, Ge(1)] | None = None

    @property
    def inputs(self) -> Inputs:
        """Values in [0, 1]."""
        channels, height, width = SHAPES[self.format]
        return Image(
            channels=channels, height=height, width=width, widths=self.widths, pools=self.pools
        )

    @property
    def num_rows(self) -> Mapping[Rows, int]:
        """Kinds of rows there are, and how many pictures each has."""
        train, test = (count(Path(self.folder), self.format, part) for part in ("train", "test"))
        return sizes(train, self.held_out, test)

    def open(self) -> Pool:
        """Reads the folder."""
        import torch

        found = []
        for part in ("train", "test"):
            pictures, labels = read(Path(self.folder), self.format, part)
            classes = torch.from_numpy(labels.astype(np.int64))[:, None]
            found.append(Batch(torch.from_numpy(pictures), classes))
        train, test = found
        return split(shuffled(train, self.seed), test, self.num_rows, self.train_rows)


class Pool:
    """Samples in memory, those to train on and those of each kind of rows."""

    def __init__(self, train: Batch, rows: Mapping[Rows, Batch]) -> None:
        self._train, self._rows = train, rows

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws samples to train on, with replacement."""
        import torch

        return self._train.take(torch.randint(len(self._train), (size,), generator=generator))

    def rows(self, rows: Rows) -> Batch:
        """Returns the samples of a kind."""
        return self._rows[rows]


def sizes(num: int, held_out: float, num_test: int) -> Mapping[Rows, int]:
    """Returns kinds of rows and how many samples each has.

    Args:
        num: Samples that are not for tests.
        held_out: Share of them that are search rows, and that are selection rows.
        num_test: Samples for tests.

    Raises:
        ValueError: if a kind has none.
    """
    part = int(num * held_out)
    if not part or not num_test:
        raise ValueError(
            f"held_out: expected samples of each kind of rows, got {part} of {num} ({held_out:g}) "
            f"and {num_test} for tests; give a larger share or more samples"
        )
    return {"search": part, "selection": part, "test": num_test}


def shuffled(batch: Batch, seed: int) -> Batch:
    """Returns samples in an order that the seed decides."""
    import torch

    return batch.take(torch.from_numpy(np.random.default_rng(seed).permutation(len(batch))))


def split(
    train: Batch, test: Batch, num_rows: Mapping[Rows, int], train_rows: int | None = None
) -> Pool:
    """Cuts search and selection rows, in this order, from the end of what there is to train on.

    Args:
        train: Samples in random order.
        test: Test rows.
        num_rows: Kinds of rows and how many samples each has.
        train_rows: How many to train on at most, the first ones.
    """
    middle = len(train) - num_rows["selection"]
    end = middle - num_rows["search"]
    rows: Mapping[Rows, Batch] = {
        "search": train.take(slice(end, middle)),
        "selection": train.take(slice(middle, None)),
        "test": test,
    }
    return Pool(train.take(slice(0, end if train_rows is None else min(end, train_rows))), rows)
