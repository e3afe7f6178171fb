"""Genes as a campaign file writes them, and the values that a function sees."""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real as Number
from typing import Annotated, Any, Protocol

import numpy as np
from annotated_types import Ge

from evaluators.registry import Registry, nearest
from orchestrator.spaces.genes import (
    Bit,
    Categorical,
    Gene,
    Genes,
    Genome,
    Integer,
    Permutation,
    Real,
    genome_of,
)

#: What a campaign file can list under `genes`.
GENES = Registry(
    "kind of gene",
    {
        "real": "orchestrator.spaces.gene_kinds:Real",
        "integer": "orchestrator.spaces.gene_kinds:Integer",
        "categorical": "orchestrator.spaces.gene_kinds:Categorical",
        "bit": "orchestrator.spaces.gene_kinds:Bit",
        "permutation": "orchestrator.spaces.gene_kinds:Permutation",
        "bits": "orchestrator.spaces.vector_genes:Bits",
        "reals": "orchestrator.spaces.vector_genes:Reals",
    },
)


class GeneSettings(Protocol):
    """A gene, or a row of genes of one name."""

    @property
    def name(self) -> str:
        """The keyword that a function gets its value by."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    #: The keyword that a function gets the row by.
    name: str
    #: How many there are.
    count: Annotated[int, Ge(1)]
    #: Gene -> values that it must have for the row to count; it must stand before the row.
    when: Mapping[str, tuple[str | int | bool, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bits(_Row):
    """A string of bits."""

    def genes(self) -> list[Gene]:
        """Returns a gene for each."""
        return [Bit(name=name, when=self.when) for name in members(self.name, self.count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reals(_Row):
    """A row of real numbers between the same bounds."""

    low: float
    high: float
    #: Whether equal ratios count as equal steps; bounds must be above 0.
    log: bool = False

    def genes(self) -> list[Gene]:
        """Returns a gene for each."""
        return [
            Real(name=name, low=self.low, high=self.high, log=self.log, when=self.when)
            for name in members(self.name, self.count)
        ]


def members(name: str, count: int) -> list[str]:
    """Returns the names of the genes of a row."""
    return [f"{name}[{place}]" for place in range(count)]


def expand(listed: Sequence[GeneSettings]) -> list[Gene]:
    """Returns the genes that are listed, rows as a gene for each of their members.

    Raises:
        ValueError: if a function could not take them as keywords.
    """
    seen: set[str] = set()
    for one in listed:
        if not one.name.isidentifier() or keyword.iskeyword(one.name):
            raise ValueError(
                f"gene {one.name!r}: a function gets its value by this name; expected letters, "
                "digits and '_', and no word of Python's own"
            )
        if one.name in seen:
            raise ValueError(f"gene {one.name!r}: there are two of this name")
        seen.add(one.name)
    found: list[Gene] = []
    for one in listed:
        if isinstance(one, Bits | Reals):
            found += one.genes()
        else:
            assert isinstance(one, Real | Integer | Categorical | Bit | Permutation)
            found.append(one)
    return found


def values_of(listed: Sequence[GeneSettings], genes: Genes, genome: Genome) -> dict[str, Any]:
    """Returns what a genome means: gene or row -> value, without those that are dormant."""
    single = genes.values(genome)
    found: dict[str, Any] = {}
    for one in listed:
        if not isinstance(one, Bits | Reals):
            if one.name in single:
                found[one.name] = single[one.name]
            continue
        names = members(one.name, one.count)
        if names[0] in single:
            found[one.name] = tuple(single[name] for name in names)
    return found


def genome_from(listed: Sequence[GeneSettings], genes: Genes, values: Mapping[str, Any]) -> Genome:
    """Returns the genome that means these values; genes that are dormant need none.

    Raises:
        ValueError: if a value is missing or is none that its gene can have.
    """
    known = {one.name: one for one in listed}
    for name in values:
        if name not in known:
            raise ValueError(f"{name!r} is no gene; {nearest(name, known)}")
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _members_of(known[name], value)
    numbers, given = np.array(genes.lower), np.ones(len(genes.names), dtype=np.bool_)
    for gene, (first, end) in zip(genes.genes, genes.spans, strict=True):
        if gene.name in flat:
            numbers[first:end] = _numbers(gene, flat[gene.name])
        given[first:end] = gene.name in flat
    genome = genome_of(numbers)
    if missing := [*np.flatnonzero(genes.active(genome) & ~given)]:
        raise ValueError(f"a value of {genes.names[missing[0]]!r} is missing")
    return genes.canonical(genome)


def _members_of(one: GeneSettings, value: Any) -> dict[str, Any]:
    if not isinstance(one, Bits | Reals):
        return {one.name: value}
    if isinstance(one, Bits) and isinstance(value, str) and set(value) <= {"0", "1"}:
        value = [digit == "1" for digit in value]
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != one.count:
        shown = len(value) if isinstance(value, Sequence) else repr(value)
        raise ValueError(f"{one.name!r}: expected a list of {one.count} values, got {shown}")
    return dict(zip(members(one.name, one.count), value, strict=True))


def _numbers(gene: Gene, value: Any) -> Any:
    """Returns the numbers of a gene's slots."""
    if isinstance(gene, Real | Integer):
        return _between(gene, value)
    if isinstance(gene, Categorical):
        if value not in gene.choices:
            raise _unfit(gene, f"one of {', '.join(gene.choices)}", value)
        return gene.choices.index(value)
    if isinstance(gene, Bit):
        if value not in (0, 1):
            raise _unfit(gene, "true or false", value)
        return float(value)
    if not isinstance(value, Sequence) or sorted(value) != list(range(gene.size)):
        raise _unfit(gene, f"an order of the items 0 to {gene.size - 1}", value)
    return value


def _between(gene: Real | Integer, value: Any) -> float:
    is_number = isinstance(value, Number) and not isinstance(value, bool) and math.isfinite(value)
    whole = isinstance(gene, Integer)
    if not is_number or not gene.low <= value <= gene.high or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise _unfit(gene, f"{kind} from {gene.low:g} to {gene.high:g}", value)
    return float(value)


def _unfit(gene: Gene, expected: str, value: Any) -> ValueError:
    return ValueError(f"{gene.name!r}: expected {expected}, got {value!r}")
