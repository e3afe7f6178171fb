"""How two whole models are joined: what genes that needs, and which step of a lineage they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, Protocol

from orchestrator.spaces.genes import Real
from workers.lineage import Angle, Cross, Cut, Mix, Step

#: Parts of the names of attention's tensors, in the common architectures.
_ATTENTION = ("attn", "attention.")
#: What is cut and mixed on its own.
Parts = Literal["whole", "attention_and_rest"]
#: Share of the normal distribution that is left out at either end: weights stay finite.
_TAIL = 0.001
#: Weights of parents whose sum is nearer to 0 blow up the child.
_LEAST_SUM = 0.1


class Joining(Protocol):
    """A way to make a child of two models."""

    @property
    def is_random(self) -> bool:
        """Whether its steps draw random numbers of their own."""
        ...

    @property
    def takes_one(self) -> bool:
        """Whether one model alone can have a child that differs from it."""
        ...

    @property
    def genes(self) -> tuple[Real, ...]:
        """What is drawn for each child."""
        ...

    @property
    def plain(self) -> tuple[float, ...]:
        """A value for each gene, for models that are taken as they are."""
        ...

    def step(self, numbers: Sequence[float], places: tuple[int, ...], seed: int) -> Step:
        """Returns the step that makes a child of the models at these places of a lineage."""
        ...

    def describe(self) -> str:
        """Says how models are joined, for people."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Spherical:
    """A spherical merge with a cut (M2N2: Abrantes, Lange & Tang 2025).

    https://arxiv.org/abs/2508.16204.
    """

    parts: Parts
    split: bool
    angle: Angle
    sigma: float

    @property
    def is_random(self) -> bool:
        """Only noise is drawn."""
        return self.sigma > 0

    @property
    def takes_one(self) -> bool:
        """A model crossed with itself is itself."""
        return False

    @property
    def genes(self) -> tuple[Real, ...]:
        """A weight and a split for each part."""
        names = ("weight", "split")[: 1 + self.split]
        parts = ("",) if self.parts == "whole" else ("attention ", "rest ")
        return tuple(
            Real(name=f"{part}{name}", low=0.0, high=1.0) for part in parts for name in names
        )

    @property
    def plain(self) -> tuple[float, ...]:
        """All of the second parent lies after a cut at 0, and is the first one's at weight 1."""
        return (1.0, 0.0)[: 1 + self.split] * (1 if self.parts == "whole" else 2)

    def step(self, numbers: Sequence[float], places: tuple[int, ...], seed: int) -> Step:
        """Cuts each part once, or not at all."""
        filters: Sequence[tuple[str, ...]] = ((),) if self.parts == "whole" else (_ATTENTION, ())
        each = 1 + self.split
        cuts = tuple(
            Cut(
                filters=one,
                weight=numbers[each * place],
                split=numbers[each * place + 1] if self.split else 0.0,
            )
            for place, one in enumerate(filters)
        )
        first, second = places
        return Cross(
            parents=(first, second), cuts=cuts, angle=self.angle, sigma=self.sigma, seed=seed
        )

    def describe(self) -> str:
        """Names parts, cut and angle."""
        cut = "cut once" if self.split else "not cut"
        angle = "each side's own angle" if self.angle == "part" else "one angle for both sides"
        return f"{self.parts.replace('_', ' ')}, {cut}, {angle}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A mean of task vectors, whose singular values mutate (CycleQD: Kuroki et al. 2025).

    https://arxiv.org/abs/2410.14735. A gene says which share of the normal distribution of a
    parent's weight lies below the weight, so that genes that are drawn uniformly give weights that
    are drawn normally about 1.
    """

    #: Standard deviation of the weights.
    omega_sigma: float
    factors: tuple[float, float] | None
    #: Standard deviation of noise.
    sigma: float

    @property
    def is_random(self) -> bool:
        """Factors and noise are drawn."""
        return self.factors is not None or self.sigma > 0

    @property
    def takes_one(self) -> bool:
        """By mutation."""
        return self.is_random

    @property
    def genes(self) -> tuple[Real, ...]:
        """A share of the normal distribution for each parent."""
        return tuple(
            Real(name=f"{which} omega", low=_TAIL, high=1.0 - _TAIL)
            for which in ("first", "second")
        )

    @property
    def plain(self) -> tuple[float, ...]:
        """Weights of 1."""
        return (0.5, 0.5)

    def step(self, numbers: Sequence[float], places: tuple[int, ...], seed: int) -> Step:
        """Mixes the parents; one alone is only mutated, weights that cancel out count alike."""
        weights = tuple(self._weight(number) for number in numbers[: len(places)])
        if len(places) == 1 or abs(sum(weights)) < _LEAST_SUM:
            weights = (1.0,) * len(places)
        return Mix(
            parents=places, weights=weights, factors=self.factors, sigma=self.sigma, seed=seed
        )

    def describe(self) -> str:
        """Names the weights and the mutation."""
        changed = [] if self.factors is None else [
            f"singular values times {self.factors[0]:g} to {self.factors[1]:g}"
        ]  # fmt: skip
        changed += [f"noise of {self.sigma:g}"] if self.sigma else []
        how = f"means of task vectors, weights 1 ± {self.omega_sigma:g}"
        return ", ".join([how, *changed])

    def _weight(self, share: float) -> float:
        # As few digits as every machine agrees on: a recipe must not depend on the last one.
        return round(1.0 + self.omega_sigma * NormalDist().inv_cdf(share), 6)
