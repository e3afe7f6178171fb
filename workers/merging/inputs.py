"""One tensor of several models, as methods see it: blocks of rows, and statistics that are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from workers.merging import kernels, noise
from workers.merging.cache import Cache
from workers.merging.memory import addresses, entries, fits_kernels
from workers.merging.selection import (
    BlockValues,
    Histogram,
    Magnitudes,
    Values,
    find_cut,
    find_nth,
    survey,
)
from workers.merging.task_sum import numbers_of, thinned_delta
from workers.methods.base import BASE, Block, Cut, Thinned

#: Entries of a block: a few blocks of float32 lie within a CPU's last cache.
BLOCK_ENTRIES = {"cpu": 1 << 20}
#: On an accelerator blocks are as large as its memory lets us spend without a thought.
_LARGE_BLOCK = 1 << 25


class TensorInputs:
    """The tensors of one name (an `Inputs`).

    Args:
        name: Where they lie, for keys and random numbers.
        sources: The sources' tensors, of one shape, in any floating-point type.
        base: The base's tensor, or None if there is none to be had.
        identities: What tells a source from others, one each; the same for the same content.
        base_identity: The same of the base.
        values: Parameter -> values.
        options: Option -> value.
        seed: Seed of random numbers.
        cache: Where statistics are kept.
        block_entries: About how many entries a block has; None chooses by the device.
    """

    def __init__(
        self,
        *,
        name: str,
        sources: Sequence[torch.Tensor],
        base: torch.Tensor | None,
        identities: Sequence[str],
        base_identity: str = "",
        values: Mapping[str, tuple[float, ...]],
        options: Mapping[str, Any],
        seed: int = 0,
        cache: Cache | None = None,
        block_entries: int | None = None,
    ) -> None:
        self.values = values
        self.options = options
        self._name = name
        self._models = [_as_rows(tensor) for tensor in sources]
        self._base = None if base is None else _as_rows(base)
        self._identities = [*identities, base_identity]
        self._seed = seed
        self._cache = Cache() if cache is None else cache
        #: As it is stored, whatever its rank.
        self.tensor_shape = sources[0].shape
        first = self._models[0]
        self.shape = (first.shape[0], first.shape[1])
        device = first.device.type
        entries = block_entries or BLOCK_ENTRIES.get(device, _LARGE_BLOCK)
        self._rows = max(1, entries // max(1, self.shape[1]))

    @property
    def num_sources(self) -> int:
        """How many models are mixed, the base not counted."""
        return len(self._models)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._models[0].device

    def model(self, index: int) -> torch.Tensor:
        """Returns a source's (or the `BASE`'s) tensor as stored, (rows, columns)."""
        if index != BASE:
            return self._models[index]
        if self._base is None:
            raise ValueError(f"tensor {self._name!r}: this method needs a base model")
        return self._base

    def noise_key(self, index: int) -> noise.Key:
        """Returns the key of a source's random numbers."""
        return noise.key_of(self._seed, self._name, self._identities[index])

    def blocks(self) -> Iterator[TensorBlock]:
        """Returns all blocks in the order of their rows."""
        for row in range(0, self.shape[0], self._rows):
            yield TensorBlock(self, row, min(row + self._rows, self.shape[0]))

    def dot(self, a: int, b: int) -> float:
        """Returns the inner product of two models' flattened tensors, summed in float64."""
        return self._dot("dot", a, b)

    def delta_dot(self, a: int, b: int) -> float:
        """Returns the inner product of two task vectors, summed in float64."""
        return self._dot("delta", a, b)

    def row_dots(self, a: int, b: int) -> torch.Tensor:
        """Returns the inner product of each row of two models: float64, (rows, 1)."""
        return self._rows_of_products("dot", a, b, lambda block, index: block.model(index))

    def delta_row_dots(self, a: int, b: int) -> torch.Tensor:
        """Returns the inner product of each row of two task vectors: float64, (rows, 1)."""
        return self._rows_of_products("delta", a, b, lambda block, index: block.delta(index))

    def largest(self, index: int, keep: int) -> Cut:
        """Returns the cut that keeps the `keep` largest magnitudes of a task vector."""
        key = ("magnitudes", self._identities[index], self._identities[BASE])
        values: Values = self._values(lambda block: block.delta(index).abs_())
        if fits_kernels([self.model(index), self.model(BASE)]):
            values = Magnitudes(self.model(index), self.model(BASE))
        return self._cut(key, values, keep)

    def cut(self, key: str, values: Callable[[Block], torch.Tensor], keep: int) -> Cut:
        """Returns the cut that keeps the `keep` largest of non-negative values."""
        return self._cut((key, *self._whole()), self._values(values), keep)

    def l1(self, index: int, thinned: Thinned, key: str) -> float:
        """Returns the L1 norm of a thinned task vector, summed in float64."""
        kept = (f"l1 {key}", self._seed, self._identities[index], self._identities[BASE])
        found: float = self._kept(kept, lambda: self._sum_l1(index, thinned))
        return found

    def nth(self, key: str, values: Callable[[Block], torch.Tensor], place: int) -> float:
        """Returns the `place`-th largest of non-negative values, exactly."""
        counted = self._values(values)
        return find_nth(counted, self._histogram((key, *self._whole()), counted), place)

    def rows(self, key: str, values: Callable[[Block], torch.Tensor]) -> torch.Tensor:
        """Returns what a function makes of the rows of all blocks: float64, (rows, 1), kept."""

        def compute() -> torch.Tensor:
            return torch.cat([values(block).to(torch.float64) for block in self.blocks()])

        found: torch.Tensor = self._kept((f"rows {key}", *self._whole()), compute)
        return found

    def total(self, key: str, values: Callable[[Block], torch.Tensor]) -> torch.Tensor:
        """Returns the sum over all blocks of what a function makes of each, in float64."""

        def compute() -> torch.Tensor:
            parts = [values(block).to(torch.float64) for block in self.blocks()]
            return torch.stack(parts).sum(0)

        found: torch.Tensor = self._kept((key, *self._whole()), compute)
        return found

    def _whole(self) -> tuple[Hashable, ...]:
        return (self._seed, *self._identities)

    def _kept(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        return self._cache.get((self._name, key), compute)

    def _dot(self, what: str, a: int, b: int) -> float:
        found: float = self._kept((what, *self._pair(a, b)), lambda: self._sum(what, a, b))
        return found

    def _sum(self, what: str, a: int, b: int) -> float:
        """Sums products over ranges whose number does not depend on the machine."""
        models = [self.model(a), self.model(b), self.model(BASE if what == "delta" else a)]
        if fits_kernels(models):
            sums = np.zeros(_ranges(models[0]), np.float64)
            like = entries(models[0])
            kernels.dot(*addresses(models), like, what == "delta", sums)
            return math.fsum(sums)
        total = 0.0
        for block in self.blocks():
            left, right = (
                (block.delta(one) if what == "delta" else block.model(one)).flatten().double()
                for one in (a, b)
            )
            total += float(torch.dot(left, right))
        return total

    def _sum_l1(self, index: int, thinned: Thinned) -> float:
        models = [self.model(index), self.model(BASE)]
        if not fits_kernels(models):
            parts = [thinned_delta(block, index, thinned).abs_() for block in self.blocks()]
            return math.fsum(float(part.sum(dtype=torch.float64)) for part in parts)
        sums = np.zeros(_ranges(models[0]), np.float64)
        term, lasts = numbers_of(1.0, thinned)
        key = np.array(self.noise_key(index), np.uint32)
        kernels.thinned_l1(*addresses(models), term, lasts, key, entries(models[0]), sums)
        return math.fsum(sums)

    def _rows_of_products(
        self, what: str, a: int, b: int, read: Callable[[TensorBlock, int], torch.Tensor]
    ) -> torch.Tensor:
        def compute() -> torch.Tensor:
            parts = [
                (read(block, a).double() * read(block, b).double()).sum(1, keepdim=True)
                for block in self.blocks()
            ]
            return torch.cat(parts)

        found: torch.Tensor = self._kept((f"rows {what}", *self._pair(a, b)), compute)
        return found

    def _pair(self, a: int, b: int) -> tuple[str, ...]:
        """Returns whose product it is, the same whichever comes first."""
        pair = sorted([self._identities[a], self._identities[b]])
        return (*pair, self._identities[BASE])

    def _values(self, values: Callable[[TensorBlock], torch.Tensor]) -> BlockValues:
        def blocks() -> Iterator[tuple[int, torch.Tensor]]:
            for block in self.blocks():
                yield block.start, values(block).flatten()

        return BlockValues(blocks, self.shape[0] * self.shape[1])

    def _cut(self, key: tuple[Hashable, ...], values: Values, keep: int) -> Cut:
        return find_cut(values, self._histogram(key, values), keep)

    def _histogram(self, key: tuple[Hashable, ...], values: Values) -> Histogram:
        found: Histogram = self._kept(("histogram", *key), lambda: survey(values))
        return found


class TensorBlock:
    """Some rows of one tensor of all models (a `Block`)."""

    def __init__(self, inputs: TensorInputs, first: int, stop: int) -> None:
        self._inputs = inputs
        self.rows = slice(first, stop)
        self.start = first * inputs.shape[1]

    def model(self, index: int) -> torch.Tensor:
        """Returns a source's (or the `BASE`'s) entries: float32, (rows, columns), a copy."""
        return self._inputs.model(index)[self.rows].to(torch.float32, copy=True)

    def source(self, index: int) -> torch.Tensor:
        """Returns a source's entries."""
        return self.model(index)

    def base(self) -> torch.Tensor:
        """Returns the base's entries."""
        return self.model(BASE)

    def delta(self, index: int) -> torch.Tensor:
        """Returns a source's task vector: its entries minus the base's."""
        return self.model(index).sub_(self.base())

    def uniform(self, index: int) -> torch.Tensor:
        """Returns numbers in [0, 1), one an entry: the same on every worker, device and cut."""
        rows = self.rows.stop - self.rows.start
        shape = (rows, self._inputs.shape[1])
        device = str(self._inputs.device)
        return noise.uniform(self._inputs.noise_key(index), self.start, shape, device)


def _as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Returns any tensor as rows of its last dimension; numbers alone are one row of one."""
    if tensor.dim() == 2:
        return tensor
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 0 else tensor.reshape(1, 1)


def _ranges(tensor: torch.Tensor) -> int:
    """Returns into how many ranges a sum is cut; the machine must not decide, for bits' sake."""
    return max(1, tensor.numel() >> 14)
