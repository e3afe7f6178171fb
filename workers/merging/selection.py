"""Finds the k-th largest of a tensor that is only ever seen in blocks, exactly.

Non-negative float32 numbers are ordered as their bits are. Where few different values occur, as
among differences of bfloat16 numbers, counts of each tell the k-th largest at once. Otherwise this
is a radix selection: counts of the upper 16 bits tell in which bin it lies, counts of the lower 16
bits within that bin tell its value. One more look tells which of its equals are among the k. Counts
of all values depend on the models alone and are kept. Memory does not grow with the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from workers.merging import kernels, memory
from workers.methods.base import Cut

_HALF = 1 << 16
#: Slots of a table of kinds; half of them are filled at most.
_SLOTS = 1 << 16
#: int64. Counts are numpy's: torch would start threads for so few numbers.
Counts: TypeAlias = npt.NDArray[np.int64]


class Values(Protocol):
    """Non-negative float32 numbers, one for each entry of a tensor, that can be counted."""

    @property
    def total(self) -> int:
        """How many there are."""
        ...

    def count_upper(self) -> Counts:
        """Returns how many values have each upper half of bits, (65536,)."""
        ...

    def count_lower(self, upper: int) -> Counts:
        """Returns how many values with this upper half have each lower half of bits."""
        ...

    def place(self, threshold: float, wanted: int) -> int:
        """Returns where the `wanted`-th of the values that equal a number is."""
        ...

    def count_kinds(self) -> tuple[npt.NDArray[np.uint32], Counts] | None:
        """Returns the bits of all values that occur, and how often; None if there are many."""
        ...


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values there are of each kind, or in each bin of equal upper 16 bits."""

    #: Bits of each kind or bin, largest first, and how many values are in it or above; (2, bins).
    bins: Counts
    #: Whether bins are single values.
    is_exact: bool

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return int(self.bins.nbytes)

    def bin_of(self, keep: int) -> tuple[int, int, int]:
        """Returns the bin of the `keep`-th largest, its count, and the count of all above it."""
        place = int(np.searchsorted(self.bins[1], keep))
        above = int(self.bins[1, place - 1]) if place else 0
        return int(self.bins[0, place]), int(self.bins[1, place]) - above, above


def survey(values: Values) -> Histogram:
    """Counts all values."""
    kinds = values.count_kinds()
    if kinds is not None:
        bits, counts = kinds
        order = np.argsort(bits)[::-1]
        bins = np.stack([bits[order].astype(np.int64), np.cumsum(counts[order])])
        return Histogram(bins, is_exact=True)
    counts = values.count_upper()[::-1]
    filled = np.flatnonzero(counts)
    bins = np.stack([_HALF - 1 - filled, np.cumsum(counts[filled])])
    return Histogram(bins, is_exact=False)


def find_cut(values: Values, histogram: Histogram, keep: int) -> Cut:
    """Returns the cut that keeps the `keep` largest values, the first ones among equals."""
    if keep <= 0:
        return Cut(threshold=float("inf"), last=-1)
    if keep >= values.total:
        return Cut(threshold=-1.0, last=-1)
    threshold, wanted, equals = _nth(values, histogram, keep)
    last = values.total if wanted == equals else values.place(threshold, wanted)
    return Cut(threshold=threshold, last=last)


def find_nth(values: Values, histogram: Histogram, place: int) -> float:
    """Returns the `place`-th largest value, 1 for the largest."""
    return _nth(values, histogram, place)[0]


def _nth(values: Values, histogram: Histogram, place: int) -> tuple[float, int, int]:
    """Returns the `place`-th largest value, its place among its equals, and their number."""
    bits, inside, above = histogram.bin_of(place)
    if histogram.is_exact:
        return _number(bits), place - above, inside
    return _refine(values, bits, place - above)


def _refine(values: Values, upper: int, wanted: int) -> tuple[float, int, int]:
    """Returns the `wanted`-th largest value of a bin, its place among its equals, their number."""
    falling = np.cumsum(values.count_lower(upper)[::-1])
    place = int(np.searchsorted(falling, wanted))
    larger = int(falling[place - 1]) if place else 0
    threshold = _number((upper << 16) + _HALF - 1 - place)
    return threshold, wanted - larger, int(falling[place]) - larger


