"""Plain problems, and searching them with any algorithm in memory: no store, no executor.

`run` asks and tells as a campaign does, with a campaign's random streams, so that an algorithm
proposes here what it would propose there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.addresses import load_function
from orchestrator.algorithms.base import (
    Algorithm,
    Asynchronous,
    Evaluated,
    Memory,
    Proposal,
    as_asynchronous,
)
from orchestrator.spaces.genes import Bit, Genes, Genome, reals

_ITEMS = Path(__file__).resolve().parents[1] / "examples" / "knapsack" / "items.py"
#: The stream that a campaign's search draws from (see `orchestrator.campaign.breeding`).
_SEARCH = 1


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something to be maximised."""

    name: str
    genes: Genes
    worth: Callable[[Genome], float]
    #: The highest worth there is.
    optimum: float


@dataclass(kw_only=True)
class Trace:
    """One search, evaluation by evaluation."""

    #: The highest worth so far, after each evaluation.
    best: list[float] = field(default_factory=list)

    def reached(self, target: float) -> int | None:
        """Returns how many evaluations it took to reach a worth; None if it was not reached."""
        return next((at for at, one in enumerate(self.best, start=1) if one >= target), None)


def knapsack(num_items: int) -> Problem:
    """Returns the knapsack problem of the example, of any size."""
    worth = load_function(f"{_ITEMS}:worth")
    best = load_function(f"{_ITEMS}:optimum")(num_items)["take"]
    return Problem(
        name=f"knapsack, {num_items} items",
        genes=Genes(tuple(Bit(name=f"take[{place}]") for place in range(num_items))),
        worth=lambda genome: float(worth(tuple(number > 0.5 for number in genome))),
        optimum=float(worth(tuple(best))),
    )


def sphere(num_genes: int) -> Problem:
    """Returns the sum of squares, negated, in [-5, 5]."""
    names = [f"x[{place}]" for place in range(num_genes)]
    return Problem(
        name=f"sphere, {num_genes} dimensions",
        genes=reals(names, [-5.0] * num_genes, [5.0] * num_genes),
        worth=lambda genome: -math.fsum(one * one for one in genome),
        optimum=0.0,
    )


def run(
    algorithm: Algorithm,
    problem: Problem,
    *,
    seed: int,
    evaluations: int,
    target: float = math.inf,
) -> Trace:
    """Searches until a worth is reached or the evaluations are spent.

    One that is asynchronous is told each outcome at once, as with a single evaluator.
    """
    trace, one_by_one = Trace(), as_asynchronous(algorithm)
    memory, number, generation = Memory(), 0, 0
    while number < evaluations:
        if trace.best and trace.best[-1] >= target:
            break
        generation += 1
        proposals = _ask(algorithm, one_by_one, problem.genes, memory, seed, generation)
        if not proposals:
            break
        told = _measured(problem, proposals[: evaluations - number], number)
        number += len(told)
        for one in told:
            assert one.fitness is not None
            trace.best.append(max(one.fitness, trace.best[-1] if trace.best else -math.inf))
        memory = algorithm.tell(memory, told)
    return trace


def _ask(
    algorithm: Algorithm,
    one_by_one: Asynchronous | None,
    genes: Genes,
    memory: Memory,
    seed: int,
    turn: int,
) -> list[Proposal]:
    if one_by_one is None:
        return algorithm.ask(genes, memory, np.random.default_rng([seed, _SEARCH, turn]))
    if turn == 1:  # a campaign begins with a generation, too
        return algorithm.ask(genes, memory, np.random.default_rng([seed, _SEARCH, 1]))
    return [one_by_one.ask_one(genes, memory, np.random.default_rng([seed, _SEARCH, 0, turn]))]


def _measured(problem: Problem, proposals: Sequence[Proposal], before: int) -> list[Evaluated]:
    return [
        Evaluated(
            candidate=f"s{number}",
            number=number,
            genome=one.genome,
            fitness=(worth := problem.worth(one.genome)),
            values=(worth,),
            **_lineage(one),
        )
        for number, one in enumerate(proposals, start=before + 1)
    ]


def _lineage(one: Proposal) -> dict[str, Any]:
    """Returns what an algorithm may want to know of how a candidate was made."""
    known = Evaluated.__dataclass_fields__
    return {name: getattr(one, name) for name in ("parents", "operator") if name in known}
