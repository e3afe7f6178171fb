"""An item bank made of the campaign's own answers: candidates are scored on a few documents each.

Every task has an item response model of its own (see `irt`), fitted to the references, which are
measured on all documents, and to the candidates, which are measured on some. The references span
the abilities of what is merged from them (gmp-IRT, Mencattini et al. 2025,
https://arxiv.org/abs/2502.10436).

Deviations: the bank is no external one, hence fitted again and again; a candidate's documents are
chosen so that models that are known would get about the same score on them as on all documents
(balanced sampling, Hajek 1964), which errs less than choosing those with the greatest Fisher
information does; each candidate has others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval

from evaluators.base import Documents, Score, TaskFacts
from orchestrator.measurement import irt
from orchestrator.measurement.estimator import Answered, UnfitValuesError
from orchestrator.measurement.irt import Array, Bank, Estimate, Places
from orchestrator.measurement.item_memory import Fitted, ItemMemory, Row, TaskItems
from orchestrator.measurement.measured import Measured

#: Precision of the items' priors.
_RIDGE = 3.0
#: Sets of documents that are drawn for a candidate, of which the best balanced is taken.
_DRAWS = 256
#: Latest candidates that documents are balanced for.
_RECENT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemBank:
    """Estimates a candidate's fitness from some of the search rows of each task."""

    #: Documents of each task that a candidate is measured on.
    documents: Annotated[int, Ge(2)]
    #: Of the abilities.
    dimensions: Annotated[int, Interval(ge=1, le=3)] = 3
    #: Candidates after which the bank is fitted again.
    refit: Annotated[int, Ge(1)] = 50

    def start(
        self, tasks: Mapping[str, TaskFacts], weights: Mapping[str, float], seed: int
    ) -> ItemMemory:
        """Returns the memory before anything was measured."""
        for name, facts in tasks.items():
            if not facts.is_mean:
                raise ValueError(
                    f"estimator: task {name!r} must have a value that is the mean of right (1) "
                    "and wrong (0) over its documents, and has another; leave the estimator out "
                    "or choose a metric such as acc"
                )
        items = tuple(
            TaskItems(
                name=name,
                weight=weights[name],
                num_documents=facts.documents,
                strata=_numbered(facts.strata),
            )
            for name, facts in tasks.items()
        )
        return ItemMemory(seed=seed, tasks=items)

    def choose(self, memory: ItemMemory, number: int) -> Documents:
        """Returns documents that are balanced as well as what is known allows."""
        found = {}
        for index, task in enumerate(memory.tasks):
            rng = np.random.default_rng([memory.seed, index, number])
            found[task.name] = _balanced(task, min(self.documents, task.num_documents), rng)
        return found

    def estimate(
        self, memory: ItemMemory, score: Score, documents: Documents, parents: Sequence[str]
    ) -> Measured:
        """Returns gmp-IRT estimates, weighted; plain means before the first fit."""
        fitness, variance, num_seen, values = 0.0, 0.0, 0, list[float]()
        for task in memory.tasks:
            row = _row(task, "", score, documents[task.name])
            found = _estimate(task, row, parents)
            values.append(found.value)
            fitness += task.weight * found.value
            variance += (task.weight * found.stderr) ** 2
            num_seen += len(row.answers)
        fidelity = num_seen / memory.num_documents
        return Measured(
            fitness=fitness,
            stderr=math.sqrt(variance),
            fidelity=fidelity,
            # Likelihoods of different documents tell nothing apart.
            tie=score.mean_log_likelihood if fidelity == 1.0 else None,
            values=tuple(values),
        )

    def learn(
        self,
        memory: ItemMemory,
        answers: Sequence[Answered],
        references: Sequence[tuple[str, Score]] = (),
    ) -> ItemMemory:
        """Returns the memory with these answers, fitted again if new references make it due."""
        tasks = []
        for task in memory.tasks:
            items = task
            for candidate, score in references:
                everything = tuple(range(task.num_documents))
                items = items.with_reference(_row(task, candidate, score, everything))
            for candidate, documents, score in answers:
                items = items.with_row(_row(task, candidate, score, documents[task.name]))
            tasks.append(items)
        num_new = memory.num_new + len(answers)
        if references or num_new >= self.refit:
            tasks = [self._fit(task) for task in tasks]
            num_new = 0
        return replace(memory, tasks=tuple(tasks), num_new=num_new)

    def to_plain(self, memory: ItemMemory) -> dict[str, Any]:
        """Returns the memory as JSON can hold it."""
        return memory.to_plain()

    def from_plain(self, plain: Mapping[str, Any]) -> ItemMemory:
        """Returns the memory that `to_plain` made this of."""
        return ItemMemory.from_plain(plain)

    def _fit(self, task: TaskItems) -> TaskItems:
        bank = irt.fit(task.responses, dimensions=self.dimensions, ridge=_RIDGE)
        return replace(task, fitted=Fitted.of(bank))


