"""What the numbers of a genome are in a table: a column for each slot, choices by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: What a column holds.
Kind = Literal["text", "integer", "real", "flag", "time"]

#: Whole numbers that a column of integers holds.
_INTEGERS = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Genes:
    """What the numbers of a genome are called, what they mean, and their bounds."""

    names: Sequence[str]
    lower: Sequence[float]
    upper: Sequence[float]
    #: Kind of gene of each slot; empty where all are real.
    kinds: Sequence[str] = ()
    #: Slot of a categorical gene -> its choices.
    choices: Mapping[int, Sequence[str]] = field(default_factory=dict)
    #: Slot of a gene that counts only at times -> slots that this depends on, with their values.
    when: Mapping[int, Mapping[int, Sequence[Any]]] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Kind]:
        """Name -> what its column holds."""
        return {name: self._column(place) for place, name in enumerate(self.names)}

    def cells(self, genome: Sequence[float]) -> Iterator[tuple[str, Any]]:
        """Returns name and value of each slot that counts in a genome."""
        counts = list[bool]()
        for place, (name, number) in enumerate(zip(self.names, genome, strict=True)):
            asked = self.when.get(place, {}).items()
            counts.append(
                all(counts[at] and self._value(at, genome[at]) in among for at, among in asked)
            )
            if counts[place]:
                yield name, self._value(place, number)

    def _value(self, place: int, number: float) -> Any:
        column = self._column(place)
        if column == "text":
            return self.choices[place][int(number)]
        if column == "flag":
            return number > 0.5
        return int(number) if column == "integer" else number

    def _column(self, place: int) -> Kind:
        kind = self.kinds[place] if self.kinds else "real"
        if kind == "categorical" and place in self.choices:
            return "text"
        if kind == "bit":
            return "flag"
        fits = self.lower[place] >= -_INTEGERS and self.upper[place] < _INTEGERS
        return "integer" if kind in ("integer", "permutation") and fits else "real"


def read_genes(found: Mapping[str, Any], taken: Mapping[str, Any]) -> Genes:
    """Returns the genes that a campaign recorded, under other names where a column has theirs."""
    recorded, names = found.get("choices", {}), found["names"]
    place_of = {name: place for place, name in enumerate(names)}
    return Genes(
        names=[f"gene/{name}" if name in taken else name for name in names],
        lower=found["lower"],
        upper=found["upper"],
        kinds=found.get("kinds", ()),
        choices={place_of[name]: choices for name, choices in recorded.items()},
        when={
            place: {place_of[other]: among for other, among in when.items()}
            for place, name in enumerate(names)
            if (when := _conditions(found, name))
        },
    )


def _conditions(found: Mapping[str, Any], name: str) -> Mapping[str, Sequence[Any]]:
    """Returns what a slot depends on; those of an order have the conditions of their gene."""
    recorded: Mapping[str, Any] = found.get("when", {})
    conditions: Mapping[str, Sequence[Any]] = recorded.get(
        name, recorded.get(name.rpartition("[")[0], {})
    )
    return conditions
