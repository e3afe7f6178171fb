"""Paths through the layers of several models: weights stay, the route of the hidden state changes.

Evolutionary Model Merge (Akiba et al. 2024, https://arxiv.org/abs/2403.13187), section 3.2. Tokens,
embeddings, final norm and output head are the first model's. Any number of models can take part,
the paper had two. `orchestrator.spaces.routes` says what the genes are, `workers.models.folding`
how scales become weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from orchestrator.spaces.base import Reference
from orchestrator.spaces.genes import Genome
from orchestrator.spaces.routes import Routes, RouteSettings
from orchestrator.spaces.sizes import Sizes
from workers.builders.settings import MergeSettings
from workers.models import library
from workers.models.folding import Branches, branches_of
from workers.models.layers import in_layer, layer_of
from workers.models.layouts import text_section
from workers.models.library import ModelError, ModelFacts, ModelPolicy
from workers.paths import Hop, path_recipe
from workers.recipe import MergeRecipe, Recipe, Source

#: What a configuration says of every layer alike: a model can have but one of each.
_SHAPES = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "n_head",
    "hidden_act",
    "activation_function",
)
#: What a layer can live with if it is another model's, though it was trained with its own.
_HABITS = (
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "sliding_window",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataflow(RouteSettings):
    """Searches the path that the hidden state takes through the layers of several models."""

    #: Models whose layers a path takes: local folders or hub ids[@revision]. The first gives
    #: embeddings, output head, configuration and tokenizer, and is where the search starts.
    sources: Annotated[tuple[str, ...], MinLen(1)]
    #: Type of the weights; `auto` takes the first model's.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    #: Whether an accelerator keeps the models' tensors: as far as half of its free memory goes
    #: (`auto`), all of them, or none. Changes speed alone.
    resident: Literal["auto", "always", "never"] = "auto"
    #: Read pickled weights (.bin, .pt), which safetensors were made to replace.
    allow_pickle: bool = False
    #: Run code that comes with a model.
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        self.check()
        check_distinct(self.sources)

    @property
    def policy(self) -> ModelPolicy:
        """What its model folders may contain."""
        return ModelPolicy(allow_pickle=self.allow_pickle, trust_remote_code=self.trust_remote_code)

    def open(self, seed: int) -> DataflowSpace:
        """Inspects the models and checks that layers of one fit between those of another.

        Raises:
            ValueError: naming the model or the key and what is wrong with it.
        """
        del seed  # nothing here is random
        return DataflowSpace(self, inspect_all(self.sources, self.policy))


class DataflowSpace:
    """A data-flow space whose models are known (a `Space`)."""

    def __init__(self, settings: Dataflow, models: Sequence[ModelFacts]) -> None:
        check_layers(models[0], models[1:])
        self._settings = settings
        self._models = models
        self._sizes = Sizes(models[0])
        self._branches = open_branches(settings, models[0])
        self._dtype = models[0].dtype if settings.dtype == "auto" else settings.dtype
        self._routes = Routes(settings, settings.sources, [one.num_layers for one in models])
        self.genes = self._routes.genes
        self.builder = MergeSettings(
            base=settings.sources[0],
            dtype=self._dtype,
            policy=settings.policy,
            resident=settings.resident,
        )
        self.revisions: Mapping[str, str] = {
            one.reference: library.digest(one, settings.policy) for one in models
        }
        self.references = tuple(self._make_references())

    def decode(self, genome: Genome) -> MergeRecipe:
        """Returns the recipe of a genome's path."""
        return self._recipe(self._routes.hops(genome))

    def measures(self, recipe: Recipe) -> Mapping[str, float]:
        """Returns size and layers of a path's model: layers of all models are of one kind."""
        assert isinstance(recipe, MergeRecipe), "a path is a merge recipe"
        return self._sizes.measures(recipe.num_layers)

    def describe(self) -> Mapping[str, Any]:
        """Returns what the models are and what is searched."""
        first = self._models[0]
        return {
            "architecture": first.architecture,
            "layers": first.num_layers,
            "sources": len(self._models),
            "parameters": first.num_parameters,
            "dtype": self._dtype,
            "vocabulary": len(first.vocabulary) if first.vocabulary is not None else None,
            "genes": len(self.genes.names),
            "source_bytes": sum(library.stored_bytes(model) for model in self._models),
            **route_facts(self._settings, self._routes, self._models, self._dtype),
        }

    def _recipe(self, hops: Sequence[Hop], sources: Sequence[Source] = ()) -> MergeRecipe:
        return path_recipe(
            hops,
            sources=sources or self._settings.sources,
            base=self._settings.sources[0],
            dtype=self._dtype,
            branches=self._branches,
        )

    def _make_references(self) -> Iterator[Reference]:
        identity = self._routes.identity
        first = self._settings.sources[0]
        recipe = self._recipe(identity)
        yield Reference(name=first, recipe=recipe, is_source=True, is_base=True)
        yield from unchanged(self._models, self._dtype)
        if self._settings.delete_one and len(identity) > 1:
            for hop in identity:
                name = f"{first} without layer {hop.layer}"
                rest = [one for one in identity if one != hop]
                yield Reference(name=name, recipe=self._recipe(rest))


def unchanged(models: Sequence[ModelFacts], dtype: str) -> Iterator[Reference]:
    """Returns every model but the first as it is, where it understands the first one's tokens."""
    first, *others = models
    for model in others:
        if _has_tokens_of(first, model):
            hops = [Hop(source=0, layer=layer) for layer in range(model.num_layers)]
            name = model.reference
            recipe = path_recipe(hops, sources=[name], base=first.reference, dtype=dtype)
            yield Reference(name=name, recipe=recipe, is_source=True)


