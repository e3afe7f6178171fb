"""What genes say of each slot of a genome, as arrays, and which conditions hold in one."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from orchestrator.spaces.gene_kinds import (
    Categorical,
    Gene,
    Integer,
    Permutation,
    Real,
    Subset,
    When,
    bounds_of,
    number_of,
)

#: Numbers of a genome that is being worked on, by slot.
Slots: TypeAlias = npt.NDArray[np.float64]
#: Which slots are meant.
Mask: TypeAlias = npt.NDArray[np.bool_]
#: Slot, numbers that it must have, and the place of the condition that its own gene has; of each
#: gene that a condition speaks of.
_Condition: TypeAlias = tuple[tuple[int, frozenset[float], int], ...]
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class LaidSubset:
    """A subset by slots."""

    slots: npt.NDArray[np.intp]
    least: int
    most: int
    #: Place of its condition.
    condition: int

    def limit(self, found: Slots, wanted: Slots) -> None:
        """Turns bits on or off, in place, until as many are on as may be.

        Those are on that are wanted most, by the numbers that they were rounded from. Among equals
        the genome's own numbers decide, as if by lot: no bit is preferred for its place.
        """
        on = int(found[self.slots].sum())
        number = min(max(on, self.least), self.most)
        if number == on:
            return
        lot = np.random.default_rng(zlib.crc32((found + 0.0).tobytes()))  # 0.0: no -0.0
        slots = lot.permutation(self.slots)
        ranked = slots[np.argsort(-wanted[slots], kind="stable")]
        found[ranked] = np.arange(len(ranked)) < number


@dataclass(frozen=True, slots=True)
class Layout:
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
    #: Coordinate of each slot in an encoded genome; of a choice, its first one.
    coordinates: npt.NDArray[np.intp]
    #: Slot, first coordinate and the one after the last of each choice.
    choices: tuple[tuple[int, int, int], ...]
    num_coordinates: int
    has_log: bool
    has_whole: bool
    #: What genes and subsets are conditional on, each once; the first is no condition.
    conditions: tuple[_Condition, ...]
    #: Place of each slot's condition.
    condition_of: npt.NDArray[np.intp]
    subsets: tuple[LaidSubset, ...]
    #: Inner bounds between which slots are drawn.
    edges: tuple[Slots, Slots] = field(init=False)

    def __post_init__(self) -> None:
        half = np.where(self.whole, 0.5, 0.0)
        edges = self.to_inner(self.lower - half), self.to_inner(self.upper + half)
        object.__setattr__(self, "edges", edges)

    @property
    def has_conditions(self) -> bool:
        """Whether some genes count only at times."""
        return bool(self.condition_of.any())

    def to_inner(self, values: Slots) -> Slots:
        """Returns numbers on the scale that they are drawn and changed on (logarithms of some)."""
        return np.log(values, out=values.copy(), where=self.log) if self.has_log else values

    def holding(self, numbers: Sequence[float] | Slots) -> list[bool]:
        """Returns which conditions hold; none about a gene that is dormant itself does."""
        found: list[bool] = []
        for condition in self.conditions:
            holds = (found[of] and numbers[slot] in among for slot, among, of in condition)
            found.append(all(holds))
        return found


def lay_out(genes: Sequence[Gene], subsets: Sequence[Subset]) -> Layout:
    """Returns the layout of genes that were checked."""
    names, coordinates = list[str](), list[int]()
    spans, choices, at = list[tuple[int, int]](), list[tuple[int, int, int]](), 0
    conditions = _Conditions()
    for one in genes:
        first = len(names)
        names += _names(one)
        spans.append((first, len(names)))
        conditions.add(one, first)
        coordinates += range(at, at + len(names) - first)
        if isinstance(one, Categorical):
            choices.append((first, at, at + len(one.choices)))
            at += len(one.choices)
        else:
            at += len(names) - first
    counts = [end - first for first, end in spans]
    bounds = [bounds_of(one) for one in genes]
    log = [isinstance(one, Real | Integer) and one.log for one in genes]
    whole = [not isinstance(one, Real) for one in genes]
    pairs = zip(genes, spans, strict=True)
    return Layout(
        names=tuple(names),
        lower=_spread([low for low, _ in bounds], counts, np.float64),
        upper=_spread([high for _, high in bounds], counts, np.float64),
        log=_spread(log, counts, np.bool_),
        whole=_spread(whole, counts, np.bool_),
        numeric=_spread([isinstance(one, Real | Integer) for one in genes], counts, np.bool_),
        permutations=tuple(span for one, span in pairs if isinstance(one, Permutation)),
        spans=tuple(spans),
        coordinates=np.array(coordinates),
        choices=tuple(choices),
        num_coordinates=at,
        has_log=any(log),
        has_whole=any(whole),
        # Subsets first: their conditions are among those that are listed.
        subsets=tuple(_laid(one, names, conditions) for one in subsets),
        conditions=tuple(conditions.found),
        condition_of=_spread([conditions.place(one.when) for one in genes], counts, np.intp),
    )


def _names(one: Gene) -> list[str]:
    """Returns a name for each slot of a gene."""
    if isinstance(one, Permutation):
        return [f"{one.name}[{place}]" for place in range(one.size)]
    return [one.name]


def _laid(one: Subset, names: Sequence[str], conditions: _Conditions) -> LaidSubset:
    slots = np.array([names.index(bit) for bit in one.bits])
    return LaidSubset(slots, one.least, one.most, conditions.place(one.when))


class _Conditions:
    """Gathers conditions, equal ones once."""

    def __init__(self) -> None:
        self.found: list[_Condition] = [()]
        #: Gene -> the gene, its first slot, and the place of its condition.
        self._genes: dict[str, tuple[Gene, int, int]] = {}

    def add(self, gene: Gene, slot: int) -> None:
        """Notes a gene and its condition, which is on genes that were noted before."""
        self._genes[gene.name] = gene, slot, self.place(gene.when)

    def place(self, when: When) -> int:
        """Returns the place of a condition on genes that were noted."""
        found = tuple(self._one(name, among) for name, among in sorted(when.items()))
        if found not in self.found:
            self.found.append(found)
        return self.found.index(found)

    def _one(
        self, name: str, among: Sequence[str | int | bool]
    ) -> tuple[int, frozenset[float], int]:
        gene, slot, of = self._genes[name]
        return slot, frozenset(number_of(gene, value) for value in among), of


def _spread(
    values: Sequence[float], counts: Sequence[int], dtype: type[_Number]
) -> npt.NDArray[_Number]:
    """Returns each gene's value for all of its slots, as an array that cannot be changed."""
    array = np.repeat(np.array(values, dtype=dtype), counts)
    array.flags.writeable = False
    return array
