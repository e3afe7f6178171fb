"""Recipes in mergekit's YAML (https://github.com/arcee-ai/mergekit), so that others can build them.

Merges in parameter space are read and written: `models` or `slices` over the same layers of every
model, values with filters. What is not understood is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from evaluators.registry import nearest
from workers.methods.registry import METHODS
from workers.recipe import MergeRecipe, Setting, Slice

#: mergekit's own defaults where they differ from ours.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ties": {"normalize": True},
    "dare_ties": {"rescale": "l1"},
}
_TOP = ("merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype")
#: Types that merged weights can have.
DTYPES = ("float32", "bfloat16", "float16")
_NEEDS_BASE = ("task_arithmetic", "ties", "dare_ties")


class RecipeError(ValueError):
    """A recipe that cannot be read; the message names the key."""


def write(recipe: MergeRecipe) -> dict[str, Any]:
    """Returns the recipe as mergekit's configuration."""
    facts = METHODS.facts(recipe.method)
    base = recipe.sources[0] if recipe.method == "slerp" else recipe.base
    options = {**facts.options, **recipe.options}
    if options.get("rescale") == "density" and not options["normalize"]:
        recipe = _divide_weights(recipe)
        options["rescale"] = False
    elif "rescale" in options:
        options["rescale"] = options["rescale"] != "none"
    config: dict[str, Any] = {"merge_method": recipe.method}
    if recipe.method != "linear":
        config["base_model"] = base
    if options:
        config["parameters"] = options
    config["dtype"] = "float32"
    config["out_dtype"] = recipe.dtype
    config["slices"] = [_write_slice(recipe, part) for part in recipe.slices]
    return config


def _divide_weights(recipe: MergeRecipe) -> MergeRecipe:
    """Puts DARE's division by the density, which mergekit does not have, into the weights."""
    slices = [
        replace(part, settings=tuple(_divided(setting) for setting in part.settings))
        for part in recipe.slices
    ]
    return replace(recipe, slices=tuple(slices))


def _divided(setting: Setting) -> Setting:
    pairs = zip(setting.values["weight"], setting.values["density"], strict=True)
    weights = tuple(weight / density for weight, density in pairs)
    return replace(setting, values={**setting.values, "weight": weights})


def read(data: Any, facts: Callable[[str], tuple[int, str]], *, seed: int = 0) -> MergeRecipe:
    """Makes a recipe of mergekit's configuration.

    Args:
        data: The parsed YAML.
        facts: Model -> (number of layers, dtype of its weights).
        seed: Seed of random masks, which mergekit's format does not hold.

    Raises:
        RecipeError: naming the key that is missing or not supported.
    """
    method, base = _read_head(data)
    parts = _parts(data, base if method != "slerp" else None, facts)
    _check_parts(parts, method)
    sources = _order(list(parts[0].models), base, method)
    whole = str(base if base is not None else sources[0])
    num_layers, stored = facts(whole)
    dtype = str(data.get("out_dtype") or data.get("dtype") or stored)
    if dtype not in DTYPES:
        raise RecipeError(f"dtype: unknown {dtype!r}; {nearest(dtype, DTYPES)}")
    if parts[-1].stop != num_layers:
        raise RecipeError(
            f"slices: cover layers 0 to {parts[-1].stop - 1}, {whole!r} has {num_layers} layers"
        )
    try:
        return MergeRecipe(
            method=method,
            sources=tuple(sources),
            base=whole,
            slices=tuple(part.slice(method, sources) for part in parts),
            options=_options(method, data.get("parameters") or {}),
            dtype=dtype,
            seed=seed,
        )
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"slices: {error}") from error


