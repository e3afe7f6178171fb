"""Combinations of models with fixed coefficients: many tensors by one call of a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workers.merging import kernels
from workers.merging.inputs import TensorInputs
from workers.merging.memory import entries, fits_kernels
from workers.methods.base import BASE, Block, Coefficient, Combination, Plan, Rule

#: Kernels take this many sources at least; what is missing takes part with the factor 0.
_LEAST = 4


@dataclass(frozen=True, slots=True)
class _Sum:
    """One tensor to be written: the tensors that take part, their factors, and the target."""

    name: str
    tensors: Sequence[torch.Tensor]
    factors: Sequence[float]
    out: torch.Tensor


class Batch:
    """Sums that are carried out together, because starting threads takes as long as one of them."""

    def __init__(self) -> None:
        self._sums: dict[tuple[torch.dtype, int], list[_Sum]] = {}

    def add(self, name: str, plan: Plan, inputs: TensorInputs, out: torch.Tensor) -> bool:
        """Takes a tensor in if the kernel can do it; `out` is written when the batch runs.

        The kernel works on the CPU, on one type for all, with factors of whole tensors.
        """
        if not isinstance(plan, Combination):
            return False
        terms = _terms(plan)
        tensors = [inputs.model(index) for index, _ in terms]
        factors = [factor for _, factor in terms if not isinstance(factor, torch.Tensor)]
        if not terms or len(factors) < len(terms) or not fits_kernels([out, *tensors]):
            return False
        missing = _LEAST - len(terms)
        if missing > 0:
            tensors += tensors[:1] * missing
            factors += [0.0] * missing
        found = self._sums.setdefault((out.dtype, len(tensors)), [])
        found.append(_Sum(name, tensors, factors, out))
        return True

    def run(self) -> list[str]:
        """Writes all tensors; returns the names of those that hold NaN or infinity."""
        infinite: list[str] = []
        for sums in self._sums.values():
            bad = np.zeros(len(sums), np.int64)
            kernels.combine(
                np.array([[one.data_ptr() for one in each.tensors] for each in sums], np.int64),
                np.array([each.factors for each in sums], np.float32),
                np.array([each.out.data_ptr() for each in sums], np.int64),
                np.array([each.out.numel() for each in sums], np.int64),
                entries(sums[0].out)[:0],
                bad,
            )
            infinite += [each.name for each, is_bad in zip(sums, bad, strict=True) if is_bad]
        self._sums.clear()
        return infinite


def alone(plan: Plan) -> int | None:
    """Returns the only model that a plan takes as it is (`BASE` for the base), if it does."""
    if not isinstance(plan, Combination):
        return None
    factors = dict(enumerate([*plan.sources, plan.base]))
    left = [index for index, factor in factors.items() if not _is(factor, 0.0)]
    if len(left) != 1 or not _is(factors[left[0]], 1.0):
        return None
    return BASE if left[0] == len(plan.sources) else left[0]


def _terms(plan: Combination) -> list[tuple[int, Coefficient]]:
    """Returns the models that take part, with their factors."""
    factors: list[tuple[int, Coefficient]] = [*enumerate(plan.sources), (BASE, plan.base)]
    return [(index, factor) for index, factor in factors if not _is(factor, 0.0)]


def combination_rule(plan: Combination) -> Rule:
    """Returns the rule that does what the kernel does, on any device and type, by rows if asked."""
    taken = _terms(plan)

    def merge(block: Block) -> torch.Tensor:
        total: torch.Tensor | None = None
        for index, factor in taken:
            part = block.base() if index == BASE else block.source(index)
            part.mul_(_of_rows(factor, block, part))
            total = part if total is None else total.add_(part)
        return torch.zeros_like(block.source(0)) if total is None else total

    return merge


def _of_rows(factor: Coefficient, block: Block, part: torch.Tensor) -> Coefficient:
    """Returns the factors of a block's rows."""
    if not isinstance(factor, torch.Tensor):
        return factor
    first = block.start // part.shape[1]
    return factor[first : first + part.shape[0]].to(part.device, torch.float32)


def _is(factor: Coefficient, number: float) -> bool:
    return not isinstance(factor, torch.Tensor) and factor == number
