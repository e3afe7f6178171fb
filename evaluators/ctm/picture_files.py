"""MNIST and CIFAR-10 as their authors give them.

MNIST are four idx files, packed (.gz) or not (LeCun et al. 1998, http://yann.lecun.com/exdb/mnist);
CIFAR-10 its binary version (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

Format: TypeAlias = Literal["mnist", "cifar10"]
Bytes: TypeAlias = npt.NDArray[np.uint8]

#: Shape of a picture.
SHAPES: Mapping[Format, tuple[int, int, int]] = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
CLASSES = 10
_CIFAR10: Mapping[str, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_MNIST: Mapping[str, str] = {"train": "train", "test": "t10k"}
#: Kind of numbers (8: bytes) and number of dimensions, as idx files begin.
_PICTURES, _LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"


def count(folder: Path, kind: Format, part: str) -> int:
    """Returns how many pictures there are to `train` on or to `test`.

    Raises:
        ValueError: if the folder has not what it should.
    """
    if kind == "mnist":
        with _open(_mnist(folder, part, "images-idx3-ubyte")) as file:
            return _lengths(file, _PICTURES)[0]
    paths = [_existing(folder, name) for name in _CIFAR10[part]]
    size = 1 + math.prod(SHAPES[kind])
    for path in paths:
        if path.stat().st_size % size:
            raise ValueError(
                f"folder: expected pictures of {size} bytes each in {path}, got "
                f"{path.stat().st_size} bytes; is the file whole?"
            )
    return sum(path.stat().st_size // size for path in paths)


def read(folder: Path, kind: Format, part: str) -> tuple[npt.NDArray[np.float32], Bytes]:
    """Returns pictures (num, channels, height, width), values in [0, 1], and classes (num).

    Raises:
        ValueError: if the folder has not what it should.
    """
    num = count(folder, kind, part)
    if kind == "mnist":
        pictures = _idx(_mnist(folder, part, "images-idx3-ubyte"), _PICTURES)
        labels = _idx(_mnist(folder, part, "labels-idx1-ubyte"), _LABELS)
    else:
        files = [np.fromfile(folder / name, dtype=np.uint8) for name in _CIFAR10[part]]
        rows = np.concatenate(files).reshape(num, -1)
        pictures, labels = rows[:, 1:], rows[:, 0]
    if pictures.size != num * math.prod(SHAPES[kind]) or labels.shape != (num,):
        raise ValueError(
            f"folder: expected {num} pictures of {SHAPES[kind]} and as many labels in {folder}, "
            f"got {pictures.shape} and {labels.shape}"
        )
    if labels.size and labels.max() >= CLASSES:
        raise ValueError(f"folder: expected labels below {CLASSES} in {folder}, got {labels.max()}")
    unit = np.divide(pictures.reshape(num, *SHAPES[kind]), 255, dtype=np.float32)
    return unit, labels


def _mnist(folder: Path, part: str, name: str) -> Path:
    stem = f"{_MNIST[part]}-{name}"
    packed = folder / f"{stem}.gz"
    return packed if packed.exists() else _existing(folder, stem, f" or {stem}.gz")


def _existing(folder: Path, name: str, otherwise: str = "") -> Path:
    if not (folder / name).is_file():
        raise ValueError(f"folder: expected the file {name}{otherwise} in {folder}, found none")
    return folder / name


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _lengths(file: BinaryIO, begins: bytes) -> tuple[int, ...]:
    """Reads the head of an idx file; returns the length of each dimension."""
    head = file.read(4 + 4 * begins[3])
    if len(head) < 4 + 4 * begins[3] or head[:4] != begins:
        raise ValueError(
            f"folder: expected an idx file that begins with {begins.hex()}, got {head[:4].hex()} "
            f"in {file.name}"
        )
    return tuple(int(one) for one in np.frombuffer(head, dtype=">u4", offset=4))


def _idx(path: Path, begins: bytes) -> Bytes:
    with _open(path) as file:
        lengths = _lengths(file, begins)
        data = np.frombuffer(file.read(), dtype=np.uint8)
    if data.size != math.prod(lengths):
        raise ValueError(
            f"folder: expected {math.prod(lengths)} bytes after the head of {path}, got "
            f"{data.size}; is the file whole?"
        )
    return data.reshape(lengths)
