"""Kinds of genes, what their numbers mean, and what is refused of them.

A real or integer gene holds its value, a categorical gene the place of its choice, a bit 0 or 1; a
permutation takes a slot for each of its items and holds their order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge

#: What a gene means: a number, the name of a choice, on or off, or an order of items.
Value: TypeAlias = "float | int | str | bool | tuple[int, ...]"
Kind = Literal["real", "integer", "categorical", "bit", "permutation"]
#: Gene -> values of it, all of which are asked for together.
When: TypeAlias = Mapping[str, tuple[str | int | bool, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conditional:
    name: str
    #: Gene -> values that it must have for this one to count; it must stand before this one.
    when: When = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Real(_Conditional):
    """A real number between bounds."""

    low: float
    high: float
    #: Whether equal ratios count as equal steps; bounds must be above 0.
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer(_Conditional):
    """A whole number; both bounds can be had."""

    low: int
    high: int
    #: Whether equal ratios count as equal steps; bounds must be above 0.
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Categorical(_Conditional):
    """One of some choices that have no order."""

    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bit(_Conditional):
    """Off or on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permutation(_Conditional):
    """An order of the items 0 to size - 1."""

    size: Annotated[int, Ge(2)]


Gene: TypeAlias = Real | Integer | Categorical | Bit | Permutation
KINDS: Mapping[type, Kind] = {
    Real: "real",
    Integer: "integer",
    Categorical: "categorical",
    Bit: "bit",
    Permutation: "permutation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """How many of some bits are on."""

    #: Names of the bits.
    bits: tuple[str, ...]
    least: int
    most: int
    #: Gene -> values that it must have for this to hold.
    when: When = field(default_factory=dict)


def check(genes: Sequence[Gene], subsets: Sequence[Subset]) -> None:
    """Refuses genes that cannot be.

    Raises:
        ValueError: naming the gene.
    """
    if not genes:
        raise ValueError("a space needs at least one gene")
    known: dict[str, Gene] = {}
    for one in genes:
        _check(one, known)
        known[one.name] = one
    for subset in subsets:
        _check_subset(subset, known)


def _check_subset(one: Subset, known: Mapping[str, Gene]) -> None:
    if strange := [name for name in one.bits if not isinstance(known.get(name), Bit)]:
        raise ValueError(f"subset: expected the name of a bit, got {strange[0]!r}")
    if not 0 <= one.least <= one.most <= len(one.bits):
        raise ValueError(
            f"subset: expected 0 <= least <= most <= {len(one.bits)}, got [{one.least}, {one.most}]"
        )
    for name, among in one.when.items():
        if name not in known:
            raise ValueError(f"subset: 'when' needs a gene, got {name!r}")
        _check_condition("subset", known[name], among)


def _check(one: Gene, known: Mapping[str, Gene]) -> None:
    if one.name in known:
        raise ValueError(f"gene {one.name!r}: there are two of this name")
    _check_range(one)
    for name, among in one.when.items():
        if name not in known:
            raise ValueError(f"gene {one.name!r}: 'when' needs a gene that stands before: {name!r}")
        _check_condition(one.name, known[name], among)


def _check_range(one: Gene) -> None:
    if isinstance(one, Real | Integer):
        if not (math.isfinite(one.low) and math.isfinite(one.high) and one.low < one.high):
            raise ValueError(f"gene {one.name!r}: expected low < high, got [{one.low}, {one.high}]")
        if one.log and one.low <= 0:
            raise ValueError(f"gene {one.name!r}: a log scale needs low > 0, got {one.low}")
    if isinstance(one, Categorical) and len(set(one.choices)) != max(2, len(one.choices)):
        raise ValueError(
            f"gene {one.name!r}: expected two or more different choices, got {list(one.choices)}"
        )
    if isinstance(one, Permutation) and one.size < 2:
        raise ValueError(f"gene {one.name!r}: expected a size of at least 2, got {one.size}")


def _check_condition(name: str, other: Gene, among: Sequence[str | int | bool]) -> None:
    if isinstance(other, Categorical):
        possible: Sequence[Any] = other.choices
    elif isinstance(other, Bit):
        possible = (False, True)
    elif isinstance(other, Integer):
        possible = range(other.low, other.high + 1)
    else:
        message = f"gene {name!r}: 'when' needs a gene with single values: {other.name!r}"
        raise ValueError(message)  # noqa: TRY004  (what the user wrote is wrong, not a type)
    if strange := [one for one in among if one not in possible]:
        raise ValueError(
            f"gene {name!r}: {other.name!r} never is {strange[0]!r}; it is one of "
            f"{', '.join(map(str, possible[:9]))}"
        )


def bounds_of(one: Gene) -> tuple[float, float]:
    """Returns the least and the greatest number of a gene's slots."""
    if isinstance(one, Real | Integer):
        return float(one.low), float(one.high)
    if isinstance(one, Categorical):
        return 0.0, float(len(one.choices) - 1)
    return (0.0, 1.0) if isinstance(one, Bit) else (0.0, float(one.size - 1))


def number_of(one: Gene, value: str | int | bool) -> float:
    """Returns the number by which a gene of a single slot has a value."""
    return float(one.choices.index(str(value)) if isinstance(one, Categorical) else value)


def value_of(one: Gene, numbers: Sequence[float]) -> Value:
    """Returns what the numbers of a gene's slots mean."""
    if isinstance(one, Permutation):
        return tuple(int(number) for number in numbers)
    (number,) = numbers
    if isinstance(one, Categorical):
        return one.choices[int(number)]
    if isinstance(one, Bit):
        return number > 0.5
    return int(number) if isinstance(one, Integer) else number
