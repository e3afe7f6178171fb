"""One recipe, ready to give any tensor of the model that it describes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, cast

import torch

from workers.merging.combinations import Batch, alone
from workers.merging.combine import carry_out
from workers.merging.inputs import TensorInputs
from workers.merging.workshop import NonFiniteWeightsError, Workshop
from workers.methods.base import Method
from workers.methods.registry import METHODS, MethodFacts
from workers.models.layers import in_layer, layer_of
from workers.models.library import ModelError
from workers.models.safetensors_file import TensorFacts
from workers.models.weights import Reader
from workers.recipe import MergeRecipe, Part, Setting, Slice, Source

#: Types whose tensors are merged; all others are taken from the first source.
FLOATS = ("float64", "float32", "float16", "bfloat16")


class MergedReader:
    """The tensors of a recipe that is a source of another one, each made once."""

    def __init__(self, merge: TensorMerge) -> None:
        self.reference = merge.recipe.digest()
        self._merge = merge
        self._names = dict.fromkeys(merge.names())
        self._made: dict[str, torch.Tensor] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def facts(self, name: str) -> TensorFacts:
        """Returns a merged tensor's type and shape."""
        return self._merge.facts(name)

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a merged tensor."""
        if name not in self._made:
            self._made[name] = self._merge.tensor(name)
        return self._made[name]


class TensorMerge:
    """One recipe, ready to give any tensor of the model that it describes.

    Raises:
        ValueError: if the recipe does not fit its method.
    """

    def __init__(self, recipe: MergeRecipe, workshop: Workshop) -> None:
        self.recipe = recipe
        self._workshop = workshop
        self._method = cast("Method", METHODS.load(recipe.method)())
        self._facts = METHODS.facts(recipe.method)
        _check_recipe(recipe, self._facts)
        self._options = {**self._facts.options, **_options(recipe, self._facts)}
        self._dtype: torch.dtype = getattr(torch, recipe.dtype)
        self.alignment = workshop.alignment(recipe)
        self._base = workshop.reader(recipe.base, self.alignment)
        self._sources = [self._reader(source) for source in recipe.sources]
        self._values: dict[tuple[int, int], Mapping[str, tuple[float, ...]]] = {}

    def names(self) -> list[str]:
        """Returns the names of the built model's tensors."""
        names = [name for name in self._base if layer_of(name) is None]
        for part in self.recipe.slices:
            place, origin = self._first_taken(part)
            by_layer: dict[int | None, list[str]] = {}
            for name in self._sources[place]:
                by_layer.setdefault(layer_of(name), []).append(name)
            for layer in range(part.start, part.stop):
                found = by_layer.get(origin + layer - part.start, [])
                if not found:
                    raise ModelError(
                        f"model {self._sources[place].reference!r} has no layer "
                        f"{origin + layer - part.start}, which the recipe takes as layer {layer}"
                    )
                names += [in_layer(name, layer) for name in found]
        return names

    def facts(self, name: str) -> TensorFacts:
        """Returns a tensor's type, as torch names it, and shape; reads and makes nothing."""
        place, at = self._taken(self.recipe.part(name), name)[0]
        kind, shape = self._sources[place].facts(at)
        return (self.recipe.dtype if kind in FLOATS else kind), shape

    def origins(self) -> tuple[int, ...]:
        """Returns for each layer of the built model the layer it has in its first source."""
        found: list[int] = []
        for part in self.recipe.slices:
            _, origin = self._first_taken(part)
            found += range(origin, origin + part.stop - part.start)
        return tuple(found)

    def signature(self, name: str) -> Hashable:
        """Returns all that a tensor depends on beside the models' content."""
        recipe, part = self.recipe, self.recipe.part(name)
        setting = part.setting(name)
        sources = [
            (self._sources[place].reference, place_name)
            for place, place_name in self._taken(part, name)
        ]
        values = tuple((key, held) for key, held in sorted(setting.values.items()))
        # The recipe's own options may fix parameters, too, which the method's do not list.
        fixed = {**self._options, **recipe.options}
        options = tuple(sorted((key, str(held)) for key, held in fixed.items()))
        base = (self._base.reference, self._base_name(part, name))
        return (recipe.method, recipe.dtype, recipe.seed, tuple(sources), base, values, options)

    def tensor(self, name: str) -> torch.Tensor:
        """Returns one tensor of the model in the recipe's type.

        It is a source's own tensor, not to be written to, where nothing has to be done to it.

        Raises:
            ValueError: if shapes or values do not fit, or the result is not finite.
        """
        first = self._first(name)
        if not first.is_floating_point():
            return first
        inputs = self._inputs(name)
        plan = self._method.plan(inputs)
        same = alone(plan)
        if same is not None and inputs.model(same).dtype == self._dtype:
            return inputs.model(same).view(first.shape)
        out = torch.empty(first.shape, dtype=self._dtype, device=first.device)
        self._finish(name, is_finite=carry_out(plan, inputs, out))
        return out

    def write(self, targets: Mapping[str, torch.Tensor]) -> None:
        """Writes tensors of the model, converted to the targets' types.

        Raises:
            ValueError: if shapes or values do not fit, or the result is not finite.
        """
        batch = Batch()
        for name, out in targets.items():
            self._write(name, out, batch)
        for name in batch.run():
            self._finish(name, is_finite=False)

    def _write(self, name: str, out: torch.Tensor, batch: Batch) -> None:
        """Writes a tensor, or leaves it to the batch."""
        if out.dtype != self._dtype or not out.is_contiguous():
            out.copy_(self.tensor(name))
            return
        inputs = self._inputs(name)
        if inputs.tensor_shape != out.shape:
            raise ModelError(
                f"tensor {name!r} of {self._sources[0].reference!r} has shape "
                f"{list(inputs.tensor_shape)}, the model built has {list(out.shape)}"
            )
        plan = self._method.plan(inputs)
        if not batch.add(name, plan, inputs, out):
            self._finish(name, is_finite=carry_out(plan, inputs, out))

    def _read(self, reader: Reader, name: str) -> torch.Tensor:
        """Returns a tensor on the device; merged ones are there and were looked at."""
        if isinstance(reader, MergedReader):
            return reader.tensor(name)
        return self._workshop.read(reader, name)

    def _reader(self, source: Source) -> Reader:
        if isinstance(source, MergeRecipe):
            return MergedReader(TensorMerge(source, self._workshop))
        return self._workshop.reader(source, self.alignment)

    def _finish(self, name: str, *, is_finite: bool) -> None:
        if not is_finite:
            raise NonFiniteWeightsError(
                f"tensor {name!r} of the merge is not finite in {self.recipe.dtype}"
            )

    def _first(self, name: str) -> torch.Tensor:
        place, place_name = self._taken(self.recipe.part(name), name)[0]
        return self._read(self._sources[place], place_name)

    def _inputs(self, name: str) -> TensorInputs:
        recipe, part = self.recipe, self.recipe.part(name)
        taken = self._taken(part, name)
        tensors = [self._read(self._sources[place], at) for place, at in taken]
        base = None
        if self._facts.needs_base or self._options.get("use_base"):
            base = self._read(self._base, self._base_name(part, name))
        for (place, at), tensor in zip(taken, tensors, strict=True):
            expected = tensors[0].shape if base is None else base.shape
            if tensor.shape != expected:
                raise ModelError(
                    f"tensor {at!r} of {self._sources[place].reference!r} has shape "
                    f"{list(tensor.shape)}, expected {list(expected)} as in "
                    f"{(self._sources[taken[0][0]] if base is None else self._base).reference!r}"
                )
        return TensorInputs(
            name=name,
            sources=tensors,
            base=base,
            identities=[f"{self._sources[place].reference}:{at}" for place, at in taken],
            base_identity=f"{self._base.reference}:{self._base_name(part, name)}",
            values=self._values_of(part.setting(name), name, len(taken)),
            options=self._options,
            seed=recipe.seed,
            cache=self._workshop.cache,
        )

    def _values_of(
        self, setting: Setting, name: str, num_sources: int
    ) -> Mapping[str, tuple[float, ...]]:
        key = (id(setting), num_sources)  # parts of other sources may share a setting
        if key not in self._values:
            self._values[key] = _checked_values(
                setting, self.recipe, self._facts, name, num_sources
            )
        return self._values[key]

    def _taken(self, part: Part, name: str) -> list[tuple[int, str]]:
        """Returns the sources that take part, each with its own name of the tensor."""
        places = range(len(self._sources)) if part.sources is None else part.sources
        if not isinstance(part, Slice) or part.origins is None:
            return [(place, name) for place in places]
        return [
            (place, _moved(name, part, origin))
            for place, origin in zip(places, part.origins[: len(places)], strict=True)
        ]

    def _base_name(self, part: Part, name: str) -> str:
        if not isinstance(part, Slice) or part.origins is None:
            return name
        num_sources = len(self._sources) if part.sources is None else len(part.sources)
        if len(part.origins) <= num_sources:
            return name
        return _moved(name, part, part.origins[num_sources])

    def _first_taken(self, part: Slice) -> tuple[int, int]:
        """Returns the first source that takes part in a slice, and the layer it starts at."""
        place = 0 if part.sources is None else part.sources[0]
        return place, part.start if part.origins is None else part.origins[0]


