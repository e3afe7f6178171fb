"""What an item bank remembers: plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator.measurement.irt import Array, Bank, Places

#: Candidates whose answers are remembered, the latest.
MAX_ROWS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model's answers to one task's documents."""

    candidate: str
    #: Which documents; empty if all.
    places: tuple[int, ...]
    #: "1" where the answer was right, "0" where it was wrong, a character each.
    answers: str

    @property
    def where(self) -> Places | slice:
        """Indexes the answered documents."""
        return np.array(self.places, dtype=np.intp) if self.places else slice(None)

    @property
    def values(self) -> Array:
        """The answers as 0 or 1."""
        return np.array([float(one) for one in self.answers])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A bank's parameters, flat, as tuples compare and arrays do not."""

    dimensions: int
    a: tuple[float, ...]
    b: tuple[float, ...]
    #: Of the references first, then of the candidates.
    theta: tuple[float, ...]

    @classmethod
    def of(cls, bank: Bank) -> Fitted:
        """Returns a bank's parameters."""
        a, b, theta = (tuple(part.ravel().tolist()) for part in (bank.a, bank.b, bank.theta))
        return cls(dimensions=bank.a.shape[1], a=a, b=b, theta=theta)

    @property
    def bank(self) -> Bank:
        """The bank with these parameters."""
        shape = (-1, self.dimensions)
        a, theta = np.array(self.a).reshape(shape), np.array(self.theta).reshape(shape)
        return Bank(a, np.array(self.b), theta)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItems:
    """All that is known about one task's documents."""

    name: str
    #: Of the task in the fitness.
    weight: float
    num_documents: int
    #: Number of each document's label; empty where they have none.
    strata: tuple[int, ...]
    #: Models that were measured on all documents.
    references: tuple[Row, ...] = ()
    #: Candidates, the latest last; at most `MAX_ROWS`.
    rows: tuple[Row, ...] = ()
    #: None before the first fit.
    fitted: Fitted | None = None

    def with_reference(self, row: Row) -> TaskItems:
        """Returns what is known with a model's answers to all documents."""
        others = tuple(one for one in self.references if one.candidate != row.candidate)
        return replace(self, references=(*others, row))

    def with_row(self, row: Row) -> TaskItems:
        """Returns what is known with a candidate's answers; the oldest may be forgotten."""
        others = tuple(one for one in self.rows if one.candidate != row.candidate)
        return replace(self, rows=(*others, row)[-MAX_ROWS:])

    @property
    def responses(self) -> Array:
        """Answers of references and candidates: (models, documents), NaN where unseen."""
        rows = (*self.references, *self.rows)
        found = np.full((len(rows), self.num_documents), np.nan)
        for values, row in zip(found, rows, strict=True):
            values[row.where] = row.values
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemMemory:
    """An item bank's memory."""

    seed: int
    tasks: tuple[TaskItems, ...]
    #: Candidates learned since the last fit.
    num_new: int = 0

    @property
    def num_documents(self) -> int:
        """Documents of all tasks."""
        return sum(task.num_documents for task in self.tasks)

    def to_plain(self) -> dict[str, Any]:
        """Returns the memory as JSON can hold it."""
        tasks = [_task_to_plain(task) for task in self.tasks]
        return {"seed": self.seed, "num_new": self.num_new, "tasks": tasks}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ItemMemory:
        """Returns the memory that `to_plain` made this of."""
        tasks = tuple(_task_from_plain(task) for task in plain["tasks"])
        return cls(seed=plain["seed"], num_new=plain["num_new"], tasks=tasks)


def _task_to_plain(task: TaskItems) -> dict[str, Any]:
    fitted = task.fitted
    return {
        "name": task.name,
        "weight": task.weight,
        "num_documents": task.num_documents,
        "strata": list(task.strata),
        "references": [_row_to_plain(row) for row in task.references],
        "rows": [_row_to_plain(row) for row in task.rows],
        "fitted": fitted
        and {
            "dimensions": fitted.dimensions,
            "a": list(fitted.a),
            "b": list(fitted.b),
            "theta": list(fitted.theta),
        },
    }


def _task_from_plain(plain: Mapping[str, Any]) -> TaskItems:
    fitted = plain["fitted"]
    return TaskItems(
        name=plain["name"],
        weight=plain["weight"],
        num_documents=plain["num_documents"],
        strata=tuple(plain["strata"]),
        references=tuple(_row_from_plain(row) for row in plain["references"]),
        rows=tuple(_row_from_plain(row) for row in plain["rows"]),
        fitted=fitted
        and Fitted(
            dimensions=fitted["dimensions"],
            a=tuple(fitted["a"]),
            b=tuple(fitted["b"]),
            theta=tuple(fitted["theta"]),
        ),
    )


def _row_to_plain(row: Row) -> list[Any]:
    return [row.candidate, list(row.places), row.answers]


def _row_from_plain(plain: list[Any]) -> Row:
    candidate, places, answers = plain
    return Row(candidate=candidate, places=tuple(places), answers=answers)
