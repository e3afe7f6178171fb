"""Genes: what a genome is made of.

A genome is one number for each slot. A real or integer gene holds its value, a categorical gene the
place of its choice, a bit 0 or 1; a permutation takes a slot for each of its items and holds their
order. Some genes count only where others have certain values; elsewhere they are dormant, are
inherited, and change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

#: What evolves: one number per slot. A value, so that it can be compared, stored and sent.
Genome: TypeAlias = tuple[float, ...]
#: Numbers of a genome that is being worked on, by slot.
Slots: TypeAlias = npt.NDArray[np.float64]
#: Which slots are meant.
Mask: TypeAlias = npt.NDArray[np.bool_]
#: What a gene means: a number, the name of a choice, on or off, or an order of items.
Value: TypeAlias = "float | int | str | bool | tuple[int, ...]"
Kind = Literal["real", "integer", "categorical", "bit", "permutation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conditional:
    name: str
    #: Gene -> values that it must have for this one to count; it must stand before this one.
    when: Mapping[str, tuple[str | int | bool, ...]] = field(default_factory=dict)


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
_KINDS: Mapping[type, Kind] = {
    Real: "real",
    Integer: "integer",
    Categorical: "categorical",
    Bit: "bit",
    Permutation: "permutation",
}


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the genes say of each slot, as arrays."""

    names: tuple[str, ...]
    lower: Slots
    upper: Slots
    #: Slots whose numbers are drawn and changed on a scale of ratios.
    log: Mask
    #: Slots that hold whole numbers: all but real ones.
    whole: Mask
    #: Slots whose numbers have an order: real and integer ones.
    numeric: Mask
    #: First slot and the one after the last of each permutation.
    permutations: tuple[tuple[int, int], ...]
    #: First slot and the one after the last of each gene.
    spans: tuple[tuple[int, int], ...]
    has_log: bool
    has_whole: bool
    has_conditions: bool
    #: Inner bounds between which slots are drawn.
    edges: tuple[Slots, Slots] = field(init=False)

    def __post_init__(self) -> None:
        half = np.where(self.whole, 0.5, 0.0)
        edges = _to_inner(self.lower - half, self), _to_inner(self.upper + half, self)
        object.__setattr__(self, "edges", edges)


