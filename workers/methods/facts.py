"""What is known of a merge method without its code: the numbers it takes and where they may lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evaluators.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A number that a method takes, and where it may lie."""

    name: str
    #: `source`: one value per source; `merge`: one value for all.
    per: Literal["source", "merge"]
    #: What a search uses when the campaign gives no bounds.
    default_bounds: tuple[float, float]
    #: What the method accepts: `low <= value <= high`, or `low < value` where `open_low`.
    low: float = float("-inf")
    high: float = float("inf")
    open_low: bool = False
    #: The value of a merge that favours no source; None means an equal share for each.
    neutral: float | None = None
    #: The value where a recipe has none; None where it must have one.
    default: float | None = None
    #: Whether a search has genes for it; others get some by being given bounds.
    searched: bool = True
    about: str = ""

    def plain(self, num_sources: int) -> float:
        """Returns the value in a merge that favours no source."""
        return 1.0 / num_sources if self.neutral is None else self.neutral

    def count(self, num_sources: int) -> int:
        """Returns how many values it has in a merge of so many sources."""
        return num_sources if self.per == "source" else 1

    def values(
        self,
        given: Mapping[str, tuple[float, ...]],
        fixed: Mapping[str, Any],
        num_sources: int,
    ) -> tuple[float, ...]:
        """Returns its values: a setting's own, or those fixed for the recipe, or the default.

        Empty where there are none; whether there are as many as needed is not looked at.
        """
        if self.name in given:
            return given[self.name]
        value = fixed.get(self.name, self.default)
        return () if value is None else (float(value),) * self.count(num_sources)

    def accepts(self, value: float) -> bool:
        """Whether the method is defined at this value."""
        above = value > self.low if self.open_low else value >= self.low
        return above and value <= self.high

    def describe(self) -> str:
        """Returns the accepted range as people write it, such as (0, 1]."""
        return f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFacts:
    """What a method takes."""

    #: Parameters of a setting, in the order of their genes.
    parameters: tuple[Parameter, ...]
    #: Option -> default.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: The only number of sources it takes, or None for any from `least_sources` on.
    num_sources: int | None = None
    least_sources: int = 1
    #: Whether the base's weights take part (task vectors are differences from it). Where the base
    #: is a choice, it is the option `use_base`.
    needs_base: bool = False
    #: One line for `shoal methods`, and where the method comes from.
    about: str = ""
    paper: str = ""

    def parameter(self, name: str) -> Parameter | None:
        """Returns the parameter of a name, if the method has it."""
        return next((one for one in self.parameters if one.name == name), None)


@dataclass(frozen=True, slots=True)
class MethodRegistry(Registry):
    """Merge methods: addresses of their code, and facts that are known without it."""

    known: Mapping[str, MethodFacts] = field(default_factory=dict)

    def facts(self, name: str) -> MethodFacts:
        """Returns what a method takes.

        Raises:
            UnknownNameError: if there is no such method.
        """
        if name in self.known:
            return self.known[name]
        found: MethodFacts = self.load(name).facts  # type: ignore[attr-defined]
        return found
