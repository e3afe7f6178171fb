"""Merges in parameter space: how the weights of several models mix, by groups of layers.

Evolutionary Model Merge (Akiba et al. 2024, https://arxiv.org/abs/2403.13187), section 3.1. The
genes are each source's parameters (weight, density), for each group of layers and each module
filter. Weights are not normalised by default, because the best found summed to about two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from evaluators.registry import UnknownNameError, nearest
from orchestrator.spaces.base import Box, Genome, Reference
from workers import library
from workers.builders.settings import MergeSettings
from workers.library import ModelError, ModelFacts, ModelPolicy
from workers.methods.registry import METHODS, MethodFacts, Parameter
from workers.recipe import MergeRecipe, Setting, Slice, average, plain_copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Mixes the weights of models that share an architecture."""

    #: Local folder or hub id[@revision]: origin of task vectors, configuration and tokenizer.
    base: str
    #: Models to mix: local folders or hub ids[@revision].
    sources: Annotated[tuple[str, ...], MinLen(1)]
    #: Merge method.
    method: str
    #: Groups of consecutive layers with genes of their own; 1 treats the whole model alike.
    layer_groups: Annotated[int, Ge(1)] = 1
    #: Parts of tensor names with genes of their own; all other tensors share one more set.
    filters: tuple[str, ...] = ()
    #: Parameter -> [low, high]; the method's own defaults where absent.
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    #: The method's options, fixed for the campaign (normalize, lambda, rescale).
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Type of the merged weights; `auto` takes the base's.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    #: Read pickled weights (.bin, .pt), which safetensors were made to replace.
    allow_pickle: bool = False
    #: Run code that comes with a model.
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        try:
            facts = METHODS.facts(self.method)
        except UnknownNameError as error:
            raise ValueError(f"method: {error}") from error
        if facts.num_sources not in (None, len(self.sources)):
            raise ValueError(
                f"sources: {self.method} merges exactly {facts.num_sources} models, got "
                f"{len(self.sources)}"
            )
        if len(set(self.sources)) != len(self.sources):
            raise ValueError(f"sources: a model is named twice in {list(self.sources)}")
        _check_bounds(self.method, facts, self.bounds)
        for name in self.options:
            if name not in facts.options:
                raise ValueError(
                    f"options: {self.method} has no option {name!r}; {nearest(name, facts.options)}"
                )

    @property
    def policy(self) -> ModelPolicy:
        """What its model folders may contain."""
        return ModelPolicy(allow_pickle=self.allow_pickle, trust_remote_code=self.trust_remote_code)

    def open(self, seed: int) -> MergeSpace:
        """Inspects the models and checks that they are of one family.

        Raises:
            ModelError: naming the model and what is wrong with it.
        """
        policy = self.policy
        base = _inspect("base", self.base, policy)
        sources = [_inspect("sources", source, policy) for source in self.sources]
        try:
            library.check_family(base, sources)
        except ModelError as error:
            raise ModelError(f"sources: {error}") from error
        if self.layer_groups > base.num_layers:
            raise ValueError(
                f"layer_groups: {self.layer_groups} groups of layers, but {self.base!r} has "
                f"{base.num_layers} layers"
            )
        return MergeSpace(self, [base, *sources], policy, seed)


