"""A recipe says completely how to build a model; anyone can rebuild it from these values alone.

The layers of the built model are cut into consecutive slices, and each slice lists settings for
the tensors whose names contain a filter. As in mergekit, tensors before the first layer
(embeddings) follow the first slice and those after the last one (final norm, output head) the last
slice, unless the recipe has parts of their own for them, so that a recipe means the same model in
mergekit's own format (see `orchestrator.mergekit`).

A slice may take other layers of its sources than its own, and fewer sources than the recipe has:
routes through the layers of several models (data-flow space) are recipes, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias, cast

from evaluators.digest import hash_text
from evaluators.registry import Registry
from workers.models.layers import is_before_layers, layer_of

#: A model to read: a folder or hub id as the user wrote it, or a recipe that builds it.
Source: TypeAlias = "str | MergeRecipe"


class Recipe(Protocol):
    """What all recipes are: values that travel, are stored, hashed, and built from."""

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that has to be read."""
        ...

    def digest(self) -> str:
        """Returns a hash of all that the recipe says; equal recipes build equal models."""
        ...

    def text(self) -> str:
        """Returns the recipe as JSON, always in the same order."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain data that JSON can hold, with its registered `kind`."""
        ...


class Written:
    """A recipe's text and hash, made of what `as_dict` returns and kept in a field `_text`."""

    __slots__ = ()

    _text: str | None

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that has to be read: none, unless a kind of recipe says otherwise."""
        return ()

    def as_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain data that JSON can hold."""
        raise NotImplementedError

    def digest(self) -> str:
        """Returns a hash of all that the recipe says; equal recipes build equal models."""
        return hash_text(self.text())

    def text(self) -> str:
        """Returns the recipe as JSON, always in the same order."""
        if self._text is None:
            object.__setattr__(self, "_text", json.dumps(self.as_dict(), sort_keys=True))
            assert self._text is not None
        return self._text


#: Classes with `from_dict`, by the `kind` that `as_dict` says.
RECIPES = Registry(
    "recipe",
    {
        "merge": "workers.recipe:MergeRecipe",
        "lineage": "workers.lineage:LineageRecipe",
        "values": "workers.values:ValuesRecipe",
        "ctm": "workers.ctm.recipe:CtmRecipe",
    },
)


