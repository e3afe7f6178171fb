"""What the settings of a merge space must keep to before any model is looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.registry import UnknownNameError, nearest
from orchestrator.spaces.merge_genes import admissible, is_searched
from workers.methods.registry import METHODS, MethodFacts, Parameter

#: Method -> what it takes, in the order of the campaign file.
Known = Mapping[str, MethodFacts]


def known_methods(methods: Sequence[str], *, listed: bool) -> Known:
    """Returns what each method takes.

    Args:
        methods: Their names.
        listed: Whether the campaign file has a list of them.

    Raises:
        ValueError: if a name is unknown or there twice.
    """
    known: dict[str, MethodFacts] = {}
    for number, name in enumerate(methods):
        where = f"method.{number}" if listed else "method"
        if name in known:
            raise ValueError(f"{where}: {name!r} is named twice in {list(methods)}")
        try:
            known[name] = METHODS.facts(name)
        except UnknownNameError as error:
            raise ValueError(f"{where}: {error}") from error
    return known


def check_numbers(known: Known, numbers: tuple[int, int], *, is_pool: bool) -> None:
    """Refuses methods that never merge as many models as may take part."""
    least, most = numbers
    asked = f"got {most}" if least == most else f"choose allows {least} to {most}"
    for name, facts in known.items():
        if admissible(facts, numbers) is not None:
            continue
        if facts.num_sources is not None:
            needs = f"exactly {facts.num_sources} models"
        else:
            needs = f"at least {facts.least_sources} models"
        hint = ""
        if not is_pool and most > (facts.num_sources or most):
            hint = f"; {{pool: [...], choose: {facts.num_sources}}} searches which of them"
        raise ValueError(
            f"{'sources.choose' if is_pool else 'sources'}: {name} merges {needs}, {asked}{hint}"
        )


def check_bounds(known: Known, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Refuses bounds of what no method has, and such as a method does not accept."""
    for name, (low, high) in bounds.items():
        having = _having(known, name)
        if not having:
            names = {one.name for facts in known.values() for one in facts.parameters}
            raise ValueError(f"bounds: {_lack(known)} parameter {name!r}; {nearest(name, names)}")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                f"bounds.{name}: expected [low, high] with low < high, got [{low}, {high}]"
            )
        for edge in (low, high):
            _check_accepted(f"bounds.{name}", having, edge)


def check_options(
    known: Known, options: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]
) -> None:
    """Refuses options that no method has, and values of parameters that are searched as well."""
    for name, value in options.items():
        having = _having(known, name)
        defaults = [facts.options[name] for facts in known.values() if name in facts.options]
        if not having and not defaults:
            names = {option for facts in known.values() for option in facts.options}
            names |= {one.name for facts in known.values() for one in facts.parameters}
            raise ValueError(f"options: {_lack(known)} option {name!r}; {nearest(name, names)}")
        if having:
            _check_fixed(name, value, having, bounds)
        if any(isinstance(default, bool) for default in defaults) and not isinstance(value, bool):
            raise ValueError(f"options.{name}: expected true or false, got {value!r}")


def _check_fixed(
    name: str,
    value: Any,
    having: Mapping[str, Parameter],
    bounds: Mapping[str, tuple[float, float]],
) -> None:
    if name in bounds:
        raise ValueError(
            f"options.{name}: fixed to {value!r} here, but searched by bounds.{name}; "
            "keep one of the two"
        )
    if not _is_number(value):
        raise ValueError(f"options.{name}: expected a number, got {value!r}")
    _check_accepted(f"options.{name}", having, value)


def check_probabilities(
    known: Known, options: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]
) -> None:
    """Refuses densities and epsilons that make no probabilities together (DELLA).

    A method with both keeps entries with probabilities from density - epsilon to density +
    epsilon, which must lie inside (0, 1), unless the density is 1 and nothing is dropped.
    """
    for method, facts in known.items():
        density, epsilon = facts.parameter("density"), facts.parameter("epsilon")
        if density is None or epsilon is None or options.get("density") == 1:
            continue
        low, high = _range(density, options, bounds)
        _, most = _range(epsilon, options, bounds)
        if not (low - most > 0 and high + most < 1):
            key = "density" if "density" in bounds else "epsilon"
            where = f"{'bounds' if key in bounds else 'options'}.{key}"
            raise ValueError(
                f"{where}: {method} needs density - epsilon and density + epsilon inside (0, 1), "
                f"got densities from {low} to {high} and epsilons up to {most}; narrow one of them"
            )


def check_searched(
    known: Known,
    bounds: Mapping[str, tuple[float, float]],
    fixed: Sequence[str],
    *,
    choosing: bool,
) -> None:
    """Refuses a space without genes.

    Args:
        known: What each method takes.
        bounds: Parameter -> [low, high].
        fixed: Names of parameters that have one value.
        choosing: Whether methods or models are chosen, which are genes, too.
    """
    parameters = [one for facts in known.values() for one in facts.parameters]
    if choosing or any(is_searched(one, bounds, fixed) for one in parameters):
        return
    names = ", ".join(one.name for one in parameters if one.name not in fixed)
    what = f"bounds for {names}, " if names else ""
    raise ValueError(
        f"method: {next(iter(known))} has nothing to search here; give {what}several methods, or "
        "a pool of sources to choose from"
    )


def _having(known: Known, name: str) -> dict[str, Parameter]:
    """Returns the methods that have a parameter of a name."""
    found = {method: facts.parameter(name) for method, facts in known.items()}
    return {method: one for method, one in found.items() if one is not None}


def _range(
    parameter: Parameter, options: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]
) -> tuple[float, float]:
    """Returns the least and the greatest value that a parameter can have."""
    if parameter.name in options:
        return options[parameter.name], options[parameter.name]
    return bounds.get(parameter.name, parameter.default_bounds)


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _lack(known: Known) -> str:
    """Begins a sentence about what no method has."""
    return f"{' and '.join(known)} {'has' if len(known) == 1 else 'have'} no"


def _check_accepted(where: str, having: Mapping[str, Parameter], value: float) -> None:
    for method, parameter in having.items():
        if not parameter.accepts(value):
            raise ValueError(
                f"{where}: {value} is outside what {method} accepts, {parameter.describe()}"
            )
