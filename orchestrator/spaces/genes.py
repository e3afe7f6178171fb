"""Genes: what a genome is made of.

A genome is one number for each slot. A real or integer gene holds its value, a categorical gene the
place of its choice, a bit 0 or 1; a permutation takes a slot for each of its items and holds their
order. Some genes count only where others have certain values; elsewhere they are dormant, are
inherited, and change nothing. Of some bits only so many can be on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from orchestrator.spaces.gene_kinds import (
    KINDS,
    Bit,
    Categorical,
    Gene,
    Integer,
    Kind,
    Permutation,
    Real,
    Subset,
    Value,
    When,
    check,
    value_of,
)
from orchestrator.spaces.gene_layout import Layout, Mask, Slots, lay_out

__all__ = [
    "Bit",
    "Categorical",
    "Gene",
    "Genes",
    "Genome",
    "Integer",
    "Kind",
    "Mask",
    "Permutation",
    "Real",
    "Slots",
    "Subset",
    "Value",
    "genome_of",
    "joined",
    "reals",
]

#: What evolves: one number per slot. A value, so that it can be compared, stored and sent.
Genome: TypeAlias = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Genes:
    """The genes of a space, in order.

    Raises:
        ValueError: if there are none, two have one name, bounds are not finite or reversed, a
            condition speaks of a gene that does not stand before, or a subset of what is no bit.
    """

    genes: tuple[Gene, ...]
    #: A genome known to be sensible, from which a search may start; None if there is none.
    start: Genome | None = None
    #: Genomes of the models that lineages begin with. Where there are any, a genome says how two
    #: parents are crossed, not what a model is: children draw theirs afresh, and inherit nothing.
    founders: tuple[Genome, ...] = ()
    #: How many of some bits are on: genomes are repaired to that.
    subsets: tuple[Subset, ...] = ()
    _layout: Layout = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check(self.genes, self.subsets)
        object.__setattr__(self, "_layout", lay_out(self.genes, self.subsets))
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
            KINDS[type(one)]
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
        return self._layout.to_inner(values)

    def to_outer(self, values: Slots) -> Slots:
        """Returns what `to_inner` was given."""
        one = self._layout
        return np.exp(values, out=values.copy(), where=one.log) if one.has_log else values

    def repair(self, values: Slots) -> Genome:
        """Returns the nearest genome: within bounds, whole where it must be, orders by rank.

        Of bits too many or too few of which are on, those with the largest numbers are on; equal
        ones are as if drawn by lot, which the genome decides.
        """
        one = self._layout
        if not one.has_whole:
            return genome_of(np.clip(values, one.lower, one.upper))
        found = np.clip(np.where(one.whole, np.rint(values), values), one.lower, one.upper)
        for first, end in one.permutations:
            found[first:end] = _order(values[first:end])
        holds = one.holding(found) if one.subsets else []
        for subset in one.subsets:
            if holds[subset.condition]:
                subset.limit(found, values)
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
        one = self._layout
        if not one.has_conditions:
            return np.ones(len(one.names), dtype=np.bool_)
        mask: Mask = np.array(one.holding(genome))[one.condition_of]
        return mask

    def values(self, genome: Genome) -> dict[str, Value]:
        """Returns what a genome means: gene -> value, without those that are dormant."""
        active = self.active(genome)
        return {
            one.name: value_of(one, genome[first:end])
            for one, (first, end) in zip(self.genes, self._layout.spans, strict=True)
            if active[first]
        }

    def canonical(self, genome: Genome) -> Genome:
        """Returns the genome with a fixed number where it is dormant: equal ones mean the same.

        What no genome can be is repaired before.
        """
        if self._layout.subsets:
            genome = self.repair(np.asarray(genome))
        if not self._layout.has_conditions:
            return genome
        return genome_of(np.where(self.active(genome), genome, self._layout.lower))

    def encode(self, genome: Genome) -> Slots:
        """Returns the genome as a vector in [0, 1]: numbers by their scale, choices one-hot.

        Bits and choices are in the middle of what decodes to them: a bit at 1/4 or 3/4, of n
        choices the one at n / (n + 1) and the others at half of that, so that a step of one size
        changes either. Orders become keys whose ranks they are. Its length is `num_coordinates`.
        """
        one, (low, high) = self._layout, self.edges
        vector = np.empty(one.num_coordinates)
        inner = self.to_inner(np.asarray(genome, dtype=np.float64))
        vector[one.coordinates] = (inner - low) / (high - low)
        for slot, first, end in one.choices:
            middle = (end - first) / (end - first + 1.0)
            vector[first:end] = middle / 2.0
            vector[first + int(genome[slot])] = middle
        return vector

    def decode(self, vector: Slots) -> Genome:
        """Returns the genome of a vector; the largest coordinate of a choice's counts."""
        one, (low, high) = self._layout, self.edges
        numbers = low + np.clip(vector[one.coordinates], 0.0, 1.0) * (high - low)
        for slot, first, end in one.choices:
            numbers[slot] = np.argmax(vector[first:end])
        return self.repair(self.to_outer(numbers))

    @property
    def num_coordinates(self) -> int:
        """Length of an encoded genome."""
        return self._layout.num_coordinates

    def as_dict(self) -> dict[str, Any]:
        """Returns names, bounds, kinds and conditions as plain data, for records."""
        plain: dict[str, Any] = {
            "names": list(self.names), "lower": list(self.lower), "upper": list(self.upper)
        }  # fmt: skip
        if self._layout.has_whole:
            plain["kinds"] = list(self.kinds)
        if choices := {
            one.name: list(one.choices) for one in self.genes if isinstance(one, Categorical)
        }:
            plain["choices"] = choices
        if when := {
            one.name: {name: list(among) for name, among in one.when.items()}
            for one in self.genes
            if one.when
        }:
            plain["when"] = when
        return plain


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

    def prefixed(when: When) -> dict[str, tuple[str | int | bool, ...]]:
        return {f"{prefix} {name}": among for name, among in when.items()}

    renamed = tuple(
        replace(one, name=f"{prefix} {one.name}", when=prefixed(one.when)) for one in second.genes
    )
    subsets = tuple(
        replace(one, bits=tuple(f"{prefix} {bit}" for bit in one.bits), when=prefixed(one.when))
        for one in second.subsets
    )
    start = None
    if first.start is not None and second.start is not None:
        start = (*first.start, *second.start)
    return Genes((*first.genes, *renamed), start, subsets=(*first.subsets, *subsets))


def genome_of(values: Slots) -> Genome:
    """Returns the values as a genome."""
    return tuple(np.asarray(values, dtype=np.float64).tolist())


def _order(keys: Slots) -> Slots:
    """Returns the items' order by their keys; an order stays as it is."""
    ranks = np.empty(len(keys))
    ranks[np.argsort(keys, kind="stable")] = np.arange(len(keys))
    return ranks