def _moved(name: str, part: Slice, origin: int) -> str:
    """Returns the name of a slice's tensor in a source that is read from the layer `origin` on."""
    layer = layer_of(name)  # tensors outside layers may follow a slice, but are the same everywhere
    return name if layer is None else in_layer(name, layer - part.start + origin)


def _checked_values(
    setting: Setting, recipe: MergeRecipe, facts: MethodFacts, tensor: str, num_sources: int
) -> Mapping[str, tuple[float, ...]]:
    """Returns every parameter's values, defaults filled in."""
    found: dict[str, tuple[float, ...]] = {}
    for parameter in facts.parameters:
        expected = parameter.count(num_sources)
        given = parameter.values(setting.values, recipe.options, num_sources)
        if len(given) != expected:
            raise ValueError(
                f"{recipe.method} needs {expected} values of {parameter.name!r} for {tensor!r}, "
                f"the recipe has {len(given)}"
            )
        for value in given:
            if not parameter.accepts(value):
                raise ValueError(
                    f"{parameter.name} {value} is outside {parameter.describe()} for {tensor!r}"
                )
        found[parameter.name] = given
    return found


def _options(recipe: MergeRecipe, facts: MethodFacts) -> Mapping[str, Any]:
    return {name: held for name, held in recipe.options.items() if name in facts.options}


def _check_recipe(recipe: MergeRecipe, facts: MethodFacts) -> None:
    known = {*facts.options, *(parameter.name for parameter in facts.parameters)}
    unknown = sorted(set(recipe.options) - known)
    if unknown:
        raise ValueError(f"{recipe.method} has no option {unknown[0]!r}")
    parts: list[Part] = [*recipe.slices, *(one for one in (recipe.before, recipe.after) if one)]
    for part in parts:
        count = len(recipe.sources) if part.sources is None else len(part.sources)
        if part.sources is not None and any(
            not 0 <= place < len(recipe.sources) for place in part.sources
        ):
            raise ValueError(
                f"the recipe has {len(recipe.sources)} sources, a part takes {part.sources}"
            )
        if facts.num_sources not in (None, count):
            raise ValueError(
                f"{recipe.method} merges exactly {facts.num_sources} sources, got {count}"
            )
        if count < facts.least_sources:
            raise ValueError(
                f"{recipe.method} needs at least {facts.least_sources} sources, got {count}"
            )
