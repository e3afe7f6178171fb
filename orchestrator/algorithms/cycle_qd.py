"""CycleQD: an archive for each task; its metric is the quality there, the others tell the niches.

Kuroki, Nakamura, Akiba & Tang 2025, https://arxiv.org/abs/2410.14735. Parents come from each
archive in turn, by elite sampling, and are mixed linearly: where genes are coefficients of task
vectors, to mix the genomes is to mix the models.

The archives are not kept apart: the memory holds whoever is the best of a cell of any of them, from
which they follow.

Where genomes say how two models are joined (`kind: whole_model`, `crossover: task_vectors`), the
space mixes task vectors and scales their singular values, and the first generation has the experts:
the published algorithm. The search ends with the merge of the archives' best.

Deviations: elsewhere a mutation operator takes the place of the mutation of singular values, which
no coefficients can express, and the first generation is sampled, part of it about the plain merge,
in place of the experts; where an archive has one member it is both parents; a candidate counts as a
generation of the paper's, and candidates that are proposed together are bred from the same
archives, as its workers do; with more than three tasks a grid is laid over the mean of the others
(see `behaviour`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt

from orchestrator.algorithms.archive import Archive, Grid, Limits, keep_best
from orchestrator.algorithms.base import Evaluated, Memory, Proposal, ranked
from orchestrator.algorithms.breeder import Breeder
from orchestrator.algorithms.children import child_of, siblings
from orchestrator.operators.mutation import MUTATIONS, Mutation, Polynomial
from orchestrator.operators.naming import label
from orchestrator.spaces.genes import Genes, Genome, Slots

#: Metric of each task; (members, tasks).
Metrics: TypeAlias = npt.NDArray[np.float64]

#: By what share the weakest and the strongest of the first generation are beyond the limits.
_MARGIN = 0.15
#: Tasks up to which a cell is a bin of every other metric; cells are bins to the power of tasks.
_MAX_TASKS_EACH = 3
#: Weights of parents whose sum is nearer to 0 blow up the child.
_LEAST_SUM = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleQd(Breeder):
    """Breeds from the archives of all tasks in turn; a child may enter every one of them.

    With a single objective there is one archive of one cell, which holds the best: no search for
    much.
    """

    #: Children of a generation.
    population_size: Annotated[int, Ge(1)]
    #: How the space of the other tasks' metrics is cut into cells.
    archive: Archive = Grid(bins=15)
    #: What tells a member's cell in an archive: `each` other metric, or their `mean`. Null means
    #: each with up to three tasks and the mean with more, as cells would be too many.
    behaviour: Literal["each", "mean"] | None = None
    #: Between which numbers the metrics are cut into cells, for each objective or one pair for all.
    #: Null learns them from the first generation: from 85% of the weakest to 115% of the strongest;
    #: with `async` they are 0 to 1.
    limits: tuple[tuple[float, float], ...] | None = None
    #: Weight in elite sampling of who is the last in a metric; the metrics' weights are multiplied.
    alpha_low: Annotated[float, Gt(0)] = 0.5
    #: Weight of who is the first; equal to `alpha_low` all members are drawn alike.
    alpha_high: Annotated[float, Gt(0)] = 0.8
    #: Standard deviation about 1 of the weights that parents are mixed with; a space of whole
    #: models has one of its own.
    omega_sigma: Annotated[float, Ge(0)] = 0.3
    #: How a child is changed after that; null leaves it as it is. In a space of whole models the
    #: space's own mutation does so.
    mutation: Mutation | None = Polynomial()
    #: Whether the search ends with a merge of the best of each archive, weighted by the softmax of
    #: their metrics: one more model to be measured, where the space can say it.
    aggregate: bool = True

    def __post_init__(self) -> None:
        if self.alpha_low > self.alpha_high:
            raise ValueError(
                f"alpha_low: expected at most alpha_high ({self.alpha_high}), got {self.alpha_low}"
            )
        for low, high in self.limits or ():
            if not low < high:
                raise ValueError(f"limits: expected low < high, got {[low, high]}")

    def check_objectives(self, names: Sequence[str]) -> None:
        """Refuses limits that are neither for each objective nor for all."""
        if self.limits is not None and len(self.limits) not in (1, len(names)):
            raise ValueError(
                f"limits: expected one pair for all objectives or a pair for each "
                f"({', '.join(names)}), got {len(self.limits)}"
            )

    def remarks_on_objectives(self, kind: str, names: Sequence[str]) -> list[str]:
        """Says where there is nothing to cycle through."""
        del kind
        if len(names) > 1:
            return []
        said = (
            f"search: there is one objective, {names[0]!r}, and so one archive of one cell; give "
            "several tasks a weight, or use another algorithm"
        )
        return [said]

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Keeps who is the best of a cell of any archive, and counts the candidates."""
        told = memory.state.get("told", 0) + len(evaluated)
        everyone = _comparable(ranked([*memory.members, *evaluated]))
        if not everyone:
            return Memory(state={"told": told})
        limits = self._limits(memory, everyone)
        archives = self.archives(everyone, limits)
        names = {one.candidate for archive in archives for one in archive}
        members = tuple(one for one in everyone if one.candidate in names)
        return Memory(members, {"told": told, "limits": [list(pair) for pair in limits]})

    def archives(self, members: Sequence[Evaluated], limits: Limits) -> list[list[Evaluated]]:
        """Returns the archive of each task, by cell."""
        metrics = np.array([_metrics_of(one) for one in members], dtype=np.float64)
        found = []
        for task in range(metrics.shape[1]):
            cells = self.archive.cells_of(*self.behaviours(metrics, limits, task))
            found.append(keep_best(members, cells, partial(_quality, task=task)))
        return found

    def behaviours(self, metrics: Metrics, limits: Limits, task: int) -> tuple[Slots, Limits]:
        """Returns what tells members' cells in a task's archive, and between which numbers."""
        others = np.delete(metrics, task, axis=1)
        between = (*limits[:task], *limits[task + 1 :])
        if others.shape[1] and self._is_mean(metrics.shape[1]):
            return others.mean(axis=1, keepdims=True), (_mean(between),)
        return others, between

    def aggregated(self, memory: Memory) -> dict[str, float]:
        """Returns the softmax of what the best of each archive is worth there, by candidate."""
        members = _comparable(memory.members)
        if not self.aggregate or not members:
            return {}
        archives = self.archives(members, self._limits(memory, members))
        best = [max(one, key=partial(_quality, task=at)) for at, one in enumerate(archives)]
        worth = np.array([_metrics_of(one)[at] for at, one in enumerate(best)])
        shares = np.exp(worth - worth.max())
        found: dict[str, float] = {}
        for one, share in zip(best, (shares / shares.sum()).tolist(), strict=True):
            found[one.candidate] = found.get(one.candidate, 0.0) + share
        return {name: round(share, 6) for name, share in found.items()} if len(found) > 1 else {}

    def _is_mean(self, num_tasks: int) -> bool:
        if self.behaviour is not None:
            return self.behaviour == "mean"
        return num_tasks > _MAX_TASKS_EACH

    def _limits(self, memory: Memory, members: Sequence[Evaluated]) -> Limits:
        """Returns those given, else those learned before, else those to be learned now."""
        metrics = np.array([_metrics_of(one) for one in members], dtype=np.float64)
        num = metrics.shape[1]
        if self.limits is not None:
            return self.limits if len(self.limits) == num else self.limits * num
        known = memory.state.get("limits", ())
        if len(known) == num:
            return tuple((low, high) for low, high in known)
        return tuple((0.0, 1.0) if self.asynchronous else _learned(one) for one in metrics.T)

    def _children(
        self, genes: Genes, memory: Memory, num: int, rng: np.random.Generator
    ) -> list[Proposal]:
        members = _comparable(memory.members)
        archives = self.archives(members, self._limits(memory, members))
        chances = [self.chances(archive) for archive in archives]
        numbers = count(memory.state.get("told", 0))

        def born(known: Collection[Genome]) -> Proposal:
            task = next(numbers) % len(archives)
            chosen = _draw_two(chances[task], rng)
            parents = [archives[task][index] for index in chosen]
            return self._child(parents, known, genes, rng)

        return siblings(memory.members, num, born)

    def chances(self, archive: Sequence[Evaluated]) -> Slots:
        """Returns how likely each member becomes a parent: elite sampling by all metrics."""
        metrics = np.array([_metrics_of(one) for one in archive], dtype=np.float64)
        low, ranges = metrics.min(axis=0), np.ptp(metrics, axis=0)
        shares = np.ones_like(metrics)
        np.divide(metrics - low, ranges, out=shares, where=ranges > 0)
        weights = np.prod(self.alpha_low + shares * (self.alpha_high - self.alpha_low), axis=1)
        return np.asarray(weights / weights.sum())

    def _child(
        self,
        parents: Sequence[Evaluated],
        known: Collection[Genome],
        genes: Genes,
        rng: np.random.Generator,
    ) -> Proposal:
        linear = Linear(sigma=self.omega_sigma)
        if self.mutation is None:
            child = child_of(parents, linear, _unchanged, known, genes, rng, ("linear", ""))
            return child if genes.founders else replace(child, operator="linear")
        names = "linear", label(MUTATIONS, self.mutation)
        return child_of(parents, linear, self.mutation, known, genes, rng, names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Mixes two parents by weights about 1, drawn again while their sum is near 0.

    Genes that are no numbers come from either parent.
    """

    #: Standard deviation of the weights.
    sigma: float

    def __call__(self, a: Slots, b: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
        """Divides the weighted sum by the sum of the weights."""
        one, other = rng.normal(1.0, self.sigma, 2)
        while abs(one + other) < _LEAST_SUM:
            one, other = rng.normal(1.0, self.sigma, 2)
        ours, theirs = genes.to_inner(a), genes.to_inner(b)
        values = genes.to_outer((one * ours + other * theirs) / (one + other))
        either = np.asarray(rng.random(a.shape) < 0.5)
        for start, end in genes.permutations:
            either[start:end] = either[start]
        return np.where(genes.numeric, values, np.where(either, a, b))


def _unchanged(values: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
    del genes, rng
    return values


def _draw_two(chances: Slots, rng: np.random.Generator) -> Iterable[int]:
    """Draws two different members, or the only one twice."""
    if len(chances) == 1:
        return (0, 0)
    return [int(index) for index in rng.choice(len(chances), 2, replace=False, p=chances)]


def _metrics_of(one: Evaluated) -> tuple[float, ...]:
    assert one.fitness is not None, "archives hold what was measured"
    return one.values or (one.fitness,)


def _comparable(members: Sequence[Evaluated]) -> list[Evaluated]:
    """Returns those that have a metric of every task."""
    num = max((len(_metrics_of(one)) for one in members), default=0)
    return [one for one in members if len(_metrics_of(one)) == num]


def _quality(one: Evaluated, task: int) -> tuple[Any, ...]:
    return (not one.stopped, -one.violation, _metrics_of(one)[task], -one.number)


def _learned(metrics: Slots) -> tuple[float, float]:
    low, high = float(metrics.min()), float(metrics.max())
    low, high = low - _MARGIN * abs(low), high + _MARGIN * abs(high)
    return (low, high) if low < high else (low, low + 1.0)


def _mean(limits: Limits) -> tuple[float, float]:
    lows, highs = zip(*limits, strict=True)
    return sum(lows) / len(lows), sum(highs) / len(highs)
