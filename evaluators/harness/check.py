"""What can be found out about lm-eval tasks before any model is scored on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import lm_eval
from lm_eval.api.task import Task

from evaluators.base import EvaluatorFacts, Rows, TaskFacts
from evaluators.digest import hash_json
from evaluators.harness.facts import examples, identity, leaves_facts, objectives_facts
from evaluators.harness.metrics import check_metric
from evaluators.harness.public_rows import warnings_about
from evaluators.harness.tasks import Document, Loaded, documents_of, load, tidy
from evaluators.lm_harness import LISTS, LmHarness, Objective

#: Which kinds of rows may not hold a document of which others.
_APART: Mapping[Rows, tuple[Rows, ...]] = {
    "search": (),
    "selection": ("search",),
    "test": ("search", "selection"),
    "control": ("search",),
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """The tasks of one kind of rows and their documents."""

    rows: Rows
    objectives: tuple[Objective, ...]
    loaded: Loaded
    #: Task -> its documents of this kind.
    documents: Mapping[str, Sequence[Document]]

    def places(self) -> dict[str, tuple[str, int]]:
        """Returns a document's hash -> the first task and place that it has here."""
        found: dict[str, tuple[str, int]] = {}
        for name, held in self.documents.items():
            for document in held:
                found.setdefault(document.digest, (name, document.index))
        return found


@tidy()
def check(settings: LmHarness) -> EvaluatorFacts:
    """Loads the tasks of all kinds of rows and checks names, metrics and overlap.

    Raises:
        ValueError: naming the task and what is wrong with it.
    """
    kinds = [_look(settings, rows) for rows in LISTS if settings.objectives(rows)]
    places = {kind.rows: kind.places() for kind in kinds}
    for kind in kinds:
        _check_apart(kind, places)
    facts: dict[Rows, Mapping[str, TaskFacts]] = {}
    hashes: dict[Rows, str] = {}
    warnings: list[str] = []
    for kind in kinds:
        leaves = leaves_facts(kind.loaded, kind.documents)
        facts[kind.rows] = objectives_facts(kind.objectives, kind.loaded, leaves)
        hashes[kind.rows] = identity(settings, kind.rows, kind.loaded, leaves)
        if kind.rows in ("search", "selection"):
            warnings += warnings_about(kind.rows, kind.loaded.tasks, kind.documents)
            warnings += _leaks(kind, places)
    return EvaluatorFacts(
        tasks=facts,
        # The same tasks are asked in the same way; which documents is said beside it.
        identity={**hashes, "fresh": hashes["search"]},
        version=f"lm_eval {lm_eval.__version__}",
        warnings=tuple(warnings),
    )


def _look(settings: LmHarness, rows: Rows) -> _Kind:
    objectives = settings.objectives(rows)
    loaded = load(settings, objectives)
    for objective in objectives:
        check_metric(objective, loaded)
    documents = {name: _documents(task, settings, rows) for name, task in loaded.tasks.items()}
    return _Kind(rows, objectives, loaded, documents)


def _documents(task: Task, settings: LmHarness, rows: Rows) -> list[Document]:
    found = documents_of(task, settings, rows)
    if not found:
        cut = f"the split leaves none of its documents to the {rows} rows"
        raise ValueError(
            f"task {task.task_name!r} has no {rows} rows: "
            + (f"{cut}; give them a larger share" if rows in settings.cut else "it is empty")
        )
    return found


def _check_apart(kind: _Kind, places: Mapping[Rows, Mapping[str, tuple[str, int]]]) -> None:
    """Refuses a document that is also among rows that it must be kept apart from."""
    for name, held in kind.documents.items():
        for document in held:
            for other in _APART[kind.rows]:
                if document.digest in places.get(other, {}):
                    task, index = places[other][document.digest]
                    raise ValueError(
                        f"document {document.index} of {kind.rows} task {name!r} is also in "
                        f"{other} task {task!r} (document {index}): rows that one choice was made "
                        "on cannot judge it; take it out of one of the two"
                    )


def _leaks(kind: _Kind, places: Mapping[Rows, Mapping[str, tuple[str, int]]]) -> Iterator[str]:
    """Warns of prompts that show the model answers which it is asked for on later rows."""
    later: tuple[Rows, ...] = ("selection", "test")
    for name, task in kind.loaded.tasks.items():
        shown = {hash_json(document) for document in examples(task)}
        for other in later[later.index(kind.rows) + 1 if kind.rows in later else 0 :]:
            count = len(shown & places.get(other, {}).keys())
            if count:
                yield (
                    f"{kind.rows} prompts of task {name!r} draw their examples from documents of "
                    f"which {count} are {other} rows, answers included: give the task a "
                    "fewshot_split of its own, or set num_fewshot to 0"
                )
