"""Whole models that descend from others: two parents, and how they are joined.

The search spaces of M2N2 (Abrantes, Lange & Tang 2025, https://arxiv.org/abs/2508.16204) and of
CycleQD (Kuroki, Nakamura, Akiba & Tang 2025, https://arxiv.org/abs/2410.14735). What a model is
lies in its lineage and not in its genome: the genes say how the two parents of a proposal are
joined, and are drawn afresh for each child. Without parents two of the sources are joined, which
the genes name, so that a random search has the same operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, MinLen

from evaluators.digest import hash_json
from orchestrator.spaces.base import Reference
from orchestrator.spaces.dataflow import check_distinct
from orchestrator.spaces.genes import Categorical, Genes, Genome
from orchestrator.spaces.joining import Joining, Linear, Parts, Spherical
from orchestrator.spaces.sizes import Sizes
from orchestrator.spaces.sources import Family, open_family
from workers.builders.lineage_settings import LineageSettings
from workers.builders.settings import MergeSettings
from workers.lineage import Angle, LineageRecipe, Mix, child_of
from workers.models import library
from workers.models.library import ModelPolicy
from workers.recipe import Recipe, average

_GIB = 1 << 30
#: Settings that only one way to join models has, with the value that changes nothing.
_OF_SPHERICAL = {"parts": "whole", "split": True, "angle": "part"}
_OF_TASK_VECTORS = {"singular_values": None, "omega_sigma": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeModel:
    """Merges two models at a time, and their children, and theirs."""

    #: The models that lineages begin with: local folders or hub ids[@revision].
    sources: Annotated[tuple[str, ...], MinLen(2)]
    #: The model that task vectors begin at and that gives configuration and tokenizer; null takes
    #: the first source, where there are no task vectors.
    base: str | None = None
    #: How two models make a child: `spherical` merges them with a cut, as M2N2 does;
    #: `task_vectors` takes a weighted mean of what they have learned, as CycleQD does.
    crossover: Literal["spherical", "task_vectors"] = "spherical"
    #: What is cut and mixed on its own: the model as one vector, or attention and all the rest.
    parts: Parts = "whole"
    #: Whether parents are cut at all; otherwise the whole part is mixed alike.
    split: bool = True
    #: What the angle between two parents is taken between: each side of the cut by itself, as in
    #: the paper, or the whole part, as in its code.
    angle: Angle = "part"
    #: Standard deviation about 1 of the weights of task vectors; null is 0.3.
    omega_sigma: Annotated[float, Ge(0)] | None = None
    #: CycleQD's mutation: least and most of the factors, drawn uniformly, that each singular value
    #: of each matrix of a child's task vector is multiplied by ([0, w_max] in the paper); null
    #: leaves them. It moves a child only along directions that models have learned.
    singular_values: tuple[float, float] | None = None
    #: Standard deviation of noise on every weight of a child: for models begun from scratch, or in
    #: place of the mutation of singular values.
    noise: Annotated[float, Ge(0)] = 0.0
    #: Type of the models' weights; `auto` takes the base's.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    #: Disk, in GiB, that models of the archive may take on each node; who was used longest ago
    #: leaves first and is made again if it is needed. Changes speed alone.
    cache_gib: Annotated[float, Gt(0)] = 16.0
    #: Where they lie on each node; null takes a folder among temporary files. Changes speed alone.
    cache_folder: str | None = None
    #: Run code that comes with a model.
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_distinct(self.sources)
        idle = _OF_TASK_VECTORS if self.crossover == "spherical" else _OF_SPHERICAL
        for name, plain in idle.items():
            if getattr(self, name) != plain:
                raise ValueError(
                    f"{name}: has no part in crossover: {self.crossover}; leave it out"
                )
        if self.crossover == "task_vectors" and self.base is None:
            raise ValueError("base: expected the model that task vectors begin at, got null")
        if self.singular_values is not None:
            low, high = self.singular_values
            if not 0 <= low < high:
                raise ValueError(
                    f"singular_values: expected factors 0 <= least < most, got [{low}, {high}]"
                )

    @property
    def origin(self) -> str:
        """The base: the one named, or the first source."""
        return self.sources[0] if self.base is None else self.base

    @property
    def joining(self) -> Joining:
        """How two models are joined."""
        if self.crossover == "task_vectors":
            return Linear(
                omega_sigma=0.3 if self.omega_sigma is None else self.omega_sigma,
                factors=self.singular_values,
                sigma=self.noise,
            )
        return Spherical(parts=self.parts, split=self.split, angle=self.angle, sigma=self.noise)

    @property
    def policy(self) -> ModelPolicy:
        """What its model folders may contain."""
        return ModelPolicy(trust_remote_code=self.trust_remote_code)

    def open(self, seed: int) -> WholeModelSpace:
        """Inspects the models and checks that they are of one family.

        Raises:
            ModelError: naming the model and what is wrong with it.
        """
        return WholeModelSpace(
            self, open_family(self.origin, self.sources, self.policy, None), seed
        )


class WholeModelSpace:
    """A whole-model space whose models are known (a `Descending` space)."""

    descends = True

    def __init__(self, settings: WholeModel, family: Family, seed: int) -> None:
        self._settings = settings
        self._joining = settings.joining
        self._family = family
        self._seed = seed
        self._dtype = family.base.dtype if settings.dtype == "auto" else settings.dtype
        self.genes = _genes(settings.sources, self._joining)
        self.revisions: Mapping[str, str] = {
            model.reference: library.digest(model, settings.policy) for model in family.models
        }
        self.builder = LineageSettings(
            merge=MergeSettings(base=settings.origin, dtype=self._dtype, policy=settings.policy),
            revisions=self.revisions,
            cache_bytes=int(settings.cache_gib * _GIB),
            cache_folder=settings.cache_folder,
        )
        self.references = self._make_references()

    def decode(self, genome: Genome) -> LineageRecipe:
        """Returns the recipe of two sources' child; of one of them alone if the genes say so."""
        first, second = (self._founder(name) for name in self._pair(genome))
        if genome in self.genes.founders:
            return first
        return self._child(genome, [first, second])

    def descend(self, genome: Genome, parents: Sequence[Recipe]) -> LineageRecipe:
        """Returns the recipe of a child; of one parent alone, what mutation makes of it."""
        known = list(dict.fromkeys(cast("LineageRecipe", parent) for parent in parents))
        if len(known) == 1 and not self._joining.takes_one:
            return known[0]
        return self._child(genome, known)

    def aggregate(self, recipes: Sequence[Recipe], weights: Sequence[float]) -> LineageRecipe:
        """Returns the recipe of the weighted mean of some models of the space."""
        known = [cast("LineageRecipe", one) for one in recipes]
        return child_of(known, lambda places: Mix(parents=places, weights=tuple(weights)))

    def measures(self, recipe: Recipe) -> Mapping[str, float]:
        """Returns what all models of the space have in common."""
        del recipe
        return Sizes(self._family.base).measures(self._family.base.num_layers)

    def describe(self) -> Mapping[str, Any]:
        """Returns what the models are and what is searched."""
        settings, base = self._settings, self._family.base
        return {
            **self._family.describe(),
            "dtype": self._dtype,
            "sources": len(settings.sources),
            "genes": len(self.genes.names),
            "model_bytes": base.num_parameters * (4 if self._dtype == "float32" else 2),
            "summary": {
                "models": ", ".join(settings.sources),
                "base": settings.origin,
                "joined by": self._joining.describe(),
                "disk": f"up to {settings.cache_gib:g} GiB for models of the archive, on each node",
            },
        }

    def _pair(self, genome: Genome) -> tuple[str, str]:
        """Returns two different sources; the next one where both genes name the same."""
        first, second, names = int(genome[0]), int(genome[1]), self._settings.sources
        return names[first], names[(second + 1) % len(names) if first == second else second]

    def _founder(self, name: str) -> LineageRecipe:
        return LineageRecipe(sources=(name,), base=self._settings.origin, dtype=self._dtype)

    def _child(self, genome: Genome, parents: Sequence[LineageRecipe]) -> LineageRecipe:
        seed = 0
        if self._joining.is_random:
            facts = [self._seed, list(genome), *(one.digest() for one in parents)]
            seed = int(hash_json(facts)[:12], 16)
        return child_of(parents, lambda places: self._joining.step(genome[2:], places, seed))

    def _make_references(self) -> tuple[Reference, ...]:
        names, base = self._settings.sources, self._settings.origin
        copies = [
            Reference(
                name=name,
                recipe=self._founder(name),
                is_source=name in names,
                is_base=name == base,
            )
            for name in dict.fromkeys([base, *names])
        ]
        uniform = average(
            list(names), base=base, num_layers=self._family.base.num_layers, dtype=self._dtype
        )
        return (*copies, Reference(name="uniform merge", recipe=uniform))


def _genes(sources: tuple[str, ...], joining: Joining) -> Genes:
    """Returns the genes: two sources, then what joining needs."""
    return Genes(
        (
            Categorical(name="first", choices=sources),
            Categorical(name="second", choices=sources),
            *joining.genes,
        ),
        founders=tuple(
            (float(place), float(place), *joining.plain) for place in range(len(sources))
        ),
    )
