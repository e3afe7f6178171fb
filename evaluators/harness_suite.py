"""Runs lm-eval-harness tasks over and over on one resident model.

Task files, documents, prompts and token ids are built once; the harness's own filters, metrics and
aggregations then give each candidate's score, so that it equals the stock command's to the last
digit. `lm_eval.simple_evaluate` would rebuild all of this for every candidate.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from evaluators.base import EvaluatorFacts, Language, Rows, Score, TaskScore
from evaluators.digest import hash_json, hash_text
from evaluators.harness_lm import ResidentLM, ScoringPlan
from evaluators.lm_harness import LmHarness, Objective
from evaluators.registry import nearest

#: lm-eval's own default, so that few-shot examples are those of the stock command.
FEWSHOT_SEED = 1234
#: How Python shows functions without a source: a new one each time.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def check(settings: LmHarness) -> EvaluatorFacts:
    """Loads the tasks of both kinds of rows and checks names, metrics and overlap.

    Raises:
        ValueError: naming the task and what is wrong with it.
    """
    _quieten()
    hashes: dict[str, str] = {}
    documents: dict[str, int] = {}
    digests: dict[str, str] = {}
    prompts: dict[str, str] = {}
    identity: dict[Rows, str] = {}
    kinds: tuple[Rows, ...] = ("search", "test")
    for rows in kinds:
        objectives = settings.objectives(rows)
        tasks, groups = _load(settings, objectives)
        for objective in objectives:
            _check_metric(objective, tasks, groups)
        for name, task in tasks.items():
            docs = _documents(task, settings.limit)
            documents[name] = len(docs)
            digests[name] = _check_overlap(name, rows, docs, hashes)
            prompts[name] = _prompts(task)
        scored = {name: (digests[name], prompts[name]) for name in tasks}
        weighing = {name: _aggregation(group) for name, group in groups.items()}
        identity[rows] = _hash([settings.conditions(rows), scored, weighing, lm_eval.__version__])
    return EvaluatorFacts(
        documents=documents,
        rows=digests,
        prompts=prompts,
        identity=identity,
        version=f"lm_eval {lm_eval.__version__}",
    )


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
    examples = list(task.fewshot_docs() or ()) if config.get("num_fewshot") else []
    return _hash([{**asked, "metadata": facts}, examples])


def _aggregation(group: Any) -> Any:
    """Returns how a group makes one figure of several, its groups within it included."""
    inner = {one.name: one.aggregate_metric_list for one in group.get_all_groups()}
    return [group.aggregate_metric_list, inner]


class HarnessSuite:
    """The tasks of a campaign over a resident model (an `Evaluator`)."""

    def __init__(self, settings: LmHarness, language: Language) -> None:
        _quieten()
        self._settings = settings
        self.lm = ResidentLM(
            language.model,
            language.tokenizer,
            batch_size=settings.batch_size,
            max_length=settings.max_length,
        )
        self._parts: dict[Rows, _Part] = {}

    def part(self, rows: Rows) -> _Part:
        """Returns the built tasks of these rows, building them the first time."""
        if rows not in self._parts:
            self._parts[rows] = _Part(self._settings, rows, self.lm)
        return self._parts[rows]

    def evaluate(self, rows: Rows, *, halvings: int = 0) -> Score:
        """Scores the resident model as it is now."""
        part = self.part(rows) if halvings == 0 else self._smaller(rows, halvings)
        with torch.inference_mode():
            part.answer()
        return part.score()

    def _smaller(self, rows: Rows, halvings: int) -> _Part:
        """Plans the rows anew in smaller batches; rare enough not to be kept."""
        batch_size = max(1, self._settings.batch_size >> halvings)
        lm = ResidentLM(
            self.lm.model,
            self.lm.tokenizer,
            batch_size=batch_size,
            max_length=self._settings.max_length,
        )
        return _Part(self._settings, rows, lm)


class _Part:
    """The tasks of one kind of rows: requests built once, answered again and again."""

    def __init__(self, settings: LmHarness, rows: Rows, lm: ResidentLM) -> None:
        self._lm = lm
        self._objectives = settings.objectives(rows)
        self._tasks, self._groups = _load(settings, self._objectives)
        self._by_document: dict[str, list[tuple[Any, list[Instance]]]] = {}
        requests: dict[str, list[Instance]] = defaultdict(list)
        for name, task in self._tasks.items():
            _build_requests(task, settings, lm)
            self._by_document[name] = _by_document(task)
            for instance in task.instances:
                requests[instance.request_type] += [instance] * instance.repeats
        self._requests = dict(requests)
        self.plan: ScoringPlan | None = (
            lm.plan(self._requests["loglikelihood"]) if "loglikelihood" in requests else None
        )

    def answer(self) -> None:
        """Runs every request on the model and leaves the responses in the instances."""
        for kind, requests in self._requests.items():
            if self.plan is not None and kind == "loglikelihood":
                responses: Sequence[Any] = self._lm.score(self.plan)
            else:
                torch.manual_seed(FEWSHOT_SEED)  # tasks that sample: the same draws each time
                responses = getattr(self._lm, kind)(requests, disable_tqdm=True)
            for request in requests:
                request.resps.clear()
                request.filtered_resps.clear()
            for request, response in zip(requests, responses, strict=True):
                request.resps.append(response)

    def score(self) -> Score:
        """Turns the responses into metrics by the tasks' own rules."""
        raw = {name: self._process(name, task) for name, task in self._tasks.items()}
        metrics = {name: _aggregate(self._tasks[name], values) for name, values in raw.items()}
        for group in self._groups.values():
            metrics[group.name] = group.aggregate(metrics)
        scores: dict[str, TaskScore] = {}
        fitness = 0.0
        for objective in self._objectives:
            key = _metric_key(objective, metrics[objective.name])
            value = float(metrics[objective.name][key])
            weight = objective.weight * _sign(objective, self._tasks, self._groups)
            items = raw.get(objective.name, {}).get(key, [])
            documents = int(metrics[objective.name].get("sample_len", len(items)))
            scores[objective.name] = _task_score(value, weight, documents, items)
            fitness += weight * value
        return Score(fitness=fitness, tasks=scores)

    def _process(self, name: str, task: Task) -> dict[str, list[Any]]:
        """Returns "metric,filter" -> one value a document."""
        task.apply_filters()
        values: dict[str, list[Any]] = defaultdict(list)
        for filter_key in task.instances[0].filtered_resps:
            for document, instances in self._by_document[name]:
                answers = [instance.filtered_resps[filter_key] for instance in instances]
                for metric, value in task.process_results(document, answers).items():
                    values[f"{metric},{filter_key}"].append(value)
        return values