def _read_head(data: Any) -> tuple[str, Any]:
    """Returns the method and the base model, if there is one."""
    if not isinstance(data, Mapping):
        raise RecipeError("expected a mapping with merge_method")
    _refuse_unknown(data, _TOP, "recipe")
    if not isinstance(data.get("parameters") or {}, Mapping):
        raise RecipeError(f"parameters: expected keys and values, got {data['parameters']!r}")
    method = str(data.get("merge_method", ""))
    if method not in METHODS.known:
        raise RecipeError(f"merge_method: unknown {method!r}; {nearest(method, METHODS.known)}")
    if ("models" in data) == ("slices" in data):
        raise RecipeError("give either models or slices")
    base = data.get("base_model")
    if base is None and method in _NEEDS_BASE:
        raise RecipeError(f"base_model is missing: {method} needs one")
    return method, base


def _check_parts(parts: Sequence[_Part], method: str) -> None:
    """Refuses slices of different models, and parameters that the method does not have."""
    for number, part in enumerate(parts):
        if set(part.models) != set(parts[0].models):
            raise RecipeError(
                f"slices.{number}: merges {sorted(part.models)}, the first slice "
                f"{sorted(parts[0].models)}; all slices must have the same models"
            )
        part.check(method)


class _Part:
    """One slice as mergekit writes it: models with parameters over one range of layers."""

    def __init__(
        self, start: int, stop: int, models: Mapping[str, Mapping[str, Any]], shared: Any
    ) -> None:
        self.start = start
        self.stop = stop
        self.models = models
        self._shared = shared

    def slice(self, method: str, sources: Sequence[str]) -> Slice:
        """Returns our slice."""
        parameters = METHODS.facts(method).parameters
        given: dict[str, list[list[tuple[str | None, Any]]]] = {}
        for parameter in parameters:
            holders = sources if parameter.per == "source" else [None]
            given[parameter.name] = [
                _filtered(parameter.name, self._value(holder, parameter.name)) for holder in holders
            ]
        lists = {
            tuple(module for module, _ in pairs if module is not None)
            for holders in given.values()
            for pairs in holders
        } - {()}
        if len(lists) > 1:
            raise RecipeError(
                f"parameters: all values need the same filters in the same order, got "
                f"{' and '.join(str(list(one)) for one in sorted(lists))}"
            )
        ordered = [*(next(iter(lists)) if lists else ()), None]
        settings = tuple(_setting(module, given) for module in ordered)
        return Slice(start=self.start, stop=self.stop, settings=settings)

    def check(self, method: str) -> None:
        """Refuses parameters that the method does not have."""
        names = [parameter.name for parameter in METHODS.facts(method).parameters]
        for model, parameters in self.models.items():
            _refuse_unknown(parameters, names, f"parameters of {model!r}")
        known = [*names, *METHODS.facts(method).options]
        _refuse_unknown(self._shared, known, "parameters")

    def _value(self, model: str | None, name: str) -> Any:
        """The model's own value, or the one given for all."""
        own = self.models.get(model, {}) if model is not None else {}
        value = own.get(name, self._shared.get(name))
        if value is None:
            if name == "density":
                return 1.0
            raise RecipeError(
                f"parameters: {name!r} is missing" + (f" for {model!r}" if model else "")
            )
        return value


def _parts(
    data: Mapping[str, Any], base: Any, facts: Callable[[str], tuple[int, str]]
) -> list[_Part]:
    shared = dict(data.get("parameters") or {})
    if "models" in data:
        entries = data["models"]
        models = _models(entries, base, ("model", "parameters"))
        if not models:
            raise RecipeError("models: nothing to merge")
        num_layers, _ = facts(str(base or next(iter(models))))
        return [_Part(0, num_layers, models, shared)]
    if not data["slices"]:
        raise RecipeError("slices: nothing to merge")
    parts = []
    for number, entry in enumerate(data["slices"]):
        _refuse_unknown(entry, ("sources", "parameters"), f"slices.{number}")
        ranges = {tuple(source["layer_range"]) for source in entry["sources"]}
        if len(ranges) != 1:
            raise RecipeError(
                f"slices.{number}: the models' layer ranges differ ({sorted(ranges)}); routes "
                "through different layers are not supported"
            )
        ((start, stop),) = ranges
        models = _models(entry["sources"], base, ("model", "layer_range", "parameters"))
        parts.append(_Part(start, stop, models, {**shared, **(entry.get("parameters") or {})}))
    return parts