@dataclass(frozen=True, slots=True)
class Genes:
    """The genes of a space, in order.

    Raises:
        ValueError: if there are none, two have one name, bounds are not finite or reversed, or a
            condition speaks of a gene that does not stand before.
    """

    genes: tuple[Gene, ...]
    #: A genome known to be sensible, from which a search may start; None if there is none.
    start: Genome | None = None
    #: Genomes of the models that lineages begin with. Where there are any, a genome says how two
    #: parents are crossed, not what a model is: children draw theirs afresh, and inherit nothing.
    founders: tuple[Genome, ...] = ()
    _layout: _Layout = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.genes:
            raise ValueError("a space needs at least one gene")
        known: dict[str, Gene] = {}
        for one in self.genes:
            _check(one, known)
            known[one.name] = one
        object.__setattr__(self, "_layout", _lay_out(self.genes))
        if self.start is not None and self.repair(np.asarray(self.start)) != self.start:
            raise ValueError(f"the start must be a genome within the bounds, got {self.start}")
        for founder in self.founders:
            if self.repair(np.asarray(founder)) != founder:
                raise ValueError(f"a founder must be a genome within the bounds, got {founder}")

    def __len__(self) -> int:
        """Number of slots."""
        return len(self._layout.names)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each slot."""
        return self._layout.names

    @property
    def lower(self) -> Genome:
        """The least number of each slot."""
        return genome_of(self._layout.lower)

    @property
    def upper(self) -> Genome:
        """The greatest number of each slot."""
        return genome_of(self._layout.upper)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What kind of gene each slot belongs to."""
        spans = self._layout.spans
        return tuple(
            _KINDS[type(one)]
            for one, (first, end) in zip(self.genes, spans, strict=True)
            for _ in range(first, end)
        )

    @property
    def numeric(self) -> Mask:
        """Slots whose numbers have an order: those of real and integer genes; (slots,)."""
        return self._layout.numeric

    @property
    def whole(self) -> Mask:
        """Slots that hold whole numbers; (slots,)."""
        return self._layout.whole

    @property
    def permutations(self) -> tuple[tuple[int, int], ...]:
        """First slot and the one after the last of each permutation."""
        return self._layout.permutations

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First slot and the one after the last of each gene."""
        return self._layout.spans

    @property
    def is_real(self) -> bool:
        """Whether every gene is a real number on a linear scale that always counts."""
        one = self._layout
        return not (one.has_whole or one.has_log or one.has_conditions)

    def sample(self, rng: np.random.Generator, num: int) -> list[Genome]:
        """Draws genomes uniformly: on its scale for each number, all choices and orders alike."""
        low, high = self.edges
        drawn = rng.uniform(low, high, size=(num, len(self.names)))
        return [self.repair(self.to_outer(row)) for row in drawn]

    @property
    def edges(self) -> tuple[Slots, Slots]:
        """Inner bounds between which each slot is drawn; (slots,) each.

        A whole number is the nearest to what is drawn, so that its bounds are half a step wider.
        """
        return self._layout.edges

    def to_inner(self, values: Slots) -> Slots:
        """Returns numbers on the scale that they are drawn and changed on (logarithms of some)."""
        return _to_inner(values, self._layout)

    def to_outer(self, values: Slots) -> Slots:
        """Returns what `to_inner` was given."""
        one = self._layout
        return np.exp(values, out=values.copy(), where=one.log) if one.has_log else values

    def repair(self, values: Slots) -> Genome:
        """Returns the nearest genome: within bounds, whole where it must be, orders by rank."""
        one = self._layout
        if not one.has_whole:
            return genome_of(np.clip(values, one.lower, one.upper))
        found = np.clip(np.where(one.whole, np.rint(values), values), one.lower, one.upper)
        for first, end in one.permutations:
            found[first:end] = _order(values[first:end])
        return genome_of(found)

    def distance(self, a: Genome, b: Genome) -> float:
        """Returns the root mean square difference in units of each slot's range, in [0, 1].

        Choices, bits and places of an order differ by 0 or 1. What is dormant in both does not
        differ; what is dormant in one of them differs by 1.
        """
        one = self._layout
        low, high = self.to_inner(one.lower), self.to_inner(one.upper)
        ranges = np.where(one.numeric, high - low, 1.0)
        difference = (self.to_inner(np.asarray(a)) - self.to_inner(np.asarray(b))) / ranges
        difference = np.where(one.numeric, difference, difference != 0)
        active_a, active_b = self.active(a), self.active(b)
        difference = np.where(active_a & active_b, difference, active_a != active_b)
        return float(np.sqrt(np.mean(difference**2)))

    def active(self, genome: Genome) -> Mask:
        """Returns which slots count; (slots,)."""
        mask = np.ones(len(self.names), dtype=np.bool_)
        if not self._layout.has_conditions:
            return mask
        found: dict[str, Value | None] = {}
        for one, (first, end) in zip(self.genes, self._layout.spans, strict=True):
            counts = all(found[name] in among for name, among in one.when.items())
            mask[first:end] = counts
            found[one.name] = _value(one, genome[first:end]) if counts else None
        return mask

    def values(self, genome: Genome) -> dict[str, Value]:
        """Returns what a genome means: gene -> value, without those that are dormant."""
        active = self.active(genome)
        return {
            one.name: _value(one, genome[first:end])
            for one, (first, end) in zip(self.genes, self._layout.spans, strict=True)
            if active[first]
        }

    def canonical(self, genome: Genome) -> Genome:
        """Returns the genome with a fixed number where it is dormant: equal ones mean the same."""
        if not self._layout.has_conditions:
            return genome
        return genome_of(np.where(self.active(genome), genome, self._layout.lower))

    def encode(self, genome: Genome) -> Slots:
        """Returns the genome as a vector in [0, 1]: numbers by their scale, choices one-hot.

        Orders become keys whose ranks they are. Its length is `num_coordinates`.
        """
        low, high = self.edges
        unit = (self.to_inner(np.asarray(genome, dtype=np.float64)) - low) / (high - low)
        if not self._layout.has_whole:
            return unit
        parts = []
        for one, (first, end) in zip(self.genes, self._layout.spans, strict=True):
            if isinstance(one, Categorical):
                parts.append(np.eye(len(one.choices))[int(genome[first])])
            else:
                parts.append(unit[first:end])
        return np.concatenate(parts)

    def decode(self, vector: Slots) -> Genome:
        """Returns the genome of a vector; the largest coordinate of a choice's counts."""
        low, high = self.edges
        if not self._layout.has_whole:
            return self.repair(self.to_outer(low + np.clip(vector, 0.0, 1.0) * (high - low)))
        numbers, at = np.empty(len(self.names)), 0
        for one, (first, end) in zip(self.genes, self._layout.spans, strict=True):
            if isinstance(one, Categorical):
                numbers[first] = int(np.argmax(vector[at : at + len(one.choices)]))
                at += len(one.choices)
                continue
            part = np.clip(vector[at : at + end - first], 0.0, 1.0)
            numbers[first:end] = low[first:end] + part * (high[first:end] - low[first:end])
            at += end - first
        return self.repair(self.to_outer(numbers))

    @property
    def num_coordinates(self) -> int:
        """Length of an encoded genome."""
        if not self._layout.has_whole:
            return len(self.names)
        return sum(
            len(one.choices) if isinstance(one, Categorical) else end - first
            for one, (first, end) in zip(self.genes, self._layout.spans, strict=True)
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns names, bounds and kinds as plain data, for records."""
        plain = {"names": list(self.names), "lower": list(self.lower), "upper": list(self.upper)}
        if self._layout.has_whole:
            plain["kinds"] = list(self.kinds)
        choices = {
            one.name: list(one.choices) for one in self.genes if isinstance(one, Categorical)
        }
        return {**plain, "choices": choices} if choices else plain


def reals(
    names: Sequence[str],
    lower: Sequence[float],
    upper: Sequence[float],
    start: Genome | None = None,
) -> Genes:
    """Returns real genes between bounds."""
    triples = zip(names, lower, upper, strict=True)
    return Genes(tuple(Real(name=name, low=low, high=high) for name, low, high in triples), start)


def joined(first: Genes, second: Genes, prefix: str) -> Genes:
    """Returns the genes of two, those of the second with a prefix; starts where both do."""
    renamed = tuple(
        replace(
            one,
            name=f"{prefix} {one.name}",
            when={f"{prefix} {name}": among for name, among in one.when.items()},
        )
        for one in second.genes
    )
    start = None
    if first.start is not None and second.start is not None:
        start = (*first.start, *second.start)
    return Genes((*first.genes, *renamed), start)


def genome_of(values: Slots) -> Genome:
    """Returns the values as a genome."""
    return tuple(np.asarray(values, dtype=np.float64).tolist())


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


def _lay_out(genes: Sequence[Gene]) -> _Layout:
    names, lower, upper = list[str](), list[float](), list[float]()
    log, whole, numeric = list[bool](), list[bool](), list[bool]()
    spans, permutations = list[tuple[int, int]](), list[tuple[int, int]]()
    for one in genes:
        first = len(names)
        if isinstance(one, Permutation):
            names += [f"{one.name}[{place}]" for place in range(one.size)]
            permutations.append((first, len(names)))
        else:
            names.append(one.name)
        count = len(names) - first
        spans.append((first, len(names)))
        low, high = _bounds(one)
        lower += [low] * count
        upper += [high] * count
        log += [isinstance(one, Real | Integer) and one.log] * count
        whole += [not isinstance(one, Real)] * count
        numeric += [isinstance(one, Real | Integer)] * count
    arrays = [np.array(values) for values in (lower, upper, log, whole, numeric)]
    for array in arrays:
        array.flags.writeable = False
    low_, high_, log_, whole_, numeric_ = arrays
    return _Layout(
        names=tuple(names),
        lower=low_.astype(np.float64),
        upper=high_.astype(np.float64),
        log=log_,
        whole=whole_,
        numeric=numeric_,
        permutations=tuple(permutations),
        spans=tuple(spans),
        has_log=any(log),
        has_whole=any(whole),
        has_conditions=any(one.when for one in genes),
    )


def _to_inner(values: Slots, layout: _Layout) -> Slots:
    return np.log(values, out=values.copy(), where=layout.log) if layout.has_log else values


def _bounds(one: Gene) -> tuple[float, float]:
    if isinstance(one, Real | Integer):
        return float(one.low), float(one.high)
    if isinstance(one, Categorical):
        return 0.0, float(len(one.choices) - 1)
    return (0.0, 1.0) if isinstance(one, Bit) else (0.0, float(one.size - 1))


def _order(keys: Slots) -> Slots:
    """Returns the items' order by their keys; an order stays as it is."""
    ranks = np.empty(len(keys))
    ranks[np.argsort(keys, kind="stable")] = np.arange(len(keys))
    return ranks


def _value(one: Gene, numbers: Sequence[float]) -> Value:
    if isinstance(one, Permutation):
        return tuple(int(number) for number in numbers)
    (number,) = numbers
    if isinstance(one, Categorical):
        return one.choices[int(number)]
    if isinstance(one, Bit):
        return number > 0.5
    return int(number) if isinstance(one, Integer) else number