def read_recipe(data: Mapping[str, Any]) -> Recipe:
    """Makes a recipe from what its `as_dict` returned.

    Raises:
        UnknownNameError: if its kind is not known.
    """
    kind: Any = RECIPES.load(data.get("kind", "merge"))
    return cast("Recipe", kind.from_dict(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Parameter values for the tensors of a part whose names contain `filter`."""

    #: A part of a tensor's name; None matches every tensor.
    filter: str | None
    #: Parameter -> one value per source, or a single value where the method has one for all.
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How some tensors are made; the first setting that matches a tensor's name counts."""

    settings: tuple[Setting, ...]
    #: Places of the recipe's sources that take part, in the order of each parameter's values;
    #: None for all of them.
    sources: tuple[int, ...] | None = None

    def setting(self, tensor: str) -> Setting:
        """Returns the setting that applies to a tensor.

        Raises:
            ValueError: if none matches it.
        """
        for setting in self.settings:
            if setting.filter is None or setting.filter in tensor:
                return setting
        raise ValueError(f"the recipe has no setting for tensor {tensor!r}")

    def values(self, tensor: str) -> Mapping[str, tuple[float, ...]]:
        """Returns the parameter values that apply to a tensor.

        Raises:
            ValueError: if no setting matches it.
        """
        return self.setting(tensor).values


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice(Part):
    """How the layers `start <= layer < stop` of the built model are made."""

    start: int
    stop: int
    #: The first layer that is read of each source that takes part, then of the base; None reads
    #: the same layers everywhere.
    origins: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRecipe(Written):
    """A model made of models of one architecture, tensor by tensor.

    Raises:
        ValueError: if the slices are not consecutive from layer 0.
    """

    #: A merge method's registered name.
    method: str
    #: Models that are mixed, in the order of each parameter's values.
    sources: tuple[Source, ...]
    #: The model whose weights task vectors are taken from; also gives configuration and tokenizer.
    base: str
    slices: tuple[Slice, ...]
    #: Tensors before the first layer and after the last one; None follows the next slice.
    before: Part | None = None
    after: Part | None = None
    #: What the input of each layer is multiplied by, where that is not in the weights: the model
    #: then needs code of its own (see `workers.scaled_inputs`). Empty: by nothing.
    input_scales: tuple[float, ...] = ()
    #: The method's options (normalize, rescale).
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Type of the merged tensors ("bfloat16", "float16", "float32").
    dtype: str
    #: Seed of random masks; the same for all candidates of a campaign (common random numbers).
    seed: int = 0
    #: Which tokens the model has: the `base`'s, or the `union` of all models'.
    tokenizer: Literal["base", "union"] = "base"
    #: Where the chat template comes from: `base`, `none`, or a model's reference.
    chat_template: str = "base"
    #: What `text` returned: it is asked for when stored, when hashed and when compared.
    _text: str | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        edge = 0
        for part in self.slices:
            if part.start != edge or part.stop <= part.start:
                raise ValueError(
                    f"slices must follow one another from layer 0: expected a slice that starts "
                    f"at {edge}, got layers {part.start} to {part.stop}"
                )
            edge = part.stop
        if self.input_scales and len(self.input_scales) != edge:
            raise ValueError(
                f"expected a scale for each of {edge} layers, got {len(self.input_scales)}"
            )

    @property
    def num_layers(self) -> int:
        """Layers that the slices cover."""
        return self.slices[-1].stop if self.slices else 0

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the recipe reads, those of nested recipes included, its base last."""
        found: list[str] = []
        for source in self.sources:
            found += source.models if isinstance(source, MergeRecipe) else [source]
        return tuple(dict.fromkeys([*found, self.base]))

    def part(self, tensor: str) -> Part:
        """Returns the part that a tensor of the built model belongs to."""
        layer = layer_of(tensor)
        if layer is not None:
            return self._slice(tensor, layer)
        if is_before_layers(tensor):
            return self.before or self.slices[0]
        return self.after or self.slices[-1]

    def values(self, tensor: str) -> Mapping[str, tuple[float, ...]]:
        """Returns the parameter values that apply to a tensor.

        Raises:
            ValueError: if no setting matches it.
        """
        return self.part(tensor).values(tensor)

    def as_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain data that JSON can hold; what is not said is left out."""
        sources = [one.as_dict() if isinstance(one, MergeRecipe) else one for one in self.sources]
        return {
            "kind": "merge",
            "method": self.method,
            "sources": sources,
            "base": self.base,
            "slices": [_slice_as_dict(part) for part in self.slices],
            **({} if self.before is None else {"before": _part_as_dict(self.before)}),
            **({} if self.after is None else {"after": _part_as_dict(self.after)}),
            **({"input_scales": list(self.input_scales)} if self.input_scales else {}),
            "options": dict(self.options),
            "dtype": self.dtype,
            "seed": self.seed,
            **({} if self.tokenizer == "base" else {"tokenizer": self.tokenizer}),
            **({} if self.chat_template == "base" else {"chat_template": self.chat_template}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MergeRecipe:
        """Makes a recipe from what `as_dict` returned."""
        known = ("method", "base", "options", "dtype", "seed", "tokenizer", "chat_template")
        return cls(
            sources=tuple(
                one if isinstance(one, str) else cls.from_dict(one) for one in data["sources"]
            ),
            slices=tuple(_slice_from_dict(part) for part in data["slices"]),
            before=Part(**_part_fields(data["before"])) if "before" in data else None,
            after=Part(**_part_fields(data["after"])) if "after" in data else None,
            input_scales=tuple(data.get("input_scales", ())),
            **{name: data[name] for name in known if name in data},
        )

    def _slice(self, tensor: str, layer: int) -> Slice:
        for part in self.slices:
            if part.start <= layer < part.stop:
                return part
        raise ValueError(f"tensor {tensor!r} is in layer {layer}, past the recipe's last slice")


def _part_as_dict(part: Part) -> dict[str, Any]:
    settings = [
        {"filter": one.filter, "values": {name: list(held) for name, held in one.values.items()}}
        for one in part.settings
    ]
    return {
        "settings": settings,
        **({} if part.sources is None else {"sources": list(part.sources)}),
    }


def _slice_as_dict(part: Slice) -> dict[str, Any]:
    return {
        "start": part.start,
        "stop": part.stop,
        **_part_as_dict(part),
        **({} if part.origins is None else {"origins": list(part.origins)}),
    }


def _part_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    settings = tuple(
        Setting(
            filter=one["filter"],
            values={name: tuple(values) for name, values in one["values"].items()},
        )
        for one in data["settings"]
    )
    return {"settings": settings, "sources": _places(data.get("sources"))}


def _slice_from_dict(data: Mapping[str, Any]) -> Slice:
    origins = _places(data.get("origins"))
    return Slice(start=data["start"], stop=data["stop"], origins=origins, **_part_fields(data))


def _places(listed: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if listed is None else tuple(listed)


def plain_copy(model: str, *, base: str, num_layers: int, dtype: str) -> MergeRecipe:
    """Returns the recipe that gives a model back as it is."""
    return average([model], base=base, num_layers=num_layers, dtype=dtype)


def average(models: list[str], *, base: str, num_layers: int, dtype: str) -> MergeRecipe:
    """Returns the recipe of the uniform merge: the mean of the models' weights."""
    share = (1.0 / len(models),) * len(models)
    setting = Setting(filter=None, values={"weight": share})
    return MergeRecipe(
        method="linear",
        sources=tuple(models),
        base=base,
        slices=(Slice(start=0, stop=num_layers, settings=(setting,)),),
        options={"normalize": False},
        dtype=dtype,
    )


def mean_of(recipes: Sequence[MergeRecipe], weights: Sequence[float]) -> MergeRecipe:
    """Returns the recipe of the weighted mean of merges of one base, type and number of layers."""
    first = recipes[0]
    setting = Setting(filter=None, values={"weight": tuple(weights)})
    return replace(
        first,
        method="linear",
        sources=tuple(recipes),
        slices=(Slice(start=0, stop=first.num_layers, settings=(setting,)),),
        before=None,
        after=None,
        options={"normalize": False},
    )
