"""A recipe says completely how to build a model; anyone can rebuild it from these values alone.

Layers are cut into consecutive slices, and each slice lists settings for the tensors whose names
contain a filter. As in mergekit, tensors before the first layer (embeddings) follow the first
slice and those after the last one (final norm, output head) the last slice, so that a recipe means
the same model in mergekit's own format (see `workers.mergekit`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluators.digest import hash_text

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
_BEFORE_LAYERS = re.compile(r"embed|wte|wpe|word_embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Parameter values for the tensors of a slice whose names contain `filter`."""

    #: A part of a tensor's name; None matches every tensor.
    filter: str | None
    #: Parameter -> one value per source, or a single value where the method has one for all.
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Settings of the layers `start <= layer < stop`; the first setting that matches counts."""

    start: int
    stop: int
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRecipe:
    """A merge of models of one architecture, tensor by tensor.

    Raises:
        ValueError: if the slices are not consecutive from layer 0.
    """

    #: A merge method's registered name.
    method: str
    #: Models that are mixed, in the order of each parameter's values.
    sources: tuple[str, ...]
    #: The model whose weights task vectors are taken from; also gives configuration and tokenizer.
    base: str
    slices: tuple[Slice, ...]
    #: The method's options (normalize, rescale, lambda).
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Type of the merged tensors ("bfloat16", "float16", "float32").
    dtype: str
    #: Seed of random masks; the same for all candidates of a campaign (common random numbers).
    seed: int = 0
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

    @property
    def num_layers(self) -> int:
        """Layers that the slices cover."""
        return self.slices[-1].stop if self.slices else 0

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the recipe reads, its base last."""
        return tuple(dict.fromkeys([*self.sources, self.base]))

    def values(self, tensor: str) -> Mapping[str, tuple[float, ...]]:
        """Returns the parameter values that apply to a tensor.

        Raises:
            ValueError: if no setting matches it.
        """
        for setting in self._slice(tensor).settings:
            if setting.filter is None or setting.filter in tensor:
                return setting.values
        raise ValueError(f"the recipe has no setting for tensor {tensor!r}")

    def digest(self) -> str:
        """Returns a hash of all that the recipe says; equal recipes build equal models."""
        return hash_text(self.text())

    def text(self) -> str:
        """Returns the recipe as JSON, always in the same order."""
        if self._text is None:
            object.__setattr__(self, "_text", json.dumps(self.as_dict(), sort_keys=True))
            assert self._text is not None
        return self._text

    def as_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain data that JSON can hold."""
        return {
            "kind": "merge",
            "method": self.method,
            "sources": list(self.sources),
            "base": self.base,
            "slices": [_slice_as_dict(part) for part in self.slices],
            "options": dict(self.options),
            "dtype": self.dtype,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MergeRecipe:
        """Makes a recipe from what `as_dict` returned."""
        slices = tuple(
            Slice(
                start=part["start"],
                stop=part["stop"],
                settings=tuple(
                    Setting(
                        filter=setting["filter"],
                        values={name: tuple(values) for name, values in setting["values"].items()},
                    )
                    for setting in part["settings"]
                ),
            )
            for part in data["slices"]
        )
        fields = {name: data[name] for name in ("method", "base", "options", "dtype", "seed")}
        return cls(sources=tuple(data["sources"]), slices=slices, **fields)

    def _slice(self, tensor: str) -> Slice:
        layer = layer_of(tensor)
        if layer is None:
            return self.slices[0] if _BEFORE_LAYERS.search(tensor) else self.slices[-1]
        for part in self.slices:
            if part.start <= layer < part.stop:
                return part
        raise ValueError(f"tensor {tensor!r} is in layer {layer}, past the recipe's last slice")


def _slice_as_dict(part: Slice) -> dict[str, Any]:
    settings = [
        {"filter": one.filter, "values": {name: list(held) for name, held in one.values.items()}}
        for one in part.settings
    ]
    return {"start": part.start, "stop": part.stop, "settings": settings}


def layer_of(tensor: str) -> int | None:
    """Returns the layer that a tensor's name puts it in, or None."""
    found = _LAYER.search(tensor)
    return int(found.group(1)) if found else None


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
