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

    @property
    def columns(self) -> dict[str, Kind]:
        """Name -> what its column holds."""
        return {name: self._column(place) for place, name in enumerate(self.names)}

    def cells(self, genome: Sequence[float]) -> Iterator[tuple[str, Any]]:
        """Returns name and value of each slot, of dormant ones, too."""
        for place, (name, number) in enumerate(zip(self.names, genome, strict=True)):
            column = self._column(place)
            if column == "text":
                yield name, self.choices[place][int(number)]
            elif column == "flag":
                yield name, number > 0.5
            else:
                yield name, int(number) if column == "integer" else number

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
    recorded = found.get("choices", {})
    return Genes(
        names=[f"gene/{name}" if name in taken else name for name in found["names"]],
        lower=found["lower"],
        upper=found["upper"],
        kinds=found.get("kinds", ()),
        choices={
            place: recorded[name] for place, name in enumerate(found["names"]) if name in recorded
        },
    )