class MergeSpace:
    """A merge space whose models are known (a `Space`)."""

    def __init__(
        self, settings: Merge, models: list[ModelFacts], policy: ModelPolicy, seed: int
    ) -> None:
        self._settings = settings
        self._models = models
        self._policy = policy
        self._seed = seed
        self._facts = METHODS.facts(settings.method)
        self._edges = _edges(models[0].num_layers, settings.layer_groups)
        self._dtype = models[0].dtype if settings.dtype == "auto" else settings.dtype
        self.box = self._make_box()
        self.builder = MergeSettings(base=settings.base, dtype=self._dtype, policy=policy)
        self.revisions: Mapping[str, str] = {
            model.reference: library.digest(model, policy) for model in models
        }
        self.references = self._make_references()

    def decode(self, genome: Genome) -> MergeRecipe:
        """Returns the recipe of a genome; genes come in the order of `box.names`."""
        genes = iter(genome)
        slices = tuple(
            Slice(start=start, stop=stop, settings=tuple(self._settings_of(genes)))
            for start, stop in self._edges
        )
        return MergeRecipe(
            method=self._settings.method,
            sources=self._settings.sources,
            base=self._settings.base,
            slices=slices,
            options=dict(self._settings.options),
            dtype=self._dtype,
            seed=self._seed,
        )

    def describe(self) -> Mapping[str, Any]:
        """Returns what the models are and what is searched."""
        base = self._models[0]
        return {
            "architecture": base.architecture,
            "layers": base.num_layers,
            "sources": len(self._settings.sources),
            "parameters": base.num_parameters,
            "dtype": self._dtype,
            "vocabulary": len(base.vocabulary) if base.vocabulary is not None else None,
            "layer_groups": [f"{start}-{stop - 1}" for start, stop in self._edges],
            "genes": len(self.box.names),
            "model_bytes": base.num_parameters * (4 if self._dtype == "float32" else 2),
            "source_bytes": sum(library.stored_bytes(model) for model in self._models),
        }

    def _settings_of(self, genes: Iterator[float]) -> Iterator[Setting]:
        for module in self._filters():
            values = {
                parameter.name: tuple(next(genes) for _ in self._holders(parameter))
                for parameter in self._facts.parameters
            }
            yield Setting(filter=module, values=values)

    def _filters(self) -> tuple[str | None, ...]:
        return (*self._settings.filters, None)

    def _holders(self, parameter: Parameter) -> tuple[str, ...]:
        """Returns whom a parameter has values for: each source, or the merge as a whole."""
        return self._settings.sources if parameter.per == "source" else ("",)

    def _make_box(self) -> Box:
        names: list[str] = []
        lower: list[float] = []
        upper: list[float] = []
        neutral: list[float] = []
        for start, stop in self._edges:
            for module in self._filters():
                for parameter in self._facts.parameters:
                    low, high = self._settings.bounds.get(parameter.name, parameter.default_bounds)
                    for holder in self._holders(parameter):
                        parts = (
                            parameter.name,
                            holder,
                            f"layers {start}-{stop - 1}",
                            module or "rest",
                        )
                        names.append(" ".join(part for part in parts if part))
                        lower.append(low)
                        upper.append(high)
                        plain = parameter.plain(len(self._settings.sources))
                        neutral.append(min(max(plain, low), high))
        return Box(tuple(names), tuple(lower), tuple(upper), tuple(neutral))

    def _make_references(self) -> tuple[Reference, ...]:
        base, layers = self._settings.base, self._models[0].num_layers
        known = dict.fromkeys([base, *self._settings.sources])
        copies = [
            Reference(
                name=model,
                recipe=plain_copy(model, base=base, num_layers=layers, dtype=self._dtype),
            )
            for model in known
        ]
        uniform = average(
            list(self._settings.sources), base=base, num_layers=layers, dtype=self._dtype
        )
        return (*copies, Reference(name="uniform merge", recipe=uniform))


def _inspect(key: str, reference: str, policy: ModelPolicy) -> ModelFacts:
    try:
        return library.inspect(reference, policy)
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error


def _edges(num_layers: int, groups: int) -> list[tuple[int, int]]:
    """Cuts layers into consecutive groups whose sizes differ by at most one."""
    cuts = [round(group * num_layers / groups) for group in range(groups + 1)]
    return list(itertools.pairwise(cuts))


def _check_bounds(
    method: str, facts: MethodFacts, bounds: Mapping[str, tuple[float, float]]
) -> None:
    parameters = {parameter.name: parameter for parameter in facts.parameters}
    for name, (low, high) in bounds.items():
        if name not in parameters:
            raise ValueError(
                f"bounds: {method} has no parameter {name!r}; {nearest(name, parameters)}"
            )
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                f"bounds.{name}: expected [low, high] with low < high, got [{low}, {high}]"
            )
        for edge in (low, high):
            if not parameters[name].accepts(edge):
                raise ValueError(
                    f"bounds.{name}: {edge} is outside what {method} accepts, "
                    f"{parameters[name].describe()}"
                )