class BlockValues:
    """Values that a function makes of blocks, on any device.

    Args:
        blocks: Gives (place of the first entry, values) of each block, anew at each call; values
            are flattened.
        total: How many there are in all.
    """

    def __init__(
        self, blocks: Callable[[], Iterator[tuple[int, torch.Tensor]]], total: int
    ) -> None:
        self._blocks = blocks
        self.total = total

    def count_upper(self) -> Counts:
        """Returns how many values have each upper half of bits."""
        return self._count(_upper)

    def count_lower(self, upper: int) -> Counts:
        """Returns how many values with this upper half have each lower half of bits."""

        def lower(values: torch.Tensor) -> torch.Tensor:
            bits = values.view(torch.int32)[_upper(values) == upper]
            return bits.bitwise_and_(_HALF - 1)

        return self._count(lower)

    def place(self, threshold: float, wanted: int) -> int:
        """Returns where the `wanted`-th of the values that equal a number is."""
        for start, values in self._blocks():
            equal = values == threshold
            found = int(equal.sum())
            if found >= wanted:
                return start + int(equal.nonzero()[wanted - 1])
            wanted -= found
        raise AssertionError("the values changed while they were looked at")

    def count_kinds(self) -> tuple[npt.NDArray[np.uint32], Counts] | None:
        """Does not try: there is no such operation on every device."""
        return None

    def _count(self, key: Callable[[torch.Tensor], torch.Tensor]) -> Counts:
        counts = np.zeros(_HALF, np.int64)
        for _, values in self._blocks():
            counts += torch.bincount(key(values), minlength=_HALF).cpu().numpy()
        return counts


class Magnitudes:
    """|a - b| of two tensors of one type (float32 or bfloat16) on the CPU, by compiled loops."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor) -> None:
        self._held = (a, b)  # their memory must not go while addresses are used
        self._addresses = (a.data_ptr(), b.data_ptr())
        self._like = memory.entries(a)
        self.total = a.numel()

    def count_upper(self) -> Counts:
        """Returns how many values have each upper half of bits."""
        counts = self._rows()
        kernels.count_upper(*self._addresses, self._like, counts)
        total: Counts = counts.sum(0)
        return total

    def count_lower(self, upper: int) -> Counts:
        """Returns how many values with this upper half have each lower half of bits."""
        counts = self._rows()
        kernels.count_lower(*self._addresses, self._like, np.uint32(upper), counts)
        total: Counts = counts.sum(0)
        return total

    def count_kinds(self) -> tuple[npt.NDArray[np.uint32], Counts] | None:
        """Returns the bits of all values that occur, and how often; None if there are many."""
        ranges = torch.get_num_threads()
        keys = np.zeros((ranges, _SLOTS), np.uint32)
        counts, held = np.zeros((ranges, _SLOTS), np.int64), np.zeros(ranges, np.int64)
        kernels.count_kinds(*self._addresses, self._like, keys, counts, held)
        if held.max() > _SLOTS // 2:
            return None
        taken = keys > 0
        bits, places = np.unique(keys[taken], return_inverse=True)
        sums = np.zeros(bits.size + 1, np.int64)
        np.add.at(sums, places + 1, counts[taken])
        sums[0] = self.total - sums.sum()  # all others are 0
        return np.concatenate([np.zeros(1, np.uint32), bits]), sums

    def place(self, threshold: float, wanted: int) -> int:
        """Returns where the `wanted`-th of the values that equal a number is."""
        parts = max(1, self.total >> 16)
        counts = np.zeros(parts, np.int64)
        kernels.count_equal(*self._addresses, self._like, np.float32(threshold), counts)
        seen = np.cumsum(counts)
        part = int(np.searchsorted(seen, wanted))
        left = wanted - (int(seen[part - 1]) if part else 0)
        start = self.total * part // parts
        number = np.float32(threshold)
        return int(kernels.place_equal(*self._addresses, self._like, number, start, left))

    def _rows(self) -> Counts:
        return np.zeros((torch.get_num_threads(), _HALF), np.int64)


def _number(bits: int) -> float:
    return float(np.array(bits, dtype=np.uint32).view(np.float32))


def _upper(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32).bitwise_right_shift(16)