def inspect_all(sources: Sequence[str], policy: ModelPolicy) -> list[ModelFacts]:
    """Inspects models.

    Raises:
        ModelError: naming the key and the model.
    """
    try:
        return [library.inspect(source, policy) for source in sources]
    except ModelError as error:
        raise ModelError(f"sources: {error}") from error


def check_distinct(sources: Sequence[str]) -> None:
    """Refuses a model that is named twice.

    Raises:
        ValueError: naming the key.
    """
    if len(set(sources)) != len(sources):
        raise ValueError(f"sources: a model is named twice in {list(sources)}")


def open_branches(settings: RouteSettings, first: ModelFacts) -> Branches | None:
    """Returns where scales are folded into; None if the model has to multiply inputs itself."""
    if settings.scaling == "none" or settings.fold == "never":
        return None
    try:
        branches = branches_of(first.architecture, text_section(first.config))
    except ValueError:
        return None  # the model multiplies inputs itself
    takes_them = settings.scale_bounds[0] >= 0 or branches.takes_signs
    return branches if takes_them else None


def route_facts(
    settings: RouteSettings, routes: Routes, models: Sequence[ModelFacts], dtype: str
) -> dict[str, Any]:
    """Returns what `shoal check` says of paths; bytes are those of the longest one's model."""
    first, *others = models
    inside = sum(_size(first, name) for name in first.tensors if layer_of(name) is not None)
    outside = first.num_parameters - inside
    longest = outside + inside * routes.max_layers // max(1, first.num_layers)
    differences = [line for one in others for line in _differences(first, one)]
    counts = {"indicator": routes.num_slots, "scale": len(routes.genes) - routes.num_slots}
    folded = open_branches(settings, first) is not None
    how = "folded into weights" if folded else "by the model: an exported folder brings code"
    scales = f"{settings.scaling}, {list(settings.scale_bounds)}, {how}"
    return {
        "model_bytes": longest * (4 if dtype == "float32" else 2),
        "slots": routes.num_slots,
        "max_layers": routes.max_layers,
        "genes_by_kind": {kind: count for kind, count in counts.items() if count},
        "config_differences": differences,
        "summary": {
            "path": routes.describe(),
            "scaling": scales if counts["scale"] else "none",
            **({"differences": "; ".join(differences)} if differences else {}),
        },
    }


def check_layers(first: ModelFacts, others: Sequence[ModelFacts]) -> None:
    """Checks that every layer of every model can take any place in the first model.

    Numbers of layers and vocabularies may differ.

    Raises:
        ModelError: naming the model that does not fit, in what, and by how much.
    """
    expected = _layer_shapes(first, 0)
    for model in (first, *others):
        pair = f"{model.reference!r} and {first.reference!r}"
        for what in ("architecture", "hidden_size"):
            ours, theirs = getattr(first, what), getattr(model, what)
            if ours != theirs:
                raise ModelError(
                    f"sources: {pair} differ in {what}: {theirs} and {ours}; their layers cannot "
                    "follow one another"
                )
        for line in _differences(first, model, _SHAPES):
            raise ModelError(f"sources: {line}; a model has one for all layers")
        _check_lists(pair, first, model)
        if not first.tensors or not model.tensors:
            continue  # pickled: found out when the weights are read
        for layer in range(model.num_layers):
            if _layer_shapes(model, layer) != expected:
                raise ModelError(
                    f"sources: the tensors of layer {layer} of {model.reference!r} are not like "
                    f"those of layer 0 of {first.reference!r}; paths need layers of one kind"
                )


def _layer_shapes(model: ModelFacts, layer: int) -> dict[str, tuple[int, ...]]:
    return {
        in_layer(name, 0): tuple(shape)
        for name, (_, shape) in model.tensors.items()
        if layer_of(name) == layer
    }


def _check_lists(pair: str, first: ModelFacts, model: ModelFacts) -> None:
    """Lists with an entry a layer (such as `layer_types`) are read from the first model's."""
    theirs = text_section(model.config)
    for key, ours in text_section(first.config).items():
        if not isinstance(ours, list) or len(ours) != first.num_layers or key not in theirs:
            continue
        kinds = {str(one) for one in (*ours, *theirs[key])}
        if ours != theirs[key] and len(kinds) > 1:
            raise ModelError(
                f"sources: {pair} differ in {key}: {theirs[key]} and {ours}; what their layers are "
                "follows from their place"
            )


def _differences(
    first: ModelFacts, model: ModelFacts, keys: Sequence[str] = _HABITS
) -> Iterator[str]:
    """Says what a model's layers will have to do with that is not their own."""
    ours, theirs = text_section(first.config), text_section(model.config)
    for key in keys:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            yield (
                f"{model.reference!r} has {key} {theirs[key]}, its layers get {ours[key]} of "
                f"{first.reference!r}"
            )


def _has_tokens_of(first: ModelFacts, model: ModelFacts) -> bool:
    known = first.vocabulary is not None and model.vocabulary is not None
    if known and first.vocabulary != model.vocabulary:
        return False
    return _outside(first) == _outside(model)


def _outside(model: ModelFacts) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of tensors outside of layers."""
    return {
        name: tuple(shape) for name, (_, shape) in model.tensors.items() if layer_of(name) is None
    }


def _size(model: ModelFacts, name: str) -> int:
    return math.prod(model.tensors[name][1])
