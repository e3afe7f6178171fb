"""Reinforced Agent Merging: means over those who changed an entry (Yuan et al. 2026).

https://arxiv.org/abs/2601.13572. Reinforcement learning changes few entries, so that a mean over
all sources dilutes what one of them learnt. Entries that several sources changed by more than
`epsilon` are the mean over these; those that one changed are taken whole (RAM), or amplified by
1 + r * min(rho, alpha), where rho is the number of the source's shared entries over that of its own
(RAM+). `ramplus_tl` counts them in each tensor, as mergekit does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.methods.base import Block, Inputs, Rule


class Ram:
    """theta_0 + mean of the task vectors over the sources that changed an entry."""

    def plan(self, inputs: Inputs) -> Rule:
        """Takes the mean over the sources that changed an entry."""
        (epsilon,) = inputs.values["epsilon"]
        factors = [1.0] * inputs.num_sources
        return lambda block: _merged(block, epsilon, factors)


class RamPlus:
    """The same, with the changes that only one source made amplified by lambda_k."""

    def plan(self, inputs: Inputs) -> Rule:
        """Counts shared and own entries, then takes means and amplifies."""
        (epsilon,), (r,), (alpha,) = (inputs.values[name] for name in ("epsilon", "r", "alpha"))
        factors = [1 + r * min(overlap, alpha) for overlap in _overlaps(inputs, epsilon)]
        return lambda block: _merged(block, epsilon, factors)


def _merged(block: Block, epsilon: float, factors: Sequence[float]) -> torch.Tensor:
    """Merges a block; a change that only source k made is multiplied by its factor."""
    total = _changes(block, 0, epsilon)
    counts = (total != 0).view(torch.uint8)
    amplified = total * factors[0]
    for index in range(1, len(factors)):
        changes = _changes(block, index, epsilon)
        counts.add_((changes != 0).view(torch.uint8))
        total.add_(changes)
        amplified.add_(changes.mul_(factors[index]))
    total.div_(counts.clamp(min=1))
    return torch.where(counts == 1, amplified, total).add_(block.base())


def _changes(block: Block, index: int, epsilon: float) -> torch.Tensor:
    """Returns a task vector with entries of `epsilon` and less at 0."""
    return torch.nn.functional.hardshrink(block.delta(index), epsilon)


def _overlaps(inputs: Inputs, epsilon: float) -> list[float]:
    """Returns for each source how many entries it shares with others, over those it does not."""

    def counts(block: Block) -> torch.Tensor:
        changed = [_changes(block, index, epsilon) != 0 for index in range(inputs.num_sources)]
        is_own = torch.stack(changed).sum(0) == 1
        own = [torch.count_nonzero(one & is_own) for one in changed]
        return torch.stack([*own, *(torch.count_nonzero(one) for one in changed)])

    own, changed = inputs.total(f"changed by {epsilon!r}", counts).view(2, -1).tolist()
    return [(some - mine) / mine if mine else 0.0 for mine, some in zip(own, changed, strict=True)]
