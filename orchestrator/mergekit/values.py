"""Values in mergekit's format: numbers, gradients over layers, and either by parts of names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from orchestrator.mergekit.dialect import RecipeError, refuse_unknown
from workers.recipe import Setting

#: A number, or several that are spread evenly over the layers of a slice.
Value: TypeAlias = "float | tuple[float, ...]"
#: (part of a tensor's name, value): the first that matches counts; None matches every tensor.
Cases: TypeAlias = "tuple[tuple[str | None, Value], ...]"
#: The same for one layer.
Choice: TypeAlias = "tuple[tuple[str | None, float], ...]"

#: Words that a tensor's name never has two of, from different lines of one group. So it is in all
#: architectures that mergekit describes.
_APART = (
    (
        ("attn", "attention", "q_proj", "k_proj", "v_proj", "o_proj"),
        ("mlp", "feed_forward", "up_proj", "down_proj"),
        ("embed_tokens", "wte", "lm_head"),
    ),
    (("q_proj",), ("k_proj",), ("v_proj",), ("o_proj",), ("gate_proj",)),
    (("up_proj",), ("down_proj",), ("gate_proj",)),
    (("embed_tokens", "wte"), ("lm_head", "norm")),
)
_IN_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
_NUMBER = re.compile(r"(?:^|(?P<word>\w*)\.)\d+(?:\.|$)")
_LAYER_WORDS = ("", "layers", "layer", "h", "blocks", "block")


def read_cases(name: str, value: Any) -> Cases:
    """Returns a value's cases; the last one may still have a filter.

    Raises:
        RecipeError: if it is neither a number, numbers, nor values with filters.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not (isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value)):
        return ((None, _read_value(name, value)),)
    cases: list[tuple[str | None, Value]] = []
    for one in value:
        refuse_unknown(one, ("filter", "value"), f"parameters.{name}")
        module = one.get("filter")
        if not (module is None or isinstance(module, str)):
            raise RecipeError(f"parameters.{name}: a filter is text, got {module!r}")
        if "value" not in one:
            raise RecipeError(f"parameters.{name}: filter {module!r} has no value")
        cases.append(
            (None if module in (None, "", "*") else module, _read_value(name, one["value"]))
        )
        if cases[-1][0] is None:
            break
    return tuple(cases)


def _read_value(name: str, value: Any) -> Value:
    if not isinstance(value, list):
        return read_number(name, value)
    if not value:
        raise RecipeError(f"parameters.{name}: expected numbers, got an empty list")
    return tuple(read_number(name, one) for one in value)


def read_number(name: str, value: Any) -> float:
    """Returns a number; YAML reads 1e-5 as text, which mergekit takes for a number.

    Raises:
        RecipeError: if it is none, or not finite.
    """
    found = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError):
            found = float(value)
    if not math.isfinite(found):
        raise RecipeError(f"parameters.{name}: expected a number, got {value!r}")
    return found


def read_flag(name: str, value: Any) -> bool:
    """Returns true or false.

    Raises:
        RecipeError: if it is neither.
    """
    if value in (True, False):
        return bool(value)
    raise RecipeError(f"parameters.{name}: expected true or false, got {value!r}")


def is_gradient(cases: Cases) -> bool:
    """Whether values differ from layer to layer."""
    return any(isinstance(value, tuple) for _, value in cases)


def at_layer(cases: Cases, layer: int, num_layers: int) -> Choice:
    """Returns the values at a layer of a slice, counted from 0.

    mergekit spreads a gradient from a slice's first to its last layer; a slice of one layer takes
    the last value. Tensors before and after the layers take the first (layer 0 of more than one).
    """
    return tuple((module, _interpolate(value, layer, num_layers)) for module, value in cases)


def _interpolate(value: Value, layer: int, num_layers: int) -> float:
    if not isinstance(value, tuple):
        return value
    if num_layers == 1 or len(value) == 1:
        return value[-1]
    # In whole numbers, so that a gradient with a value for each layer gives those very values.
    place, rest = divmod(layer * (len(value) - 1), num_layers - 1)
    if rest == 0:
        return value[place]
    share = rest / (num_layers - 1)
    return (1 - share) * value[place] + share * value[place + 1]