def _models(entries: Any, base: Any, known: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Returns model -> its parameters; the base is no source unless it has some."""
    models: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        _refuse_unknown(entry, known, "models")
        parameters = entry.get("parameters") or {}
        if entry["model"] != base or parameters:
            models[str(entry["model"])] = parameters
    return models


def _order(models: list[str], base: Any, method: str) -> list[str]:
    """Slerp starts at the base: t = 0 there."""
    if method != "slerp":
        return models
    if base not in models or len(models) != 2:
        raise RecipeError("slerp: expected two models, one of them the base_model")
    return [str(base), *(model for model in models if model != base)]


def _options(method: str, shared: Mapping[str, Any]) -> dict[str, Any]:
    facts = METHODS.facts(method)
    names = [parameter.name for parameter in facts.parameters]
    _refuse_unknown(shared, [*names, *facts.options], "parameters")
    options = {**facts.options, **_DEFAULTS.get(method, {})}
    options |= {name: value for name, value in shared.items() if name in facts.options}
    if isinstance(options.get("rescale"), bool):
        options["rescale"] = "l1" if options["rescale"] else "none"
    return options


def _filtered(name: str, value: Any) -> list[tuple[str | None, Any]]:
    """Returns (filter, value) pairs; None matches every tensor."""
    is_list = isinstance(value, list)
    if is_list and value and all(isinstance(one, Mapping) for one in value):
        pairs: list[tuple[str | None, Any]] = []
        for one in value:
            _refuse_unknown(one, ("filter", "value"), f"parameters.{name}")
            module = one.get("filter")
            pairs.append((None if module in (None, "*") else str(module), one["value"]))
        return pairs
    return [(None, value)]


def _setting(
    module: str | None, given: Mapping[str, list[list[tuple[str | None, Any]]]]
) -> Setting:
    values = {
        name: tuple(_number(name, _pick(pairs, module)) for pairs in holders)
        for name, holders in given.items()
    }
    return Setting(filter=module, values=values)


def _pick(pairs: list[tuple[str | None, Any]], module: str | None) -> Any:
    for known, value in pairs:
        if known is None or known == module:
            return value
    raise RecipeError(
        f"parameters: no value for tensors outside of {[known for known, _ in pairs]}"
    )


def _number(name: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, list):
        raise RecipeError(
            f"parameters.{name}: gradients over layers are not supported, got {value!r}; give a "
            "slice for each range of layers instead"
        )
    raise RecipeError(f"parameters.{name}: expected a number, got {value!r}")


def _write_slice(recipe: MergeRecipe, part: Slice) -> dict[str, Any]:
    layers = [part.start, part.stop]
    facts = METHODS.facts(recipe.method)
    sources: list[dict[str, Any]] = []
    for index, model in enumerate(recipe.sources):
        own = {
            parameter.name: _write_values(part, parameter.name, index)
            for parameter in facts.parameters
            if parameter.per == "source"
        }
        entry: dict[str, Any] = {"model": model, "layer_range": layers}
        sources.append({**entry, "parameters": own} if own else entry)
    if recipe.method in _NEEDS_BASE and recipe.base not in recipe.sources:
        sources.append({"model": recipe.base, "layer_range": layers})
    whole = {
        parameter.name: _write_values(part, parameter.name, 0)
        for parameter in facts.parameters
        if parameter.per == "merge"
    }
    return {"sources": sources, **({"parameters": whole} if whole else {})}


def _write_values(part: Slice, name: str, index: int) -> Any:
    pairs = [(setting.filter, setting.values[name][index]) for setting in part.settings]
    if len(pairs) == 1 and pairs[0][0] is None:
        return pairs[0][1]
    return [
        {"filter": module, "value": value} if module is not None else {"value": value}
        for module, value in pairs
    ]


def _refuse_unknown(data: Any, known: Sequence[str], where: str) -> None:
    for key in cast("Mapping[str, Any]", data):
        if key not in known:
            raise RecipeError(f"{where}: {key!r} is not supported; {nearest(str(key), known)}")
