"""Whole models that descend from others: two parents, where to cut them, and how to mix the parts.

M2N2's search space (Abrantes, Lange & Tang 2025, https://arxiv.org/abs/2508.16204). What a model is
lies in its lineage and not in its genome: the genes say how the two parents of a proposal are
crossed, and are drawn afresh for each child. Without parents two of the sources are crossed, which
the genes name, so that a random search has the same operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, MinLen

from orchestrator.spaces.base import Reference
from orchestrator.spaces.dataflow import check_distinct
from orchestrator.spaces.genes import Categorical, Genes, Genome, Real
from orchestrator.spaces.sizes import Sizes
from orchestrator.spaces.sources import Family, open_family
from workers.builders.lineage_settings import LineageSettings
from workers.builders.settings import MergeSettings
from workers.lineage import Cross, Cut, LineageRecipe, child_of
from workers.models import library
from workers.models.library import ModelPolicy
from workers.recipe import Recipe, average

#: Parts of the names of attention's tensors, in the common architectures.
_ATTENTION = ("attn", "attention.")
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeModel:
    """Merges two models at a time, and their children, and theirs."""

    #: The models that lineages begin with: local folders or hub ids[@revision]. The first gives
    #: configuration and tokenizer.
    sources: Annotated[tuple[str, ...], MinLen(2)]
    #: What is cut and mixed on its own: the model as one vector, or attention and all the rest.
    parts: Literal["whole", "attention_and_rest"] = "whole"
    #: Whether parents are cut at all; otherwise the whole part is mixed alike.
    split: bool = True
    #: What the angle between two parents is taken between: each side of the cut by itself, as in
    #: the paper, or the whole part, as in its code.
    angle: Literal["part", "whole"] = "part"
    #: Standard deviation of noise on every weight of a child: only for models begun from scratch.
    noise: Annotated[float, Ge(0)] = 0.0
    #: Type of the models' weights; `auto` takes the first one's.
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

    @property
    def policy(self) -> ModelPolicy:
        """What its model folders may contain."""
        return ModelPolicy(trust_remote_code=self.trust_remote_code)

    def open(self, seed: int) -> WholeModelSpace:
        """Inspects the models and checks that they are of one family.

        Raises:
            ModelError: naming the model and what is wrong with it.
        """
        del seed  # noise follows from a model's lineage
        return WholeModelSpace(self, open_family(self.sources[0], self.sources, self.policy, None))


class WholeModelSpace:
    """A whole-model space whose models are known (a `Descending` space)."""

    descends = True

    def __init__(self, settings: WholeModel, family: Family) -> None:
        self._settings = settings
        self._family = family
        self._dtype = family.base.dtype if settings.dtype == "auto" else settings.dtype
        self.genes = _genes(settings)
        self.revisions: Mapping[str, str] = {
            model.reference: library.digest(model, settings.policy) for model in family.sources
        }
        self.builder = LineageSettings(
            merge=MergeSettings(
                base=settings.sources[0], dtype=self._dtype, policy=settings.policy
            ),
            revisions=self.revisions,
            cache_bytes=int(settings.cache_gib * _GIB),
            cache_folder=settings.cache_folder,
        )
        self.references = self._make_references()

    def decode(self, genome: Genome) -> LineageRecipe:
        """Returns the recipe of two sources' child; of one of them alone if the genes say so."""
        first, second = self._pair(genome)
        if genome in self.genes.founders:
            return self._founder(first)
        return self._child(genome, [self._founder(first), self._founder(second)])

    def descend(self, genome: Genome, parents: Sequence[Recipe]) -> LineageRecipe:
        """Returns the recipe of a child; a parent with itself has no other child than itself."""
        known = [cast("LineageRecipe", parent) for parent in parents]
        if len(known) < 2 or known[0] == known[1]:
            return known[0]
        return self._child(genome, known)

    def measures(self, recipe: Recipe) -> Mapping[str, float]:
        """Returns what all models of the space have in common."""
        del recipe
        return Sizes(self._family.base).measures(self._family.base.num_layers)

    def describe(self) -> Mapping[str, Any]:
        """Returns what the models are and what is searched."""
        settings, base = self._settings, self._family.base
        cut = "cut once" if settings.split else "not cut"
        angle = "each side's own angle" if settings.angle == "part" else "one angle for both sides"
        return {
            **self._family.describe(),
            "dtype": self._dtype,
            "sources": len(settings.sources),
            "genes": len(self.genes.names),
            "model_bytes": base.num_parameters * (4 if self._dtype == "float32" else 2),
            "summary": {
                "models": ", ".join(settings.sources),
                "parts": f"{settings.parts.replace('_', ' ')}, {cut}, {angle}",
                "disk": f"up to {settings.cache_gib:g} GiB for models of the archive, on each node",
            },
        }

    def _pair(self, genome: Genome) -> tuple[int, int]:
        """Returns two different sources; the next one where both genes name the same."""
        first, second = int(genome[0]), int(genome[1])
        num = len(self._settings.sources)
        return first, (second + 1) % num if first == second else second

    def _founder(self, place: int) -> LineageRecipe:
        settings = self._settings
        return LineageRecipe(
            sources=(settings.sources[place],), base=settings.sources[0], dtype=self._dtype
        )

    def _child(self, genome: Genome, parents: Sequence[LineageRecipe]) -> LineageRecipe:
        settings = self._settings
        filters: Sequence[tuple[str, ...]] = ((),)
        if settings.parts == "attention_and_rest":
            filters = (_ATTENTION, ())
        each = 2 if settings.split else 1
        cuts = tuple(
            Cut(filters=one, weight=numbers[0], split=numbers[1] if settings.split else 0.0)
            for one, start in zip(filters, range(2, 2 + each * len(filters), each), strict=True)
            for numbers in [genome[start : start + each]]
        )

        def step(places: tuple[int, int]) -> Cross:
            return Cross(parents=places, cuts=cuts, angle=settings.angle, sigma=settings.noise)

        return child_of(parents, step)

    def _make_references(self) -> tuple[Reference, ...]:
        names = self._settings.sources
        copies = [
            Reference(name=name, recipe=self._founder(place), is_source=True)
            for place, name in enumerate(names)
        ]
        uniform = average(
            list(names),
            base=names[0],
            num_layers=self._family.base.num_layers,
            dtype=self._dtype,
        )
        return (*copies, Reference(name="uniform merge", recipe=uniform))


def _genes(settings: WholeModel) -> Genes:
    """Returns the genes: two sources, then a weight and a split for each part."""
    parts = ("",) if settings.parts == "whole" else ("attention ", "rest ")
    names = [
        f"{part}{name}" for part in parts for name in ("weight", "split")[: 1 + settings.split]
    ]
    sources = tuple(settings.sources)
    # All of the second parent's numbers lie after a cut at 0 and are the first one's at weight 1.
    plain = (1.0, 0.0)[: 1 + settings.split] * len(parts)
    return Genes(
        (
            Categorical(name="first", choices=sources),
            Categorical(name="second", choices=sources),
            *(Real(name=name, low=0.0, high=1.0) for name in names),
        ),
        founders=tuple((float(place), float(place), *plain) for place in range(len(sources))),
    )
