"""An evaluator for stories: it needs no tasks, takes its time, and breaks when it is told to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from evaluators.base import EvaluatorFacts, Language, Rows, Score, TaskScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """Scores a model by the mean size of its weights."""

    #: Seconds that each model takes.
    seconds: float = 0.0
    #: File; as long as it is there nothing can be scored.
    obstacle: str = ""
    #: Whether there are test rows.
    tests: bool = True

    def check(self) -> EvaluatorFacts:
        names = {"search": "weights", "test": "weights_test"}
        return EvaluatorFacts(
            documents=dict.fromkeys(names.values(), 2),
            rows={name: f"{name} rows" for name in names.values()},
            identity={rows: f"patient {name}" for rows, name in names.items()},
            version="1",
        )

    def open(self, language: Language) -> Eye:
        return Eye(self, language)


class Eye:
    """Looks at the weights."""

    def __init__(self, settings: Patient, language: Language) -> None:
        self._settings, self._language = settings, language

    def evaluate(self, rows: Rows, *, halvings: int = 0) -> Score:
        time.sleep(self._settings.seconds)
        if self._settings.obstacle and Path(self._settings.obstacle).exists():
            raise ValueError("something is in the way")
        sizes = [
            float(one.detach().double().abs().mean()) for one in self._language.model.parameters()
        ]
        name = "weights" if rows == "search" else "weights_test"
        task = TaskScore(value=max(sizes), stderr=0.1, documents=2, per_document=(0.0, 1.0))
        return Score(fitness=sum(sizes), tasks={name: task})
