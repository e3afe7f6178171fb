"""What the merge methods take, for people and for programs."""

from __future__ import annotations

from math import inf
from typing import Any

from workers.methods.registry import METHODS, MethodFacts, Parameter


def collect(name: str | None = None) -> dict[str, Any]:
    """Returns method -> what it takes and where it comes from.

    Raises:
        UnknownNameError: if there is no method of this name.
    """
    names = sorted(METHODS.addresses) if name is None else [name]
    return {one: _facts(METHODS.facts(one)) for one in names}


def lines(found: dict[str, Any]) -> list[str]:
    """Returns the methods as a table for people."""
    text: list[str] = []
    for name, facts in found.items():
        text += ["", f"{name}: {facts['about']}", f"  {facts['paper']}", f"  {facts['sources']}"]
        text += [_parameter_line(one) for one in facts["parameters"]]
        text += [f"  option {key}: {value!r} by default" for key, value in facts["options"].items()]
    text += ["", "* searched without being asked for; the others become genes by bounds"]
    return text[1:]


def _facts(facts: MethodFacts) -> dict[str, Any]:
    return {
        "about": facts.about,
        "paper": facts.paper,
        "sources": _sources(facts),
        "parameters": [_parameter(one) for one in facts.parameters],
        "options": dict(facts.options),
    }


def _sources(facts: MethodFacts) -> str:
    least = facts.num_sources if facts.num_sources is not None else facts.least_sources
    number = "one model" if least == 1 else f"{least} models"
    if facts.num_sources is None:
        number += " or more"
    return f"{number} and a base" if facts.needs_base else number


def _parameter(one: Parameter) -> dict[str, Any]:
    return {
        "name": one.name,
        "per": one.per,
        "accepts": "any number" if one.low == -inf and one.high == inf else one.describe(),
        "default": one.default,
        "searched": one.searched,
        "bounds": list(one.default_bounds),
        "about": one.about,
    }


def _parameter_line(one: dict[str, Any]) -> str:
    low, high = one["bounds"]
    default = "must be given" if one["default"] is None else f"{one['default']:g} by default"
    return (
        f"  {'*' if one['searched'] else ' '} {one['name']:<12} a {one['per']:<6} "
        f"{one['accepts']:<12} {default:<17} bounds [{low:g}, {high:g}]  {one['about']}"
    )
