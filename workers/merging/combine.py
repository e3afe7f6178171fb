"""Carries out a method's plan for one tensor."""

from __future__ import annotations

import numpy as np
import torch

from workers.merging import kernels
from workers.merging.combinations import Batch, combination_rule
from workers.merging.inputs import TensorInputs
from workers.merging.memory import addresses, entries, fits_kernels
from workers.merging.task_sum import numbers_of, task_sum_rule
from workers.methods.base import BASE, Combination, Plan, Rule, TaskSum

#: Entries that are looked at together.
_PART = 1 << 20


def carry_out(plan: Plan, inputs: TensorInputs, out: torch.Tensor) -> bool:
    """Writes the merged tensor; returns whether all of its entries are finite.

    Args:
        plan: What the method returned.
        inputs: The tensors.
        out: Of the inputs' entries in any floating-point type, contiguous, on their device.
    """
    rows = out.view(inputs.shape)
    if isinstance(plan, Combination):
        batch = Batch()
        if batch.add("", plan, inputs, rows):
            return not batch.run()
        return _apply(combination_rule(plan), inputs, rows)
    if isinstance(plan, TaskSum):
        models = [inputs.model(index) for index in range(inputs.num_sources)]
        if fits_kernels([rows, inputs.model(BASE), *models]):
            return _sum_tasks(plan, inputs, rows)
        return _apply(task_sum_rule(plan), inputs, rows)
    return _apply(plan, inputs, rows)


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    if fits_kernels([tensor]):
        return bool(kernels.all_finite(entries(tensor)))
    flat = tensor.detach().reshape(-1)
    parts = torch.split(flat, _PART)
    return all(_bounded(part.to(torch.float32), flat.dtype) for part in parts)


def _apply(rule: Rule, inputs: TensorInputs, out: torch.Tensor) -> bool:
    is_finite = True
    for block in inputs.blocks():
        merged = rule(block)
        is_finite &= _bounded(merged, out.dtype)
        out[block.rows].copy_(merged)
    return is_finite


def _bounded(values: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether all values are numbers that a type can hold."""
    if values.numel() == 0:
        return True
    least, most = torch.aminmax(values)  # NaN if any value is
    limit = torch.finfo(dtype).max
    return bool((most <= limit) & (least >= -limit))


def _sum_tasks(plan: TaskSum, inputs: TensorInputs, out: torch.Tensor) -> bool:
    pairs = zip(plan.weights, plan.thinned, strict=True)
    terms, lasts = zip(*(numbers_of(weight, thinned) for weight, thinned in pairs), strict=True)
    return bool(
        kernels.sum_tasks(
            addresses(inputs.model(index) for index in range(inputs.num_sources)),
            inputs.model(BASE).data_ptr(),
            np.stack(terms),
            np.stack(lasts),
            np.array([inputs.noise_key(k) for k in range(inputs.num_sources)], dtype=np.uint32),
            np.float32(plan.scale),
            np.array([plan.elect, plan.elect and plan.normalize]),
            entries(out),
        )
    )
