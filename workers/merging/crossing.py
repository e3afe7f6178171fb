"""One step of a lineage: the tensors of parents become those of their child.

Arithmetic is in float32, sums that angles are taken from in float64; the result is cast to the
type of the lineage. Tensors are worked on in parts, so that memory holds a few million numbers
beside the parents, which are mapped files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch

from workers.lineage import Cross, Cut, Mix, Step
from workers.merging import noise
from workers.merging.combine import all_finite
from workers.merging.workshop import NonFiniteWeightsError
from workers.methods.slerp import PARALLEL
from workers.methods.spherical import arc, cosine
from workers.models.order import forward_order
from workers.models.safetensors_file import TensorFacts
from workers.spectra import svd_scale
from workers.threads import one_thread

#: Numbers that are worked on together.
_CHUNK = 1 << 20
#: A stretch of a tensor, flattened: its name, where it begins, and where it ends.
_Stretch = tuple[str, int, int]
#: Shares of the first and the second parent.
_Shares = tuple[float, float]


class Parent(Protocol):
    """The tensors of a model on the device where it is merged."""

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor in its stored type; it must not be written to."""
        ...


def make_child(
    step: Step,
    parents: Sequence[Parent],
    base: Parent,
    targets: Mapping[str, torch.Tensor],
) -> None:
    """Writes the tensors of a child.

    Args:
        step: How it is made.
        parents: Its parents.
        base: The model that task vectors begin at.
        targets: Tensor name -> where it is written, in the type of the lineage.

    Raises:
        NonFiniteWeightsError: naming the tensor that holds NaN or infinity.
    """
    floats = {name: out for name, out in targets.items() if out.is_floating_point()}
    for name, out in targets.items():
        if name not in floats:
            out.copy_(parents[0].tensor(name))
    if isinstance(step, Mix):
        for name, out in floats.items():
            out.copy_(_mixed(step, parents, base, name))
    else:
        first, second = parents
        _cross(step, (first, second), floats)
    for name, out in floats.items():
        if step.sigma:
            _add_noise(out, step, name)
        if not all_finite(out):
            raise NonFiniteWeightsError(
                f"tensor {name!r} of a child is not finite in {str(out.dtype)[6:]}"
            )


def sizes_by_cut(
    cuts: Sequence[Cut], tensors: Mapping[str, TensorFacts]
) -> list[list[tuple[str, int]]]:
    """Returns the tensors of each cut in forward order, with how many numbers they have.

    Raises:
        ValueError: if a tensor belongs to no cut.
    """
    found: list[list[tuple[str, int]]] = [[] for _ in cuts]
    for name in forward_order(tensors):
        places = (
            place
            for place, cut in enumerate(cuts)
            if not cut.filters or any(one in name for one in cut.filters)
        )
        place = next(places, None)
        if place is None:
            raise ValueError(f"the lineage has no cut for tensor {name!r}")
        found[place].append((name, math.prod(tensors[name][1])))
    return found


def sides(cut: Cut, tensors: Sequence[tuple[str, int]]) -> tuple[list[_Stretch], list[_Stretch]]:
    """Returns what lies before the split of some tensors that follow one another, and what after.

    The split is the index floor(split * numbers), at most that of the last number.
    """
    total = sum(size for _, size in tensors)
    at = min(math.floor(cut.split * total), max(0, total - 1))
    before: list[_Stretch] = []
    after: list[_Stretch] = []
    for name, size in tensors:
        inside = min(max(at, 0), size)
        if inside:
            before.append((name, 0, inside))
        if inside < size:
            after.append((name, inside, size))
        at -= size
    return before, after


def _cross(
    step: Cross, parents: tuple[Parent, Parent], targets: Mapping[str, torch.Tensor]
) -> None:
    facts = {name: (str(out.dtype), tuple(out.shape)) for name, out in targets.items()}
    for cut, tensors in zip(step.cuts, sizes_by_cut(step.cuts, facts), strict=True):
        before, after = sides(cut, tensors)
        both = [_products(one, parents) for one in (before, after)]
        if step.angle == "whole":
            both = [both[0] + both[1]] * 2
        for stretches, products, t in zip(
            (before, after), both, (cut.weight, 1.0 - cut.weight), strict=True
        ):
            angle = cosine(products[1], products[0], products[2])
            first, second = (float(one) for one in arc(angle, t, straight_above=PARALLEL))
            for stretch in stretches:
                _join(stretch, parents, (first, second), targets[stretch[0]])


def _products(stretches: Sequence[_Stretch], parents: tuple[Parent, Parent]) -> torch.Tensor:
    """Returns a·a, a·b and b·b over some stretches of both parents: float64, (3,)."""
    found = torch.zeros(3, dtype=torch.float64)
    for name, start, stop in stretches:
        for a, b in _chunks(name, start, stop, parents):
            x, y = a.double(), b.double()
            with one_thread():
                found += torch.stack([x @ x, x @ y, y @ y]).cpu()
    return found


def _join(
    stretch: _Stretch, parents: tuple[Parent, Parent], shares: _Shares, out: torch.Tensor
) -> None:
    """Writes a stretch of the child: the sum of both parents by their shares."""
    name, at, stop = stretch
    flat = out.view(-1)
    for a, b in _chunks(name, at, stop, parents):
        made = a.float() * shares[0]
        made.add_(b.float(), alpha=shares[1])
        flat[at : at + made.numel()].copy_(made)
        at += made.numel()


def _chunks(
    name: str, start: int, stop: int, parents: tuple[Parent, Parent]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    a, b = (parent.tensor(name).reshape(-1) for parent in parents)
    for at in range(start, stop, _CHUNK):
        end = min(at + _CHUNK, stop)
        yield a[at:end], b[at:end]


def _add_noise(out: torch.Tensor, step: Step, name: str) -> None:
    """Adds normal numbers that follow from the seed and the tensor's name (Box & Muller 1958)."""
    flat, keys = out.view(-1), [noise.key_of(step.seed, name, part) for part in ("r", "a")]
    for at in range(0, flat.numel(), _CHUNK):
        part = flat[at : at + _CHUNK]
        radius, angle = (noise.uniform(key, at, (part.numel(),), str(part.device)) for key in keys)
        normal = torch.sqrt(-2.0 * torch.log1p(-radius)) * torch.cos(2 * math.pi * angle)
        part.copy_(part.float() + step.sigma * normal)


def _mixed(step: Mix, parents: Sequence[Parent], base: Parent, name: str) -> torch.Tensor:
    """Returns a tensor of the base with the mean of task vectors, its directions scaled."""
    origin, total = base.tensor(name).float(), math.fsum(step.weights)
    if abs(total) < 1e-3:
        raise ValueError(f"the weights of a mix must not cancel, got {list(step.weights)}")
    task = torch.zeros_like(origin)
    for parent, weight in zip(parents, step.weights, strict=True):
        task += (weight / total) * (parent.tensor(name).float() - origin)
    if step.factors is not None and task.ndim == 2:
        low, high = step.factors
        key = noise.key_of(step.seed, name, "factors")
        drawn = noise.uniform(key, 0, (min(task.shape),), str(task.device))
        task = svd_scale(task, low + (high - low) * drawn)
    return origin + task
