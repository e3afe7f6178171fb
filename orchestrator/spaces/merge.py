"""Merges in parameter space: how the weights of several models mix, by groups of layers.

Evolutionary Model Merge (Akiba et al. 2024, https://arxiv.org/abs/2403.13187), section 3.1. The
genes are each source's parameters (weight, density), for each group of layers and each module
filter; which models of a pool take part; and which method merges them. Weights are not normalised
by default, because the best found summed to about two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, MinLen

from orchestrator.spaces import merge_checks
from orchestrator.spaces.base import Reference
from orchestrator.spaces.depth import Course, depth_of
from orchestrator.spaces.genes import Genome
from orchestrator.spaces.merge_genes import MergeGenes, chooses
from orchestrator.spaces.pool import Pool, check_sources, models_of, numbers_of
from orchestrator.spaces.sizes import Sizes
from orchestrator.spaces.sources import Family, open_family
from workers.builders.settings import MergeSettings
from workers.models import library
from workers.models.library import ModelPolicy
from workers.recipe import MergeRecipe, Recipe, average, mean_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Mixes the weights of models that share an architecture."""

    #: Local folder or hub id[@revision]: origin of task vectors, configuration and tokenizer.
    base: str
    #: Models to mix: local folders or hub ids[@revision]; or {pool: [...], choose: [least, most]},
    #: of which each candidate takes some.
    sources: Annotated[tuple[str, ...], MinLen(1)] | Pool
    #: Merge method, or a list of them, of which each candidate has one; the search starts from the
    #: first. One that takes another number of models than the pool allows gets as many as it takes.
    method: str | Annotated[tuple[str, ...], MinLen(1)]
    #: Groups of consecutive layers with genes of their own; 1 treats the whole model alike.
    layer_groups: Annotated[int, Ge(1)] = 1
    #: `block`: all layers of a group have its values. `linear` and `cosine`: groups are knots from
    #: the first to the last layer, and layers between them take what lies between.
    layer_genes: Course = "block"
    #: Parts of tensor names with genes of their own; all other tensors share one more set.
    filters: tuple[str, ...] = ()
    #: Parameter -> [low, high]; the method's own defaults where absent. Gives genes to parameters
    #: that have none by default (lambda), one for each group of layers and filter.
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    #: The methods' options, fixed for the campaign (normalize, rescale), and values of parameters
    #: that are not to be searched (lambda).
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Type of the merged weights; `auto` takes the base's.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    #: Tokens of the merged models where the models' vocabularies differ: the base's, or all of
    #: them. Left out, differing vocabularies are refused.
    tokenizer: Literal["base", "union"] | None = None
    #: Where the chat template comes from: `base`, `none`, or one of the models.
    chat_template: str = "base"
    #: Whether an accelerator keeps the sources' tensors: as far as half of its free memory goes
    #: (`auto`), all of them, or none. Changes speed alone.
    resident: Literal["auto", "always", "never"] = "auto"
    #: Read pickled weights (.bin, .pt), which safetensors were made to replace.
    allow_pickle: bool = False
    #: Run code that comes with a model.
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        known = merge_checks.known_methods(self.methods, listed=not isinstance(self.method, str))
        check_sources(self.sources)
        numbers, is_pool = numbers_of(self.sources), isinstance(self.sources, Pool)
        merge_checks.check_numbers(known, numbers, is_pool=is_pool)
        merge_checks.check_bounds(known, self.bounds)
        merge_checks.check_options(known, self.options, self.bounds)
        merge_checks.check_probabilities(known, self.options, self.bounds)
        choosing = len(known) > 1 or chooses(list(known.values()), numbers, len(self.models))
        merge_checks.check_searched(known, self.bounds, list(self.options), choosing=choosing)
        if len(set(self.filters)) != len(self.filters):
            raise ValueError(f"filters: one is named twice in {list(self.filters)}")
        templates = ("base", "none", self.base, *self.models)
        if self.chat_template not in templates:
            raise ValueError(
                f"chat_template: expected base, none or one of the models, got "
                f"{self.chat_template!r}"
            )

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods that a candidate may have."""
        return (self.method,) if isinstance(self.method, str) else self.method

    @property
    def models(self) -> tuple[str, ...]:
        """All models that may take part."""
        return models_of(self.sources)

    @property
    def policy(self) -> ModelPolicy:
        """What its model folders may contain."""
        return ModelPolicy(allow_pickle=self.allow_pickle, trust_remote_code=self.trust_remote_code)

    def open(self, seed: int) -> MergeSpace:
        """Inspects the models and checks that they are of one family.

        Raises:
            ModelError: naming the model and what is wrong with it.
        """
        family = open_family(self.base, self.models, self.policy, self.tokenizer)
        if self.layer_groups > family.base.num_layers:
            raise ValueError(
                f"layer_groups: {self.layer_groups} groups of layers, but {self.base!r} has "
                f"{family.base.num_layers} layers"
            )
        return MergeSpace(self, family, seed)


class MergeSpace:
    """A merge space whose models are known (a `Space`)."""

    def __init__(self, settings: Merge, family: Family, seed: int) -> None:
        self._settings = settings
        self._family = family
        self._seed = seed
        self._sizes = Sizes(family.base, family.alignment if family.needs_union else None)
        self._depth = depth_of(settings.layer_genes, family.base.num_layers, settings.layer_groups)
        self._dtype = family.base.dtype if settings.dtype == "auto" else settings.dtype
        self._genes = MergeGenes(
            methods=settings.methods,
            models=settings.models,
            numbers=numbers_of(settings.sources),
            bounds=settings.bounds,
            fixed=list(settings.options),
            filters=settings.filters,
            depth=self._depth,
        )
        self._options = {
            method: {
                name: value
                for name, value in settings.options.items()
                if name in facts.options or facts.parameter(name) is not None
            }
            for method, facts in merge_checks.known_methods(settings.methods, listed=True).items()
        }
        self.genes = self._genes.genes
        self.builder = MergeSettings(
            base=settings.base,
            dtype=self._dtype,
            policy=settings.policy,
            resident=settings.resident,
            models=settings.models,
            tokenizer="union" if family.needs_union else "base",
            chat_template=settings.chat_template,
        )
        self.revisions: Mapping[str, str] = {
            model.reference: library.digest(model, settings.policy) for model in family.models
        }
        self.references = self._make_references()

    def decode(self, genome: Genome) -> MergeRecipe:
        """Returns the recipe of a genome; numbers come in the order of `genes.names`."""
        choice = self._genes.decode(genome)
        taken = [self._settings.models[place] for place in choice.places]
        recipe = MergeRecipe(
            method=choice.method,
            sources=tuple(taken),
            base=self._settings.base,
            slices=choice.slices,
            options=self._options[choice.method],
            dtype=self._dtype,
            seed=self._seed,
            chat_template=self._settings.chat_template,
        )
        return self._with_tokens(recipe, taken)

    def aggregate(self, recipes: Sequence[Recipe], weights: Sequence[float]) -> MergeRecipe | None:
        """Returns the weighted mean of some merges; None where they have tokens of several models.

        Such merges cannot be merged again: their tokens are known only once they are built.
        """
        if self._family.needs_union:
            return None
        return mean_of([cast("MergeRecipe", one) for one in recipes], weights)

    def measures(self, recipe: Recipe) -> Mapping[str, float]:
        """Returns size and layers of a recipe's model: the same for all merges."""
        del recipe
        return self._sizes.measures(self._family.base.num_layers)

    def describe(self) -> Mapping[str, Any]:
        """Returns what the models are and what is searched."""
        settings, base = self._settings, self._family.base
        kinds = self._genes.kinds
        return {
            **self._family.describe(),
            "dtype": self._dtype,
            "sources": len(settings.models),
            "layer_groups": list(self._depth.names),
            "genes": len(self.genes.names),
            "genes_by_kind": dict(kinds),
            "methods": list(settings.methods),
            "choose": list(numbers_of(settings.sources)),
            "model_bytes": base.num_parameters * (4 if self._dtype == "float32" else 2),
            "summary": {
                "method": " or ".join(settings.methods),
                "sources": self._describe_sources(),
                "layers": self._depth.describe(),
                "tensors": self._family.describe_tensors(settings.filters),
            },
        }

    def _describe_sources(self) -> str:
        models = self._settings.models
        least, most = numbers_of(self._settings.sources)
        number = f"{least}" if least == most else f"{least} to {most}"
        of = f"all {most}" if least == len(models) else f"{number} of {len(models)}"
        return f"{of}: {', '.join(models)}"

    def _with_tokens(self, recipe: MergeRecipe, taken: Sequence[str]) -> MergeRecipe:
        """Says which tokens the merge has.

        With the tokens of all models every recipe names every model, because each candidate must
        have the same tokens, whichever models it takes.
        """
        if not self._family.needs_union:
            return recipe
        everyone = tuple(dict.fromkeys([*self._settings.models, self._settings.base]))
        places = tuple(everyone.index(model) for model in taken)
        slices = tuple(replace(part, sources=places) for part in recipe.slices)
        return replace(recipe, sources=everyone, slices=slices, tokenizer="union")

    def _make_references(self) -> tuple[Reference, ...]:
        base, models = self._settings.base, self._settings.models
        copies = [
            replace(
                self._reference(model, [model]), is_source=model in models, is_base=model == base
            )
            for model in dict.fromkeys([base, *models])
        ]
        return (*copies, self._reference("uniform merge", list(models)))

    def _reference(self, name: str, models: list[str]) -> Reference:
        """Returns the mean of some models as a reference."""
        recipe = average(
            models,
            base=self._settings.base,
            num_layers=self._family.base.num_layers,
            dtype=self._dtype,
        )
        recipe = replace(recipe, chat_template=self._settings.chat_template)
        return Reference(name=name, recipe=self._with_tokens(recipe, models))