def _numbered(labels: Sequence[str]) -> tuple[int, ...]:
    numbers = {label: number for number, label in enumerate(sorted(set(labels)))}
    return tuple(numbers[label] for label in labels)


def _row(task: TaskItems, candidate: str, score: Score, places: Sequence[int]) -> Row:
    """Returns a model's answers to a task's documents, if that is what its score holds."""
    values = score.tasks[task.name].per_document
    if len(values) != len(places):
        raise UnfitValuesError(
            f"estimator: task {task.name!r} has {len(values)} results for {len(places)} documents"
        )
    for place, value in zip(places, values, strict=True):
        if value not in (0.0, 1.0):
            raise UnfitValuesError(
                f"estimator: task {task.name!r}: a document must be right (1) or wrong (0), and "
                f"document {place} has {value}; leave the estimator out or choose a metric such "
                "as acc"
            )
    whole = len(places) == task.num_documents
    if whole and tuple(places) != tuple(range(len(places))):
        values = tuple(value for _, value in sorted(zip(places, values, strict=True)))
    answers = "".join("1" if value else "0" for value in values)
    return Row(candidate=candidate, places=() if whole else tuple(places), answers=answers)


def _estimate(task: TaskItems, row: Row, parents: Sequence[str]) -> Estimate:
    answers = row.values
    if not row.places:
        return Estimate(float(answers.mean()), 0.0)
    if task.fitted is None:
        return _plain_mean(answers, task.num_documents)
    bank, places = task.fitted.bank, np.array(row.places, dtype=np.intp)
    spanning = _abilities(task, bank, parents)
    if len(spanning) < 2:  # nothing to mix: gp-IRT
        found = irt.ability(bank, places, answers)
    else:
        found = irt.mixture_ability(bank, spanning, places, answers)
    return irt.estimate(bank, found, places, answers, share=irt.SHARE)


def _abilities(task: TaskItems, bank: Bank, parents: Sequence[str]) -> Array:
    """Returns the abilities of those references that are parents, or of all: (K, dimensions)."""
    names = [row.candidate for row in task.references]
    chosen = [index for index, name in enumerate(names) if name in parents]
    return bank.theta[chosen or range(len(names))]


def _plain_mean(answers: Array, num_documents: int) -> Estimate:
    """Returns the mean with an error that does not vanish when all answers are equal."""
    num = len(answers)
    shrunk = (answers.sum() + 1.0) / (num + 2.0)
    variance = shrunk * (1.0 - shrunk) / num * (1.0 - num / num_documents)
    return Estimate(float(answers.mean()), math.sqrt(variance))


def _balanced(task: TaskItems, num: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draws documents on which known models get about the score that they get on all documents."""
    if task.fitted is None:
        strata = np.array(task.strata or [0] * task.num_documents, dtype=np.float64)
        return tuple(sorted(_spread(strata, num, 1, rng)[0].tolist()))
    bank = task.fitted.bank
    recent = bank.theta[len(task.references) :][-_RECENT:]
    population = recent if len(recent) else bank.theta
    expected = bank.probabilities(population.mean(axis=0))
    draws = _spread(expected.round(6), num, _DRAWS, rng)
    known = [row.values for row in task.references]
    models = np.array([*known, *bank.probabilities(recent)])  # (models, documents)
    off = models[:, draws].mean(axis=2) - models.mean(axis=1)[:, None]  # (models, draws)
    best = int((off**2).sum(axis=0).argmin())
    return tuple(sorted(draws[best].tolist()))


def _spread(key: Array, num: int, draws: int, rng: np.random.Generator) -> Places:
    """Draws sets of documents, spread evenly over the order of a key: (draws, num)."""
    order = np.lexsort((rng.random(len(key)), key))
    edges = np.linspace(0, len(key), num + 1).astype(np.intp)
    return order[rng.integers(edges[:-1], edges[1:], size=(draws, num))]
