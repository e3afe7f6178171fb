"""Slices of a recipe in mergekit's format: models with their layers, and values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.mergekit.dialect import SAID_ELSEWHERE, Dialect, RecipeError
from orchestrator.mergekit.runs import Run, find_runs
from orchestrator.mergekit.shares import values_of
from orchestrator.mergekit.values import names_layer
from workers.methods.registry import MethodFacts, Parameter
from workers.recipe import MergeRecipe, Part, Slice, Source


class SliceWriter:
    """Writes the slices of one recipe."""

    def __init__(self, recipe: MergeRecipe, facts: MethodFacts, dialect: Dialect) -> None:
        self._recipe = recipe
        self._facts = facts
        self._dialect = dialect
        self._options = {**facts.options, **recipe.options}
        #: What mergekit calls the base model; None if there must be none.
        self.base = self._find_base()

    def parameters(self) -> dict[str, Any]:
        """Returns what holds for the whole recipe."""
        found: dict[str, Any] = {}
        for name, value in self._options.items():
            if name in self._dialect.fixed:
                self._check_fixed(name, (value,))
            elif name == "rescale":
                found[name] = value != "none"
            elif name not in SAID_ELSEWHERE:
                found[name] = int(value) if name in self._dialect.whole else value
        return found

    def slices(self) -> list[dict[str, Any]]:
        """Returns the slices, runs of single layers as one with gradients.

        Raises:
            RecipeError: if tensors after the layers cannot be said.
        """
        recipe = self._recipe
        runs = find_runs(recipe, self._dialect.whole)
        found = [self._slice(run) for run in runs]
        first, last = runs[0].parts[0], runs[-1].parts[0]
        if recipe.before is not None and not _is_same(recipe.before, first):
            found.insert(0, self._slice(_no_layers(recipe.before)))
        # mergekit reads a gradient's first value for tensors after the layers.
        if recipe.after is not None and not _is_same(recipe.after, last):
            found.append(self._slice(_no_layers(recipe.after)))
        if len(found[0]["sources"]) < len(found[-1]["sources"]):
            raise RecipeError(
                f"tensors after the layers are made of {len(found[-1]['sources'])} models, those "
                f"before of {len(found[0]['sources'])}: mergekit would use as many for both"
            )
        return found

    def _find_base(self) -> str | None:
        role = self._dialect.base
        if role == "optional" and not self._options["use_base"]:
            return None
        if role == "first":
            places = self._recipe.slices[0].sources or (0,)
            return str(self._recipe.sources[places[0]])
        return self._recipe.base

    def _slice(self, run: Run) -> dict[str, Any]:
        """Returns one slice: its models with their layers and own values, and values of all."""
        recipe, part = self._recipe, run.parts[0]
        places = tuple(range(len(recipe.sources))) if part.sources is None else part.sources
        origins = part.origins or (part.start,) * (len(places) + 1)
        models = [recipe.sources[place] for place in places]
        is_task_vector = self._dialect.base in ("needed", "optional") and self.base is not None
        length = run.stop - part.start
        sources = []
        for index, model in enumerate(models):
            if is_task_vector and model == self.base:
                self._check_without_base(models)
                continue
            self._check_filters(part, origins[index])
            own = self._own_values(run, index, len(places))
            entry = _source(model, origins[index], length)
            sources.append({**entry, "parameters": own} if own else entry)
        if not sources:
            raise RecipeError(f"there is nothing to merge with the base {self.base!r}")
        if is_task_vector:
            assert self.base is not None
            origin = origins[len(places)] if len(origins) > len(places) else part.start
            sources.append(_source(self.base, origin, length))
        _refuse_twice([str(model) for model in models])
        found: dict[str, Any] = {"sources": sources}
        whole = self._whole_values(run, len(places))
        if whole:
            found["parameters"] = whole
        if self._dialect.base == "first" and models[0] != self.base:
            found["base_model"] = write_reference(str(models[0]))
        return found

    def _own_values(self, run: Run, index: int, count: int) -> dict[str, Any]:
        found = {}
        for parameter in self._facts.parameters:
            is_own = parameter.name in self._dialect.own
            if (parameter.per == "source" or is_own) and self._is_said(run, parameter):
                found[parameter.name] = self._value(run, parameter, 0 if is_own else index, count)
        return found

    def _whole_values(self, run: Run, count: int) -> dict[str, Any]:
        return {
            parameter.name: self._value(run, parameter, 0, count)
            for parameter in self._facts.parameters
            if parameter.per == "merge"
            and parameter.name not in self._dialect.own
            and self._is_said(run, parameter)
        }

    def _is_said(self, run: Run, parameter: Parameter) -> bool:
        """Whether a slice has values of its own for a parameter that mergekit has."""
        given = [
            setting.values[parameter.name]
            for part in run.parts
            for setting in part.settings
            if parameter.name in setting.values
        ]
        if parameter.name in self._dialect.fixed:
            for values in given:
                self._check_fixed(parameter.name, values)
            return False
        has_value = parameter.name in self._options or parameter.default is not None
        return bool(given) or not has_value

    def _value(self, run: Run, parameter: Parameter, index: int, count: int) -> Any:
        """Returns a number, numbers for each layer, or either with filters."""
        found: list[dict[str, Any]] = []
        for place, setting in enumerate(run.parts[0].settings):
            numbers = [
                values_of(self._recipe, part.settings[place], parameter, count)[index]
                for part in run.parts
            ]
            if parameter.name in self._dialect.whole:
                numbers = [int(number) for number in numbers]
            value = numbers[0] if len(set(numbers)) == 1 else numbers
            if setting.filter is None:
                found.append({"value": value})
                break
            if setting.filter != "*":  # a star stands for every tensor in mergekit, not here
                found.append({"filter": setting.filter, "value": value})
        return found[0]["value"] if found[0].keys() == {"value"} else found

    def _check_fixed(self, name: str, values: Sequence[float]) -> None:
        """Refuses a value of a parameter that mergekit does not have."""
        stands = self._dialect.fixed[name]
        parameter = self._facts.parameter(name)
        is_share = parameter is not None and parameter.per == "source"
        if (is_share and len(set(values)) > 1) or (not is_share and set(values) != {stands}):
            raise RecipeError(
                f"mergekit's {self._recipe.method} has no {name!r}: it computes with {stands:g} "
                f"throughout, the recipe has {', '.join(f'{value:g}' for value in values)}"
            )

    def _check_filters(self, part: Slice, origin: int) -> None:
        """Refuses filters by layers where mergekit compares them with other layers than we do."""
        for setting in part.settings:
            if origin != part.start and names_layer(setting.filter):
                raise RecipeError(
                    f"filter {setting.filter!r} may name a layer; mergekit compares it with layer "
                    f"{origin} of the source, not with layer {part.start} of the built model"
                )

    def _check_without_base(self, models: Sequence[Source]) -> None:
        """Refuses a base that is a source, too, unless its task vector of zeros changes nothing."""
        is_weighted = self._facts.parameter("lambda") is not None
        if len(models) < 2 or not is_weighted or self._counts_shares():
            raise RecipeError(
                f"{self.base!r} is base and source of {self._recipe.method} at once, which "
                "mergekit's format cannot say"
            )

    def _counts_shares(self) -> bool:
        return bool(self._options.get("normalize")) and not self._dialect.votes


def write_reference(model: str) -> Any:
    """Returns a model's reference; folders whose names mergekit would take apart get a key.

    Raises:
        RecipeError: if it has more adapters than one.
    """
    if ("+" in model or "@" in model) and Path(model).expanduser().is_dir():
        return {"model": {"path": model}}
    if model.count("+") > 1:
        raise RecipeError(
            f"{model!r} has several adapters, mergekit applies one: store the model with the "
            "others in it"
        )
    return model


def _source(model: Source, origin: int, length: int) -> dict[str, Any]:
    return {"model": write_reference(str(model)), "layer_range": [origin, origin + length]}


def _no_layers(part: Part) -> Run:
    """Returns a slice of no layers, whose values mergekit takes for tensors outside of layers."""
    empty = Slice(start=0, stop=0, settings=part.settings, sources=part.sources)
    return Run(parts=(empty,), stop=0)


def _is_same(part: Part, other: Part) -> bool:
    return (part.settings, part.sources) == (other.settings, other.sources)


def _refuse_twice(models: Sequence[str]) -> None:
    for model in models:
        if models.count(model) > 1:
            raise RecipeError(
                f"{model!r} takes part twice in a slice, which mergekit's format cannot say"
            )
