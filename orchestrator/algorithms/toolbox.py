"""The operators of an algorithm that has several, and what it has learned of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from orchestrator.algorithms.base import Evaluated
from orchestrator.operators import choice, naming
from orchestrator.operators.crossover import CROSSOVERS, Crossover
from orchestrator.operators.mutation import MUTATIONS, Mutation

#: Kind of operator -> operator -> how it did; as JSON can hold it.
Records: TypeAlias = Mapping[str, Any]
#: What a candidate is worth, the better the greater.
Worth: TypeAlias = tuple[bool, float, float]


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Crossovers and mutations to choose from."""

    crossovers: tuple[Crossover, ...]
    mutations: tuple[Mutation, ...]

    @property
    def labels(self) -> dict[str, list[str]]:
        """What each operator is called in records, by kind."""
        return {
            "crossover": naming.labels(CROSSOVERS, self.crossovers),
            "mutation": naming.labels(MUTATIONS, self.mutations),
        }

    def draw(
        self, records: Records, rng: np.random.Generator
    ) -> tuple[Crossover, Mutation, tuple[str, str]]:
        """Returns a crossover and a mutation with their names; draws only where there are several.

        All are alike where nothing was learned.
        """
        places, names = [], []
        for kind, labels in self.labels.items():
            weights = choice.probabilities(records.get(kind, {}), labels)
            places.append(choice.draw(weights, rng) if len(labels) > 1 else 0)
            names.append(labels[places[-1]])
        return self.crossovers[places[0]], self.mutations[places[1]], (names[0], names[1])

    def learned(
        self, records: Records, evaluated: Iterable[Evaluated], worths: Mapping[str, Worth]
    ) -> dict[str, Any]:
        """Returns what is known of the operators after a batch; `worths` are those of parents.

        A child succeeds if it is better than its better parent. Of whom no parent is remembered,
        nothing is learned.
        """
        results = []
        for one in evaluated:
            best = max((worths[id_] for id_ in one.parents if id_ in worths), default=None)
            if best is not None:
                succeeded = one.fitness is not None and one.worth > best
                results += [(name, succeeded) for name in naming.names(one.operator)]
        return {
            kind: choice.learned(records.get(kind, {}), labels, results)
            for kind, labels in self.labels.items()
            if len(labels) > 1
        }
