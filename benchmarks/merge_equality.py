"""How far two merges of one recipe are apart, for `merge.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Tensors = dict[str, torch.Tensor]
Found = dict[str, Any]


def load(folder: Path) -> Tensors:
    """Returns the tensors of a model folder."""
    tensors: Tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(path)
    return tensors


def distances(ours: Tensors, peer: Tensors, native: Tensors, unsettled: Tensors) -> Found:
    """Compares with what mergekit computes in float32 and, for equality alone, in bfloat16.

    Positions of `unsettled` are left out of the former. `within_1` counts neighbours in bfloat16;
    `farthest` is the largest difference over 2^-8 of the number, or of its tensor's root mean
    square where that is larger (near zero a step of bfloat16 is next to nothing).
    """
    steps, equal, farthest = [], [], 0.0
    for name, tensor in ours.items():
        settled = ~unsettled.get(name, torch.zeros(tensor.shape, dtype=torch.bool)).bool()
        one, other = tensor[settled], peer[name][settled]
        steps.append(_steps(one, other))
        farthest = max(farthest, _farthest(one.double(), other.double()))
        equal.append((tensor == native[name].bfloat16()).flatten())
    all_steps, total = torch.cat(steps), sum(tensor.numel() for tensor in ours.values())
    return {
        "equal": (all_steps == 0).double().mean().item(),
        "within_1": (all_steps <= 1).double().mean().item(),
        "farthest": farthest,
        "unsettled": total - all_steps.numel(),
        "equal_to_native": torch.cat(equal).double().mean().item(),
    }


def drawn(ours: Tensors, peer: Tensors, base: Tensors) -> Found:
    """Returns the share of numbers changed, and the L1 distance from the base, of both."""
    found: Found = {}
    for side, tensors in {"ours": ours, "peer": peer}.items():
        changes = [(tensors[name].double() - base[name].double()).flatten() for name in base]
        change = torch.cat(changes)
        found[f"{side}_changed"] = (change != 0).double().mean().item()
        found[f"{side}_l1"] = change.abs().sum().item()
    return found


def _farthest(one: torch.Tensor, other: torch.Tensor) -> float:
    if not one.numel():
        return 0.0
    size = torch.maximum(one.abs(), other.abs()).clamp(min=other.square().mean().sqrt().item())
    return float(((one - other).abs() / size.clamp(min=1e-30)).max()) * 2**8


def _steps(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Returns how many bfloat16 numbers lie between two; both zeros are one."""
    ranks = []
    for tensor in (one, other):
        bits = tensor.bfloat16().contiguous().view(torch.int16).int()
        ranks.append(torch.where(bits < 0, -32768 - bits, bits))
    return (ranks[0] - ranks[1]).abs()
