"""The merge methods a recipe can name, and what each one takes. Importing this needs no torch."""

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

    def plain(self, num_sources: int) -> float:
        """Returns the value in a merge that favours no source."""
        return 1.0 / num_sources if self.neutral is None else self.neutral

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
    #: The only number of sources it takes, or None for any.
    num_sources: int | None = None


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


WEIGHT = Parameter(name="weight", per="source", default_bounds=(0.0, 1.5))
DENSITY = Parameter(
    name="density",
    per="source",
    default_bounds=(0.1, 1.0),
    low=0.0,
    high=1.0,
    open_low=True,
    neutral=1.0,
)
T = Parameter(name="t", per="merge", default_bounds=(0.0, 1.0), low=0.0, high=1.0, neutral=0.5)

_TASK_VECTORS = {"normalize": False, "lambda": 1.0}

METHODS = MethodRegistry(
    "merge method",
    {
        "linear": "workers.methods.linear:Linear",
        "slerp": "workers.methods.slerp:Slerp",
        "task_arithmetic": "workers.methods.task_arithmetic:TaskArithmetic",
        "ties": "workers.methods.ties:Ties",
        "dare_ties": "workers.methods.dare:DareTies",
    },
    {
        "linear": MethodFacts(parameters=(WEIGHT,), options={"normalize": True}),
        "slerp": MethodFacts(parameters=(T,), num_sources=2),
        "task_arithmetic": MethodFacts(parameters=(WEIGHT,), options=_TASK_VECTORS),
        "ties": MethodFacts(parameters=(WEIGHT, DENSITY), options=_TASK_VECTORS),
        "dare_ties": MethodFacts(
            parameters=(WEIGHT, DENSITY), options={**_TASK_VECTORS, "rescale": "density"}
        ),
    },
)
