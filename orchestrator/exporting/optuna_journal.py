"""A campaign as an Optuna study, for its plots, its importances and its dashboard.

Optuna itself says what is in the file: its storage writes through a back end that only keeps the
lines. A candidate is a trial, one that a race stopped a pruned trial; references, which have no
parameters, are an attribute of the study.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.storage.gene_columns import Genes
from orchestrator.storage.table import Table

_STATES = {"scored": TrialState.COMPLETE, "failed": TrialState.FAIL, "proposed": TrialState.WAITING}
_ATTRIBUTES = ("id", "role", "generation", "operator", "parents", "cached", "cause", "test_fitness")


class _Lines(BaseJournalBackend):
    """Writes what Optuna's own file would hold, without a lock and a flush for each line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Returns what has not been forgotten."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Writes lines."""
        for log in logs:
            self._file.write(json.dumps(log, separators=(",", ":")) + "\n")
        self._logs += logs

    def forget(self) -> None:
        """Keeps in memory nothing but the beginning of the study."""
        del self._logs[1:]


def write(table: Table, part: Path) -> int:
    """Writes the file that `JournalStorage(JournalFileBackend(path))` opens; returns the trials."""
    distributions = _distributions(table.genes)
    num = 0
    with part.open("w", encoding="utf-8") as file, _quiet():
        lines = _Lines(file)
        study = JournalStorage(lines).create_new_study([StudyDirection.MAXIMIZE], table.campaign)
        for batch in table.batches:
            storage = JournalStorage(lines)  # one that knows of no trial before these
            references = [row for row in batch if row["role"] == "reference"]
            if references:
                storage.set_study_user_attr(study, "references", _compared(references))
            for row in batch:
                if row["role"] != "reference":
                    storage.create_new_trial(study, _trial(row, distributions, table.tasks))
                    num += 1
            lines.forget()
    return num


def _distributions(genes: Genes) -> dict[str, BaseDistribution]:
    """Returns what a study knows of each gene; that some were drawn by ratios is not recorded."""
    found: dict[str, BaseDistribution] = {}
    for place, (name, column) in enumerate(genes.columns.items()):
        low, high = genes.lower[place], genes.upper[place]
        if column == "text":
            found[name] = CategoricalDistribution(tuple(genes.choices[place]))
        elif column == "flag":
            found[name] = CategoricalDistribution((False, True))
        elif column == "integer":
            found[name] = IntDistribution(int(low), int(high))
        else:
            found[name] = FloatDistribution(low, high)
    return found


def _compared(references: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns name -> fitness; null where it could not be measured."""
    return {row.get("name", row["id"]): row.get("fitness") for row in references}


def _trial(
    row: Mapping[str, Any], distributions: dict[str, BaseDistribution], tasks: Sequence[str]
) -> FrozenTrial:
    trial = create_trial(
        state=TrialState.PRUNED if row.get("stopped") else _STATES[row["state"]],
        value=row.get("fitness"),
        params={name: row[name] for name in distributions if name in row},  # but dormant ones
        distributions={name: one for name, one in distributions.items() if name in row},
        user_attrs={name: row[name] for name in (*_ATTRIBUTES, *tasks) if name in row},
    )
    trial.datetime_start, trial.datetime_complete = row.get("started_at"), row.get("ended_at")
    return trial


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Optuna from announcing the study."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
