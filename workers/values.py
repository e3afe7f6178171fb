"""Recipes that are no models: the values that a genome means, for a plain function to judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from evaluators.base import Subject, Values
from workers.recipe import Recipe, Written


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesRecipe(Written):
    """What each gene says; genes that are dormant are left out."""

    #: Gene -> its value: a number, a choice, on or off, or a row of these.
    values: Mapping[str, Any]
    _text: str | None = field(default=None, init=False, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain data that JSON can hold."""
        return {
            "kind": "values",
            "values": {name: _listed(one) for name, one in self.values.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ValuesRecipe:
        """Makes a recipe from what `as_dict` returned."""
        return cls(values={name: _fixed(one) for name, one in data["values"].items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesSettings:
    """Opens a builder that builds nothing."""

    builds: ClassVar[Subject] = "values"

    def open(self, device: str) -> ValuesBuilder:
        """Needs no device."""
        del device
        return ValuesBuilder()


class ValuesBuilder:
    """Hands a recipe's values on."""

    def __init__(self) -> None:
        self.resident = Values()

    def build(self, recipe: Recipe) -> Values:
        """Returns the recipe's values."""
        assert isinstance(recipe, ValuesRecipe), "a space's recipes are its builder's"
        self.resident.by_gene = recipe.values
        return self.resident


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
