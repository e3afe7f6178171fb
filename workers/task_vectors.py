"""Norms, angles and signs of task vectors, over models that need not fit into memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from workers.models.files import ModelPolicy
from workers.models.weights import Reader, open_weights
from workers.prechecks import PairFacts, SourceFacts, WeightFacts

#: Entries of a block: counts of them are exact in float32.
_BLOCK = 1 << 20


def measure(base: str, sources: Sequence[str], policy: ModelPolicy) -> WeightFacts:
    """Returns how sources lie to a base (see `prechecks.compare`)."""
    models = [open_weights(reference, policy) for reference in (base, *sources)]
    shared, left_out = _shared(models)
    if not shared:
        raise ValueError(f"{' and '.join(map(repr, sources))} share no tensor with {base!r}")
    sums = _Sums(num_models=len(models))
    for name in shared:
        sums.add(name, [model.tensor(name) for model in models], [base, *sources])
    for name in left_out:
        sums.compare([model.tensor(name) if name in model else None for model in models])
    return WeightFacts(
        base=base,
        base_norm=math.sqrt(sums.products[0, 0]),
        entries=sums.entries,
        sources=tuple(sums.source(index, source) for index, source in enumerate(sources, 1)),
        pairs=tuple(
            sums.pair((a, b), (sources[a - 1], sources[b - 1]))
            for a, b in itertools.combinations(range(1, len(models)), 2)
        ),
        duplicates=tuple((models[a].reference, models[b].reference) for a, b in sorted(sums.equal)),
        left_out=tuple(left_out),
    )


def _shared(models: Sequence[Reader]) -> tuple[list[str], list[str]]:
    """Returns the names of tensors that can be compared, and of all others."""
    names = dict.fromkeys(itertools.chain(*models))
    shared = [
        name
        for name in names
        if all(name in model for model in models)
        and len({model.facts(name)[1] for model in models}) == 1
    ]
    return shared, [name for name in names if name not in set(shared)]


@dataclass(slots=True)
class _Sums:
    """What is summed over all tensors; row 0 is the base's, the others are task vectors'."""

    num_models: int
    #: Inner products of the base and the task vectors.
    products: torch.Tensor = field(init=False)
    #: Entries that both of a pair moved (one of the base's row: never), and how many more of them
    #: the same way than against each other.
    both: torch.Tensor = field(init=False)
    agreed: torch.Tensor = field(init=False)
    #: Pairs of models with the same bits so far.
    equal: set[tuple[int, int]] = field(init=False)
    entries: int = 0

    def __post_init__(self) -> None:
        shape = (self.num_models, self.num_models)
        self.products = torch.zeros(shape, dtype=torch.float64)
        self.both = torch.zeros(shape, dtype=torch.float64)
        self.agreed = torch.zeros(shape, dtype=torch.float64)
        self.equal = set(itertools.combinations(range(self.num_models), 2))

    def add(self, name: str, tensors: Sequence[torch.Tensor], models: Sequence[str]) -> None:
        """Adds a tensor of all models.

        Raises:
            ValueError: if one of them holds numbers that are not finite.
        """
        self.compare(tensors)
        flat = [tensor.reshape(-1) for tensor in tensors]
        for block in _blocks(flat):
            finite = block.isfinite().all(dim=1)
            if not finite.all():
                culprit = models[int(finite.int().argmin())]
                raise ValueError(
                    f"tensor {name!r} of {culprit!r} holds numbers that are not finite"
                )
            self._add_block(block)
        self.entries += flat[0].numel()

    def compare(self, tensors: Sequence[torch.Tensor | None]) -> None:
        """Rules out pairs of models in which a tensor is not the same, bit for bit."""
        self.equal = {(a, b) for a, b in self.equal if _same_bits(tensors[a], tensors[b])}

    def _add_block(self, block: torch.Tensor) -> None:
        block[1:] -= block[0]
        self.products += block @ block.T
        signs = block.sign().float()
        signs[0] = 0.0
        moved = signs.abs()
        self.agreed += signs @ signs.T
        self.both += moved @ moved.T

    def source(self, index: int, source: str) -> SourceFacts:
        """Returns the facts of one source."""
        base, delta = float(self.products[0, 0]), float(self.products[index, index])
        along = float(self.products[0, index])
        own = base + 2.0 * along + delta  # |base + delta|^2
        return SourceFacts(
            source=source,
            norm=math.sqrt(delta),
            relative_norm=math.sqrt(delta / base) if base else 0.0,
            similarity=(base + along) / math.sqrt(base * own) if base and own > 0.0 else 0.0,
            moved=float(self.both[index, index]) / self.entries,
        )

    def pair(self, places: tuple[int, int], sources: tuple[str, str]) -> PairFacts:
        """Returns the facts of two sources."""
        a, b = places
        first, second = (math.sqrt(float(self.products[one, one])) for one in places)
        both = float(self.both[a, b])
        return PairFacts(
            sources=sources,
            cosine=float(self.products[a, b]) / (first * second) if first and second else None,
            norm_ratio=first / second if second else None,
            both_moved=both / self.entries,
            conflicts=(both - float(self.agreed[a, b])) / 2.0 / self.entries,
        )


def _blocks(flat: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Gives parts of all tensors as float64, (models, entries)."""
    for start in range(0, flat[0].numel(), _BLOCK):
        yield torch.stack([one[start : start + _BLOCK].double() for one in flat])


def _same_bits(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
