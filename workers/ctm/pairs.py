"""Which pairs of neurons are read: drawn when a machine is made, and stored with it."""

from __future__ import annotations

from collections import defaultdict

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


def inherit_pairs(
    old: Tensor, own: Tensor, before: CtmSettings, after: CtmSettings, sizes: tuple[int, int]
) -> Tensor:
    """Returns the pairs of a machine that goes on from another one: as many of its as there can be.

    Where the pairing is another one, or dense, which leaves nothing to choose, these are its own.

    Args:
        old: The other machine's pairs (2, pairs), in the places that its neurons have now; -1 for
            neurons that are no more.
        own: Pairs that were drawn for the machine (2, pairs), which fill up what is left.
        before: What the other machine was made of.
        after: What this one is made of.
        sizes: `num_output` or `num_action`, of both.
    """
    if after.pairing == "dense" or after.pairing != before.pairing:
        return own
    if after.pairing == "random":
        first, now = before.self_pairs, after.self_pairs
        itself, others = (old[:, :first], own[:, :now]), (old[:, first:], own[:, now:])
        return torch.cat([_kept(*itself), _kept(*others)], dim=1)
    full = after.pairing == "semi_dense_full"
    lists = zip(_lists(old, sizes[0], full=full), _lists(own, sizes[1], full=full), strict=True)
    left, right = (_kept(mine[None], theirs[None])[0] for mine, theirs in lists)
    return _table(left, right, full=full)


def match_pairs(pairs: Tensor, among: Tensor) -> Tensor:
    """Returns for each pair (2, pairs) the place of an equal one among others, each once, or -1."""
    places = defaultdict(list)
    for place, pair in enumerate(among.T.tolist()):
        places[tuple(sorted(pair))].append(place)
    for one in places.values():
        one.reverse()
    keys = [tuple(sorted(pair)) for pair in pairs.T.tolist()]
    return torch.tensor([places[key].pop() if places.get(key) else -1 for key in keys])


def _kept(old: Tensor, own: Tensor) -> Tensor:
    """Returns as many columns as there are own ones: the old ones without -1, then own ones."""
    known = old[:, (old >= 0).all(dim=0)]
    return torch.cat([known, own], dim=1)[:, : own.shape[1]]


def _lists(pairs: Tensor, size: int, *, full: bool) -> Tensor:
    """Returns the two lists that a table of pairs was made of (2, size)."""
    places = _table(torch.arange(size), torch.arange(size), full=full)
    return torch.empty(2, size, dtype=pairs.dtype).scatter_(1, places, pairs)


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
