"""What is recorded about lm-eval tasks: hashes of what a score depends on, and right answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import lm_eval
from lm_eval.api.task import Task

from evaluators.base import Rows, TaskFacts
from evaluators.digest import hash_text
from evaluators.harness.metrics import is_mean, signed_weight
from evaluators.harness.questions import gold_place
from evaluators.harness.tasks import Document, Loaded, TaskError
from evaluators.lm_harness import LmHarness, Objective

#: How Python shows functions without a source: a new one each time.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
#: More different right answers than this are no strata, and longer ones no labels.
_MAX_STRATA, _MAX_LABEL = 20, 40


def objectives_facts(
    objectives: Iterable[Objective],
    loaded: Loaded,
    leaves: Mapping[str, TaskFacts],
) -> dict[str, TaskFacts]:
    """Returns the facts of each objective, a task or a group of tasks."""
    return {one.name: _objective_facts(one, loaded, leaves) for one in objectives}


def leaves_facts(
    loaded: Loaded, documents: Mapping[str, Sequence[Document]]
) -> dict[str, TaskFacts]:
    """Returns the facts of each task, those within groups included.

    Raises:
        TaskError: if a task cannot tell a document's right answer.
    """
    return {name: _leaf_facts(task, documents[name]) for name, task in loaded.tasks.items()}


def _leaf_facts(task: Task, documents: Sequence[Document]) -> TaskFacts:
    whole = hashlib.blake2b(digest_size=16)
    for document in documents:
        whole.update(document.digest.encode())
    return TaskFacts(
        documents=len(documents),
        rows=whole.hexdigest(),
        prompts=_prompts(task),
        strata=_strata(task, documents),
    )


def _objective_facts(
    objective: Objective, loaded: Loaded, leaves: Mapping[str, TaskFacts]
) -> TaskFacts:
    """Returns a task's facts, or those of a group's tasks put together."""
    weight = signed_weight(objective, loaded)
    if objective.name not in loaded.groups:
        pools = is_mean(loaded.tasks[objective.name], objective.metric)
        return replace(leaves[objective.name], weight=weight, is_mean=pools)
    group = loaded.groups[objective.name]
    inner = {task.task_name: leaves[task.task_name] for task in group.get_all_tasks()}
    return TaskFacts(
        documents=sum(one.documents for one in inner.values()),
        rows=_hash({task: one.rows for task, one in inner.items()}),
        prompts=_hash([_aggregation(group), {task: one.prompts for task, one in inner.items()}]),
        weight=weight,
    )


def identity(
    settings: LmHarness, rows: Rows, loaded: Loaded, leaves: Mapping[str, TaskFacts]
) -> str:
    """Returns a hash of all that a score on these rows depends on, but for the model."""
    scored = {name: (one.rows, one.prompts) for name, one in leaves.items()}
    weighing = {name: _aggregation(group) for name, group in loaded.groups.items()}
    return _hash([settings.conditions(rows), scored, weighing, lm_eval.__version__])


def _hash(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, default=str)
    return hash_text(_ADDRESS.sub("", text))


def _prompts(task: Task) -> str:
    """Returns a hash of how a task asks and scores; its documents are hashed by themselves."""
    config = task.dump_config()
    # Where its files lie is no part of what it asks.
    asked = {key: value for key, value in config.items() if not key.startswith("dataset_")}
    facts = dict(asked.get("metadata") or {})
    facts.pop("config_source", None)
    return _hash([{**asked, "metadata": facts}, examples(task)])


def examples(task: Task) -> list[Any]:
    """Returns the documents that a task's prompts may hold with their answers."""
    return list(task.fewshot_docs() or ()) if task.get_config("num_fewshot") else []


def _aggregation(group: Any) -> Any:
    """Returns how a group makes one figure of several, its groups within it included."""
    inner = {one.name: one.aggregate_metric_list for one in group.get_all_groups()}
    return [group.aggregate_metric_list, inner]


def _strata(task: Task, documents: Iterable[Document]) -> tuple[str, ...]:
    """Returns each document's right answer, or nothing where there are too many to count by."""
    labels: list[str] = []
    for document in documents:
        try:
            task.doc_to_text(document.content)  # what cannot be asked is found before a worker does
            labels.append(_label(task, document.content))
        except Exception as error:
            raise TaskError(
                f"task {task.task_name!r}, document {document.index}: its prompt or right answer "
                f"cannot be rendered: {type(error).__name__}: {error}"
            ) from error
    different = set(labels)
    few = len(different) <= min(_MAX_STRATA, len(labels) // 2)
    if not few or any(len(label) > _MAX_LABEL for label in different):
        return ("",) * len(labels)
    return tuple(labels)


def _label(task: Task, document: Any) -> str:
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return ""
    if task.OUTPUT_TYPE == "multiple_choice":
        place = gold_place(task, document)
        return "" if place is None else str(place)
    return str(task.doc_to_target(document))
