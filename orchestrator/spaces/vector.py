"""Genes written in the campaign file: what a function of one's own is searched over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluators.addresses import load_function
from orchestrator.spaces.base import Reference
from orchestrator.spaces.genes import Genes, Genome
from orchestrator.spaces.vector_genes import (
    Bits,
    GeneSettings,
    Reals,
    expand,
    genome_from,
    values_of,
)
from workers.values import ValuesRecipe, ValuesSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """Searches the values of genes; a function says what they are worth."""

    #: The genes, each with its `kind` and `name`: real, integer, categorical, bit, permutation, or
    #: a row: bits, reals. One with `when: {gene: [values]}` counts only where that gene, which
    #: stands before it, has one of the values.
    genes: tuple[GeneSettings, ...]
    #: Gene -> value: a point known to be sensible, about which a search may start.
    start: Mapping[str, Any] | None = None
    #: Name -> point that candidates are compared with: gene -> value, or {function: address,
    #: arguments: {...}} of a function that returns these.
    references: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            genes = Genes(tuple(expand(self.genes)))
        except ValueError as error:
            raise ValueError(f"genes: {error}") from error
        if self.start is not None:
            _genome("start", self.genes, genes, self.start)

    def open(self, seed: int) -> VectorSpace:
        """Asks the functions that give references."""
        del seed
        return VectorSpace(self)


class VectorSpace:
    """A space of values (a `Space`)."""

    def __init__(self, settings: Vector) -> None:
        self._listed = settings.genes
        genes = tuple(expand(settings.genes))
        start = None
        if settings.start is not None:
            start = _genome("start", settings.genes, Genes(genes), settings.start)
        self.genes = Genes(genes, start)
        self.builder = ValuesSettings()
        self.revisions: Mapping[str, str] = {}
        self.references = tuple(
            Reference(name=name, recipe=self._reference(name, point))
            for name, point in settings.references.items()
        )

    @property
    def always(self) -> list[str]:
        """Genes and rows that count in every candidate."""
        return [one.name for one in self._listed if not getattr(one, "when", None)]

    @property
    def sometimes(self) -> list[str]:
        """Genes and rows that are dormant in some candidates."""
        return [one.name for one in self._listed if getattr(one, "when", None)]

    def decode(self, genome: Genome) -> ValuesRecipe:
        """Returns the values of the genes that count."""
        return ValuesRecipe(values=values_of(self._listed, self.genes, genome))

    def recipe(self, values: Mapping[str, Any]) -> ValuesRecipe:
        """Returns the recipe of a point, checked.

        Raises:
            ValueError: if a value is missing or is none that its gene can have.
        """
        return self.decode(genome_from(self._listed, self.genes, values))

    def describe(self) -> Mapping[str, Any]:
        """Returns what is searched."""
        kinds = Counter(self.genes.kinds)
        facts: dict[str, Any] = {"genes": len(self.genes.names), "genes_by_kind": dict(kinds)}
        summary = {"values": ", ".join(_shown(one) for one in self._listed)}
        if self.references:
            summary["references"] = ", ".join(one.name for one in self.references)
        return {**facts, "summary": summary}

    def _reference(self, name: str, point: Mapping[str, Any]) -> ValuesRecipe:
        key = f"references.{name}"
        known = {one.name for one in self._listed}
        if "function" in point and "function" not in known:
            point = _answer(key, point)
        return self.decode(_genome(key, self._listed, self.genes, point))


def _genome(
    key: str, listed: tuple[GeneSettings, ...], genes: Genes, values: Mapping[str, Any]
) -> Genome:
    try:
        return genome_from(listed, genes, values)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _answer(key: str, call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the point that a function gives."""
    if strange := sorted(set(call) - {"function", "arguments"}):
        raise ValueError(f"{key}: expected the keys function and arguments, got {strange[0]!r}")
    try:
        point = load_function(str(call["function"]))(**call.get("arguments", {}))
    except Exception as error:  # whatever a user's function does
        raise ValueError(f"{key}: {type(error).__name__}: {error}") from error
    if not isinstance(point, Mapping):
        raise ValueError(  # noqa: TRY004  (what the user wrote is wrong)
            f"{key}: the function returned {point!r}, expected a mapping: gene -> value"
        )
    return point


def _shown(one: GeneSettings) -> str:
    return f"{one.count} {one.name}" if isinstance(one, Bits | Reals) else one.name
