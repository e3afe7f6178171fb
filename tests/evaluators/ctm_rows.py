"""Samples of tasks as tests look at them, and small files in the formats of pictures."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluators.ctm.task import Batch, Data

KINDS = ("search", "selection", "test")


def batch(data: Data, seed: int = 5, size: int = 32) -> Batch:
    return data.batch(torch.Generator().manual_seed(seed), size)


def tensors(batch: Batch) -> list[Tensor]:
    inputs = batch.inputs
    return [*(inputs if isinstance(inputs, list) else [inputs]), batch.targets]


def same(one: Batch, other: Batch) -> bool:
    return all(map(torch.equal, tensors(one), tensors(other)))


def samples(batch: Batch) -> Iterator[tuple[bytes, ...]]:
    """Yields each sample as bytes, without its answer."""
    for row in zip(*tensors(batch)[:-1], strict=True):
        yield tuple(one.numpy().tobytes() for one in row)


def write_mnist(folder: Path, *, train: int = 40, test: int = 9) -> None:
    """Writes pictures of noise as MNIST's idx files, those for training packed."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for part, num in (("train", train), ("t10k", test)):
        pictures = rng.integers(256, size=(num, 28, 28), dtype=np.uint8)
        labels = np.arange(num, dtype=np.uint8) % 10
        head = np.array([2051, num, 28, 28], dtype=">u4").tobytes()
        files = {
            f"{part}-images-idx3-ubyte": head + pictures.tobytes(),
            f"{part}-labels-idx1-ubyte": np.array([2049, num], ">u4").tobytes() + labels.tobytes(),
        }
        for name, data in files.items():
            if part == "train":
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)


def write_cifar10(folder: Path, num: int = 8) -> None:
    """Writes pictures of noise as CIFAR-10's binary version, so many to a file."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
        rows = rng.integers(256, size=(num, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / name).write_bytes(rows.tobytes())
