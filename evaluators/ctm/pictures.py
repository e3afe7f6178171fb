"""Pictures to name: scikit-learn's 8 x 8 digits, and MNIST or CIFAR-10 from a folder."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Interval

from evaluators.base import Rows
from evaluators.ctm.inputs import Image, Inputs, Outputs
from evaluators.ctm.task import Batch, Judgement

#: Shape of a picture, and how many classes there are.
_SHAPES: Mapping[str, tuple[int, int, int]] = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
_CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    #: Share of what is not for tests that a search is judged by, and that finalists are chosen by.
    held_out: Annotated[float, Interval(gt=0.0, lt=0.5)] = 0.1
    #: Of the split.
    seed: int = 0
    #: Channels after each convolution, and which are followed by pooling.
    widths: tuple[int, ...] = (16,)
    pools: tuple[int, ...] = (0,)

    @property
    def outputs(self) -> Outputs:
        """A class."""
        return Outputs(positions=1, classes=_CLASSES)

    @property
    def judgement(self) -> Judgement:
        """There is one answer."""
        return "positions"


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
        return _sizes(1437, self.held_out, 360)

    def open(self) -> Pool:
        """Reads them from scikit-learn."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(self.seed).permutation(len(digits.target))
        pictures = (digits.images[order, None] / 16).astype(np.float32)
        labels = digits.target[order].astype(np.int64)
        return split(pictures, labels, self.num_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures(_Named):
    """MNIST or CIFAR-10 as their authors give them, from a folder.

    MNIST are the four idx files, packed (.gz) or not; CIFAR-10 its binary version.

    Raises:
        ValueError: if the folder has not what it should.
    """

    folder: str
    format: Literal["mnist", "cifar10"]
    #: Pictures to train on, the first ones; all that are left of them if None.
    train_rows: Annotated[int, Ge(1)] | None = None

    @property
    def inputs(self) -> Inputs:
        """Values in [0, 1]."""
        channels, height, width = _SHAPES[self.format]
        return Image(
            channels=channels, height=height, width=width, widths=self.widths, pools=self.pools
        )

    @property
    def num_rows(self) -> Mapping[Rows, int]:
        """Kinds of rows there are, and how many pictures each has."""
        return _sizes(60_000 if self.format == "mnist" else 50_000, self.held_out, 10_000)

    def open(self) -> Pool:
        """Reads the folder."""
        read = _read_mnist if self.format == "mnist" else _read_cifar10
        (train, named), (test, test_named) = read(Path(self.folder))
        order = np.random.default_rng(self.seed).permutation(len(named))
        pictures = np.concatenate([train[order], test])
        labels = np.concatenate([named[order], test_named])
        return split(pictures, labels, self.num_rows, self.train_rows)


class Pool:
    """Samples in memory, those to train on and those of each kind of rows."""

    def __init__(self, train: Batch, rows: Mapping[Rows, Batch]) -> None:
        self._train, self._rows = train, rows

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws samples to train on, with replacement."""
        return self._train.take(torch.randint(len(self._train), (size,), generator=generator))

    def rows(self, rows: Rows) -> Batch:
        """Returns the samples of a kind."""
        return self._rows[rows]


def split(
    pictures: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    sizes: Mapping[Rows, int],
    train_rows: int | None = None,
) -> Pool:
    """Cuts shuffled samples: test rows last, search and selection rows before, the rest to train.

    Args:
        pictures: (samples, channels, height, width).
        labels: (samples).
        sizes: Kinds of rows and how many samples each has.
        train_rows: How many to train on at most.
    """
    whole = Batch(torch.from_numpy(pictures), torch.from_numpy(labels)[:, None])
    found: dict[Rows, Batch] = {}
    end = len(whole)
    for rows in ("test", "selection", "search"):
        found[rows] = whole.take(slice(end - sizes[rows], end))
        end -= sizes[rows]
    return Pool(whole.take(slice(0, end if train_rows is None else min(end, train_rows))), found)


def _sizes(num: int, held_out: float, num_test: int) -> Mapping[Rows, int]:
    part = int(num * held_out)
    return {"search": part, "selection": part, "test": num_test}


def _read_mnist(folder: Path) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    found = []
    for part in ("train", "t10k"):
        pictures = _idx(folder, f"{part}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
        labels = _idx(folder, f"{part}-labels-idx1-ubyte", 8)
        found.append((_unit(pictures), labels.astype(np.int64)))
    return found


def _idx(folder: Path, name: str, header: int) -> npt.NDArray[np.uint8]:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            data = gzip.decompress(path.read_bytes()) if path.suffix else path.read_bytes()
            return np.frombuffer(data, dtype=np.uint8, offset=header)
    raise ValueError(f"pictures: expected the file {name} or {name}.gz in {folder}, found neither")


def _read_cifar10(folder: Path) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    found = []
    for names in ([f"data_batch_{number}.bin" for number in range(1, 6)], ["test_batch.bin"]):
        parts = []
        for name in names:
            if not (folder / name).exists():
                raise ValueError(
                    f"pictures: expected the file {name} of CIFAR-10's binary version in {folder}"
                )
            parts.append(np.fromfile(folder / name, dtype=np.uint8).reshape(-1, 3073))
        rows = np.concatenate(parts)
        pictures = rows[:, 1:].reshape(-1, 3, 32, 32)
        found.append((_unit(pictures), rows[:, 0].astype(np.int64)))
    return found


def _unit(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return (pictures / 255).astype(np.float32)
