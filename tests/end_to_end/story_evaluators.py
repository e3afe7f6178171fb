"""An evaluator for stories: it needs no tasks, takes its time, and breaks when it is told to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from evaluators.base import (
    Documents,
    EvaluatorFacts,
    Language,
    Rows,
    Score,
    TaskFacts,
    TaskScore,
)

#: Kind of rows -> its one task.
NAMES: dict[Rows, str] = {"search": "weights", "fresh": "weights", "test": "weights_test"}
#: What each document scores: the same whatever the model.
VALUES = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """Scores a model by the mean size of its weights."""

    #: Seconds that each model takes.
    seconds: float = 0.0
    #: File; as long as it is there nothing can be scored.
    obstacle: str = ""
    #: Whether there are test rows.
    tests: bool = True
    #: What a document scores that is not wrong, and said to be one of a mean.
    right: float = 1.0

    @property
    def kinds(self) -> frozenset[Rows]:
        return frozenset({"search", "test"} if self.tests else {"search"})

    def check(self) -> EvaluatorFacts:
        return EvaluatorFacts(
            tasks={
                rows: {
                    NAMES[rows]: TaskFacts(
                        documents=len(VALUES), rows=f"{NAMES[rows]} rows", is_mean=True
                    )
                }
                for rows in sorted(self.kinds)
            },
            identity={rows: f"patient {name}" for rows, name in NAMES.items()},
            version="1",
        )

    def open(self, language: Language) -> Eye:
        return Eye(self, language)


class Eye:
    """Looks at the weights."""

    def __init__(self, settings: Patient, language: Language) -> None:
        self._settings, self._language = settings, language

    def evaluate(
        self, rows: Rows, *, documents: Documents | None = None, halvings: int = 0
    ) -> Score:
        time.sleep(self._settings.seconds)
        if self._settings.obstacle and Path(self._settings.obstacle).exists():
            raise ValueError("something is in the way")
        sizes = [
            float(one.detach().double().abs().mean()) for one in self._language.model.parameters()
        ]
        name = NAMES[rows]
        places = range(len(VALUES)) if documents is None else documents[name]
        values = tuple(self._settings.right * VALUES[place] for place in places)
        task = TaskScore(value=max(sizes), stderr=0.1, documents=len(values), per_document=values)
        return Score(fitness=sum(sizes), tasks={name: task})
