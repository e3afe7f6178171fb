"""Which pairs of neurons are read: drawn when a machine is made, and stored with it."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.ctm.settings import CtmSettings


def draw_pairs(settings: CtmSettings) -> tuple[Tensor, Tensor]:
    """Returns the pairs that answers and those that queries are read from, both (2, pairs).

    Draws from torch's generator where pairing is random (Darlow et al. 2025, section 3.4).
    """
    neurons, answers, actions = settings.neurons, settings.num_output, settings.num_action
    if settings.pairing == "dense":
        first, last = torch.arange(answers), torch.arange(neurons - actions, neurons)
        return _table(first, first), _table(last, last)
    if settings.pairing == "random":
        return (
            _random(neurons, answers, settings.self_pairs),
            _random(neurons, actions, settings.self_pairs),
        )
    full = settings.pairing == "semi_dense_full"
    return (
        _table(_some(neurons, answers), _some(neurons, answers), full=full),
        _table(_some(neurons, actions), _some(neurons, actions), full=full),
    )


def _some(neurons: int, num: int) -> Tensor:
    return torch.randint(neurons, (num,))


def _random(neurons: int, num: int, num_self: int) -> Tensor:
    pairs = torch.randint(neurons, (2, num))
    pairs[1, :num_self] = pairs[0, :num_self]
    return pairs


def _table(first: Tensor, second: Tensor, *, full: bool = False) -> Tensor:
    """Returns the pairs of a table of two lists: the upper triangle, or all of it."""
    if full:
        return torch.cartesian_prod(first, second).T.contiguous()
    rows, columns = torch.triu_indices(len(first), len(second))
    return torch.stack([first[rows], second[columns]])