def _load(
    settings: LmHarness, objectives: Iterable[Objective]
) -> tuple[dict[str, Task], dict[str, Any]]:
    """Loads tasks by name: the campaign's own files first, lm-eval's own index only if needed."""
    names = [objective.name for objective in objectives]
    if not names:
        return {}, {}
    manager = _manager(settings, names)
    for name in names:
        if name not in manager.task_index:
            where = f" under {settings.include_path!r} or" if settings.include_path else ""
            raise ValueError(
                f"unknown task {name!r}: not found{where} among lm-eval's own; "
                f"{nearest(name, manager.all_tasks)}"
            )
    try:
        loaded = manager.load(names)
    except Exception as error:
        raise ValueError(
            f"tasks {', '.join(names)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    for task in loaded["tasks"].values():
        _configure(task, settings)
    return dict(loaded["tasks"]), dict(loaded["groups"])


def _manager(settings: LmHarness, names: Sequence[str]) -> TaskManager:
    """Indexing lm-eval's own tasks takes seconds, the campaign's own folder milliseconds."""
    path = settings.include_path
    if path is not None:
        if not Path(path).is_dir():
            raise ValueError(f"include_path: {path!r} is not a folder")
        manager = TaskManager(include_path=path, include_defaults=False)
        if all(name in manager.task_index for name in names):
            return manager
    return TaskManager(include_path=path)


def _configure(task: Task, settings: LmHarness) -> None:
    if settings.num_fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _documents(task: Task, limit: int | None) -> list[Any]:
    return [document for _, document in task.doc_iterator(limit=limit)]


def _check_overlap(name: str, rows: Rows, docs: Iterable[Any], hashes: dict[str, str]) -> str:
    """Refuses a document that the search selects on and the report tests on; hashes them all."""
    whole = hashlib.blake2b(digest_size=16)
    for index, document in enumerate(docs):
        digest = hash_json(document)
        if rows == "search":
            hashes[digest] = name
        elif digest in hashes:
            raise ValueError(
                f"document {index} of test task {name!r} is also in search task "
                f"{hashes[digest]!r}: rows that the search selects on cannot test its result"
            )
        whole.update(digest.encode())
    return whole.hexdigest()


def _check_metric(
    objective: Objective, tasks: Mapping[str, Task], groups: Mapping[str, Any]
) -> None:
    leaves = _leaves(objective.name, tasks, groups)
    metric = objective.metric.partition(",")[0]
    for task in leaves:
        known = list(task.aggregation())
        if metric not in known:
            raise ValueError(
                f"task {task.config.task!r} has no metric {metric!r}; {nearest(metric, known)}"
            )


def _leaves(name: str, tasks: Mapping[str, Task], groups: Mapping[str, Any]) -> list[Task]:
    if name in groups:
        return list(groups[name].get_all_tasks())
    if name not in tasks:
        raise ValueError(f"{name!r} is a tag of several tasks: name the tasks themselves")
    return [tasks[name]]


def _sign(objective: Objective, tasks: Mapping[str, Task], groups: Mapping[str, Any]) -> float:
    if objective.direction is not None:
        return 1.0 if objective.direction == "maximize" else -1.0
    task = _leaves(objective.name, tasks, groups)[0]
    better = task.higher_is_better().get(objective.metric.partition(",")[0], True)
    return 1.0 if better else -1.0


def _build_requests(task: Task, settings: LmHarness, lm: ResidentLM) -> None:
    chat = settings.apply_chat_template
    task.build_all_requests(
        limit=settings.limit,
        rank=0,
        world_size=1,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,  # as the stock command does
        chat_template=lm.apply_chat_template if chat else None,
        tokenizer_name=lm.tokenizer_name if chat else "",
    )
    # The harness renders these templates again for every document of every candidate.
    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        if hasattr(task, name):
            setattr(task, name, _remember(getattr(task, name)))


def _remember(render: Callable[..., Any]) -> Callable[..., Any]:
    """Caches a rendering by document; documents live as long as the suite, so ids are theirs."""
    memory: dict[int, Any] = {}

    def remembered(document: Any, *args: Any) -> Any:
        if args:
            return render(document, *args)
        key = id(document)
        if key not in memory:
            memory[key] = render(document)
        return memory[key]

    return remembered


def _by_document(task: Task) -> list[tuple[Any, list[Instance]]]:
    groups: dict[int, list[Instance]] = defaultdict(list)
    for instance in task.instances:
        groups[instance.doc_id].append(instance)
    return [
        (instances[0].doc, sorted(instances, key=lambda instance: int(instance.idx)))
        for _, instances in sorted(groups.items())
    ]


def _aggregate(task: Task, values: Mapping[str, list[Any]]) -> dict[str, Any]:
    metrics: dict[str, Any] = {"sample_len": max(map(len, values.values()), default=0)}
    for key, items in values.items():
        name, _, filter_key = key.partition(",")
        metrics[key] = task.aggregation()[name](items)
        metrics[f"{name}_stderr,{filter_key}"] = "N/A"
    return metrics


def _metric_key(objective: Objective, metrics: Mapping[str, Any]) -> str:
    """Returns the "metric,filter" meant by the objective's metric."""
    if objective.metric in metrics:
        return objective.metric
    found = [key for key in metrics if key.partition(",")[0] == objective.metric and "," in key]
    if f"{objective.metric},none" in found:
        return f"{objective.metric},none"
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"task {objective.name!r}: metric {objective.metric!r} is ambiguous or absent; "
        f"choose one of {', '.join(found or [key for key in metrics if ',' in key])}"
    )


def _task_score(value: float, weight: float, documents: int, items: list[Any]) -> TaskScore:
    numeric = all(isinstance(item, int | float | np.number) for item in items)
    per_document = tuple(float(item) for item in items) if numeric else ()
    # Only a mean has the plain standard error; other aggregations get none rather than a guess.
    is_mean = bool(per_document) and math.isclose(
        float(np.mean(per_document)), value, rel_tol=1e-9, abs_tol=1e-12
    )
    stderr = (
        float(np.std(per_document, ddof=1) / math.sqrt(len(per_document)))
        if is_mean and len(per_document) > 1
        else None
    )
    return TaskScore(
        value=value,
        stderr=stderr,
        documents=documents,
        weight=weight,
        per_document=per_document,
    )


def _quieten() -> None:
    """The harness and its data library report every step; a campaign repeats thousands."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("lm-eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