def names_layer(module: str | None) -> bool:
    """Whether a filter may look at the layer's number."""
    if module is None:
        return False
    return any(found["word"] in (None, *_LAYER_WORDS) for found in _NUMBER.finditer(module))


def in_layer(cases: Cases, source: int, target: int) -> Cases:
    """Returns what cases say of one layer; filters that name the layer are decided.

    mergekit compares a model's own values with the names of the tensors that are read, we with the
    names of those that are built.

    Args:
        cases: A value's cases.
        source: The layer whose names they are compared with.
        target: The layer that is built.

    Raises:
        RecipeError: if a filter holds a number that may or may not be a layer's.
    """
    found: list[tuple[str | None, Value]] = []
    for module, value in cases:
        named = _IN_LAYER.search(module or "")
        if named is None:
            if source != target and names_layer(module):
                raise RecipeError(
                    f"filter {module!r} holds a number, and the slice reads other layers than it "
                    "builds: name the layer as in 'layers.1.'"
                )
            found.append((module, value))
        elif int(named[1]) == source:
            assert module is not None
            is_whole = named[0].strip(".") == module.strip(".")
            other = module[: named.start(1)] + str(target) + module[named.end(1) :]
            found.append((None if is_whole else other, value))
        if found and found[-1][0] is None:
            break
    return tuple(found)


def outside(cases: Cases) -> Cases:
    """Returns what cases say of tensors outside of layers: filters that name one do not match."""
    return tuple(one for one in cases if _IN_LAYER.search(one[0] or "") is None)


def join(lists: Mapping[str, Sequence[Choice]]) -> tuple[Setting, ...]:
    """Makes one list of settings of every parameter's own list of cases.

    Args:
        lists: Parameter -> its cases for each source, or for the merge; each ends with a case for
            every tensor.

    Raises:
        RecipeError: if it depends on the tensors' names whether one list can say the same.
    """
    everything = [cases for per_source in lists.values() for cases in per_source]
    waiting = list(dict.fromkeys(one for cases in everything for one, _ in cases if one))
    passed: list[str] = []
    settings: list[Setting] = []
    while waiting:
        waiting = [one for one in waiting if not any(before in one for before in passed)]
        found = next((one for one in waiting if _is_decided(everything, one, passed)), None)
        if found is not None:
            settings.append(_setting(found, lists, passed))
            passed.append(found)
            waiting.remove(found)
        elif waiting:
            raise RecipeError(
                f"parameters: filters {' and '.join(repr(one) for one in waiting)} of different "
                "values may both be in one tensor's name; give all values the same filters in the "
                "same order"
            )
    return (*settings, _setting(None, lists, passed))


def _setting(
    module: str | None, lists: Mapping[str, Sequence[Choice]], passed: Sequence[str]
) -> Setting:
    values = {
        name: tuple(_possible(cases, module, passed)[0] for cases in per_source)
        for name, per_source in lists.items()
    }
    return Setting(filter=module, values=values)


def _is_decided(everything: Sequence[Choice], module: str, passed: Sequence[str]) -> bool:
    return all(len(set(_possible(cases, module, passed))) == 1 for cases in everything)


def _possible(cases: Choice, module: str | None, passed: Sequence[str]) -> list[float]:
    """Returns the values that a tensor may have whose name has a filter and none of those passed.

    Without a filter it is a tensor that all have passed by.
    """
    found: list[float] = []
    for one, value in cases:
        if one is None or (module is not None and one in module):
            return [*found, value]
        is_passed = any(before in one for before in passed)
        if not is_passed and not (module is not None and _are_apart(one, module)):
            found.append(value)
    raise AssertionError("a list of cases ends with one for every tensor")


def _are_apart(one: str, other: str) -> bool:
    """Whether no tensor's name has both filters in it."""
    return any(
        any(word in one for word in mine) and any(word in other for word in others)
        for group in _APART
        for mine in group
        for others in group
        if mine is not others
    )
