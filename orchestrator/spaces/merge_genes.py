"""The genes of merges in parameter space: which there are, and what a genome says.

In this order: the method, where there are several to choose from; a bit for the presence of each
model, where there is a pool to choose from; then for each place along the depth, each module filter
and each parameter one gene for each model, or one for all. Methods share the genes of the
parameters that they share. A gene of a parameter exists where the method has it, and one of a model
where it takes part; elsewhere it is dormant. Genomes are repaired so that as many models take part
as the method and the pool allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.spaces.depth import Depth
from orchestrator.spaces.genes import Bit, Categorical, Gene, Genes, Genome, Real, Subset
from workers.methods.registry import METHODS, MethodFacts, Parameter
from workers.recipe import Setting, Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a genome says of a merge."""

    method: str
    #: Places of the models that take part, in the order of the pool.
    places: tuple[int, ...]
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class _Shared:
    """A parameter and the methods that share its genes."""

    parameter: Parameter
    methods: tuple[str, ...]


class MergeGenes:
    """The layout of a merge space's genes.

    Args:
        methods: Merge methods, at least one.
        models: All models that may take part.
        numbers: The least and the most of them that do.
        bounds: Parameter -> [low, high], where these are not the methods' own.
        fixed: Names of parameters that have no genes.
        filters: Parts of tensor names with genes of their own.
        depth: Places along the model's depth.
    """

    def __init__(
        self,
        *,
        methods: Sequence[str],
        models: Sequence[str],
        numbers: tuple[int, int],
        bounds: Mapping[str, tuple[float, float]],
        fixed: Sequence[str],
        filters: Sequence[str],
        depth: Depth,
    ) -> None:
        self._methods = tuple(methods)
        self._models = tuple(models)
        self._numbers = numbers
        self._bounds = bounds
        self._filters: tuple[str | None, ...] = (*filters, None)
        self._depth = depth
        self._parameters = _share(methods, bounds, fixed)
        self._num_method = 1 if len(methods) > 1 else 0
        self._num_presence = len(models) if chooses(self._facts(), numbers, len(models)) else 0
        #: Place of each shared parameter's first gene within one place and filter.
        self._offsets: list[int] = []
        self._width = 0
        for one in self._parameters:
            self._offsets.append(self._width)
            self._width += len(self._holders(one.parameter))
        self.genes = self._make_genes()

    @property
    def kinds(self) -> Mapping[str, int]:
        """Number of genes of each kind: method, presence, and each parameter."""
        per_place = len(self._depth.names) * len(self._filters)
        counts = Counter({"method": self._num_method, "presence": self._num_presence})
        for one in self._parameters:
            counts[one.parameter.name] += per_place * len(self._holders(one.parameter))
        return {kind: count for kind, count in counts.items() if count}

    def decode(self, genome: Genome) -> Choice:
        """Returns what a genome says; genes come in the order of `genes.names`."""
        method = self._methods[int(genome[0]) if self._num_method else 0]
        places = tuple(range(len(self._models)))
        head = self._num_method + self._num_presence
        if self._num_presence:
            places = tuple(at for at in places if genome[self._num_method + at] > 0.5)
        table = np.asarray(genome[head:], dtype=np.float64).reshape(
            len(self._depth.names), len(self._filters), self._width
        )
        columns = self._columns(method, places)
        used = [column for held in columns.values() for column in held]
        slices = tuple(
            Slice(start=start, stop=stop, settings=tuple(self._settings(held, columns)))
            for start, stop, held in self._depth.spread(table[:, :, used])
        )
        return Choice(method=method, places=places, slices=slices)

    def _columns(self, method: str, places: Sequence[int]) -> dict[str, list[int]]:
        """Returns for each of a method's parameters where the genes that count are."""
        found = {}
        for one, offset in zip(self._parameters, self._offsets, strict=True):
            if method in one.methods:
                per_source = one.parameter.per == "source"
                taken = [offset + place for place in places] if per_source else [offset]
                found[one.parameter.name] = taken
        return found

    def _settings(
        self, held: npt.NDArray[np.float64], columns: Mapping[str, Sequence[int]]
    ) -> Iterator[Setting]:
        """Makes settings of values (filters, genes that count)."""
        for module, row in zip(self._filters, held.tolist(), strict=True):
            values, start = {}, 0
            for name, taken in columns.items():
                values[name] = tuple(row[start : start + len(taken)])
                start += len(taken)
            yield Setting(filter=module, values=values)

    def _holders(self, parameter: Parameter) -> tuple[str, ...]:
        """Returns whom a parameter has values for: each model, or the merge as a whole."""
        return self._models if parameter.per == "source" else ("",)

    def _facts(self) -> list[MethodFacts]:
        return [METHODS.facts(method) for method in self._methods]

    def _allowed(self, method: str) -> tuple[int, int]:
        """Returns the least and the most models that a method merges here."""
        allowed = admissible(METHODS.facts(method), self._numbers)
        assert allowed is not None, "methods that never fit were refused"
        return allowed

    def _make_genes(self) -> Genes:
        genes, start = zip(*self._head(), *self._body(), strict=True)
        return Genes(genes, start, subsets=tuple(self._subsets()))

    def _head(self) -> Iterator[tuple[Gene, float]]:
        """Yields the genes that others depend on, with their values in a plain merge."""
        if self._num_method:
            yield Categorical(name="method", choices=self._methods), 0.0
        most = self._allowed(self._methods[0])[1]
        for place, model in enumerate(self._models[: self._num_presence]):
            yield Bit(name=f"presence {model}"), float(place < most)

    def _subsets(self) -> Iterator[Subset]:
        """Says how many models take part, by the methods that take as many."""
        if not self._num_presence:
            return
        bits = tuple(f"presence {model}" for model in self._models)
        by_number: dict[tuple[int, int], list[str]] = {}
        for method in self._methods:
            by_number.setdefault(self._allowed(method), []).append(method)
        for (least, most), methods in by_number.items():
            yield Subset(bits=bits, least=least, most=most, when=self._of_methods(methods))

    def _of_methods(self, methods: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Returns the condition that the method is one of some; none if it always is."""
        return {} if len(methods) == len(self._methods) else {"method": tuple(methods)}

    def _body(self) -> Iterator[tuple[Gene, float]]:
        """Yields each parameter's genes, with their values in a plain merge."""
        names = Counter(one.parameter.name for one in self._parameters)
        most = self._allowed(self._methods[0])[1]
        for place in self._depth.names:
            for module in self._filters:
                for one in self._parameters:
                    name = one.parameter.name
                    low, high = self._bounds.get(name, one.parameter.default_bounds)
                    plain = min(max(one.parameter.plain(most), low), high)
                    ambiguous = f"({', '.join(one.methods)})" if names[name] > 1 else ""
                    for holder in self._holders(one.parameter):
                        parts = (name, ambiguous, holder, place, module or "rest")
                        called = " ".join(part for part in parts if part)
                        when = self._when(one, holder)
                        yield Real(name=called, low=low, high=high, when=when), plain

    def _when(self, one: _Shared, holder: str) -> dict[str, tuple[str | bool, ...]]:
        """Returns where a parameter of a model, or of the merge as a whole, has a value."""
        taken = {f"presence {holder}": (True,)} if self._num_presence and holder else {}
        return {**self._of_methods(one.methods), **taken}


def is_searched(
    parameter: Parameter, bounds: Mapping[str, tuple[float, float]], fixed: Sequence[str]
) -> bool:
    """Whether a parameter has genes: it is searched by default or given bounds, and not fixed."""
    if parameter.name in fixed:
        return False
    return parameter.searched or parameter.name in bounds


def admissible(facts: MethodFacts, numbers: tuple[int, int]) -> tuple[int, int] | None:
    """Returns the least and the most models that a method merges, or None if none is possible.

    Args:
        facts: What the method takes.
        numbers: The least and the most that are asked for.
    """
    least, most = numbers
    low = max(least, facts.num_sources or facts.least_sources)
    high = min(most, facts.num_sources or most)
    return (low, high) if low <= high else None


def chooses(methods: Sequence[MethodFacts], numbers: tuple[int, int], num_models: int) -> bool:
    """Whether which models take part is searched: some method can do without one of them.

    Args:
        methods: What each takes; all of them can be had.
        numbers: The least and the most models that are asked for.
        num_models: How many there are.
    """
    allowed = [admissible(facts, numbers) for facts in methods]
    return any(one is not None and one[0] < num_models for one in allowed)


def _share(
    methods: Sequence[str], bounds: Mapping[str, tuple[float, float]], fixed: Sequence[str]
) -> list[_Shared]:
    """Finds the parameters that are searched; those that mean the same are one.

    Two methods' parameters of one name mean the same if both are for each source, or for the merge
    as a whole, and are searched in the same range. Where methods have ranges of their own, a range
    of the campaign's for both makes them one.
    """
    found: dict[tuple[str, str, tuple[float, float]], tuple[Parameter, list[str]]] = {}
    for method in methods:
        for one in METHODS.facts(method).parameters:
            if is_searched(one, bounds, fixed):
                key = (one.name, one.per, bounds.get(one.name, one.default_bounds))
                found.setdefault(key, (one, []))[1].append(method)
    return [_Shared(one, tuple(having)) for one, having in found.values()]
